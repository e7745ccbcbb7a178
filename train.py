"""`python train.py …` is `deepclust train …`: see deepclust/cli/train.py."""

import sys

from deepclust.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
