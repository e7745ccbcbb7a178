"""SIGTERM, which SLURM, container engines and `kill` send: the command ends with exit code 143 and says what to do.

Lightning ends training at the next batch then, with an exit code of 0, as if it had come to its end. Over several ranks
it starts a collective inside its signal handler, which meets another one of the other ranks: they crash or wait.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import distributed as dist

from deepclust.runtime.ranks import Launch, is_first_process
from deepclust.runtime.signals import TERMINATED, stop_at_once
from deepclust.training.callbacks import HostCopy
from deepclust.training.lost_ranks import heartbeats

# After so many batches the ranks ask each other: on an accelerator the host is some batches ahead of the device.
CPU_BATCHES, ACCELERATOR_BATCHES = 1, 8


@contextmanager
def ended_by_sigterm(remedy: Callable[[], str]) -> Iterator[None]:
    """End the process with exit code 143 where SIGTERM ends the block; one line on stderr says what to do.

    Args:
        remedy: gives what the line says after "stopped by SIGTERM: ".
    """
    # A handler that is there already, such as submitit's, stays; Lightning calls it, too.
    before = signal.getsignal(signal.SIGTERM)
    ours = threading.current_thread() is threading.main_thread() and before in (signal.SIG_DFL, stop_at_once)
    if ours:
        signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except SIGTERMException:
        if is_first_process():
            print(f"stopped by SIGTERM: {remedy()}", file=sys.stderr, flush=True)
        # Lightning's launcher kills the first process when one of its others ends with an error.
        started_by_first = Launch.from_environment().started_by == "lightning" and not is_first_process()
        raise SystemExit(0 if started_by_first else TERMINATED) from None
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def _stop(signum: int, frame: FrameType | None) -> None:
    """Where Lightning has put its own handler around this one, it ends the batch first, on every rank."""
    if signal.getsignal(signum) is _stop:
        raise SIGTERMException


class EndTogether(pl.Callback):
    """Ends training on every rank after the same batch once one of them got SIGTERM; a process alone is Lightning's.

    Ranks ask each other after every batch, or every eighth on an accelerator, and read the answer when they ask again.
    By then it has been there for long, so that no batch waits for the device.

    Meanwhile a rank that is silent ends the others, too (`deepclust.training.lost_ranks`).
    """

    def __init__(self) -> None:
        self.received = False
        self._asked: HostCopy | None = None
        self._batches = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._receive)  # Lightning puts back what was there when training ends
        self._watch(True)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.world_size == 1:
            return
        device = trainer.strategy.root_device
        self._batches += 1
        if self._batches % (CPU_BATCHES if device.type == "cpu" else ACCELERATOR_BATCHES) == 0:
            self._heed()
            self._asked = self._ask(device)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.world_size > 1:
            self._asked = self._ask(trainer.strategy.root_device)
            self._heed()
        self._watch(False)

    def on_exception(self, *_: Any) -> None:
        self._watch(False)

    def _ask(self, device: torch.device) -> HostCopy:
        """Whether any rank got SIGTERM."""
        received = torch.full((1,), int(self.received), device=device)
        dist.all_reduce(received, dist.ReduceOp.MAX)
        return HostCopy(received)

    def _heed(self) -> None:
        if self._asked is not None and bool(self._asked.read()):
            raise SIGTERMException

    def _watch(self, on: bool) -> None:
        beats = heartbeats()
        if beats is not None:
            beats.watch(on)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.received = True
