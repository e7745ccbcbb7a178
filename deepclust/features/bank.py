"""The feature bank: the heads' inputs, gathered by row number, whether they fit in memory or not.

Features that fit are transformed once and held where the heads are. Others stay in their memory-mapped file: a reader
thread stages the rows of the coming batches, read in ascending order and transformed, while the current ones train.

Shape suffixes: N samples, B gathered rows, S staged rows, D feature dimensions, P dimensions that the heads see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.runtime.devices import free_bytes
from deepclust.runtime.memory import USABLE

BLOCK_ROWS = 8192
# A stage holds the rows of as many batches as have at least so many row numbers in all, duplicates included.
STAGE_ROWS = 32768
# Reads that wait for the disk at the same time: random rows are bound by its latency, not by its bandwidth.
READERS = 8
# Rows that a reader reads at a time; this also bounds the float32 copy that the transform works on.
READ_ROWS = 2048

Batch = TypeVar("Batch")


class EpochBatches(Protocol[Batch]):
    """Batches of row numbers, drawn anew every epoch."""

    def __len__(self) -> int: ...

    def of_epoch(self, *, windowed: bool) -> Iterator[Batch]:
        """Those of the coming epoch; `windowed` in an order that suits rows which stay in their file."""

    def rows_of(self, batch: Batch) -> Tensor:
        """The row numbers that a batch gathers."""


def fits_in_memory(
    n_rows: int,
    dim: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    sharers: int = 1,
    beside: int = 0,
) -> bool:
    """Whether N × P inputs, and what is computed with them, fit into nine tenths of the device's free memory.

    Args:
        n_rows: N.
        dim: P.
        dtype: of the held rows.
        device: where they would be held.
        sharers: processes that would each hold a copy on this device.
        beside: bytes that each of them needs beside the inputs.
    """
    return (n_rows * dim * dtype.itemsize + beside) * sharers <= USABLE * free_bytes(device)


def stored_dtype(precision: str | int) -> torch.dtype:
    """What a bank stores for a training of this precision."""
    return torch.bfloat16 if "bf16" in str(precision) else torch.float32


class Stage(NamedTuple):
    """Transformed rows of some batches."""

    ids_S: Tensor  # ascending, each once, on the CPU
    device_ids_S: Tensor  # the same where the rows are
    rows_SP: Tensor
    copied: torch.cuda.Event | None = None  # when a GPU has the rows; None where they are there already

    def places(self, ids_B: Tensor) -> Tensor:
        """The place of each row in the stage, on the device of the ids; where an absent row would be."""
        ids_S = self.ids_S if ids_B.device.type == "cpu" else self.device_ids_S
        return torch.searchsorted(ids_S, ids_B).clamp_max(len(ids_S) - 1)

    def ready(self) -> Stage:
        """This stage, once what is computed next on the GPU will find its rows there; the host does not wait."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.rows_SP.device)
            stream.wait_event(self.copied)
            for tensor in (self.device_ids_S, self.rows_SP):
                tensor.record_stream(
                    stream
                )  # its memory is the side stream's: not to be used anew while this one reads
        return self


