"""Which rank is this process, and what do the processes that share one computation tell each other?

- `is_first_process()` answers at any time whether this process writes files and prints.
- `Launch.from_environment()` tells what the launcher says of this process, before there is a process group.
- `Ranks.of_run()` are the processes of the process group, with the exchanges between them. A function that works on
  several ranks takes a `Ranks` and never looks them up: much of the package runs on rank 0 of a distributed run alone,
  where a collective would wait for ever. Whoever calls on every rank passes `Ranks.of_run()`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed as dist

from deepclust.runtime.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Launch:
    """What the environment tells a process about itself.

    Attributes:
        started_by: `torchrun`, `slurm` (srun) or `lightning` (the further processes that Lightning's own launcher
            starts, and the first one once it has started them); None for a process on its own.
        rank: among all processes.
        world_size: number of processes.
        local_rank: among the processes of this machine.
        local_world_size: number of processes on this machine.
    """

    started_by: str | None = None
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @classmethod
    def from_environment(cls) -> Launch:
        """Read the variables of torchrun, SLURM and Lightning; the latter starts processes on one machine only."""
        found = {name: int(value) for name in _VARIABLES if (value := os.environ.get(name, "")).isdecimal()}
        world_size = found.get("WORLD_SIZE", 1)
        if "RANK" in found and world_size > 1:
            rank = found["RANK"]
            local = found.get("LOCAL_RANK", rank), found.get("LOCAL_WORLD_SIZE", world_size)
            return cls("torchrun", rank, world_size, *local)
        # A batch script that runs without srun has the numbers of the job, but none of a step: it is one process.
        n_tasks = found.get("SLURM_STEP_NUM_TASKS", 1)
        if "SLURM_PROCID" in found and n_tasks > 1:
            per_node = -(-n_tasks // max(1, found.get("SLURM_STEP_NUM_NODES", 1)))
            rank = found["SLURM_PROCID"]
            return cls("slurm", rank, n_tasks, found.get("SLURM_LOCALID", rank), per_node)
        if "LOCAL_RANK" in found and "RANK" not in found:
            rank = found["LOCAL_RANK"]
            # Lightning takes WORLD_SIZE away after training; LOCAL_RANK stays.
            world_size = max(world_size, rank + 1)
            return cls("lightning", rank, world_size, rank, world_size)
        return cls()

    @property
    def starts_every_rank(self) -> bool:
        """Whether every rank ran the same command from its first line on; Lightning's ranks join half-way."""
        return self.started_by in ("torchrun", "slurm")


_VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"),
)


def launched_rank() -> int:
    """The rank that the launcher gave this process; 0 for a process on its own."""
    return Launch.from_environment().rank


def is_first_process() -> bool:
    """Whether this process writes: rank 0 of the process group, where there is none that of the launcher."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return launched_rank() == 0


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

    def decide(self, mine: bool) -> bool:
        """The first rank's answer to a question that all ask, on every rank."""
        return bool(self.from_first(np.array([mine]))[0])

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Every rank's values one after another along the first axis; lengths may differ."""
        if self.world_size == 1:
            return values
        return np.concatenate(self.gather_objects(values))

    def gather_objects(self, mine: T) -> list[T]:
        """What every rank has, in the order of the ranks; small things alone, as they are pickled."""
        if self.world_size == 1:
            return [mine]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, mine, group=self.group)
        return found

    def any(self, mine: bool) -> bool:
        """Whether one rank says yes, on every rank."""
        return any(self.gather_objects(mine))

    def raise_any(self, message: str | None) -> None:
        """Raise InputError on every rank if one of them has a message: a rank that raised alone would leave the others
        waiting."""
        first = next((text for text in self.gather_objects(message) if text is not None), None)
        if first is not None:
            raise InputError(first)

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """A section at whose end all ranks know whether it went well on each of them.

        Every rank enters it, also where only the first has something to do inside. A failure of one rank ends all of
        them: an exception on one alone would leave the others waiting until the next collective times out.

        Raises:
            InputError: on every rank, with the message of the one that raised it. Other exceptions pass through where
                they were raised, and the other ranks are told in one line.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
            if self.world_size == 1:
                raise
        told = None
        if isinstance(failure, InputError):
            told = str(failure)
        elif failure is not None:
            told = f"rank {self.rank} failed: {type(failure).__name__}: {(str(failure).splitlines() or [''])[0]}"
        try:
            self.raise_any(told)
        except InputError:
            if failure is not None and not isinstance(failure, InputError):
                raise failure from None
            raise

    def _device(self) -> torch.device:
        if dist.get_backend(self.group) == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")


ALONE = Ranks()
