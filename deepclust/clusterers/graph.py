"""Clusterers of the nearest-neighbor graph as baselines: spectral clustering, what many spectral clusterings agree on,
Louvain and Leiden communities.

The neighbors are found by this package's own search: by cosine similarity under `normalize="l2"`, by Euclidean distance
under `none`.

Shape suffixes: N samples, D feature dimensions, K neighbors.
"""

from __future__ import annotations

import random
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sklearn.cluster import SpectralClustering

from deepclust.clusterers.base import Clusterer
from deepclust.features.rows import Rows
from deepclust.neighbors import Neighbors, mine_neighbors
from deepclust.neighbors.consensus import consensus_of_rows
from deepclust.neighbors.neighbor_graph import neighbor_graph
from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import setting

ASSIGNMENTS = ("cluster_qr", "discretize", "kmeans")
WEIGHTS = ("similarity", "none")


class _GraphClusterer(Clusterer):
    """What the graph's clusterers share: the search for neighbors."""

    usual_neighbors: ClassVar[int]
    n_neighbors: int | None

    def _check(self, n_samples: int) -> None:
        if self.n_neighbors is not None and not 2 <= self.n_neighbors < n_samples:
            raise InputError(
                f"n_neighbors is {self.n_neighbors}: {self.name} clustering of {n_samples} samples takes 2 to "
                f"{n_samples - 1}"
            )

    def _k(self, at_most: int) -> int:
        """The K that was asked for, else the usual one, or all that there are."""
        return min(self.usual_neighbors, at_most) if self.n_neighbors is None else self.n_neighbors

    def _neighbors(self, rows_ND: np.ndarray, n_neighbors: int) -> Neighbors:
        return mine_neighbors(rows_ND, n_neighbors, metric=self._metric)

    @property
    def _metric(self) -> str:
        return "cosine" if self.normalize == "l2" else "euclidean"


