"""Agglomerative clustering as a baseline, cut by a number of clusters or by a distance.

Shape suffixes: N samples, D feature dimensions, S samples that the tree is built over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from deepclust.baselines.base import Baseline, check_rows, unit
from deepclust.baselines.dendrogram import Dendrogram, build_dendrogram, check_linkage
from deepclust.errors import InputError
from deepclust.features.store import Rows

# Ward needs no more memory above this, but time grows with N² · D: a default run should not take an hour.
MAX_SAMPLES = 10_000
# Where no threshold is given: the share of the tallest merge at which MATLAB's and scipy's dendrograms change color.
DEFAULT_SHARE = 0.7


@dataclass(eq=False, kw_only=True)
class AgglomerativeBaseline(Baseline):
    """Bottom-up merging until C clusters are left, or until those that are left lie a distance apart.

    Above `max_samples` the tree is built over a random subsample and every other sample joins the nearest cluster mean,
    as new samples do. The notes of the Clustering say so.

    Args:
        n_clusters: C, at least 2 and at most as many as the samples (or `max_samples`).
        seed: of the subsample; below `max_samples` nothing is drawn.
        normalize: `l2` or `none`.
        distance_threshold: clusters at least so far apart are not merged; instead of `n_clusters`, and in the unit of
            the linkage's distance.
        linkage: `ward` (Euclidean only), `complete`, `average` or `single`.
        metric: `euclidean`, `l1`, `linf`, `cosine` or `arccos`.
        max_samples: S at most; None builds the tree over all samples, if the memory reaches.

    Attributes:
        dendrogram: the tree over the S samples, once fitted.
    """

    name: ClassVar[str] = "agglomerative"

    distance_threshold: float | None = None
    linkage: str = "ward"
    metric: str = "euclidean"
    max_samples: int | None = MAX_SAMPLES
    dendrogram: Dendrogram | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.distance_threshold is None or not self.needs_n_clusters:
            super().__post_init__()
        elif self.n_clusters is not None:
            raise InputError(
                f"{self.name} got n_clusters={self.n_clusters} and distance_threshold={self.distance_threshold}: give "
                "one of them, or use agglomerative_threshold, which ignores n_clusters"
            )
        if self.distance_threshold is not None and not self.distance_threshold > 0:
            raise InputError(f"distance_threshold is {self.distance_threshold}: it must be above 0")
        if self.max_samples is not None and self.max_samples < 2:
            raise InputError(f"max_samples is {self.max_samples}: a tree needs at least 2 samples")
        check_linkage(self.linkage, self.metric)

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        if features_ND.ndim != 2:
            raise InputError(f"features have shape {features_ND.shape}: give a matrix, one row per sample")
        n_samples = features_ND.shape[0]
        n_tree = min(n_samples, self.max_samples or n_samples)
        if self.n_clusters is not None and not 2 <= self.n_clusters <= n_tree:
            raise InputError(
                f"n_clusters is {self.n_clusters}: agglomerative clustering of {n_tree} samples gives 2 to {n_tree}"
                + (f"; raise max_samples (there are {n_samples} samples)" if n_tree < n_samples else "")
            )
        if n_tree == n_samples:
            tree_rows = np.arange(n_samples)
        else:
            tree_rows = np.sort(np.random.default_rng(self.seed).choice(n_samples, n_tree, replace=False))
        sample_SD = np.array(features_ND[tree_rows], dtype=np.float64)
        directions = self.normalize == "l2" or self.metric in ("cosine", "arccos")
        check_rows(sample_SD, tree_rows, zeros=not directions)
        if self.normalize == "l2":
            unit(sample_SD)
        self.dendrogram = build_dendrogram(sample_SD, self.linkage, self.metric)
        sample_labels_S, notes = self._cut(self.dendrogram)
        self._keep_centroids(sample_SD, sample_labels_S)
        if n_tree == n_samples:
            return sample_labels_S, None, notes
        labels_N, _ = self._nearest(features_ND)
        labels_N[tree_rows] = sample_labels_S
        note = (
            f"Agglomerative: the {self.linkage} tree was built over {n_tree} of {n_samples} samples drawn at random; "
            "the others joined the nearest cluster mean."
        )
        return labels_N, None, (note, *notes)

    def _cut(self, tree: Dendrogram) -> tuple[np.ndarray, Sequence[str]]:
        if self.n_clusters is not None:
            return tree.cut(self.n_clusters), ()
        assert self.distance_threshold is not None
        return tree.cut_at(self.distance_threshold), ()


@dataclass(eq=False, kw_only=True)
class AgglomerativeThresholdBaseline(AgglomerativeBaseline):
    """Agglomerative clustering without a known C: `n_clusters` is ignored, the tree is cut at a distance.

    The arguments are those of `AgglomerativeBaseline`. Without a `distance_threshold` the cut is at 0.7 of the tallest
    merge, where MATLAB's and scipy's dendrograms change color. Lowe et al. 2023 search 21 thresholds on other data.
    """

    name: ClassVar[str] = "agglomerative_threshold"
    needs_n_clusters: ClassVar[bool] = False

    def _cut(self, tree: Dendrogram) -> tuple[np.ndarray, Sequence[str]]:
        if self.distance_threshold is not None:
            return tree.cut_at(self.distance_threshold), ()
        threshold = DEFAULT_SHARE * float(tree.heights[-1])
        note = (
            f"Agglomerative without C: cut at a distance of {threshold:.4g}, {DEFAULT_SHARE} of the tallest merge, as "
            "no distance_threshold was given."
        )
        return tree.cut_at(threshold), (note,)
