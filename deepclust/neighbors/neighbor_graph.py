"""The neighbor graph: an undirected, weighted, sparse matrix made of mined neighbors.

Shape suffixes: N samples, K neighbors.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from scipy import sparse

from deepclust.neighbors.neighbors import Neighbors
from deepclust.runtime.errors import InputError

Weights = Literal["similarity", "ones"]
Symmetric = Literal["mean", "max"]


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
            neighbor (local scaling, Zelnik-Manor & Perona 2004, who take the 7th).
        symmetric: the weight of an undirected edge: the `mean` or the `max` of both directions, where a missing
            direction counts 0.
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
    weights_NK = np.ones(used.ids.shape) if weights == "ones" else _similarity_weights(used)
    n_samples = len(used)
    indptr = np.arange(0, n_samples * used.k + 1, used.k)
    directed = sparse.csr_matrix((weights_NK.ravel(), used.ids.ravel(), indptr), shape=(n_samples, n_samples))
    if self_loops:
        directed = directed + sparse.eye(n_samples)
    if symmetric == "max":
        return directed.maximum(directed.T).tocsr()
    return ((directed + directed.T) * 0.5).tocsr()


def _similarity_weights(neighbors: Neighbors) -> np.ndarray:
    if neighbors.settings.get("metric") != "euclidean":
        return np.maximum(neighbors.similarities, 0)
    distances_NK = -neighbors.similarities.astype(np.float64)
    scale_N = distances_NK[:, -1]
    # Between duplicates d and σ are 0, and the weight is 1.
    spread_NK = np.maximum(scale_N[:, None] * scale_N[neighbors.ids], np.finfo(np.float64).tiny)
    return np.exp(-(distances_NK**2) / spread_NK)
