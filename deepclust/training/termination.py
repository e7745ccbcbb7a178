"""SIGTERM, which SLURM, container engines and `kill` send: the command ends with exit code 143 and says what to do.

Lightning ends training at the next batch then, with an exit code of 0, as if it had come to its end.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pytorch_lightning.utilities.exceptions import SIGTERMException

from deepclust.runtime.ranks import is_first_process

EXIT_CODE = 128 + signal.SIGTERM


@contextmanager
def ended_by_sigterm(remedy: Callable[[], str]) -> Iterator[None]:
    """End the process with exit code 143 where SIGTERM ends the block; one line on stderr says what to do.

    Args:
        remedy: gives what the line says after "stopped by SIGTERM: ".
    """
    # A handler that is there already, such as submitit's, stays; Lightning calls it, too.
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except SIGTERMException:
        if is_first_process():
            print(f"stopped by SIGTERM: {remedy()}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_CODE) from None
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(signum: int, frame: FrameType | None) -> None:
    """Where Lightning has put its own handler around this one, it ends the batch first, on every rank."""
    if signal.getsignal(signum) is _stop:
        raise SIGTERMException
