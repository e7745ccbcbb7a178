"""The number of clusters before training: three measures vote, and one head is trained with what they choose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from deepclust import ConsensusHeads
from deepclust.cuts import voting
from deepclust.cuts.exploration import Cut
from deepclust.cuts.voting import (
    is_voted,
    modularity,
    most_voted,
    nearly_most,
    numbers_between,
    numbers_within,
    voted_cuts,
    with_votes,
)
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import mine_neighbors
from deepclust.training.recipe import Recipe


@pytest.fixture(scope="module")
def model(planted):
    return ConsensusHeads((3, 8), max_epochs=2, random_state=0, device="cpu").fit(planted.features)


def cut_of(views: float, share: float, width: float | None) -> Cut:
    return Cut(3, None, None, None, width, 1, 2, views=views, modularity=share)


def test_the_number_of_planted_classes_is_voted_and_trained_as_if_it_had_been_given(model, planted, tmp_path):
    found = model.exploration_
    assert found.chosen == 5
    assert [cut.n_clusters for cut in found.cuts] == list(range(3, 9))
    assert max(found.cuts, key=lambda cut: cut.votes).n_clusters == 5
    assert adjusted_rand_score(planted.labels, model.labels_) > 0.95
    told = ConsensusHeads(5, max_epochs=2, random_state=0, device="cpu").fit(planted.features)
    np.testing.assert_array_equal(told.labels_, model.labels_)
    assert "by votes of views, modularity and silhouette" in found.note
    assert model.cut(3).labels_.max() == 2
    loaded = ConsensusHeads.load(model.save(tmp_path / "model.pt"))
    assert str(loaded.exploration_) == str(found)


def test_modularity_is_newmans_sum_over_all_pairs():
    rng = np.random.default_rng(0)
    weights = rng.random((12, 12)) * (rng.random((12, 12)) < 0.4)
    weights = weights + weights.T
    labels = rng.integers(0, 3, 12)
    degree, total = weights.sum(axis=0), weights.sum()
    by_chance = np.outer(degree, degree) / total
    expected = (weights - by_chance)[labels[:, None] == labels].sum() / total
    assert modularity(labels, sparse.csr_matrix(weights)) == pytest.approx(expected)


def test_votes_are_ranks_so_no_scale_counts_and_the_lowest_of_the_most_is_taken():
    cuts = [cut_of(0.5, 0.6, 0.1), cut_of(0.9, 0.7, 0.3), cut_of(0.8, 0.5, 0.2)]
    votes = [cut.votes for cut in with_votes(cuts)]
    assert votes == pytest.approx([(0 + 1 + 0) / 6, 1.0, (1 + 0 + 1) / 6])
    stretched = [replace(cut, views=cut.views**7, silhouette=cut.silhouette / 100) for cut in cuts]
    assert [cut.votes for cut in with_votes(stretched)] == pytest.approx(votes)
    assert with_votes([cut_of(0.5, 0.6, None), cut_of(0.5, 0.6, -1.0)])[0].votes < 0.5  # not defined: the lowest
    given = [replace(cuts[0], n_clusters=3 + i, votes=v) for i, v in enumerate((0.6, 0.79, 0.5, 0.8, 0.8))]
    assert nearly_most(given) == (4, 7)
    assert most_voted(given) == 6
    assert with_votes(cuts[:1])[0].votes == 1  # nothing to choose


def test_between_the_neighbors_of_the_best_number_a_second_round_finds_one_that_was_not_tried(monkeypatch):
    monkeypatch.setattr(voting, "TRIED", 5)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 11, 275)
    rows = 2 * rng.standard_normal((11, 16))[labels] + rng.standard_normal((275, 16))
    features = FeatureSet.from_arrays(rows.astype(np.float32), labels)
    assert numbers_within(4, 25) == [4, 6, 10, 16, 25]
    cuts = voted_cuts(features, mine_neighbors(features, 30), (4, 25))
    assert most_voted(cuts) == 11
    assert [cut.n_clusters for cut in cuts] == [4, 6, 7, 8, 9, 10, 11, 12, 14, 16, 25]


def test_the_second_round_tries_at_most_six_numbers_on_either_side():
    assert numbers_between([8, 10, 12], 10) == [9, 11]
    assert numbers_between([3, 4, 5], 4) == []
    assert numbers_between([3, 5, 8], 3) == [4]  # the lowest has one neighbor
    assert numbers_between([25, 31, 40], 31) == [27, 29, 33, 35, 37]
    assert numbers_between([7], 7) == []


def test_of_many_samples_some_are_looked_at(planted, monkeypatch):
    monkeypatch.setattr(voting, "SAMPLE", 150)
    monkeypatch.setattr(voting, "SAMPLE_PER_CLUSTER", 20)
    cuts = voted_cuts(planted, mine_neighbors(planted, 30), (4, 6))
    assert max(cuts, key=lambda cut: cut.score).n_clusters == 5
    assert cuts[0].smallest + cuts[0].largest < 150


@pytest.mark.parametrize(
    ("settings", "bounds", "constrained"),
    [({}, None, False), ({}, (3, 9), True), ({"n_heads": 2}, (3, 9), False), ({"init": "spectral"}, (3, 9), False)],
)
def test_only_a_single_head_of_a_consensus_is_voted_on(settings, bounds, constrained):
    recipe = Recipe.of("consensus_heads", n_clusters=9)
    assert is_voted(recipe, (3, 9), constrained=False)
    assert not is_voted(replace(recipe, **settings), bounds, constrained)


def test_numbers_are_tried_at_equal_ratios():
    assert numbers_within(3, 50) == [3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 31, 40, 50]
    assert numbers_within(3, 6) == [3, 4, 5, 6]


@pytest.mark.parametrize("n_distinct", [1, 2, 4])
def test_no_more_clusters_are_looked_at_than_there_are_distinct_rows(n_distinct):
    rows = np.random.default_rng(0).standard_normal((n_distinct, 8)).astype(np.float32)[np.arange(120) % n_distinct]
    features = FeatureSet.from_arrays(rows)
    with pytest.warns(UserWarning, match=f"of 120 rows {n_distinct} are distinct"):
        cuts = voted_cuts(features, mine_neighbors(rows, 20), (3, 6))
    assert [cut.n_clusters for cut in cuts] == list(range(min(3, n_distinct), n_distinct + 1))
    assert all(cut.smallest > 0 for cut in cuts)
