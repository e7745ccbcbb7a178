"""A long run says what it does on any output, a quick one nothing, and on a terminal there is a bar instead."""

from __future__ import annotations

import io
import re
import sys
import time

import numpy as np
import pytest
import pytorch_lightning as pl

import deepclust.runtime.progress as progress
from deepclust.runtime.progress import Stage, begin_run, tracked
from deepclust.training.fit import fit_heads
from deepclust.training.recipe import Recipe
from deepclust.training.trainer_settings import TrainerSettings


@pytest.fixture
def hasty(monkeypatch) -> None:
    """Lines are due after fractions of a second."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.2)
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.05)
    begin_run()


def test_a_long_stage_tells_how_far_it_is_when_it_will_be_done_and_when_it_is(hasty, capsys):
    with Stage("mining", 1000, unit="samples") as stage:
        stage.advance(250)
        stage.tell("recall 0.99")
        time.sleep(0.6)  # as a library that does not come back
    *lines, last = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 3  # at 0.05, 0.25 and 0.45 seconds
    told = r"mining: recall 0\.99, 250 of 1,000 samples \(25 %\), about [012] s left"
    assert all(re.fullmatch(told, line) for line in lines), lines
    assert last == "mining: done in 1 s"


def test_the_time_left_is_that_of_the_steps_taken_in_this_run():
    stage = Stage("training", 100, completed=80)
    assert stage.line() == "training: 80 of 100 (80 %)"  # nothing was done yet: nobody knows
    stage._began -= 300
    stage.advance(5)
    assert stage.line() == "training: 85 of 100 (85 %), about 15 min 0 s left"


def test_of_a_stage_that_cannot_be_counted_its_time_is_told(hasty, capsys):
    with Stage("k-means"):
        time.sleep(0.1)
    assert capsys.readouterr().out.splitlines() == ["k-means: for 0 s so far", "k-means: done in 0 s"]


def test_a_quick_run_prints_nothing_even_where_others_came_before_it(capsys):
    begin_run()
    for description in ("mining", "training", "scoring"):
        assert list(tracked(range(3), description, 3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_of_a_long_run_every_stage_that_lasts_is_named_before_it_ends(monkeypatch, capsys):
    """So that what was printed of a run that is killed tells where it was."""
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(progress, "STAGE_SECONDS", 0.05)
    begin_run()
    with Stage("mining"):
        time.sleep(0.2)
    with Stage("a short one"):
        pass
    with Stage("voting"):
        time.sleep(0.2)
        assert capsys.readouterr().out.splitlines()[-1] == "voting: for 0 s so far"


def test_many_short_stages_are_not_silent_together(hasty, capsys):
    for number in range(12):
        with Stage(f"stage {number}"):
            time.sleep(0.04)
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 8


@pytest.mark.parametrize("how", ["disabled", "inside another"])
def test_what_is_disabled_or_inside_another_stage_is_silent(how, hasty, capsys):
    with Stage("outer", enabled=how == "inside another"), Stage("inner", enabled=how == "inside another"):
        time.sleep(0.1)
    assert "inner" not in capsys.readouterr().out


def test_what_fails_is_not_done(hasty, capsys):
    def fail() -> None:
        with Stage("reading"):
            time.sleep(0.1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capsys.readouterr().out == "reading: for 0 s so far\n"
    with Stage("reading again"):  # the failed one is no longer under way
        time.sleep(0.3)
    assert "reading again: for 0 s so far" in capsys.readouterr().out


def test_training_that_fails_goes_on_telling_nothing(planted):
    class Failing(pl.Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("on purpose")

    recipe = Recipe.of("tsp", n_clusters=5, init="random", max_epochs=1)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit_heads(planted, recipe, TrainerSettings("cpu"), callbacks=[Failing()], progress=True)
    with Stage("what comes after", total=1) as stage:
        assert stage.enabled  # it is not taken for a part of the training


def test_a_terminal_gets_a_bar_and_no_lines(hasty, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Stage("mining", 4, unit="samples") as stage:
        stage.advance(2)
        stage._bar.refresh()  # type: ignore[union-attr]
        time.sleep(0.1)
    assert "\x1b[" in terminal.getvalue()
    assert "2/4" in terminal.getvalue()
    assert "done in" not in terminal.getvalue()


def test_a_run_on_a_pipe_tells_of_every_stage(command, monkeypatch, tmp_path):
    np.save(tmp_path / "X.npy", np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32))
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0005)
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.0)
    settings = ("data=features", "data.train=X.npy", "n_clusters=3", "loss=tsp", "baselines=kmeans", "init=kmeans")
    told = command("train.py", *settings, "max_epochs=2", "n_heads=2", "trainer.accelerator=cpu", "run_dir=told")
    assert (told.code, told.err) == (0, "")
    done = re.findall(r"^(.+): done in", told.out, re.MULTILINE)
    wanted = ["mining neighbors", "k-means", "TSP", "k-means of 300 samples", "scoring"]
    assert [stage for stage in done if stage in wanted] == wanted
    assert re.search(r"^TSP: (epoch 2/2, .*samples/s, )?\d+ of \d+ steps \(\d+ %\)", told.out, re.MULTILINE)
