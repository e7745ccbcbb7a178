"""The neighbor graph: an undirected, weighted, sparse matrix made of mined neighbors.

Shape suffixes: N samples, K neighbors.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from scipy import sparse

from deepclust.neighbors.neighbors import Neighbors
from deepclust.runtime.errors import InputError

Weights = Literal["similarity", "ones", "shared"]
Symmetric = Literal["mean", "max", "mutual"]
# An edge that only one end names keeps so much of its weight in the mutual graph: it holds the graph together.
ONE_SIDED = 0.01
# Edges whose neighborhoods are compared at a time.
BLOCK_EDGES = 1 << 17


def neighbor_graph(
    neighbors: Neighbors,
    *,
    k: int | None = None,
    weights: Weights = "similarity",
    symmetric: Symmetric = "mean",
    self_loops: bool = False,
) -> sparse.csr_matrix:
    """The N × N symmetric matrix of edge weights in [0, 1].

    Args:
        neighbors: mined neighbors.
        k: use only the k nearest; None uses all.
        weights: of an edge from a sample to its neighbor. `ones`: 1. `similarity`: the cosine similarity, negative
            ones cut to 0; for neighbors by Euclidean distance exp(-d² / σ_i σ_j), where σ is the distance to the K-th
            neighbor (local scaling, Zelnik-Manor & Perona 2004, who take the 7th). `shared`: the share of neighbors
            that both ends have in common (Jaccard; each belongs to its own neighborhood).
        symmetric: the weight of an undirected edge: the `mean` or the `max` of both directions, where a missing
            direction counts 0; `mutual`: 99 % of the smaller and 1 % of the larger, so that an edge that only one end
            names nearly vanishes. Of `shared` weights all three are the same but for edges that one end alone names.
        self_loops: whether every sample is also linked to itself with weight 1. With `ones` and `mean` this is the
            graph that scikit-learn's SpectralClustering makes of K + 1 neighbors.

    Raises:
        InputError: if `weights` or `symmetric` is unknown.
    """
    if weights not in get_args(Weights):
        raise InputError(f"weights is '{weights}': choose one of {', '.join(get_args(Weights))}")
    if symmetric not in get_args(Symmetric):
        raise InputError(f"symmetric is '{symmetric}': choose one of {', '.join(get_args(Symmetric))}")
    used = neighbors if k is None else neighbors.first(min(k, neighbors.k))
    n_samples = len(used)
    if weights == "similarity":
        weights_NK = _similarity_weights(used)
    else:
        weights_NK = np.ones(used.ids.shape) if weights == "ones" else _shared_weights(used)
    indptr = np.arange(0, n_samples * used.k + 1, used.k)
    directed = sparse.csr_matrix((weights_NK.ravel(), used.ids.ravel(), indptr), shape=(n_samples, n_samples))
    if self_loops:
        directed = directed + sparse.eye(n_samples)
    if symmetric == "max":
        return directed.maximum(directed.T).tocsr()
    if symmetric == "mutual":
        smaller, larger = directed.minimum(directed.T), directed.maximum(directed.T)
        return ((1 - ONE_SIDED) * smaller + ONE_SIDED * larger).tocsr()
    return ((directed + directed.T) * 0.5).tocsr()


def _similarity_weights(neighbors: Neighbors) -> np.ndarray:
    if neighbors.metric != "euclidean":
        return np.maximum(neighbors.similarities, 0)
    distances_NK = -neighbors.similarities.astype(np.float64)
    scale_N = distances_NK[:, -1]
    # Between duplicates d and σ are 0, and the weight is 1.
    spread_NK = np.maximum(scale_N[:, None] * scale_N[neighbors.ids], np.finfo(np.float64).tiny)
    return np.exp(-(distances_NK**2) / spread_NK)


def _shared_weights(neighbors: Neighbors) -> np.ndarray:
    """(N, K) Jaccard overlap of each sample's neighborhood and that of each of its neighbors."""
    n_samples, k = neighbors.ids.shape
    own_N1 = np.arange(n_samples)[:, None]
    hoods = np.concatenate([neighbors.ids, own_N1], axis=1)
    indptr = np.arange(0, hoods.size + 1, k + 1)
    member = sparse.csr_matrix((np.ones(hoods.size, np.int32), hoods.ravel(), indptr), shape=(n_samples, n_samples))
    weights_NK = np.empty((n_samples, k))
    rows = max(1, BLOCK_EDGES // k)
    for start in range(0, n_samples, rows):
        others = neighbors.ids[start : start + rows].ravel()
        own = np.repeat(np.arange(start, min(start + rows, n_samples)), k)
        common = np.asarray(member[own].multiply(member[others]).sum(axis=1)).reshape(-1, k)
        weights_NK[start : start + rows] = common / (2 * (k + 1) - common)
    return weights_NK
