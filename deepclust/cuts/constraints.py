"""What somebody knows of a few samples, and which cut it speaks for: by the F1 of pairs.

A file has one answer a line: `first,second,same` or `first,second,different`; or labels, `sample,label`. Samples are
row numbers from 0, or paths as samples.csv has them. A first line that names the columns is passed over.

Shape suffixes: N samples, P pairs, L labeled samples.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepclust.runtime.errors import InputError

ANSWERS = {"same": True, "different": False}
HEADINGS = {("first", "second", "answer"), ("sample", "label")}
FORM = "write first,second,same or first,second,different, or sample,label"


@dataclass(frozen=True)
class Constraints:
    """Answers about pairs, or labels of samples.

    Attributes:
        rows: (P, 2) the two samples of each pair, or (L, 1) the labeled samples.
        answers: (P,) whether they belong together, or (L,) number of the label.
    """

    rows: np.ndarray
    answers: np.ndarray

    def pair_f1(self, labels_N: np.ndarray) -> float:
        """F1 of the pairs that a clustering puts together, against those that belong together.

        Of labels all pairs of labeled samples count.
        """
        if self.rows.shape[1] == 2:
            together_P = labels_N[self.rows[:, 0]] == labels_N[self.rows[:, 1]]
            right = np.count_nonzero(together_P & self.answers)
            return 2 * right / (np.count_nonzero(together_P) + np.count_nonzero(self.answers))
        clusters_L = labels_N[self.rows[:, 0]].astype(np.int64)
        both_L = clusters_L * (int(self.answers.max()) + 1) + self.answers
        return 2 * _pairs(both_L) / (_pairs(clusters_L) + _pairs(self.answers))


def read_constraints(path: str | os.PathLike, n_samples: int, paths: Sequence[str] | None = None) -> Constraints:
    """Read a file of answers.

    Args:
        path: the file.
        n_samples: N.
        paths: of the samples, by which lines may name them; None where they have none.

    Raises:
        InputError: naming the line, if it cannot be read, names no sample, or contradicts another; or if the answers
            hold no two that belong together, or none that do not: they would speak for one end of the tree.
    """
    path = Path(path).expanduser()
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"constraints={path} cannot be read ({str(error).splitlines()[0]}): {FORM}") from None
    row_of = _row_finder(n_samples, paths)
    pairs: dict[tuple[int, int], bool] = {}
    labels: dict[int, str] = {}
    for number, cells in enumerate(lines, 1):
        cells = [cell.strip() for cell in cells]
        if not any(cells) or (number == 1 and tuple(map(str.lower, cells)) in HEADINGS):
            continue
        where = f"constraints={path}, line {number}"
        if len(cells) == 3 and cells[2].lower() in ANSWERS:
            pair = tuple(sorted(row_of(cell, where) for cell in cells[:2]))
            if pair[0] == pair[1]:
                raise InputError(f"{where}: both are sample {pair[0]}: name two samples")
            if pairs.setdefault(pair, ANSWERS[cells[2].lower()]) != ANSWERS[cells[2].lower()]:  # type: ignore[arg-type]
                raise InputError(f"{where} contradicts an earlier line: leave one of them out")
        elif len(cells) == 2:
            row = row_of(cells[0], where)
            if labels.setdefault(row, cells[1]) != cells[1]:
                raise InputError(f"{where}: sample {cells[0]} has another label in an earlier line: leave one out")
        else:
            raise InputError(f"{where} is '{','.join(cells)[:80]}': {FORM}")
    if pairs and labels:
        raise InputError(f"constraints={path} holds pairs and labels: give one file of either")
    if labels:
        names: Mapping[str, int] = {name: index for index, name in enumerate(sorted(set(labels.values())))}
        found = Constraints(np.array([[row] for row in labels]), np.array([names[name] for name in labels.values()]))
        same, both = _pairs(found.answers), len(labels) * (len(labels) - 1) // 2
    else:
        found = Constraints(np.array(list(pairs)).reshape(-1, 2), np.array(list(pairs.values()), bool))
        same, both = int(found.answers.sum()), len(pairs)
    if not 0 < same < both:
        missing = "belong together" if same == 0 else "do not"
        raise InputError(f"constraints={path} holds no two samples that {missing}: give some of both kinds")
    return found


def _row_finder(n_samples: int, paths: Sequence[str] | None) -> Callable[[str, str], int]:
    by_path = {os.fspath(name): row for row, name in enumerate(paths)} if paths is not None else {}

    def row_of(name: str, where: str) -> int:
        if name in by_path:
            return by_path[name]
        if name.isdecimal() and int(name) < n_samples:
            return int(name)
        raise InputError(f"{where}: there is no sample '{name}': name rows from 0 to {n_samples - 1}, or paths")

    return row_of


def _pairs(numbers_L: np.ndarray) -> int:
    """How many pairs of equal numbers there are."""
    _, counts = np.unique(numbers_L, return_counts=True)
    return int((counts * (counts - 1) // 2).sum())
