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
from deepclust.neighbors.search import normalized
from deepclust.runtime.devices import free_bytes
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.runtime.shared_array import SharedArray

READ_ROWS = 1 << 16
# Queries and candidates that are compared at a time: their similarities stay below 128 MB.
QUERIES_AT_ONCE = 1 << 10
CANDIDATE_ROWS = 1 << 15


class ListSearch:
    """Compares the rows of a list with the rows of the P lists nearest to it, in float32.

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
        best: tuple[torch.Tensor, torch.Tensor] | None = None
        for spans in self._spans(one, k):
            best = self._merged(best, query_QD, spans, k)
        assert best is not None
        return best[0].numpy(), best[1].numpy()

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
        query_QD: torch.Tensor,
        spans: list[tuple[int, int]],
        k: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        places_M = torch.cat([torch.arange(low, high) for low, high in spans])
        similarities_QM = torch.empty(len(query_QD), len(places_M))
        done = 0
        for low, high in spans:  # each list is multiplied where it lies
            part_QM = similarities_QM[:, done : done + high - low]
            torch.mm(query_QD, self._unit(slice(low, high)).T, out=part_QM)
            done += high - low
        top = similarities_QM.topk(min(k, len(places_M)), dim=1)
        places_QK, similarities_QK = places_M[top.indices], top.values
        if best is not None:
            places_QK, similarities_QK = torch.cat([best[0], places_QK], 1), torch.cat([best[1], similarities_QK], 1)
            top = similarities_QK.topk(min(k, similarities_QK.shape[1]), dim=1)
            places_QK, similarities_QK = places_QK.gather(1, top.indices), top.values
        return places_QK, similarities_QK
