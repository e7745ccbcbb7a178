"""Mining: choose a search, run it block by block, drop each sample from its own list, measure what was missed.

Shape suffixes: N samples, D feature dimensions, Q queries in a block, K neighbors.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import Rows
from deepclust.neighbors.engines import ENGINES, check_cuvs_fits, check_engine
from deepclust.neighbors.neighbors import MINING_VERSION, Neighbors
from deepclust.neighbors.row_lists import Lists, Probes, calibrated, group_rows, shared_lists
from deepclust.neighbors.search import (
    GPU_LIMIT,
    EuclideanSearch,
    ExactSearch,
    FaissSearch,
    ScreenedSearch,
    Search,
    faiss_gpu_works,
    missing_gpu_bytes,
    nearest_of_all,
    share_of_same,
)
from deepclust.neighbors.search_cuvs import AllNeighborsSearch, CuvsSearch
from deepclust.neighbors.search_ivf import IVFSearch
from deepclust.neighbors.search_lists import ListSearch
from deepclust.runtime.devices import native_bfloat16
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_npz, written_whole
from deepclust.runtime.progress import Stage
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.runtime.settings import check_settings, setting
from deepclust.runtime.shared_array import SharedArray

METRICS = ("cosine", "euclidean")
METHODS = ("auto", "exact", "screened", "ivf", "faiss")
QUERY_ROWS = 1024
# The more rows look into a list at once, the larger are the products.
LIST_QUERY_ROWS = 4096
DEFAULT_RECALL = 0.99
# Above so many rows an inverted file on a GPU beats comparing all pairs.
IVF_ROWS = 400_000
# From so many rows on a CPU groups them into lists, and looks how many of these the neighbors lie in.
LISTS_ROWS = 20_000
# `auto` compares all pairs where the lists would leave more than this share of them (benchmarks/neighbors.py).
# All pairs in bfloat16 are several times faster than lists in float32.
MOST_PAIRS = 0.4
MOST_PAIRS_BFLOAT16 = 0.125
# Below so many rows the screening's second pass costs more than it saves.
SCREENED_ROWS = 10_000
RECALL_QUERIES = 512


@dataclass(frozen=True)
class MiningSettings:
    """How a run searches neighbors; `mine_neighbors` says what the settings mean."""

    method: str = setting("auto", "how neighbors are searched", choices=METHODS)
    recall: float = setting(DEFAULT_RECALL, "share of true neighbors that `ivf` is to find", above=0, at_most=1)
    engine: str = setting("auto", "the library that searches", choices=ENGINES)

    def __post_init__(self) -> None:
        check_settings(self)

    def check(self, n_rows: int, k: int) -> None:
        """Raises InputError as `check_request`."""
        check_request(n_rows, k, self.method, self.recall, self.engine)


DEFAULT_MINING = MiningSettings()


def mine_neighbors(
    features: FeatureSet | Rows,
    k: int,
    *,
    method: str = "auto",
    metric: str = "cosine",
    recall: float = DEFAULT_RECALL,
    engine: str = "auto",
    block_dir: Path | None = None,
    progress: bool = False,
    ranks: Ranks = ALONE,
) -> Neighbors:
    """Mine the k nearest neighbors of every row.

    Args:
        features: N × D, any float type, memory-mapped or not; normalized here, never copied whole if mapped.
        k: neighbors per sample, 1 ≤ k < N. The papers use 50 (TEMI, SCANv2), 25 for large C, and 20 (TSP).
        method: `exact`: float32 inner products of all pairs, by faiss on GPUs, by blocked matrix products on a CPU (the
            faster exact search there). `screened`: all pairs in bfloat16, the best candidates again in float32.
            `ivf`: rows grouped into lists, looking into as many as `recall` needs: faiss' inverted file on GPUs,
            `ListSearch` on a CPU. `faiss`: `exact` by the engine faiss.
            `auto`, on a GPU: `ivf` above 400 000 rows, else `exact`; on a CPU: `ivf` from 20 000 rows on where the
            lists that `recall` needs hold few of all pairs, as a sample of 512 to 2048 rows tells; else `screened`
            above 10 000 on a CPU that multiplies bfloat16; else `exact`.
        metric: `cosine`, or `euclidean` on the rows as they are: by `exact` matrix products of all pairs.
        recall: for `ivf`, the share of true neighbors to find, calibrated on a sample.
        engine: the library that searches. `torch`; `faiss`, on a GPU where it can, else on the CPU; `cuvs`: for `exact`
            each rank on its own GPU, for `ivf` one process on all GPUs; `auto`: faiss on a GPU, else torch.
        block_dir: finished blocks are kept here, so that a killed search continues; None keeps none.
        progress: show how far it is, on the first rank.
        ranks: the processes that share the queries, block by block in turn; each gets all neighbors.

    Returns:
        Neighbors whose settings hold the method, seconds and, where the search is approximate, the `recall` measured
        on 512 samples other than those of the calibration.

    Raises:
        InputError: if k is not in [1, N - 1], `recall` not in (0, 1], the method or the metric is unknown, or
            `euclidean` is to be searched by another method than `exact`; if the engine is not there, or has neither
            the method nor the memory.
    """
    rows = features.features if isinstance(features, FeatureSet) else features
    n_rows = len(rows)
    if metric not in METRICS:
        raise InputError(f"unknown neighbor metric '{metric}': choose one of {', '.join(METRICS)}")
    check_request(n_rows, k, method, recall, engine, metric)
    if method == "faiss":
        method, engine = "exact", "faiss"
    if metric == "euclidean" and method not in ("auto", "exact"):
        raise InputError(f"neighbors by Euclidean distance are searched exactly, not by '{method}': set method=exact")
    started = time.perf_counter()
    # The first rank's machine decides for all: a rank that searched otherwise would wait for another exchange.
    by_faiss = engine in ("auto", "faiss")
    on_gpu = by_faiss and ranks.decide(faiss_gpu_works())
    lacking = max(ranks.gather_objects(missing_gpu_bytes(*rows.shape) if on_gpu and faiss_gpu_works() else 0))
    if lacking:
        on_gpu = False
        if ranks.rank == 0:
            warnings.warn(
                f"the GPU lacks {lacking / 1e9:.1f} GB of free memory for an index of {n_rows} × {rows.shape[1]} rows: "
                "their neighbors are mined without one, which takes longer",
                stacklevel=2,
            )
    euclidean = metric == "euclidean"
    chosen = "exact" if euclidean else method
    if chosen == "auto":
        # faiss' and cuVS' own methods are those of a GPU.
        likely = choose_method(n_rows, on_gpu=on_gpu or engine in ("faiss", "cuvs"))
        chosen = METHODS[int(ranks.from_first(np.array([METHODS.index(likely)]))[0])]
    if engine == "cuvs":
        check_cuvs_fits(chosen, (n_rows, rows.shape[1]), ranks)
    on_gpu = on_gpu and not euclidean and chosen != "screened" and k < GPU_LIMIT
    ranks.raise_any(why_no_gpu(ranks) if on_gpu and not faiss_gpu_works() else None)
    lists: Lists | None = None
    probes: Probes | None = None
    with Stage("grouping samples, to mine their neighbors", enabled=progress and ranks.rank == 0):
        if chosen == "ivf" and not on_gpu and engine in ("auto", "torch"):
            lists = shared_lists(rows, block_dir, ranks)
        if lists is not None and method == "auto":
            probes = calibrated(rows, lists, k + 1, recall, ranks=ranks)
    if lists is not None and probes is not None:
        bfloat16 = ranks.decide(native_bfloat16("cpu"))
        if probes.share > (MOST_PAIRS_BFLOAT16 if bfloat16 else MOST_PAIRS):
            lists, chosen = None, "screened" if bfloat16 else "exact"
    order_N = np.arange(n_rows) if lists is None else lists.order_N
    bounds = np.append(np.arange(0, n_rows, QUERY_ROWS), n_rows) if lists is None else lists.blocks(LIST_QUERY_ROWS)
    spans = dict(zip(bounds[:-1].tolist(), bounds[1:].tolist()))
    ids, similarities = SharedArray((n_rows, k), np.int32, ranks), SharedArray((n_rows, k), np.float32, ranks)
    starts = list(spans)[ranks.rank :: ranks.world_size]
    missing: list[int] = []
    with ranks.all_or_none():
        for start in starts:
            own_Q = order_N[start : spans[start]]
            block = None if block_dir is None else _saved_block(_block_path(block_dir, start), own_Q)
            if block is None:
                missing.append(start)
            else:
                ids.values[own_Q], similarities.values[own_Q] = block
    # A search whose blocks are all saved needs no index.
    search: Search | None = None
    if lists is not None and ranks.any(bool(missing)):
        search = ListSearch(rows, lists, probes or calibrated(rows, lists, k + 1, recall, ranks=ranks), ranks=ranks)
    n_missing = sum(spans[start] - start for start in missing)
    # Every rank has about as many to search: what the first has done tells of all.
    total, shown = ranks.world_size * n_missing, progress and ranks.rank == 0
    with ranks.all_or_none(), Stage("mining neighbors", total, unit="samples", enabled=shown) as stage:
        for start in missing:
            if search is None:
                search = make_search(
                    "euclidean" if euclidean else chosen, rows, k, recall, on_gpu=on_gpu, engine=engine
                )
            own_Q = order_N[start : spans[start]]
            block = nearest_others(search, own_Q, k)
            if block_dir is not None:
                with written_whole(_block_path(block_dir, start)) as temporary:
                    np.savez(temporary, rows=own_Q, ids=block[0].astype(np.int32), similarities=block[1])
            ids.values[own_Q], similarities.values[own_Q] = block
            stage.advance(ranks.world_size * len(own_Q))
    ids_NK, similarities_NK = ids.written(), similarities.written()
    settings: dict[str, Any] = {"method": chosen, "k": k, "n": n_rows, "version": MINING_VERSION}
    if metric != "cosine":
        settings["metric"] = metric
    if engine != "auto":
        settings["engine"] = engine
    settings["seconds"] = round(time.perf_counter() - started, 3)
    if chosen in ("ivf", "screened"):
        settings["recall"] = measured_recall(rows, ids_NK, ranks=ranks)
        if isinstance(search, IVFSearch | ListSearch | AllNeighborsSearch):
            settings |= search.settings
    return Neighbors(ids_NK, similarities_NK, settings)


def _block_path(block_dir: Path, start: int) -> Path:
    return block_dir / f"{start:012d}.npz"


def _saved_block(path: Path, own_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The block that an earlier search saved, if it is of these rows: another machine may order them otherwise."""
    if not path.is_file():
        return None
    try:
        block = read_npz(path)
    except InputError:
        return None
    if "rows" not in block or not np.array_equal(block["rows"], own_Q):
        return None
    return block["ids"], block["similarities"]


