"""Clusters that many views of the neighbor graph agree on.

One spectral clustering depends on chance: on which edges the graph has, how they are weighted, how many eigenvectors
are kept, where k-means ends. Here nine graphs are made of the same mined neighbors, each is clustered in two ways, and
each edge is weighted by how many of the partitions put its two ends into one cluster. The spectral clustering of
that graph is the consensus (after the cluster ensembles of Strehl & Ghosh 2002; it stays as sparse as the neighbors).

Where several partitions of that graph are about as good, chance would choose again: with other seeds of k-means the
accuracy varied by up to ten points. So candidates are made in several ways, and the one whose clusters tell most of
where walks of two steps end is taken (`walk_information`; docs/initialization.md has what else was tried).

Which eigenvectors count is decided by their eigenvalues λ, by λ^32: those that are nearly constant along 32 steps of a
random walk on the graph. A fixed number of them was worse (docs/initialization.md).

Shape suffixes: N samples, M eigenvectors or principal directions, C clusters, H partitions asked for, V views, R runs,
S middles of walks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from deepclust.features.distinct_rows import distinct_rows
from deepclust.features.rows import Rows, RowView
from deepclust.neighbors.diffusion import DIFFUSED_CLUSTERS, diffused_rows, order_of_signals, principal_rows
from deepclust.neighbors.mining import mine_neighbors
from deepclust.neighbors.neighbor_graph import Symmetric, Weights, neighbor_graph
from deepclust.neighbors.neighbors import Neighbors
from deepclust.neighbors.spectral import FITTED_ROWS, leading_eigenvectors, spectral_labels, with_lonely
from deepclust.neighbors.ward import ward_labels
from deepclust.runtime.progress import tracked
from deepclust.runtime.threads import one_thread_for_few

GRAPHS: tuple[tuple[Weights, Symmetric], ...] = (("similarity", "mean"), ("similarity", "mutual"), ("shared", "mean"))
GRAPH_NEIGHBORS = (10, 15, 30)
EIGENVECTORS_PER_CLUSTER = 2.5
WALK_STEPS = 32
# Of many clusters features are diffused: so often over the graph of a view, where small clusters must not run into each
# other, and over the agreed graph, whose edges hardly leave a cluster.
VIEW_STEPS, AGREED_STEPS = 2, 4
# Ward's method takes time with the square of C: from so many clusters on only k-means makes partitions.
MOST_WARD_CLUSTERS = 1000
# An edge over which no partition agrees keeps so much of its weight: it holds the graph together.
FLOOR = 0.05
# k-means is run so often on each graph, which evens out chance; less often where its runs are long: at most so many
# samples times clusters for all of them.
RUNS = 8
RUN_PAIRS = 1 << 23
# Of more samples than this only walks through so many of them are looked at.
MIDDLES = 1 << 16
# Steps of seed between runs.
SEED_STRIDE = 1009


class Consensus(NamedTuple):
    """What many views of a graph agree on.

    Attributes:
        partitions_HN: int32 partitions that most views agree on, those of the most `walk_information` first.
        views_VN: int32 a partition of each view: the first run of k-means, and Ward's, on each graph.
    """

    partitions_HN: np.ndarray
    views_VN: np.ndarray


def consensus_partitions(
    rows: Rows,
    neighbors: Neighbors,
    n_clusters: int,
    n_partitions: int = 1,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Consensus:
    """The partitions that most views of the graph agree on, and the views.

    Args:
        rows: N × D, which are diffused over the graph where there are many clusters.
        neighbors: mined neighbors, 30 for the graphs that the method was measured with.
        n_clusters: C, at most N.
        n_partitions: H.
        seed: of Lanczos and k-means.
        progress: show how far it is.
    """
    sizes = graph_sizes(neighbors)
    walks = Walks(rows, neighbors, n_clusters, seed)
    made = (view for k in sizes for view in walks.views(k))
    per_size = (2 if n_clusters < MOST_WARD_CLUSTERS else 1) * len(GRAPHS)
    seen = list(tracked(made, "partitions of the graph", per_size * len(sizes), enabled=progress))
    # The narrowest graphs see small clusters and miss chains; whether they help differs from one data set to the next.
    pools = [seen, seen[per_size:]] if len(sizes) > 1 else [seen]
    wanted = -(-n_partitions // len(pools))
    candidates = [
        labels_N
        for pool in pools
        for made_RN in walks.ways(agreed_graph(walks.neighbors, pool), AGREED_STEPS, at_least=wanted)
        for labels_N in made_RN
    ]
    graph = neighbor_graph(walks.neighbors)
    candidates.sort(key=lambda labels_N: -walk_information(labels_N, graph, seed=seed))
    chosen_HN, views_VN = np.stack(candidates[:n_partitions]), np.stack([made_RN[0] for made_RN in seen])
    return Consensus(chosen_HN[:, walks.place_N], views_VN[:, walks.place_N])


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
) -> Consensus:
    """`consensus_partitions` in which equal rows share a cluster.

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
    distinct, neighbors, place_N = neighbors_of_distinct(rows, n_clusters, k, metric, neighbors, progress)
    if neighbors is None:
        labels_N = place_N.astype(np.int32)
        return Consensus(np.tile(labels_N, (n_partitions, 1)), labels_N[None])
    with one_thread_for_few(len(distinct)):
        partitions_HG, views_VG = consensus_partitions(
            distinct, neighbors, n_clusters, n_partitions, seed=seed, progress=progress
        )
    return Consensus(partitions_HG[:, place_N], views_VG[:, place_N])


