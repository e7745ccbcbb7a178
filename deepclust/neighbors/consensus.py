"""Clusters that many views of the neighbor graph agree on.

One spectral clustering depends on chance: on which edges the graph has, how they are weighted, how many eigenvectors
are kept, where k-means ends. Here six graphs are made of the same mined neighbors, each is clustered in two ways, and
each edge is weighted by how many of the twelve partitions put its two ends into one cluster. The spectral clustering of
that graph is the consensus (after the cluster ensembles of Strehl & Ghosh 2002; it stays as sparse as the neighbors).

Which eigenvectors count is decided by their eigenvalues λ, by λ^32: those that are nearly constant along 32 steps of a
random walk on the graph. A fixed number of them was worse (docs/initialization.md).

Shape suffixes: N samples, M eigenvectors, C clusters, P partitions, H partitions that are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from scipy import sparse

from deepclust.features.distinct_rows import distinct_rows
from deepclust.features.rows import Rows, RowView
from deepclust.neighbors.diffusion import DIFFUSED_CLUSTERS, diffused_signals
from deepclust.neighbors.mining import mine_neighbors
from deepclust.neighbors.neighbor_graph import Symmetric, Weights, neighbor_graph
from deepclust.neighbors.neighbors import Neighbors
from deepclust.neighbors.spectral import leading_eigenvectors, spectral_labels, with_lonely
from deepclust.neighbors.ward import ward_labels
from deepclust.runtime.progress import tracked

GRAPHS: tuple[tuple[Weights, Symmetric], ...] = (("similarity", "mean"), ("similarity", "mutual"), ("shared", "mean"))
GRAPH_NEIGHBORS = (15, 30)
EIGENVECTORS_PER_CLUSTER = 2.5
WALK_STEPS = 32
# Of many clusters the diffused signals hold all directions, where 32 steps would leave a few.
DIFFUSION_STEPS = 8
# Ward's method takes time with the square of C: from so many clusters on only k-means makes partitions.
MOST_WARD_CLUSTERS = 1000
# An edge over which no partition agrees keeps so much of its weight: it holds the graph together.
FLOOR = 0.05
# Of the partitions that are asked for, the best of at least so many runs of k-means comes first.
FEWEST_RUNS = 5
# Steps of seed between runs.
SEED_STRIDE = 1009


def consensus_partitions(
    neighbors: Neighbors, n_clusters: int, n_partitions: int = 1, *, seed: int = 0, progress: bool = False
) -> np.ndarray:
    """(H, N) int32 labels of k-means in the consensus' eigenvectors, the tightest first.

    Args:
        neighbors: mined neighbors, 30 for the graphs that the method was measured with.
        n_clusters: C, at most N.
        n_partitions: H.
        seed: of Lanczos and k-means.
        progress: show how far it is.
    """
    n_views = (2 if n_clusters < MOST_WARD_CLUSTERS else 1) * len(GRAPHS) * len(graph_sizes(neighbors))
    made = tracked(views(neighbors, n_clusters, seed), "partitions of the graph", n_views, enabled=progress)
    graph = agreed_graph(neighbors, list(made))
    rows_NM = walk_rows(graph, n_clusters, seed)
    runs = [
        spectral_labels(rows_NM, n_clusters, n_init=1, seed=seed * SEED_STRIDE + run, sampled=True)
        for run in range(max(n_partitions, FEWEST_RUNS))
    ]
    runs.sort(key=lambda labels_N: -tightness(rows_NM, labels_N))
    return np.stack(runs[:n_partitions])


def consensus_of_rows(
    rows: Rows,
    n_clusters: int,
    n_partitions: int = 1,
    *,
    k: int = GRAPH_NEIGHBORS[-1],
    metric: str = "cosine",
    neighbors: Neighbors | None = None,
    seed: int = 0,
    progress: bool = False,
) -> np.ndarray:
    """(H, N) int32 `consensus_partitions` in which equal rows share a cluster.

    Clusters are sought among distinct rows, each of which counts once. Neighbors of a row that has as many copies as
    there are neighbors would be its copies alone: they would make a cluster of their own.

    Args:
        rows: N × D.
        n_clusters: C; where there are fewer distinct rows, each of them is a cluster.
        n_partitions: H.
        k: neighbors that are mined, or all there are.
        metric: by which.
        neighbors: of these rows, mined already; they serve where no two rows are equal.
        seed: of Lanczos and k-means.
        progress: show how far it is.
    """
    first_G, place_N = distinct_rows(rows)
    if len(first_G) <= n_clusters:
        return np.tile(place_N.astype(np.int32), (n_partitions, 1))
    if neighbors is None or len(first_G) < len(rows):
        neighbors = mine_neighbors(RowView(rows, first_G), min(k, len(first_G) - 1), metric=metric, progress=progress)
    return consensus_partitions(neighbors, n_clusters, n_partitions, seed=seed, progress=progress)[:, place_N]


def tightness(rows_NM: np.ndarray, labels_N: np.ndarray) -> float:
    """k-means' objective by direction: the lengths of the clusters' summed unit rows, as a share of N."""
    member = sparse.csr_matrix((np.ones(len(labels_N), np.float32), (labels_N, np.arange(len(labels_N)))))
    return float(np.linalg.norm(member @ rows_NM, axis=1).sum()) / len(labels_N)


def views(neighbors: Neighbors, n_clusters: int, seed: int = 0) -> Iterator[np.ndarray]:
    """The (N,) labels of twelve partitions: six graphs, each clustered by k-means and by Ward's method."""
    for weights, symmetric in GRAPHS:
        for k in graph_sizes(neighbors):
            rows_NM = walk_rows(neighbor_graph(neighbors, k=k, weights=weights, symmetric=symmetric), n_clusters, seed)
            yield spectral_labels(rows_NM, n_clusters, n_init=1, seed=seed, sampled=True)
            if n_clusters < MOST_WARD_CLUSTERS:
                yield ward_labels(rows_NM, n_clusters, seed=seed)


