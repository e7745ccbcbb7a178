"""The one neighbor graph against scikit-learn's, and what its weights promise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import kneighbors_graph

from deepclust.neighbors import Neighbors, mine_neighbors
from deepclust.neighbors.neighbor_graph import neighbor_graph
from deepclust.runtime.errors import InputError


def test_the_graph_is_the_mean_of_both_directions_without_negative_weights():
    ids = np.array([[1, 2], [0, 2], [1, 0]], np.int32)
    similarities = np.array([[0.8, -0.5], [0.8, 0.3], [0.3, -0.5]], np.float32)
    expected = np.array([[0, 0.8, 0], [0.8, 0, 0.3], [0, 0.3, 0]])
    np.testing.assert_allclose(neighbor_graph(Neighbors(ids, similarities)).toarray(), expected, atol=1e-7)
    # With one neighbor each, 1-2 is an edge in one direction only.
    nearest = np.array([[0, 0.8, 0], [0.8, 0, 0.15], [0, 0.15, 0]])
    np.testing.assert_allclose(neighbor_graph(Neighbors(ids, similarities), k=1).toarray(), nearest, atol=1e-7)


def test_the_larger_direction_counts_under_max():
    ids = np.array([[1], [2], [1]], np.int32)
    graph = neighbor_graph(Neighbors(ids, np.array([[0.8], [0.3], [0.2]], np.float32)), symmetric="max")
    np.testing.assert_allclose(graph.toarray(), [[0, 0.8, 0], [0.8, 0, 0.3], [0, 0.3, 0]], atol=1e-7)


def test_an_edge_that_one_end_names_nearly_vanishes_under_mutual():
    ids = np.array([[1], [2], [1]], np.int32)
    graph = neighbor_graph(Neighbors(ids, np.array([[0.8], [0.3], [0.2]], np.float32)), symmetric="mutual")
    np.testing.assert_allclose(graph.toarray(), [[0, 0.008, 0], [0.008, 0, 0.201], [0, 0.201, 0]], atol=1e-7)


def test_shared_weights_are_the_overlap_of_neighborhoods(monkeypatch):
    monkeypatch.setattr("deepclust.neighbors.neighbor_graph.BLOCK_EDGES", 50)  # several blocks
    rows_ND = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    neighbors = mine_neighbors(rows_ND, 7)
    hoods = [{sample, *others} for sample, others in enumerate(neighbors.ids.tolist())]
    graph = neighbor_graph(neighbors, weights="shared", symmetric="max").toarray()
    for first, second in zip(*np.nonzero(np.triu(graph)), strict=True):
        overlap = len(hoods[first] & hoods[second]) / len(hoods[first] | hoods[second])
        assert graph[first, second] == pytest.approx(overlap)
    assert (graph > 0).sum() >= 60 * 7


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_counted_edges_with_self_loops_are_the_graph_of_scikit_learns_spectral_clustering(metric):
    rows_ND = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
    if metric == "cosine":
        rows_ND = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    directed = kneighbors_graph(rows_ND, 7, include_self=True)
    graph = neighbor_graph(mine_neighbors(rows_ND, 6, metric=metric), weights="ones", self_loops=True)
    assert abs(graph - 0.5 * (directed + directed.T)).max() == 0


@pytest.mark.parametrize("symmetric", ["mean", "max", "mutual"])
def test_euclidean_weights_lie_in_the_unit_interval_and_do_not_see_the_unit_of_distance(symmetric):
    rows_ND = np.random.default_rng(0).standard_normal((120, 5)).astype(np.float32)
    rows_ND = np.concatenate([rows_ND, rows_ND[:5], rows_ND[:5]])  # duplicates at distance 0
    graph = neighbor_graph(mine_neighbors(rows_ND, 8, metric="euclidean"), symmetric=symmetric)
    scaled = neighbor_graph(mine_neighbors(4 * rows_ND, 8, metric="euclidean"), symmetric=symmetric)
    assert graph.min() >= 0
    assert graph.max() == 1
    assert abs(graph - graph.T).max() == 0
    assert abs(graph - scaled).max() < 1e-4


def test_unknown_weights_are_refused():
    neighbors = Neighbors(np.array([[1], [0]], np.int32), np.ones((2, 1), np.float32))
    with pytest.raises(InputError, match="weights is 'heat': choose one of similarity, ones"):
        neighbor_graph(neighbors, weights="heat")
    with pytest.raises(InputError, match="symmetric is 'min'"):
        neighbor_graph(neighbors, symmetric="min")