def views_of_rows(
    rows: Rows, n_clusters: int, *, k: int = GRAPH_NEIGHBORS[-1], neighbors: Neighbors | None = None, seed: int = 0
) -> np.ndarray:
    """(V, N) int32 the views of `consensus_of_rows`, without the consensus, in half its time.

    Args:
        rows: N × D.
        n_clusters: C.
        k: neighbors that are mined, or all there are.
        neighbors: as there.
        seed: as there.
    """
    distinct, neighbors, place_N = neighbors_of_distinct(rows, n_clusters, k, "cosine", neighbors)
    if neighbors is None:
        return place_N.astype(np.int32)[None]
    with one_thread_for_few(len(distinct)):
        walks = Walks(distinct, neighbors, n_clusters, seed)
        seen = [view for size in graph_sizes(neighbors) for view in walks.views(size, most_runs=1)]
    return np.concatenate(seen)[:, walks.place_N[place_N]]


def neighbors_of_distinct(
    rows: Rows, n_clusters: int, k: int, metric: str, neighbors: Neighbors | None, progress: bool = False
) -> tuple[Rows, Neighbors | None, np.ndarray]:
    """Distinct rows, their neighbors, None where these rows are no more than C, and (N,) which of them each row is."""
    first_G, place_N = distinct_rows(rows)
    if len(first_G) <= n_clusters:
        return rows, None, place_N
    if len(first_G) < len(rows):
        rows, neighbors = RowView(rows, first_G), None
    if neighbors is None:
        neighbors = mine_neighbors(rows, min(k, len(rows) - 1), metric=metric, progress=progress)
    return rows, neighbors, place_N


class Walks:
    """Clusters of graphs, sought among rows that change little along a walk on the graph.

    Args:
        rows: N × D.
        neighbors: mined of them.
        n_clusters: C.
        seed: of Lanczos and k-means.

    Attributes:
        neighbors: where features are diffused, of the samples in an order in which that is quick.
        place_N: (N,) where each sample stands in it.
    """

    def __init__(self, rows: Rows, neighbors: Neighbors, n_clusters: int, seed: int = 0) -> None:
        self.n_clusters = n_clusters
        self.seed = seed
        self.neighbors = neighbors
        self.place_N = np.arange(len(neighbors))
        self._principal_NM: np.ndarray | None = None
        if n_clusters >= DIFFUSED_CLUSTERS:
            order_N = order_of_signals(neighbor_graph(neighbors, k=GRAPH_NEIGHBORS[0]))
            self.neighbors = neighbors.reordered(order_N)
            self.place_N = np.argsort(order_N)
            self._principal_NM = principal_rows(rows, metric=neighbors.metric)[order_N]

    def views(self, k: int, *, most_runs: int = RUNS) -> Iterator[np.ndarray]:
        """Six views, each (R, N) labels: three graphs of k neighbors, by k-means and by Ward's method."""
        for weights, symmetric in GRAPHS:
            graph = neighbor_graph(self.neighbors, k=k, weights=weights, symmetric=symmetric)
            yield from self.ways(graph, most_runs=most_runs)

    def rows(self, graph: sparse.csr_matrix, steps: int) -> np.ndarray:
        """(N, M) unit rows: of the leading eigenvectors, each weighted by λ^32, or of diffused features.

        Args:
            graph: N × N.
            steps: how often features are diffused.
        """
        if self._principal_NM is not None:
            rows_NM = next(diffused_rows(self._principal_NM, graph, (steps,)))
        else:
            wanted = min(round(EIGENVECTORS_PER_CLUSTER * self.n_clusters) + 2, graph.shape[0] - 1)
            values_M, vectors_NM = leading_eigenvectors(graph, wanted, seed=self.seed)
            rows_NM = vectors_NM * np.maximum(values_M, 0).astype(np.float32) ** WALK_STEPS
        rows_NM = with_lonely(rows_NM)
        return rows_NM / np.linalg.norm(rows_NM, axis=1, keepdims=True)

    def ways(
        self, graph: sparse.csr_matrix, steps: int = VIEW_STEPS, *, at_least: int = 1, most_runs: int = RUNS
    ) -> Iterator[np.ndarray]:
        """(R, N) int32 labels of R runs of k-means in a graph's rows, then (1, N) of Ward's method.

        Args:
            graph: N × N.
            steps: as for `rows`.
            at_least: so many runs in any case.
            most_runs: else so many, or fewer where they are long. The first ones are the same however many there are.
        """
        rows_NM, n_clusters = self.rows(graph, steps), self.n_clusters
        afforded = RUN_PAIRS // (n_clusters * min(len(rows_NM), FITTED_ROWS))
        n_runs = max(at_least, min(most_runs, afforded))
        seeds = range(self.seed * SEED_STRIDE, self.seed * SEED_STRIDE + n_runs)
        yield np.stack([spectral_labels(rows_NM, n_clusters, n_init=1, seed=one, sampled=True) for one in seeds])
        if n_clusters < MOST_WARD_CLUSTERS:
            yield ward_labels(rows_NM, n_clusters, seed=self.seed)[None].astype(np.int32)


