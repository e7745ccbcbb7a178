"""Agglomerative clustering against scikit-learn: seconds and peak memory.

    python benchmarks/agglomerative.py [--quick] [--record] [--large N]

Ward and average linkage of synthetic N × 50 features, cut into 100 clusters: 5 000, 10 000 and 20 000 samples, and ward
alone by fastcluster's way that needs memory for the features only, which deepclust takes above 20 000. `--quick`: 2 500
and 5 000 samples. `--large 100000`: ward by deepclust alone, the size of the paper's largest set. Each case
runs in a process of its own, on as many cores as there are; peak memory is what the
process took beyond what it held before the fit. ARI is against scikit-learn's clusters of the same case.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tables import arguments, report

DIM = 50
N_CLUSTERS = 100
CASES = (
    ("scikit-learn", "ward"),
    ("deepclust", "ward"),
    ("deepclust, O(N·D)", "ward"),
    ("scikit-learn", "average"),
    ("deepclust", "average"),
)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--large", type=int, metavar="N", help="ward by deepclust alone on so many samples")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measured(*options.case[:2], int(options.case[2]), Path(options.case[3]))))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        if options.large:
            rows.append(in_process_of_its_own("deepclust", "ward", options.large, Path(folder)))
            del rows[0]["labels"]
            report("agglomerative_large", rows, [f"synthetic N × {DIM}, one run"], record=options.record)
            return
        for n_samples in (2_500, 5_000) if options.quick else (5_000, 10_000, 20_000):
            for implementation, linkage in CASES:
                rows.append(in_process_of_its_own(implementation, linkage, n_samples, Path(folder)))
                print({key: value for key, value in rows[-1].items() if key != "labels"}, flush=True)
    compare(rows)
    report("agglomerative", rows, [f"synthetic N × {DIM}, cut into {N_CLUSTERS}; one run each"], record=options.record)


def in_process_of_its_own(implementation: str, linkage: str, n_samples: int, folder: Path) -> dict[str, Any]:
    labels = folder / f"{implementation.replace(' ', '_')}-{linkage}-{n_samples}.npy"
    command = [sys.executable, __file__, "--case", implementation, linkage, str(n_samples), str(labels)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1]) | {"labels": np.load(labels)}


def measured(implementation: str, linkage: str, n_samples: int, labels: Path) -> dict[str, Any]:
    """Fit one case in this process."""
    import fastcluster
    from sklearn.cluster import AgglomerativeClustering

    from deepclust.clusterers.dendrogram import Dendrogram, build_dendrogram

    rng = np.random.default_rng(0)
    centers = 2 * rng.standard_normal((200, DIM))
    rows_ND = centers[rng.integers(200, size=n_samples)] + rng.standard_normal((n_samples, DIM))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if implementation == "scikit-learn":
        labels_N = AgglomerativeClustering(N_CLUSTERS, linkage=linkage).fit_predict(rows_ND)
    elif implementation == "deepclust":
        labels_N = build_dendrogram(rows_ND, linkage).cut(N_CLUSTERS)
    else:
        labels_N = Dendrogram(fastcluster.linkage_vector(rows_ND, linkage), linkage, "euclidean").cut(N_CLUSTERS)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    np.save(labels, labels_N)
    return {
        "implementation": implementation,
        "linkage": linkage,
        "N": n_samples,
        "s": seconds,
        "peak MB": peak / 1024,
    }


def compare(rows: list[dict[str, Any]]) -> None:
    """Ratios to scikit-learn, and the agreement with it."""
    from sklearn.metrics import adjusted_rand_score

    theirs = {(row["linkage"], row["N"]): row for row in rows if row["implementation"] == "scikit-learn"}
    labels = {key: row["labels"] for key, row in theirs.items()}
    for row in rows:
        base = theirs[row["linkage"], row["N"]]
        row["times faster"] = base["s"] / row["s"]
        row["memory / scikit-learn's"] = row["peak MB"] / base["peak MB"]
        row["ARI"] = adjusted_rand_score(labels[row["linkage"], row["N"]], row.pop("labels"))


if __name__ == "__main__":
    main()
