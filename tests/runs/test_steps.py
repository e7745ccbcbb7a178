"""What a run measures along the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deepclust.clustering import Clustering
from deepclust.features.transform import FeatureTransform
from deepclust.runs.steps import validation
from deepclust.training.checkpoint import keep_heads
from deepclust.training.recipe import Recipe
from deepclust.training.trained import TrainedHeads


def test_a_silhouette_that_is_not_wanted_is_not_computed_along_the_way(planted):
    recipe = Recipe.of("tsp", n_clusters=5, n_heads=1)
    heads = recipe.new_heads(planted.dim)
    trained = TrainedHeads(recipe, FeatureTransform(planted.dim, "none"), heads, np.zeros(1))
    with_it, without = (validation(planted, silhouette=wanted)(trained) for wanted in (True, False))
    assert with_it.pop("silhouette") <= 1
    assert without == with_it


def test_a_finished_run_keeps_its_heads_alone_and_makes_lost_clusters_again(command, planted):
    np.save("X.npy", planted.features)
    words = [
        "data=features",
        "data.train=X.npy",
        "n_clusters=5",
        "loss=temi",
        "baselines=none",
        "n_heads=2",
        "init=kmeans",
    ]
    words += ["trainer.accelerator=cpu"]
    assert command("train", *words, "max_epochs=2", "run_dir=run").code == 0
    place = Path("run/checkpoints/temi.ckpt")
    content = torch.load(place, weights_only=True)
    assert content.keys() == {"deepclust", "state_dict"}
    assert {name.split(".")[0] for name in content["state_dict"]} == {"transform", "teacher", "last_loss_H"}
    before = Clustering.load("run/clusterings/temi.npz")
    Path("run/clusterings/temi.npz").unlink()
    again = command("train", *words, "max_epochs=2", "resume=run")
    assert again.code == 0, again.err
    np.testing.assert_array_equal(Clustering.load("run/clusterings/temi.npz").top_probs, before.top_probs)
    more = command("train", *words, "max_epochs=3", "resume=run")
    assert (more.code, "max_epochs" in more.error_line) == (2, True)
    keep_heads(place)
    assert torch.load(place, weights_only=True)["deepclust"]["finished"]
