"""Training from a memory-mapped file against training from memory: speed and resident memory.

    python benchmarks/out_of_core.py [--quick] [--record] [--rows N] [--dim D]

Synthetic float16 features with cluster structure and neighbors of the same cluster are written to a temporary folder
(1 M × 1024, 2 GB; `--quick`: 200 000 × 512). The same two epochs' worth of steps are timed in processes of their own:

- held: `in_memory=True`, as long as it fits;
- staged: `in_memory=False`, under a limit of 1.5 GB: once its libraries are loaded, the process may
  take no more private memory (`setrlimit(RLIMIT_DATA)`) than leads from what is resident then to the limit;
- staged, cold: the same, the file's page cache dropped before, so that every row comes from the disk.

The runs take turns and the fastest round of each counts, as other processes only ever slow one down. Peak memory is
the largest RssAnon seen: what a process holds itself, page cache not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import tables
import torch

from deepclust.features.feature_files import load_features
from deepclust.features.shards import write_shard, write_split
from deepclust.neighbors import Neighbors
from deepclust.training.fit import fit_heads
from deepclust.training.recipe import Recipe
from deepclust.training.trainer_settings import TrainerSettings

N_CLUSTERS, N_HEADS, BATCH, N_NEIGHBORS = 100, 8, 512, 20
WARM_UP_STEPS = 10


def write_set(folder: Path, n_rows: int, dim: int) -> None:
    """Shards of 100 000 rows around 100 directions, in random order, and 20 neighbors of each within its cluster."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((N_CLUSTERS, dim)).astype(np.float32)
    labels = rng.integers(N_CLUSTERS, size=n_rows)
    noise = rng.standard_normal((4096, dim)).astype(np.float32)
    shards = []
    for index, start in enumerate(range(0, n_rows, 100_000)):
        part = labels[start : start + 100_000]
        rows = np.empty((len(part), dim), np.float16)
        for low in range(0, len(part), 10_000):
            block = slice(low, low + 10_000)
            rows[block] = directions[part[block]] + noise[rng.integers(4096, size=len(part[block]))]
        shards.append(write_shard(folder, index, rows))
    write_split(folder, shards, labels, None, None, {})
    ids_NK = np.empty((n_rows, N_NEIGHBORS), np.int32)
    for cluster in range(N_CLUSTERS):
        members = np.flatnonzero(labels == cluster)
        ids_NK[members] = members[rng.integers(len(members), size=(len(members), N_NEIGHBORS))]
    np.save(folder / "neighbors.npy", ids_NK)


def drop_page_cache(folder: Path) -> None:
    for path in folder.glob("*.npy"):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def status_bytes(row: str) -> int:
    """`RssAnon`: private memory in use; `VmData`: private memory mapped, untouched parts of libraries included."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(row))
    return int(line.split()[1]) * 1024


def allow_private_memory(limit: int) -> None:
    most = status_bytes("VmData") + limit - status_bytes("RssAnon")
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


class PeakMemory(threading.Thread):
    """Samples RssAnon every 20 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, status_bytes("RssAnon"))
            time.sleep(0.02)


class StepClock(pl.Callback):
    """Seconds per step once the first ones are over; stops the training after so many."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.marks: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.marks.append(time.perf_counter())
        if len(self.marks) == self.steps + WARM_UP_STEPS:
            trainer.should_stop = True
            raise _Done


class _Done(Exception):
    pass


def measure(folder: Path, in_memory: bool, steps: int, limit: int | None) -> dict[str, Any]:
    """One training in this process; what is reported is the steady state, the start apart."""
    if limit is not None:
        allow_private_memory(limit)
    memory = PeakMemory()
    memory.start()
    features = load_features(folder)
    ids_NK = np.load(folder / "neighbors.npy", mmap_mode="r")
    # Nobody reads the similarities here: one number seen N × K times takes no memory.
    neighbors = Neighbors(ids_NK, np.broadcast_to(np.float32(1), ids_NK.shape), {})
    recipe = Recipe.of(
        "temi",
        n_clusters=N_CLUSTERS,
        n_heads=N_HEADS,
        batch_size=BATCH,
        n_neighbors=N_NEIGHBORS,
        init="random",
        max_epochs=2,
    )  # fmt: skip
    clock = StepClock(steps)
    started = time.perf_counter()
    with contextlib.suppress(_Done):
        fit_heads(
            features,
            recipe,
            neighbors=neighbors,
            callbacks=[clock],
            in_memory=in_memory,
            trainer=TrainerSettings("cpu"),
        )
    marks = clock.marks[WARM_UP_STEPS - 1 :]
    return {
        "samples_per_second": BATCH * (len(marks) - 1) / (marks[-1] - marks[0]),
        "start_seconds": clock.marks[0] - started,
        "peak_bytes": memory.peak,
    }


def in_own_process(folder: Path, in_memory: bool, steps: int, limit: int | None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(folder), "--steps", str(steps)]
    command += ["--held"] if in_memory else []
    command += ["--limit", str(limit)] if limit is not None else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = tables.arguments(__doc__)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--dim", type=int)
    parser.add_argument("--steps", type=int, help="timed steps of each run")
    parser.add_argument("--rounds", type=int, help="how often the runs take turns")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--held", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(measure(arguments.child, arguments.held, arguments.steps, arguments.limit)))
        return
    n_rows = arguments.rows or (200_000 if arguments.quick else 1_000_000)
    dim = arguments.dim or (512 if arguments.quick else 1024)
    steps = arguments.steps or (60 if arguments.quick else 400)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    limit = 1_500_000_000
    kinds = {"held": (True, None), "staged": (False, limit), "staged, cold": (False, limit)}
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_set(folder, n_rows, dim)
        for _ in range(rounds):
            for kind, (in_memory, data_limit) in kinds.items():
                if kind == "staged, cold":
                    drop_page_cache(folder)
                runs[kind].append(in_own_process(folder, in_memory, steps, data_limit))
                print(kind, runs[kind][-1], file=sys.stderr)
    report(runs, n_rows, dim, steps, rounds, limit, arguments.record)


def report(
    runs: dict[str, list[dict[str, Any]]], n_rows: int, dim: int, steps: int, rounds: int, limit: int, record: bool
) -> None:
    """The fastest round of each, and its speed relative to the run that holds everything."""
    fastest = {kind: max(found, key=lambda run: run["samples_per_second"]) for kind, found in runs.items()}
    size = n_rows * dim * 2
    print(
        f"TEMI, C = {N_CLUSTERS}, H = {N_HEADS}, B = {BATCH} on {n_rows} × {dim} float16 ({size / 1e9:.2f} GB), "
        f"{torch.get_num_threads()} threads; {steps} steps, the fastest of {rounds} rounds; "
        f"staged with at most {limit / 1e9:.1f} GB of private memory\n"
    )
    print("| features | samples/s | of held | peak RssAnon | start |\n|---|---|---|---|---|")
    base = fastest["held"]["samples_per_second"]
    for kind, run in fastest.items():
        speed = run["samples_per_second"]
        peak = max(other["peak_bytes"] for other in runs[kind])
        print(f"| {kind} | {speed:.0f} | {speed / base:.2f} | {peak / 1e9:.2f} GB | {run['start_seconds']:.1f} s |")
    rows = [{"features": kind, **run} for kind, found in runs.items() for run in found]
    notes = [f"{n_rows} × {dim}, {steps} steps; staged under a limit of {limit} bytes"]
    tables.write_rows("out_of_core", rows, notes, record=record)


if __name__ == "__main__":
    main()
