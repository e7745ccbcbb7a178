"""Objects that are indexed like an N × D matrix: shards of files, and some rows of another matrix.

Shape suffixes: S selected rows.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class ShardedRows:
    """Memory-mapped shards that read as one N × D array: slices and integer index arrays."""

    ndim = 2

    def __init__(self, shards: Sequence[np.ndarray]) -> None:
        self.shards = list(shards)
        self.offsets = np.cumsum([0] + [len(shard) for shard in self.shards])
        self.dtype = self.shards[0].dtype
        self.shape = (int(self.offsets[-1]), self.shards[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            parts = []
            shard = bisect.bisect_right(self.offsets, start) - 1
            while start < stop and shard < len(self.shards):
                low = start - self.offsets[shard]
                high = min(stop - self.offsets[shard], len(self.shards[shard]))
                parts.append(self.shards[shard][low:high])
                start = self.offsets[shard] + high
                shard += 1
            return np.concatenate(parts) if parts else np.empty((0, self.shape[1]), self.dtype)
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows = np.where(rows < 0, rows + len(self), rows)
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        owners = np.searchsorted(self.offsets, rows, side="right") - 1
        for shard in np.unique(owners):
            mine = np.flatnonzero(owners == shard)
            out[mine] = self.shards[shard][rows[mine] - self.offsets[shard]]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)


class RowSource(Protocol):
    """An object that is indexed like an N × D array, by slice and by integer index array."""

    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray: ...


Rows = np.ndarray | RowSource


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
