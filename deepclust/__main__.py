"""`python -m deepclust`: the same as `deepclust`."""

from deepclust.cli.main import main

if __name__ == "__main__":  # what lists all modules imports this one, too
    main()
