from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from deepclust import TEMI, ConsensusHeads
from deepclust.cuts.confidence import (
    agreeing_views,
    confidence_temperature,
    disagreement,
    expected_accuracy,
    matched_clusters,
    mean_confidence,
)
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import mine_neighbors
from deepclust.training.initialization import views_at_start


@pytest.fixture(scope="module")
def blurred() -> FeatureSet:
    """Five clusters that overlap, so that heads disagree."""
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 5
    rows = generator.normal(size=(5, 16))[labels] + generator.normal(size=(300, 16)) * 1.4
    return FeatureSet.from_arrays(rows.astype(np.float32), labels)


@pytest.fixture(scope="module")
def model(blurred) -> TEMI:
    return TEMI((2, 12), n_heads=3, n_neighbors=8, max_epochs=6, batch_size=128, device="cpu", random_state=0).fit(
        blurred
    )


def test_clusters_are_matched_with_the_shown_one_of_most_of_their_members():
    shown = np.array([0, 0, 1, 1, 1, 2])
    labels = np.array([[3, 3, 3, 1, 1, 0]])
    assert matched_clusters(shown, labels, 5).tolist() == [[2, 1, -1, 0, -1]]
    assert matched_clusters(shown, np.zeros((1, 6), int), 1).tolist() == [[1]]
    assert matched_clusters(shown, np.array([[0, 1, 0, 1, 2, 2]]), 3).tolist() == [[0, 0, 1]]  # of equals the first


def test_disagreement_and_expected_accuracy_count_the_other_heads(model, blurred):
    model = model.cut(8)
    trained = model.trained_
    others = [head for head in range(3) if head != trained.best_head]
    labels_HN = trained.labels_of_heads(blurred)[others]
    as_shown = []
    for labels_N in labels_HN:
        most = {one: np.bincount(model.labels_[labels_N == one]).argmax() for one in set(labels_N.tolist())}
        as_shown.append([most[one] for one in labels_N.tolist()])
    differ_HN = np.array(as_shown) != model.labels_
    assert 0 < differ_HN.mean() < 1
    np.testing.assert_allclose(disagreement(trained, blurred, model.labels_), differ_HN.mean(axis=0), atol=0.01)
    ids = np.zeros((300, 5), int)  # neighbors have no say where there are other heads
    assert expected_accuracy(trained, blurred, ids) == pytest.approx((~differ_HN).all(axis=0).mean(), abs=0.01)


def test_a_failed_head_has_no_say_and_a_single_one_asks_the_neighbors(model, blurred):
    trained = type(model.trained_).from_state(model.trained_.state())
    trained.losses_H = np.where(np.arange(3) == trained.best_head, trained.losses_H, np.nan)
    assert disagreement(trained, blurred, model.labels_) is None
    ids = np.random.default_rng(0).integers(0, 300, (300, 7))
    expected = (model.labels_[ids[:, :5]] == model.labels_[:, None]).mean()
    assert expected_accuracy(trained, blurred, ids) == pytest.approx(expected)


@pytest.fixture(scope="module")
def alone(blurred) -> ConsensusHeads:
    """One head that learned a consensus."""
    return ConsensusHeads(5, hidden_dim=32, embedding_dim=16, device="cpu", random_state=3).fit(blurred)


@pytest.mark.parametrize("groups", [None, [0, 1, 0, 2, 1]])
def test_a_single_head_is_as_sure_as_three_views_that_it_started_from(alone, blurred, groups):
    trained = type(alone.trained_).from_state(alone.trained_.state())
    views_VN = views_at_start(trained.recipe, blurred, mine_neighbors(blurred, 30))
    leaves = alone.labels_
    trained.groups_C = None if groups is None else np.array(groups, np.int32)
    shown = trained.assign(blurred).labels
    agree_VN = []
    for view in views_VN:
        counts = np.zeros((5, 5), int)
        np.add.at(counts, (view, leaves), 1)
        said = linear_sum_assignment(-counts)[1][view]
        agree_VN.append((said if groups is None else np.array(groups)[said]) == shown)
    share = np.mean(agree_VN, axis=0)
    assert 0.3 < share.mean() < 0.99
    np.testing.assert_allclose(agreeing_views(trained, blurred, shown, views_VN), share, atol=1e-5)
    np.testing.assert_allclose(disagreement(trained, blurred, shown, views_VN), 1 - share, atol=1e-5)
    ids = np.zeros((300, 5), int)  # neighbors have no say where there are views
    expected = expected_accuracy(trained, blurred, ids, views_VN)
    assert expected == pytest.approx((share**3).mean())
    if groups is None:
        assert alone.predict_proba(blurred).max(axis=1).mean() == pytest.approx(expected, abs=2e-3)


