"""`python finetune.py …` is `deepclust finetune …`: see deepclust/cli/finetune.py."""

import sys

from deepclust.cli.main import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
