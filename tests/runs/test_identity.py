"""The data of a finished run are compared with what lies in their place now."""

from __future__ import annotations

import numpy as np
import pytest

RUN = ("data=features", "data.train=X.npy", "data.train_labels=y.npy", "loss=none", "baselines=kmeans", "n_clusters=4")


@pytest.fixture
def finished(command, tmp_path, planted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", np.asarray(planted.features)[:120])
    np.save("y.npy", planted.labels[:120])
    assert command("train.py", *RUN, "run_dir=run").code == 0
    return tmp_path / "run"


@pytest.mark.parametrize("script", [("evaluate.py",), ("report", "map=pca")])
def test_clusters_are_not_scored_or_shown_on_features_that_have_changed(script, command, finished):
    """As many samples in another order: every number would be wrong, and every text beside the wrong cluster."""
    np.save("X.npy", np.load("X.npy")[::-1])
    outcome = command(script[0], "run=run", *script[1:])
    assert outcome.code == 2
    assert "a run on other data than are there now (the features of the train split differ)" in outcome.error_line
    assert not (finished / "evaluation.json").exists()
    assert not (finished / "report.html").exists()


def test_features_that_were_copied_are_those_of_the_run(command, finished):
    np.save("X.npy", np.load("X.npy").copy())
    assert command("evaluate.py", "run=run").code == 0


def test_labels_that_were_corrected_count_and_a_warning_says_so(command, finished):
    np.save("y.npy", np.load("y.npy") // 2)
    outcome = command("evaluate.py", "run=run")
    assert outcome.code == 0
    assert "warning: the labels of the train split are not those that run was scored by" in outcome.err
