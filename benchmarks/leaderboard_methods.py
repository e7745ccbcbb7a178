"""The methods of the leaderboard: deepclust's, and those of other packages as their packages bring them.

What they need beside deepclust, which a leaderboard without them does not: `pip install evoc`, and
`deepclust[clusterers]` for igraph and umap-learn. Settings are a package's defaults, or what its documentation
recommends for clustering; none is tuned to a set.

Rows of sets that are compared by direction are scaled to norm 1 for methods of Euclidean distance.

Shape suffixes: N samples, D feature dimensions, K neighbors.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.runtime.files import read_npz, written_whole

# UMAP's documentation, "Using UMAP for clustering": more neighbors than by default, and min_dist 0.
UMAP_NEIGHBORS, UMAP_DIMENSIONS = 30, 10
# Of a Gaussian mixture: samples per class and dimension from which on a class has a covariance of its own in full.
SAMPLES_PER_DIMENSION = 4
MIXTURE_DIMENSIONS = 50
LEIDEN_NEIGHBORS = 15


@dataclass
class Task:
    """What a method is given.

    Attributes:
        rows_ND: float32 rows as the set has them.
        metric: `cosine` or `euclidean`.
        n_clusters: None for methods that are not told.
        seed: of the method.
        kept: folder for what several methods of one set and seed share.
        set_name: names the set in that folder.
        shared_seconds: of CPU time that an earlier method took to make what this one found there.
    """

    rows_ND: np.ndarray
    metric: str
    n_clusters: int | None
    seed: int
    kept: Path
    set_name: str
    shared_seconds: float = field(default=0.0, init=False)

    @property
    def points_ND(self) -> np.ndarray:
        """The rows for methods of Euclidean distance."""
        if self.metric == "euclidean":
            return self.rows_ND
        return self.rows_ND / np.maximum(np.linalg.norm(self.rows_ND, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Method:
    """A row of the leaderboard.

    Attributes:
        title: on the page.
        about: its settings in one line. Where it changes, its cells are run again.
        package: whose version is noted, by its name in a package index.
        modules: imported before the clock starts.
        fit: gives (N,) clusters, -1 for noise.
        told: whether it is told the number of clusters.
        seeded: whether a seed changes what it finds; else one cell stands for all seeds.
        largest, most_clusters: no set with more samples or clusters is tried.
    """

    title: str
    about: str
    package: str
    modules: tuple[str, ...]
    fit: Callable[[Task], np.ndarray]
    told: bool = True
    seeded: bool = True
    largest: int | None = None
    most_clusters: int | None = None

    def refusal(self, n_samples: int, n_clusters: int | None) -> str | None:
        """Why a set is not tried, if it is not."""
        if self.largest is not None and n_samples > self.largest:
            return f"more than {self.largest} samples"
        if self.most_clusters is not None and (n_clusters or 0) > self.most_clusters:
            return f"more than {self.most_clusters} clusters"
        return None


def _estimator(name: str, **settings: Any) -> Callable[[Task], np.ndarray]:
    """An estimator of deepclust with its defaults, and what is given; it finds the number where nobody tells it."""

    def fit(task: Task) -> np.ndarray:
        import deepclust

        estimator = getattr(deepclust, name)(task.n_clusters or "auto", random_state=task.seed, **settings)
        return estimator.fit(task.rows_ND).labels_

    return fit


def _consensus(task: Task) -> np.ndarray:
    from deepclust.clusterers import make_clusterer

    return make_clusterer("consensus", n_clusters=task.n_clusters, seed=task.seed).fit(task.rows_ND).labels


def _kmeans(points_ND: np.ndarray, task: Task) -> np.ndarray:
    from sklearn.cluster import KMeans

    return KMeans(task.n_clusters, n_init=10, random_state=task.seed).fit(points_ND).labels_


def _ward(task: Task) -> np.ndarray:
    from sklearn.cluster import AgglomerativeClustering

    return AgglomerativeClustering(task.n_clusters).fit(task.points_ND).labels_


def _mixture(task: Task) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    points_ND = task.points_ND.astype(np.float64)
    if points_ND.shape[1] > MIXTURE_DIMENSIONS:
        points_ND = PCA(MIXTURE_DIMENSIONS, random_state=task.seed).fit_transform(points_ND)
    # One scale for all columns: the constant that is added to variances means the same on every set.
    points_ND /= points_ND.std(axis=0).max()
    n_samples, dim = points_ND.shape
    assert task.n_clusters is not None
    full = n_samples / task.n_clusters >= SAMPLES_PER_DIMENSION * dim
    return GaussianMixture(
        task.n_clusters, covariance_type="full" if full else "diag", reg_covar=1e-4, random_state=task.seed
    ).fit_predict(points_ND)


def _spectral(task: Task) -> np.ndarray:
    from sklearn.cluster import SpectralClustering

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        return SpectralClustering(task.n_clusters, affinity="nearest_neighbors", random_state=task.seed).fit_predict(
            task.points_ND
        )


def _umap(task: Task) -> np.ndarray:
    """The embedding that both methods of UMAP share; the second one is charged the time of the first."""
    path = task.kept / f"umap-{task.set_name}-{task.seed}.npz"
    settings = f"{UMAP_NEIGHBORS} {UMAP_DIMENSIONS} {task.metric} {task.rows_ND.shape}"
    if path.is_file():
        kept = read_npz(path)
        if str(kept["settings"]) == settings:
            task.shared_seconds = float(kept["seconds"])
            return kept["embedding"]
    from umap import UMAP

    started = time.process_time()
    embedding = UMAP(
        n_neighbors=min(UMAP_NEIGHBORS, len(task.rows_ND) - 1),
        n_components=UMAP_DIMENSIONS,
        min_dist=0.0,
        metric=task.metric,
        random_state=task.seed,
        n_jobs=1,
    ).fit_transform(task.rows_ND)
    seconds = time.process_time() - started
    with written_whole(path) as temporary:
        np.savez(temporary, embedding=embedding, seconds=np.array(seconds), settings=np.array(settings))
    return embedding


def _umap_hdbscan(task: Task) -> np.ndarray:
    from sklearn.cluster import HDBSCAN

    return HDBSCAN(min_cluster_size=max(15, len(task.rows_ND) // 200), copy=True).fit(_umap(task)).labels_


def _leiden(task: Task) -> np.ndarray:
    import igraph
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(task.points_ND, LEIDEN_NEIGHBORS, mode="connectivity")
    edges = graph.maximum(graph.T).tocoo()
    once = edges.row < edges.col
    igraph.set_random_number_generator(random.Random(task.seed))
    return np.array(
        igraph.Graph(len(task.rows_ND), np.column_stack([edges.row[once], edges.col[once]]))
        .community_leiden(objective_function="modularity", n_iterations=-1)
        .membership
    )


def _evoc(task: Task) -> np.ndarray:
    from evoc import EVoC

    return EVoC(random_state=task.seed).fit_predict(task.rows_ND)


def _of_deepclust(title: str, about: str, fit: Callable[[Task], np.ndarray], **more: Any) -> Method:
    return Method(title, about, "deepclust", ("deepclust.estimators",), fit, **more)


_SKLEARN = "scikit-learn"
METHODS: Mapping[str, Method] = {
    # deepclust's own. Another estimator is one line here.
    "temi": _of_deepclust("TEMI", "estimator's defaults", _estimator("TEMI")),
    "scan": _of_deepclust("SCANv2", "estimator's defaults", _estimator("SCAN")),
    "tsp": _of_deepclust("TSP", "estimator's defaults", _estimator("TSP")),
    "temi_consensus": _of_deepclust("TEMI, consensus", "init=consensus", _estimator("TEMI", init="consensus")),
    "consensus": _of_deepclust(
        "consensus", "18 views, 8 runs each, chosen by walks of 2 steps; untrained", _consensus
    ),
    "consensus_heads": _of_deepclust("consensus heads", "its estimator, defaults", _estimator("ConsensusHeads")),
    "spherical_kmeans": _of_deepclust("spherical k-means", "deepclust's, best of 5", _estimator("SphericalKMeans")),
    # Other packages, told C.
    "kmeans": Method(
        "k-means", "best of 10", _SKLEARN, ("sklearn.cluster",), lambda task: _kmeans(task.points_ND, task)
    ),
    "ward": Method("ward", "defaults", _SKLEARN, ("sklearn.cluster",), _ward, seeded=False, largest=20_000),
    "mixture": Method(
        "Gaussian mixture",
        f"PCA to {MIXTURE_DIMENSIONS}; full covariances from {SAMPLES_PER_DIMENSION} samples a class and dimension on, "
        "else diagonal",
        _SKLEARN, ("sklearn.mixture", "sklearn.decomposition"), _mixture,
    ),
    "spectral": Method(
        "spectral", "graph of 10 neighbors, defaults", _SKLEARN, ("sklearn.cluster",), _spectral,
        largest=8000, most_clusters=100,
    ),
    "umap_kmeans": Method(
        "UMAP + k-means", f"{UMAP_NEIGHBORS} neighbors, {UMAP_DIMENSIONS} dimensions, min_dist 0; best of 10",
        "umap-learn", ("umap", "sklearn.cluster"), lambda task: _kmeans(_umap(task), task),
    ),
    # Not told C.
    "consensus_auto": _of_deepclust(
        "consensus heads, auto", "n_clusters=auto, as `deepclust PATH`", _estimator("ConsensusHeads"), told=False
    ),
    "auto": _of_deepclust("TSP, auto", "n_clusters=auto", _estimator("TSP"), told=False),
    "umap_hdbscan": Method(
        "UMAP + HDBSCAN", "the same UMAP; clusters of N / 200 and at least 15 samples", "umap-learn",
        ("umap", "sklearn.cluster"), _umap_hdbscan, told=False,
    ),
    "leiden": Method(
        "Leiden", f"modularity on the graph of {LEIDEN_NEIGHBORS} neighbors", "igraph",
        ("igraph", "sklearn.neighbors"), _leiden, told=False,
    ),
    "evoc": Method("EVoC", "defaults", "evoc", ("evoc",), _evoc, told=False),
}  # fmt: skip
