"""Spherical k-means against scikit-learn's KMeans and MiniBatchKMeans: seconds and inertia.

    python benchmarks/kmeans.py [--quick] [--record] [--features PATH]

On L2-normalized features, where squared distance and cosine rank alike. One start each (n_init = 1), k-means++ seeds,
at most 100 iterations, each implementation's own default tolerance, scikit-learn on float32 of length 1 made
beforehand. Inertia is measured by one function for all: the sum of squared distances to each sample's cluster mean.
60 000 × 1280 and C = 10, 100, 1000; `--quick`: 20 000 rows and C = 10, 100.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from tables import REAL_FEATURES, arguments, report

from deepclust.spherical_kmeans import spherical_kmeans

MAX_ITER = 100


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--features", type=Path, default=REAL_FEATURES / "train_features.npy")
    options = parser.parse_args()
    rows_ND, source = load(options.features)
    if options.quick:
        rows_ND = rows_ND[:20_000]
    unit_ND = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    rows: list[dict[str, Any]] = []
    for n_clusters in (10, 100) if options.quick else (10, 100, 1000):
        rows += compared(unit_ND, n_clusters)
        print(*rows[-4:], sep="\n", flush=True)
    notes = [f"{unit_ND.shape[0]} × {unit_ND.shape[1]}, {source}; n_init = 1, one run each, ratios of the same C"]
    report("kmeans", rows, notes, record=options.record)


def load(path: Path) -> tuple[np.ndarray, str]:
    """Float32 rows, and what they are: synthetic ones of the same shape where the file is not there."""
    if path.is_file():
        return np.load(path).astype(np.float32), f"features from {path.parent.name}"
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((200, 1280)).astype(np.float32)
    labels = rng.integers(200, size=60_000)
    return directions[labels] + 1.5 * rng.standard_normal((60_000, 1280), dtype=np.float32), "synthetic, 200 directions"


def compared(unit_ND: np.ndarray, n_clusters: int) -> list[dict[str, Any]]:
    def ours(precision: str) -> np.ndarray:
        return spherical_kmeans(unit_ND, n_clusters, n_init=1, max_iter=MAX_ITER, precision=precision).labels_N

    def theirs(kind: type) -> np.ndarray:
        return kind(n_clusters, n_init=1, max_iter=MAX_ITER, random_state=0).fit_predict(unit_ND)

    methods = {
        "deepclust": lambda: ours("auto"),
        "deepclust, float32": lambda: ours("float32"),
        "MiniBatchKMeans": lambda: theirs(MiniBatchKMeans),
        "KMeans": lambda: theirs(KMeans),
    }
    rows = []
    for name, method in methods.items():
        started = time.perf_counter()
        labels_N = method()
        seconds = time.perf_counter() - started
        rows.append({"method": name, "C": n_clusters, "s": seconds, "inertia": inertia(unit_ND, labels_N)})
    slowest = rows[-1]
    for row in rows:
        row["times faster than KMeans"] = slowest["s"] / row["s"]
        row["inertia / KMeans'"] = row["inertia"] / slowest["inertia"]
    return rows


def inertia(unit_ND: np.ndarray, labels_N: np.ndarray) -> float:
    """Σ ‖x − mean of its cluster‖², in blocks."""
    sums_CD = np.zeros((labels_N.max() + 1, unit_ND.shape[1]))
    for low in range(0, len(unit_ND), 10_000):
        np.add.at(sums_CD, labels_N[low : low + 10_000], unit_ND[low : low + 10_000])
    counts_C = np.bincount(labels_N)
    used = counts_C > 0
    return float(len(unit_ND) - (np.square(sums_CD[used]).sum(axis=1) / counts_C[used]).sum())


if __name__ == "__main__":
    main()