def choose_method(n_rows: int, *, on_gpu: bool) -> str:
    """What `auto` means for so many rows on this machine; on a CPU `ivf` if its lists turn out to spare enough."""
    if n_rows > IVF_ROWS or (n_rows >= LISTS_ROWS and not on_gpu):
        return "ivf"
    if n_rows > SCREENED_ROWS and native_bfloat16("cpu") and not on_gpu:
        return "screened"
    return "exact"


def why_no_gpu(ranks: Ranks) -> str:
    """What to do where the ranks differ."""
    return (
        f"faiss works on the GPU of the first rank, but not on that of rank {ranks.rank}: "
        "set neighbors.method=screened, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to mine on the CPUs alone"
    )


def make_search(
    method: str, rows: Rows, k: int, recall: float, *, on_gpu: bool = False, engine: str = "auto"
) -> Search:
    """A search by its method, or `euclidean`.

    Args:
        on_gpu: whether faiss searches on this rank's GPU, where it can.
        engine: as in `mine_neighbors`.
    """
    if engine == "cuvs":
        return CuvsSearch(rows) if method == "exact" else AllNeighborsSearch(rows, k + 1, recall)
    if engine == "faiss":
        return FaissSearch(rows, on_gpu=on_gpu) if method == "exact" else IVFSearch(rows, k + 1, recall, on_gpu=on_gpu)
    if method == "euclidean":
        return EuclideanSearch(rows)
    if method == "exact":
        return FaissSearch(rows, on_gpu=on_gpu) if on_gpu else ExactSearch(rows)
    if method == "screened":
        return ScreenedSearch(rows)
    if on_gpu:
        return IVFSearch(rows, k + 1, recall, on_gpu=True)
    lists = group_rows(rows)
    return ListSearch(rows, lists, calibrated(rows, lists, k + 1, recall))


