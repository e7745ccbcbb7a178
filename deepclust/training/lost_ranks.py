"""A rank that dies or freezes: the others end in one line that says which, not in a backtrace or in waiting for a day.

Every rank says through the store of the process group that it is there, from joining to leaving. While heads are
trained, each also listens whether the others do: a rank that is silent for long ends all. Outside training a rank may
be silent, as some libraries hold Python's lock for an hour; there a rank that dies is noticed by the next exchange.
"""

from __future__ import annotations

import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from torch import distributed as dist

from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import Launch

BEAT_SECONDS = 1.0
# A rank in training that says nothing for so long is frozen: a batch releases Python's lock many times a second.
SILENT_SECONDS, SILENT_VARIABLE = 300.0, "DEEPCLUST_SILENT_SECONDS"
# The main thread has so long to end by itself, with a better reason, when a process that it started ends with an error.
ENDED_SECONDS = 5.0
# The processes that this one has started, by rank from 1 on.
CHILDREN: list[subprocess.Popen] = []
# What gloo and NCCL say of a process that is gone.
LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|peer|timed? ?out|socket", re.IGNORECASE)


class Heartbeats(threading.Thread):
    """Says that this rank is there, and listens to the others.

    Args:
        store: of the process group.
        rank, world_size: of this process.

    Raises:
        InputError: if `DEEPCLUST_SILENT_SECONDS` is no time.

    Attributes:
        watching: whether a silent rank ends this process; while heads are trained.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self.store, self.rank, self.world_size = store, rank, world_size
        self.watching = False
        self.patience = silent_seconds()
        self.left = threading.Event()
        self.heard: dict[int, tuple[bytes, float]] = {}

    def run(self) -> None:
        count, all_well = 0, time.monotonic()
        while not self.left.wait(BEAT_SECONDS):
            count += 1
            if not (ended := ended_children()):
                all_well = time.monotonic()
            elif time.monotonic() - all_well > ENDED_SECONDS:
                self._end(ended)
            try:
                self.store.set(self._key(self.rank), f"{count} {socket.gethostname()}")
                self._listen()
            except Exception:  # the process that keeps the store is gone: the first rank's, or torchrun's own
                if self.watching:
                    self._end([0])
                return
            if self.watching and (silent := self.silent(self.patience)):
                self._end(silent)

    def silent(self, seconds: float) -> list[int]:
        """The other ranks that have said nothing for so long."""
        now = time.monotonic()
        return [rank for rank, (_, last) in sorted(self.heard.items()) if now - last > seconds]

    def watch(self, on: bool) -> None:
        """Begin or end to watch; a rank has the whole time from now on, also one that never said anything."""
        now = time.monotonic()
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        self.heard = {rank: (self.heard.get(rank, (b"", now))[0], now) for rank in others}
        self.watching = on

    def tell(self, lost: Sequence[int]) -> None:
        """One line on stderr, by the first of the ranks that are left."""
        left = [rank for rank in range(self.world_size) if rank not in lost]
        if left and self.rank == left[0]:
            print(f"error: {described(lost, self.heard)}", file=sys.stderr, flush=True)

    def _key(self, rank: int) -> str:
        return f"deepclust/heartbeat/{rank}"

    def _listen(self) -> None:
        for rank in range(self.world_size):
            if rank != self.rank and self.store.check([self._key(rank)]):
                said = self.store.get(self._key(rank))
                if rank not in self.heard or said != self.heard[rank][0]:
                    self.heard[rank] = (said, time.monotonic())

    def _end(self, lost: Sequence[int]) -> None:
        if self.left.is_set():
            return
        self.tell(lost)
        for process in CHILDREN:  # a frozen one would stay
            process.kill()
        os._exit(1)  # the main thread waits in a collective, which no exception reaches


def silent_seconds() -> float:
    """How long a rank may be silent, as the environment says; 300 seconds where it says nothing."""
    said = os.environ.get(SILENT_VARIABLE, str(SILENT_SECONDS))
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InputError(f"{SILENT_VARIABLE}={said} is no number of seconds above 0: correct or unset it")
    return seconds


def described(lost: Sequence[int], heard: dict[int, tuple[bytes, float]]) -> str:
    """Which ranks are gone, where they ran, and where to read what they said."""
    if lost:
        names = " and ".join(str(rank) for rank in lost)
        hosts = sorted({heard[rank][0].decode().split(" ", 1)[1] for rank in lost if heard.get(rank, (b"", 0))[0]})
        which = f"rank {names}" + (f" (on {', '.join(hosts)})" if hosts else "")
    else:
        which = "another rank"
    logs = {
        "torchrun": "above, or in torchrun's --log-dir with --redirects=3",
        "slurm": "in the output of srun, by task with --output=%t.txt",
    }
    said = logs.get(Launch.from_environment().started_by or "", "above")
    return f"{which} has died or hangs, so this run ends: what it said stands {said}; resume the run"


def heartbeats() -> Heartbeats | None:
    """Those of this process, once it has joined others."""
    return next((thread for thread in threading.enumerate() if isinstance(thread, Heartbeats)), None)


def start_heartbeats() -> None:
    """Once in a process that has joined others."""
    if heartbeats() is None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        store = dist.distributed_c10d._get_default_store()
        Heartbeats(store, dist.get_rank(), dist.get_world_size()).start()


def replace_lightnings_watch() -> None:
    """Lightning kills this process without a word up to five seconds after one that it has started ends with an error.

    That may be before the line that says which. The heartbeats watch those processes instead.
    """
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []  # it ends when it next finds that none is left


def stop_heartbeats() -> None:
    """Before the process leaves the others."""
    beats = heartbeats()
    if beats is not None:
        beats.left.set()


@contextmanager
def told_of_lost_ranks() -> Iterator[None]:
    """Turn what a collective raises when another rank is gone into one line and exit code 1."""
    try:
        yield
    except RuntimeError as error:
        beats = heartbeats()
        if beats is None or not LOST.search(f"{type(error).__name__} {error}"):
            raise
        beats.watching = False
        lost: list[int] = []
        until = time.monotonic() + 4 * BEAT_SECONDS
        while not lost and time.monotonic() < until:
            time.sleep(BEAT_SECONDS / 10)
            lost = ended_children() or beats.silent(2.5 * BEAT_SECONDS)
        beats.tell(lost)
        raise SystemExit(1) from None


def ended_children() -> list[int]:
    """The ranks that this process has started and that have ended with an error."""
    return [rank for rank, process in enumerate(CHILDREN, start=1) if process.poll()]