def walk_information(labels_N: np.ndarray, graph: sparse.csr_matrix, *, seed: int = 0) -> float:
    """Mutual information, in nats, of the clusters at both ends of a random walk of two steps.

    A walk begins at any sample and goes along edges in proportion to their weights. Of one step it would be the
    information that heads learn from pairs; two look past the neighbors that every view was made of. It needs no
    labels.

    Args:
        labels_N: cluster ids from 0.
        graph: N × N, with weights of 0 or more.
        seed: of the samples that walks may have in their middle, where there are more than 65 536.

    Example:
        >>> pairs = sparse.csr_matrix(np.kron(np.eye(2), [[0.0, 1.0], [1.0, 0.0]]))  # two edges apart from each other
        >>> round(walk_information(np.array([0, 0, 1, 1]), pairs), 3)  # log 2: the end is known from the beginning
        0.693
    """
    n_samples, n_clusters = len(labels_N), int(labels_N.max()) + 1
    degree_N = np.asarray(graph.sum(axis=1)).ravel()
    step_NN = (sparse.diags(1 / np.maximum(degree_N, np.finfo(np.float64).tiny)) @ graph).tocsr()
    member_NC = sparse.csr_matrix(
        (np.ones(n_samples), labels_N, np.arange(n_samples + 1)), shape=(n_samples, n_clusters)
    )
    middles_S = np.arange(n_samples)
    if n_samples > MIDDLES:
        middles_S = np.sort(np.random.default_rng(seed).choice(n_samples, MIDDLES, replace=False))
    # The step to the middle and the step from it, so that no N × N product is made.
    joint = ((step_NN.T.tocsr()[middles_S] @ member_NC).T @ (step_NN[middles_S] @ member_NC)).tocoo()
    share = joint.data / joint.data.sum()
    begin_C, end_C = (np.bincount(side, share, n_clusters) for side in (joint.row, joint.col))
    return float((share * np.log(share / (begin_C[joint.row] * end_C[joint.col]))).sum())


def graph_sizes(neighbors: Neighbors) -> list[int]:
    """How many neighbors the graphs are made of."""
    return sorted({min(k, neighbors.k) for k in GRAPH_NEIGHBORS})


def agreed_graph(neighbors: Neighbors, views: Sequence[np.ndarray]) -> sparse.csr_matrix:
    """The mutual graph, each edge times 0.05 + 0.95 a², where a is the share of the views that agree over it.

    Args:
        neighbors: mined neighbors.
        views: (R, N) labels each; where it has several partitions, a view agrees in part.
    """
    graph = neighbor_graph(neighbors, k=graph_sizes(neighbors)[-1], symmetric="mutual").tocoo()
    agreement = np.zeros(graph.nnz, np.float32)
    for view_RN in views:
        for labels_N in view_RN:
            agreement += (labels_N[graph.row] == labels_N[graph.col]) / np.float32(len(view_RN) * len(views))
    graph.data = graph.data * (FLOOR + (1 - FLOOR) * agreement**2)
    return graph.tocsr()
