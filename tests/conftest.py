"""What the tests share: small data with known answers, and the entry points called in this process or another one."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from sklearn.datasets import load_digits

from deepclust.cli.main import main
from deepclust.features.feature_set import FeatureSet
from tests.machines import Machine, two_machines
from tests.processes import ForkServer, Started

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small data gains nothing from threads and loses much where other processes want the cores."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def planted_clusters(
    n_clusters: int = 5, per_cluster: int = 60, dim: int = 16, noise: float = 0.05, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) float32 rows of length 1 around orthogonal directions, in random order, and which direction each is of."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((dim, dim)))[0][:n_clusters]
    labels = rng.permutation(np.repeat(np.arange(n_clusters), per_cluster))
    rows = directions[labels] + noise * rng.standard_normal((len(labels), dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.fixture(scope="session")
def planted() -> FeatureSet:
    """300 rows in 5 clusters that any clusterer should find."""
    return FeatureSet.from_arrays(*planted_clusters())


@pytest.fixture(scope="session")
def digits() -> FeatureSet:
    """scikit-learn's digits, 1797 × 64."""
    data = load_digits()
    return FeatureSet.from_arrays((data.data / 16).astype(np.float32), data.target)


@pytest.fixture
def numerical_gradient() -> Callable[..., np.ndarray]:
    """Central differences of a function of one float64 array: a gradient that no automatic differentiation made."""

    def gradient(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-5) -> np.ndarray:
        at = np.asarray(at, dtype=np.float64)
        out = np.empty_like(at)
        for index in np.ndindex(at.shape):
            high, low = at.copy(), at.copy()
            high[index] += step
            low[index] -= step
            out[index] = (function(high) - function(low)) / (2 * step)
        return out

    return gradient


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The one line on stderr; fails where there is not exactly one."""
        assert len(self.err.strip().splitlines()) == 1, f"expected one line on stderr, got:\n{self.err}"
        return self.err.strip()


Command = Callable[..., Outcome]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `python <script> …` or `deepclust <command> …` in this process, in an empty folder."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)

    def run(script: str, *arguments: Any) -> Outcome:
        # The name of the run folder is handed to child processes this way; a fresh process would not have it.
        monkeypatch.delenv("DEEPCLUST_RUN_DIR", raising=False)
        is_script = (ROOT / script).is_file()
        words = [*([] if is_script else [script]), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", [str(ROOT / script) if is_script else "deepclust", *words])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code: Any = 0
        try:
            if is_script:
                runpy.run_path(str(ROOT / script), run_name="__main__")
            else:
                main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return Outcome(int(code), captured.out, captured.err)

    return run


def process_environment() -> dict[str, str]:
    """The environment of a child process that imports this checkout, on one thread and without a network logger."""
    own = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DEEPCLUST_RUN_DIR")
    inherited = {key: value for key, value in os.environ.items() if key not in own}
    return {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    server = ForkServer(process_environment())
    yield server
    server.close()


@pytest.fixture
def start_process(tmp_path: Path, fork_server: ForkServer) -> Any:
    """Starts `python <script> …` or `deepclust <command> …` in a process of its own, in an empty folder."""
    started: list[Started] = []

    def start(script: str, *arguments: Any, machine: Machine | None = None, **environment: str) -> Started:
        words = [str(ROOT / script) if (ROOT / script).is_file() else script, *map(str, arguments)]
        told = {**process_environment(), **environment, **({} if machine is None else machine.environment)}
        namespace = None if machine is None else machine.namespace
        process = fork_server.start(*words, folder=tmp_path, environment=told, namespace=namespace)
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):  # all that it has started, a frozen rank too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def machines() -> Iterator[tuple[Machine, Machine]]:
    with two_machines() as both:
        yield both


@pytest.fixture
def locked_elsewhere() -> Any:
    """Locks a file in a process of its own and gives that process, to be killed."""
    # Imports nothing of ours, so that it starts at once.
    program = "import sys, time, filelock; a = filelock.FileLock(sys.argv[1]); a.acquire(); print(); time.sleep(60)"
    started: list[subprocess.Popen[str]] = []

    def lock(path: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-u", "-c", program, path], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "\n"
        return process

    yield lock
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def in_process_of_its_own(start_process: Any) -> Command:
    """Runs `python <script> <arguments>` in a process of its own to the end."""

    def run(script: str, *arguments: Any) -> Outcome:
        process = start_process(script, *arguments)
        out, err = process.communicate(timeout=300)
        return Outcome(process.returncode, out, err)

    return run
