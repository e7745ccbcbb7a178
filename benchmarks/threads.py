"""The consensus of few rows on one thread and on all: alone, and beside processes that keep every core busy.

    python benchmarks/threads.py [--quick] [--record] [--rows N …] [--features FOLDER]

Fashion-MNIST's first rows as EfficientNet-Lite0 sees them, 10 clusters; their neighbors are mined before. What
`consensus_of_rows` decides by the number of rows is decided for it here.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tables import REAL_FEATURES, arguments, report

from deepclust.neighbors import Neighbors, mine_neighbors
from deepclust.neighbors.consensus import consensus_of_rows
from deepclust.runtime import threads


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[820, 3000, 10_000, 16_000])
    parser.add_argument("--features", type=Path, default=REAL_FEATURES)
    options = parser.parse_args()
    features = np.load(options.features / "train_features.npy", mmap_mode="r")
    made = []
    for n_rows in options.rows[: 2 if options.quick else None]:
        rows = np.asarray(features[:n_rows], np.float32)
        neighbors = mine_neighbors(rows, 30)
        for beside, surroundings in (("nothing", contextlib.nullcontext), ("busy cores", busy_cores)):
            with surroundings():
                one, every = (seconds(rows, neighbors, most) for most in (n_rows, 0))
            times = {"one thread, s": one, "all, s": every, "all / one": every / one}
            made.append({"N": n_rows, "beside": beside, **times})
    report("threads", made, record=options.record)


def seconds(rows: np.ndarray, neighbors: Neighbors, most: int) -> float:
    threads.FEW_ROWS = most
    began = time.perf_counter()
    consensus_of_rows(rows, 10, neighbors=neighbors)
    return time.perf_counter() - began


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """As many processes as cores, each of which does nothing but count."""
    counting = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(counting) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
