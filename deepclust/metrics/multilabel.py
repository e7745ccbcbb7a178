"""Accuracy where a sample has more than one right label (Adaloglou et al. 2024, section 4.4 and table 4).

The Hungarian map from clusters to classes comes from the most probable cluster and one label per sample. Then

    top1→1   the most probable cluster is mapped to that label        top5→1   one of the five most probable is
    top1→L   it is mapped to any label of the sample's set S_L        top5→L   one of the five is mapped to any of S_L

S_L is the label with its semantic ancestors (ImageNet-21K), or what people saw in the image (ImageNet-1K ReaL, Beyer et
al. 2020), where the one label of the map is drawn from S_L at random, 50 times.

Shape suffixes: N samples, T most probable clusters, K classes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deepclust.clustering import NOISE, Clustering
from deepclust.errors import InputError
from deepclust.metrics.agreement import hungarian_map

# Draws of one label per image for ReaL (Adaloglou et al. 2024, section 4.4).
N_DRAWS = 50
# What a cluster without a class is mapped to.
UNMAPPED = -1


class HasAncestors(Protocol):
    """A class hierarchy, as far as it is needed here."""

    def ancestors(self, node: Any, /) -> Sequence[Any]:
        """The ancestors of a class, nearest first, without itself."""


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


@dataclass(frozen=True)
class MultiLabelScores:
    """The four accuracies, as fractions.

    Attributes:
        top1_to_1, top1_to_L, top5_to_1, top5_to_L: None where there are no label sets, or no second most probable
            cluster; means over the draws where labels were drawn.
        std: standard deviation (n − 1) of each over the draws, by name; empty without draws.
        n_used: samples that took part: those with at least one label.
    """

    top1_to_1: float
    top1_to_L: float | None
    top5_to_1: float | None
    top5_to_L: float | None
    std: Mapping[str, float]
    n_used: int

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in SCORE_NAMES}


SCORE_NAMES = ("top1_to_1", "top1_to_L", "top5_to_1", "top5_to_L")


def multilabel_accuracy(
    clustering: Clustering, labels_N: np.ndarray, label_sets: LabelSets | None = None
) -> MultiLabelScores:
    """The four accuracies with the map from known labels, as for ImageNet-21K.

    Args:
        clustering: its `top_ids` are the most probable clusters of each sample; k-means has the closest centers there.
        labels_N: the label of each sample that the map is made from.
        label_sets: S_L of each sample; None leaves out →L. Samples whose set is empty are left out altogether.

    Raises:
        InputError: if clustering, labels and sets differ in length, or no sample has a label.
    """
    labels_N = np.asarray(labels_N)
    _check_length(clustering, len(labels_N), "labels")
    if label_sets is None:
        return _scores(labels_N, clustering.labels, clustering.top_ids, None)
    _check_length(clustering, len(label_sets), "label sets")
    rows = _with_labels(label_sets)
    top_ids_NT = None if clustering.top_ids is None else clustering.top_ids[rows]
    return _scores(labels_N[rows], clustering.labels[rows], top_ids_NT, label_sets.select(rows))


def drawn_label_accuracy(
    clustering: Clustering, label_sets: LabelSets, *, n_draws: int = N_DRAWS, seed: int = 0
) -> MultiLabelScores:
    """The four accuracies where no label of a sample is the one: ReaL's protocol.

    Each draw takes one label per sample from its set at random, makes the map from these, and scores →1 against them.
    Samples without a label are left out, as ReaL does.

    Args:
        clustering: as in `multilabel_accuracy`.
        label_sets: S_L of each sample.
        n_draws: default from Adaloglou et al. 2024, section 4.4.
        seed: the same seed draws the same labels.

    Raises:
        InputError: if the lengths differ, no sample has a label, or there is less than one draw.
    """
    _check_length(clustering, len(label_sets), "label sets")
    if n_draws < 1:
        raise InputError(f"{n_draws} draws of labels: draw at least once")
    rows = _with_labels(label_sets)
    used = label_sets.select(rows)
    top_ids_NT = None if clustering.top_ids is None else clustering.top_ids[rows]
    rng = np.random.default_rng(seed)
    draws = [_scores(used.draw(rng), clustering.labels[rows], top_ids_NT, used).as_dict() for _ in range(n_draws)]
    values = {name: [draw[name] for draw in draws] for name in SCORE_NAMES if draws[0][name] is not None}
    means = {name: float(np.mean(found)) for name, found in values.items()}
    std = {name: float(np.std(found, ddof=1)) for name, found in values.items()} if n_draws > 1 else {}
    return MultiLabelScores(**{name: means.get(name) for name in SCORE_NAMES}, std=std, n_used=len(rows))  # type: ignore[arg-type]


def class_ancestors(hierarchy: HasAncestors, class_names: Sequence[str]) -> list[list[int]]:
    """The ancestors of each class that are classes themselves, as ids, for `LabelSets.of_classes`.

    S_L is a subset of the classes (Adaloglou et al. 2024, section 4.4): an ancestor without samples cannot be hit.
    """
    ids = {name: index for index, name in enumerate(class_names)}
    return [[ids[above] for above in hierarchy.ancestors(name) if above in ids] for name in class_names]


def read_label_sets(path: str | os.PathLike) -> list[list[int]] | dict[str, list[Any]]:
    """A JSON file: a list of lists of class ids, one per sample, or an object {class: [classes it also counts as]}.

    Raises:
        InputError: if it is neither.
    """
    path = Path(path).expanduser()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"label_sets={path} cannot be read as JSON ({str(error).splitlines()[0]})") from None
    entries = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(content, (list, dict)) or not all(isinstance(entry, list) for entry in entries):
        raise InputError(
            f"{path} must hold a list of lists of class ids, one per sample, or an object of class: [classes]"
        )
    return content


def classes_also(table: Mapping[str, Sequence[Any]], class_names: Sequence[str]) -> list[list[int]]:
    """{class: [classes it also counts as]}, by name or id, as lists of ids for `LabelSets.of_classes`.

    Raises:
        InputError: if a class is unknown.
    """
    ids = {str(index): index for index in range(len(class_names))} | {
        name: index for index, name in enumerate(class_names)
    }
    unknown = [name for name in (*table, *(label for row in table.values() for label in row)) if str(name) not in ids]
    if unknown:
        raise InputError(f"label sets name the class '{unknown[0]}', which the data does not have: use names or ids")
    also: list[list[int]] = [[] for _ in class_names]
    for name, row in table.items():
        also[ids[str(name)]] = [ids[str(label)] for label in row]
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


def mapped_classes(mapping: Mapping[int, int], clusters: np.ndarray) -> np.ndarray:
    """The class of each cluster id, in the same shape; `UNMAPPED` for noise and for clusters without a class."""
    highest = max([0, int(clusters.max(initial=NOISE)), *mapping])
    # The last place serves noise, whose id -1 points there.
    class_C = np.full(highest + 2, UNMAPPED, np.int64)
    class_C[list(mapping.keys())] = list(mapping.values())
    class_C[-1] = UNMAPPED
    return class_C[clusters]


def _scores(
    labels_N: np.ndarray, clusters_N: np.ndarray, top_ids_NT: np.ndarray | None, label_sets: LabelSets | None
) -> MultiLabelScores:
    mapping = hungarian_map(labels_N, clusters_N)
    first_N1 = mapped_classes(mapping, clusters_N)[:, None]
    hits: dict[str, float | None] = dict.fromkeys(SCORE_NAMES)
    hits["top1_to_1"] = _share_of_hits(first_N1 == labels_N[:, None])
    hits["top1_to_L"] = None if label_sets is None else _share_of_hits(label_sets.contains(first_N1))
    if top_ids_NT is not None:
        classes_NT = mapped_classes(mapping, top_ids_NT)
        hits["top5_to_1"] = _share_of_hits(classes_NT == labels_N[:, None])
        hits["top5_to_L"] = None if label_sets is None else _share_of_hits(label_sets.contains(classes_NT))
    return MultiLabelScores(**hits, std={}, n_used=len(labels_N))  # type: ignore[arg-type]


def _share_of_hits(hit_NT: np.ndarray) -> float:
    return float(hit_NT.any(axis=1).mean())


def _with_labels(label_sets: LabelSets) -> np.ndarray:
    rows = np.flatnonzero(label_sets.sizes)
    if len(rows) == 0:
        raise InputError("no sample has a label: every label set is empty")
    return rows


def _check_length(clustering: Clustering, n: int, what: str) -> None:
    if n != len(clustering):
        raise InputError(f"{n} {what} for the {len(clustering)} samples of {clustering.method}: give one per sample")
