"""A rehearsal of two machines: two torchrun agents, each in a network of its own where this system allows that.

Elsewhere both are on the loopback device.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch.distributed import run as torchrun

from deepclust.clustering import Clustering
from tests.machines import Machine
from tests.processes import Started
from tests.training.test_resume import wait_for

SETTINGS = (
    *("loss=[temi,scan]", "init=kmeans", "n_heads=2", "n_neighbors=10", "max_epochs=8", "data.batch_size=301"),
    *("loss.temi.hidden_dim=32", "loss.scan.hidden_dim=32", "baselines=kmeans"),
    *("trainer.accelerator=cpu", "trainer.precision=32", "trainer.checkpoint_seconds=0"),
)
NODES = ("trainer.strategy=ddp", "trainer.num_nodes=2", "trainer.devices=1")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def start_nodes(start_process: Any, machines: tuple[Machine, Machine]) -> Callable[..., list[Started]]:
    """Starts torchrun's agent on each machine, with one rank of `deepclust <words>`."""

    def start(*words: str) -> list[Started]:
        # A port of its own for each start: the one before may be in use for a while longer.
        address = (f"--master-addr={machines[0].address}", f"--master-port={free_port()}")
        launch = (torchrun.__file__, "--nnodes=2", "--nproc-per-node=1", *address)
        return [
            start_process(*launch, f"--node-rank={node}", "-m", "deepclust", *words, machine=machine)
            for node, machine in enumerate(machines)
        ]

    return start


def children(process: int) -> list[int]:
    with open(f"/proc/{process}/task/{process}/children") as stream:
        return [int(child) for child in stream.read().split()]


def ended(nodes: list[Started]) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each node's agent."""
    texts = [node.communicate(timeout=300) for node in nodes]
    return [(node.wait(), *text) for node, text in zip(nodes, texts)]


@pytest.mark.slow
def test_two_machines_give_the_labels_of_one_process_also_when_one_dies_and_comes_back(command, start_nodes, tmp_path):
    alone = command("train.py", *SETTINGS, "run_dir=alone", "features_dir=features_alone")
    assert alone.code == 0, alone.err
    # From the file, so that staging over ranks is rehearsed too: up to 131 072 samples the order is that of memory.
    words = ("train", *SETTINGS, *NODES, "features_dir=features_both", "data.in_memory=false")
    first, second = start_nodes(*words, "run_dir=both")
    wait_for(tmp_path / "both" / "checkpoints" / "temi.ckpt", first)
    for process in (second.pid, *children(second.pid)):  # the agent and its rank: the machine is gone
        os.kill(process, signal.SIGKILL)
    (code, _, err), _ = ended([first, second])
    assert code == 1
    assert "has died or hangs, so this run ends" in err
    assert not (tmp_path / "both" / "results.json").exists(), "killed too late to have been in training"

    nodes = ended(start_nodes(*words, "resume=both"))
    assert [code for code, _, _ in nodes] == [0, 0], nodes
    assert sorted(out.count("run folder: ") for _, out, _ in nodes) == [0, 1]  # one node speaks
    for method in ("temi", "scan", "kmeans"):
        first, second = (Clustering.load(tmp_path / run / "clusterings" / f"{method}.npz") for run in ("alone", "both"))
        assert (first.labels == second.labels).mean() >= 0.999
        if method != "kmeans":
            losses = [clustering.settings["head_losses"] for clustering in (first, second)]
            np.testing.assert_allclose(*losses, atol=1e-4)


def test_ranks_that_torchrun_starts_need_a_name_for_the_run(command, monkeypatch):
    ranks = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "TORCHELASTIC_RUN_ID": "none"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, str(value))
    outcome = command("train", *SETTINGS, *NODES)
    assert outcome.code == 2
    assert "cannot agree on a name for the run folder: set run_dir=" in outcome.error_line


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "plugin"), [("slurm_here", "submitit"), ("joblib", "joblib")])
def test_a_sweep_over_processes_writes_one_folder_per_job(launcher, plugin, in_process_of_its_own, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    outcome = in_process_of_its_own(
        *("train.py", "-m", f"hydra/launcher={launcher}", "seed=0,1", "run_dir=sweep", "loss=temi", "baselines=none"),
        *("n_heads=1", "max_epochs=1", "init=kmeans"),
    )
    assert outcome.code == 0, outcome.err
    folders = sorted(path.name for path in (tmp_path / "sweep").iterdir() if (path / "results.json").is_file())
    assert len(folders) == 2
    assert ["seed=0" in folders[0], "seed=1" in folders[1]] == [True, True]
