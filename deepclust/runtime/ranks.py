"""The processes that share one computation, and what they tell each other.

Explicit, not looked up: much of the package runs on rank 0 of a distributed run alone, where a collective would wait
for ever. Whoever calls on every rank passes `Ranks.of_run()`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed as dist

from deepclust.runtime.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """One process among several; the default is a process alone, for which every exchange is free.

    Attributes:
        rank: of this process.
        world_size: number of processes.
        group: the process group that the exchanges go through; None is the default group.
    """

    rank: int = 0
    world_size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def of_run(cls, group: dist.ProcessGroup | None = None) -> Ranks:
        """Every process of the run: of `group`, by default of the whole run; alone where none is distributed."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    def share(self, n_rows: int) -> slice:
        """This rank's part of N rows: contiguous, so that a memory map is read front to back; sizes differ by 1."""
        return slice(n_rows * self.rank // self.world_size, n_rows * (self.rank + 1) // self.world_size)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over ranks, the same array on each."""
        if self.world_size == 1:
            return values
        total = torch.from_numpy(np.ascontiguousarray(values)).to(self._device())
        dist.all_reduce(total, group=self.group)
        return total.cpu().numpy()

    def from_first(self, values: np.ndarray) -> np.ndarray:
        """The first rank's values, on every rank; shape and dtype must be the same everywhere."""
        if self.world_size == 1:
            return values
        received = torch.from_numpy(np.ascontiguousarray(values)).to(self._device())
        source = 0 if self.group is None else dist.get_global_rank(self.group, 0)
        dist.broadcast(received, source, group=self.group)
        return received.cpu().numpy()

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Every rank's values one after another along the first axis; lengths may differ."""
        if self.world_size == 1:
            return values
        parts: list[np.ndarray | None] = [None] * self.world_size
        dist.all_gather_object(parts, values, group=self.group)
        return np.concatenate([part for part in parts if part is not None])

    def raise_any(self, message: str | None) -> None:
        """Raise InputError on every rank if one of them has a message: a rank that raised alone would leave the others
        waiting."""
        messages = [message]
        if self.world_size > 1:
            messages = [None] * self.world_size
            dist.all_gather_object(messages, message, group=self.group)
        found = next((text for text in messages if text is not None), None)
        if found is not None:
            raise InputError(found)

    def _device(self) -> torch.device:
        if dist.get_backend(self.group) == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")


ALONE = Ranks()
