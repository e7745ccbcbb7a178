"""The paths of images, read when one is asked for: eleven million are a gigabyte, which most processes never need.

Shape suffixes: S selected rows.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.runtime.errors import InputError


class Paths(Sequence[str]):
    """Paths that are made at the first question for one; how many there are is known before."""

    @abstractmethod
    def read(self) -> list[str]:
        """All of them."""

    @cached_property
    def _all(self) -> list[str]:
        return self.read()

    def __getitem__(self, index: Any) -> Any:
        return self._all[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class PathsFile(Paths):
    """Those of a file of JSON texts, one a line: file names may hold line breaks and bytes that are not UTF-8.

    Args:
        path: the file.
        n_paths: how many it holds.
    """

    def __init__(self, path: Path, n_paths: int) -> None:
        self.path, self.n_paths = path, n_paths

    def __len__(self) -> int:
        return self.n_paths

    def read(self) -> list[str]:
        return read_paths(self.path)


class SomePaths(Paths):
    """The paths of some rows.

    Args:
        base: of all rows.
        ids_S: which.
    """

    def __init__(self, base: Sequence[str], ids_S: np.ndarray) -> None:
        self.base, self.ids_S = base, ids_S

    def __len__(self) -> int:
        return len(self.ids_S)

    def read(self) -> list[str]:
        return [self.base[row] for row in self.ids_S.tolist()]


class FilesUnder(Sequence[Path]):
    """Files, each joined with its folder when it is asked for.

    Args:
        root: the folder.
        paths: relative to it.
    """

    def __init__(self, root: str, paths: Sequence[str]) -> None:
        self.root, self.paths = Path(root), paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.root / path for path in self.paths[index]]
        return self.root / self.paths[index]


def read_paths(path: Path, remedy: str = "extract the features again") -> list[str]:
    """The texts of a file of paths.

    Raises:
        InputError: if there is none, or it holds anything else.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        with open(path, encoding="utf-8") as stream:
            paths = [json.loads(line) for line in stream]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no list of paths ({str(error).splitlines()[0]}): {remedy}") from None
    if not all(isinstance(one, str) for one in paths):
        raise InputError(f"{path} is no list of paths: {remedy}")
    return paths
