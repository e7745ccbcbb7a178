"""Two processes make what one makes: the global batch is the same, and everything over it is summed over ranks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from deepclust.clustering import Clustering
from deepclust.training.trained import TrainedHeads

# The three, and those that see a batch in another way: its columns, twice, all samples, or by a teacher fitted to it.
METHODS = ("temi", "scan", "tsp", "nnm", "self_classifier", "sela", "icon", "turtle", "consensus_heads")
# Where ranks share the heads no loss sees more ranks than one, so three will do: a teacher, two looks, a fitted one.
SHARING_METHODS = ("temi", "self_classifier", "turtle")


def settings_of(methods: tuple[str, ...]) -> tuple[str, ...]:
    return (
        f"loss=[{','.join(methods)}]",
        *("init=kmeans", "n_neighbors=10", "max_epochs=3", "data.batch_size=301"),
        *(f"loss.{method}.hidden_dim=32" for method in methods),
        "seed=1",
        *("trainer.accelerator=cpu", "trainer.precision=32", "logger=csv", "trainer.log_every_n_steps=1"),
    )


def losses_of(folder: Path, name: str) -> list[float]:
    with open(folder / "logs" / "metrics.csv") as stream:
        return [float(line[name]) for line in csv.DictReader(stream) if line[name]]


@pytest.mark.slow
def test_two_processes_give_the_labels_and_losses_of_one(command, in_process_of_its_own, tmp_path):
    settings = (*settings_of(METHODS), "n_heads=2", "baselines=kmeans")
    alone = command("train.py", *settings, "run_dir=alone", "features_dir=features_alone")
    assert alone.code == 0, alone.err
    # A rank holds about 150 pairs of each batch: three micro-batches, the last of them short.
    both = in_process_of_its_own(
        *("train.py", *settings, "run_dir=both", "features_dir=features_both"),
        *("data.micro_batch_size=60", "trainer.strategy=ddp", "trainer.devices=2"),
    )
    assert both.code == 0, both.err
    assert both.out.count("run folder: ") == 1  # one process speaks
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "both", "features_alone", "features_both"}
    for method in (*METHODS, "kmeans"):
        first, second = (Clustering.load(tmp_path / run / "clusterings" / f"{method}.npz") for run in ("alone", "both"))
        assert (first.labels == second.labels).mean() >= 0.999
        if method == "kmeans":
            continue
        for name in ("train/loss", "train/loss_head_00", "train/loss_head_01"):
            losses = [losses_of(tmp_path / run, f"{method}/{name}") for run in ("alone", "both")]
            assert len(losses[0]) == (18 if name == "train/loss" else 3)
            np.testing.assert_allclose(losses[1], losses[0], atol=1e-4)


@pytest.mark.slow
def test_two_processes_that_share_the_heads_give_what_one_gives(command, in_process_of_its_own, tmp_path):
    settings = (
        *settings_of(SHARING_METHODS),
        "n_heads=3",
        "loss.temi.gradient_clip=0.01",
        "baselines=none",
        "trainer.val_every_n_epochs=1",
    )
    alone = command("train.py", *settings, "run_dir=alone")
    assert alone.code == 0, alone.err
    sharing = ("trainer.strategy=ddp", "trainer.devices=2", "trainer.shard=heads")
    both = in_process_of_its_own("train.py", *settings, "run_dir=both", *sharing, "data.micro_batch_size=110")
    assert both.code == 0, both.err
    for method in SHARING_METHODS:
        first, second = (
            TrainedHeads.load(tmp_path / run / "checkpoints" / f"{method}.ckpt") for run in ("alone", "both")
        )
        for (name, value), other in zip(first.heads.state_dict().items(), second.heads.state_dict().values()):
            np.testing.assert_allclose(other, value, atol=2e-4, err_msg=name)
        np.testing.assert_allclose(second.losses_H, first.losses_H, atol=1e-4)
