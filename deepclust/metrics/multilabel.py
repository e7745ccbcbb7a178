"""Accuracy where a sample has more than one right label (Adaloglou et al. 2024, section 4.4 and table 4).

The Hungarian map from clusters to classes comes from the most probable cluster and one label per sample. Then

    top1→1   the most probable cluster is mapped to that label        top5→1   one of the five most probable is
    top1→L   it is mapped to any label of the sample's set S_L        top5→L   one of the five is mapped to any of S_L

S_L is the label with its semantic ancestors (ImageNet-21K), or what people saw in the image (ImageNet-1K ReaL, Beyer et
al. 2020), where the one label of the map is drawn from S_L at random, 50 times. A classifier such as a linear probe
names classes, not clusters: its map, of each class to itself, is given.

Shape suffixes: N samples, T most probable clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepclust.clustering import NOISE, Clustering
from deepclust.metrics.agreement import hungarian_map
from deepclust.metrics.label_sets import UNMAPPED, LabelSets
from deepclust.runtime.errors import InputError

# Draws of one label per image for ReaL (Adaloglou et al. 2024, section 4.4).
N_DRAWS = 50


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
    clustering: Clustering,
    labels_N: np.ndarray,
    label_sets: LabelSets | None = None,
    *,
    mapping: Mapping[int, int] | None = None,
) -> MultiLabelScores:
    """The four accuracies with the map from known labels, as for ImageNet-21K.

    Args:
        clustering: its `top_ids` are the most probable clusters of each sample; k-means has the closest centers there.
        labels_N: the label of each sample that the map is made from.
        label_sets: S_L of each sample; None leaves out →L. Samples whose set is empty are left out altogether.
        mapping: the class of each cluster where it is known, as for a classifier; None: the Hungarian map.

    Raises:
        InputError: if clustering, labels and sets differ in length, or no sample has a label.
    """
    labels_N = np.asarray(labels_N)
    _check_length(clustering, len(labels_N), "labels")
    if label_sets is None:
        return _scores(labels_N, clustering.labels, clustering.top_ids, None, mapping)
    _check_length(clustering, len(label_sets), "label sets")
    rows = _with_labels(label_sets)
    top_ids_NT = None if clustering.top_ids is None else clustering.top_ids[rows]
    return _scores(labels_N[rows], clustering.labels[rows], top_ids_NT, label_sets.select(rows), mapping)


def drawn_label_accuracy(
    clustering: Clustering,
    label_sets: LabelSets,
    *,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    mapping: Mapping[int, int] | None = None,
) -> MultiLabelScores:
    """The four accuracies where a sample has several labels and none is the main one: ReaL's protocol.

    Each draw takes one label per sample from its set at random, makes the map from these, and scores →1 against them.
    Samples without a label are left out, as ReaL does.

    Args:
        clustering: as in `multilabel_accuracy`.
        label_sets: S_L of each sample.
        n_draws: default from Adaloglou et al. 2024, section 4.4.
        seed: the same seed draws the same labels.
        mapping: as in `multilabel_accuracy`; then only →1 changes with the draw.

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
    clusters_N = clustering.labels[rows]
    draws = [_scores(used.draw(rng), clusters_N, top_ids_NT, used, mapping).as_dict() for _ in range(n_draws)]
    values = {name: [draw[name] for draw in draws] for name in SCORE_NAMES if draws[0][name] is not None}
    means = {name: float(np.mean(found)) for name, found in values.items()}
    std = {name: float(np.std(found, ddof=1)) for name, found in values.items()} if n_draws > 1 else {}
    return MultiLabelScores(**{name: means.get(name) for name in SCORE_NAMES}, std=std, n_used=len(rows))  # type: ignore[arg-type]


def mapped_classes(mapping: Mapping[int, int], clusters: np.ndarray) -> np.ndarray:
    """The class of each cluster id, in the same shape; `UNMAPPED` for noise and for clusters without a class."""
    highest = max([0, int(clusters.max(initial=NOISE)), *mapping])
    # The last place is for noise: its id, -1, points there.
    class_C = np.full(highest + 2, UNMAPPED, np.int64)
    class_C[list(mapping.keys())] = list(mapping.values())
    class_C[-1] = UNMAPPED
    return class_C[clusters]


def _scores(
    labels_N: np.ndarray,
    clusters_N: np.ndarray,
    top_ids_NT: np.ndarray | None,
    label_sets: LabelSets | None,
    mapping: Mapping[int, int] | None,
) -> MultiLabelScores:
    mapping = hungarian_map(labels_N, clusters_N) if mapping is None else mapping
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
