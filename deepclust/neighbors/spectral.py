"""Spectral embedding of the mined neighbor graph, and clusters found in it.

The graph that pairs are drawn from already holds the shape of the clusters: the leading eigenvectors of its normalized
adjacency vary slowly along edges, so samples that are linked by short paths lie together in them even where they are
far apart in feature space, which k-means on the features cannot see (Ng, Jordan & Weiss 2001).

Shape suffixes: N samples, K neighbors, M eigenvectors, C clusters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh

from deepclust.neighbors import Neighbors
from deepclust.neighbors.neighbor_graph import neighbor_graph
from deepclust.runtime.errors import InputError
from deepclust.spherical_kmeans import kmeans_predict, spherical_kmeans

# Lanczos' residual tolerance. k-means on the rows does not change below it, and it halves the time of the default.
TOLERANCE = 1e-3


def normalized_adjacency(neighbors: Neighbors, k: int | None = None) -> tuple[sparse.csr_matrix, np.ndarray]:
    """D^-½ A D^-½ in float32, and its leading eigenvector (N,), √degree, of length 1.

    Args:
        neighbors: mined neighbors.
        k: neighbors of the graph; None uses all that were mined.
    """
    affinity = neighbor_graph(neighbors, k=k)
    degree = np.asarray(affinity.sum(axis=1)).ravel()
    scale = sparse.diags((1 / np.sqrt(np.maximum(degree, 1e-12))).astype(np.float32))
    leading_N = np.sqrt(np.maximum(degree, 1e-12)).astype(np.float32)
    return (scale @ affinity @ scale).astype(np.float32), leading_N / np.linalg.norm(leading_N)


def spectral_embedding(neighbors: Neighbors, n_components: int, *, k: int | None = None, seed: int = 0) -> np.ndarray:
    """(N, M) leading eigenvectors of the normalized adjacency D^-½ A D^-½, largest eigenvalue first.

    Args:
        neighbors: mined neighbors.
        n_components: M, below N.
        k: neighbors of the graph; None uses all that were mined.
        seed: of Lanczos' starting vector.

    Raises:
        InputError: if M is not in [1, N - 1].
    """
    if not 1 <= n_components < len(neighbors):
        raise InputError(
            f"{n_components} spectral components asked for: there must be 1 to {len(neighbors) - 1} for "
            f"{len(neighbors)} samples"
        )
    normalized, _ = normalized_adjacency(neighbors, k)
    if len(neighbors) <= max(50, 3 * n_components):  # Lanczos needs more samples; a dense solver is fast enough here
        values, vectors = np.linalg.eigh(normalized.toarray())
    else:
        start = np.random.default_rng(seed).standard_normal(len(neighbors)).astype(np.float32)
        values, vectors = eigsh(
            normalized, n_components, which="LA", tol=TOLERANCE, v0=start, ncv=max(2 * n_components + 1, 40)
        )
    order = np.argsort(-values)[:n_components]
    return np.ascontiguousarray(vectors[:, order], dtype=np.float32)


def spectral_labels(
    embedding_NM: np.ndarray,
    n_clusters: int,
    *,
    n_components: int | None = None,
    n_init: int = 3,
    seed: int = 0,
    fitted_rows: int | None = None,
) -> np.ndarray:
    """(N,) int32 clusters: k-means on the rows of the leading eigenvectors, normalized to length 1.

    Args:
        embedding_NM: from `spectral_embedding`, or of `diffused_signals`.
        n_clusters: C.
        n_components: use only so many leading eigenvectors; None uses all.
        n_init: k-means runs, of which the best counts.
        seed: of k-means.
        fitted_rows: run k-means on so many rows drawn at random, or C where that is more; the others join the nearest
            center. None: on all.
    """
    rows = embedding_NM[:, :n_components]
    # A sample in a component of its own may be zero in every kept eigenvector; give it a direction nobody shares.
    lonely = np.logical_not(np.any(rows, axis=1))
    if lonely.any():
        rows = np.concatenate([rows, lonely[:, None].astype(rows.dtype)], axis=1)
    if fitted_rows is None or len(rows) <= max(fitted_rows, n_clusters):
        return spherical_kmeans(rows, n_clusters, n_init=n_init, seed=seed).labels_N
    drawn = np.random.default_rng(seed).choice(len(rows), max(fitted_rows, n_clusters), replace=False)
    fitted = spherical_kmeans(rows[np.sort(drawn)], n_clusters, n_init=n_init, seed=seed)
    return kmeans_predict(rows, fitted.centroids_CD, top=1)[0]


class Partitions:
    """A cache of clusterings of one neighbor graph, so that the losses of a run make them once and share them.

    Whoever trains several losses on the same neighbors holds one of these and passes it on. The result is the same with
    and without it.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int, int], np.ndarray] = {}

    def get(self, n_clusters: int, n_partitions: int, seed: int, make: Callable[[], np.ndarray]) -> np.ndarray:
        """(H, N) labels of H partitions, best first.

        Args:
            n_clusters: C.
            n_partitions: H. Partitions that were made already serve any later call for no more of them.
            seed: of the partitions.
            make: makes (H, N) labels, best first; called only where too few are there.
        """
        made_HN = self._made.get((n_clusters, seed))
        if made_HN is None or len(made_HN) < n_partitions:
            made_HN = self._made[n_clusters, seed] = make()
        return made_HN[:n_partitions]
