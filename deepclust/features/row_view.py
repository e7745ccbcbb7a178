"""Some rows of a feature matrix that read as a matrix of their own: nothing is copied before it is asked for.

Shape suffixes: S selected rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from deepclust.features.feature_set import Rows


class RowView:
    """Rows of a matrix in memory or in a file, by slice and by integer index array.

    Args:
        base: the matrix.
        ids_S: the row of the base behind each row of the view, strictly ascending: a file is then read front to back.
    """

    ndim = 2

    def __init__(self, base: Rows, ids_S: np.ndarray) -> None:
        if len(ids_S) > 1 and not (np.diff(ids_S) > 0).all():
            raise ValueError("the rows of a view must be strictly ascending")
        self.base = base
        self.ids_S = ids_S
        self.dtype = base.dtype
        self.shape = (len(ids_S), base.shape[1])

    def __len__(self) -> int:
        return len(self.ids_S)

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        wanted = self.ids_S[rows]
        ascending = isinstance(rows, slice) and rows.step in (None, 1)
        if ascending and len(wanted) and wanted[-1] - wanted[0] + 1 == len(wanted):
            return np.asarray(self.base[int(wanted[0]) : int(wanted[-1]) + 1])
        return np.asarray(self.base[wanted])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)
