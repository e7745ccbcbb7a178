"""One linkage, many cuts: cluster numbers and distance thresholds are read off the same tree.

fastcluster builds it (Müllner 2013). Ward and single linkage can do with O(N·D) memory. The other linkages hold all N(N
- 1)/2 distances; where these exceed the free memory they are refused before anything is allocated.

Shape suffixes: N samples, D feature dimensions, B rows of a block.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import fastcluster
import numpy as np
from scipy.spatial.distance import pdist

from deepclust.features.rows import Rows
from deepclust.neighbors.ward import cut_of_tree
from deepclust.runtime.devices import free_bytes
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint
from deepclust.runtime.memory import check_memory

LINKAGES = ("ward", "complete", "average", "single")
METRICS = ("euclidean", "l1", "linf", "cosine", "arccos")
# The metrics of fastcluster's variant that saves memory, by its names.
FASTCLUSTER_METRICS = {"euclidean": "euclidean", "l1": "cityblock", "linf": "chebychev", "cosine": "cosine"}
BLOCK_ROWS = 512
DIGEST_ROWS = 1 << 14
# Up to so many samples ward and single linkage use the faster variant that holds all distances (1.6 GB).
CONDENSED_SAMPLES = 20_000


Made = TypeVar("Made")


@dataclass(frozen=True)
class Dendrogram:
    """The merges of an agglomerative clustering.

    Attributes:
        merges: (N - 1, 4) float64 in scipy's order: the two nodes that merge, their distance, the samples below.
            Distances never decrease.
        linkage: `ward`, `complete`, `average` or `single`.
        metric: `euclidean`, `l1`, `linf`, `cosine` or `arccos`.
    """

    merges: np.ndarray
    linkage: str
    metric: str

    @property
    def n_samples(self) -> int:
        """N."""
        return len(self.merges) + 1

    @property
    def heights(self) -> np.ndarray:
        """(N - 1,) distances at which clusters merge, ascending."""
        return self.merges[:, 2]

    def cut(self, n_clusters: int) -> np.ndarray:
        """(N,) int32 labels of exactly C clusters: those after the first N - C merges, also where distances tie.

        Raises:
            InputError: if C is not in [1, N].
        """
        n_samples = self.n_samples
        if not 1 <= n_clusters <= n_samples:
            raise InputError(f"n_clusters is {n_clusters}: a tree of {n_samples} samples is cut into 1 to {n_samples}")
        return cut_of_tree(self.merges, n_clusters)

    def n_clusters_at(self, distance_threshold: float) -> int:
        """How many clusters are left when all merges below the threshold are done, as in scikit-learn."""
        return self.n_samples - int(np.searchsorted(self.heights, distance_threshold, side="left"))

    def cut_at(self, distance_threshold: float) -> np.ndarray:
        """(N,) int32 labels of the clusters that are at least the threshold apart.

        Raises:
            InputError: if the threshold is negative or NaN.
        """
        if not distance_threshold >= 0:
            raise InputError(f"distance_threshold is {distance_threshold}: it must be 0 or more")
        return self.cut(self.n_clusters_at(distance_threshold))


class Linkages:
    """A cache of the trees of rows that are clustered several times: each linkage and metric is built once.

    Rows are known by their digest and not kept. Whoever runs several clusterers holds one of these; the trees, 32 N
    bytes each, are freed with it.
    """

    def __init__(self) -> None:
        self._built: dict[tuple[Any, ...], tuple[Any, float]] = {}

    def dendrogram(self, rows_ND: np.ndarray, linkage: str, metric: str) -> tuple[Dendrogram, float]:
        """The tree as `build_dendrogram` makes it, and the seconds that it took if it was built earlier, else 0. A
        clustering adds these seconds to its own, so that it is timed as if it had built its tree itself.
        """
        key = (fingerprint(rows_ND), linkage, metric)
        return self.made(key, lambda: build_dendrogram(rows_ND, linkage, metric))

    def made(self, key: tuple[Any, ...], make: Callable[[], Made]) -> tuple[Made, float]:
        """What `make` makes, and the seconds that it took if it was made earlier, else 0."""
        if key in self._built:
            return self._built[key]
        start = time.perf_counter()
        made = make()
        self._built[key] = made, time.perf_counter() - start
        return made, 0.0


def digest_of_rows(rows_ND: Rows) -> str:
    """A digest of all rows, which are read in blocks."""
    starts = range(0, rows_ND.shape[0], DIGEST_ROWS)
    return fingerprint([fingerprint(np.asarray(rows_ND[start : start + DIGEST_ROWS])) for start in starts])


def build_dendrogram(rows_ND: np.ndarray, linkage: str = "ward", metric: str = "euclidean") -> Dendrogram:
    """Build the tree of all samples.

    Args:
        rows_ND: samples, used as they are; `cosine` and `arccos` compare their directions.
        linkage: `ward` (Euclidean only), `complete`, `average` or `single`.
        metric: `euclidean`, `l1`, `linf` (largest difference of a dimension), `cosine` (1 - cos) or `arccos` (the angle
            in radians).

    Returns:
        The same merges as scikit-learn's AgglomerativeClustering where no distances tie.

    Raises:
        InputError: for an unknown linkage or metric, ward with a metric other than Euclidean, fewer than 2 samples, or
            more samples than the memory at hand reaches.
    """
    check_linkage(linkage, metric)
    rows_ND = np.asarray(rows_ND, dtype=np.float64)
    n_samples = len(rows_ND)
    if n_samples < 2:
        raise InputError(f"there is {n_samples} sample: agglomerative clustering needs at least 2")
    check_reach(n_samples, linkage, metric)
    if _in_place(linkage, metric) and (n_samples > CONDENSED_SAMPLES or _condensed_bytes(n_samples) > free_bytes() / 2):
        merges = fastcluster.linkage_vector(rows_ND, linkage, FASTCLUSTER_METRICS[metric])
    else:
        merges = fastcluster.linkage(pairwise_distances(rows_ND, metric), linkage, preserve_input=False)
    return Dendrogram(merges, linkage, metric)


def check_reach(n_samples: int, linkage: str, metric: str) -> None:
    """Raises InputError where the distances of all pairs, if the linkage needs them, exceed the memory at hand."""
    if not _in_place(linkage, metric):
        remedy = "use linkage=ward, which needs memory for the features only, or set max_samples="
        check_memory(n_samples, _condensed_bytes(n_samples), f"{linkage} linkage", remedy)


def _in_place(linkage: str, metric: str) -> bool:
    """Whether fastcluster can do without the distances of all pairs."""
    return linkage == "ward" or (linkage == "single" and metric in FASTCLUSTER_METRICS)


def _condensed_bytes(n_samples: int) -> int:
    return 4 * n_samples * (n_samples - 1)


def check_linkage(linkage: str, metric: str) -> None:
    """Raises InputError for an unknown linkage or metric, or ward with a metric other than Euclidean."""
    if linkage not in LINKAGES:
        raise InputError(f"linkage is '{linkage}': choose one of {', '.join(LINKAGES)}")
    if metric not in METRICS:
        raise InputError(f"metric is '{metric}': choose one of {', '.join(METRICS)}")
    if linkage == "ward" and metric != "euclidean":
        raise InputError(f"ward linkage is defined for metric=euclidean only, not for {metric}: choose another linkage")


def pairwise_distances(rows_ND: np.ndarray, metric: str) -> np.ndarray:
    """(N(N - 1)/2,) float64 distances of all pairs in scipy's condensed order.

    Euclidean and cosine distances come from matrix products: scipy's `pdist` would not use BLAS.
    """
    if metric in ("l1", "linf"):
        return pdist(rows_ND, "cityblock" if metric == "l1" else "chebyshev")
    n_samples = len(rows_ND)
    # Distances do not change when all rows move together, but their rounding does.
    moved_ND = rows_ND - rows_ND.mean(axis=0) if metric == "euclidean" else rows_ND
    norms_N = np.linalg.norm(moved_ND, axis=1)
    if metric != "euclidean":
        moved_ND = moved_ND / np.where(norms_N > 0, norms_N, 1)[:, None]
    squares_N = norms_N**2
    condensed = np.empty(n_samples * (n_samples - 1) // 2)
    position = 0
    for start in range(0, n_samples, BLOCK_ROWS):
        block_BN = moved_ND[start : start + BLOCK_ROWS] @ moved_ND[start:].T
        if metric == "euclidean":
            block_BN *= -2
            block_BN += squares_N[start : start + BLOCK_ROWS, None]
            block_BN += squares_N[start:]
            np.sqrt(np.maximum(block_BN, 0, out=block_BN), out=block_BN)
        elif metric == "cosine":
            np.maximum(1 - block_BN, 0, out=block_BN)
        else:
            np.arccos(np.clip(block_BN, -1, 1, out=block_BN), out=block_BN)
        for offset, distances_N in enumerate(block_BN):
            row = distances_N[offset + 1 :]
            condensed[position : position + len(row)] = row
            position += len(row)
    return condensed
