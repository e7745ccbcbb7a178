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
# What k-means over a sample looks at.
FITTED_ROWS = 1 << 16
FITTED_ROWS_PER_CLUSTER = 32


def normalized_adjacency(affinity: sparse.csr_matrix) -> tuple[sparse.csr_matrix, np.ndarray]:
    """D^-½ A D^-½ in float32, and its leading eigenvector (N,), √degree, of length 1.

    Args:
        affinity: A, N × N, symmetric, with weights of 0 or more.
    """
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
    return leading_eigenvectors(neighbor_graph(neighbors, k=k), n_components, seed=seed)[1]


def leading_eigenvectors(
    affinity: sparse.csr_matrix, n_components: int, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(M,) the largest eigenvalues of D^-½ A D^-½, and (N, M) their eigenvectors.

    Args:
        affinity: A, N × N, symmetric, with weights of 0 or more.
        n_components: M, from 1 to N - 1.
        seed: of Lanczos' starting vector.
    """
    n_samples = affinity.shape[0]
    normalized, _ = normalized_adjacency(affinity)
    if n_samples <= max(50, 3 * n_components):  # Lanczos needs more samples; a dense solver is fast enough here
        values, vectors = np.linalg.eigh(normalized.toarray())
    else:
        start = np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32)
        values, vectors = eigsh(
            normalized, n_components, which="LA", tol=TOLERANCE, v0=start, ncv=max(2 * n_components + 1, 40)
        )
    order = np.argsort(-values)[:n_components]
    return values[order], np.ascontiguousarray(vectors[:, order], dtype=np.float32)


def spectral_labels(
    embedding_NM: np.ndarray,
    n_clusters: int,
    *,
    n_components: int | None = None,
    n_init: int = 3,
    seed: int = 0,
    sampled: bool = False,
) -> np.ndarray:
    """(N,) int32 clusters: k-means on the rows of the leading eigenvectors, normalized to length 1.

    Args:
        embedding_NM: from `spectral_embedding`, or of `diffused_rows`.
        n_clusters: C.
        n_components: use only so many leading eigenvectors; None uses all.
        n_init: k-means runs, of which the best counts.
        seed: of k-means.
        sampled: run k-means on 65 536 rows drawn at random, or 32 C where that is more; the others join the nearest
            center.
    """
    rows = with_lonely(embedding_NM[:, :n_components])
    n_fitted = max(FITTED_ROWS, FITTED_ROWS_PER_CLUSTER * n_clusters)
    if not sampled or len(rows) <= n_fitted:
        return spherical_kmeans(rows, n_clusters, n_init=n_init, seed=seed).labels_N
    drawn = np.random.default_rng(seed).choice(len(rows), n_fitted, replace=False)
    fitted = spherical_kmeans(rows[np.sort(drawn)], n_clusters, n_init=n_init, seed=seed)
    return kmeans_predict(rows, fitted.centroids_CD, top=1)[0]


def with_lonely(rows_NM: np.ndarray) -> np.ndarray:
    """The rows, none of which is zero.

    A sample in a component of its own may be zero in every kept eigenvector: it gets a direction that no other has.
    """
    lonely_N = np.logical_not(np.any(rows_NM, axis=1))
    if not lonely_N.any():
        return rows_NM
    return np.concatenate([rows_NM, lonely_N[:, None].astype(rows_NM.dtype)], axis=1)


class Partitions:
    """A cache of clusterings of one neighbor graph, so that the losses of a run make them once and share them.

    Whoever trains several losses on the same neighbors holds one of these and passes it on. The result is the same with
    and without it.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str, int, int], np.ndarray] = {}

    def keep(self, key: tuple[str, int, int], made_HN: np.ndarray) -> None:
        """Partitions that came up while others were made."""
        self._made[key] = made_HN

    def get(self, key: tuple[str, int, int], n_partitions: int | None, make: Callable[[], np.ndarray]) -> np.ndarray:
        """(H, N) labels of H partitions, best first.

        Args:
            key: the way they are made, C and the seed.
            n_partitions: H. Partitions that were made already serve any later call for no more of them. None: all.
            make: makes (H, N) labels, best first; called only where too few are there.
        """
        made_HN = self._made.get(key)
        if made_HN is None or len(made_HN) < (n_partitions or 1):
            made_HN = self._made[key] = make()
        return made_HN[:n_partitions]
