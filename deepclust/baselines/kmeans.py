"""Spherical k-means as a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from deepclust.baselines.base import Baseline
from deepclust.features.store import Rows
from deepclust.kmeans import spherical_kmeans


class KMeansBaseline(Baseline):
    """Spherical k-means on all samples; top-5 are the five closest centers.

    Args:
        n_clusters: C, at least 2 and at most N.
        seed: the same seed gives the same labels.
        n_init: independent runs, of which the best is kept.
        max_iter: at most this many updates of the centers per run.
        init: `k-means++` or `random`.
    """

    name: ClassVar[str] = "kmeans"

    def __init__(
        self, n_clusters: int, *, seed: int = 0, n_init: int = 5, max_iter: int = 100, init: str = "k-means++"
    ) -> None:
        self.n_clusters: int = n_clusters
        self.seed = seed
        self.n_init = n_init
        self.max_iter = max_iter
        self.init = init

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "n_clusters": self.n_clusters,
            "seed": self.seed,
            "n_init": self.n_init,
            "max_iter": self.max_iter,
            "init": self.init,
        }

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        result = spherical_kmeans(
            features_ND,
            self.n_clusters,
            n_init=self.n_init,
            max_iter=self.max_iter,
            init=self.init,
            seed=self.seed,
        )
        self._centroids_CD = result.centroids_CD
        self._centroid_ids_C = np.arange(self.n_clusters)
        return (*self._nearest(features_ND), ())