class FeatureBank:
    """Transformed features, held where the heads are, or staged from the file.

    Args:
        features: the split.
        transform: fitted; applied once to every row that is held, once per stage to those that are not.
        device: where the heads live.
        dtype: of the rows; bfloat16 halves the traffic of a bf16 run and changes nothing there, as the first layer
            rounds its input to bfloat16 anyway.
        in_memory: hold all rows, or none; None holds them if they fit, see `fits_in_memory`.
    """

    def __init__(
        self,
        features: FeatureSet,
        transform: FeatureTransform,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        in_memory: bool | None = None,
    ) -> None:
        self.features = features
        self.transform = transform
        self.device = torch.device(device)
        self.dtype = dtype
        self._stage: Stage | None = None
        self._side: torch.cuda.Stream | None = None
        self._rows_NP: Tensor | None = None
        if in_memory is None:
            in_memory = fits_in_memory(len(features), transform.out_dim, dtype, self.device)
        if in_memory:
            rows_NP = torch.empty(self.shape, dtype=dtype, device=self.device)
            for start, block_BP in self.blocks():
                rows_NP[start : start + len(block_BP)] = block_BP
            self._rows_NP = rows_NP

    def __len__(self) -> int:
        return len(self.features)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.features), self.transform.out_dim

    @property
    def in_memory(self) -> bool:
        """Whether all rows are held, else none."""
        return self._rows_NP is not None

    @property
    def held_rows(self) -> Tensor | None:
        """(N, P), or None where they stay in their file."""
        return self._rows_NP

    def release(self) -> None:
        """Give the memory of all held rows back; from now on they are read from the file."""
        self._rows_NP = self._stage = None

    def gather(self, ids_B: Tensor) -> Tensor:
        """(B,) row numbers -> (B, P) on the bank's device.

        Row numbers on an accelerator are taken for those of the batch that `prefetched` gave last, if there is one: to
        compare them with the staged ones, the host would have to wait for the device.
        """
        if self._rows_NP is not None:
            return self._rows_NP.index_select(0, ids_B.to(self.device))
        stage = self._stage
        if stage is None or (ids_B.device.type == "cpu" and not torch.equal(stage.ids_S[stage.places(ids_B)], ids_B)):
            stage = self._read(ids_B).ready()
        return stage.rows_SP.index_select(0, stage.places(ids_B).to(self.device))

    def staging(self, batches: EpochBatches[Batch]) -> StagedBatches[Batch]:
        """The same batches every epoch, in an order that suits this bank, their rows staged in advance."""
        return StagedBatches(self, batches)

    def prefetched(self, batches: Iterable[Batch], ids_of: Callable[[Batch], Tensor]) -> Iterator[Batch]:
        """The same batches, with the rows of each staged in advance; where all rows are held nothing is staged.

        Args:
            batches: in the order of training.
            ids_of: the row numbers that a batch will gather.
        """
        if self._rows_NP is not None:
            yield from batches
            return
        groups = _grouped(batches, ids_of)

        def staged() -> tuple[list[Batch], Stage] | None:
            group = next(groups, None)
            return None if group is None else (group, self._read(torch.cat([ids_of(batch) for batch in group]), pool))

        with ThreadPoolExecutor(READERS) as pool, ThreadPoolExecutor(1) as stager:
            coming = stager.submit(staged)
            while (found := coming.result()) is not None:
                group, self._stage = found[0], found[1].ready()
                coming = stager.submit(staged)
                yield from group
        self._stage = None

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, Tensor]]:
        """Every row in order, as (first row, (B, P) block)."""
        for start in range(0, len(self), rows):
            if self._rows_NP is not None:
                yield start, self._rows_NP[start : start + rows]
            else:
                yield start, self._transformed(np.asarray(self.features.features[start : start + rows]))

    def _read(self, ids: Tensor, pool: ThreadPoolExecutor | None = None) -> Stage:
        """Read and transform rows, each once, in ascending order: every page of the file is touched at most once."""
        ids_S = torch.unique(ids.cpu())

        def read(part_R: Tensor) -> np.ndarray:
            return np.asarray(self.features.features[part_R.numpy()])

        parts = ids_S.split(READ_ROWS)
        with self._beside_training():
            device_ids_S = self._on_device(ids_S)
            rows_SP = torch.empty(len(ids_S), self.transform.out_dim, dtype=self.dtype, device=self.device)
            # The readers only wait for the disk. The computation happens here, so that they do not compete for the
            # cores.
            for index, rows in enumerate((pool.map if pool is not None else map)(read, parts)):
                low = index * READ_ROWS
                rows_SP[low : low + len(rows)] = self._transformed(rows)
            copied = None if self._side is None else self._side.record_event()
        return Stage(ids_S, device_ids_S, rows_SP, copied)

    def _beside_training(self) -> AbstractContextManager[Any]:
        """On a GPU, a stream of its own for what is copied and computed inside: training does not wait for it."""
        if self.device.type != "cuda":
            return nullcontext()
        if self._side is None:
            self._side = torch.cuda.Stream(self.device)
        return torch.cuda.stream(self._side)

    def _on_device(self, values: Tensor) -> Tensor:
        """A copy where the bank is; through pinned memory, so that the host need not wait until it is there."""
        if self.device.type == "cuda":
            values = values.pin_memory()
        return values.to(self.device, non_blocking=True)

    @torch.no_grad()
    def _transformed(self, rows: np.ndarray) -> Tensor:
        if not rows.flags.writeable:  # a view of a memory map: torch wants rows of its own
            rows = rows.copy()
        return self.transform(self._on_device(torch.from_numpy(rows)).float()).to(self.dtype)


class BankRows:
    """A bank as N × P float32 rows of NumPy, for code that knows arrays: slices and integer index arrays.

    Code that computes on a device asks for the rows that lie there, `held_on`.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, bank: FeatureBank) -> None:
        self._bank = bank
        self.shape = bank.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        ids = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        return self._bank.gather(torch.from_numpy(ids)).float().cpu().numpy()

    def held_on(self, device: torch.device) -> Tensor | None:
        """(N, P) the bank's rows, if it holds them on this kind of device."""
        rows_NP = self._bank.held_rows
        return rows_NP if rows_NP is not None and rows_NP.device.type == device.type else None


def _grouped(batches: Iterable[Batch], ids_of: Callable[[Batch], Tensor]) -> Iterator[list[Batch]]:
    """Consecutive batches with `STAGE_ROWS` row numbers or more in all."""
    group: list[Batch] = []
    n_rows = 0
    for batch in batches:
        group.append(batch)
        n_rows += len(ids_of(batch))
        if n_rows >= STAGE_ROWS:
            yield group
            group, n_rows = [], 0
    if group:
        yield group


class StagedBatches(IterableDataset[Batch]):
    """What `FeatureBank.staging` returns: a data set for PyTorch's loader, one pass of which is an epoch."""

    def __init__(self, bank: FeatureBank, batches: EpochBatches[Batch]) -> None:
        self.bank, self.batches = bank, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        batches = self.batches.of_epoch(windowed=not self.bank.in_memory)
        return self.bank.prefetched(batches, self.batches.rows_of)
