"""Random signals diffused over the neighbor graph: rows for clustering into many clusters, without eigenvectors.

A graph of C clusters has about C eigenvalues near 1, and as many eigenvectors are too many to compute for large C; the
first few of them tell only some of the clusters from each other. A random signal that is averaged over neighbors a few
times keeps what varies slowly along edges, all C directions of it, and a few dozen such signals hold the distances
between samples as random projections do (compressive spectral clustering, Tremblay, Puy, Gribonval & Vandergheynst
2016, whose filter is a polynomial of a high degree; here a power). It costs products of a sparse matrix, nothing else.

Shape suffixes: N samples, M signals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from deepclust.neighbors.spectral import normalized_adjacency
from deepclust.runtime.errors import InputError

# From so many clusters on, signals take the place of eigenvectors: so many of these take minutes to compute, and tell
# fewer clusters apart (docs/initialization.md).
DIFFUSED_CLUSTERS = 64
# Twice as many tell hardly more at 100 to 1000 clusters, and cost twice as much (docs/initialization.md).
N_SIGNALS = 64
# Of the order in which samples that few steps join are close to each other.
ORDER_SIGNALS, ORDER_STEPS = 16, 6


def diffused_signals(
    affinity: sparse.csr_matrix, steps: Sequence[int], *, n_signals: int = N_SIGNALS, seed: int = 0
) -> Iterator[np.ndarray]:
    """Yield (N, M) float32 signals after each number of steps; what all samples share is taken out.

    Args:
        affinity: of `neighbor_graph`, or any symmetric matrix with weights of 0 or more.
        steps: how often the signals are averaged over neighbors, ascending: few steps keep small clusters apart, many
            steps bridge gaps within a cluster.
        n_signals: M.
        seed: of the signals.

    Raises:
        InputError: if M is below 1, or the steps are not ascending and above 0.

    Example:
        >>> from deepclust.neighbors import mine_neighbors
        >>> from deepclust.neighbors.neighbor_graph import neighbor_graph
        >>> graph = neighbor_graph(mine_neighbors(np.random.default_rng(0).standard_normal((200, 8)), 10))
        >>> [signals_NM.shape for signals_NM in diffused_signals(graph, (4, 8), n_signals=16)]
        [(200, 16), (200, 16)]
    """
    if n_signals < 1:
        raise InputError(f"n_signals is {n_signals}: at least 1 is needed")
    if any(later <= earlier for earlier, later in zip((0, *steps), steps)):
        raise InputError(f"steps are {tuple(steps)}: give numbers above 0, ascending")
    adjacency, first_N = normalized_adjacency(affinity)
    signals_NM = np.random.default_rng(seed).standard_normal((affinity.shape[0], n_signals), dtype=np.float32)
    done = 0
    for wanted in steps:
        for _ in range(wanted - done):
            signals_NM = adjacency @ signals_NM
        done = wanted
        # The leading eigenvector, √degree, tells no clusters apart.
        yield signals_NM - np.outer(first_N, first_N @ signals_NM)


def order_of_signals(affinity: sparse.csr_matrix, *, seed: int = 0) -> np.ndarray:
    """(N,) an order of the samples in which those that few steps join are mostly close to each other.

    They are sorted by the signs of a few diffused signals. In this order a product with the adjacency finds what it
    reads in the cache: with 200 000 samples of 40 neighbors each it took an eighth of the time of a random order.

    Args:
        affinity: as for `diffused_signals`.
        seed: of the signals.
    """
    signals_NM = next(diffused_signals(affinity, (ORDER_STEPS,), n_signals=ORDER_SIGNALS, seed=seed))
    codes_N = np.packbits(signals_NM > 0, axis=1).view(">u2")[:, 0]
    return np.argsort(codes_N, kind="stable")
