"""Ward linkage of more samples than a tree can hold: over the centroids of a fine k-means, each with its weight.

Ward's distance of two clusters is what their union adds to the sum of squares, which their means and sizes tell alone.
So the tree over the cells of a k-means, each of the weight of its members, is what Ward would go on with after it had
merged the samples of every cell; only those early merges are k-means' and not Ward's (two stages, as in BIRCH: Zhang,
Ramakrishnan & Livny 1996).

Shape suffixes: N samples, D feature dimensions, M cells, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin

from deepclust.clusterers.dendrogram import Dendrogram
from deepclust.features.arrays import check_rows
from deepclust.features.rows import Rows
from deepclust.neighbors.ward import ward_merges
from deepclust.runtime.memory import check_memory
from deepclust.spherical_kmeans import kmeans_predict, spherical_kmeans

# Cells per cluster that is asked for, and the fewest.
CELLS_PER_CLUSTER = 8
FEWEST_CELLS = 4096
# The cells need not be optimal: a few rounds from random rows, over a sample.
SAMPLED_ROWS_PER_CELL = 16
ITERATIONS = 6
BLOCK_ROWS = 16384


@dataclass(frozen=True)
class Cells:
    """A fine partition.

    Attributes:
        of_N: the cell of each sample, in [0, M).
        means_MD: float64 means of the members of each cell.
        sizes_M: how many members each has, at least 1.
    """

    of_N: np.ndarray
    means_MD: np.ndarray
    sizes_M: np.ndarray


def fine_cells(rows_ND: Rows, n_cells: int, *, normalize: bool, seed: int = 0) -> Cells:
    """The cells of a k-means that runs a few rounds over a sample; those that stay empty are left out.

    Args:
        rows_ND: any float type, memory-mapped or not.
        n_cells: M at most.
        normalize: scale rows to length 1 and compare directions; else compare Euclidean distances of the rows as they
            are.
        seed: of the sample and its k-means.

    Raises:
        InputError: if rows are NaN, infinite or, to be normalized, zero.
    """
    n_samples = rows_ND.shape[0]
    n_drawn = min(n_samples, SAMPLED_ROWS_PER_CELL * n_cells)
    drawn_S = np.sort(np.random.default_rng(seed).choice(n_samples, n_drawn, replace=False))
    sample_SD = np.asarray(rows_ND[drawn_S], dtype=np.float32)
    check_rows(sample_SD, drawn_S, zeros=not normalize)
    if normalize:
        run = spherical_kmeans(sample_SD, n_cells, n_init=1, max_iter=ITERATIONS, init="random", seed=seed)
        of_N = kmeans_predict(rows_ND, run.centroids_CD, top=1)[0]
    else:
        fitted = KMeans(n_cells, init="random", n_init=1, max_iter=ITERATIONS, random_state=seed).fit(sample_SD)
        of_N = np.empty(n_samples, np.int64)
        for start, block_BD in _blocks(rows_ND, normalize):
            own = pairwise_distances_argmin(block_BD, fitted.cluster_centers_.astype(np.float64))
            of_N[start : start + len(block_BD)] = own
    used_M, of_N = np.unique(of_N, return_inverse=True)
    sums_MD = np.zeros((len(used_M), rows_ND.shape[1]))
    for start, block_BD in _blocks(rows_ND, normalize):
        own_B = of_N[start : start + len(block_BD)]
        ones_B = np.ones(len(own_B))
        members_BM = sparse.csr_array((ones_B, own_B, np.arange(len(own_B) + 1)), shape=(len(own_B), len(used_M)))
        sums_MD += members_BM.T @ block_BD
    sizes_M = np.bincount(of_N)
    return Cells(of_N, sums_MD / sizes_M[:, None], sizes_M)


def _blocks(rows_ND: Rows, normalize: bool) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, rows_ND.shape[0], BLOCK_ROWS):
        block_BD = np.array(rows_ND[start : start + BLOCK_ROWS], dtype=np.float64)
        check_rows(block_BD, start, zeros=not normalize)
        yield start, block_BD / np.linalg.norm(block_BD, axis=1, keepdims=True) if normalize else block_BD


def check_cells(n_cells: int) -> None:
    """Raises InputError where the distances of all pairs of cells exceed the memory at hand."""
    check_memory(n_cells, 8 * n_cells**2, "ward linkage over centroids", "lower max_samples=")


def weighted_ward(means_MD: np.ndarray, weights_M: np.ndarray) -> Dendrogram:
    """Ward's tree of points that stand for several samples each.

    Args:
        means_MD: the points, at least 2.
        weights_M: how many samples each stands for, above 0.

    Returns:
        The merges in scipy's order; with weights of 1 those of `build_dendrogram` where no distances tie. The counts
        are of points.

    Example:
        >>> weighted_ward(np.array([[0.0], [1.0], [10.0]]), np.array([1, 1, 4])).cut(2).tolist()
        [0, 0, 1]
    """
    merges = ward_merges(means_MD, weights_M)
    return Dendrogram(_in_order(merges, len(means_MD)), "ward", "euclidean")


def _in_order(merged: np.ndarray, n_points: int) -> np.ndarray:
    """Merges (a point of either cluster, its squared height) as scipy writes them: ascending, clusters by number."""
    order = np.argsort(merged[:, 2], kind="stable")
    parents = np.arange(2 * n_points - 1)
    counts = np.ones(2 * n_points - 1)
    merges = np.empty((n_points - 1, 4))

    def top(node: int) -> int:
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    for new, (first, second, squared) in enumerate(merged[order], start=n_points):
        pair = sorted((top(int(first)), top(int(second))))
        parents[pair] = new
        counts[new] = counts[pair].sum()
        merges[new - n_points] = *pair, np.sqrt(squared), counts[new]
    return merges
