"""Agglomerative clustering as a baseline, cut by a number of clusters or by a distance.

Shape suffixes: N samples, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from deepclust.clusterers.base import MAX_SAMPLES, Clusterer, max_samples_setting, unit
from deepclust.clusterers.dendrogram import LINKAGES, METRICS, Dendrogram, Linkages, check_linkage, check_reach
from deepclust.clustering import Clustering
from deepclust.features.arrays import check_rows
from deepclust.features.rows import Rows
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.runtime.settings import check_settings, setting

# Where no threshold is given: the share of the tallest merge at which MATLAB's and scipy's dendrograms change color.
DEFAULT_SHARE = 0.7


@dataclass(eq=False, kw_only=True)
class AgglomerativeClusterer(Clusterer):
    """Bottom-up merging until C clusters are left, or until those that are left lie a distance apart.

    New samples, and those beyond `max_samples`, join the nearest cluster mean.

    Args:
        n_clusters: C, at least 1 and at most as many as the samples (or `max_samples`).
        seed: of the subsample; below `max_samples` nothing is drawn.
        normalize: `l2` or `none`.
        max_samples: how many samples the tree is built over at most; None: all. Ward and single linkage reach as far as
            patience, the others as far as the memory; see `build_dendrogram`.
        distance_threshold: clusters at least so far apart are not merged; instead of `n_clusters`, and in the unit of
            the linkage's distance.
        linkage: `ward` (Euclidean only), `complete`, `average` or `single`.
        metric: `euclidean`, `l1`, `linf`, `cosine` or `arccos`.

    Attributes:
        dendrogram: the tree, once fitted.
        linkages: where `fit` looks for a tree that another clusterer has built, and leaves its own; None: nowhere.
    """

    name: ClassVar[str] = "agglomerative"

    max_samples: int | None = max_samples_setting(MAX_SAMPLES)
    distance_threshold: float | None = setting(None, "where the tree is cut", above=0)
    linkage: str = setting("ward", "between clusters", choices=LINKAGES)
    metric: str = setting("euclidean", "between samples", choices=METRICS)
    dendrogram: Dendrogram | None = field(default=None, init=False, repr=False)
    linkages: Linkages | None = field(default=None, init=False, repr=False)
    _earlier_seconds: float = field(default=0.0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.distance_threshold is None or not self.needs_n_clusters:
            super().__post_init__()
        elif self.n_clusters is not None:
            raise InputError(
                f"{self.name} got n_clusters={self.n_clusters} and distance_threshold={self.distance_threshold}: give "
                "one of them, or use agglomerative_threshold, which ignores n_clusters"
            )
        check_settings(self)
        check_linkage(self.linkage, self.metric)

    def _check(self, n_samples: int) -> None:
        check_reach(n_samples, self.linkage, self.metric)

    def fit(self, features_ND: Rows, ranks: Ranks = ALONE) -> Clustering:
        """Cluster the features; the seconds count a tree that `linkages` held as if it had been built now."""
        clustering = super().fit(features_ND, ranks)
        return replace(clustering, seconds=clustering.seconds + self._earlier_seconds)

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        rows_ND = np.array(features_ND[:], dtype=np.float64)
        directions = self.normalize == "l2" or self.metric in ("cosine", "arccos")
        check_rows(rows_ND, zeros=not directions)
        if self.normalize == "l2":
            unit(rows_ND)
        linkages = Linkages() if self.linkages is None else self.linkages
        self.dendrogram, self._earlier_seconds = linkages.dendrogram(rows_ND, self.linkage, self.metric)
        labels_N, notes = self._cut(self.dendrogram)
        self._keep_centroids(rows_ND, labels_N)
        return labels_N, None, notes

    def _cut(self, tree: Dendrogram) -> tuple[np.ndarray, Sequence[str]]:
        if self.n_clusters is not None:
            return tree.cut(self.n_clusters), ()
        assert self.distance_threshold is not None
        return tree.cut_at(self.distance_threshold), ()


@dataclass(eq=False, kw_only=True)
class AgglomerativeThresholdClusterer(AgglomerativeClusterer):
    """Agglomerative clustering without a known C: `n_clusters` is ignored, the tree is cut at a distance.

    The arguments are those of `AgglomerativeClusterer`. Without a `distance_threshold` the cut is at 0.7 of the tallest
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
