"""A run folder that version 0.1.0 left is still evaluated, and its heads are still used.

0.1.0 made it of digits by `loss=[temi,scan,tsp] max_epochs=2 n_heads=2 init=kmeans n_neighbors=5 baselines=kmeans`,
small heads in float32. The heads' clusterings are left out, as evaluation makes them from the checkpoints.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deepclust.features.feature_set import FeatureSet
from deepclust.training.trained import TrainedHeads

OLD = Path(__file__).parent / "run_of_0_1_0"


def test_an_old_run_is_evaluated_to_the_rows_that_it_left(command, tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    outcome = command("evaluate.py", "run=run", "metrics=[calibration,overclustering]", "counts=[5]")
    assert (outcome.code, outcome.err) == (0, "")
    now = {row["method"]: row for row in json.loads((tmp_path / "run" / "evaluation.json").read_text())}
    before = {row["method"]: row for row in json.loads((OLD / "results.json").read_text())}
    assert now.keys() == before.keys() == {"temi", "scan", "tsp", "kmeans"}
    for method, row in before.items():
        for metric in ("acc", "nmi", "ami", "ari", "silhouette", "n_found"):
            assert now[method][metric] == pytest.approx(row[metric], abs=1e-6)
    # Its recipes were trained again, with another number of clusters.
    assert (tmp_path / "run" / "overclustering" / "5" / "results.json").is_file()


@pytest.mark.parametrize("method", ["temi", "scan", "tsp"])
def test_an_old_checkpoint_gives_its_recipe_and_its_heads(method, digits: FeatureSet):
    trained = TrainedHeads.load(OLD / "checkpoints" / f"{method}.ckpt")
    assert (trained.recipe.loss.name, trained.recipe.n_heads, trained.recipe.init) == (method, 2, "kmeans")
    assert trained.recipe.as_dict()["loss_options"] == vars(trained.recipe.loss)
    assert len(trained.assign(digits).labels) == len(digits)


@pytest.mark.parametrize("method", ["temi", "tsp"])
def test_an_old_run_that_was_killed_is_resumed(method, command, tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    settings = ("max_epochs=2", "n_heads=2", "init=kmeans", "n_neighbors=5", "trainer.precision=32")
    small = ("loss.temi.hidden_dim=8", "loss.temi.embedding_dim=4") if method == "temi" else ()
    words = (f"loss={method}", *settings, *small, "baselines=kmeans", "trainer.accelerator=cpu", "resume=run")
    outcome = command("train.py", *words)
    assert (outcome.code, outcome.err) == (0, "")
    now = {row["method"]: row["acc"] for row in json.loads((tmp_path / "run" / "results.json").read_text())}
    before = {row["method"]: row["acc"] for row in json.loads((OLD / "results.json").read_text())}
    assert now == pytest.approx({name: before[name] for name in now})


def test_an_old_run_of_scan_is_not_resumed(command, tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    words = ("max_epochs=2", "n_heads=2", "init=kmeans", "n_neighbors=5", "trainer.precision=32", "resume=run")
    outcome = command("train.py", "loss=scan", *words, "loss.scan.hidden_dim=8", "loss.scan.embedding_dim=4")
    assert outcome.code == 2
    assert "was trained with the entropy of both views pooled: start a new run" in outcome.error_line
