"""The Hungarian map and AMI at the size of ImageNet-21K's validation split, by every library at hand.

python benchmarks/hungarian.py            10 450 classes × 10 450 clusters, 522 500 samples
python benchmarks/hungarian.py --quick    1000 × 1000, 50 000 samples

`related`: a quarter of the samples of a class are in its own cluster, half in those of ten related classes, the others
anywhere, about the accuracy that the paper reports there. `random` and `unequal`: clusters that know nothing of the
classes, of equal and of very different sizes, for the map alone. Every contender runs in a process of its own on one
thread, starts from labels and clusters, and is stopped after a time limit.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"whole": (10_450, 522_500), "quick": (1000, 50_000)}
LIMIT_S = 25
CLUSTERS = ("related", "random", "unequal")


def planted(n_classes: int, n_samples: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels as balanced as a validation split, and clusters of a kind."""
    rng = np.random.default_rng(0)
    labels = np.arange(n_samples) % n_classes
    if kind == "random":
        return labels, rng.integers(n_classes, size=n_samples)
    if kind == "unequal":
        return labels, rng.zipf(1.3, n_samples) % n_classes
    related = (labels // 10 * 10 + rng.integers(10, size=n_samples)) % n_classes
    anywhere = rng.integers(n_classes, size=n_samples)
    place = rng.random(n_samples)
    renamed = rng.permutation(n_classes)
    return labels, renamed[np.where(place < 0.25, labels, np.where(place < 0.75, related, anywhere))]


def dense_table(labels: np.ndarray, clusters: np.ndarray, dtype: type) -> np.ndarray:
    size = int(max(labels.max(), clusters.max())) + 1
    return np.bincount(labels * size + clusters, minlength=size * size).reshape(size, size).astype(dtype)


def ours_map(labels: np.ndarray, clusters: np.ndarray) -> float:
    from deepclust.metrics import cluster_accuracy

    return cluster_accuracy(labels, clusters)


def scipy_dense(labels: np.ndarray, clusters: np.ndarray) -> float:
    from scipy.optimize import linear_sum_assignment

    table = dense_table(labels, clusters, np.float64)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(labels))


def lapx_dense(labels: np.ndarray, clusters: np.ndarray) -> float:
    import lap

    table = dense_table(labels, clusters, np.float64)
    found = lap.lapjv(table.max() - table, return_cost=False)
    return float(table[np.arange(len(table)), found[0]].sum() / len(labels))


def lapx_sparse(labels: np.ndarray, clusters: np.ndarray) -> float:
    """lapmod wants a perfect matching to exist: pairs that share no sample are missing, the diagonal is added."""
    import lap
    from scipy import sparse

    size = int(max(labels.max(), clusters.max())) + 1
    counts = sparse.coo_array((np.ones(len(labels)), (labels, clusters)), shape=(size, size)).tocsr()
    worst = counts.max() + 1
    edges = (counts + 1e-9 * sparse.eye_array(size, format="csr")).tocsr()
    edges.sort_indices()
    _, partner, _ = lap.lapmod(size, worst - edges.data, edges.indptr.astype(np.int32), edges.indices.astype(np.int32))
    return float(counts[np.arange(size), partner].sum() / len(labels))


def torchmetrics_map(labels: np.ndarray, clusters: np.ndarray) -> float:
    import torch
    from torchmetrics.functional.clustering import cluster_accuracy

    n_classes = int(max(labels.max(), clusters.max())) + 1
    return float(cluster_accuracy(torch.from_numpy(clusters), torch.from_numpy(labels), num_classes=n_classes))


def ours_ami(labels: np.ndarray, clusters: np.ndarray) -> float:
    from deepclust.metrics import ami

    return ami(labels, clusters)


def sklearn_ami(labels: np.ndarray, clusters: np.ndarray) -> float:
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(labels, clusters))


def torchmetrics_ami(labels: np.ndarray, clusters: np.ndarray) -> float:
    import torch
    from torchmetrics.functional.clustering import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(torch.from_numpy(clusters), torch.from_numpy(labels)))


CONTENDERS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], float]]] = {
    "deepclust (scipy, sparse)": ("Hungarian map", ours_map),
    "scipy linear_sum_assignment": ("Hungarian map", scipy_dense),
    "lapx lapjv": ("Hungarian map", lapx_dense),
    "lapx lapmod (sparse)": ("Hungarian map", lapx_sparse),
    "torchmetrics cluster_accuracy": ("Hungarian map", torchmetrics_map),
    "deepclust ami": ("AMI", ours_ami),
    "scikit-learn AMI": ("AMI", sklearn_ami),
    "torchmetrics AMI": ("AMI", torchmetrics_ami),
}


def measure(name: str, size: str, kind: str) -> None:
    """Run one contender in this process and print what came out; a small call first pays for its imports."""
    contender = CONTENDERS[name][1]
    contender(*planted(10, 200, "related"))
    labels, clusters = planted(*SIZES[size], kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    value = contender(labels, clusters)
    seconds = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": seconds, "value": value, "GB": grown / 2**20}))


def compared(name: str, size: str, kind: str) -> dict[str, Any]:
    row: dict[str, Any] = {"task": CONTENDERS[name][0], "clusters": kind, "by": name}
    row |= {"s": None, "GB": None, "value": None, "note": ""}
    root = Path(__file__).resolve().parents[1]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--contender", name, "--size", size, "--clusters", kind],
            env={**os.environ, **threads, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return {**row, "note": f"stopped after {LIMIT_S} s, start-up included"}
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"killed, exit status {done.returncode}"]
        return {**row, "note": last[0].split(". ")[0]}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {**row, "s": round(found["seconds"], 3), "GB": round(found["GB"], 3), "value": round(found["value"], 6)}


def main() -> None:
    # Imported here: the contenders' own processes need neither torch nor the package.
    from tables import arguments, report

    parser = arguments(__doc__)
    parser.add_argument("--contender", choices=CONTENDERS, help="measure only this one, in this process")
    parser.add_argument("--size", choices=SIZES, help="with --contender")
    parser.add_argument("--clusters", choices=CLUSTERS, default="related", help="with --contender")
    options = parser.parse_args()
    if options.contender:
        measure(options.contender, options.size or "whole", options.clusters)
        return
    size = "quick" if options.quick else "whole"
    rows = [
        compared(name, size, kind)
        for kind in CLUSTERS
        for name, (task, _) in CONTENDERS.items()
        if kind == "related" or task == "Hungarian map"
    ]
    n_classes, n_samples = SIZES[size]
    note = f"{n_classes} classes × {n_classes} clusters, {n_samples} samples, one thread, one run each"
    report("hungarian", rows, [note], record=options.record)


if __name__ == "__main__":
    main()
