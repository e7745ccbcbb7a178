"""k-means as a baseline: spherical, with k-means++ in ℓ2, and as the papers run it.

Shape suffixes: N samples, D feature dimensions, C clusters, R further runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from sklearn.cluster import KMeans

from deepclust.clusterers.base import Clusterer
from deepclust.clustering import Clustering
from deepclust.features.rows import Rows
from deepclust.runtime.settings import setting
from deepclust.spherical_kmeans import STARTS, spherical_kmeans

# Steps of seed between single starts: far enough that the starts of neighboring seeds do not coincide.
SEED_STRIDE = 1009


class _Centers(Clusterer):
    """Clusters that are their centers: new samples go to the nearest one, which is the method's own rule."""

    def _predict(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        return (*self._nearest(features_ND), ())

    def _fit_euclidean(self, features_ND: Rows, n_init: int, max_iter: int, init: str) -> None:
        """scikit-learn's KMeans on the rows of the method's space."""
        fitted = KMeans(self.n_clusters, n_init=n_init, max_iter=max_iter, init=init, random_state=self.seed)
        self._centroids_CD = fitted.fit(self._compared_rows(features_ND)).cluster_centers_
        self._centroid_ids_C = np.arange(len(self._centroids_CD))


@dataclass(eq=False, kw_only=True)
class KMeansClusterer(_Centers):
    """Spherical k-means on all samples; top-5 are the five closest centers.

    Args:
        n_clusters: C, at least 1 and at most N.
        seed, max_samples: as in `Clusterer`.
        normalize: `l2`; under `none`, where directions have no meaning, it is Lloyd's k-means in ℓ2 with the same
            settings.
        n_init: independent runs, of which the best is kept.
        max_iter: at most this many updates of the centers per run.
        init: `k-means++` or `random`.
    """

    name: ClassVar[str] = "kmeans"
    over_ranks: ClassVar[bool] = True

    n_init: int = setting(5, "runs, of which the best is kept", at_least=1, whole=True)
    max_iter: int = setting(100, "updates of the centers", at_least=1, whole=True)
    init: str = setting("k-means++", "how a run starts", choices=STARTS)

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        if self.normalize == "none":
            self._fit_euclidean(features_ND, self.n_init, self.max_iter, self.init)
        else:
            assert self.n_clusters is not None
            result = spherical_kmeans(
                features_ND,
                self.n_clusters,
                n_init=self.n_init,
                max_iter=self.max_iter,
                init=self.init,
                seed=self.seed,
                ranks=self._ranks,
            )
            self._centroids_CD = result.centroids_CD
            self._centroid_ids_C = np.arange(self.n_clusters)
        return (*self._nearest(features_ND, self._ranks), ())


@dataclass(eq=False, kw_only=True)
class KMeansL2Clusterer(_Centers):
    """k-means++ in ℓ2, by scikit-learn, with the defaults of Lowe et al. 2023.

    Under `normalize="l2"` rows are scaled to length 1, centers are not: they are compared by Euclidean distance, where
    spherical k-means compares directions.

    Args:
        n_clusters: C, at least 1 and at most N.
        seed, max_samples: as in `Clusterer`.
        normalize: `l2` or `none`.
        n_init: independent runs; 1 is scikit-learn's default and what the paper's code runs.
        max_iter: updates of the centers; the paper's code allows 1000.
    """

    name: ClassVar[str] = "kmeans_l2"

    n_init: int = setting(1, "runs, of which the best is kept", at_least=1, whole=True)
    max_iter: int = setting(1000, "updates of the centers", at_least=1, whole=True)

    @property
    def _by_direction(self) -> bool:
        return False

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        self._fit_euclidean(features_ND, self.n_init, self.max_iter, "k-means++")
        return (*self._nearest(features_ND), ())


@dataclass(eq=False, kw_only=True)
class KMeansPaperClusterer(_Centers):
    """k-means as Adaloglou et al. 2024 run it (section 5): single starts, of which none is chosen.

    Spherical, from distinct samples at random as faiss starts it. The scores of the method are the means over all
    starts; `labels` are those of the first. It says what k-means gives on average, `kmeans` what it can give.

    Args:
        n_clusters: C, at least 1 and at most N.
        seed, max_samples: as in `Clusterer`.
        normalize: `l2`; under `none` it is Lloyd's k-means in ℓ2 with the same settings.
        n_starts: 3, "three independent runs".
        max_iter: at most this many updates of the centers per run; the paper does not say.
    """

    name: ClassVar[str] = "kmeans_paper"
    over_ranks: ClassVar[bool] = True

    n_starts: int = setting(3, "runs, over which scores are averaged", at_least=1, whole=True)
    max_iter: int = setting(100, "updates of the centers", at_least=1, whole=True)
    _starts: list[np.ndarray] = field(default_factory=list, init=False, repr=False)
    _repeats_RN: np.ndarray | None = field(default=None, init=False, repr=False)

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        assert self.n_clusters is not None
        self._starts = []
        for start in range(self.n_starts):
            one = KMeansClusterer(
                self.n_clusters,
                seed=self.seed + SEED_STRIDE * start,
                normalize=self.normalize,
                n_init=1,
                max_iter=self.max_iter,
                init="random",
            )
            one.fit(features_ND, self._ranks)
            assert one._centroids_CD is not None
            self._starts.append(one._centroids_CD)
        self._centroid_ids_C = np.arange(self.n_clusters)
        return (*self._nearest_of_all(features_ND), ())

    def _fit_subsample(self, features_ND: Rows, n_drawn: int) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        *_, notes = super()._fit_subsample(features_ND, n_drawn)
        return (*self._nearest_of_all(features_ND), notes)

    def _predict(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        return (*self._nearest_of_all(features_ND), ())

    def _nearest_of_all(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Labels and top ids of the first start, and the labels of the others kept for the Clustering."""
        repeats = []
        for centroids_CD in self._starts[1:]:
            self._centroids_CD = centroids_CD
            repeats.append(self._nearest(features_ND)[0])
        self._centroids_CD = self._starts[0]
        self._repeats_RN = np.stack(repeats) if repeats else None
        return self._nearest(features_ND)

    def _clustering(self, *parts: Any) -> Clustering:
        return replace(super()._clustering(*parts), repeats=self._repeats_RN)
