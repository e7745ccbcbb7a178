"""Features diffused over the neighbor graph: rows for clustering into many clusters, without eigenvectors.

A graph of C clusters has about C eigenvalues near 1, and as many eigenvectors are too many to compute for large C; the
first few of them tell only some of the clusters from each other. Features that are averaged over neighbors a few times
keep what varies slowly along edges (the low-pass filter of attributed graph clustering, Zhang, Liu, Li & Wu 2019):
noise within a cluster goes, and clusters that are apart in the features stay apart, however many there are. It costs
products of a sparse matrix, nothing else. Random signals in the features' place lose small clusters and lonely samples
(docs/initialization.md).

Shape suffixes: N samples, D feature dimensions, M principal directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse
from scipy.linalg import eigh

from deepclust.features.rows import Rows
from deepclust.features.unit_rows import BLOCK_ROWS, unit_blocks
from deepclust.neighbors.spectral import normalized_adjacency
from deepclust.runtime.errors import InputError

# From so many clusters on, diffused features take the place of eigenvectors: so many of these take minutes to compute,
# and tell fewer clusters apart (docs/initialization.md).
DIFFUSED_CLUSTERS = 64
# As good as all directions of 256 to 384 dimensions, and hardly better than half as many (docs/initialization.md).
PRINCIPAL_DIRECTIONS = 128
# Of the order in which samples that few steps join are close to each other.
ORDER_SIGNALS, ORDER_STEPS = 16, 6


def principal_rows(rows: Rows, n_directions: int = PRINCIPAL_DIRECTIONS, *, metric: str = "cosine") -> np.ndarray:
    """(N, M) float32 rows less their mean, along the M directions in which they vary most; all where D ≤ M.

    Args:
        rows: N × D.
        n_directions: M.
        metric: `cosine`: of the rows' directions; `euclidean`: of the rows themselves.

    Raises:
        InputError: if rows are not finite, or have no direction where it counts.
    """
    n_rows, dim = rows.shape
    total_D = sum(block_BD.sum(axis=0, dtype=np.float64) for _, block_BD in blocks(rows, metric))
    mean_D = (total_D / n_rows).astype(np.float32)

    def centered() -> Iterator[tuple[int, np.ndarray]]:
        return ((start, block_BD - mean_D) for start, block_BD in blocks(rows, metric))

    onto_DM = None
    if dim > n_directions:
        covariance_DD = np.zeros((dim, dim))
        for _, block_BD in centered():
            covariance_DD += block_BD.T @ block_BD
        onto_DM = eigh(covariance_DD, subset_by_index=(dim - n_directions, dim - 1))[1].astype(np.float32)
    found_NM = np.empty((n_rows, min(dim, n_directions)), np.float32)
    for start, block_BD in centered():
        found_NM[start : start + len(block_BD)] = block_BD if onto_DM is None else block_BD @ onto_DM
    return found_NM


def blocks(rows: Rows, metric: str) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float32 block), of unit rows where directions count."""
    if metric == "cosine":
        yield from unit_blocks(rows)
        return
    for start in range(0, len(rows), BLOCK_ROWS):
        yield start, np.asarray(rows[start : start + BLOCK_ROWS], dtype=np.float32)


def diffused_rows(rows_NM: np.ndarray, affinity: sparse.csr_matrix, steps: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield (N, M) float32 rows after each number of steps; what all samples share is taken out.

    A step replaces a row by the mean of its neighbors' rows, weighted by the edges; one without edges keeps its own.

    Args:
        rows_NM: of `principal_rows`, or any others.
        affinity: of `neighbor_graph`, or any symmetric matrix with weights of 0 or more.
        steps: how often, ascending: few steps keep small clusters apart, many steps bridge gaps within a cluster.

    Raises:
        InputError: if the steps are not ascending and above 0.

    Example:
        >>> from deepclust.neighbors import mine_neighbors
        >>> from deepclust.neighbors.neighbor_graph import neighbor_graph
        >>> rows_NM = principal_rows(np.random.default_rng(0).standard_normal((200, 8)))
        >>> graph = neighbor_graph(mine_neighbors(rows_NM, 10))
        >>> [round(float(np.linalg.norm(far_NM)), 1) for far_NM in diffused_rows(rows_NM, graph, (1, 4))]
        [10.1, 4.5]
    """
    if any(later <= earlier for earlier, later in zip((0, *steps), steps)):
        raise InputError(f"steps are {tuple(steps)}: give numbers above 0, ascending")
    degree_N = np.asarray(affinity.sum(axis=1)).ravel()
    lonely_N = degree_N <= 0
    means_NN = (sparse.diags(1 / np.where(lonely_N, 1, degree_N)) @ affinity + sparse.diags(lonely_N * 1.0)).tocsr()
    means_NN = means_NN.astype(np.float32)
    moved_NM, done = rows_NM, 0
    for wanted in steps:
        for _ in range(wanted - done):
            moved_NM = means_NN @ moved_NM
        done = wanted
        yield moved_NM - moved_NM.mean(axis=0)


def order_of_signals(affinity: sparse.csr_matrix, *, seed: int = 0) -> np.ndarray:
    """(N,) an order of the samples in which those that few steps join are mostly close to each other.

    They are sorted by the signs of a few diffused random signals, less what all samples share (the leading eigenvector,
    √degree). In this order a product with the adjacency finds what it reads in the cache: with 200 000 samples of 40
    neighbors each it took an eighth of the time of a random order.

    Args:
        affinity: as for `diffused_rows`.
        seed: of the signals.
    """
    adjacency, first_N = normalized_adjacency(affinity)
    signals_NM = np.random.default_rng(seed).standard_normal((affinity.shape[0], ORDER_SIGNALS), dtype=np.float32)
    for _ in range(ORDER_STEPS):
        signals_NM = adjacency @ signals_NM
    signals_NM -= np.outer(first_N, first_N @ signals_NM)
    codes_N = np.packbits(signals_NM > 0, axis=1).view(">u2")[:, 0]
    return np.argsort(codes_N, kind="stable")
