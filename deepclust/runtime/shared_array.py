"""One array per machine instead of one per rank: written by the ranks of a machine, read by all of them.

Shape suffixes: N rows.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

import numpy as np

from deepclust.runtime.devices import free_bytes
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import ALONE, Launch, Ranks

# Where Linux keeps files in memory.
MEMORY = Path("/dev/shm")
# Rows that machines exchange at a time.
EXCHANGED_BYTES = 64 << 20


class SharedArray:
    """N rows of zeros to begin with, which the ranks of a machine have in common. A process alone has them for itself.

    They lie in memory where they take less than half of what is free, else in a file of the temporary folder. Either
    has no name any more once every rank has it, and ends with the processes.

    Args:
        shape: N and so on.
        dtype: of the values.
        ranks: the processes of the run, each of which makes it at the same time.

    Raises:
        InputError: on every rank, if a machine has no room for it.

    Attributes:
        values: the array; what a rank writes here the others of its machine read.
        machine: this rank among those of its machine, for `share` alone.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype | type, ranks: Ranks = ALONE) -> None:
        self.ranks, self.machine, self.n_machines = ranks, ALONE, 1
        if ranks.world_size == 1:
            self.values = np.zeros(shape, dtype)
            return
        size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        seats = ranks.gather_objects((socket.gethostname(), Launch.from_environment().local_rank))
        first = _first_of_its_machine(seats, ranks.rank)
        here = [rank for rank in range(len(seats)) if _first_of_its_machine(seats, rank) == first]
        self.machine = Ranks(here.index(ranks.rank), len(here))
        self.n_machines = len({_first_of_its_machine(seats, rank) for rank in range(len(seats))})
        made: Path | None = None
        try:
            with ranks.all_or_none():
                if ranks.rank == first:
                    made = _file_of(size)
            path = ranks.gather_objects(made)[first]
            with ranks.all_or_none():
                assert path is not None
                self.values = np.memmap(path, dtype, "r+", shape=shape)
        finally:
            if made is not None:
                made.unlink()

    def written(self) -> np.ndarray:
        """The whole array, once every rank has written its part; what several machines have written is added up.

        Called on every rank, each of which only reads from now on.
        """
        with self.ranks.all_or_none():
            pass  # all have come here
        if self.n_machines > 1:
            step = max(1, EXCHANGED_BYTES // max(1, self.values[:1].nbytes))
            for low in range(0, len(self.values), step):
                part = self.values[low : low + step]
                total = self.ranks.sum(part if self.machine.rank == 0 else np.zeros_like(part))
                if self.machine.rank == 0:
                    part[:] = total
            with self.ranks.all_or_none():
                pass
        return self.values


def _first_of_its_machine(seats: list[tuple[str, int]], rank: int) -> int:
    """The rank that makes the file for a rank: the last one before it of the same machine with the local number 0."""
    host = seats[rank][0]
    here = [one for one in range(rank + 1) if seats[one][0] == host]
    return next((one for one in reversed(here) if seats[one][1] == 0), here[0])


def _file_of(size: int) -> Path:
    """A file of so many zero bytes, all of which the system has set aside: writing to it cannot fail."""
    fits = MEMORY.is_dir() and size <= free_bytes() // 2 and size < shutil.disk_usage(MEMORY).free
    folder = MEMORY if fits else Path(tempfile.gettempdir())
    handle, name = tempfile.mkstemp(prefix="deepclust-", dir=folder)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
        else:  # macOS
            os.truncate(handle, size)
    except OSError as error:
        os.unlink(name)
        raise InputError(
            f"{folder} has no room for {size / 1e9:.3g} GB that the ranks of {socket.gethostname()} share "
            f"({error.strerror}): set TMPDIR to a folder that has"
        ) from None
    finally:
        os.close(handle)
    return Path(name)
