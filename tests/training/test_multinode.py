"""A rehearsal of two nodes: two torchrun agents on the loopback device, each of which believes to be a machine."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.distributed import run as torchrun

from deepclust.clustering import Clustering

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
SETTINGS = (
    *("loss=[temi,scan]", "init=kmeans", "n_heads=2", "n_neighbors=10", "max_epochs=2", "data.batch_size=301"),
    *("loss.temi.hidden_dim=32", "loss.scan.hidden_dim=32", "baselines=kmeans"),
    *("trainer.accelerator=cpu", "trainer.precision=32"),
)
NODES = ("trainer.strategy=ddp", "trainer.num_nodes=2", "trainer.devices=1")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def two_nodes(start_process: Any, *arguments: str) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each node's agent."""
    rendezvous = ("--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={free_port()}")
    nodes = [
        start_process(torchrun.__file__, *rendezvous, f"--node-rank={node}", TRAIN, *SETTINGS, *arguments)
        for node in range(2)
    ]
    ended = [node.communicate(timeout=300) for node in nodes]
    return [(node.returncode, *texts) for node, texts in zip(nodes, ended)]


@pytest.mark.slow
def test_two_nodes_give_the_labels_of_one_process(command, start_process, tmp_path):
    alone = command("train.py", *SETTINGS, "run_dir=alone", "features_dir=features_alone")
    assert alone.code == 0, alone.err
    # From the file, so that staging over ranks is rehearsed too: up to 131 072 samples the order is that of memory.
    nodes = two_nodes(start_process, *NODES, "run_dir=both", "features_dir=features_both", "data.in_memory=false")
    assert [code for code, _, _ in nodes] == [0, 0], nodes
    assert sorted(out.count("run folder: ") for _, out, _ in nodes) == [0, 1]  # one node speaks
    for method in ("temi", "scan", "kmeans"):
        first, second = (Clustering.load(tmp_path / run / "clusterings" / f"{method}.npz") for run in ("alone", "both"))
        assert (first.labels == second.labels).mean() >= 0.999
        if method != "kmeans":
            losses = [clustering.settings["head_losses"] for clustering in (first, second)]
            np.testing.assert_allclose(*losses, atol=1e-4)


@pytest.mark.slow
def test_ranks_that_torchrun_starts_need_a_name_for_the_run(start_process):
    for code, _, err in two_nodes(start_process, *NODES):
        assert code != 0
        assert "cannot agree on a name for the run folder: set run_dir=" in err


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
