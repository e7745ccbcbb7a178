"""Nearest neighbours by inner product of L2-normalised features: the positive pairs of every head.

A sample is never its own neighbour: it is removed by its row number, so an exact duplicate remains a legal neighbour.

Shape suffixes: N samples, D feature dimensions, Q queries in a block, K neighbours.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deepclust.errors import InputError
from deepclust.features.store import FeatureSet, Rows
from deepclust.files import fingerprint, written_whole

# Bumped whenever the mining changes its result, so that no cache of an older rule is met.
MINING_VERSION = 1
QUERY_ROWS = 1024
DATABASE_ROWS = 1 << 17


@dataclass(frozen=True)
class Neighbors:
    """K nearest neighbours of N samples, most similar first.

    Attributes:
        ids: (N, K) int32 row numbers, never the row itself.
        similarities: (N, K) float32 cosine similarities.
        settings: how they were mined.
    """

    ids: np.ndarray
    similarities: np.ndarray
    settings: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def k(self) -> int:
        return self.ids.shape[1]

    def first(self, k: int) -> Neighbors:
        """The k nearest of these."""
        if k > self.k:
            raise InputError(f"{k} neighbors asked for, but only {self.k} were mined: mine again with k={k}")
        return Neighbors(self.ids[:, :k], self.similarities[:, :k], self.settings)

    def save(self, path: str | os.PathLike) -> None:
        with written_whole(path) as temporary:
            np.savez(
                temporary,
                ids=self.ids,
                similarities=self.similarities,
                settings=np.array(json.dumps(self.settings, default=str)),
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> Neighbors:
        with np.load(path, allow_pickle=False) as archive:
            return cls(archive["ids"], archive["similarities"], json.loads(str(archive["settings"])))


def label_consistency(neighbors: Neighbors, labels: np.ndarray, k: int | None = None) -> float:
    """Share of a sample's k nearest neighbours that carry its label, averaged over samples (TSP, fig. 1)."""
    ids = neighbors.ids[:, :k]
    return float((labels[ids] == labels[:, None]).mean())


def mine_neighbors(features: FeatureSet | Rows, k: int, *, method: str = "exact", progress: bool = False) -> Neighbors:
    """Mine the k nearest neighbours of every row.

    Args:
        features: N × D, any float type, memory-mapped or not; normalised here, never copied whole if mapped.
        k: neighbours per sample, 1 ≤ k < N. The papers use 50 (TEMI, SCANv2), 25 for large C, and 20 (TSP).
        method: `exact` searches with float32 inner products: by faiss on a GPU, by blocked matrix products on
            a CPU, where they are the faster exact search. `faiss` searches with faiss' flat index wherever it runs.
        progress: show a progress bar.

    Raises:
        InputError: if k is not in [1, N - 1], or the method is unknown.
    """
    rows = features.features if isinstance(features, FeatureSet) else features
    check_k(len(rows), k)
    if method not in _SEARCHES:
        raise InputError(f"unknown neighbor mining method '{method}': choose one of {', '.join(_SEARCHES)}")
    if method == "exact" and _faiss_gpu_works():
        method = "faiss"
    ids_NK = np.empty((len(rows), k), np.int32)
    similarities_NK = np.empty((len(rows), k), np.float32)
    with _progress_bar(len(rows), progress) as advance:
        for start, candidate_ids, candidate_similarities in _SEARCHES[method](rows, k + 1):
            stop = start + len(candidate_ids)
            ids_NK[start:stop], similarities_NK[start:stop] = _without_self(
                candidate_ids, candidate_similarities, np.arange(start, stop)
            )
            advance(stop - start)
    return Neighbors(ids_NK, similarities_NK, {"method": method, "k": k, "n": len(rows), "version": MINING_VERSION})


def cached_neighbors(
    features: FeatureSet, k: int, *, cache_dir: str | os.PathLike | None = None, method: str = "exact", **options: Any
) -> Neighbors:
    """`mine_neighbors`, kept beside the features under a key of their content and the mining settings.

    A cache of more neighbours serves fewer. Without a place to keep them (features in memory, or a read-only
    folder, and no `cache_dir`) they are mined anew.
    """
    check_k(len(features), k)
    folder = cache_folder(features, cache_dir)
    if folder is None:
        return mine_neighbors(features, k, method=method, **options)
    key = neighbors_key(features, method)
    for found in sorted(folder.glob(f"{key}-k*.npz")):
        match = re.fullmatch(r".*-k(\d+)", found.stem)
        if match and int(match.group(1)) >= k:
            return Neighbors.load(found).first(k)
    neighbors = mine_neighbors(features, k, method=method, **options)
    neighbors.save(folder / f"{key}-k{k}.npz")
    return neighbors


