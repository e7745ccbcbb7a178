"""Multi-label accuracies against counting by hand, and ReaL's protocol."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deepclust.clustering import Clustering
from deepclust.errors import InputError
from deepclust.metrics import cluster_accuracy, hungarian_map
from deepclust.metrics.multilabel import (
    LabelSets,
    class_ancestors,
    classes_also,
    drawn_label_accuracy,
    multilabel_accuracy,
    read_label_sets,
    real_label_sets,
)


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


def test_ancestors_count_where_they_are_classes_themselves():
    class Tree:
        def ancestors(self, node):
            return {"guitarist": ["musician", "person", "organism"], "musician": ["person", "organism"]}.get(node, [])

    names = ["person", "guitarist", "musician"]
    assert class_ancestors(Tree(), names) == [[], [2, 0], [0]]
    sets = LabelSets.of_classes(np.array([1, 0, 2]), class_ancestors(Tree(), names))
    assert [sets.ids[low:high].tolist() for low, high in zip(sets.starts, sets.starts[1:])] == [[0, 1, 2], [0], [0, 2]]
    # Guitarists fall together with musicians, who are the class that the cluster is mapped to.
    clustering = Clustering(np.array([0, 0, 0, 1]), "planted", 2)
    labels = np.array([2, 2, 1, 0])
    scores = multilabel_accuracy(clustering, labels, LabelSets.of_classes(labels, class_ancestors(Tree(), names)))
    assert (scores.top1_to_1, scores.top1_to_L) == (0.75, 1.0)


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


def test_reals_labels_are_found_by_file_name_in_any_order():
    names = ["val/n1/ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"]
    sets = real_label_sets(names)
    # The first three entries of timm's file: [], [970, 795], [230, 231].
    assert sets.sizes.tolist() == [2, 0, 2]
    assert sets.ids.tolist() == [230, 231, 970, 795]
    with pytest.raises(InputError, match=r"train/x.JPEG is no ImageNet validation image"):
        real_label_sets(["train/x.JPEG"])


def test_label_sets_are_read_from_both_kinds_of_file(tmp_path):
    (tmp_path / "samples.json").write_text("[[1], [], [0, 2]]")
    assert read_label_sets(tmp_path / "samples.json") == [[1], [], [0, 2]]
    (tmp_path / "classes.json").write_text(json.dumps({"b": ["a", 2]}))
    table = read_label_sets(tmp_path / "classes.json")
    assert classes_also(table, ["a", "b", "c"]) == [[], [0, 2], []]


@pytest.mark.parametrize("content", ["{", '"text"', "[1, 2]", '{"a": 1}'])
def test_another_kind_of_file_is_refused(content, tmp_path):
    (tmp_path / "sets.json").write_text(content)
    with pytest.raises(InputError, match=r"sets\.json (cannot be read as JSON|must hold a list of lists)"):
        read_label_sets(tmp_path / "sets.json")


def test_what_does_not_fit_is_refused():
    labels, clustering = noisy_clustering()
    sets = LabelSets.from_lists([[]] * 600)
    with pytest.raises(InputError, match="every label set is empty"):
        multilabel_accuracy(clustering, labels, sets)
    with pytest.raises(InputError, match="599 labels for the 600 samples of planted"):
        multilabel_accuracy(clustering, labels[1:])
    with pytest.raises(InputError, match="5 label sets for the 600 samples"):
        drawn_label_accuracy(clustering, sets.select(np.arange(5)))
    with pytest.raises(InputError, match="label sets name the class 'gown'"):
        classes_also({"gown": []}, ["dress"])
    with pytest.raises(InputError, match="label sets are given for 3 classes"):
        LabelSets.of_classes(labels, [[], [], []])
    with pytest.raises(InputError, match="class ids, whole numbers"):
        LabelSets.from_lists([[0.5]])


def test_hits_are_exact_at_the_scale_of_imagenet21k():
    rng = np.random.default_rng(0)
    n_samples, n_classes = 50_000, 10_450
    labels = rng.integers(n_classes, size=n_samples)
    also = [[int(above) for above in rng.integers(n_classes, size=6)] for _ in range(n_classes)]
    sets = LabelSets.of_classes(labels, also)
    asked = rng.integers(n_classes, size=(n_samples, 5))
    asked[:, 3] = np.array([row[2] for row in also])[labels]
    found = sets.contains(asked)
    assert found[:, 3].all()
    for row in range(0, n_samples, 5000):
        own = {int(labels[row]), *also[labels[row]]}
        assert found[row].tolist() == [int(value) in own for value in asked[row]]
