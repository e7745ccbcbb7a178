"""Rows grouped into lists of nearby rows, and how many lists a row's neighbors lie in.

Lists are those of spherical k-means, "nearby" is the cosine of their centers.

Shape suffixes: N rows, D feature dimensions, L lists, P lists that are looked into, Q queries, K neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from deepclust.features.arrays import check_rows
from deepclust.features.rows import Rows
from deepclust.neighbors.search import ExactSearch, nearest_of_all
from deepclust.runtime.files import read_npz, written_whole
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.spherical_kmeans import kmeans_predict, spherical_kmeans

# Long lists make large products, short ones fewer candidates: measured at 1 M × 384, see docs/benchmarks.md.
LISTS_PER_ROOT = 2
# The lists need not be optimal: a few iterations over a sample suffice.
TRAINING_ROWS_PER_LIST = 25
ITERATIONS = 3
# A few rows have their neighbors in lists far apart, and how many lists are needed hangs on them: 512 queries asked for
# 15 to 72 of 400 lists, 2048 for 45 to 68. Among few rows so many would cost more than a 32nd of comparing all pairs.
CALIBRATION_QUERIES = 2048
FEWEST_QUERIES = 512
QUERIES_SHARE = 32


@dataclass(frozen=True)
class Lists:
    """Rows grouped by nearness.

    Attributes:
        centers_LD: float32, length 1.
        order_N: row numbers, list after list.
        bounds_L1: where each list begins in the order, and N.
    """

    centers_LD: np.ndarray
    order_N: np.ndarray
    bounds_L1: np.ndarray

    @cached_property
    def place_N(self) -> np.ndarray:
        """Where each row stands in the order."""
        place_N = np.empty_like(self.order_N)
        place_N[self.order_N] = np.arange(len(self.order_N))
        return place_N

    @cached_property
    def nearby_LP(self) -> np.ndarray:
        """(L, L) int32: all lists as seen from each, nearest first; each is its own nearest but for rounding."""
        centers = torch.from_numpy(self.centers_LD)
        return torch.cat(
            [(block @ centers.T).argsort(1, descending=True).int() for block in centers.split(1024)]
        ).numpy()

    def of_rows(self, ids: np.ndarray) -> np.ndarray:
        """The list of each row."""
        return np.searchsorted(self.bounds_L1, self.place_N[ids], side="right") - 1

    def blocks(self, n_rows: int) -> np.ndarray:
        """Bounds in the order of blocks of about so many rows, cut between lists; a list that is longer is cut, too."""
        between = self.bounds_L1[np.searchsorted(self.bounds_L1, np.arange(0, len(self.order_N), n_rows))]
        long = np.flatnonzero(np.diff(between, append=len(self.order_N)) > 2 * n_rows)
        ends = np.append(between, len(self.order_N))
        cuts = [np.arange(between[block], ends[block + 1], n_rows) for block in long]
        return np.unique(np.concatenate([ends, *cuts]))

    def share_compared(self, n_probe: int) -> float:
        """The pairs of rows that are compared where each list looks into so many, as a share of all pairs."""
        sizes_L = np.diff(self.bounds_L1).astype(np.float64)
        seen_L = sum(sizes_L[column] for column in self.nearby_LP[:, :n_probe].T)
        return float(sizes_L @ seen_L) / len(self.order_N) ** 2

    def save(self, path: Path) -> None:
        with written_whole(path) as temporary:
            np.savez(temporary, centers=self.centers_LD, order=self.order_N, bounds=self.bounds_L1)

    @classmethod
    def load(cls, path: Path) -> Lists:
        arrays = read_npz(path)
        return cls(arrays["centers"], arrays["order"], arrays["bounds"])


def group_rows(rows: Rows, *, seed: int = 0, ranks: Ranks = ALONE) -> Lists:
    """About 2 √N lists by spherical k-means on a sample; the first rank finds the centers, and each rank groups its
    part of the rows."""
    n_rows = len(rows)
    n_lists = max(2, min(round(LISTS_PER_ROOT * n_rows**0.5), n_rows // 2))
    centers_LD = np.empty((n_lists, rows.shape[1]), np.float32)
    with ranks.all_or_none():
        if ranks.rank == 0:
            centers_LD[:] = _list_centers(rows, n_lists, seed)
    centers_LD = ranks.from_first(centers_LD)
    lists_N = kmeans_predict(rows, centers_LD, top=1, ranks=ranks)[0]
    order_N = np.argsort(lists_N, kind="stable")
    bounds_L1 = np.searchsorted(lists_N[order_N], np.arange(n_lists + 1))
    return Lists(centers_LD, order_N, bounds_L1)


def _list_centers(rows: Rows, n_lists: int, seed: int) -> np.ndarray:
    n_sampled = min(len(rows), n_lists * TRAINING_ROWS_PER_LIST)
    sampled = np.sort(np.random.default_rng(seed).choice(len(rows), n_sampled, replace=False))
    sample_SD = np.asarray(rows[sampled], dtype=np.float32)
    check_rows(sample_SD, sampled, zeros=False)
    run = spherical_kmeans(sample_SD, n_lists, n_init=1, max_iter=ITERATIONS, init="random", seed=seed)
    return run.centroids_CD


def shared_lists(rows: Rows, block_dir: Path | None, ranks: Ranks = ALONE) -> Lists:
    """The same lists on every rank; kept by the first in `block_dir`, where a killed search finds them again."""
    path = None if block_dir is None else block_dir / "lists.npz"
    kept: Lists | None = None
    with ranks.all_or_none():
        if ranks.rank == 0 and path is not None and path.is_file():
            kept = Lists.load(path)
    n_lists = ranks.gather_objects(0 if kept is None else len(kept.centers_LD))[0]
    if n_lists == 0:
        made = group_rows(rows, ranks=ranks)
        with ranks.all_or_none():
            if ranks.rank == 0 and path is not None:
                made.save(path)
        return made
    given = kept or Lists(
        np.empty((n_lists, rows.shape[1]), np.float32), np.empty(len(rows), np.int64), np.empty(n_lists + 1, np.int64)
    )
    return Lists(*(ranks.from_first(part) for part in (given.centers_LD, given.order_N, given.bounds_L1)))


@dataclass(frozen=True)
class Probes:
    """How many lists to look into.

    Attributes:
        n_probe: P.
        recall: share of a sample's true neighbors that these lists hold.
        share: of all pairs of rows, those that are compared.
    """

    n_probe: int
    recall: float
    share: float


def calibrated(rows: Rows, lists: Lists, k: int, recall: float, *, seed: int = 0, ranks: Ranks = ALONE) -> Probes:
    """The fewest lists that hold `recall` of a sample's true neighbors.

    The list of a true neighbor tells from which P on it is found, so no search but that of the sample is needed.

    Args:
        rows: N × D.
        lists: of these rows.
        k: neighbors per query, the query itself included.
        recall: in (0, 1].
        seed: of the sample.
        ranks: processes that share the sample's comparisons; each returns the same.
    """
    n_sampled = min(len(rows), max(FEWEST_QUERIES, min(CALIBRATION_QUERIES, len(rows) // QUERIES_SHARE)))
    sample_Q = np.sort(np.random.default_rng(seed).choice(len(rows), n_sampled, replace=False))
    with ranks.all_or_none():
        found = ExactSearch(rows, ranks.share(len(rows))).query(sample_Q, k)
    true_QK, _ = nearest_of_all(*found, k, ranks)
    nearby_QP = lists.nearby_LP[lists.of_rows(sample_Q)]
    rank_QL = np.empty_like(nearby_QP)
    np.put_along_axis(rank_QL, nearby_QP, np.arange(nearby_QP.shape[1], dtype=np.int32)[None], axis=1)
    ranks_QK = np.take_along_axis(rank_QL, lists.of_rows(true_QK), axis=1)
    n_probe = int(np.quantile(ranks_QK, recall, method="inverted_cdf")) + 1
    return Probes(n_probe, float((ranks_QK < n_probe).mean()), lists.share_compared(n_probe))
