"""Time, recall and memory of the ways to mine neighbors.

    python benchmarks/neighbors.py [--quick] [--record]

Real features (60 000 × 1280, or synthetic of that shape where they are absent) are mined whole by every method. The
large case is 1 M × 384, synthetic: overlapping clusters of about 1000 rows, as ImageNet's classes; its exact search is
timed on 4096 queries and scaled to all rows, `ivf` mines all.
"""

from __future__ import annotations

import resource
import time

import numpy as np
from tables import REAL_FEATURES, arguments, report

from deepclust.neighbors import mine_neighbors, share_of_same
from deepclust.neighbors.mining import make_search, nearest_others

K = 50


def main() -> None:
    options = arguments(__doc__).parse_args()
    path = REAL_FEATURES / "train_features.npy"
    real = np.load(path) if path.is_file() else clustered(60_000, 1280, 100)
    if options.quick:
        real = real[:15_000]
    rows = small_case(real)
    large = clustered(200_000, 384, 200) if options.quick else clustered(1_000_000, 384, 1000)
    rows += large_case(large)
    report("neighbors", rows, [f"K = {K}; peak: of the whole process so far"], record=options.record)


def small_case(features: np.ndarray) -> list[dict[str, object]]:
    found = {}
    for method in ("exact", "screened", "ivf"):
        began = time.perf_counter()
        found[method] = (mine_neighbors(features, K, method=method), time.perf_counter() - began, peak_gb())
    exact, slow, _ = found["exact"]
    return [
        line(features, method, seconds, slow, share_of_same(neighbors.ids, exact.ids), peak)
        for method, (neighbors, seconds, peak) in found.items()
    ]


def large_case(features: np.ndarray) -> list[dict[str, object]]:
    queries = np.sort(np.random.default_rng(0).choice(len(features), 4096, replace=False))
    rows = []
    slow = 0.0
    for method in ("exact", "screened"):
        search = make_search(method, features, K, recall=1.0)
        began = time.perf_counter()
        for block in np.split(queries, 4):
            nearest_others(search, block, K)
        scaled = (time.perf_counter() - began) * len(features) / len(queries)
        slow = slow or scaled
        rows.append(line(features, f"{method} (scaled from 4096)", scaled, slow, None, peak_gb()))
        del search
    began = time.perf_counter()
    neighbors = mine_neighbors(features, K, method="ivf")
    seconds = time.perf_counter() - began
    settings = neighbors.settings
    name = f"ivf ({settings['index']}, {settings['n_probe']} probes)"
    return [*rows, line(features, name, seconds, slow, settings["recall"], peak_gb())]


def line(
    features: np.ndarray, method: str, seconds: float, slow: float, recall: float | None, peak: float
) -> dict[str, object]:
    return {
        "N × D": f"{features.shape[0]:,} × {features.shape[1]}",
        "method": method,
        "seconds": seconds,
        "exact / this": slow / seconds,
        f"recall@{K}": recall,
        "peak GB": peak,
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
