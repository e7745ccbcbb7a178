"""The feature bank: the heads' inputs, gathered by row number.

Shape suffixes: N samples, B gathered rows, P dimensions that the heads see.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from deepclust.features.store import FeatureSet
from deepclust.preprocess import FeatureTransform

# Features that need less than this share of the free memory are transformed once and kept there.
MEMORY_SHARE = 0.5
BLOCK_ROWS = 8192


class FeatureBank:
    """Transformed features, held where the heads are when they fit there, else read and transformed per batch.

    Args:
        features: the split.
        transform: fitted; applied once to every row that is held.
        device: where the heads live.
        dtype: of the held rows; bfloat16 halves the traffic of a bf16 run and changes nothing there, as the first
            layer rounds its input to bfloat16 anyway.
    """

    def __init__(
        self,
        features: FeatureSet,
        transform: FeatureTransform,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.features = features
        self.transform = transform
        self.device = torch.device(device)
        self.dtype = dtype
        held_bytes = len(features) * transform.out_dim * torch.empty((), dtype=dtype).element_size()
        self.held: Tensor | None = None
        if held_bytes <= MEMORY_SHARE * _free_bytes(self.device):
            self.held = torch.empty(len(features), transform.out_dim, dtype=dtype, device=self.device)
            for start, block_BP in self._stream(np.arange(len(features))):
                self.held[start : start + len(block_BP)] = block_BP

    def __len__(self) -> int:
        return len(self.features)

    def gather(self, ids_B: Tensor) -> Tensor:
        """(B,) row numbers -> (B, P) on the bank's device."""
        if self.held is not None:
            return self.held.index_select(0, ids_B.to(self.device))
        # Reading a memory map in ascending order touches each page once.
        order = ids_B.argsort()
        rows = self._transformed(np.asarray(self.features.features[ids_B[order].cpu().numpy()]))
        out = torch.empty_like(rows)
        out[order.to(self.device)] = rows
        return out

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, Tensor]]:
        """Every row in order, as (first row, (B, P) block)."""
        if self.held is not None:
            for start in range(0, len(self), rows):
                yield start, self.held[start : start + rows]
        else:
            yield from self._stream(np.arange(len(self)), rows)

    def _stream(self, ids: np.ndarray, rows: int = BLOCK_ROWS) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(ids), rows):
            stop = min(start + rows, len(ids))
            yield start, self._transformed(np.asarray(self.features.features[start:stop]))

    @torch.no_grad()
    def _transformed(self, rows: np.ndarray) -> Tensor:
        block = torch.from_numpy(np.array(rows, dtype=np.float32)).to(self.device)
        return self.transform(block).to(self.dtype)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 << 30
