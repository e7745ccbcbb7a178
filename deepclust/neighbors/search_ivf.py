"""Search in faiss' inverted file, for GPUs: only the lists nearest to a query are compared with it.

Shape suffixes: N rows, D feature dimensions, Q queries, K candidates.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from deepclust.features.rows import Rows
from deepclust.neighbors.search import ExactSearch, faiss_gpu_works, normalized, share_of_same

# faiss' own advice: 4 to 16 lists per square root of N, and at least 39 training rows per list.
LISTS_PER_ROOT = 4
TRAINING_ROWS_PER_LIST = 40
CALIBRATION_QUERIES = 256
ADD_ROWS = 1 << 16
# Above so many bytes the index stores half-precision components.
HALF_BYTES = 2 << 30


class IVFSearch:
    """faiss' IVF index, with the fewest probes that reach a recall on a sample.

    Args:
        rows: N × D.
        k: candidates per query for which the recall is calibrated, the query itself included.
        recall: in (0, 1].
        seed: of the samples.
    """

    def __init__(self, rows: Rows, k: int, recall: float, seed: int = 0) -> None:
        self.rows = rows
        n_rows, dim = rows.shape
        n_lists = int(max(1, min(LISTS_PER_ROOT * n_rows**0.5, n_rows / TRAINING_ROWS_PER_LIST)))
        half = n_rows * dim * 4 > HALF_BYTES
        kind = f"IVF{n_lists}," + ("SQfp16" if half else "Flat")
        index: Any = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed + 1
        # Spherical lists suit inner products of unit vectors. They need not be optimal: a few iterations suffice.
        index.cp.spherical, index.cp.niter = True, 8
        self.n_lists = n_lists
        self.index: Any = faiss.index_cpu_to_all_gpus(index) if faiss_gpu_works() else index
        rng = np.random.default_rng(seed)
        sample = np.sort(rng.choice(n_rows, min(n_rows, n_lists * TRAINING_ROWS_PER_LIST), replace=False))
        self.index.train(normalized(rows, sample).numpy())
        for low in range(0, n_rows, ADD_ROWS):
            self.index.add(normalized(rows, slice(low, low + ADD_ROWS)).numpy())
        reached = self._calibrate(k, recall, n_lists, rng)
        self.settings = {"index": kind, "n_probe": self.n_probe, "calibrated_recall": reached}

    def _calibrate(self, k: int, recall: float, n_lists: int, rng: np.random.Generator) -> float:
        """Raise the number of probes by steps of 1.5 until the sample's recall is reached; returns that recall."""
        sample = np.sort(rng.choice(len(self.rows), min(CALIBRATION_QUERIES, len(self.rows)), replace=False))
        true_QK, _ = ExactSearch(self.rows).query(sample, k)
        self.n_probe = 1
        while True:
            found_QK, _ = self.query(sample, k)
            reached = share_of_same(found_QK, true_QK)
            if reached >= recall or self.n_probe >= n_lists:
                return reached
            self.n_probe = min(n_lists, max(self.n_probe + 1, self.n_probe * 3 // 2))

    def query(self, ids_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        parameters: Any = faiss.SearchParametersIVF(nprobe=self.n_probe)  # type: ignore[call-arg]
        similarities, ids = self.index.search(normalized(self.rows, ids_Q).numpy(), k, params=parameters)
        # Too few rows in the probed lists leave -1: probe everything for those queries.
        short = (ids < 0).any(axis=1)
        if short.any():
            everything: Any = faiss.SearchParametersIVF(nprobe=self.n_lists)  # type: ignore[call-arg]
            more, more_ids = self.index.search(normalized(self.rows, ids_Q[short]).numpy(), k, params=everything)
            similarities[short], ids[short] = more, more_ids
        return ids, similarities
