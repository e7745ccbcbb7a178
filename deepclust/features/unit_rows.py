"""Samples as directions: unit float32 rows, in blocks, whatever they are stored as.

Shape suffixes: N samples, S rows of this rank's share, D feature dimensions, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from deepclust.features.arrays import LONGEST, SHORTEST, BadRows
from deepclust.features.rows import Rows
from deepclust.runtime.devices import free_bytes
from deepclust.runtime.errors import InputError

BLOCK_ROWS = 16384
# Unit rows are kept in memory up to this size; above it each pass reads and normalizes them again.
RESIDENT_BYTES = 4 << 30


class UnitRows:
    """A share of the samples as unit rows: kept in memory where they fit, otherwise normalized block by block.

    On an accelerator the rows are kept as they are stored, such as in half precision, with their lengths.

    Args:
        features_ND: any real dtype, in memory or memory-mapped, or on the device already (see `on_device`).
        share: which rows this process reads; None reads all.
        half: keep a bfloat16 copy beside the float32 rows, for products on a CPU.
        device: where `tensors` are.

    Raises:
        InputError: if the features are no matrix with D ≥ 2, or the share holds NaN, infinite or zero rows.
    """

    def __init__(
        self,
        features_ND: Rows,
        share: slice | None = None,
        *,
        half: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        check_matrix(features_ND)
        self.n_total, self.dim = features_ND.shape
        self.device = torch.device(device)
        self._features_ND = features_ND
        self._share = share or slice(0, self.n_total)
        self._unit_SD: np.ndarray | None = None
        self._half_SD: torch.Tensor | None = None
        self._stored_SD = on_device(features_ND, self._share, self.device)
        self._lengths_S1: torch.Tensor | None = None
        on_cpu = self.device.type == "cpu"
        if on_cpu and len(self) * self.dim * (6 if half else 4) <= RESIDENT_BYTES:
            self._unit_SD = np.empty((len(self), self.dim), np.float32)
            if half:
                self._half_SD = torch.empty(len(self), self.dim, dtype=torch.bfloat16)
        if not on_cpu:
            self._keep_stored()
            return
        for start, block_BD in self._read():  # one pass in any case: it refuses bad rows
            if self._unit_SD is not None:
                self._unit_SD[start : start + len(block_BD)] = block_BD
            if self._half_SD is not None:
                self._half_SD[start : start + len(block_BD)] = torch.from_numpy(block_BD)

    def _keep_stored(self) -> None:
        """Keep the share on the device, if half of its free memory suffices; look at all rows in any case."""
        dtype = torch.float16 if self._features_ND.dtype == np.float16 else torch.float32
        fits = len(self) * self.dim * dtype.itemsize <= free_bytes(self.device) // 2
        stored_SD = self._stored_SD
        if stored_SD is None and fits:
            stored_SD = torch.empty(len(self), self.dim, dtype=dtype, device=self.device)
            for low in range(0, len(self), BLOCK_ROWS):
                block = slice(self.first + low, min(self.first + low + BLOCK_ROWS, self._share.stop))
                stored_SD[low : low + BLOCK_ROWS] = as_tensor(self._features_ND, block).to(self.device)
        if stored_SD is None:
            for _ in self._read():
                pass
            return
        lengths_S1 = torch.empty(len(self), 1, device=self.device)
        for start in range(0, len(self), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            torch.linalg.vector_norm(stored_SD[block].float(), dim=1, keepdim=True, out=lengths_S1[block])
        refuse_bad_lengths(stored_SD, lengths_S1[:, 0], self.first)
        self._stored_SD, self._lengths_S1 = stored_SD, lengths_S1

    def __len__(self) -> int:
        """S, the rows of the share."""
        return self._share.stop - self._share.start

    @property
    def first(self) -> int:
        """The number of the share's first row among all samples."""
        return self._share.start

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row within the share, unit block), in order, on the host."""
        if self._unit_SD is None:
            yield from self._read()
            return
        for start in range(0, len(self), BLOCK_ROWS):
            yield start, self._unit_SD[start : start + BLOCK_ROWS]

    def tensors(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row within the share, unit float32 block), in order, on the device."""
        if self._stored_SD is None or self._lengths_S1 is None:
            for start, block_BD in self.blocks():
                yield start, torch.from_numpy(block_BD).to(self.device)
            return
        for start in range(0, len(self), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            yield start, self._stored_SD[block].float() / self._lengths_S1[block]

    def as_half(self, start: int, block_BD: torch.Tensor) -> torch.Tensor:
        """The block that starts there in bfloat16."""
        if self._half_SD is not None:
            return self._half_SD[start : start + len(block_BD)]
        return block_BD.bfloat16()

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


def on_device(features_ND: Rows, share: slice, device: torch.device) -> torch.Tensor | None:
    """The rows of a share as they lie on an accelerator; None where they do not.

    Rows say so by a method `held_on` of theirs, as those of a bank do.
    """
    held_on = getattr(features_ND, "held_on", None)
    held_ND = None if held_on is None or device.type == "cpu" else held_on(device)
    return None if held_ND is None else held_ND[share]


def refuse_bad_lengths(rows_SD: torch.Tensor, lengths_S: torch.Tensor, first: int) -> None:
    """Refuse rows on a device whose lengths say that they are NaN, infinite, zero or out of reach.

    Raises:
        InputError: naming the first of them.
    """
    suspects_R = (~((lengths_S > SHORTEST) & (lengths_S < LONGEST))).nonzero()[:, 0]
    if len(suspects_R):
        bad = BadRows()
        bad.look(rows_SD[suspects_R].float().cpu().numpy(), suspects_R.cpu().numpy() + first)
        bad.refuse("features")


def as_tensor(features_ND: Rows, where: slice) -> torch.Tensor:
    """A copy of some rows on the host, in float16 if they are stored so: half as much goes to a GPU."""
    stored = np.float16 if features_ND.dtype == np.float16 else np.float32
    return torch.from_numpy(np.array(features_ND[where], dtype=stored))


def check_matrix(features_ND: Rows) -> None:
    """Raises InputError unless the features are a matrix of at least two dimensions per row."""
    if features_ND.ndim != 2:
        raise InputError(f"features have shape {features_ND.shape}: k-means needs a matrix, one row per sample")
    if features_ND.shape[1] < 2:
        raise InputError(
            f"features have n_features={features_ND.shape[1]}: a direction needs at least 2, give more features"
        )


def unit_tensors(features_ND: Rows, share: slice, device: torch.device | str) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (first row, unit float32 block on the device); raises as `unit_blocks`."""
    device = torch.device(device)
    held_SD = on_device(features_ND, share, device)
    if held_SD is None:
        for start, block_BD in unit_blocks(features_ND, share):
            yield start, torch.from_numpy(block_BD).to(device)
        return
    for start in range(0, len(held_SD), BLOCK_ROWS):
        rows_BD = held_SD[start : start + BLOCK_ROWS].float()
        lengths_B = torch.linalg.vector_norm(rows_BD, dim=1)
        refuse_bad_lengths(rows_BD, lengths_B, share.start + start)
        yield share.start + start, rows_BD / lengths_B[:, None]


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
