"""Multi-label accuracies against counting by hand, and ReaL's protocol."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.clustering import Clustering
from deepclust.metrics import cluster_accuracy, hungarian_map
from deepclust.metrics.label_sets import LabelSets
from deepclust.metrics.multilabel import drawn_label_accuracy, multilabel_accuracy
from deepclust.runtime.errors import InputError


def noisy_clustering(n_samples=600, n_classes=7, n_clusters=9, seed=0, with_noise=True):
    """Random labels, a clustering that partly follows them, with five distinct clusters per sample."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n_samples)
    scores = rng.random((n_samples, n_clusters))
    scores[np.arange(n_samples), labels] += rng.random(n_samples)
    top_ids = np.argsort(-scores, axis=1)[:, :5].astype(np.int32)
    if with_noise:
        top_ids[::50, 0] = -1
    return labels, Clustering(top_ids[:, 0].copy(), "planted", n_clusters, top_ids=top_ids)


def by_hand(clustering, labels, sets):
    """The four accuracies, sample by sample."""
    kept = [n for n, labels_of_n in enumerate(sets) if labels_of_n]
    mapping = hungarian_map(labels[kept], clustering.labels[kept])
    first = [mapping.get(int(clustering.labels[n])) for n in kept]
    five = [{mapping.get(int(c)) for c in clustering.top_ids[n]} - {None} for n in kept]
    counts = (
        sum(found == labels[n] for n, found in zip(kept, first)),
        sum(found in sets[n] for n, found in zip(kept, first)),
        sum(labels[n] in found for n, found in zip(kept, five)),
        sum(bool(found & set(sets[n])) for n, found in zip(kept, five)),
    )
    return [count / len(kept) for count in counts]


@pytest.mark.parametrize("seed", range(3))
def test_the_four_accuracies_are_those_counted_by_hand(seed):
    labels, clustering = noisy_clustering(seed=seed)
    rng = np.random.default_rng(seed + 10)
    sets = [[] if rng.random() < 0.1 else sorted({int(label), *rng.integers(7, size=2).tolist()}) for label in labels]
    scores = multilabel_accuracy(clustering, labels, LabelSets.from_lists(sets))
    assert list(scores.as_dict().values()) == pytest.approx(by_hand(clustering, labels, sets), abs=1e-12)
    assert scores.n_used == sum(bool(entry) for entry in sets)


def test_top1_to_1_is_the_clustering_accuracy_and_more_labels_or_guesses_only_help():
    labels, clustering = noisy_clustering()
    also = [[(own + 1) % 7] for own in range(7)]
    scores = multilabel_accuracy(clustering, labels, LabelSets.of_classes(labels, also))
    assert scores.top1_to_1 == cluster_accuracy(labels, clustering.labels)
    assert scores.top1_to_1 < scores.top1_to_L < scores.top5_to_L
    assert scores.top1_to_1 < scores.top5_to_1 < scores.top5_to_L


def test_sets_of_the_label_alone_change_nothing():
    labels, clustering = noisy_clustering()
    alone = multilabel_accuracy(clustering, labels, LabelSets.of_classes(labels, [[]] * 7))
    without = multilabel_accuracy(clustering, labels)
    assert (alone.top1_to_L, alone.top5_to_L) == (without.top1_to_1, without.top5_to_1)
    assert (without.top1_to_L, without.top5_to_L) == (None, None)


def test_a_method_without_second_choices_has_no_top5():
    labels, clustering = noisy_clustering()
    clustering.top_ids = None
    scores = multilabel_accuracy(clustering, labels, LabelSets.of_classes(labels, [[]] * 7))
    assert scores.top5_to_1 is scores.top5_to_L is None
    assert scores.top1_to_L == scores.top1_to_1


def test_drawing_from_sets_of_one_label_is_knowing_the_label():
    labels, clustering = noisy_clustering()
    scores = drawn_label_accuracy(clustering, LabelSets.from_lists([[int(label)] for label in labels]), n_draws=3)
    assert scores.top1_to_1 == scores.top1_to_L == pytest.approx(cluster_accuracy(labels, clustering.labels))
    assert set(scores.std.values()) == {0.0}


def test_drawn_labels_give_means_and_deviations_over_the_draws():
    labels, clustering = noisy_clustering()
    rng = np.random.default_rng(3)
    lists = [[] if n % 10 == 0 else sorted({int(label), int(rng.integers(7))}) for n, label in enumerate(labels)]
    sets = LabelSets.from_lists(lists)
    scores = drawn_label_accuracy(clustering, sets, n_draws=20, seed=1)
    rows = np.flatnonzero(sets.sizes)
    used, rng = sets.select(rows), np.random.default_rng(1)
    kept = Clustering(clustering.labels[rows], "planted", 9, top_ids=clustering.top_ids[rows])
    kept_lists = [lists[row] for row in rows]
    draws = np.array([by_hand(kept, used.draw(rng), kept_lists) for _ in range(20)])
    assert list(scores.as_dict().values()) == pytest.approx(draws.mean(0).tolist(), abs=1e-12)
    assert list(scores.std.values()) == pytest.approx(draws.std(0, ddof=1).tolist(), abs=1e-12)
    assert scores.n_used == len(rows)
    assert scores == drawn_label_accuracy(clustering, sets, n_draws=20, seed=1)


def test_what_does_not_fit_is_refused():
    labels, clustering = noisy_clustering()
    sets = LabelSets.from_lists([[]] * 600)
    with pytest.raises(InputError, match="every label set is empty"):
        multilabel_accuracy(clustering, labels, sets)
    with pytest.raises(InputError, match="599 labels for the 600 samples of planted"):
        multilabel_accuracy(clustering, labels[1:])
    with pytest.raises(InputError, match="5 label sets for the 600 samples"):
        drawn_label_accuracy(clustering, sets.select(np.arange(5)))


def test_a_classifier_is_judged_by_the_classes_that_it_names():
    labels, clustering = noisy_clustering()
    also = [[(own + 1) % 7] for own in range(7)]
    sets = LabelSets.of_classes(labels, also)
    itself = {number: number for number in range(7)}
    scores = multilabel_accuracy(clustering, labels, sets, mapping=itself)
    # Clusters 7 and 8 are no classes, and noise is none.
    five = np.where(clustering.top_ids < 7, clustering.top_ids, -1)
    right = (five == labels[:, None]) | (five == (labels[:, None] + 1) % 7) & (five >= 0)
    assert scores.top1_to_1 == np.mean(five[:, 0] == labels)
    assert scores.top1_to_L == np.mean(right[:, 0])
    assert scores.top5_to_1 == np.mean((five == labels[:, None]).any(1))
    assert scores.top5_to_L == np.mean(right.any(1))
    # One that names all classes in another order is all wrong, where the best map would forgive it.
    shifted = Clustering((labels + 2) % 7, "shifted", 7)
    assert multilabel_accuracy(shifted, labels, sets).top1_to_1 == 1
    assert multilabel_accuracy(shifted, labels, sets, mapping=itself).top1_to_L == 0
    drawn = drawn_label_accuracy(clustering, sets, n_draws=5, mapping=itself)
    assert (drawn.top1_to_L, drawn.std["top1_to_L"]) == (pytest.approx(scores.top1_to_L), pytest.approx(0, abs=1e-12))
    assert drawn.std["top1_to_1"] > 0
