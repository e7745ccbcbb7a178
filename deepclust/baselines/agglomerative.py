"""Agglomerative clustering as a baseline: scipy's linkage over Euclidean distances of normalized features.

Shape suffixes: N samples, D feature dimensions, S samples that the tree is built over, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from scipy.cluster.hierarchy import linkage as build_linkage
from scipy.sparse.csgraph import connected_components

from deepclust.baselines.base import Baseline
from deepclust.errors import InputError
from deepclust.features.store import Rows

LINKAGES = ("ward", "average", "complete", "single")
# The tree holds all S²/2 distances, twice while it is built: 10 000 samples take 0.8 GB and about 5 s on two cores.
MAX_SAMPLES = 10_000
BLOCK_ROWS = 512


class AgglomerativeBaseline(Baseline):
    """Bottom-up merging until C clusters are left.

    Above `max_samples` the tree is built over a random subsample and every other sample joins the nearest cluster mean
    by cosine similarity, as new samples do. The notes of the Clustering say so.

    Args:
        n_clusters: C, at least 2 and at most as many as the samples (or `max_samples`).
        seed: of the subsample; below `max_samples` nothing is drawn.
        linkage: `ward`, `average`, `complete` or `single`.
        max_samples: S at most.
    """

    name: ClassVar[str] = "agglomerative"

    def __init__(
        self, n_clusters: int, *, seed: int = 0, linkage: str = "ward", max_samples: int = MAX_SAMPLES
    ) -> None:
        if linkage not in LINKAGES:
            raise InputError(f"linkage is '{linkage}': choose one of {', '.join(LINKAGES)}")
        self.n_clusters: int = n_clusters
        self.seed = seed
        self.linkage = linkage
        self.max_samples = max_samples

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "n_clusters": self.n_clusters,
            "seed": self.seed,
            "linkage": self.linkage,
            "max_samples": self.max_samples,
        }

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        if features_ND.ndim != 2:
            raise InputError(f"features have shape {features_ND.shape}: give a matrix, one row per sample")
        n_samples = features_ND.shape[0]
        n_tree = min(n_samples, self.max_samples)
        if not 2 <= self.n_clusters <= n_tree:
            raise InputError(
                f"n_clusters is {self.n_clusters}: agglomerative clustering of {n_tree} samples gives 2 to {n_tree}"
                + (f"; raise max_samples (there are {n_samples} samples)" if n_tree < n_samples else "")
            )
        if n_tree == n_samples:
            tree_rows = np.arange(n_samples)
        else:
            tree_rows = np.sort(np.random.default_rng(self.seed).choice(n_samples, n_tree, replace=False))
        sample_SD = np.asarray(features_ND[tree_rows], dtype=np.float64)
        _check_rows(sample_SD, tree_rows)
        sample_SD /= np.linalg.norm(sample_SD, axis=1, keepdims=True)
        tree = build_linkage(_unit_distances(sample_SD), self.linkage)
        sample_labels_S = _cut(tree, self.n_clusters)
        self._keep_centroids(sample_SD, sample_labels_S)
        if n_tree == n_samples:
            return sample_labels_S, None, ()
        labels_N, _ = self._nearest(features_ND)
        labels_N[tree_rows] = sample_labels_S
        note = (
            f"Agglomerative: the {self.linkage} tree was built over {n_tree} of {n_samples} samples drawn at random; "
            "the others joined the nearest cluster mean."
        )
        return labels_N, None, (note,)

    def _predict(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        note = "Agglomerative has no rule for new samples: they joined the nearest cluster mean."
        return (*self._nearest(features_ND), (note,))


def _check_rows(sample_SD: np.ndarray, tree_rows: np.ndarray) -> None:
    good_S = np.isfinite(sample_SD).all(axis=1) & sample_SD.any(axis=1)
    if not good_S.all():
        raise InputError(
            f"features hold {int((~good_S).sum())} rows that are all zero, NaN or infinite (first: row "
            f"{tree_rows[int(np.argmin(good_S))]}): remove them"
        )


def _unit_distances(unit_SD: np.ndarray) -> np.ndarray:
    """Euclidean distances of all pairs in scipy's condensed order, by matrix products: `pdist` would not use BLAS."""
    n_samples = len(unit_SD)
    condensed = np.empty(n_samples * (n_samples - 1) // 2)
    position = 0
    for start in range(0, n_samples, BLOCK_ROWS):
        cosines_BS = unit_SD[start : start + BLOCK_ROWS] @ unit_SD[start:].T
        for offset, cosines_S in enumerate(cosines_BS):
            row = cosines_S[offset + 1 :]
            condensed[position : position + len(row)] = row
            position += len(row)
    condensed *= -2
    condensed += 2
    return np.sqrt(np.maximum(condensed, 0, out=condensed), out=condensed)


def _cut(tree: np.ndarray, n_clusters: int) -> np.ndarray:
    """Labels after the first S - C merges. Unlike `fcluster` this gives exactly C clusters where heights tie."""
    n_samples = len(tree) + 1
    merges = tree[: n_samples - n_clusters, :2].astype(np.int64)
    merged = n_samples + np.repeat(np.arange(len(merges)), 2)
    n_nodes = n_samples + len(merges)
    graph = sparse.coo_array((np.ones(len(merged), np.int8), (merges.ravel(), merged)), shape=(n_nodes, n_nodes))
    _, components = connected_components(graph, directed=False)
    return np.unique(components[:n_samples], return_inverse=True)[1].astype(np.int32)
