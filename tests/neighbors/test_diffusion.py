"""Diffused signals are powers of the normalized adjacency, and tell many clusters apart that k-means does not.

Shape suffixes: N samples, M signals.
"""

from __future__ import annotations

import numpy as np
import pytest

import deepclust.training.initialization as initialization
from deepclust.metrics import ami
from deepclust.neighbors import mine_neighbors
from deepclust.neighbors.diffusion import diffused_signals
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


def test_signals_are_powers_of_the_normalized_adjacency_without_what_all_share(long_tail):
    neighbors = mine_neighbors(long_tail[0][:200], 10)
    affinity = neighbor_graph(neighbors, k=6).toarray().astype(np.float64)
    degree = affinity.sum(axis=1)
    normalized = affinity / np.sqrt(np.outer(degree, degree))
    shared_N = np.sqrt(degree / degree.sum())
    start_NM = np.random.default_rng(4).standard_normal((200, 5), dtype=np.float32)
    graph = neighbor_graph(neighbors, k=6)
    for steps, found_NM in zip((1, 3), diffused_signals(graph, (1, 3), n_signals=5, seed=4)):
        expected_NM = np.linalg.matrix_power(normalized, steps) @ start_NM
        np.testing.assert_allclose(found_NM, expected_NM - np.outer(shared_N, shared_N @ expected_NM), atol=1e-5)


def test_many_clusters_of_unequal_size_are_found_better_than_by_kmeans(long_tail):
    rows, labels = long_tail
    found_HN = spectral_partitions(mine_neighbors(rows, 30), 80, 2)
    assert min(ami(labels, found_N) for found_N in found_HN) > ami(labels, spherical_kmeans(rows, 80).labels_N) + 0.02


@pytest.mark.parametrize(("affordable", "distinct"), [(0, 1), (3 * 3000 * 80, 3), (10**12, 10)])
def test_heads_share_partitions_where_few_can_be_afforded(affordable, distinct, long_tail, monkeypatch):
    monkeypatch.setattr(initialization, "DIFFUSED_PAIRS", affordable)
    neighbors = mine_neighbors(long_tail[0], 15)
    found_HN = spectral_partitions(neighbors, 80, 10)
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


@pytest.mark.parametrize("wrong", [{"steps": (4, 4)}, {"steps": (0, 2)}, {"steps": (2,), "n_signals": 0}])
def test_steps_that_do_not_ascend_and_no_signals_are_refused(wrong, long_tail):
    with pytest.raises(InputError, match=r"steps are|n_signals is 0"):
        next(diffused_signals(neighbor_graph(mine_neighbors(long_tail[0][:50], 5)), **wrong))
