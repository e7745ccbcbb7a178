"""Search in faiss' inverted file, for GPUs: only the lists nearest to a query are compared with it.

Shape suffixes: N rows, D feature dimensions, Q queries, K candidates.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from deepclust.features.rows import Rows
from deepclust.neighbors.search import (
    GPU_LIMIT,
    ExactSearch,
    FaissSearch,
    Search,
    normalized,
    on_own_gpu,
    share_of_same,
    stored_in_half,
)

# faiss' own advice: 4 to 16 lists per square root of N, and at least 39 training rows per list.
LISTS_PER_ROOT = 4
TRAINING_ROWS_PER_LIST = 40
CALIBRATION_QUERIES = 256
ADD_ROWS = 1 << 16


class IVFSearch:
    """faiss' IVF index, with the fewest probes that reach a recall on a sample.

    Args:
        rows: N × D.
        k: candidates per query for which the recall is calibrated, the query itself included.
        recall: in (0, 1].
        seed: of the samples.
        on_gpu: search on this process's GPU, where a query can probe `GPU_LIMIT` lists: where these do not reach the
            recall, every query is answered exactly, by a flat index.
    """

    def __init__(self, rows: Rows, k: int, recall: float, seed: int = 0, *, on_gpu: bool = False) -> None:
        self.rows = rows
        n_rows, dim = rows.shape
        n_lists = int(max(1, min(LISTS_PER_ROOT * n_rows**0.5, n_rows / TRAINING_ROWS_PER_LIST)))
        kind = f"IVF{n_lists}," + ("SQfp16" if stored_in_half(n_rows, dim) else "Flat")
        index: Any = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
        if on_gpu:
            index, self._resources = on_own_gpu(index)
        index.cp.seed = seed + 1
        # Spherical lists suit inner products of unit vectors. They need not be optimal: a few iterations suffice.
        index.cp.spherical, index.cp.niter = True, 8
        self.most_probes = min(n_lists, GPU_LIMIT) if on_gpu else n_lists
        self.flat: Search | None = None
        self.exact: ExactSearch | None = None
        self.index: Any = index
        rng = np.random.default_rng(seed)
        sample = np.sort(rng.choice(n_rows, min(n_rows, n_lists * TRAINING_ROWS_PER_LIST), replace=False))
        self.index.train(normalized(rows, sample).numpy())
        for low in range(0, n_rows, ADD_ROWS):
            self.index.add(normalized(rows, slice(low, low + ADD_ROWS)).numpy())
        reached = self._calibrate(k, recall, rng)
        if reached < recall and self.most_probes < n_lists:
            self.index = index = self._resources = None  # its memory is needed
            self.flat, reached, kind = FaissSearch(rows, on_gpu=True), 1.0, "Flat"
        self.settings = {"index": kind, "n_probe": self.n_probe, "calibrated_recall": reached}

    def _calibrate(self, k: int, recall: float, rng: np.random.Generator) -> float:
        """Raise the number of probes by steps of 1.5 until the sample's recall is reached; returns that recall."""
        sample = np.sort(rng.choice(len(self.rows), min(CALIBRATION_QUERIES, len(self.rows)), replace=False))
        true_QK, _ = ExactSearch(self.rows).query(sample, k)
        self.n_probe = 1
        while True:
            found_QK, _ = self.query(sample, k)
            reached = share_of_same(found_QK, true_QK)
            if reached >= recall or self.n_probe >= self.most_probes:
                return reached
            self.n_probe = min(self.most_probes, max(self.n_probe + 1, self.n_probe * 3 // 2))

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self.flat is not None:
            return self.flat.query(ids_Q, k)
        self.index.nprobe = self.n_probe
        similarities, ids = self.index.search(normalized(self.rows, ids_Q).numpy(), k)
        # Too few rows in the probed lists leave -1: those queries are compared with every row.
        short = (ids < 0).any(axis=1)
        if short.any():
            self.exact = self.exact or ExactSearch(self.rows)
            ids[short], similarities[short] = self.exact.query(ids_Q[short], k)
        return ids, similarities
