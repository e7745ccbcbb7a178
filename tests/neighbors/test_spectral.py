"""The spectral embedding shows the components of the neighbor graph and the shapes that k-means cannot see.

Shape suffixes: N samples, K neighbors, M eigenvectors.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from deepclust.neighbors import Neighbors, mine_neighbors
from deepclust.neighbors.neighbor_graph import neighbor_graph
from deepclust.neighbors.spectral import Partitions, spectral_embedding, spectral_labels
from deepclust.runtime.errors import InputError
from deepclust.spherical_kmeans import spherical_kmeans


def rings(per_ring: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Circles of latitude on the sphere, one inside the other about the same axis: their mean directions coincide."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], per_ring)
    around = rng.uniform(0, 2 * np.pi, 2 * per_ring)
    polar = np.where(labels == 0, 0.25, 1.1) + 0.02 * rng.standard_normal(2 * per_ring)
    rows = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], axis=1)
    return rows.astype(np.float32), labels


@pytest.fixture
def scattered() -> Neighbors:
    return mine_neighbors(np.random.default_rng(1).standard_normal((120, 6)).astype(np.float32), 8)


def test_eigenvectors_are_those_of_the_dense_matrix(scattered):
    affinity = neighbor_graph(scattered).toarray().astype(np.float64)
    degree = affinity.sum(axis=1)
    values, vectors = np.linalg.eigh(affinity / np.sqrt(np.outer(degree, degree)))
    embedding = spectral_embedding(scattered, 4)
    assert embedding.shape == (120, 4)
    for component in range(4):
        cosine = abs(embedding[:, component] @ vectors[:, -1 - component])
        assert cosine == pytest.approx(1, abs=2e-2), f"eigenvalue {values[-1 - component]:.4f}"


def test_connected_components_are_recovered_as_indicators(planted):
    # K below the size of a planted cluster: no edge leaves one.
    neighbors = mine_neighbors(planted, 10)
    graph = neighbor_graph(neighbors).toarray()
    across = planted.labels[:, None] != planted.labels[None, :]
    assert (graph[across] == 0).all()
    embedding = spectral_embedding(neighbors, 5)
    degree = graph.sum(axis=1)
    for component in range(5):
        indicator = np.sqrt(degree) * (planted.labels == component)
        indicator /= np.linalg.norm(indicator)
        # Each normalized indicator lies in the span of the leading eigenvectors.
        assert np.linalg.norm(embedding.T @ indicator) == pytest.approx(1, abs=1e-3)
    assert adjusted_rand_score(planted.labels, spectral_labels(embedding, 5)) == 1


def test_rings_that_kmeans_cannot_tell_apart():
    rows, labels = rings()
    embedding = spectral_embedding(mine_neighbors(rows, 10), 2)
    assert adjusted_rand_score(labels, spectral_labels(embedding, 2)) > 0.95
    assert adjusted_rand_score(labels, spherical_kmeans(rows, 2, seed=0).labels_N) < 0.5


def test_equal_seeds_give_equal_clusters(scattered):
    first, second = (spectral_labels(spectral_embedding(scattered, 4, seed=3), 4, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.int32


def test_leading_components_alone_can_be_used(scattered):
    embedding = spectral_embedding(scattered, 5)
    np.testing.assert_array_equal(
        spectral_labels(embedding, 3, n_components=2), spectral_labels(embedding[:, :2].copy(), 3)
    )


def test_a_sample_that_no_edge_reaches_gets_a_cluster_and_no_error():
    embedding = np.zeros((31, 2), np.float32)
    embedding[:15, 0] = embedding[15:30, 1] = 0.25
    labels = spectral_labels(embedding, 3)
    assert len(set(labels[:15])) == len(set(labels[15:30])) == 1
    assert len({labels[0], labels[15], labels[30]}) == 3


@pytest.mark.parametrize("n_components", [0, 120, 200])
def test_too_many_components_are_refused(scattered, n_components):
    with pytest.raises(InputError, match=rf"{n_components} spectral components asked for.*1 to 119"):
        spectral_embedding(scattered, n_components)


def test_partitions_are_made_again_only_for_more_of_them_or_another_number_or_seed():
    made = []

    def make(n_partitions: int) -> np.ndarray:
        made.append(n_partitions)
        return np.arange(n_partitions)[:, None]

    shared = Partitions()
    for n_clusters, n_partitions, seed in ((5, 3, 0), (5, 2, 0), (5, 4, 0), (5, 3, 0), (6, 1, 0), (5, 1, 1)):
        found = shared.get(("spectral", n_clusters, seed), n_partitions, lambda wanted=n_partitions: make(wanted))
        assert found.ravel().tolist() == list(range(n_partitions))
    assert made == [3, 4, 1, 1]
