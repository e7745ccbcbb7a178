"""`deepclust <command> …`: finds the command and hands the rest of the line to it."""

from __future__ import annotations

import importlib
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepclust import __version__
from deepclust.runtime.errors import InputError, one_line_errors
from deepclust.runtime.settings import nearest
from deepclust.runtime.signals import told_of_sigterm

# Name of the command: (module in this folder, what it does).
COMMANDS = {
    "train": ("train", "train clustering heads, run the baselines beside them, score everything"),
    "extract": ("extract", "turn images into features, once"),
    "finetune": ("finetune", "train an encoder further, with labels or with TSP's loss"),
    "report": ("report", "a finished run as one page that works offline: clusters, map, lists, changes"),
    "edit": ("edit", "the changes made in a page become a clustering, tables and folders"),
    "assign": ("assign", "new samples into the clusters of a finished run; ids that stay as data grow"),
    "export": ("export", "trained heads as ONNX, safetensors or torch files"),
    "evaluate": ("evaluate", "score a finished run again and measure it further"),
    "summarize": ("summarize", "finished runs side by side: seeds, sweeps, benchmarks"),
    "zero-shot": ("zero_shot", "the zero-shot clustering protocol of Lowe et al."),
    "subsets": ("subsets", "classes and samples of the ImageNet-21K benchmarks"),
    "relabel": ("relabel", "relabel samples down a class tree with CLIP"),
    "verify": ("verify", "compare everything in a folder of features or of a run with its checksums"),
}
# What a folder or a file in a command's place stands for.
HIDDEN = {"quick": ("quick", "cluster a folder of images, or embeddings, and write its page")}
# Lightning starts the other ranks with this process's arguments, in which the command is missing by then.
COMMAND_VARIABLE = "DEEPCLUST_COMMAND"
HELP = f"""\
deepclust {__version__}: cluster images or embeddings without labels, on frozen features.

Usage: deepclust PATH                          clusters a folder of images, or embeddings, and writes a page of them
       deepclust COMMAND [setting=value …]

{{commands}}

First steps:
  deepclust photos/                                                your photos: the answer is a page
  deepclust embeddings.npy -k 20                                   your N × D matrix, in 20 clusters
  deepclust train                                                  scikit-learn's digits, every loss and baseline
  deepclust train data=folder data.path=photos/ n_clusters=20      your photos
  deepclust train data=features data.train=X.npy n_clusters=100    your N × D matrix
  deepclust COMMAND --help                                         the settings of a command

Options: --help, --version
"""


def main(words: list[str] | None = None) -> None:
    """Run one command.

    Args:
        words: the command line without the program's name; None takes this process's.
    """
    if words is None:
        words = sys.argv[1:]
        if {"LOCAL_RANK", COMMAND_VARIABLE} <= set(os.environ) and not {*words[:1]} & set(COMMANDS):
            words = [os.environ[COMMAND_VARIABLE], *words]
    if not words or words[0] in ("-h", "--help", "help"):
        shown = "\n".join(f"  {name:11}{about}" for name, (_, about) in COMMANDS.items())
        print(HELP.format(commands=shown), end="")
        return
    if words[0] == "--version":
        print(f"deepclust {__version__}")
        return
    if is_place(words[0]):
        words = ["quick", *words]
    with told_of_sigterm(), one_line_errors(), unread_output():
        run_command(words[0], words[1:])


@contextmanager
def unread_output() -> Iterator[None]:
    """End as other tools do, with 141 and without a word, where the reader of our output, such as `head`, has left."""
    try:
        yield
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), select.POLLERR)
        if not output.poll(0):
            raise  # some other pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
        raise SystemExit(141) from None


def is_place(word: str) -> bool:
    """Whether a word in a command's place is a folder or a file to be clustered, there or mistyped."""
    if word in COMMANDS or word.startswith("-") or "=" in word:
        return False
    from deepclust.cli.quick import MATRICES  # imported here, as it is rarely asked for

    return Path(word).expanduser().exists() or "/" in word or os.sep in word or word.endswith(MATRICES)


def run_command(name: str, arguments: list[str]) -> None:
    """Run one command with its arguments.

    Raises:
        InputError: if there is no such command, or the arguments do not suit it.
    """
    if name not in {**COMMANDS, **HIDDEN}:
        raise InputError(f"no command is called '{name}'{nearest(name, COMMANDS)}: choose from {', '.join(COMMANDS)}")
    os.environ[COMMAND_VARIABLE] = name
    sys.argv = [sys.argv[0], *arguments]  # where Hydra, argparse and Lightning's launcher look
    module, _ = {**COMMANDS, **HIDDEN}[name]
    importlib.import_module(f"deepclust.cli.{module}").main()
