"""Which rows are equal.

Shape suffixes: N samples, G distinct rows, B rows of a block.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from deepclust.features.rows import Rows

BLOCK_ROWS = 16384


def distinct_rows(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(G,) the first of all rows that are equal, ascending, and (N,) which of these each row is equal to.

    Args:
        rows: N × D; they are read once, block by block, and only a digest of 16 bytes is kept of each.

    Example:
        >>> first_G, place_N = distinct_rows(np.array([[1.0, 2.0], [0.0, 3.0], [1.0, 2.0]]))
        >>> first_G.tolist(), place_N.tolist()
        ([0, 1], [0, 1, 0])
    """
    places: dict[bytes, int] = {}
    first: list[int] = []
    place_N = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), BLOCK_ROWS):
        # -0.0 equals 0.0 but has other bytes; adding 0 makes them the same.
        block_BD = np.ascontiguousarray(rows[start : start + BLOCK_ROWS] + np.zeros(1, rows.dtype))
        for row, row_D in enumerate(block_BD, start):
            place = places.setdefault(blake2b(row_D.data, digest_size=16).digest(), len(first))
            if place == len(first):
                first.append(row)
            place_N[row] = place
    return np.array(first, np.int64), place_N
