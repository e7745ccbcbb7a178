"""Approximate search on a CPU: rows are grouped into lists, and a list's rows are compared with those of nearby lists.

An inverted file answers one query at a time. Here every row is a query, and the rows of a list share their candidates:
one matrix product per list. Lists are those of spherical k-means, "nearby" is the cosine of their centers.

Shape suffixes: N rows, D feature dimensions, L lists, P lists that are looked into, Q queries, M candidates.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepclust.features.rows import Rows
from deepclust.neighbors.search import ExactSearch, nearest_of_all
from deepclust.runtime.devices import free_bytes
from deepclust.runtime.files import read_npz, written_whole
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.runtime.shared_array import SharedArray
from deepclust.spherical_kmeans import kmeans_predict, spherical_kmeans

# Long lists make large products, short ones fewer candidates: measured at 1 M × 384, see docs/benchmarks.md.
LISTS_PER_ROOT = 2
# The lists need not be optimal: a few iterations over a sample suffice.
TRAINING_ROWS_PER_LIST = 50
ITERATIONS = 8
CALIBRATION_QUERIES = 512
READ_ROWS = 1 << 16
# Candidates that are held in float32 at a time.
CANDIDATE_ROWS = 1 << 15


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
    return spherical_kmeans(
        rows[sampled], n_lists, n_init=1, max_iter=ITERATIONS, init="random", seed=seed
    ).centroids_CD


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


class ListSearch:
    """Compares the rows of a list with the rows of the P lists nearest to it, in float32.

    The rows are copied in list order, in the type they are stored in: in memory where the copy takes less than half of
    what is free, else in a temporary file. The ranks of a machine have one copy.

    Args:
        rows: N × D.
        lists: of these rows.
        k: candidates per query for which the recall is calibrated, the query itself included.
        recall: in (0, 1]: P is what finds so many of a sample's true neighbors.
        seed: of that sample.
        ranks: the processes of the run, each of which makes a search of the same rows at the same time.
    """

    def __init__(self, rows: Rows, lists: Lists, k: int, recall: float, seed: int = 0, *, ranks: Ranks = ALONE) -> None:
        self.rows, self.lists = rows, lists
        self.n_lists = len(lists.centers_LD)
        self.place_N = np.empty_like(lists.order_N)
        self.place_N[lists.order_N] = np.arange(len(rows))
        self.sorted_ND = self._sorted_copy() if ranks.world_size == 1 else self._shared_copy(ranks)
        centers = torch.from_numpy(lists.centers_LD)
        # Each list is its own nearest one but for rounding; columns are nearest first.
        self.nearby_LP = torch.cat(
            [(block @ centers.T).argsort(1, descending=True).int() for block in centers.split(1024)]
        )
        self.settings: dict[str, Any] = {"index": f"{self.n_lists} lists"}
        self.settings["calibrated_recall"] = self._calibrate(k, recall, np.random.default_rng(seed), ranks)
        self.settings["n_probe"] = self.n_probe

    def _sorted_copy(self) -> np.ndarray:
        n_rows, dim = self.rows.shape
        if n_rows * dim * self._kept_dtype.itemsize <= free_bytes() // 2:
            copy_ND = np.empty((n_rows, dim), self._kept_dtype)
        else:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  removed with the search
            copy_ND = np.memmap(self._file, self._kept_dtype, "w+", shape=(n_rows, dim))
        self._fill(copy_ND, slice(0, n_rows))
        return copy_ND

    def _shared_copy(self, ranks: Ranks) -> np.ndarray:
        """One copy for the ranks of a machine, each of which makes its part of it."""
        copy = SharedArray(self.rows.shape, self._kept_dtype, ranks)
        with ranks.all_or_none():
            self._fill(copy.values, copy.machine.share(len(self.rows)))
        return copy.values

    @property
    def _kept_dtype(self) -> np.dtype:
        return np.dtype(self.rows.dtype if self.rows.dtype in (np.float16, np.float32) else np.float32)

    def _fill(self, copy_ND: np.ndarray, which: slice) -> None:
        for low in range(which.start, which.stop, READ_ROWS):
            block = slice(low, min(low + READ_ROWS, which.stop))
            copy_ND[self.place_N[block]] = self.rows[block]

    def _calibrate(self, k: int, recall: float, rng: np.random.Generator, ranks: Ranks) -> float:
        """Set P so that the lists looked into hold `recall` of a sample's true neighbors; returns what they hold.

        The list of a true neighbor tells from which P on it is found, so no search is needed.
        """
        sample = np.sort(rng.choice(len(self.rows), min(CALIBRATION_QUERIES, len(self.rows)), replace=False))
        with ranks.all_or_none():
            found = ExactSearch(self.rows, ranks.share(len(self.rows))).query(sample, k)
        true_QK, _ = nearest_of_all(*found, k, ranks)
        nearby_QP = self.nearby_LP[torch.from_numpy(self._lists_of(sample))].numpy()
        rank_QL = np.empty_like(nearby_QP)
        np.put_along_axis(rank_QL, nearby_QP, np.arange(self.n_lists)[None], axis=1)
        ranks_QK = np.take_along_axis(rank_QL, self._lists_of(true_QK), axis=1)
        self.n_probe = int(np.quantile(ranks_QK, recall, method="inverted_cdf")) + 1
        return float((ranks_QK < self.n_probe).mean())

    def _lists_of(self, ids: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.lists.bounds_L1, self.place_N[ids], side="right") - 1

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As any search; fast where the queries are consecutive in `lists.order_N`."""
        places_Q = self.place_N[ids_Q]
        lists_Q = self._lists_of(ids_Q)
        found_QK = np.empty((len(ids_Q), k), np.int64)
        similarities_QK = np.empty((len(ids_Q), k), np.float32)
        for one in np.unique(lists_Q):
            own = np.flatnonzero(lists_Q == one)
            places, similarities_QK[own] = self._nearest(int(one), places_Q[own], k)
            found_QK[own] = self.lists.order_N[places]
        return found_QK, similarities_QK

    def _nearest(self, one: int, places_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Of queries of one list: places and similarities of the K most similar rows of the lists nearby."""
        query_QD = self._unit(self.sorted_ND[places_Q])
        bounds = self.lists.bounds_L1
        best: tuple[torch.Tensor, torch.Tensor] | None = None
        taken, seen = [], 0
        for position, near in enumerate(self.nearby_LP[one].tolist()):
            low, high = int(bounds[near]), int(bounds[near + 1])
            taken.append((low, high))
            seen += high - low
            # Fewer than K rows in the lists so far: look further.
            last = position + 1 >= self.n_probe and seen >= k
            if not last and sum(high - low for low, high in taken) < CANDIDATE_ROWS:
                continue
            best = self._merged(best, query_QD, taken, k)
            taken = []
            if last:
                break
        else:
            best = self._merged(best, query_QD, taken, k) if taken else best
        assert best is not None
        return best[0].numpy(), best[1].numpy()

    def _merged(
        self,
        best: tuple[torch.Tensor, torch.Tensor] | None,
        query_QD: torch.Tensor,
        spans: list[tuple[int, int]],
        k: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        places_M = torch.cat([torch.arange(low, high) for low, high in spans])
        candidates_MD = self._unit(np.concatenate([self.sorted_ND[low:high] for low, high in spans]))
        top = (query_QD @ candidates_MD.T).topk(min(k, len(places_M)), dim=1)
        places_QK, similarities_QK = places_M[top.indices], top.values
        if best is not None:
            places_QK, similarities_QK = torch.cat([best[0], places_QK], 1), torch.cat([best[1], similarities_QK], 1)
            top = similarities_QK.topk(min(k, similarities_QK.shape[1]), dim=1)
            places_QK, similarities_QK = places_QK.gather(1, top.indices), top.values
        return places_QK, similarities_QK

    @staticmethod
    def _unit(rows_MD: np.ndarray) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.from_numpy(rows_MD).float(), dim=1)