@dataclass(eq=False, kw_only=True)
class SpectralClusterer(_GraphClusterer):
    """scikit-learn's SpectralClustering of the symmetrized neighbor graph; new samples join the nearest cluster mean.

    Args:
        n_clusters: C, at most N.
        seed: of the eigensolver's start and of k-means.
        normalize, max_samples: as in `Clusterer`.
        n_neighbors: K, the sample itself included; edges have weight 1, or ½ where only one end names the other. None
            takes 10, scikit-learn's default, or all there are.
        n_components: eigenvectors; None takes C.
        assign_labels: from eigenvectors to clusters: `cluster_qr` (what the code of Lowe et al. 2023 takes),
            `discretize` or `kmeans`.
    """

    name: ClassVar[str] = "spectral"
    usual_neighbors: ClassVar[int] = 10

    n_neighbors: int | None = setting(None, "K, the sample itself included; null: 10", whole=True)
    n_components: int | None = setting(None, "eigenvectors; null: C", at_least=1, whole=True)
    assign_labels: str = setting("cluster_qr", "from eigenvectors to clusters", choices=ASSIGNMENTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.assign_labels == "cluster_qr" and self.n_components not in (None, self.n_clusters):
            raise InputError(
                f"n_components is {self.n_components}, but assign_labels=cluster_qr takes one eigenvector per cluster: "
                "leave n_components out, or choose discretize or kmeans"
            )

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        rows_ND = self._compared_rows(features_ND)
        if self.n_clusters == 1:
            labels_N = np.zeros(len(rows_ND), np.int32)
            self._keep_centroids(rows_ND, labels_N)
            return labels_N, None, ()
        fitted = SpectralClustering(
            self.n_clusters,
            n_components=self.n_components,
            affinity="precomputed",
            assign_labels=self.assign_labels,
            random_state=self.seed,
        )
        neighbors = self._neighbors(rows_ND, self._k(len(rows_ND) - 1) - 1)
        graph = neighbor_graph(neighbors, weights="ones", symmetric="mean", self_loops=True)
        with warnings.catch_warnings():
            # A graph of several components is fine here: each is a cluster of its own.
            warnings.filterwarnings("ignore", message="Graph is not fully connected")
            labels_N = fitted.fit(graph).labels_.astype(np.int32)
        self._keep_centroids(rows_ND, labels_N)
        return labels_N, None, ()


@dataclass(eq=False, kw_only=True)
class ConsensusClusterer(_GraphClusterer):
    """The partition that many of the neighbor graph agree on: where heads start under `init=consensus`, untrained.

    Equal rows share a cluster, so where there are fewer distinct rows than C there are as many clusters. New samples
    join the nearest cluster mean.

    Args:
        n_clusters: C, at most N.
        seed: of the eigensolver's start and of k-means.
        normalize, max_samples: as in `Clusterer`.
        n_neighbors: K of the widest of its graphs. None takes 30, or all there are.
    """

    name: ClassVar[str] = "consensus"
    usual_neighbors: ClassVar[int] = 30

    n_neighbors: int | None = setting(None, "K of the widest graph; null: 30", whole=True)

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        assert self.n_clusters is not None
        rows_ND = self._compared_rows(features_ND)
        if self.n_clusters == 1:
            labels_N = np.zeros(len(rows_ND), np.int32)
        else:
            k, metric = self._k(len(rows_ND) - 1), self._metric
            found = consensus_of_rows(rows_ND, self.n_clusters, k=k, metric=metric, seed=self.seed)
            labels_N = found.partitions_HN[0]
        self._keep_centroids(rows_ND, labels_N)
        return labels_N, None, ()


class _CommunityClusterer(_GraphClusterer):
    """What both community detections share: a weighted undirected graph in igraph."""

    needs_n_clusters: ClassVar[bool] = False
    usual_neighbors: ClassVar[int] = 15
    weights: str
    resolution: float

    @classmethod
    def check_installed(cls) -> None:
        _igraph()

    def _check(self, n_samples: int) -> None:
        super()._check(n_samples)
        self.check_installed()

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        igraph = _igraph()
        rows_ND = self._compared_rows(features_ND)
        neighbors = self._neighbors(rows_ND, self._k(len(rows_ND) - 1))
        edges = sparse.triu(neighbor_graph(neighbors, weights="similarity", symmetric="max"), k=1).tocoo()
        graph = igraph.Graph(len(rows_ND), np.column_stack([edges.row, edges.col]))
        igraph.set_random_number_generator(random.Random(self.seed))
        try:
            weights = edges.data.astype(np.float64) if self.weights == "similarity" else None
            members = self._communities(graph, weights).membership
        finally:
            igraph.set_random_number_generator(random)
        labels_N = np.asarray(members, dtype=np.int32)
        self._keep_centroids(rows_ND, labels_N)
        return labels_N, None, ()

    @abstractmethod
    def _communities(self, graph: Any, weights: np.ndarray | None) -> Any:
        """igraph's clustering of the graph's vertices."""


@dataclass(eq=False, kw_only=True)
class LouvainClusterer(_CommunityClusterer):
    """Louvain communities of the neighbor graph, by igraph (Blondel et al. 2008).

    Args:
        n_clusters: ignored.
        seed: of the order in which vertices are visited.
        normalize, max_samples: as in `Clusterer`.
        n_neighbors: K, the sample itself not included. None takes 15, the default of UMAP and of Scanpy's communities,
            or all there are.
        weights: `similarity`, see `neighbor_graph`, or `none`: every edge counts 1.
        resolution: of the modularity; more gives more communities.
    """

    name: ClassVar[str] = "louvain"

    n_neighbors: int | None = setting(None, "K; null: 15", whole=True)
    weights: str = setting("similarity", "of the edges", choices=WEIGHTS)
    resolution: float = setting(1.0, "of the modularity", above=0)

    def _communities(self, graph: Any, weights: np.ndarray | None) -> Any:
        return graph.community_multilevel(weights=weights, resolution=self.resolution)


@dataclass(eq=False, kw_only=True)
class LeidenClusterer(_CommunityClusterer):
    """Leiden communities of the neighbor graph by modularity, by igraph (Traag et al. 2019).

    Args:
        n_clusters: ignored.
        seed: of the order in which vertices are visited.
        normalize, max_samples: as in `Clusterer`.
        n_neighbors, weights, resolution: as in `LouvainClusterer`.
        n_iterations: rounds of refinement; -1 goes on until nothing changes.
    """

    name: ClassVar[str] = "leiden"

    n_neighbors: int | None = setting(None, "K; null: 15", whole=True)
    weights: str = setting("similarity", "of the edges", choices=WEIGHTS)
    resolution: float = setting(1.0, "of the modularity", above=0)
    n_iterations: int = setting(-1, "rounds of refinement; -1: until nothing changes", at_least=-1, whole=True)

    def _communities(self, graph: Any, weights: np.ndarray | None) -> Any:
        return graph.community_leiden(
            objective_function="modularity",
            weights=weights,
            resolution=self.resolution,
            n_iterations=self.n_iterations,
        )


def _igraph() -> Any:
    try:
        import igraph
    except ImportError:
        raise InputError("louvain and leiden need igraph: pip install 'deepclust[clusterers]'") from None
    return igraph
