"""Commands that are killed, or meet a full disk, at a moment of the test's choice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Outcome, process_environment
from tests.processes import ForkServer

Ended = Callable[..., Outcome]


@pytest.fixture(scope="session")
def ended(fork_server: ForkServer) -> Ended:
    """`ended(folder, *words)` runs `deepclust <words>` in a folder to its end.

    With `kill_at=n` it gets a `signal` (9) right before its n-th change of a file there, with `refuse_at=n` the file
    system refuses that one and all after it (`reason="ENOSPC"`), with `signal_after=seconds` it gets the signal then.
    """

    def run(folder: Path, *words: Any, signal_after: float | None = None, **moments: Any) -> Outcome:
        places = {"folder": folder, "environment": process_environment()}
        process = fork_server.start(*map(str, words), **places, **moments)
        if signal_after is not None:
            time.sleep(signal_after)
            process.kill()
        out, err = process.communicate(timeout=60)
        return Outcome(process.wait(), out, err)

    return run


def save_data(folder: Path, n: int = 90, dim: int = 6) -> None:
    np.save(folder / "X.npy", np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32))
    np.save(folder / "y.npy", np.arange(n) % 3)
