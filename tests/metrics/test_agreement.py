"""Agreement metrics against scikit-learn and against brute force."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from deepclust.metrics import ami, ari, cluster_accuracy, hungarian_map, nmi, one_sided_ami
from deepclust.metrics.agreement import expected_mutual_information
from deepclust.runtime.errors import InputError


def partitions(n_samples, n_classes, n_clusters, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.beta(0.6, 1, n_samples) * n_classes).astype(int)
    keep = rng.random(n_samples) < 0.5
    return labels, np.where(keep, labels % n_clusters, rng.integers(n_clusters, size=n_samples))


SHAPES = [(40, 3, 5), (60, 5, 3), (500, 10, 10), (3000, 200, 60), (5000, 40, 700), (20000, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_nmi_ami_ari_equal_scikit_learns(shape):
    labels, clusters = partitions(*shape)
    clusters[::7] = -1
    assert nmi(labels, clusters) == pytest.approx(sklearn_metrics.normalized_mutual_info_score(labels, clusters))
    assert ami(labels, clusters) == pytest.approx(
        sklearn_metrics.adjusted_mutual_info_score(labels, clusters), abs=1e-9
    )
    assert ari(labels, clusters) == pytest.approx(sklearn_metrics.adjusted_rand_score(labels, clusters))


def test_expected_mutual_information_is_the_mean_over_permutations():
    labels, clusters = partitions(60, 4, 6)
    rng = np.random.default_rng(1)
    draws = [sklearn_metrics.mutual_info_score(labels, rng.permutation(clusters)) for _ in range(2000)]
    expected = expected_mutual_information(np.bincount(labels), np.unique(clusters, return_counts=True)[1])
    assert expected == pytest.approx(np.mean(draws), abs=4 * np.std(draws) / np.sqrt(len(draws)))


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(4, 4), (3, 5), (5, 3), (4, 1), (1, 4)])
def test_accuracy_is_the_best_of_all_one_to_one_maps(n_classes, n_clusters):
    rng = np.random.default_rng(n_classes + 10 * n_clusters)
    labels, clusters = rng.integers(n_classes, size=50), rng.integers(n_clusters, size=50)
    # -2 stands for "no class", so that a map may leave clusters out.
    targets = [*range(n_classes), *[-2] * n_clusters]
    best = max(
        np.mean(np.array(choice)[clusters] == labels) for choice in set(itertools.permutations(targets, n_clusters))
    )
    assert cluster_accuracy(labels, clusters) == pytest.approx(best)
    mapping = hungarian_map(labels, clusters)
    assert len(set(mapping.values())) == len(mapping)
    assert np.mean([mapping.get(c) == y for c, y in zip(clusters, labels)]) == pytest.approx(best)


def test_noise_is_never_mapped_and_counts_as_wrong():
    labels = np.array([0] * 6 + [1] * 4)
    clusters = np.array([-1] * 6 + [0] * 4)
    assert hungarian_map(labels, clusters) == {0: 1}
    assert cluster_accuracy(labels, clusters) == 0.4
    assert cluster_accuracy(labels, np.full(10, -1)) == 0.0
    assert ami(labels, clusters) == pytest.approx(1)  # for AMI noise is one more cluster


@pytest.mark.parametrize("metric", [cluster_accuracy, nmi, ami, ari, one_sided_ami])
def test_names_and_order_do_not_matter(metric):
    labels, clusters = partitions(400, 6, 9)
    rng = np.random.default_rng(2)
    order = rng.permutation(400)
    renamed = rng.permutation(100)[clusters]
    assert metric(labels[order], renamed[order]) == pytest.approx(metric(labels, clusters))
    assert metric(labels, labels) == pytest.approx(1)


def test_one_sided_ami_forgives_finer_clusters_but_not_chance():
    rng = np.random.default_rng(3)
    labels = rng.integers(4, size=4000)
    finer = labels * 5 + rng.integers(5, size=4000)
    assert one_sided_ami(labels, finer) == pytest.approx(1)
    assert ami(labels, finer) < 0.7
    assert one_sided_ami(labels, rng.integers(20, size=4000)) == pytest.approx(0, abs=0.01)
    assert one_sided_ami(labels, np.arange(4000)) == 0.0
    expected = expected_mutual_information(np.bincount(labels), np.bincount(finer))
    entropy = sklearn_metrics.mutual_info_score(labels, labels)
    mutual = sklearn_metrics.mutual_info_score(labels, finer)
    assert one_sided_ami(labels, finer) == pytest.approx((mutual - expected) / (entropy - expected))


def test_imagenet21k_sizes_take_seconds():
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(10450), 50)
    clusters = np.where(rng.random(len(labels)) < 0.3, labels, (rng.beta(0.8, 1.2, len(labels)) * 10450).astype(int))
    start = time.perf_counter()
    for metric in (cluster_accuracy, nmi, ami, ari, one_sided_ami):
        assert 0 < metric(labels, clusters) < 1
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("metric", [cluster_accuracy, nmi, ami, ari, one_sided_ami, hungarian_map])
def test_other_lengths_and_empty_labels_are_refused(metric):
    with pytest.raises(InputError, match="one label and one cluster id per sample"):
        metric(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match="at least one sample"):
        metric(np.zeros(0), np.zeros(0))


@pytest.mark.parametrize("metric", [cluster_accuracy, nmi, ami, ari, one_sided_ami])
def test_labels_and_clusters_may_be_text(metric):
    labels, clusters = partitions(200, 5, 7)
    named = np.array([f"class {label}" for label in labels])
    assert metric(named, clusters) == pytest.approx(metric(labels, clusters))
    assert metric(named.tolist(), [f"c{cluster}" for cluster in clusters]) == pytest.approx(metric(labels, clusters))
    assert metric(labels.astype(float), clusters) == pytest.approx(metric(labels, clusters))


def test_a_map_between_names_holds_the_names():
    assert hungarian_map(["cat", "cat", "dog"], [7, 7, -1]) == {7: "cat"}


@pytest.mark.parametrize("metric", [cluster_accuracy, nmi, ami, ari, one_sided_ami, hungarian_map])
@pytest.mark.parametrize("values", [[0, 1, np.nan], [0, 0.5, 1], ["cat", None, "dog"]], ids=str)
def test_what_names_no_groups_is_refused(metric, values):
    with pytest.raises(InputError, match=r"labels hold values that name no groups"):
        metric(values, [0, 1, 1])
    with pytest.raises(InputError, match=r"clusters hold values that name no groups"):
        metric([0, 1, 1], values)
