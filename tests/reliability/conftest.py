"""Commands that are killed, or meet a full disk, at a moment of the test's choice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Outcome, process_environment

Ended = Callable[..., Outcome]


@pytest.fixture(scope="session")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """`ended(folder, *words)` runs `deepclust <words>` in a folder to its end.

    With `kill_at=n` it gets a `signal` (9) right before its n-th change of a file there, with `refuse_at=n` the file
    system refuses that one and all after it (`reason="ENOSPC"`), with `signal_after=seconds` it gets the signal then.
    """
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path_factory.mktemp("server"),
        env=process_environment(),
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"

    def run(folder: Path, *words: Any, **moments: Any) -> Outcome:
        job = {"kill_at": None, "refuse_at": None, "reason": "ENOSPC", "signal_after": None, "signal": 9, **moments}
        job |= {"folder": str(folder), "words": list(map(str, words))}
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        return Outcome(**json.loads(server.stdout.readline()))

    yield run
    server.kill()
    server.communicate()


def save_data(folder: Path, n: int = 90, dim: int = 6) -> None:
    np.save(folder / "X.npy", np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32))
    np.save(folder / "y.npy", np.arange(n) % 3)
