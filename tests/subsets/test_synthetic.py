"""Synthetic classes have the structure that they are said to have."""

from __future__ import annotations

import numpy as np

from deepclust.subsets.hierarchy import hierarchy_of_parents
from deepclust.subsets.selectors import Classes, around_median, imbalanced
from deepclust.subsets.synthetic import class_counts, synthetic_classes


def tree(n_families=40, n_children=5):
    parents = [-1] * n_families + [family for family in range(n_families) for _ in range(n_children)]
    return hierarchy_of_parents([str(node) for node in range(len(parents))], parents, "test")


def test_relatives_lie_nearer_than_strangers():
    classes = synthetic_classes(tree(), dim=64, decay=0.5)
    means, parents = classes.means_KD, classes.hierarchy.parents_M
    children = np.flatnonzero(parents >= 0)
    steps = np.linalg.norm(means[children] - means[parents[children]], axis=1)
    np.testing.assert_allclose(np.mean(steps**2), 0.25, rtol=0.1)  # decay^(2 - 1), squared
    siblings = np.linalg.norm(means[children[:-1]] - means[children[1:]], axis=1)
    related = parents[children[:-1]] == parents[children[1:]]
    assert siblings[related].max() < siblings[~related].min()


def test_samples_scatter_around_what_they_show_by_the_noise_of_their_class():
    classes = synthetic_classes(tree(), dim=64, stretch=0.0)
    labels = np.repeat([60, 61, 62], 400)
    features, shown = classes.draw(labels, np.random.default_rng(0))
    assert features.dtype == np.float16
    assert (shown == labels).all()  # leaves show themselves
    for label in (60, 61, 62):
        rows = features[labels == label].astype(np.float32)
        np.testing.assert_allclose(rows.mean(axis=0), classes.means_KD[label], atol=0.08)
        spread = np.linalg.norm(rows - classes.means_KD[label], axis=1)
        np.testing.assert_allclose(np.sqrt((spread**2).mean()), classes.noise_K[label], rtol=0.03)


def test_half_of_the_samples_of_a_class_with_kinds_show_one_of_them():
    classes = synthetic_classes(tree(), dim=8, shown_below=0.5)
    _, shown = classes.draw(np.full(4000, 3), np.random.default_rng(0))
    kinds, counts = np.unique(shown, return_counts=True)
    assert kinds.tolist() == [3, *classes.hierarchy.children[3].tolist()]
    np.testing.assert_allclose(counts / 4000, [0.5] + [0.1] * 5, atol=0.03)


def test_class_frequencies_give_the_papers_share_of_the_samples_to_its_frequency_benchmarks():
    counts = class_counts(10_450, 11_060_223)
    assert abs(counts.sum() - 11_060_223) < 10_450
    classes = Classes([str(index) for index in range(10_450)], counts, lambda: None)
    for rule, options, n_classes, millions in (
        (around_median, {"spread": 5}, 1060, 1.17),
        (around_median, {"spread": 15}, 3146, 3.46),
        (around_median, {"spread": 25}, 5230, 5.67),
        (around_median, {"spread": 35}, 7326, 7.79),
        (around_median, {"spread": 45}, 9405, 9.88),
        (imbalanced, {}, 2113, 2.55),
    ):
        found = rule("test", classes, **options)
        np.testing.assert_allclose(found.n_classes, n_classes, rtol=0.02)
        np.testing.assert_allclose(counts[found.new_class_K >= 0].sum() / 1e6, millions, rtol=0.02)