def nearest_others(search: Search, own_Q: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) ids and similarities of the nearest rows other than the query itself."""
    return without_self(*search.query(own_Q, k + 1), own_Q)


def without_self(ids_QK1: np.ndarray, similarities_QK1: np.ndarray, own_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) of K + 1 candidates.

    Where more than K exact duplicates crowded the query out of its own candidates, the last candidate goes instead.
    """
    keep = ids_QK1 != own_Q[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = (len(own_Q), ids_QK1.shape[1] - 1)
    return ids_QK1[keep].reshape(shape), similarities_QK1[keep].reshape(shape)


def measured_recall(rows: Rows, ids_NK: np.ndarray, seed: int = 1, ranks: Ranks = ALONE) -> float:
    """Share of the true K nearest neighbors that were found, over a seeded sample of rows; each rank compares the
    sample with its part of the rows."""
    sample_Q = np.sort(np.random.default_rng(seed).choice(len(rows), min(RECALL_QUERIES, len(rows)), replace=False))
    with ranks.all_or_none():
        found = ExactSearch(rows, ranks.share(len(rows))).query(sample_Q, ids_NK.shape[1] + 1)
    ids_QK1, similarities_QK1 = nearest_of_all(*found, ids_NK.shape[1] + 1, ranks)
    true_QK, _ = without_self(ids_QK1, similarities_QK1, sample_Q)
    return share_of_same(ids_NK[sample_Q], true_QK)


def check_request(
    n_rows: int,
    k: int,
    method: str = "auto",
    recall: float = DEFAULT_RECALL,
    engine: str = "auto",
    metric: str = "cosine",
) -> None:
    """Raises InputError unless 1 ≤ k < N, the recall is in (0, 1], the method is known and the engine has it."""
    if method not in METHODS:
        raise InputError(f"unknown neighbor mining method '{method}': choose one of {', '.join(METHODS)}")
    if not 1 <= k < n_rows:
        raise InputError(
            f"{k} neighbors asked for, but there are {n_rows} samples: the number of neighbors must be "
            f"between 1 and {n_rows - 1}"
        )
    if not 0 < recall <= 1:
        raise InputError(f"recall is {recall}: it must be above 0 and at most 1")
    if method == "faiss" and engine not in ("auto", "faiss"):
        raise InputError(f"neighbors.method=faiss is not for engine={engine}: set neighbors.method=exact")
    check_engine(engine, method, metric)
