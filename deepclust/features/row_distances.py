"""Euclidean distances of rows to their neighbors, from cosines and lengths: no row is gathered again."""

from __future__ import annotations

import numpy as np

from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.ranks import ALONE, Ranks


class RowDistances:
    """Distances between rows of a split whose cosines are known.

    Args:
        features: the split, read once for the lengths of its rows.
        ranks: the processes that share the reading, each of which makes one.

    Example:
        >>> distances = RowDistances(FeatureSet.from_arrays(np.eye(2, dtype=np.float32)))
        >>> distances.squared(np.array([[1], [0]]), np.zeros((2, 1)))
        array([[2.],
               [2.]])
    """

    def __init__(self, features: FeatureSet, ranks: Ranks = ALONE) -> None:
        with ranks.all_or_none():
            blocks = features.blocks(share=ranks.share(len(features)))
            own_S = np.concatenate([np.empty(0, np.float32), *(np.linalg.norm(block, axis=1) for _, block in blocks)])
        self.lengths_N = ranks.gather(own_S)

    def squared(self, ids_NK: np.ndarray, cosines_NK: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """(R, K) squared distances of some rows to their neighbors.

        Args:
            ids_NK, cosines_NK: of the neighbors of all rows.
            rows: which, R of them.
        """
        own_R1, other_RK = self.lengths_N[rows, None], self.lengths_N[ids_NK[rows]]
        return np.maximum(own_R1**2 + other_RK**2 - 2 * cosines_NK[rows] * own_R1 * other_RK, 0)
