"""The main commands on a miniature of ImageNet-21K: its folders and synsets, a hundred classes, two processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from torch.distributed import run as torchrun

from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.subsets.counts import imagenet21k_synsets
from tests.training.test_resume import wait_for

N_CLASSES, DIM = 100, 24
# The paper's recipe in everything but what a miniature cannot bear.
SMALL = (
    *("data=imagenet21k", f"n_clusters={N_CLASSES}", "n_heads=2", "max_epochs=2", "n_neighbors=10", "silhouette=false"),
    *("data.batch_size=500", "trainer.accelerator=cpu", "trainer.precision=32", "features_dir=features"),
)
# One head: of two that are equally good, either may be the best.
LONG = ("n_heads=1", "max_epochs=40", "trainer.checkpoint_seconds=0")
TWO = ("trainer=ddp", "trainer.devices=2")
TORCHRUN = (torchrun.__file__, "--standalone", "--nproc-per-node=2", "-m", "deepclust")


@pytest.fixture
def miniature(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(N_CLASSES, DIM))
    names = imagenet21k_synsets()[:N_CLASSES]
    for split, per_class in (("train", 20), ("test", 5)):
        labels = rng.permutation(np.repeat(np.arange(N_CLASSES), per_class))
        rows = (centers[labels] + 0.3 * rng.normal(size=(len(labels), DIM))).astype(np.float16)
        manifest = {"encoder": {"name": "ibot_vitl16"}}
        features = FeatureSet.from_arrays(rows, labels, class_names=names, manifest=manifest)
        features.save(tmp_path / "features" / "imagenet21k" / "ibot_vitl16" / split)
    return tmp_path


@pytest.mark.slow
def test_two_processes_run_it_to_the_results_of_one(command, in_process_of_its_own, miniature):
    words = ("loss=[temi,scan]", "init=kmeans", "loss.scan.hidden_dim=64")
    hidden = ("loss.temi.hidden_dim=64", "baselines=kmeans")
    alone = command("train.py", *words, *SMALL, *hidden, "run_dir=alone")
    assert (alone.code, alone.err) == (0, "")
    both = in_process_of_its_own("train.py", *words, *SMALL, *hidden, *TWO, "run_dir=both")
    assert both.code == 0, both.err
    rows = [json.loads((miniature / run / "results.json").read_text()) for run in ("alone", "both")]
    assert [(row["method"], row["split"]) for row in rows[0]] == [(row["method"], row["split"]) for row in rows[1]]
    for method in {row["method"] for row in rows[0]}:
        first, second = (
            Clustering.load(miniature / run / "clusterings" / f"{method}.npz") for run in ("alone", "both")
        )
        assert (first.labels == second.labels).mean() >= 0.995


@pytest.mark.slow
def test_processes_of_torchrun_that_are_killed_and_resumed_come_to_the_labels_of_one(command, start_process, miniature):
    words = ("train", "loss=tsp", "init=spectral", "baselines=none", *SMALL, *LONG)
    alone = command(*words, "run_dir=alone")
    assert (alone.code, alone.err) == (0, "")
    started = start_process(*TORCHRUN, *words, *TWO, "run_dir=both")
    wait_for(miniature / "both" / "checkpoints" / "tsp.ckpt", started)
    for worker in Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split():
        os.kill(int(worker), signal.SIGKILL)
    started.communicate(timeout=60)
    assert not (miniature / "both" / "results.json").exists(), "killed too late to have been in training"
    resumed = start_process(*TORCHRUN, *words, *TWO, "resume=both")
    _, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, err
    first, second = (Clustering.load(miniature / run / "clusterings" / "tsp.npz") for run in ("alone", "both"))
    # The hundred first eigenvalues are almost equal, so that rounding decides which partition has which number.
    assert adjusted_rand_score(first.labels, second.labels) >= 0.995


@pytest.mark.slow
def test_without_a_loss_the_processes_of_torchrun_make_one_set_of_results(start_process, miniature):
    # The trainer's settings do not matter where nothing is trained.
    words = ("train", "loss=none", "baselines=[kmeans,agglomerative]", *SMALL, "run_dir=run")
    started = start_process(*TORCHRUN, *words)
    out, err = started.communicate(timeout=300)
    assert started.returncode == 0, err
    assert out.count("run folder: ") == 1
    methods = {row["method"] for row in json.loads((miniature / "run" / "results.json").read_text())}
    assert methods == {"kmeans", "agglomerative"}
