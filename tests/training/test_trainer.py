"""The trainer's settings: names that are checked, defaults that the command line shares, and the processes of a run."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from deepclust.features.bank import FeatureBank
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import Ranks
from deepclust.training.fit import fit_heads
from deepclust.training.heads import Heads
from deepclust.training.initialization import HeadStart
from deepclust.training.recipe import Recipe
from deepclust.training.trainer import (
    COLLECTIVE_TIMEOUT,
    check_launch,
    join_processes,
    make_trainer,
    n_processes,
)
from deepclust.training.trainer_settings import TrainerSettings


def test_a_flat_mapping_is_split_into_fields_and_further_options():
    settings = TrainerSettings.of({"devices": 2, "strategy": "ddp", "max_steps": 7, "deterministic": True})
    assert settings == TrainerSettings(devices=2, strategy="ddp", more={"max_steps": 7, "deterministic": True})
    assert make_trainer(TrainerSettings("cpu", more={"max_steps": 7})).max_steps == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": 2}, "unknown trainer option 'device': did you mean 'devices'"),
        ({"max_step": 2}, "unknown trainer option 'max_step': did you mean 'max_steps'"),
        ({"val_every_n_epoch": 2}, "unknown trainer option 'val_every_n_epoch': did you mean 'val_every_n_epochs'"),
        ({"callbacks": []}, "trainer option 'callbacks' is set by training itself"),
        ({"enable_checkpointing": True}, "trainer option 'enable_checkpointing' is set by training itself"),
        ({"max_epochs": 3}, "trainer option 'max_epochs' is set by training itself"),
        ({"precision": 16}, "precision 16 is not supported: choose one of auto, 32"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        TrainerSettings.of(options)


def test_a_field_is_not_given_twice():
    with pytest.raises(InputError, match="trainer option 'devices' has a field of its own"):
        TrainerSettings(more={"devices": 2})


def test_the_command_line_has_the_same_defaults():
    conf = OmegaConf.load(Path(__file__).resolve().parents[2] / "conf" / "trainer" / "default.yaml")
    assert TrainerSettings(**conf) == TrainerSettings()
    assert set(conf) == {member.name for member in fields(TrainerSettings)} - {"more"}


def test_the_number_of_processes_is_that_of_the_devices():
    assert n_processes(TrainerSettings("cpu")) == 1
    assert n_processes(TrainerSettings("cpu", devices=3)) == 3


def test_a_process_alone_joins_nobody():
    trainer = make_trainer(TrainerSettings("cpu"))
    assert join_processes(trainer) == join_processes(trainer) == Ranks()


ORPHAN = """
import os, subprocess, sys, time
if len(sys.argv) < 3:
    os.environ.update(LOCAL_RANK="1", WORLD_SIZE="2", DEEPCLUST_PARENT=str(os.getpid()))
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "child"])
    time.sleep(60 if sys.argv[1] == "late" else 0)
else:
    from deepclust.training.trainer import end_with_parent
    end_with_parent()
    print("watching", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["late", "early"])  # after the other process looks for it, or before
def test_a_process_that_lightning_started_ends_with_the_one_that_started_it(ends, start_process, tmp_path):
    (tmp_path / "orphan.py").write_text(ORPHAN)
    parent = start_process(tmp_path / "orphan.py", ends)
    assert parent.stdout.readline() == "watching\n"
    parent.kill()
    started = time.monotonic()
    parent.communicate(timeout=60)  # until the other one has closed its end of stdout
    assert time.monotonic() - started < 30


def test_training_in_fewer_processes_than_were_started_is_refused(monkeypatch):
    check_launch(TrainerSettings("cpu"))
    # Two machines of two processes each.
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    check_launch(TrainerSettings("cpu", devices=2, num_nodes=2, strategy="ddp"))
    with pytest.raises(InputError, match=r"torchrun started 4 processes, but .* are for 1: set trainer=ddp"):
        check_launch(TrainerSettings("cpu"))


def test_processes_that_live_inside_fit_alone_are_refused(planted):
    recipe = Recipe.of("temi", n_clusters=5, n_heads=1, n_neighbors=5)
    with pytest.raises(InputError, match="use strategy=ddp"):
        fit_heads(planted, recipe, trainer=TrainerSettings("cpu", devices=2, strategy="ddp_spawn"))


@pytest.mark.parametrize("init", ["random", "kmeans", "spectral"])
def test_heads_are_initialized_where_their_inputs_are_and_before_training(init, planted, monkeypatch):
    recipe = Recipe.of(
        "temi", n_clusters=5, n_heads=2, hidden_dim=8, embedding_dim=4, n_neighbors=5, max_epochs=1, init=init
    )
    seen: list[np.ndarray] = []

    def watched(start: HeadStart, heads: Heads, bank: FeatureBank) -> None:
        assert {parameter.device for parameter in heads.parameters()} == {bank.device}
        real(start, heads, bank)
        seen.append(next(heads.parameters()).detach().numpy().copy())

    real = HeadStart.set
    monkeypatch.setattr(HeadStart, "set", watched)
    fit = fit_heads(planted, recipe, trainer=TrainerSettings("cpu", precision="32", more={"max_steps": 1}))
    assert len(seen) == 1
    # One step of the teacher's moving average leads hardly away from the start.
    torch.testing.assert_close(next(fit.trained.heads.parameters()), torch.from_numpy(seen[0]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_processes_wait_for_each_other_as_long_as_mining_may_take(strategy):
    trainer = make_trainer(TrainerSettings("cpu", devices=2, strategy=strategy))
    assert trainer.strategy._timeout == COLLECTIVE_TIMEOUT


def test_an_option_of_lightnings_that_fails_inside_its_fit_is_refused_in_one_line(planted):
    recipe = Recipe.of("temi", n_clusters=5, n_heads=1, max_epochs=1, init="random", n_neighbors=5)
    with pytest.raises(InputError, match=r"the trainer's settings do not work here: .*accumulat"):
        fit_heads(planted, recipe, TrainerSettings("cpu", more={"accumulate_grad_batches": 2}))


@pytest.mark.parametrize("options", [{"max_steps": "abc"}, {"detect_anomaly": 1}, {"max_time": float("nan")}])
def test_options_of_lightnings_are_of_the_types_that_it_says(options):
    with pytest.raises(InputError, match=rf"trainer\.{next(iter(options))} is .*Trainer takes"):
        TrainerSettings(more=options)


def test_ddp_keeps_no_second_copy_of_the_gradients():
    strategy = make_trainer(TrainerSettings("cpu", devices=2, strategy="ddp")).strategy
    strategy.connect(module := pl.LightningModule())
    strategy.configure_ddp()
    assert strategy.model is module
