"""What is logged of heads after every epoch: parity with the whole, and facts that must hold of any heads."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import Neighbors, cached_neighbors
from deepclust.runs import watching
from deepclust.runs.watching import HeadWatch, agreement, information_of
from deepclust.training.fit import FitResult, fit_heads
from deepclust.training.initialization import pair_information
from deepclust.training.recipe import Recipe
from deepclust.training.trainer import TrainerSettings


@pytest.fixture(scope="module")
def fitted(planted: FeatureSet) -> FitResult:
    recipe = Recipe.of("temi", n_clusters=5, n_heads=3, max_epochs=1, n_neighbors=20, init="kmeans")
    return fit_heads(planted, recipe, TrainerSettings("cpu"))


@pytest.fixture
def mined(planted: FeatureSet, tmp_path) -> Neighbors:
    return cached_neighbors(planted, 20, cache_dir=tmp_path)


def test_the_information_of_all_pairs_is_the_pair_information(mined):
    labels = np.random.default_rng(0).integers(7, size=len(mined.ids))
    pairs = information_of(np.repeat(labels, 20), labels[mined.ids].ravel(), 7)
    assert pairs == pytest.approx(pair_information(labels, mined, 7), abs=1e-12)


def test_a_drawn_part_tells_about_what_all_samples_tell(planted, fitted, monkeypatch):
    of_all = HeadWatch(planted, 5)(fitted.neighbors, fitted.trained)
    monkeypatch.setattr(watching, "WATCHED", 150)
    watch = HeadWatch(planted, 5)
    of_part = watch(fitted.neighbors, fitted.trained)
    assert set(of_part) == set(of_all)
    for name, value in of_part.items():
        assert value == pytest.approx(of_all[name], abs=0.15)
    rows, anchors, others = watch.drawn_pairs(fitted.neighbors)
    assert len(anchors) == len(others) == 150
    assert len(rows) < 300  # no more than is needed is read
    assert watch(fitted.neighbors, fitted.trained) == of_part  # the same samples in every epoch


def test_agreement_does_not_depend_on_what_heads_call_their_clusters():
    labels = np.random.default_rng(0).integers(4, size=400)
    others = np.where(np.arange(400) < 100, (labels + 1) % 4, labels)
    renamed = np.array([2, 0, 3, 1])[others]
    assert agreement(np.stack([labels, others]), 0, 4) == agreement(np.stack([labels, renamed]), 0, 4) == 0.75


def test_a_head_that_is_not_finite_is_left_out(planted, fitted):
    losses = fitted.trained.losses_H
    try:
        fitted.trained.losses_H = np.array([losses[0], np.nan, losses[2]])
        told = HeadWatch(planted, 5)(fitted.neighbors, fitted.trained)
        assert {name[-2:] for name in told if name.startswith("heads/")} == {"00", "02"}
        fitted.trained.losses_H = np.full(3, np.inf)
        assert HeadWatch(planted, 5)(fitted.neighbors, fitted.trained) == {}
    finally:
        fitted.trained.losses_H = losses