def neighbors_key(features: FeatureSet, method: str = "exact") -> str:
    """Name of a cache entry: changes with the features' content and with the mining rule."""
    return fingerprint(features.fingerprint(), method, MINING_VERSION)


def cache_folder(features: FeatureSet, cache_dir: str | os.PathLike | None = None) -> Path | None:
    """`cache_dir`, else a folder beside the features, else None; only if it can be written."""
    if cache_dir is not None:
        folder = Path(cache_dir)
    elif features.root is None:
        return None
    elif features.root.is_dir():
        folder = features.root / "neighbors"
    else:
        folder = features.root.with_name(features.root.name + ".neighbors")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def check_k(n_rows: int, k: int) -> None:
    if not 1 <= k < n_rows:
        raise InputError(
            f"{k} neighbors asked for, but there are {n_rows} samples: the number of neighbors must be "
            f"between 1 and {n_rows - 1}"
        )


def _without_self(ids: np.ndarray, similarities: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop each row's own id from K + 1 candidates; where duplicates crowded it out, drop the last candidate."""
    keep = ids != own[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = (len(ids), ids.shape[1] - 1)
    return ids[keep].reshape(shape), similarities[keep].reshape(shape)


Candidates = Iterator[tuple[int, np.ndarray, np.ndarray]]


def _normalized(rows: Rows, start: int, stop: int) -> Tensor:
    block = torch.from_numpy(np.array(rows[start:stop], dtype=np.float32))
    return functional.normalize(block, dim=1)


def _search_exact(rows: Rows, k: int) -> Candidates:
    """Exact float32 search by blocked matrix products; memory is O(block × block + Q × K)."""
    n_rows = len(rows)
    # One copy of the normalised database when it is small beside what a single block costs anyway.
    whole = _normalized(rows, 0, n_rows) if n_rows <= DATABASE_ROWS else None
    for start in range(0, n_rows, QUERY_ROWS):
        stop = min(start + QUERY_ROWS, n_rows)
        query_QD = whole[start:stop] if whole is not None else _normalized(rows, start, stop)
        best_similarities, best_ids = (
            query_QD.new_empty((stop - start, 0)),
            torch.empty((stop - start, 0), dtype=torch.long),
        )
        for low in range(0, n_rows, DATABASE_ROWS):
            high = min(low + DATABASE_ROWS, n_rows)
            database = whole if whole is not None else _normalized(rows, low, high)
            similarities = query_QD @ database.T
            top = similarities.topk(min(k, high - low), dim=1)
            best_similarities = torch.cat([best_similarities, top.values], dim=1)
            best_ids = torch.cat([best_ids, top.indices + low], dim=1)
            if best_ids.shape[1] > k:
                merged = best_similarities.topk(k, dim=1)
                best_similarities, best_ids = merged.values, best_ids.gather(1, merged.indices)
        yield start, best_ids.numpy(), best_similarities.numpy()


def _search_faiss(rows: Rows, k: int) -> Candidates:
    """faiss' flat inner-product index, on all GPUs where there are any."""
    index: Any = faiss.IndexFlatIP(rows.shape[1])
    if _faiss_gpu_works():
        index = faiss.index_cpu_to_all_gpus(index)
    for start in range(0, len(rows), DATABASE_ROWS):
        index.add(_normalized(rows, start, min(start + DATABASE_ROWS, len(rows))).numpy())
    for start in range(0, len(rows), QUERY_ROWS):
        query = _normalized(rows, start, min(start + QUERY_ROWS, len(rows))).numpy()
        similarities, ids = index.search(query, k)
        yield start, ids, similarities


_SEARCHES = {"exact": _search_exact, "faiss": _search_faiss}


def _faiss_gpu_works() -> bool:
    """Whether faiss can run on a GPU here: one small search is tried, as a build may name a GPU it cannot use."""
    if not hasattr(faiss, "get_num_gpus") or faiss.get_num_gpus() == 0:
        return False
    try:
        index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(4))
        index.add(np.eye(4, dtype=np.float32))
        index.search(np.eye(4, dtype=np.float32), 1)
    except Exception:  # faiss raises bare RuntimeErrors of many kinds for an unusable GPU
        return False
    return True


@contextmanager
def _progress_bar(total: int, enabled: bool) -> Iterator[Any]:
    from deepclust.report.progress import progress_bar

    with progress_bar(enabled) as bar:
        task = bar.add_task("mining neighbors", total=total, unit="samples/s", detail="")
        yield lambda step: bar.advance(task, step)
