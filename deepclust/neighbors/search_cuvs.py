"""Searches by NVIDIA's cuVS on GPUs: all pairs on this process's own, or groups of rows on every GPU of the machine.

Written by cuVS' documentation and rehearsed with a stand-in; not run on a GPU yet.

Shape suffixes: N rows, D feature dimensions, Q queries, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from deepclust.features.rows import Rows
from deepclust.neighbors.search import (
    DATABASE_ROWS,
    ExactSearch,
    normalized,
    own_gpu,
    share_of_same,
    stored_in_half,
)
from deepclust.runtime.devices import free_bytes
from deepclust.runtime.errors import InputError

CALIBRATION_QUERIES = 256
# Groups that rows are cut into. Each row is in `overlap` of them, so that overlap² / groups of all pairs are compared.
FEWEST_GROUPS, GROUPS_PER_GPU = 64, 16
# A group has so many times as many rows as neighbors are wanted.
ROWS_PER_NEIGHBOR = 20


@contextmanager
def own_device() -> Iterator[torch.device]:
    """This process's GPU, on which cuVS works within the block; what torch has begun there is done."""
    device = torch.device("cuda", own_gpu())
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        yield device


class CuvsSearch:
    """cuVS' brute force on this process's GPU, where many rows are in half precision."""

    def __init__(self, rows: Rows) -> None:
        from cuvs.neighbors import brute_force

        self.rows, self._search = rows, brute_force.search
        self.dtype = torch.float16 if stored_in_half(*rows.shape) else torch.float32
        with own_device() as device:
            # The index refers to it.
            self.rows_ND = torch.empty(rows.shape, dtype=self.dtype, device=device)
            for low in range(0, len(rows), DATABASE_ROWS):
                block = slice(low, min(low + DATABASE_ROWS, len(rows)))
                self.rows_ND[block] = normalized(rows, block).to(device)
        with own_device():
            self.index: Any = brute_force.build(self.rows_ND, metric="inner_product")

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        query_QD = normalized(self.rows, ids_Q).to(self.rows_ND.device, self.dtype)
        ids_QK = torch.empty(len(ids_Q), k, dtype=torch.int64, device=query_QD.device)
        similarities_QK = torch.empty(len(ids_Q), k, dtype=torch.float32, device=query_QD.device)
        with own_device():
            self._search(self.index, query_QD, k, neighbors=ids_QK, distances=similarities_QK)
        return ids_QK.cpu().numpy(), similarities_QK.cpu().numpy()


class AllNeighborsSearch:
    """cuVS' graph of all rows' neighbors, made at once by every GPU that this process sees.

    Rows are cut into groups that overlap, and compared within them. The overlap grows until a sample's recall is
    reached; where that would compare as much as all pairs, all pairs are compared, by `CuvsSearch`.

    Args:
        rows: N × D.
        k: candidates per row, the row itself included.
        recall: in (0, 1].
        seed: of the sample.

    Raises:
        InputError: if the memory does not hold the rows in float32.
    """

    def __init__(self, rows: Rows, k: int, recall: float, seed: int = 0) -> None:
        n_rows, dim = rows.shape
        self.flat: CuvsSearch | None = None
        groups = min(max(FEWEST_GROUPS, GROUPS_PER_GPU * torch.cuda.device_count()), n_rows // (ROWS_PER_NEIGHBOR * k))
        overlap = 2
        if overlap**2 < groups:
            if n_rows * dim * 4 > free_bytes():
                raise InputError(
                    f"neighbors.engine=cuvs wants {n_rows * dim * 4 / 1e9:.1f} GB of memory for {n_rows} × {dim} rows "
                    "in float32, which are not free: set neighbors.engine=auto"
                )
            sample_Q = np.sort(
                np.random.default_rng(seed).choice(n_rows, min(CALIBRATION_QUERIES, n_rows), replace=False)
            )
            true_QK, _ = ExactSearch(rows).query(sample_Q, k)
            unit_ND = np.empty((n_rows, dim), np.float32)
            for low in range(0, n_rows, DATABASE_ROWS):
                block = slice(low, min(low + DATABASE_ROWS, n_rows))
                unit_ND[block] = normalized(rows, block).numpy()
        reached = 0.0
        while overlap**2 < groups:
            self.ids_NK, self.similarities_NK = _graph(unit_ND, k, groups, overlap)
            reached = share_of_same(self.ids_NK[sample_Q], true_QK)
            if reached >= recall:
                self.settings: dict[str, Any] = {"index": f"{groups} groups", "overlap": overlap}
                self.settings["calibrated_recall"] = reached
                return
            overlap *= 2
        self.flat = CuvsSearch(rows)
        self.settings = {"index": "Flat", "calibrated_recall": 1.0}

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self.flat is not None:
            return self.flat.query(ids_Q, k)
        return self.ids_NK[ids_Q, :k], self.similarities_NK[ids_Q, :k]


def _graph(unit_ND: np.ndarray, k: int, groups: int, overlap: int) -> tuple[np.ndarray, np.ndarray]:
    from cuvs.common import MultiGpuResources
    from cuvs.neighbors import all_neighbors

    asked = all_neighbors.AllNeighborsParams(
        algo="brute_force", metric="inner_product", n_clusters=groups, overlap_factor=overlap
    )
    with own_device() as device:
        ids_NK = torch.empty(len(unit_ND), k, dtype=torch.int64, device=device)
        similarities_NK = torch.empty(len(unit_ND), k, dtype=torch.float32, device=device)
        resources = MultiGpuResources()
        all_neighbors.build(unit_ND, k, asked, indices=ids_NK, distances=similarities_NK, resources=resources)
        resources.sync()
    return ids_NK.cpu().numpy(), similarities_NK.cpu().numpy()
