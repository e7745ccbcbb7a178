"""Time, recall and memory of the ways to mine neighbors, beside the libraries'.

    python benchmarks/neighbors.py [--quick] [--record] [--case NAME …] [--libraries NAME …]

Cases: `real-20k` and `real-60k`, features of Fashion-MNIST's images by EfficientNet-Lite0, × 1280 (clustered ones of
that shape where they are absent); `clustered-20k`, `clustered-200k` and `clustered-1m`, × 256, synthetic: overlapping
clusters of about 1000 rows, as ImageNet's classes. `--quick`: the 20k alone.

`auto` mines all rows; so do pynndescent with its defaults and, where it is installed, hnswlib with M = 16,
ef_construction = 200 and ef = 2 K. All pairs are compared for 2048 queries and scaled to all rows.
The recall is measured over 512 rows. Seconds are those of the processor, of all threads together, so that other jobs on
the machine count little; `OMP_NUM_THREADS=1` gives every method one thread.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from tables import REAL_FEATURES, arguments, report

from deepclust.neighbors import mine_neighbors
from deepclust.neighbors.mining import make_search, measured_recall, nearest_others

K = 50
QUERIES = 2048
CASES = {
    "real-20k": 20_000,
    "clustered-20k": 20_000,
    "real-60k": 60_000,
    "clustered-200k": 200_000,
    "clustered-1m": 10**6,
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--case", nargs="*", choices=CASES, help="default: all but the last; of --quick, the first two")
    parser.add_argument("--libraries", nargs="*", choices=LIBRARIES, default=[*LIBRARIES])
    options = parser.parse_args()
    cases = options.case or list(CASES)[: 2 if options.quick else 4]
    # The libraries come last: what pynndescent leaves running in the process slows all that follows it.
    rows = [row for case in cases for row in own_searches(case, features_of(case))]
    slow = {row["case"]: row["CPU seconds"] for row in reversed(rows)}
    for case in cases:
        rows += searches_of_libraries(case, features_of(case), options.libraries, slow)
    rows.sort(key=lambda row: cases.index(str(row["case"]).split(",")[0]))
    report("neighbors", rows, [f"K = {K}; peak: of the whole process so far"], record=options.record)


def features_of(case: str) -> np.ndarray:
    n_rows, path = CASES[case], REAL_FEATURES / "train_features.npy"
    if case.startswith("clustered") or not path.is_file():
        return clustered(n_rows, 256 if case.startswith("clustered") else 1280, max(20, n_rows // 1000))
    return np.load(path, mmap_mode="r")[:n_rows]


def own_searches(case: str, features: np.ndarray) -> list[dict[str, object]]:
    search = make_search("exact", features, K, recall=1.0)
    queries = np.sort(np.random.default_rng(0).choice(len(features), QUERIES, replace=False))
    began = time.process_time()
    for block in np.split(queries, 2):
        nearest_others(search, block, K)
    slow = (time.process_time() - began) * len(features) / QUERIES
    rows = [line(case, features, f"exact (scaled from {QUERIES})", slow, slow, 1.0)]
    del search
    began = time.process_time()
    neighbors = mine_neighbors(features, K)
    seconds, settings = time.process_time() - began, neighbors.settings
    name = f"auto: {settings['method']}"
    if settings["method"] == "ivf":
        name += f" ({settings['n_probe']} of {settings['index']}, {100 * settings['share_compared']:.1f} % of pairs)"
    rows.append(line(case, features, name, seconds, slow, measured_recall(features, neighbors.ids, seed=2)))
    return told(rows)


def searches_of_libraries(
    case: str, features: np.ndarray, libraries: Sequence[str], slow: Mapping[object, object]
) -> list[dict[str, object]]:
    """Args: slow: seconds of comparing all pairs, by the names of cases in the rows."""
    rows = []
    for name in libraries:
        try:
            LIBRARIES[name](features[:2000])  # what compiles itself has done so
        except ImportError:
            continue
        began = time.process_time()
        found = LIBRARIES[name](features)
        seconds = time.process_time() - began
        recall = measured_recall(features, found[:, :K].astype(np.int32), seed=2)
        all_pairs = float(str(slow[named(case, features)]))
        rows.append(line(case, features, name, seconds, all_pairs, recall))
    return told(rows)


def told(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    for row in rows:
        print(row, flush=True)
    return rows


def named(case: str, features: np.ndarray) -> str:
    return f"{case}, {features.shape[0]:,} × {features.shape[1]}"


def by_pynndescent(features: np.ndarray) -> np.ndarray:
    from pynndescent import NNDescent

    rows_ND, threads = np.asarray(features, np.float32), torch.get_num_threads()
    index = NNDescent(rows_ND, metric="cosine", n_neighbors=K + 1, n_jobs=threads, random_state=0)
    return without_own(index.neighbor_graph[0])


def by_hnswlib(features: np.ndarray) -> np.ndarray:
    import hnswlib

    index = hnswlib.Index(space="cosine", dim=features.shape[1])
    index.init_index(len(features), ef_construction=200, M=16)
    index.set_num_threads(torch.get_num_threads())
    index.add_items(np.asarray(features, np.float32))
    index.set_ef(2 * K)
    return without_own(index.knn_query(np.asarray(features, np.float32), K + 1)[0])


LIBRARIES = {"pynndescent": by_pynndescent, "hnswlib": by_hnswlib}


def without_own(ids_NK1: np.ndarray) -> np.ndarray:
    own = ids_NK1 == np.arange(len(ids_NK1))[:, None]
    own[~own.any(axis=1), -1] = True
    return ids_NK1[~own].reshape(len(ids_NK1), -1)


def line(case: str, features: np.ndarray, method: str, seconds: float, slow: float, recall: float) -> dict[str, object]:
    return {
        "case": named(case, features),
        "method": method,
        "CPU seconds": seconds,
        "exact / this": slow / seconds,
        f"recall@{K}": recall,
        "peak GB": peak_gb(),
    }


def clustered(n_rows: int, dim: int, n_clusters: int, seed: int = 0) -> np.ndarray:
    """Float16 rows around random directions whose own directions share a low-dimensional part, as features do."""
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((32, dim)).astype(np.float32)
    centers = rng.standard_normal((n_clusters, 32)).astype(np.float32) @ basis / 32**0.5
    out = np.empty((n_rows, dim), np.float16)
    for low in range(0, n_rows, 65_536):
        high = min(low + 65_536, n_rows)
        noise = rng.standard_normal((high - low, 32)).astype(np.float32) @ basis * (0.7 / 32**0.5)
        noise += 0.2 * rng.standard_normal((high - low, dim)).astype(np.float32)
        out[low:high] = centers[rng.integers(0, n_clusters, high - low)] + noise
    return out


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
