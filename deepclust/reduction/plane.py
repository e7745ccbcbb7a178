"""The principal plane of many rows: where a map has its samples without a layout.

The same standardization and directions as `reduction=pca` has, which takes products in float64. A map needs less: here
blocks are multiplied in float32, which takes half the time, and summed in float64.

Shape suffixes: N samples, D feature dimensions, B samples in a block.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh

from deepclust.features.rows import Rows

BLOCK_ROWS = 4096


def principal_plane(features_ND: Rows) -> np.ndarray:
    """(N, 2) float32 places along the two directions of most variance, dimensions scaled to unit variance first.

    Args:
        features_ND: N × D with D of 2 or more, read twice, block by block.
    """
    n_samples, dim = features_ND.shape
    near_D = _block(features_ND, 0).mean(axis=0)  # about it squares and sums lose nothing
    sums_D, products_DD = np.zeros(dim), np.zeros((dim, dim))
    for start in range(0, n_samples, BLOCK_ROWS):
        block_BD = _block(features_ND, start) - near_D
        sums_D += block_BD.sum(axis=0, dtype=np.float64)
        products_DD += block_BD.T @ block_BD
    mean_D = sums_D / n_samples
    covariance_DD = products_DD / n_samples - np.outer(mean_D, mean_D)
    deviations_D = np.sqrt(np.maximum(np.diag(covariance_DD), 0))
    # What float32 leaves of a constant dimension is rounding.
    scales_D = np.where(deviations_D > 1e-6 * np.abs(near_D), deviations_D, np.inf)
    _, vectors_D2 = eigh(covariance_DD / np.outer(scales_D, scales_D), subset_by_index=[dim - 2, dim - 1])
    vectors_D2 = vectors_D2[:, ::-1]
    # eigh leaves each direction's sign open: the largest entry becomes positive, as of `reduction=pca`.
    vectors_D2 = vectors_D2 * np.sign(vectors_D2[np.abs(vectors_D2).argmax(axis=0), np.arange(2)])
    directions_D2 = (vectors_D2 / scales_D[:, None]).astype(np.float32)
    places = [(_block(features_ND, start) - near_D) @ directions_D2 for start in range(0, n_samples, BLOCK_ROWS)]
    return np.concatenate(places) - (mean_D.astype(np.float32) @ directions_D2)


def _block(features_ND: Rows, start: int) -> np.ndarray:
    return np.asarray(features_ND[start : start + BLOCK_ROWS], dtype=np.float32)
