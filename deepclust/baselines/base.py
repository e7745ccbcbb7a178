"""What every baseline is: features in, Clusterings out.

A new baseline is one file with a subclass of `Baseline` and one line in the registry.

Shape suffixes: N samples, D feature dimensions, C clusters.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from deepclust.clustering import NOISE, Clustering
from deepclust.errors import InputError
from deepclust.features.store import Rows
from deepclust.kmeans import kmeans_predict

BLOCK_ROWS = 16384


class Baseline(ABC):
    """A clusterer that is fitted on one split and can assign the samples of another.

    Subclasses set `name` and `n_clusters`, implement `_fit`, and override `_predict` where the method has a rule of its
    own for new samples; otherwise these go to the nearest centroid.
    """

    name: ClassVar[str]
    n_clusters: int | None
    _centroids_CD: np.ndarray | None = None
    # The cluster id of each centroid: ids without members have none.
    _centroid_ids_C: np.ndarray | None = None

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the method is run with, as kept in the Clustering."""

    @abstractmethod
    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        """(N,) labels, (N, T) closest clusters or None, and notes for the table."""

    def fit(self, features_ND: Rows) -> Clustering:
        """Cluster the features; they are compared by direction, so they need not be normalized.

        Raises:
            InputError: if the features hold NaN, infinite or zero rows, or do not suit the settings.
        """
        start = time.perf_counter()
        labels_N, top_ids_NT, notes = self._fit(features_ND)
        return self._clustering(labels_N, top_ids_NT, time.perf_counter() - start, notes)

    def predict(self, features_ND: Rows) -> Clustering:
        """Assign new samples to the clusters that `fit` found.

        Raises:
            InputError: if nothing was fitted, or the features are of another dimension.
        """
        start = time.perf_counter()
        labels_N, top_ids_NT, notes = self._predict(features_ND)
        return self._clustering(labels_N, top_ids_NT, time.perf_counter() - start, notes)

    def _predict(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        return (*self._nearest(features_ND), ())

    def _nearest(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Labels and top ids of the nearest centroids."""
        if self._centroids_CD is None or self._centroid_ids_C is None:
            raise InputError(f"{self.name} was not fitted: call fit before predict")
        _, rows_NT = kmeans_predict(features_ND, self._centroids_CD)
        top_ids_NT = self._centroid_ids_C[rows_NT].astype(np.int32)
        return top_ids_NT[:, 0].copy(), top_ids_NT

    def _keep_centroids(self, features_ND: Rows, labels_N: np.ndarray) -> None:
        """Remember the mean direction of each cluster's members."""
        self._centroid_ids_C = np.unique(labels_N[labels_N != NOISE])
        centroids_CD = np.zeros((len(self._centroid_ids_C), features_ND.shape[1]))
        for start in range(0, features_ND.shape[0], BLOCK_ROWS):
            own_B = labels_N[start : start + BLOCK_ROWS]
            clustered_B = own_B != NOISE
            block_BD = np.asarray(features_ND[start : start + BLOCK_ROWS], dtype=np.float64)[clustered_B]
            block_BD /= np.linalg.norm(block_BD, axis=1, keepdims=True)
            np.add.at(centroids_CD, np.searchsorted(self._centroid_ids_C, own_B[clustered_B]), block_BD)
        # A cluster of opposite directions may have none of its own.
        lengths_C1 = np.maximum(np.linalg.norm(centroids_CD, axis=1, keepdims=True), 1e-12)
        self._centroids_CD = (centroids_CD / lengths_C1).astype(np.float32)

    def _clustering(
        self, labels_N: np.ndarray, top_ids_NT: np.ndarray | None, seconds: float, notes: Sequence[str]
    ) -> Clustering:
        return Clustering(
            labels=labels_N.astype(np.int32),
            method=self.name,
            n_clusters=self.n_clusters,
            top_ids=top_ids_NT,
            settings=self.settings,
            seconds=seconds,
            notes=tuple(notes),
        )
