"""S_L: the labels that count as right for a sample, where there may be more than one, and how they are read.

Shape suffixes: N samples, T classes asked about per sample, K classes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.runtime.errors import InputError

# Stands for the class of a cluster that is not mapped to any.
UNMAPPED = -1


@dataclass(frozen=True)
class LabelSets:
    """One set of class ids per sample, as in a sparse matrix: sample n has `ids[starts[n] : starts[n + 1]]`.

    Attributes:
        starts: (N + 1,) int64.
        ids: class ids, all ≥ 0.
    """

    starts: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        """(N,) how many labels each sample has."""
        return np.diff(self.starts)

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]]) -> LabelSets:
        """Sets from one list of class ids per sample; a list may be empty.

        Raises:
            InputError: if an entry is no list of class ids.
        """
        try:
            sizes = np.fromiter((len(entry) for entry in lists), np.int64, len(lists))
            flat = np.array([label for entry in lists for label in entry])
        except (TypeError, ValueError):
            raise InputError("label sets must be a list of lists of class ids, one list per sample") from None
        if flat.size and (flat.ndim != 1 or not np.issubdtype(flat.dtype, np.integer) or flat.min() < 0):
            raise InputError("label sets must hold class ids, whole numbers from 0 on: one list of them per sample")
        return cls(np.concatenate([[0], np.cumsum(sizes)]), flat.astype(np.int64))

    @classmethod
    def of_classes(cls, labels_N: np.ndarray, also_K: Sequence[Sequence[int]]) -> LabelSets:
        """Each sample's own label with the classes that it counts as, too, such as its ancestors.

        Args:
            labels_N: class ids.
            also_K: the further class ids of each class.

        Raises:
            InputError: if a label has no entry in `also_K`.
        """
        if len(labels_N) and not 0 <= labels_N.min() <= labels_N.max() < len(also_K):
            raise InputError(
                f"labels go from {labels_N.min()} to {labels_N.max()}, but label sets are given for {len(also_K)} "
                "classes: give one set per class"
            )
        per_class = cls.from_lists([sorted({own, *also}) for own, also in enumerate(also_K)])
        sizes_N = per_class.sizes[labels_N]
        starts = np.concatenate([[0], np.cumsum(sizes_N)])
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], sizes_N)
        return cls(starts, per_class.ids[np.repeat(per_class.starts[labels_N], sizes_N) + within])

    def select(self, rows: np.ndarray) -> LabelSets:
        """The sets of some samples."""
        sizes = self.sizes[rows]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], sizes)
        return LabelSets(starts, self.ids[np.repeat(self.starts[:-1][rows], sizes) + within])

    def contains(self, classes_NT: np.ndarray) -> np.ndarray:
        """(N, T) whether each class is in its sample's set; `UNMAPPED` never is."""
        if self.ids.size == 0:
            return np.zeros(classes_NT.shape, bool)
        width = int(max(self.ids.max(), classes_NT.max(initial=0))) + 1
        here = np.repeat(np.arange(len(self)), self.sizes) * width + self.ids
        asked_NT = np.arange(len(self))[:, None] * width + classes_NT
        return np.isin(asked_NT, here) & (classes_NT != UNMAPPED)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) one label of each set, all equally likely. No set may be empty."""
        return self.ids[self.starts[:-1] + rng.integers(self.sizes)]


def read_label_sets(path: str | os.PathLike) -> list[list[int]] | dict[str, list[Any]]:
    """A JSON file: a list of lists of class ids, one per sample, or an object {class: [classes it also counts as]}.

    Raises:
        InputError: if it is neither.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"label_sets={path} cannot be read as JSON: there is no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"label_sets={path} cannot be read as JSON ({str(error).splitlines()[0]})") from None
    entries = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(content, (list, dict)) or not all(isinstance(entry, list) for entry in entries):
        raise InputError(
            f"{path} must hold a list of lists of class ids, one per sample, or an object of class: [classes]"
        )
    return content


def classes_also(
    table: Mapping[str, Sequence[Any]], class_names: Sequence[str], kept: Sequence[str] | None = None
) -> list[list[int]]:
    """{class: [classes it also counts as]}, by name or id, as lists of ids for `LabelSets.of_classes`.

    Args:
        table: as above.
        class_names: that the table speaks of, in order of their ids.
        kept: the classes that are left of them, in a new order, and possibly new ones; None: all. What the table says
            of others is left out.

    Raises:
        InputError: if a class is unknown.
    """
    names = {str(index): name for index, name in enumerate(class_names)} | {name: name for name in class_names}
    unknown = [name for name in (*table, *(label for row in table.values() for label in row)) if str(name) not in names]
    if unknown:
        raise InputError(f"label sets name the class '{unknown[0]}', which the data does not have: use names or ids")
    kept = class_names if kept is None else kept
    ids = {name: index for index, name in enumerate(kept)}
    also: list[list[int]] = [[] for _ in kept]
    for name, row in table.items():
        if (own := ids.get(names[str(name)])) is not None:
            also[own] = [ids[names[str(label)]] for label in row if names[str(label)] in ids]
    return also


def real_label_sets(paths: Sequence[str]) -> LabelSets:
    """ReaL's labels (Beyer et al. 2020), which timm ships, of ImageNet validation images in any order.

    Args:
        paths: file names such as `val/n01440764/ILSVRC2012_val_00000293.JPEG`.

    Raises:
        InputError: if a path is no such name.
    """
    shipped = resources.files("timm.data").joinpath("_info").joinpath("imagenet_real_labels.json")
    sets = json.loads(shipped.read_text(encoding="utf-8"))
    lists = []
    for path in paths:
        match = re.search(r"ILSVRC2012_val_(\d{8})\.JPEG$", path)
        if match is None or not 1 <= int(match.group(1)) <= len(sets):
            raise InputError(
                f"{path} is no ImageNet validation image (ILSVRC2012_val_00000001.JPEG …): ReaL labels are for these"
            )
        lists.append(sets[int(match.group(1)) - 1])
    return LabelSets.from_lists(lists)
