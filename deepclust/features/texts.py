"""Texts that rows of features were made of."""

from __future__ import annotations

from pathlib import Path

from deepclust.runtime.errors import InputError

# What has a line of its own.
ONE = {"texts": "row of the features", "labels": "row of the features", "words": "word or phrase"}


def read_texts(path: Path, setting: str = "texts") -> list[str]:
    """The lines of a UTF-8 file; the last may end without a line break.

    Args:
        path: of the file.
        setting: that named it.

    Raises:
        InputError: if there is no such file, or it is no text.
    """
    if not path.is_file():
        raise InputError(f"{setting}={path}: no such file: name one with a line per {ONE[setting]}")
    try:
        # Not `splitlines`, which ends lines at signs that texts may hold.
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{setting}={path} is no UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None
