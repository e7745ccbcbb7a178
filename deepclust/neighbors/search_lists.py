"""Approximate search on a CPU: rows are grouped into lists, and a list's rows are compared with those of nearby lists.

An inverted file answers one query at a time. Here every row is a query, and the rows of a list share their candidates:
one matrix product per pair of lists.

Shape suffixes: N rows, D feature dimensions, Q queries, K neighbors, M candidates.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from deepclust.features.rows import Rows
from deepclust.neighbors.row_lists import Lists, Probes
from deepclust.neighbors.search import SCREENING_MARGIN, normalized
from deepclust.runtime.devices import free_bytes, native_bfloat16
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.runtime.shared_array import SharedArray

READ_ROWS = 1 << 16
# Queries and candidates that are compared at a time: their similarities stay below 128 MB.
QUERIES_AT_ONCE = 1 << 10
CANDIDATE_ROWS = 1 << 15
# From so many candidates of a query on, bfloat16 saves more than comparing the best of them again takes.
SCREENED_CANDIDATES = 1 << 14
# Products have few shapes: for each new one oneDNN compiles a kernel, which takes as long as the product of a list.
PADDED_QUERIES, PADDED_CANDIDATES = 1 << 7, 1 << 10
# Queries whose candidates are gathered at a time: a few MB.
COMPARED_AGAIN = 64


class ListSearch:
    """Compares the rows of a list with the rows of the P lists nearest to it, in float32.

    Where there is much to compare, a CPU with bfloat16 instructions does so in bfloat16 first, and in float32 with the
    best K and a margin.

    The rows are copied in list order: scaled to length 1 in float32 where that takes less than half of the free memory,
    else as they are stored, in memory or in a temporary file. The ranks of a machine have one copy.

    Args:
        rows: N × D.
        lists: of these rows.
        probes: how many of them to look into, from `calibrated`.
        ranks: the processes of the run, each of which makes a search of the same rows at the same time.
    """

    def __init__(self, rows: Rows, lists: Lists, probes: Probes, *, ranks: Ranks = ALONE) -> None:
        self.rows, self.lists = rows, lists
        self.n_lists = len(lists.centers_LD)
        self.n_probe = probes.n_probe
        unit_bytes = len(rows) * rows.shape[1] * 4
        self.unit = not ranks.any(unit_bytes > free_bytes() // 2)
        screens = probes.share * len(rows) > SCREENED_CANDIDATES and native_bfloat16("cpu")
        self.dtype = torch.bfloat16 if screens else torch.float32
        self.sorted_ND = self._sorted_copy() if ranks.world_size == 1 else self._shared_copy(ranks)
        self.settings: dict[str, Any] = {
            "index": f"{self.n_lists} lists",
            "calibrated_recall": probes.recall,
            "n_probe": probes.n_probe,
            "share_compared": round(probes.share, 4),
        }

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
        return np.dtype(np.float16 if self.rows.dtype == np.float16 and not self.unit else np.float32)

    def _fill(self, copy_ND: np.ndarray, which: slice) -> None:
        for low in range(which.start, which.stop, READ_ROWS):
            block = slice(low, min(low + READ_ROWS, which.stop))
            copy_ND[self.lists.place_N[block]] = normalized(self.rows, block) if self.unit else self.rows[block]

    def _unit(self, places: slice | np.ndarray) -> torch.Tensor:
        """Float32 rows of length 1 by their places in the order; no copy where they are kept so and lie together."""
        rows_MD = torch.from_numpy(self.sorted_ND[places])
        return rows_MD if self.unit else torch.nn.functional.normalize(rows_MD.float(), dim=1)

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As any search; fast where the queries are whole lists, in the order of `lists`."""
        places_Q = self.lists.place_N[ids_Q]
        lists_Q = self.lists.of_rows(ids_Q)
        found_QK = np.empty((len(ids_Q), k), np.int64)
        similarities_QK = np.empty((len(ids_Q), k), np.float32)
        for one in np.unique(lists_Q):
            of_list = np.flatnonzero(lists_Q == one)
            for low in range(0, len(of_list), QUERIES_AT_ONCE):
                own = of_list[low : low + QUERIES_AT_ONCE]
                places, similarities_QK[own] = self._nearest(int(one), places_Q[own], k)
                found_QK[own] = self.lists.order_N[places]
        return found_QK, similarities_QK

    def _nearest(self, one: int, places_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Of queries of one list: places and similarities of the K most similar rows of the lists nearby."""
        query_QD = self._unit(places_Q)
        query_PD = torch.empty(_padded(len(query_QD), PADDED_QUERIES), query_QD.shape[1], dtype=self.dtype)
        query_PD[: len(query_QD)] = query_QD
        screens = self.dtype != query_QD.dtype
        best: tuple[torch.Tensor, torch.Tensor] | None = None
        for spans in self._spans(one, k):
            best = self._merged(best, query_PD, len(query_QD), spans, k + screens * SCREENING_MARGIN)
        assert best is not None
        places_QK, similarities_QK = self._compared_again(query_QD, best[0], k) if screens else best
        return places_QK.numpy(), similarities_QK.numpy()

    def _compared_again(self, query_QD: torch.Tensor, places_QM: torch.Tensor, k: int) -> tuple[torch.Tensor, ...]:
        """The K most similar of each query's candidates, by float32 products."""
        similarities_QM = torch.empty(places_QM.shape)
        for low in range(0, len(query_QD), COMPARED_AGAIN):
            few = slice(low, low + COMPARED_AGAIN)
            rows_BMD = self._unit(places_QM[few].flatten().numpy()).unflatten(0, places_QM[few].shape)
            torch.bmm(rows_BMD, query_QD[few, :, None], out=similarities_QM[few, :, None])
        best = similarities_QM.topk(k, dim=1)
        return places_QM.gather(1, best.indices), best.values

    def _spans(self, one: int, k: int) -> Iterator[list[tuple[int, int]]]:
        """Places of the lists nearby, at most `CANDIDATE_ROWS` at a time; more lists where these hold fewer than K."""
        bounds = self.lists.bounds_L1
        taken: list[tuple[int, int]] = []
        n_taken = seen = 0
        for position, near in enumerate(self.lists.nearby_LP[one].tolist()):
            if position >= self.n_probe and seen >= k:
                break
            for low in range(int(bounds[near]), int(bounds[near + 1]), CANDIDATE_ROWS):
                high = min(low + CANDIDATE_ROWS, int(bounds[near + 1]))
                if taken and n_taken + high - low > CANDIDATE_ROWS:
                    yield taken
                    taken, n_taken = [], 0
                taken.append((low, high))
                n_taken += high - low
                seen += high - low
        if taken:
            yield taken

    def _merged(
        self,
        best: tuple[torch.Tensor, torch.Tensor] | None,
        query_PD: torch.Tensor,
        n_queries: int,
        spans: list[tuple[int, int]],
        k: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        places_M = torch.cat([torch.arange(low, high) for low, high in spans])
        rows_MD = torch.empty(_padded(len(places_M), PADDED_CANDIDATES), query_PD.shape[1], dtype=self.dtype)
        done = 0
        for low, high in spans:
            rows_MD[done : done + high - low] = self._unit(slice(low, high))
            done += high - low
        similarities_QM = (query_PD @ rows_MD.T)[:n_queries, :done]
        top = similarities_QM.topk(min(k, done), dim=1)
        places_QK, similarities_QK = places_M[top.indices], top.values
        if best is not None:
            places_QK, similarities_QK = torch.cat([best[0], places_QK], 1), torch.cat([best[1], similarities_QK], 1)
            top = similarities_QK.topk(min(k, similarities_QK.shape[1]), dim=1)
            places_QK, similarities_QK = places_QK.gather(1, top.indices), top.values
        return places_QK, similarities_QK


def _padded(size: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-size // step) * step
