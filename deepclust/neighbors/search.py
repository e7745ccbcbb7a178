"""Searches that compare every query with every row.

Shape suffixes: N rows, D feature dimensions, Q queries, K candidates.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import faiss
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deepclust.features.rows import Rows
from deepclust.features.unit_rows import as_tensor
from deepclust.runtime.devices import fastest_device, free_bytes
from deepclust.runtime.ranks import Launch, Ranks

DATABASE_ROWS = 1 << 16
# A normalized copy of the features is kept in memory up to this size; larger ones are normalized block by block.
DATABASE_BYTES = 4 << 30
# Candidates that the screening keeps beyond K: a true neighbor is lost only if so many others lie within bfloat16's
# rounding of it. Recall at 60 000 × 1280 is 1.000 with half of this.
SCREENING_MARGIN = 32
# Above so many bytes in float32 an index on a GPU stores half-precision components.
HALF_BYTES = 2 << 30
# What faiss takes on a GPU beside the index, for its results and intermediate products.
GPU_SCRATCH_BYTES = 2 << 30
# As many neighbors, and as many probed lists, a query may have in faiss' GPU kernels.
GPU_LIMIT = 2048


class Search(Protocol):
    """Finds the K rows most similar to some of the rows."""

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(Q, K) row ids and cosine similarities, most similar first; the query itself may be among them."""


def normalized(rows: Rows, which: slice | np.ndarray) -> Tensor:
    """Float32 copies of some rows, scaled to length 1."""
    return functional.normalize(torch.from_numpy(np.array(rows[which], dtype=np.float32)), dim=1)


