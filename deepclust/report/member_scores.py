"""How well each sample fits its cluster: what a report shows as typical, borderline and doubtful.

Shape suffixes: N samples, B a block of them, S some of them, D feature dimensions, P some directions among these,
C clusters that have members.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from deepclust.clustering import NOISE
from deepclust.features.feature_set import FeatureSet

# Of the similarities held at a time.
BLOCK_VALUES = 1 << 24
# Numbers that a page holds of each sample, and the rows that decide which. In trials two-means of these told two
# classes in one cluster apart nearly as well as k-means on all features.
FEW_DIMS, FEW_DIMS_ROWS = 32, 10_000


@dataclass(frozen=True)
class MemberScores:
    """Cosines between samples and the centers of clusters.

    Attributes:
        ids_C: ids of the clusters with members, ascending; noise is none.
        typical_N: cosine of each sample with the center of its cluster; of noise with the nearest center.
        margin_N: by how much that exceeds the cosine with the nearest other center; 0 for noise.
        second_N: id of the nearest other cluster; the sample's own where there is no other.
        nearest_C: id of the cluster whose center is nearest to that of each cluster; its own where there is no other.
    """

    ids_C: np.ndarray
    typical_N: np.ndarray
    margin_N: np.ndarray
    second_N: np.ndarray
    nearest_C: np.ndarray


def member_scores(features: FeatureSet, labels_N: np.ndarray) -> MemberScores:
    """Compare every sample with the center of every cluster, by direction from the mean of all samples.

    Args:
        features: N × D.
        labels_N: cluster ids, -1 for noise.

    Example:
        >>> rows = FeatureSet.from_arrays(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]))
        >>> member_scores(rows, np.array([0, 0, 1])).second_N.tolist()
        [1, 1, 0]
    """
    ids_C = np.unique(labels_N[labels_N != NOISE])
    n_samples = len(labels_N)
    if len(ids_C) == 0:
        nothing_N = np.zeros(n_samples, np.float32)
        return MemberScores(ids_C, nothing_N, nothing_N.copy(), np.full(n_samples, NOISE), ids_C)
    mean_D, centers_CD = _centers(features, labels_N, ids_C)
    place_N = np.searchsorted(ids_C, labels_N).clip(max=len(ids_C) - 1)
    typical_N, margin_N = np.zeros((2, n_samples), np.float32)
    second_N = np.asarray(labels_N).copy()
    for start, unit_BD in _unit_blocks(features, mean_D, rows=max(64, BLOCK_VALUES // max(features.dim, len(ids_C)))):
        cosines_BC = unit_BD @ centers_CD.T
        rows_B, block = np.arange(len(unit_BD)), slice(start, start + len(unit_BD))
        noise_B = labels_N[block] == NOISE
        own_B = np.where(noise_B, cosines_BC.argmax(axis=1), place_N[block])
        typical_N[block] = cosines_BC[rows_B, own_B]
        if len(ids_C) > 1:
            cosines_BC[rows_B, own_B] = -np.inf
            other_B = cosines_BC.argmax(axis=1)
            margin_N[block] = typical_N[block] - cosines_BC[rows_B, other_B]
            second_N[block] = ids_C[other_B]
        margin_N[block][noise_B] = 0
        second_N[block][noise_B] = ids_C[own_B[noise_B]]
    return MemberScores(ids_C, typical_N, margin_N, second_N, ids_C[_nearest_others(centers_CD)])


def most_typical(features: FeatureSet, labels_N: np.ndarray, cluster: int) -> np.ndarray:
    """Rows of the members of one cluster, the most typical first, as `member_scores` has them.

    Args:
        features: N × D.
        labels_N: cluster ids, -1 for noise.
        cluster: an id; of noise those come first that are nearest to any center.

    Example:
        >>> rows = FeatureSet.from_arrays(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.0]]))
        >>> most_typical(rows, np.array([0, 0, 1, 0]), 0).tolist()
        [0, 1, 3]
    """
    members = np.flatnonzero(labels_N == cluster)
    if cluster == NOISE:
        typical = member_scores(features, labels_N).typical_N[members]
    else:  # its own rows are enough
        unit_SD = _unit(np.asarray(features.features[members], np.float32) - _mean(features).astype(np.float32))
        typical = unit_SD @ _unit(unit_SD.sum(axis=0, dtype=np.float64)[None])[0].astype(np.float32)
    return members[np.argsort(-typical, kind="stable")]


def nearest_clusters(features: FeatureSet, labels_N: np.ndarray, others: FeatureSet) -> np.ndarray:
    """The cluster with the center that is nearest to each of other rows, by direction from the mean of all clustered.

    Args:
        features: N × D, which were clustered.
        labels_N: their cluster ids, -1 for noise.
        others: rows of the same D.

    Returns:
        A cluster id for each of the other rows; -1 for all where there is no cluster.

    Example:
        >>> rows = FeatureSet.from_arrays(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]))
        >>> nearest_clusters(rows, np.array([4, 4, 7]), rows).tolist()
        [4, 4, 7]
    """
    ids_C = np.unique(labels_N[labels_N != NOISE])
    out = np.full(len(others), NOISE, np.int32)
    if len(ids_C) == 0:
        return out
    mean_D, centers_CD = _centers(features, labels_N, ids_C)
    for start, unit_BD in _unit_blocks(others, mean_D, rows=max(64, BLOCK_VALUES // max(others.dim, len(ids_C)))):
        out[start : start + len(unit_BD)] = ids_C[(unit_BD @ centers_CD.T).argmax(axis=1)]
    return out


def few_numbers(features: FeatureSet) -> tuple[np.ndarray, float]:
    """(N, P) int8: directions from the mean of all samples, along the at most 32 in which they vary most; and how long
    in these numbers a direction is of which nothing was left out.

    Args:
        features: N × D.

    Example:
        >>> few_numbers(FeatureSet.from_arrays(np.eye(3, dtype=np.float32)))[0].shape
        (3, 3)
    """
    mean_D = _mean(features)
    drawn = np.random.default_rng(0).permutation(len(features))[:FEW_DIMS_ROWS]
    unit_SD = _unit(np.asarray(features.features[np.sort(drawn)], np.float32) - mean_D.astype(np.float32))
    dims = min(FEW_DIMS, *unit_SD.shape)
    axes_PD = randomized_svd(unit_SD, dims, random_state=0)[2]
    few_NP = np.concatenate([unit_BD @ axes_PD.T for _, unit_BD in _unit_blocks(features, mean_D)])
    length = 127 / max(float(np.abs(few_NP).max()), 1e-12)
    return np.rint(length * few_NP).astype(np.int8), length


def _centers(features: FeatureSet, labels_N: np.ndarray, ids_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D,) mean of all rows, and the (C, D) float32 direction of each cluster's members from it."""
    mean_D = _mean(features)
    place_N = np.searchsorted(ids_C, labels_N).clip(max=len(ids_C) - 1)
    sums_CD = np.zeros((len(ids_C), features.dim))
    for start, unit_BD in _unit_blocks(features, mean_D):
        block = slice(start, start + len(unit_BD))
        counted_B = (labels_N[block] != NOISE).astype(np.float32)
        where = (place_N[block], np.arange(len(unit_BD)))
        sums_CD += sparse.csr_array((counted_B, where), shape=(len(ids_C), len(unit_BD))) @ unit_BD
    return mean_D, _unit(sums_CD).astype(np.float32)


def _mean(features: FeatureSet) -> np.ndarray:
    return sum(block.sum(axis=0, dtype=np.float64) for _, block in features.blocks()) / len(features)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _unit_blocks(features: FeatureSet, mean_D: np.ndarray, rows: int = 16384) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, directions from the mean), block by block."""
    for start, block_BD in features.blocks(rows):
        yield start, _unit(block_BD - mean_D.astype(np.float32))


def _nearest_others(centers_CD: np.ndarray) -> np.ndarray:
    """(C,) place of the nearest other center; its own place where there is no other."""
    nearest_C = np.arange(len(centers_CD))
    if len(centers_CD) == 1:
        return nearest_C
    rows = max(1, BLOCK_VALUES // len(centers_CD))
    for start in range(0, len(centers_CD), rows):
        cosines_BC = centers_CD[start : start + rows] @ centers_CD.T
        within = np.arange(len(cosines_BC))
        cosines_BC[within, start + within] = -np.inf
        nearest_C[start : start + rows] = cosines_BC.argmax(axis=1)
    return nearest_C
