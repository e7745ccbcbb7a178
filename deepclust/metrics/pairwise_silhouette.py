"""The silhouette of distances that need all pairs, block by block: O(N² · D) time, O(block) memory.

Shape suffixes: N samples, D feature dimensions, C clusters, B samples in a block.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist

from deepclust.runtime.errors import InputError

PairwiseMetric = Literal["euclidean", "l1", "linf"]
PAIRWISE_METRICS = ("euclidean", "l1", "linf")
# scipy's names of the distances that no matrix product gives.
SCIPY_NAMES = {"l1": "cityblock", "linf": "chebyshev"}
# A block's B × N distances stay below 128 MB.
BLOCK_DISTANCES = 1 << 25


def pairwise_silhouette_samples(
    features_ND: np.ndarray, labels_N: np.ndarray, *, metric: PairwiseMetric = "euclidean"
) -> np.ndarray:
    """Silhouette of each sample from its distances to all others.

    Args:
        features_ND: float32 rows, in memory.
        labels_N: cluster ids, noise among them.
        metric: `euclidean` by matrix products; `l1` and `linf` by scipy, several times slower.

    Returns:
        (N,) float64, 0 for the only member of a cluster.

    Raises:
        InputError: if the metric is unknown, there is not one label per row, or there are fewer than 2 clusters.
    """
    if metric not in PAIRWISE_METRICS:
        raise InputError(f"silhouette metric '{metric}' is unknown here: choose one of {', '.join(PAIRWISE_METRICS)}")
    if labels_N.shape != (len(features_ND),):
        raise InputError(
            f"the clustering has shape {labels_N.shape}, but there are {len(features_ND)} rows of features: "
            "give one cluster id per row"
        )
    clusters_C, own_N = np.unique(labels_N, return_inverse=True)
    if len(clusters_C) < 2:
        raise InputError(f"{len(clusters_C)} cluster found: a silhouette compares at least 2")
    # Members of a cluster side by side: the sum over each is one pass along the row.
    order_N = np.argsort(own_N, kind="stable")
    own_N = own_N[order_N]
    # Distances do not change when all rows move together, but the rounding of their squares does.
    rows_ND = (features_ND - features_ND.mean(axis=0))[order_N]
    sizes_C = np.bincount(own_N)
    starts_C = np.cumsum(sizes_C) - sizes_C
    squares_N = np.einsum("nd,nd->n", rows_ND, rows_ND)
    values_N = np.empty(len(rows_ND))
    rows_at_once = max(1, BLOCK_DISTANCES // len(rows_ND))
    for start in range(0, len(rows_ND), rows_at_once):
        block = slice(start, min(start + rows_at_once, len(rows_ND)))
        distances_BN = _distances(rows_ND, squares_N, block, metric)
        here = np.arange(block.stop - block.start)
        distances_BN[here, block.start + here] = 0
        sums_BC = np.add.reduceat(distances_BN, starts_C, axis=1, dtype=np.float64)
        own_B = own_N[block]
        within_B = sums_BC[here, own_B] / np.maximum(sizes_C[own_B] - 1, 1)
        means_BC = sums_BC / sizes_C
        means_BC[here, own_B] = np.inf
        between_B = means_BC.min(axis=1)
        widest_B = np.maximum(within_B, between_B)
        values_B = np.divide(between_B - within_B, widest_B, out=np.zeros(len(here)), where=widest_B > 0)
        values_N[order_N[block]] = np.where(sizes_C[own_B] > 1, values_B, 0.0)
    return values_N


def _distances(rows_ND: np.ndarray, squares_N: np.ndarray, block: slice, metric: str) -> np.ndarray:
    if metric != "euclidean":
        return cdist(rows_ND[block], rows_ND, SCIPY_NAMES[metric])
    distances_BN = rows_ND[block] @ rows_ND.T
    distances_BN *= -2
    distances_BN += squares_N[block, None]
    distances_BN += squares_N
    np.maximum(distances_BN, 0, out=distances_BN)
    return np.sqrt(distances_BN, out=distances_BN)
