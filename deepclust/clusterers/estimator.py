"""Every baseline as a scikit-learn estimator.

Shape suffixes: N samples, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted

from deepclust.clusterers import make_clusterer
from deepclust.features.for_estimators import seed_of, validated_rows, whole_fit


class BaselineClusterer(ClusterMixin, BaseEstimator):
    """A clusterer of the registry by its name, for pipelines and searches of scikit-learn.

        BaselineClusterer("hdbscan", options={"min_cluster_size": 20}).fit_predict(X)

    Args:
        method: a name in `deepclust.clusterers.CLUSTERERS`: `kmeans`, `kmeans_l2`, `kmeans_paper`, `agglomerative`,
            `agglomerative_threshold`, `affinity_propagation`, `spectral`, `consensus`, `hdbscan`, `optics`, `louvain`
            or `leiden`.
        n_clusters: C; methods that find it ignore it.
        normalize: `l2` compares directions; `none` takes the rows as they are, for a reduced space.
        options: further settings of the method.
        random_state: seed, `RandomState` or None.

    Attributes:
        labels_: (N,) int32 clusters of the samples fitted on, -1 for noise.
        clustering_: the `Clustering`, with settings, seconds and notes.
        baseline_: the fitted `Clusterer`.
        n_features_in_: D.
    """

    def __init__(
        self,
        method: str = "agglomerative",
        n_clusters: int | None = 8,
        *,
        normalize: str = "l2",
        options: Mapping[str, Any] | None = None,
        random_state: Any = 0,
    ) -> None:
        self.method = method
        self.n_clusters = n_clusters
        self.normalize = normalize
        self.options = options
        self.random_state = random_state

    @whole_fit
    def fit(self, X: Any, y: Any = None) -> BaselineClusterer:
        """Cluster (N, D) samples; y is ignored.

        Raises:
            InputError: (a ValueError) as `make_clusterer` and `Clusterer.fit`.
        """
        rows_ND = validated_rows(self, X, dtype=(np.float32, np.float64), ensure_min_samples=2)
        settings = {"n_clusters": self.n_clusters, "seed": seed_of(self.random_state), "normalize": self.normalize}
        self.baseline_ = make_clusterer(self.method, **{**settings, **(self.options or {})})
        self.clustering_ = self.baseline_.fit(rows_ND)
        self.labels_ = self.clustering_.labels
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(N,) int32 clusters of new samples, by the method's own rule or the nearest cluster mean."""
        check_is_fitted(self)
        return self.baseline_.predict(validated_rows(self, X, dtype=(np.float32, np.float64), reset=False)).labels
