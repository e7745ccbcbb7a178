"""Consensus heads: their gradient against finite differences, and the partition that they keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from deepclust.features.feature_set import FeatureSet
from deepclust.losses import LogProbs, make_loss
from deepclust.losses.consensus_heads import vote_loss
from deepclust.neighbors import mine_neighbors
from deepclust.runtime.errors import InputError
from deepclust.training import module
from deepclust.training.fit import fit_heads
from deepclust.training.recipe import Recipe
from deepclust.training.trainer import TrainerSettings


def test_the_gradient_in_the_log_odds_is_that_of_finite_differences(numerical_gradient):
    logits, votes = (torch.randn(2, 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).unbind()
    votes = votes.softmax(dim=2)

    def value(at: np.ndarray) -> float:
        return float(vote_loss(torch.from_numpy(at).log_softmax(dim=2), votes)[0])

    found = vote_loss(logits.log_softmax(dim=2), votes)[1]
    np.testing.assert_allclose(found, numerical_gradient(value, logits.numpy()), atol=1e-8)


def test_members_of_a_pair_learn_the_same_and_least_where_they_say_what_was_voted():
    loss = make_loss("consensus_heads")
    start = LogProbs(*torch.randn(2, 1, 6, 4, dtype=torch.float64).log_softmax(dim=3))
    votes = ((start.anchors.exp() + start.neighbors.exp()) / 2).log()
    agreed = LogProbs(votes, votes)
    batch = loss.look(agreed.exp())
    lowest, gradients = loss.gradient(agreed, start, batch)
    assert all(gradient.abs().max() < 1e-12 for gradient in gradients)
    assert lowest < loss.gradient(start, start, batch)[0]


def uneven_clusters() -> tuple[np.ndarray, np.ndarray]:
    """400 rows in clusters of 300, 60 and 40."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [300, 60, 40]))
    return (np.eye(8)[labels] + 0.15 * rng.standard_normal((400, 8))).astype(np.float32), labels


def test_heads_keep_a_partition_of_uneven_sizes_and_the_network_that_votes_stays(monkeypatch):
    rows, labels = uneven_clusters()
    features = FeatureSet.from_arrays(rows)
    started = {}
    first_teacher = module.ClusteringModule.first_teacher

    def noted(self):
        teacher = first_teacher(self)
        started.update(module=self, weights={name: one.clone() for name, one in teacher.state_dict().items()})
        return teacher

    monkeypatch.setattr(module.ClusteringModule, "first_teacher", noted)
    recipe = Recipe.of("consensus_heads", n_clusters=3, hidden_dim=32, embedding_dim=16, max_epochs=20)
    trained = fit_heads(features, recipe, TrainerSettings("cpu"), neighbors=mine_neighbors(features, 30)).trained
    assert adjusted_rand_score(labels, trained.assign(features).labels) == pytest.approx(1, abs=0.02)
    for name, weight in started["module"].teacher.state_dict().items():
        torch.testing.assert_close(weight, started["weights"][name], rtol=0, atol=0)
    # What is kept is what was trained.
    assert any((one != started["weights"][name]).any() for name, one in trained.heads.state_dict().items())


def test_a_start_from_nothing_is_refused(planted):
    with pytest.raises(InputError, match="init=random, but loss=consensus_heads keeps what its heads start from"):
        fit_heads(planted, Recipe.of("consensus_heads", n_clusters=5, init="random"), TrainerSettings("cpu"))


@pytest.mark.parametrize(("n_clusters", "epochs"), [(10, 4), (499, 4), (500, 16)])
def test_of_many_clusters_a_head_sees_each_sample_more_often_before_training(n_clusters, epochs):
    assert Recipe.of("consensus_heads", n_clusters=n_clusters).epochs_of_warm_start() == epochs
    assert Recipe.of("temi", n_clusters=n_clusters).epochs_of_warm_start() == 1
    assert Recipe.of("consensus_heads", n_clusters=n_clusters, warm_start_epochs=2).epochs_of_warm_start() == 2


@pytest.mark.parametrize(("n_rows", "epochs"), [(1000, 60), (60_000, 10), (100_000, 6), (200_000, 3), (10**7, 3)])
def test_many_rows_are_passed_over_less_often(n_rows, epochs):
    assert Recipe.of("consensus_heads", n_clusters=10).epochs(n_rows) == epochs
    assert Recipe.of("consensus_heads", n_clusters=10, max_epochs=7).epochs(n_rows) == 7
    assert Recipe.of("temi", n_clusters=10).epochs(max(n_rows, 60_000)) == 10
