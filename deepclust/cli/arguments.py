"""Command lines of `--options`, refused in one line as all others are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import check_value, nearest, setting

TEXT = setting(text=True)


def text(word: str) -> str:
    """The `type` of options that name no other: a word that is not empty."""
    try:
        check_value(TEXT, word, "it")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return word


def path(word: str) -> Path:
    """A `type` of options."""
    return Path(text(word)).expanduser()


class Arguments(argparse.ArgumentParser):
    """A parser that raises InputError, with the nearest option, where argparse prints usage."""

    def __init__(self, command: str, about: str | None) -> None:
        super().__init__(
            prog=f"deepclust {command}",
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.register("type", None, text)

    def error(self, message: str) -> NoReturn:
        """Called by argparse with what is wrong."""
        words = message.removeprefix("unrecognized arguments: ").split()
        known = [option for action in self._actions for option in action.option_strings]
        near = nearest(words[0].split("=")[0], known) if message != " ".join(words) and words else ""
        raise InputError(f"{message}{near}: `{self.prog} --help` lists the options")
