"""Diffused features are averages over walks, and tell many clusters apart that k-means does not.

Shape suffixes: N samples, M principal directions.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

import deepclust.training.initialization as initialization
from deepclust.metrics import ami
from deepclust.neighbors import mine_neighbors
from deepclust.neighbors.consensus import consensus_of_rows, views_of_rows
from deepclust.neighbors.diffusion import diffused_rows, order_of_signals, principal_rows
from deepclust.neighbors.neighbor_graph import neighbor_graph
from deepclust.neighbors.spectral import spectral_labels
from deepclust.runtime.errors import InputError
from deepclust.spherical_kmeans import kmeans_predict, spherical_kmeans
from deepclust.training.initialization import pair_information, spectral_partitions


@pytest.fixture(scope="module")
def long_tail() -> tuple[np.ndarray, np.ndarray]:
    """3000 × 32 rows of 80 classes below 8 parents; the largest class has 14 times as many as the smallest."""
    rng = np.random.default_rng(0)
    means = rng.standard_normal((8, 32))[np.arange(80) % 8] + 0.7 * rng.standard_normal((80, 32))
    shares = 1 / (np.arange(80) + 6.0)
    labels = rng.choice(80, 3000, p=shares / shares.sum())
    spread = rng.uniform(0.3, 0.9, 80)[labels, None]
    return (means[labels] + spread * rng.standard_normal((3000, 32))).astype(np.float32), labels


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_principal_rows_are_those_of_unit_rows(dtype, long_tail):
    rows = long_tail[0][:500].astype(dtype)
    unit_ND = rows / np.linalg.norm(rows.astype(np.float32), axis=1, keepdims=True)
    expected_NM = PCA(5).fit_transform(unit_ND)
    found_NM = principal_rows(rows, 5)
    np.testing.assert_allclose(found_NM @ found_NM.T, expected_NM @ expected_NM.T, atol=1e-4)
    np.testing.assert_allclose(principal_rows(rows, 32), unit_ND - unit_ND.mean(axis=0), atol=1e-5)  # all directions


def test_by_distance_lengths_count_and_a_row_of_zeros_has_its_place(long_tail):
    rows = np.concatenate([np.zeros((1, 32), np.float32), long_tail[0][:300]])
    np.testing.assert_allclose(principal_rows(rows, metric="euclidean"), rows - rows.mean(axis=0), atol=1e-5)
    neighbors = mine_neighbors(rows, 10, metric="euclidean")
    assert len(np.unique(consensus_of_rows(rows, 70, neighbors=neighbors).partitions_HN[0])) > 60


def test_diffused_rows_are_averages_over_walks_less_what_all_share(long_tail):
    rows_NM = principal_rows(long_tail[0][:200], 5)
    graph = neighbor_graph(mine_neighbors(long_tail[0][:200], 10), k=6)
    steps_NN = graph.toarray() / graph.toarray().sum(axis=1, keepdims=True)
    for steps, found_NM in zip((1, 3), diffused_rows(rows_NM, graph, (1, 3))):
        expected_NM = np.linalg.matrix_power(steps_NN, steps) @ rows_NM
        np.testing.assert_allclose(found_NM, expected_NM - expected_NM.mean(axis=0), atol=1e-6)


def test_a_sample_without_edges_keeps_its_features():
    graph = sparse.csr_matrix(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], np.float32))
    rows_NM = np.array([[1, 0], [0, 1], [-1, -1]], np.float32)
    np.testing.assert_allclose(next(diffused_rows(rows_NM, graph, (2,))), rows_NM)


def test_the_order_puts_samples_of_a_class_together(long_tail):
    rows, labels = long_tail
    order_N = order_of_signals(neighbor_graph(mine_neighbors(rows, 10)))
    np.testing.assert_array_equal(np.sort(order_N), np.arange(len(rows)))
    together = np.mean(labels[order_N][1:] == labels[order_N][:-1])
    assert together > 3 * np.mean(labels[1:] == labels[:-1])


def test_many_clusters_of_unequal_size_are_found_better_than_by_kmeans(long_tail):
    rows, labels = long_tail
    neighbors = mine_neighbors(rows, 30)
    by_kmeans = ami(labels, spherical_kmeans(rows, 80).labels_N)
    found_HN = spectral_partitions(rows, neighbors, 80, 2)
    assert min(ami(labels, found_N) for found_N in found_HN) > by_kmeans + 0.02
    assert ami(labels, consensus_of_rows(rows, 80, neighbors=neighbors).partitions_HN[0]) > by_kmeans + 0.02


def test_where_features_are_diffused_labels_belong_to_the_samples_as_they_came(long_tail):
    rows, labels = long_tail
    shuffled = np.random.default_rng(0).permutation(len(rows))
    views_VN = views_of_rows(rows[shuffled], 80)
    assert min(ami(labels[shuffled], view_N) for view_N in views_VN) > 0.5


@pytest.mark.parametrize(("affordable", "distinct"), [(0, 1), (3 * 3000 * 80, 3), (10**12, 10)])
def test_heads_share_partitions_where_few_can_be_afforded(affordable, distinct, long_tail, monkeypatch):
    monkeypatch.setattr(initialization, "DIFFUSED_PAIRS", affordable)
    neighbors = mine_neighbors(long_tail[0], 15)
    found_HN = spectral_partitions(long_tail[0], neighbors, 80, 10)
    assert len({labels_N.tobytes() for labels_N in found_HN}) == distinct
    information = [pair_information(labels_N, neighbors, 80) for labels_N in found_HN[:distinct]]
    assert information == sorted(information, reverse=True)
    np.testing.assert_array_equal(found_HN[distinct:], found_HN[np.arange(distinct, 10) % distinct])


def test_clusters_of_a_sample_take_in_the_others_by_the_nearest_center(long_tail, monkeypatch):
    monkeypatch.setattr("deepclust.neighbors.spectral.FITTED_ROWS", 500)
    monkeypatch.setattr("deepclust.neighbors.spectral.FITTED_ROWS_PER_CLUSTER", 1)
    rows = long_tail[0]
    drawn = np.sort(np.random.default_rng(1).choice(len(rows), 500, replace=False))
    centers = spherical_kmeans(rows[drawn], 20, n_init=1, seed=1).centroids_CD
    found_N = spectral_labels(rows, 20, n_init=1, seed=1, sampled=True)
    np.testing.assert_array_equal(found_N, kmeans_predict(rows, centers, top=1)[0])


@pytest.mark.parametrize("steps", [(4, 4), (0, 2)])
def test_steps_that_do_not_ascend_are_refused(steps, long_tail):
    with pytest.raises(InputError, match="steps are"):
        next(diffused_rows(long_tail[0][:50], neighbor_graph(mine_neighbors(long_tail[0][:50], 5)), steps))
