"""Samples as directions: unit float32 rows, in blocks, whatever they are stored as.

Shape suffixes: N samples, S rows of this rank's share, D feature dimensions, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from deepclust.features.arrays import BadRows
from deepclust.features.rows import Rows
from deepclust.runtime.errors import InputError

BLOCK_ROWS = 16384
# Unit rows are kept in memory up to this size; above it each pass reads and normalizes them again.
RESIDENT_BYTES = 4 << 30


class UnitRows:
    """A share of the samples as unit rows: kept in memory where they fit, otherwise normalized block by block.

    Args:
        features_ND: any real dtype, in memory or memory-mapped.
        share: which rows this process reads; None reads all.
        half: keep a bfloat16 copy beside the float32 rows, for products.

    Raises:
        InputError: if the features are no matrix with D ≥ 2, or the share holds NaN, infinite or zero rows.
    """

    def __init__(self, features_ND: Rows, share: slice | None = None, *, half: bool = False) -> None:
        check_matrix(features_ND)
        self.n_total, self.dim = features_ND.shape
        self._features_ND = features_ND
        self._share = share or slice(0, self.n_total)
        self._unit_SD: np.ndarray | None = None
        self._half_SD: torch.Tensor | None = None
        if len(self) * self.dim * (6 if half else 4) <= RESIDENT_BYTES:
            self._unit_SD = np.empty((len(self), self.dim), np.float32)
            if half:
                self._half_SD = torch.empty(len(self), self.dim, dtype=torch.bfloat16)
        for start, block_BD in self._read():  # one pass in any case: it refuses bad rows
            if self._unit_SD is not None:
                self._unit_SD[start : start + len(block_BD)] = block_BD
            if self._half_SD is not None:
                self._half_SD[start : start + len(block_BD)] = torch.from_numpy(block_BD)

    def __len__(self) -> int:
        """S, the rows of the share."""
        return self._share.stop - self._share.start

    @property
    def first(self) -> int:
        """The number of the share's first row among all samples."""
        return self._share.start

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row within the share, unit block), in order."""
        if self._unit_SD is None:
            yield from self._read()
            return
        for start in range(0, len(self), BLOCK_ROWS):
            yield start, self._unit_SD[start : start + BLOCK_ROWS]

    def as_half(self, start: int, block_BD: np.ndarray) -> torch.Tensor:
        """The block that starts there in bfloat16."""
        if self._half_SD is not None:
            return self._half_SD[start : start + len(block_BD)]
        return torch.from_numpy(block_BD).bfloat16()

    def take(self, ids: np.ndarray) -> np.ndarray:
        """A copy of the given rows, by their number among all samples, of any share."""
        local = ids - self.first
        if self._unit_SD is not None and ((local >= 0) & (local < len(self))).all():
            return self._unit_SD[local]
        rows = np.asarray(self._features_ND[ids], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def _read(self) -> Iterator[tuple[int, np.ndarray]]:
        for start, block_BD in unit_blocks(self._features_ND, self._share):
            yield start - self.first, block_BD


def check_matrix(features_ND: Rows) -> None:
    """Raises InputError unless the features are a matrix of at least two dimensions per row."""
    if features_ND.ndim != 2:
        raise InputError(f"features have shape {features_ND.shape}: k-means needs a matrix, one row per sample")
    if features_ND.shape[1] < 2:
        raise InputError(
            f"features have n_features={features_ND.shape[1]}: a direction needs at least 2, give more features"
        )


def unit_blocks(features_ND: Rows, share: slice | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, unit float32 block).

    Raises:
        InputError: at the first block with NaN, infinite or zero rows.
    """
    stop = features_ND.shape[0] if share is None else share.stop
    for start in range(0 if share is None else share.start, stop, BLOCK_ROWS):
        block_BD = np.asarray(features_ND[start : min(start + BLOCK_ROWS, stop)], dtype=np.float32)
        with np.errstate(all="ignore"):
            norms_B = np.linalg.norm(block_BD, axis=1)
        bad = BadRows()
        bad.look(block_BD, start, norms_B)
        bad.refuse("features")
        yield start, block_BD / norms_B[:, None]
