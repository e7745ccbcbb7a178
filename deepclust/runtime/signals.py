"""SIGTERM at any moment of a command: exit code 143 and one line, instead of an end without a word.

While heads are trained, `deepclust.training.termination` takes over, which knows what is saved.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
# Set by the launchers; read here alone, as whoever asks `deepclust.runtime.ranks` imports torch.
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")


@contextmanager
def told_of_sigterm() -> Iterator[None]:
    """The block ends with exit code 143 at SIGTERM, unless somebody has another handler, such as submitit."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, stop_at_once)
        stop_at_once.process = os.getpid()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stop_at_once(signum: int, frame: FrameType | None) -> None:
    """The handler. Files that are being written are removed on the way out."""
    if os.getpid() != stop_at_once.process:  # type: ignore[attr-defined]  # a copy of the process that works for it
        os._exit(TERMINATED)
    if all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES):
        remedy = "what is finished is kept, give the same command again"
        print(f"stopped by SIGTERM: {remedy}", file=sys.stderr, flush=True)
    raise SystemExit(TERMINATED)
