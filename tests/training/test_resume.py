"""A run that was killed at any moment goes on to the end that it would have come to."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from deepclust.clustering import Clustering
from deepclust.metrics import ROW_KEYS
from deepclust.training.trained import TrainedHeads

SETTINGS = (
    *("loss=[temi,scan,tsp]", "baselines=kmeans", "init=kmeans", "n_heads=3", "n_neighbors=10", "data.batch_size=128"),
    *("max_epochs=10", "loss.temi.hidden_dim=128", "loss.scan.hidden_dim=128", "seed=2"),
    *("trainer.accelerator=cpu", "trainer.precision=32", "trainer.checkpoint_seconds=0", "logger=csv"),
)
METHODS = ("temi", "scan", "tsp")


def wait_for(path: Path, process, seconds: float = 120) -> None:
    started = time.monotonic()
    while not path.exists():
        assert process.poll() is None, f"the run ended before {path.name} was there:\n{process.communicate()[1]}"
        assert time.monotonic() - started < seconds, f"{path} did not appear"
        time.sleep(0.002)


LONG = (
    *("loss=tsp", "baselines=none", "init=kmeans", "n_heads=1", "n_neighbors=10", "max_epochs=100000"),
    *("data.batch_size=900", "trainer.accelerator=cpu", "trainer.checkpoint_seconds=0"),
)


def terminated(process, checkpoint: Path) -> str:
    """What a process says on stderr that gets SIGTERM once it has trained."""
    wait_for(checkpoint, process)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    return err


def test_a_run_that_gets_sigterm_says_so_and_how_to_continue(start_process, tmp_path):
    checkpoint = tmp_path / "run" / "checkpoints" / "tsp.ckpt"
    for words in ("run_dir=run", "resume=run"):
        checkpoint.unlink(missing_ok=True)
        err = terminated(start_process("train.py", *LONG, words), checkpoint)
        assert err == "stopped by SIGTERM: continue with the same settings and resume=run\n"
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
def test_ranks_end_together_when_the_first_gets_sigterm(start_process, tmp_path):
    checkpoint = tmp_path / "run" / "checkpoints" / "tsp.ckpt"
    ranks = ("trainer.strategy=ddp", "trainer.devices=2")
    err = terminated(start_process("train.py", *LONG, *ranks, "run_dir=run"), checkpoint)
    assert err.splitlines()[-1] == "stopped by SIGTERM: continue with the same settings and resume=run"


def test_a_sweep_ends_with_the_job_that_gets_sigterm(start_process, tmp_path):
    sweep = start_process("train.py", "-m", *LONG, "seed=0,1", "run_dir=sweep")
    started = time.monotonic()
    while not (found := list(tmp_path.glob("sweep/*/checkpoints/tsp.ckpt"))):
        assert sweep.poll() is None
        assert time.monotonic() - started < 120
        time.sleep(0.01)
    assert terminated(sweep, found[0]) == "stopped by SIGTERM: the same command continues the sweep\n"
    assert len(list((tmp_path / "sweep").iterdir())) == 1


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_labels_of_an_uninterrupted_one(
    command, start_process, in_process_of_its_own, tmp_path
):
    whole = start_process("train.py", *SETTINGS, "run_dir=whole")
    run = tmp_path / "killed"
    killed = start_process("train.py", *SETTINGS, "run_dir=killed")
    wait_for(run / "checkpoints" / "scan.ckpt", killed)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -9
    assert not (run / "clusterings" / "scan.npz").exists(), "killed too late to have been in training"
    assert not (run / "results.json").exists()
    # Half-written files of a kill at a worse moment.
    (run / "checkpoints" / ".scan.a1b2c3.ckpt").write_bytes(b"half")
    (run / "clusterings" / ".scan.a1b2c3.npz").write_bytes(b"half")
    finished = (run / "clusterings" / "temi.npz").stat().st_mtime_ns

    resumed = in_process_of_its_own("train.py", *SETTINGS, "resume=killed")
    assert (resumed.code, resumed.err) == (0, "")
    assert resumed.out.strip().endswith("run folder: killed")
    assert "\r" not in resumed.out  # no progress bar where stdout is no terminal
    assert (run / "clusterings" / "temi.npz").stat().st_mtime_ns == finished, "a finished method was run again"
    _, err = whole.communicate()
    assert whole.returncode == 0, err
    for method in (*METHODS, "kmeans"):
        first, second = (
            Clustering.load(tmp_path / name / "clusterings" / f"{method}.npz") for name in ("whole", "killed")
        )
        np.testing.assert_array_equal(second.labels, first.labels)
        if method in METHODS:
            np.testing.assert_array_equal(second.top_probs, first.top_probs)
            assert second.settings == first.settings
    rows = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "killed")]
    for row in rows[0] + rows[1]:
        assert tuple(row) == ROW_KEYS
        assert row.pop("seconds") > 0
    assert rows[0] == rows[1]
    assert command("evaluate.py", "run=killed").code == 0


SHARED = (
    *("loss=temi", "baselines=none", "init=kmeans", "n_heads=3", "n_neighbors=10", "max_epochs=8", "seed=2"),
    *("data.batch_size=128", "loss.temi.hidden_dim=128", "loss.temi.gradient_clip=1"),
    *("trainer.accelerator=cpu", "trainer.precision=32", "trainer.checkpoint_seconds=0"),
)


@pytest.mark.slow
def test_ranks_that_share_the_heads_resume_to_the_heads_of_a_process_that_nobody_killed(
    command, start_process, in_process_of_its_own, tmp_path
):
    """Every epoch is saved: what a checkpoint takes must leave the ranks as they are."""
    alone = command("train.py", *SHARED, "run_dir=alone")
    assert (alone.code, alone.err) == (0, "")
    ranks = ("trainer.strategy=ddp", "trainer.devices=2", "trainer.shard=heads")
    killed, checkpoint = start_process("train.py", *SHARED, *ranks, "run_dir=both"), "checkpoints/temi.ckpt"
    wait_for(tmp_path / "both" / checkpoint, killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = torch.load(tmp_path / "both" / checkpoint, weights_only=True)
    assert before["epoch"] < 7, "killed too late to have been in training"
    assert {state["exp_avg"].shape[0] for state in before["optimizer_states"][0]["state"].values()} == {3}
    resumed = in_process_of_its_own("train.py", *SHARED, *ranks, "resume=both")
    assert resumed.code == 0, resumed.err
    first, second = (TrainedHeads.load(tmp_path / run / checkpoint) for run in ("alone", "both"))
    for (name, value), other in zip(first.heads.state_dict().items(), second.heads.state_dict().values()):
        np.testing.assert_allclose(other, value, atol=5e-4, err_msg=name)
    np.testing.assert_allclose(second.losses_H, first.losses_H, atol=1e-4)
