"""Every rule on classes that are worked out by hand, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.runtime.errors import InputError
from deepclust.subsets import selectors
from deepclust.subsets.hierarchy import hierarchy_of_parents
from deepclust.subsets.selectors import Classes

# animal > dog > terrier, poodle; animal > cat; chair
TREE = hierarchy_of_parents(
    ["animal", "dog", "terrier", "poodle", "cat", "chair"], [-1, 0, 1, 1, 0, -1], "test",
    source_leaf_M=np.array([False, False, False, True, True, True]),
)  # fmt: skip


def no_hierarchy():
    raise InputError("none")


def classes_with(counts, names=None):
    names = names or [f"c{index}" for index in range(len(counts))]
    return Classes(names, np.asarray(counts), no_hierarchy)


def kept_names(benchmark):
    return benchmark.class_names


TREE_CLASSES = Classes(TREE.names, np.ones(6, int), lambda: TREE)
EVEN = classes_with([5, 5, 5])
# 21 classes, c0 rarest … c20 most frequent: percentile p is the frequency of class p / 5.
LADDER = classes_with(np.arange(10, 31))


@pytest.mark.parametrize(
    ("spread", "low", "high"), [(5, 9, 11), (15, 7, 13), (25, 5, 15), (35, 3, 17), (45, 1, 19), (50, 0, 20)]
)
def test_around_the_median_percentiles_of_the_frequencies_bound_the_classes(spread, low, high):
    found = selectors.around_median("tiny", LADDER, spread)
    assert kept_names(found) == [f"c{index}" for index in range(low, high + 1)]


def test_classes_of_equal_frequency_stay_together():
    # Sorted: 1 1 5 5 5 5 9 9. The median is 5, and all four classes of it are in.
    found = selectors.around_median("tiny", classes_with([5, 1, 5, 9, 5, 9, 1, 5]), 5)
    assert kept_names(found) == ["c0", "c2", "c4", "c7"]
    assert found.new_class_K.tolist() == [0, -1, 1, -1, 2, -1, -1, 3]


def test_imbalanced_takes_the_center_and_the_top_and_centered_as_many_from_the_center():
    # Percentiles 45 … 55 are classes 9 … 11, 90 … 100 are 18 … 20.
    assert kept_names(selectors.imbalanced("i", LADDER)) == [f"c{index}" for index in (9, 10, 11, 18, 19, 20)]
    assert kept_names(selectors.centered("c", LADDER)) == [f"c{index}" for index in range(7, 13)]


def test_frequency_rules_refuse_what_has_no_imbalance():
    for rule in (selectors.imbalanced, selectors.centered, lambda *a: selectors.around_median(*a, spread=5)):
        with pytest.raises(InputError, match="all 3 classes have 5 training samples"):
            rule("tiny", EVEN)


def test_odd_halves_the_training_samples_of_odd_classes_alone():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [10, 10, 7, 7]))
    benchmark = selectors.odd("odd", classes_with([10, 10, 7, 7]))
    train = benchmark.select(labels)
    assert np.bincount(train.labels).tolist() == [10, 5, 7, 4]
    assert (labels[train.rows_N] == train.labels).all()
    test = benchmark.select(labels, "test")
    assert test.rows_N.all()
    assert (test.labels == labels).all()
    again, other = benchmark.select(labels), selectors.odd("odd", classes_with([1] * 4), seed=1).select(labels)
    assert (again.rows_N == train.rows_N).all()
    assert (other.rows_N != train.rows_N).any()


def test_coarse_keeps_every_sample_and_maps_it_to_its_ancestor():
    labels = np.array([5, 3, 2, 1, 0, 4])
    one = selectors.coarse("coarse_1", TREE_CLASSES, 1)
    assert one.class_names == ["animal", "chair"]
    assert one.select(labels).labels.tolist() == [1, 0, 0, 0, 0, 0]
    two = selectors.coarse("coarse_2", TREE_CLASSES, 2)
    assert two.class_names == ["animal", "dog", "cat", "chair"]
    assert two.select(labels, "test").labels.tolist() == [3, 1, 1, 1, 0, 2]
    assert two.select(labels).rows_N.all()


def test_coarse_reaches_nodes_that_are_no_classes():
    tree = hierarchy_of_parents(["tops", "shirt", "coat", "bag"], [-1, 0, 0, -1], "test")
    found = selectors.coarse("coarse_1", Classes(["bag", "coat", "shirt"], np.ones(3, int), lambda: tree), 1)
    assert found.class_names == ["tops", "bag"]
    assert found.new_class_K.tolist() == [1, 0, 0]


def test_leaf_rules_drop_the_samples_of_other_classes_from_every_split():
    labels = np.array([0, 1, 2, 3, 4, 5])
    tree_leaf = selectors.tree_leaf("in21k_leaf", TREE_CLASSES)
    assert tree_leaf.class_names == ["terrier", "poodle", "cat", "chair"]
    for split in ("train", "test"):
        found = tree_leaf.select(labels, split)
        assert found.rows_N.tolist() == [False, False, True, True, True, True]
        assert found.labels.tolist() == [0, 1, 2, 3]
    # WordNet knows a kind of terrier that is no class here.
    assert selectors.source_leaf("wordnet_leaf", TREE_CLASSES).class_names == ["poodle", "cat", "chair"]
    own = hierarchy_of_parents(["a", "b"], [-1, -1], "own.csv")
    with pytest.raises(InputError, match=r"the hierarchy is own\.csv: use benchmark=in21k_leaf"):
        selectors.source_leaf("wordnet_leaf", Classes(["a", "b"], np.ones(2, int), lambda: own))


def test_the_easiest_classes_are_those_of_highest_accuracy_and_the_union_has_them_of_any_model():
    first, second = [0.9, 0.1, 0.8, 0.8, 0.2], [0.1, 0.9, 0.8, 0.2, 0.3]
    classes = classes_with([1] * 5)
    assert kept_names(selectors.easiest("clip_1k", classes, np.array(first), 2)) == ["c0", "c2"]
    union = selectors.union("union", classes, [np.array(first), np.array(second)], 2)
    assert kept_names(union) == ["c0", "c1", "c2"]
    with pytest.raises(InputError, match="there are 4 per-class accuracies for 5 classes"):
        selectors.easiest("clip_1k", classes, np.ones(4), 2)
    unknown = np.array([0.1, np.nan, 0.3, np.nan, np.nan])
    assert kept_names(selectors.easiest("clip_1k", classes, unknown, 2)) == ["c0", "c2"]
    with pytest.raises(InputError, match="keeps the 3 easiest classes, but accuracies are known of 2 alone"):
        selectors.easiest("clip_1k", classes, unknown, 3)


def test_random_classes_are_those_of_the_seed_and_no_more_than_there_are():
    draws = [tuple(kept_names(selectors.random_classes("r", LADDER, 5, seed))) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 5
    with pytest.raises(InputError, match=r"keeps 1000 classes, but there are 21: set benchmark\.n_classes"):
        selectors.random_classes("random_1k", LADDER)


def test_new_labels_replace_the_old_ones_and_classes_that_a_split_lost_are_dropped():
    relabels = {"train": np.array([2, 3, 1, -1, 4]), "test": np.array([3, 2, 2])}
    found = selectors.relabeled("p_hzr", TREE_CLASSES, relabels)
    assert found.class_names == ["terrier", "poodle"]
    train = found.select(np.array([0, 0, 1, 5, 4]))
    assert train.rows_N.tolist() == [True, True, False, False, False]
    assert train.labels.tolist() == [0, 1]
    assert found.select(np.zeros(3, int), "test").labels.tolist() == [1, 0, 0]
    with pytest.raises(InputError, match="5 new labels for the 4 samples of the train split"):
        found.select(np.zeros(4, int))
    with pytest.raises(InputError, match="go from 0 to 9"):
        selectors.relabeled("p_hzr", TREE_CLASSES, {"train": np.array([0, 9])})


def test_one_class_is_no_benchmark():
    chain = hierarchy_of_parents(["a", "b"], [-1, 0], "test")
    with pytest.raises(InputError, match="keeps 1 of 2 classes"):
        selectors.tree_leaf("in21k_leaf", Classes(["a", "b"], np.ones(2, int), lambda: chain))
    with pytest.raises(InputError, match="leaves 1 class at depth 1"):
        selectors.coarse("coarse_1", Classes(["a", "b"], np.ones(2, int), lambda: chain), 1)


def test_a_bound_between_two_classes_takes_both_in():
    assert kept_names(selectors.around_median("tiny", classes_with([1, 2, 3, 4]), 5)) == ["c1", "c2"]
