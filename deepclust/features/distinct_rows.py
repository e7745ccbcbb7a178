"""Which rows are equal.

Shape suffixes: N samples, G distinct rows, B rows of a block, W words of a row.
"""

from __future__ import annotations

import numpy as np

from deepclust.features.rows import Rows

BLOCK_ROWS = 4096


def distinct_rows(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(G,) the first of all rows that are equal, ascending, and (N,) which of these each row is equal to.

    Args:
        rows: N × D; they are read once, block by block, and only a digest of 16 bytes is kept of each.

    Example:
        >>> first_G, place_N = distinct_rows(np.array([[1.0, 2.0], [0.0, 3.0], [1.0, 2.0]]))
        >>> first_G.tolist(), place_N.tolist()
        ([0, 1], [0, 1, 0])
    """
    digests_N2 = np.empty((len(rows), 2), np.uint64)
    for start in range(0, len(rows), BLOCK_ROWS):
        digests_N2[start : start + BLOCK_ROWS] = _digests(np.array(rows[start : start + BLOCK_ROWS], order="C"))
    order_N = np.lexsort(digests_N2.T)  # stable: of equal rows the first one comes first
    sorted_N2 = digests_N2[order_N]
    new_N = np.ones(len(order_N), bool)
    new_N[1:] = (sorted_N2[1:] != sorted_N2[:-1]).any(axis=1)
    first_G = order_N[new_N]
    rank_G = np.empty(len(first_G), np.int64)
    rank_G[np.argsort(first_G)] = np.arange(len(first_G))
    place_N = np.empty(len(order_N), np.int64)
    place_N[order_N] = rank_G[np.cumsum(new_N) - 1]
    return np.sort(first_G), place_N


def _digests(block_BD: np.ndarray) -> np.ndarray:
    """(B, 2) sums of the words of each row, each times a random number of 64 bits, twice.

    Two rows that differ have the same with a chance of at most 2⁻⁶⁶ (multilinear hashing: words have 32 bits, so that
    a word that differs turns the sum into any of 2³³ values at least, and there are two sums).
    """
    if block_BD.dtype.kind == "f":
        bits_BD = block_BD.view(f"u{block_BD.itemsize}")
        # -0.0 equals 0.0 but has other bits.
        bits_BD[bits_BD == np.array(1 << (8 * block_BD.itemsize - 1), bits_BD.dtype)] = 0
    row_bytes = block_BD.shape[1] * block_BD.itemsize
    words_BW = block_BD.view("u4" if row_bytes % 4 == 0 else f"u{block_BD.itemsize}").astype(np.uint64)
    factors_W2 = np.random.default_rng(0).integers(0, 2**64, (words_BW.shape[1], 2), dtype=np.uint64)
    return words_BW @ factors_W2