class ExactSearch:
    """Float32 inner products by blocked matrix products, on the GPU where there is one; memory is O(Q × block), plus
    the rows where they fit.

    Args:
        rows: N × D.
        share: only these rows are compared with the queries; None: all.
    """

    dtype = torch.float32

    def __init__(self, rows: Rows, share: slice | None = None) -> None:
        self.rows = rows
        self.device = torch.device(fastest_device())
        start, stop, _ = (share or slice(None)).indices(len(rows))
        self.spans = [(low, min(low + DATABASE_ROWS, stop)) for low in range(start, stop, DATABASE_ROWS)]
        size = (stop - start) * rows.shape[1] * self.dtype.itemsize
        most = DATABASE_BYTES if self.device.type == "cpu" else min(DATABASE_BYTES, free_bytes(self.device) // 4)
        self.kept = [self._block(low, high) for low, high in self.spans] if size <= most else None

    def _block(self, low: int, high: int) -> Tensor:
        block = as_tensor(self.rows, slice(low, high)).to(self.device)
        return functional.normalize(block.float(), dim=1).to(self.dtype)

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.nearest(normalized(self.rows, ids_Q), k)

    def nearest(self, query_QD: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `query`, for directions of length 1 that need not be among the rows; fewer than K where there are."""
        ids_QK, values_QK = self.candidates(query_QD.to(self.dtype).to(self.device), k)
        return ids_QK.cpu().numpy(), values_QK.float().cpu().numpy()

    def candidates(self, query_QD: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `nearest`, where the search computes and in its precision."""
        values = [query_QD.new_empty(len(query_QD), 0)]
        ids = [torch.empty(len(query_QD), 0, dtype=torch.long, device=self.device)]
        for index, (low, high) in enumerate(self.spans):
            database = self.kept[index] if self.kept is not None else self._block(low, high)
            top = (query_QD @ database.T).topk(min(k, high - low), dim=1)
            values.append(top.values)
            ids.append(top.indices + low)
        all_values, all_ids = torch.cat(values, dim=1), torch.cat(ids, dim=1)
        best = all_values.topk(min(k, all_values.shape[1]), dim=1)
        return all_ids.gather(1, best.indices), best.values


def nearest_of_all(
    ids_QK: np.ndarray, similarities_QK: np.ndarray, k: int, ranks: Ranks
) -> tuple[np.ndarray, np.ndarray]:
    """The K most similar rows of all, on every rank, of what each rank has found among its part of the rows."""
    ids_QA = np.concatenate(ranks.gather_objects(ids_QK), axis=1)
    similarities_QA = np.concatenate(ranks.gather_objects(similarities_QK), axis=1)
    best_QK = np.argsort(-similarities_QA, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids_QA, best_QK, axis=1), np.take_along_axis(similarities_QA, best_QK, axis=1)


class EuclideanSearch:
    """Euclidean distance on the rows as they are, by blocked matrix products in float32; the rows are kept in memory.

    The `similarities` are minus the distances, which are computed again from the differences for those that are kept.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows_ND = torch.from_numpy(np.array(rows[:], dtype=np.float32))
        # Distances do not change when all rows move together, but the rounding of their products does.
        self.rows_ND -= self.rows_ND.mean(dim=0)
        self.half_norms_N = self.rows_ND.square().sum(dim=1) / 2

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        query_QD = self.rows_ND[torch.from_numpy(ids_Q)]
        # Minus half the squared distance, but for the query's own norm, which does not change the order.
        found_QK = torch.addmm(-self.half_norms_N, query_QD, self.rows_ND.T).topk(k, dim=1).indices
        distances_QK = torch.cat(
            [
                torch.linalg.vector_norm(self.rows_ND[ids] - query, dim=2)
                for ids, query in zip(found_QK.split(64), query_QD[:, None].split(64))
            ]
        )
        best = distances_QK.sort(dim=1, stable=True)
        return found_QK.gather(1, best.indices).numpy(), -best.values.numpy()


class ScreenedSearch(ExactSearch):
    """All pairs in bfloat16, then the best K + margin candidates of each query again in float32.

    The similarities are exact, the ranking among the candidates too; only a neighbor that bfloat16's rounding moved
    behind `SCREENING_MARGIN` others is missed.
    """

    dtype = torch.bfloat16

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = min(k + SCREENING_MARGIN, len(self.rows))
        candidates_QK, _ = super().query(ids_Q, wanted)
        query_QD = normalized(self.rows, ids_Q)
        unique, inverse = np.unique(candidates_QK, return_inverse=True)
        database = normalized(self.rows, unique)
        places = torch.from_numpy(inverse.reshape(candidates_QK.shape))
        similarities_QK = torch.empty(candidates_QK.shape)
        for low in range(0, len(query_QD), 64):  # Q × K × D at once would be larger than the rows themselves
            block = slice(low, low + 64)
            similarities_QK[block] = torch.einsum("qd,qkd->qk", query_QD[block], database[places[block]])
        best = similarities_QK.topk(k, dim=1)
        return np.take_along_axis(candidates_QK, best.indices.numpy(), axis=1), best.values.numpy()


class FaissSearch:
    """faiss' flat inner-product index, on the CPU, or on this process's GPU, where a large one is in half precision."""

    def __init__(self, rows: Rows, *, on_gpu: bool = False) -> None:
        self.rows = rows
        self.index: Any = faiss.IndexFlatIP(rows.shape[1])
        if on_gpu:
            self.index, self._resources = on_own_gpu(self.index, half=stored_in_half(*rows.shape))
        for low in range(0, len(rows), DATABASE_ROWS):
            self.index.add(normalized(rows, slice(low, low + DATABASE_ROWS)).numpy())

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        similarities, ids = self.index.search(normalized(self.rows, ids_Q).numpy(), k)
        return ids, similarities


def own_gpu() -> int:
    """The number of this process's GPU among those that it sees: each rank of a run has one of its own."""
    if torch.cuda.is_available():
        return torch.cuda.current_device()  # Lightning sets it where the processes are joined
    return Launch.from_environment().local_rank % faiss.get_num_gpus()


def on_own_gpu(index: Any, *, half: bool = False) -> tuple[Any, Any]:
    """An index on this process's GPU alone, and the resources there, which have to live as long as it does.

    An index over all GPUs would be a copy on each, by every rank, and could not be told how many lists to probe.
    """
    resources, options = faiss.StandardGpuResources(), faiss.GpuClonerOptions()
    options.useFloat16 = half
    return faiss.index_cpu_to_gpu(resources, own_gpu(), index, options), resources


def stored_in_half(n_rows: int, dim: int) -> bool:
    """Whether an index of so many rows stores half-precision components on a GPU."""
    return n_rows * dim * 4 > HALF_BYTES


def missing_gpu_bytes(n_rows: int, dim: int) -> int:
    """How much free memory this process's GPU lacks for an index of so many rows: 0 where it fits."""
    if not torch.cuda.is_available():  # faiss alone sees the GPU: nobody can be asked
        return 0
    index_bytes = n_rows * dim * (2 if stored_in_half(n_rows, dim) else 4)
    return max(0, index_bytes + GPU_SCRATCH_BYTES - free_bytes(f"cuda:{own_gpu()}"))


def faiss_gpu_works() -> bool:
    """Whether faiss can run on this process's GPU: a small search is tried, as a build may name a GPU it cannot use."""
    if not hasattr(faiss, "get_num_gpus") or faiss.get_num_gpus() == 0:
        return False
    return _gpu_works(own_gpu())


@cache
def _gpu_works(_own: int) -> bool:
    try:
        index, _resources = on_own_gpu(faiss.IndexFlatIP(4))
        index.add(np.eye(4, dtype=np.float32))
        index.search(np.eye(4, dtype=np.float32), 1)
    except Exception:  # faiss raises bare RuntimeErrors of many kinds for an unusable GPU
        return False
    return True


def share_of_same(found_QK: np.ndarray, true_QK: np.ndarray) -> float:
    """Mean share of a row's true ids that are among its found ones, in any order."""
    both = np.sort(np.concatenate([found_QK, true_QK], axis=1), axis=1)
    return float((both[:, 1:] == both[:, :-1]).sum() / true_QK.size)
