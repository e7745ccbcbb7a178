"""Density clusterers as baselines: HDBSCAN and OPTICS. Samples in thin regions are noise, label -1.

Shape suffixes: N samples, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.cluster import HDBSCAN, OPTICS

from deepclust.clusterers.base import MAX_SAMPLES, Clusterer, max_samples_setting
from deepclust.clustering import NOISE
from deepclust.features.rows import Rows
from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import setting

# Up to so many samples HDBSCAN takes all pairs from matrix products: at 1500 × 1280 this is 40 times faster than trees.
ALL_PAIRS_SAMPLES = 10_000
OPTICS_SAMPLES = 5_000


class _DensityClusterer(Clusterer):
    """What both share: they find the number of clusters, and leave some samples out."""

    needs_n_clusters: ClassVar[bool] = False

    def _labeled(
        self, rows_ND: np.ndarray, labels_N: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        # scikit-learn's HDBSCAN has other negative labels for rows that are infinite or missing; none come this far.
        labels_N = np.maximum(labels_N, NOISE).astype(np.int32)
        self._keep_centroids(rows_ND, labels_N)
        return labels_N, None, ()


@dataclass(eq=False, kw_only=True)
class HDBSCANClusterer(_DensityClusterer):
    """scikit-learn's HDBSCAN with Euclidean distance; new samples join the nearest cluster mean, none becomes noise.

    Args:
        n_clusters: ignored.
        seed: nothing is drawn.
        normalize, max_samples: as in `Clusterer`.
        min_cluster_size: smallest cluster, scikit-learn's default.
        min_samples: neighbors that make a sample dense, itself included; None takes `min_cluster_size`.
        max_cluster_size: largest cluster as a share of N; 0.2 is the setting of Lowe et al. 2023 (appendix C.2), None
            sets no limit.
        cluster_selection_method: `eom` (excess of mass) or `leaf`.
    """

    name: ClassVar[str] = "hdbscan"

    max_samples: int | None = max_samples_setting(MAX_SAMPLES)
    min_cluster_size: int = setting(5, "smallest cluster", whole=True)
    min_samples: int | None = setting(None, "neighbors that make a sample dense", at_least=1, whole=True)
    max_cluster_size: float | None = setting(0.2, "share of N", above=0, at_most=1, optional=True)
    cluster_selection_method: str = setting("eom", "excess of mass, or leaves", choices=("eom", "leaf"))

    def _check(self, n_samples: int) -> None:
        _check_samples(self.name, n_samples, max(self.min_cluster_size, self.min_samples or 0))

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        rows_ND = self._compared_rows(features_ND)
        largest = None if self.max_cluster_size is None else round(self.max_cluster_size * len(rows_ND))
        fitted = HDBSCAN(
            min_cluster_size=self.min_cluster_size,
            min_samples=self.min_samples,
            max_cluster_size=largest,
            cluster_selection_method=self.cluster_selection_method,
            algorithm="brute" if len(rows_ND) <= ALL_PAIRS_SAMPLES else "auto",
            copy=True,
        ).fit(rows_ND)
        return self._labeled(rows_ND, fitted.labels_)


@dataclass(eq=False, kw_only=True)
class OPTICSClusterer(_DensityClusterer):
    """scikit-learn's OPTICS with Euclidean distance; new samples join the nearest cluster mean, none becomes noise.

    It walks from sample to sample: on one core 2000 × 50 took 3 s, 10 000 × 50 took 20 s, 2500 × 784 took 9 s.

    Args:
        n_clusters: ignored.
        seed: nothing is drawn.
        normalize, max_samples: as in `Clusterer`.
        min_samples: neighbors that make a sample dense, itself included; scikit-learn's default. It matters most: on
            a UMAP of 898 digits 5 gives dozens of clusters, 50 gives ten.
        xi: least steepness of a cluster's border in the reachability plot; scikit-learn's default.
        min_cluster_size: smallest cluster; None takes `min_samples`.
    """

    name: ClassVar[str] = "optics"

    max_samples: int | None = max_samples_setting(OPTICS_SAMPLES)
    min_samples: int = setting(5, "neighbors that make a sample dense", whole=True)
    xi: float = setting(0.05, "least steepness of a cluster's border", above=0, below=1)
    min_cluster_size: int | None = setting(None, "smallest cluster", at_least=2, whole=True)

    def _check(self, n_samples: int) -> None:
        _check_samples(self.name, n_samples, max(self.min_samples, self.min_cluster_size or 0))

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        rows_ND = self._compared_rows(features_ND)
        fitted = OPTICS(min_samples=self.min_samples, xi=self.xi, min_cluster_size=self.min_cluster_size).fit(rows_ND)
        return self._labeled(rows_ND, fitted.labels_)


def _check_samples(name: str, n_samples: int, smallest: int) -> None:
    if not 2 <= smallest <= n_samples:
        raise InputError(
            f"{name} wants {smallest} samples in a cluster or neighborhood, and there are {n_samples}: choose 2 to "
            f"{n_samples}"
        )
