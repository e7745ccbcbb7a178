"""Each clusterer gives what the library it wraps gives, and what it cannot do it says in one line.

Shape suffixes: N samples, D feature dimensions.
"""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
from scipy import sparse
from sklearn.cluster import HDBSCAN, OPTICS, AffinityPropagation, KMeans, SpectralClustering
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import adjusted_rand_score

import deepclust.runtime.memory as memory_module
from deepclust import BaselineClusterer
from deepclust.clusterers import make_clusterer
from deepclust.clustering import NOISE
from deepclust.metrics import ami, silhouette
from deepclust.neighbors import mine_neighbors
from deepclust.neighbors.neighbor_graph import neighbor_graph
from deepclust.runtime.errors import InputError


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """500 digits, shaken a little so that no two distances tie."""
    rows = load_digits().data[:500]
    return (rows + 0.01 * np.random.default_rng(0).standard_normal(rows.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Four groups and a tenth of stray samples, far from the origin."""
    rows, labels = make_blobs(360, 3, centers=4, cluster_std=0.5, random_state=3)
    stray = np.random.default_rng(0).uniform(rows.min(0) - 3, rows.max(0) + 3, (40, 3))
    return (np.concatenate([rows, stray]) + 50).astype(np.float32), np.concatenate([labels, np.full(40, NOISE)])


def space(rows: np.ndarray, normalize: str) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if normalize == "l2" else rows


both_spaces = pytest.mark.parametrize("normalize", ["l2", "none"])


@both_spaces
def test_kmeans_l2(normalize, digits):
    expected = KMeans(10, n_init=1, max_iter=1000, random_state=4).fit(space(digits, normalize))
    baseline = make_clusterer("kmeans_l2", n_clusters=10, seed=4, normalize=normalize)
    clustering = baseline.fit(digits)
    np.testing.assert_array_equal(clustering.labels, expected.labels_)
    assert clustering.top_ids.shape == (500, 5)
    new = load_digits().data[500:600].astype(np.float32)
    np.testing.assert_array_equal(baseline.predict(new).labels, expected.predict(space(new, normalize)))


def test_kmeans_in_a_space_without_directions_is_lloyds(blobs):
    rows, _ = blobs
    expected = KMeans(4, n_init=5, max_iter=100, random_state=0).fit(rows)
    clustering = make_clusterer("kmeans", n_clusters=4, normalize="none").fit(rows)
    assert adjusted_rand_score(expected.labels_, clustering.labels) == 1.0
    nearest = np.argsort(expected.transform(rows), axis=1)
    np.testing.assert_array_equal(clustering.top_ids, nearest)


@both_spaces
def test_affinity_propagation(normalize, digits):
    rows = digits[:300]
    expected = AffinityPropagation(damping=0.9, random_state=1).fit(space(rows, normalize))
    baseline = make_clusterer("affinity_propagation", seed=1, normalize=normalize)
    clustering = baseline.fit(rows)
    np.testing.assert_array_equal(clustering.labels, expected.labels_)
    assert (clustering.n_clusters, clustering.n_found) == (None, len(expected.cluster_centers_indices_))
    np.testing.assert_array_equal(
        baseline.predict(digits[300:]).labels, expected.predict(space(digits[300:], normalize))
    )


def test_affinity_propagation_says_that_it_did_not_converge(digits):
    with pytest.warns(match="did not converge"):
        assert (AffinityPropagation(max_iter=2, random_state=0).fit_predict(digits[:60]) == NOISE).all()
    baseline = make_clusterer("affinity_propagation", max_iter=2, damping=0.5, normalize="none")
    clustering = baseline.fit(digits[:60])
    assert (clustering.labels == NOISE).all()
    assert clustering.n_found == 0
    assert "did not converge in 2 rounds; every sample is noise" in clustering.notes[0]
    assert (baseline.predict(digits[60:70]).labels == NOISE).all()


@both_spaces
@pytest.mark.parametrize("assign_labels", ["cluster_qr", "discretize", "kmeans"])
def test_spectral(assign_labels, normalize, digits):
    expected = SpectralClustering(
        8, affinity="nearest_neighbors", n_neighbors=10, assign_labels=assign_labels, random_state=0
    ).fit_predict(space(digits, normalize))
    clustering = make_clusterer("spectral", n_clusters=8, assign_labels=assign_labels, normalize=normalize).fit(digits)
    assert adjusted_rand_score(expected, clustering.labels) == 1.0


def test_euclidean_neighbors_are_exact_far_from_the_origin():
    rows = (np.random.default_rng(0).standard_normal((300, 6)) + 1000).astype(np.float32)
    neighbors = mine_neighbors(rows, 5, metric="euclidean")
    distances = np.linalg.norm(rows[:, None].astype(np.float64) - rows[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, axis=1)[:, :5]
    np.testing.assert_array_equal(neighbors.ids, expected)
    np.testing.assert_allclose(-neighbors.similarities, np.take_along_axis(distances, expected, axis=1), rtol=1e-4)
    with pytest.raises(InputError, match="searched exactly, not by 'ivf'"):
        mine_neighbors(rows, 5, metric="euclidean", method="ivf")
    with pytest.raises(InputError, match="unknown neighbor metric 'l1'"):
        mine_neighbors(rows, 5, metric="l1")


@both_spaces
def test_hdbscan(normalize, blobs):
    rows, labels = blobs
    expected = HDBSCAN(max_cluster_size=160, copy=True).fit_predict(space(rows, normalize))
    baseline = make_clusterer("hdbscan", max_cluster_size=0.4, normalize=normalize)
    clustering = baseline.fit(rows)
    assert adjusted_rand_score(expected, clustering.labels) == 1.0
    np.testing.assert_array_equal(expected == NOISE, clustering.labels == NOISE)
    if normalize == "none":
        assert clustering.n_found == 4
        assert (clustering.labels[labels == NOISE] == NOISE).mean() > 0.5
        # New samples are given to a cluster, the nearest.
        assert adjusted_rand_score(labels[:360], baseline.predict(rows[:360]).labels) > 0.98


def test_no_cluster_of_hdbscan_is_larger_than_its_share(blobs):
    clustering = make_clusterer("hdbscan", normalize="none").fit(blobs[0])
    assert np.bincount(clustering.labels[clustering.labels != NOISE]).max() <= 80


def test_noise_is_one_class_for_ami_and_no_cluster_for_the_count(blobs):
    rows, labels = blobs
    clustering = make_clusterer("hdbscan", max_cluster_size=0.4, normalize="none").fit(rows)
    assert (clustering.labels == NOISE).any()
    renamed = np.where(clustering.labels == NOISE, 99, clustering.labels)
    assert ami(labels, clustering.labels) == pytest.approx(ami(labels, renamed))
    assert len(np.unique(renamed)) == clustering.n_found + 1


@both_spaces
def test_optics(normalize, blobs):
    rows, _ = blobs
    clustering = make_clusterer("optics", normalize=normalize).fit(rows)
    np.testing.assert_array_equal(clustering.labels, OPTICS().fit_predict(space(rows, normalize)))


@pytest.mark.parametrize(("weights", "resolution"), [("none", 1.0), ("similarity", 1.0), ("similarity", 3.0)])
@pytest.mark.parametrize("name", ["louvain", "leiden"])
def test_communities(name, weights, resolution, digits):
    igraph = pytest.importorskip("igraph")
    neighbors = mine_neighbors(digits, 15)
    edges = sparse.triu(neighbor_graph(neighbors, symmetric="max"), k=1).tocoo()
    graph = igraph.Graph(len(digits), list(zip(edges.row.tolist(), edges.col.tolist())))
    igraph.set_random_number_generator(random.Random(5))
    weighted = edges.data.tolist() if weights == "similarity" else None
    if name == "louvain":
        expected = graph.community_multilevel(weighted, resolution=resolution)
    else:
        expected = graph.community_leiden("modularity", weights=weighted, resolution=resolution, n_iterations=-1)
    igraph.set_random_number_generator(random)
    clusterings = [
        make_clusterer(name, seed=5, weights=weights, resolution=resolution).fit(digits).labels for _ in range(2)
    ]
    np.testing.assert_array_equal(clusterings[0], expected.membership)
    np.testing.assert_array_equal(clusterings[0], clusterings[1])


def test_a_higher_resolution_gives_more_communities(digits):
    counts = [make_clusterer("leiden", resolution=resolution).fit(digits).n_found for resolution in (0.5, 1, 4)]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("name", ["affinity_propagation", "hdbscan", "spectral"])
def test_above_max_samples_the_rest_joins_the_clusters_of_a_sample(name, digits):
    first, again = (make_clusterer(name, n_clusters=8, max_samples=200).fit(digits) for _ in range(2))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert "was run on 200 of 500 samples drawn at random" in first.notes[0]
    assert len(first) == 500
    assert ami(load_digits().target[:500], first.labels) > 0.5


def test_affinity_propagation_beyond_the_memory_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(memory_module, "free_bytes", lambda: 2 << 30)
    baseline = make_clusterer("affinity_propagation", max_samples=None)
    with pytest.raises(InputError, match=r"of 20000 samples needs 12\.8 GB, and 1\.93 GB are at hand, which reach for"):
        baseline.check(20_000)
    make_clusterer("affinity_propagation", max_samples=5_000).check(20_000)


def test_one_cluster_and_a_cluster_each_have_no_silhouette_and_a_reason(blobs):
    rows, _ = blobs
    one = make_clusterer("agglomerative_threshold", distance_threshold=1e6, normalize="none").fit(rows)
    each = make_clusterer("agglomerative_threshold", distance_threshold=1e-9, normalize="none").fit(rows)
    assert (one.n_found, each.n_found) == (1, 400)
    for clustering in (one, each):
        found = silhouette(rows, clustering.labels, metric="euclidean")
        assert found.value is None
        assert f"{clustering.n_found} clusters of 400 samples" in found.reason


@pytest.mark.parametrize(
    ("name", "options", "n_samples", "message"),
    [
        ("kmeans_l2", {}, 50, "kmeans_l2 needs the number of clusters: set n_clusters="),
        ("kmeans_l2", {"n_clusters": 51}, 50, "kmeans_l2 clustering of 50 samples gives 1 to 50"),
        ("spectral", {"n_clusters": 51}, 50, "spectral clustering of 50 samples gives 1 to 50"),
        ("leiden", {"n_neighbors": 15}, 15, "n_neighbors is 15: .* takes 2 to 14"),
        ("spectral", {"n_clusters": 3, "n_neighbors": 50}, 50, "n_neighbors is 50: .* takes 2 to 49"),
        (
            "spectral",
            {"n_clusters": 3, "assign_labels": "argmax"},
            50,
            "choose one of cluster_qr, discretize, kmeans",
        ),
        ("spectral", {"n_clusters": 3, "n_components": 4}, 50, "cluster_qr takes one eigenvector per cluster"),
        ("louvain", {"resolution": 0}, 50, "resolution is 0"),
        ("leiden", {"weights": "distance"}, 50, "unknown weights 'distance': choose one of similarity, none"),
        ("hdbscan", {"max_cluster_size": 20}, 50, "max_cluster_size is 20: it must be above 0 and at most 1"),
        ("hdbscan", {"min_cluster_size": 51}, 50, "hdbscan wants 51 samples in a cluster or neighborhood"),
        (
            "hdbscan",
            {"cluster_selection_method": "dbscan"},
            50,
            "unknown cluster_selection_method 'dbscan': choose one of eom, leaf",
        ),
        ("optics", {"min_samples": 1}, 50, "optics wants 1 samples"),
        ("optics", {"xi": 1.5}, 50, "xi is 1.5: it must be above 0 and below 1"),
        ("affinity_propagation", {"damping": 0.4}, 50, "damping is 0.4: it must be at least 0.5 and below 1"),
        ("kmeans", {"n_clusters": 3, "normalize": "l1"}, 50, "unknown normalize 'l1': choose one of l2, none"),
    ],
)
def test_what_cannot_be_done_is_refused(name, options, n_samples, message):
    rows = np.random.default_rng(0).standard_normal((n_samples, 4))
    with pytest.raises(InputError, match=message):
        make_clusterer(name, **options).fit(rows)


def test_zero_rows_are_refused_where_directions_count_only():
    rows = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    rows[7] = 0
    with pytest.raises(InputError, match=r"rows are all zero \(first: row 7\)"):
        make_clusterer("hdbscan").fit(rows)
    assert len(make_clusterer("hdbscan", normalize="none").fit(rows)) == 40
    rows[9, 1] = np.nan
    with pytest.raises(InputError, match=r"rows hold NaN or infinite values \(first: row 9\)"):
        make_clusterer("hdbscan", normalize="none").fit(rows)


def test_samples_of_another_width_are_refused(blobs):
    baseline = make_clusterer("hdbscan", normalize="none")
    baseline.fit(blobs[0])
    with pytest.raises(InputError, match="the clusters were found in 3 dimensions"):
        baseline.predict(np.ones((5, 4)))


def test_communities_without_igraph_name_what_to_install(monkeypatch, digits):
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(InputError, match="louvain and leiden need igraph: pip install"):
        make_clusterer("leiden").check(500)


def test_a_baseline_is_an_estimator(digits):
    clusterer = BaselineClusterer("spectral", 6, options={"n_neighbors": 8}, random_state=3)
    labels = clusterer.fit_predict(digits)
    expected = make_clusterer("spectral", n_clusters=6, n_neighbors=8, seed=3).fit(digits)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_array_equal(clusterer.predict(digits[:50]), clusterer.baseline_.predict(digits[:50]).labels)
    assert clusterer.clustering_.method == "spectral"
    assert clusterer.set_params(method="leiden", options=None).fit(digits).clustering_.n_clusters is None


@pytest.mark.parametrize("name", ["spectral", "louvain", "leiden"])
def test_a_small_set_has_as_many_neighbors_as_there_are(name):
    rows = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    few, all_of_them = (make_clusterer(name, n_clusters=2, n_neighbors=k).fit(rows).labels for k in (None, 7))
    np.testing.assert_array_equal(few, all_of_them)


def test_one_spectral_cluster_holds_all():
    rows = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    assert (make_clusterer("spectral", n_clusters=1).fit(rows).labels == 0).all()
