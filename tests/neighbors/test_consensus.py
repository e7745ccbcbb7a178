"""Ward's clusters against scipy's, and a consensus that is what its partitions agree on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.stats import entropy
from sklearn.metrics import adjusted_rand_score

from deepclust.clusterers import make_clusterer
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import Neighbors, mine_neighbors
from deepclust.neighbors.consensus import (
    Walks,
    agreed_graph,
    consensus_of_rows,
    consensus_partitions,
    views_of_rows,
    walk_information,
)
from deepclust.neighbors.neighbor_graph import neighbor_graph
from deepclust.neighbors.ward import merged, ward_labels
from deepclust.training.initialization import HeadStart
from deepclust.training.recipe import Recipe


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((80, 3))


@pytest.mark.parametrize("n_clusters", [1, 2, 7, 80])
def test_ward_of_single_samples_is_scipys(points, n_clusters):
    expected = fcluster(linkage(points, "ward"), n_clusters, "maxclust")
    found = merged(points, np.ones(80), n_clusters)
    assert len(set(found)) == n_clusters
    assert adjusted_rand_score(expected, found) == 1


def test_a_point_of_weight_three_is_three_samples_at_one_place(points):
    sizes = np.random.default_rng(1).integers(1, 4, 80)
    expected = merged(np.repeat(points, sizes, axis=0), np.ones(sizes.sum()), 6)
    assert adjusted_rand_score(expected, np.repeat(merged(points, sizes, 6), sizes)) == 1


@pytest.mark.parametrize("n_clusters", [1, 6, 80])
def test_few_samples_are_merged_as_points_that_weigh_alike(points, n_clusters):
    labels = ward_labels(points, n_clusters)
    assert len(np.unique(labels)) == n_clusters
    assert adjusted_rand_score(merged(points, np.ones(80), n_clusters), labels) == 1


def test_many_samples_are_merged_by_way_of_fine_clusters(planted, monkeypatch):
    monkeypatch.setattr("deepclust.neighbors.ward.FINE_CLUSTERS", 40)
    rows = planted.features / np.linalg.norm(planted.features, axis=1, keepdims=True)
    assert adjusted_rand_score(planted.labels, ward_labels(rows, 5)) == 1


def test_walks_weight_eigenvectors_by_their_eigenvalues():
    rows = np.random.default_rng(1).standard_normal((120, 6)).astype(np.float32)
    neighbors = mine_neighbors(rows, 8)
    affinity = neighbor_graph(neighbors)
    degree = np.asarray(affinity.sum(axis=1)).ravel()
    values, vectors = np.linalg.eigh(affinity.toarray() / np.sqrt(np.outer(degree, degree)))
    expected = vectors[:, -12:] * np.maximum(values[-12:], 0) ** 32
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = Walks(rows, neighbors, 4).rows(affinity, 2)  # 2.5 × 4 + 2 eigenvectors
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-2)


def test_an_edge_keeps_the_weight_of_those_who_agree_over_it():
    ids = np.array([[1], [0], [3], [2]], np.int32)
    neighbors = Neighbors(ids, np.ones((4, 1), np.float32))
    graph = agreed_graph(neighbors, [np.array([[0, 0, 1, 1]]), np.array([[0, 0, 1, 2], [3, 3, 3, 3]])]).toarray()
    assert graph[0, 1] == pytest.approx(1)
    assert graph[2, 3] == pytest.approx(0.05 + 0.95 * 0.75**2)  # all of one view and half of the other
    assert np.count_nonzero(graph) == 4


def test_walk_information_is_that_of_two_steps_written_out(monkeypatch):
    graph = neighbor_graph(mine_neighbors(np.random.default_rng(1).standard_normal((90, 6)).astype(np.float32), 8))
    labels_N = np.random.default_rng(2).integers(0, 4, 90)
    steps = graph.toarray() / graph.toarray().sum(axis=1, keepdims=True)
    joint = np.eye(4)[labels_N].T @ np.linalg.matrix_power(steps, 2) @ np.eye(4)[labels_N] / 90
    expected = entropy(joint.sum(axis=0)) + entropy(joint.sum(axis=1)) - entropy(joint.ravel())
    assert walk_information(labels_N, graph) == pytest.approx(expected)
    monkeypatch.setattr("deepclust.neighbors.consensus.MIDDLES", 60)
    assert walk_information(labels_N, graph) == pytest.approx(expected, rel=0.3)


def test_the_candidate_whose_clusters_tell_most_of_walks_comes_first(digits):
    neighbors = mine_neighbors(digits, 30)
    graph = neighbor_graph(neighbors)
    found = [
        walk_information(labels_N, graph)
        for labels_N in consensus_partitions(digits.features, neighbors, 10, 16).partitions_HN
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


@pytest.mark.parametrize("n_partitions", [1, 21])  # more than there are candidates of eight runs
def test_planted_clusters_are_found_by_every_view_and_by_the_consensus(n_partitions, planted):
    neighbors = mine_neighbors(planted, 20)
    walks = Walks(planted.features, neighbors, 5)
    seen = [view for k in (10, 15, 20) for view in walks.views(k)]
    assert [len(view) for view in seen] == [8, 1] * 9
    assert all(adjusted_rand_score(planted.labels, labels) == 1 for view in seen for labels in view)
    found = consensus_partitions(planted.features, neighbors, 5, n_partitions, seed=1).partitions_HN
    assert found.shape == (n_partitions, len(planted))
    assert found.dtype == np.int32
    assert adjusted_rand_score(planted.labels, found[0]) == 1
    np.testing.assert_array_equal(
        found, consensus_partitions(planted.features, neighbors, 5, n_partitions, seed=1).partitions_HN
    )


@pytest.mark.parametrize(("n_samples", "n_clusters"), [(3, 2), (3, 3), (12, 12), (40, 1)])
def test_few_samples_are_clustered_too(n_samples, n_clusters):
    rows = np.random.default_rng(0).standard_normal((n_samples, 3)).astype(np.float32)
    found = consensus_partitions(rows, mine_neighbors(rows, min(30, n_samples - 1)), n_clusters).partitions_HN
    assert set(found.ravel()) <= set(range(n_clusters))


def test_equal_rows_share_a_cluster_and_three_distinct_rows_are_three():
    rows = np.eye(3, dtype=np.float32).repeat(100, axis=0)[np.random.default_rng(0).permutation(300)]
    found = make_clusterer("consensus", n_clusters=5).fit(rows)
    assert (found.n_found, found.n_clusters) == (3, 5)
    np.testing.assert_array_equal(rows[found.labels == found.labels[0]], np.tile(rows[0], (100, 1)))


@pytest.mark.parametrize("normalize", ["l2", "none"])
def test_copies_beyond_the_neighbors_do_not_part_a_cluster(normalize, planted):
    copied = np.concatenate([planted.features, np.repeat(planted.features[:2], 80, axis=0)])
    expected = np.concatenate([planted.labels, np.repeat(planted.labels[:2], 80)])
    found = make_clusterer("consensus", n_clusters=5, normalize=normalize).fit(copied)
    assert adjusted_rand_score(expected, found.labels) == 1


@pytest.mark.parametrize("copies", [0, 80])
def test_views_that_are_made_again_are_those_of_the_consensus(copies, planted):
    rows = np.concatenate([planted.features, np.repeat(planted.features[:2], copies, axis=0)])
    neighbors = mine_neighbors(rows, 30)
    views_VN = consensus_of_rows(rows, 7, neighbors=neighbors, seed=2).views_VN
    assert views_VN.shape == (18, len(rows))
    assert len(np.unique(views_VN, axis=0)) > 1  # seven clusters of five are drawn in several ways
    np.testing.assert_array_equal(views_of_rows(rows, 7, neighbors=neighbors, seed=2), views_VN)
    few = np.eye(3, dtype=np.float32).repeat(9, axis=0)
    np.testing.assert_array_equal(views_of_rows(few, 5), consensus_of_rows(few, 5).views_VN)


def test_heads_start_from_clusters_that_copies_share(planted):
    copied = FeatureSet.from_arrays(np.concatenate([planted.features, np.repeat(planted.features[:2], 80, axis=0)]))
    recipe = Recipe.of("temi", n_clusters=5, n_heads=2, init="consensus")
    heads = recipe.new_heads(copied.dim)
    labels_HN = HeadStart(recipe, copied, mine_neighbors(copied, 30)).graph_labels(heads)
    for labels_N in labels_HN:
        assert adjusted_rand_score(planted.labels, labels_N[: len(planted)]) == 1
        np.testing.assert_array_equal(labels_N[len(planted) :], labels_N[:2].repeat(80))
