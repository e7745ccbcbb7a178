"""The exact silhouette against scikit-learn's: 10 and 20 thousand samples, and 100 thousand by ours alone.

    python benchmarks/silhouette.py [--quick] [--record]

Squared Euclidean and cosine silhouettes follow from sums over each cluster, O(N·C·D); the Euclidean one takes all
pairs, block by block. Every size is drawn anew from 1000 Gaussians in 50 dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import make_blobs
from sklearn.metrics import silhouette_score
from tables import arguments, report

from deepclust.metrics import silhouette

DIM, CLUSTERS = 50, 1000
METRICS = ("sqeuclidean", "cosine", "euclidean")
SIZES, OURS_ALONE = (10_000, 20_000), 100_000


def ours(features_ND: np.ndarray, labels_N: np.ndarray, metric: str) -> float | None:
    return silhouette(features_ND, labels_N, metric=metric).value


def scikit_learns(features_ND: np.ndarray, labels_N: np.ndarray, metric: str) -> float:
    return float(silhouette_score(features_ND, labels_N, metric=metric))


CONTENDERS: dict[str, Callable[[np.ndarray, np.ndarray, str], float | None]] = {
    "scikit-learn": scikit_learns,
    "deepclust": ours,
}


def main() -> None:
    options = arguments(__doc__).parse_args()
    rows: list[dict[str, Any]] = []
    for n_samples in SIZES[:1] if options.quick else (*SIZES, OURS_ALONE):
        features_ND, labels_N = make_blobs(n_samples, DIM, centers=CLUSTERS, cluster_std=3.0, random_state=0)
        features_ND = features_ND.astype(np.float32)
        for metric in METRICS:
            seconds: dict[str, float] = {}
            for name, contender in CONTENDERS.items():
                if n_samples == OURS_ALONE and contender is not ours:
                    continue
                started = time.perf_counter()
                value = contender(features_ND, labels_N, metric)
                seconds[name] = time.perf_counter() - started
                faster = seconds["scikit-learn"] / seconds[name] if "scikit-learn" in seconds else None
                row = {"by": name, "metric": metric, "N": n_samples, "s": seconds[name], "value": value}
                rows.append({**row, "times faster": faster})
    report("silhouette", rows, [f"synthetic N × {DIM}, {CLUSTERS} clusters, one run each"], record=options.record)


if __name__ == "__main__":
    main()
