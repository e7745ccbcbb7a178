"""`python evaluate.py …` is `deepclust evaluate …`: see deepclust/cli/evaluate.py."""

import sys

from deepclust.cli.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
