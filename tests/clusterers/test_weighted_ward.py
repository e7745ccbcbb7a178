"""Ward over weighted centroids is Ward over the samples that they stand for.

Shape suffixes: N samples, D feature dimensions, M points.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import deepclust.clusterers.agglomerative as agglomerative_module
from deepclust.clusterers import AgglomerativeClusterer, Linkages, build_dendrogram, make_clusterer
from deepclust.clusterers.weighted_ward import fine_cells, weighted_ward
from deepclust.features.rows import ShardedRows
from deepclust.metrics import ami
from deepclust.runtime.errors import InputError


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((120, 5)) + 3 * np.eye(5)[np.arange(120) % 5]


def test_points_that_weigh_alike_have_the_tree_of_fastcluster(points):
    found, expected = weighted_ward(points, np.ones(120)), build_dendrogram(points, "ward")
    np.testing.assert_allclose(found.merges, expected.merges, atol=1e-9)


def test_a_point_of_some_weight_is_so_many_samples(points):
    weights = np.random.default_rng(1).integers(1, 9, 120)
    found, expected = weighted_ward(points, weights), build_dendrogram(np.repeat(points, weights, axis=0), "ward")
    # The copies of a point merge at 0 first.
    np.testing.assert_allclose(found.heights, expected.heights[-119:], atol=1e-5)
    for n_clusters in (2, 5, 30):
        labels_N = np.repeat(found.cut(n_clusters), weights)
        assert adjusted_rand_score(labels_N, expected.cut(n_clusters)) == 1


@pytest.mark.parametrize("normalize", [True, False])
def test_cells_hold_every_sample_and_their_means(normalize, points):
    rows_ND = np.concatenate([points, points + 0.01]).astype(np.float32)
    cells = fine_cells(ShardedRows([rows_ND[:100], rows_ND[100:]]), 20, normalize=normalize)
    assert (cells.sizes_M == np.bincount(cells.of_N)).all()
    assert 0 < len(cells.sizes_M) <= 20
    seen_ND = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True) if normalize else rows_ND
    for cell, mean_D in enumerate(cells.means_MD):
        np.testing.assert_allclose(mean_D, seen_ND[cells.of_N == cell].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("normalize", ["l2", "none"])
def test_beyond_max_samples_ward_clusters_centroids_and_says_so(normalize, digits, monkeypatch):
    made = []
    monkeypatch.setattr(
        agglomerative_module, "fine_cells", lambda *args, **named: made.append(1) or fine_cells(*args, **named)
    )
    linkages, rows_ND = Linkages(), np.asarray(digits.features)
    options = {"max_samples": 300, "normalize": normalize}
    clusterer = make_clusterer("agglomerative", linkages, n_clusters=10, **options)
    found = clusterer.fit(rows_ND)
    assert (len(found), found.n_found) == (1797, 10)
    assert "in two stages: over 300 centroids of a fine k-means" in found.notes[0]
    sampled = make_clusterer("agglomerative", n_clusters=10, beyond="sample", **options).fit(rows_ND)
    assert ami(digits.labels, found.labels) > max(0.75, ami(digits.labels, sampled.labels))
    make_clusterer("agglomerative_threshold", linkages, **options).fit(rows_ND)
    assert len(made) == 1  # one k-means and one tree for both
    assert np.mean(clusterer.predict(rows_ND).labels == found.labels) > 0.8


def test_centroids_are_for_ward_and_within_the_memory(monkeypatch):
    with pytest.raises(InputError, match="beyond=centroids is for ward linkage, not for average"):
        AgglomerativeClusterer(5, linkage="average", beyond="centroids")
    monkeypatch.setattr("deepclust.runtime.memory.free_bytes", lambda: 1 << 20)
    AgglomerativeClusterer(5, max_samples=100).check(1_000_000)
    with pytest.raises(InputError, match="ward linkage over centroids of 4096 samples needs"):
        AgglomerativeClusterer(5, max_samples=10_000).check(1_000_000)


def test_fewer_distinct_samples_than_clusters_are_no_obstacle():
    rows_ND = np.eye(6)[np.arange(600) % 6]
    found = AgglomerativeClusterer(9, max_samples=100).fit(rows_ND)
    assert found.n_found == 9
    assert "drawn at random" in found.notes[0]
