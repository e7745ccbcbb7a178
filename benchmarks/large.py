"""The whole pipeline at a large number of rows: where the time goes, what comes out, how much memory it takes.

    python benchmarks/large.py [--quick] [--record] [--rows N] [--dim D] [--clusters C] [--set SETTING=VALUE …]

Synthetic float16 features of unequal classes below parents of their own (1 M × 256 of 1000 classes; `--quick`: 20 000 ×
64 of 100) are written to a temporary folder. `deepclust train data=features n_clusters=C baselines=kmeans` runs on them
in a process of its own, from mining to results.json, with its defaults and what `--set` changes. Seconds of a stage
are those between its begin and its end; CPU seconds, of all threads together, hardly know of other jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tables import arguments, report

BLOCK_ROWS = 1 << 16


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, metavar="N")
    parser.add_argument("--dim", type=int, metavar="D")
    parser.add_argument("--clusters", type=int, metavar="C")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="of `deepclust train`")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train_and_tell(Path(options.child[0]), options.child[1:])
        return
    usual = (20_000, 64, 100) if options.quick else (1_000_000, 256, 1000)
    asked = (options.rows, options.dim, options.clusters)
    n_rows, dim, n_clusters = (usual[place] if given is None else given for place, given in enumerate(asked))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_features(folder, n_rows, dim, n_clusters)
        settings = ["data=features", f"data.train={folder / 'X.npy'}", f"data.train_labels={folder / 'y.npy'}"]
        settings += [f"n_clusters={n_clusters}", "baselines=kmeans", "silhouette=false", f"run_dir={folder / 'run'}"]
        command = [sys.executable, __file__, "--child", str(folder / "told.json"), *settings, *options.set]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        told = json.loads((folder / "told.json").read_text())
        results = json.loads((folder / "run" / "results.json").read_text())
    rows: list[dict[str, Any]] = [
        {"stage": name, "seconds": wall, "CPU seconds": cpu, "share": wall / seconds}
        for name, wall, cpu in told["stages"]
    ]
    rows.append({"stage": "all", "seconds": seconds, "CPU seconds": told["cpu_seconds"], "share": 1.0})
    size = f"{n_rows:,} × {dim} float16, {n_clusters} classes, {len(os.sched_getaffinity(0))} cores"
    changed = f"; changed: {' '.join(options.set)}" if options.set else ""
    report("large", rows, [f"{size}{changed}; peak {told['peak_gb']:.2f} GB"], record=options.record)
    scores = [{key: row[key] for key in ("method", "seconds", "acc", "ami", "n_found")} for row in results]
    report("large_scores", scores, [size + changed], record=options.record)


def train_and_tell(path: Path, settings: list[str]) -> None:
    """`deepclust train` with the seconds of its stages and its peak memory written down."""
    from deepclust.cli import train
    from deepclust.runtime.progress import Stage

    stages: list[tuple[str, float, float]] = []
    entered: dict[int, tuple[float, float]] = {}
    enter, leave = Stage.__enter__, Stage.__exit__

    def timed_enter(stage: Stage) -> Stage:
        entered[id(stage)] = time.perf_counter(), time.process_time()
        return enter(stage)

    def timed_leave(stage: Stage, *error: Any) -> None:
        if stage.enabled:  # of one inside another the outer one counts
            wall, cpu = entered[id(stage)]
            stages.append((stage.description, time.perf_counter() - wall, time.process_time() - cpu))
        leave(stage, *error)

    Stage.__enter__, Stage.__exit__ = timed_enter, timed_leave  # type: ignore[method-assign]
    sys.argv = ["train", *settings]
    train.main()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    path.write_text(json.dumps({"stages": stages, "peak_gb": peak, "cpu_seconds": time.process_time()}))


def write_features(folder: Path, n_rows: int, dim: int, n_clusters: int) -> None:
    labels, blocks = long_tailed(n_rows, dim, n_clusters)
    rows = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float16, (n_rows, dim))
    for low, block in blocks:
        rows[low : low + len(block)] = block
    rows.flush()
    np.save(folder / "y.npy", labels)


def long_tailed(
    n_rows: int, dim: int, n_clusters: int, seed: int = 0
) -> tuple[np.ndarray, Iterator[tuple[int, np.ndarray]]]:
    """Labels, and blocks of rows around class means, which lie around the means of C / 20 parents. At 1000 classes the
    largest is 40 times as frequent as the smallest; some are more than twice as wide as others."""
    rng = np.random.default_rng(seed)
    parents = rng.standard_normal((max(10, n_clusters // 20), dim), dtype=np.float32)
    below = rng.integers(0, len(parents), n_clusters)
    means = parents[below] + 0.7 * rng.standard_normal((n_clusters, dim), dtype=np.float32)
    shares = 1 / (np.arange(n_clusters) + 5.0) ** 0.7
    labels = rng.choice(n_clusters, n_rows, p=shares / shares.sum())
    # So wide that classes of one parent overlap in any number of dimensions.
    widths = (0.15 * dim**0.5 * rng.uniform(0.5, 1.3, n_clusters)).astype(np.float32)

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for low in range(0, n_rows, BLOCK_ROWS):
            own = labels[low : low + BLOCK_ROWS]
            yield low, means[own] + widths[own, None] * rng.standard_normal((len(own), dim), dtype=np.float32)

    return labels, blocks()


if __name__ == "__main__":
    main()