def test_only_a_single_head_that_started_from_a_consensus_is_held_against_its_views(alone, blurred):
    recipe, neighbors = alone.trained_.recipe, mine_neighbors(blurred, 30)
    for other in ({"n_heads": 2}, {"init": "spectral"}, {"n_clusters": 1}):
        assert views_at_start(replace(recipe, **other), blurred, neighbors) is None


@pytest.mark.parametrize("cut", [None, 3])
def test_the_temperature_gives_the_expected_mean_and_changes_no_label(model, blurred, cut):
    trained = type(model.trained_).from_state(model.trained_.state())
    trained.groups_C = None if cut is None else model.tree_.groups(cut)
    trained.confidence_temperature = 1.0
    sure = trained.assign(blurred)
    for expected in (0.6, 0.8):
        trained.confidence_temperature = confidence_temperature(trained, blurred, expected)
        found = trained.assign(blurred)
        assert found.top_probs[:, 0].mean() == pytest.approx(expected, abs=1e-3)
        np.testing.assert_array_equal(found.labels, sure.labels)
        np.testing.assert_allclose(trained.probabilities(blurred).max(axis=1), found.top_probs[:, 0], atol=1e-6)


def test_mean_confidence_is_that_of_a_softmax():
    scores = torch.randn(50, 7)
    shifted = scores - scores.max(dim=1, keepdim=True).values
    expected = torch.softmax(scores / 1.7, dim=1).max(dim=1).values.mean()
    assert mean_confidence(shifted, 1.7) == pytest.approx(float(expected), abs=1e-6)


def test_every_cut_predicts_what_its_labels_and_probabilities_say(model, blurred, tmp_path):
    loaded = TEMI.load(model.save(tmp_path / "model.pt"))
    assert str(loaded.exploration_) == str(model.exploration_)
    for count in (2, 7, model.exploration_.chosen):
        here, there = model.cut(count), loaded.cut(count)
        np.testing.assert_array_equal(here.predict(blurred), here.labels_)
        np.testing.assert_array_equal(there.labels_, here.labels_)
        probs = there.predict_proba(blurred)
        assert probs.shape == (300, count)
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(probs.argmax(axis=1), here.labels_)
    np.testing.assert_array_equal(model.cut(model.exploration_.chosen).labels_, model.labels_)
    saved = model.cut(7).save(tmp_path / "seven.pt")
    np.testing.assert_array_equal(TEMI.load(saved).predict(blurred), model.cut(7).labels_)
    with pytest.raises(ValueError, match="a tree of 12 clusters is cut into 1 to 12"):
        model.cut(13)


def test_the_exploration_takes_the_first_best_cut_and_recommends_its_like(model):
    from deepclust.cuts.exploration import chosen_among, counts_within

    def with_scores(*scores):
        cuts = [replace(model.exploration_.cuts[0], n_clusters=3 + i, pair_f1=s) for i, s in enumerate(scores)]
        return chosen_among(model.tree_, cuts)

    found = with_scores(0.96, 0.5, 0.98, 1.0, 1.0, 0.96, 0.94, 1.0)
    assert (found.chosen, found.recommended) == (6, (5, 8))
    assert "5 to 8 clusters are recommended by the pair F1" in found.note
    assert "4 is the highest number that was looked at" in with_scores(0.1, 0.9).note
    assert "take the number for a guess" in with_scores(0.1, 0.3, 0.2).note
    assert counts_within(2, 5) == [2, 3, 4, 5]
    many = counts_within(2, 3000)
    assert (many[0], many[-1], many == sorted(set(many)), len(many) <= 64) == (2, 3000, True, True)
