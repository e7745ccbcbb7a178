"""`python -m deepclust`: the same as `deepclust`."""

from deepclust.cli.main import main

main()
