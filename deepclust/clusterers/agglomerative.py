"""Agglomerative clustering as a baseline, cut by a number of clusters or by a distance.

Shape suffixes: N samples, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from deepclust.clusterers.base import MAX_SAMPLES, Clusterer, max_samples_setting, unit
from deepclust.clusterers.dendrogram import (
    LINKAGES,
    METRICS,
    Dendrogram,
    Linkages,
    check_linkage,
    check_reach,
    digest_of_rows,
)
from deepclust.clusterers.weighted_ward import (
    CELLS_PER_CLUSTER,
    FEWEST_CELLS,
    Cells,
    check_cells,
    fine_cells,
    weighted_ward,
)
from deepclust.clustering import Clustering, display_name
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

    New samples join the nearest cluster mean. Of more than `max_samples` samples ward clusters the centroids of a fine
    k-means, each weighing as many samples as it stands for, which follow it (`clusterers/weighted_ward.py`); the other
    linkages cluster a random sample, and the rest joins the nearest cluster mean. The notes say which it was.

    Args:
        n_clusters: C, at least 1 and at most as many as the samples (or `max_samples`).
        seed: of k-means or the sample; below `max_samples` nothing is drawn.
        normalize: `l2` or `none`.
        max_samples: how many samples the tree is built over at most; None: all. Ward and single linkage reach as far as
            patience, the others as far as the memory; see `build_dendrogram`.
        beyond: what stands for more of them: `centroids`, which ward alone knows, or a `sample`; `auto`: centroids
            where it is ward.
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
    beyond: str = setting("auto", "what stands for more than max_samples", choices=("auto", "centroids", "sample"))
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
        if self.beyond == "centroids" and self.linkage != "ward":
            raise InputError(
                f"beyond=centroids is for ward linkage, not for {self.linkage}: leave it out, or set linkage=ward"
            )

    def check(self, n_samples: int) -> None:
        """As any clusterer, where centroids stand for the samples by the memory that their distances take."""
        super().check(n_samples)
        if self.n_fitted(n_samples) < n_samples and self._over_centroids:
            check_cells(self._n_cells(self.n_fitted(n_samples)))

    def _check(self, n_samples: int) -> None:
        check_reach(n_samples, self.linkage, self.metric)

    @property
    def _over_centroids(self) -> bool:
        return self.linkage == "ward" and self.beyond != "sample"

    def _n_cells(self, most: int) -> int:
        return min(most, max(FEWEST_CELLS, CELLS_PER_CLUSTER * (self.n_clusters or 0)))

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

    def _fit_subsample(self, features_ND: Rows, n_drawn: int) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        if not self._over_centroids:
            return super()._fit_subsample(features_ND, n_drawn)
        linkages = Linkages() if self.linkages is None else self.linkages
        found, self._earlier_seconds = linkages.made(
            ("centroids", digest_of_rows(features_ND), self._n_cells(n_drawn), self.normalize, self.seed),
            lambda: self._tree_of_cells(features_ND, self._n_cells(n_drawn)),
        )
        cells, tree = found
        if len(cells.sizes_M) < (self.n_clusters or 1):  # fewer distinct samples than clusters: these cannot be parted
            return super()._fit_subsample(features_ND, n_drawn)
        self.dendrogram = tree
        labels_M, notes = self._cut(self.dendrogram)
        labels_N = labels_M[cells.of_N]
        self._keep_centroids(features_ND, labels_N)
        note = (
            f"{display_name(self.name)}, in two stages: over {len(cells.sizes_M)} centroids of a fine k-means, each of "
            f"the weight of the samples nearest to it, {features_ND.shape[0]} in all, which follow it."
        )
        return labels_N, None, (note, *notes)

    def _tree_of_cells(self, features_ND: Rows, n_cells: int) -> tuple[Cells, Dendrogram]:
        cells = fine_cells(features_ND, n_cells, normalize=self.normalize == "l2", seed=self.seed)
        return cells, weighted_ward(cells.means_MD, cells.sizes_M)

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
