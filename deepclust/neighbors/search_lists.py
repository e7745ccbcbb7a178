"""Approximate search on a CPU: rows are grouped into lists, and each row is compared with the rows of lists near it.

An inverted file answers one query at a time. Here every row is a query: those that look into a list are compared with
it together, in one matrix product per block of queries and list.

Shape suffixes: N rows, D feature dimensions, L lists, Q queries, K neighbors, A queries that look into a list, M its
rows.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepclust.features.rows import Rows
from deepclust.neighbors.row_lists import Lists, Probes
from deepclust.neighbors.search import normalized
from deepclust.runtime.devices import free_bytes
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.runtime.shared_array import SharedArray

READ_ROWS = 1 << 16
# Queries and rows of a list that are compared at a time: their similarities stay below 128 MB.
QUERIES_AT_ONCE = 1 << 12
CANDIDATE_ROWS = 1 << 13
# Queries whose lists are ranked at a time, those that look into about as many.
RANKED_AT_ONCE = 1 << 7


class ListSearch:
    """Compares each row with the rows of the lists nearest to it, in float32.

    The rows are copied in list order: scaled to length 1 in float32 where that takes less than half of the free memory,
    else as they are stored, in memory or in a temporary file. The ranks of a machine have one copy.

    Args:
        rows: N × D.
        lists: of these rows.
        probes: how many of them to look into, from `calibrated`.
        ranks: the processes of the run, each of which makes a search of the same rows at the same time.
    """

    def __init__(self, rows: Rows, lists: Lists, probes: Probes, *, ranks: Ranks = ALONE) -> None:
        self.rows, self.lists, self.probes = rows, lists, probes
        self.centers_LD = torch.from_numpy(lists.centers_LD)
        self.sizes_L = torch.from_numpy(lists.sizes_L)
        unit_bytes = len(rows) * rows.shape[1] * 4
        self.unit = not ranks.any(unit_bytes > free_bytes() // 2)
        self.sorted_ND = self._sorted_copy() if ranks.world_size == 1 else self._shared_copy(ranks)
        self.settings: dict[str, Any] = {
            "index": f"{len(self.centers_LD)} lists",
            "calibrated_recall": probes.recall,
            "n_probe": round(probes.mean, 1),
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

    def _unit(self, places: slice | np.ndarray) -> Tensor:
        """Float32 rows of length 1 by their places in the order; no copy where they are kept so and lie together."""
        rows_MD = torch.from_numpy(self.sorted_ND[places])
        return rows_MD if self.unit else torch.nn.functional.normalize(rows_MD.float(), dim=1)

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As any search; fast where the queries are whole lists, in the order of `lists`."""
        places_Q = self.lists.place_N[ids_Q]
        found = [
            self._nearest(self._unit(places_Q[low : low + QUERIES_AT_ONCE]), k)
            for low in range(0, len(ids_Q), QUERIES_AT_ONCE)
        ]
        places_QK, similarities_QK = (torch.cat(part).numpy() for part in zip(*found))
        return self.lists.order_N[places_QK], similarities_QK

    def _nearest(self, query_QD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Places and similarities of each query's K most similar rows in its lists."""
        places_QK = torch.full((len(query_QD), k), -1)
        similarities_QK = torch.full((len(query_QD), k), -torch.inf)
        looks_QL = self._looks(query_QD, k)
        # A list into which most look is near most: after it few rows of other lists are similar enough to be kept.
        for one in looks_QL.sum(dim=0).argsort(descending=True).tolist():
            asking_A = looks_QL[:, one].nonzero()[:, 0]
            if not len(asking_A):
                break
            end = int(self.lists.bounds_L1[one + 1])
            for low in range(int(self.lists.bounds_L1[one]), end, CANDIDATE_ROWS):
                rows_MD = self._unit(slice(low, min(low + CANDIDATE_ROWS, end)))
                found_AM = query_QD[asking_A] @ rows_MD.T
                gains = (found_AM.amax(dim=1) > similarities_QK[asking_A, -1]).nonzero()[:, 0]
                gaining = asking_A[gains]
                # The K best so far, and what this list offers.
                offered = torch.cat([similarities_QK[gaining], found_AM[gains]], dim=1).topk(k, dim=1)
                places = torch.where(
                    offered.indices < k,
                    places_QK[gaining].gather(1, offered.indices.clamp_max(k - 1)),
                    offered.indices - k + low,
                )
                places_QK[gaining], similarities_QK[gaining] = places, offered.values
        return places_QK, similarities_QK

    def _looks(self, query_QD: Tensor, k: int) -> Tensor:
        """(Q, L) bool: whether a query looks into a list; into more than wanted where these hold fewer than K rows."""
        similarities_QL = query_QD @ self.centers_LD.T
        n_lists = len(self.centers_LD)
        wanted_Q = torch.from_numpy(self.probes.of(similarities_QL.amax(dim=1).numpy(), n_lists))
        looks_QL = torch.zeros(similarities_QL.shape, dtype=torch.bool)
        for few in wanted_Q.argsort().split(RANKED_AT_ONCE):
            wanted_1 = wanted_Q[few, None]
            for most in (int(wanted_1.max()), n_lists):
                nearest = similarities_QL[few].topk(most, dim=1).indices
                seen = self.sizes_L[nearest].cumsum(dim=1)
                if most == n_lists or int(seen[:, -1].min()) >= k:
                    break
            # Before this list there were too few.
            lacks = seen - self.sizes_L[nearest] < k
            looks_QL[few] = looks_QL[few].scatter(1, nearest, (torch.arange(most) < wanted_1) | lacks)
        return looks_QL