def graph_sizes(neighbors: Neighbors) -> list[int]:
    """How many neighbors the graphs are made of."""
    return sorted({min(k, neighbors.k) for k in GRAPH_NEIGHBORS})


def agreed_graph(neighbors: Neighbors, partitions: Iterable[np.ndarray]) -> sparse.csr_matrix:
    """The mutual graph, each edge times 0.05 + 0.95 a², where a is the share of the partitions that agree over it.

    Args:
        neighbors: mined neighbors.
        partitions: (N,) labels each.
    """
    graph = neighbor_graph(neighbors, k=graph_sizes(neighbors)[-1], symmetric="mutual").tocoo()
    together = [labels_N[graph.row] == labels_N[graph.col] for labels_N in partitions]
    agreement = np.mean(together, axis=0, dtype=np.float32)
    graph.data = graph.data * (FLOOR + (1 - FLOOR) * agreement**2)
    return graph.tocsr()


def walk_rows(graph: sparse.csr_matrix, n_clusters: int, seed: int = 0) -> np.ndarray:
    """(N, M) unit rows of the leading eigenvectors, each weighted by λ^32; for many clusters of diffused signals."""
    if n_clusters >= DIFFUSED_CLUSTERS:
        rows_NM = next(diffused_signals(graph, (DIFFUSION_STEPS,), seed=seed))
    else:
        wanted = min(round(EIGENVECTORS_PER_CLUSTER * n_clusters) + 2, graph.shape[0] - 1)
        values_M, vectors_NM = leading_eigenvectors(graph, wanted, seed=seed)
        rows_NM = vectors_NM * np.maximum(values_M, 0).astype(np.float32) ** WALK_STEPS
    rows_NM = with_lonely(rows_NM)
    return rows_NM / np.linalg.norm(rows_NM, axis=1, keepdims=True)
