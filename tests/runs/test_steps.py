"""What a run measures along the way."""

from __future__ import annotations

import numpy as np

from deepclust.features.transform import FeatureTransform
from deepclust.runs.steps import validation
from deepclust.training.recipe import Recipe
from deepclust.training.trained import TrainedHeads


def test_a_silhouette_that_is_not_wanted_is_not_computed_along_the_way(planted):
    recipe = Recipe.of("tsp", n_clusters=5, n_heads=1)
    heads = recipe.new_heads(planted.dim)
    trained = TrainedHeads(recipe, FeatureTransform(planted.dim, "none"), heads, np.zeros(1))
    with_it, without = (validation(planted, silhouette=wanted)(trained) for wanted in (True, False))
    assert with_it.pop("silhouette") <= 1
    assert without == with_it
