"""Rows grouped into lists of nearby rows, and how many lists a row's neighbors lie in.

Lists are those of spherical k-means. A row looks into those whose centers have the highest cosine with it.

Shape suffixes: N rows, D feature dimensions, L lists, Q queries, K neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from deepclust.features.arrays import check_rows
from deepclust.features.rows import Rows
from deepclust.neighbors.search import ExactSearch, nearest_of_all, normalized
from deepclust.runtime.files import read_npz, written_whole
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.spherical_kmeans import kmeans_predict, spherical_kmeans

# Long lists make large products, short ones fewer candidates: of 0.5, 1, 2 and 4 this was the fastest or near it.
LISTS_PER_ROOT = 1
# The lists need not be optimal: a few iterations over a sample suffice.
TRAINING_ROWS_PER_LIST = 25
ITERATIONS = 3
# A few rows have their neighbors in lists far apart, and how many lists are needed hangs on them: 512 queries asked for
# 15 to 72 of 400 lists, 2048 for 45 to 68. Among few rows so many would cost more than a 32nd of comparing all pairs.
CALIBRATION_QUERIES = 2048
FEWEST_QUERIES = 512
QUERIES_SHARE = 32
# A row that is near no center looks into many lists, but not into ever more.
LEAST_COSINE = 0.05


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

    @cached_property
    def sizes_L(self) -> np.ndarray:
        """How many rows each list has, at least one."""
        return np.diff(self.bounds_L1)

    def save(self, path: Path) -> None:
        with written_whole(path) as temporary:
            np.savez(temporary, centers=self.centers_LD, order=self.order_N, bounds=self.bounds_L1)

    @classmethod
    def load(cls, path: Path) -> Lists:
        arrays = read_npz(path)
        return cls(arrays["centers"], arrays["order"], arrays["bounds"])


def group_rows(rows: Rows, *, seed: int = 0, ranks: Ranks = ALONE) -> Lists:
    """About √N lists by spherical k-means on a sample; the first rank finds the centers, and each rank groups its
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
    used_L, begin_L = np.unique(lists_N[order_N], return_index=True)
    return Lists(centers_LD[used_L], order_N, np.append(begin_L, n_rows))


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
    """Into how many lists a row looks: P / cos², where cos is its similarity to the nearest center.

    A row far from all centers has its neighbors in many lists. That it alone looks into many, and into those nearest to
    itself rather than to its list, leaves a third to a tenth of the pairs to compare (docs/benchmarks.md).

    Attributes:
        effort: P, at least 1.
        recall: share of the sample's true neighbors in these lists.
        share: of all pairs of rows that are compared.
        mean: lists that a row looks into.
    """

    effort: float
    recall: float
    share: float
    mean: float

    def of(self, nearest_Q: np.ndarray, n_lists: int) -> np.ndarray:
        """(Q,) int: how many lists each row looks into.

        Args:
            nearest_Q: cosine of each row with its nearest center.
            n_lists: L, at most so many.
        """
        return np.clip(self.effort / _nearness(nearest_Q), 1, n_lists).astype(np.int64)


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
    similarities_QL = normalized(rows, sample_Q).numpy() @ lists.centers_LD.T
    nearest_QL = np.argsort(-similarities_QL, axis=1, kind="stable").astype(np.int32)
    place_QL = np.empty_like(nearest_QL)
    np.put_along_axis(place_QL, nearest_QL, np.arange(1, nearest_QL.shape[1] + 1, dtype=np.int32)[None], axis=1)
    place_QK = np.take_along_axis(place_QL, lists.of_rows(true_QK), axis=1)
    nearest_Q = similarities_QL.max(axis=1)
    # The query itself is always found: as one of few neighbors it would let the others have less than the recall.
    others_QK = true_QK != sample_Q[:, None]
    needed_QK = place_QK * _nearness(nearest_Q)[:, None]
    # A millionth more, so that rounding does not leave out the list that decides.
    effort = max(1.0, float(np.quantile(needed_QK[others_QK], recall, method="inverted_cdf")) * (1 + 1e-6))
    probes = Probes(effort, 0.0, 0.0, 0.0)
    wanted_Q = probes.of(nearest_Q, len(lists.centers_LD))
    seen_QL = np.cumsum(lists.sizes_L[nearest_QL], axis=1)
    share = float(np.take_along_axis(seen_QL, wanted_Q[:, None] - 1, axis=1).mean()) / len(rows)
    reached = float((place_QK <= wanted_Q[:, None])[others_QK].mean())
    return Probes(effort, reached, share, float(wanted_Q.mean()))


def _nearness(nearest_Q: np.ndarray) -> np.ndarray:
    return np.maximum(nearest_Q.astype(np.float64), LEAST_COSINE) ** 2
