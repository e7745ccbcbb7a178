"""The leaderboard: label sets × methods × seeds, by AMI, ACC, ARI, seconds and peak memory.

    python benchmarks/leaderboard.py [--quick] [--record] [--sets wine,letter] [--methods tsp,ward] [--seeds 0,1,2]

Every cell runs in a process of its own, on one thread unless `--threads` says otherwise, within `--limit` seconds of
CPU time of each thread, which other work on the machine does not shorten. It leaves one JSON line in
`benchmarks/latest/leaderboard.jsonl` (`--record`: `benchmarks/results/`, which is tracked, and docs/leaderboard.md with
its figure is written from it). A killed run goes on where it stopped: cells that are there are not run again unless
`--again` is given, those that failed, whose line says why, unless `--retry` is. What sets and methods need is in
leaderboard_sets.py and leaderboard_methods.py; what is missing is skipped with one line.

Rows are of four groups: C given (`--factors 1`), half, twice and four times as many clusters as classes (0.5, 2, 4),
methods that are not told C, and, as a table of their own, sets of unequal classes. `--page` runs nothing and writes the
page.

`--quick`: four small sets, five methods, one seed: less than a minute.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import warnings
from argparse import ArgumentTypeError
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from leaderboard_methods import METHODS, Method, Task
from leaderboard_page import FIGURE, PAGE, Cell, factor_of, newest, print_summary, read_cells, write_page
from leaderboard_sets import SETS, MissingPackageError, load_set
from tables import LATEST, RECORDED, arguments

from deepclust.features.idx import data_root
from deepclust.runtime.errors import one_line_errors

FACTORS = (1.0, 0.5, 2.0, 4.0)
SEEDS = (0, 1, 2)
QUICK_SETS = ("wine", "breast_cancer", "digits", "vowel")
QUICK_METHODS = ("spherical_kmeans", "kmeans", "ward", "mixture", "leiden")
LIMIT_SECONDS = 900
# A process that waits for something that never comes uses no CPU time.
WALL_LIMITS = 10
# Cells are forked from a process that has imported what takes seconds, and has run nothing.
PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = {"deepclust.metrics", "deepclust.report.figures", "deepclust.report.tables"}
# Importing these starts numba's threads, and numba ends a process that is forked from one that has them.
NUMBA = {"umap", "evoc"}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def main() -> None:
    options = read_options()
    cells_file = (RECORDED if options.record or options.page else LATEST) / "leaderboard.jsonl"
    if not options.page:
        run(options, cells_file)
    cells = newest(read_cells(cells_file))
    titles = {name: method.title for name, method in METHODS.items()}
    print_summary(cells, titles)
    if options.record or options.page:
        write_page(cells, titles, {name: method.about for name, method in METHODS.items()}, SETS)
        print(f"written: {PAGE.name}, {FIGURE.name}.png", flush=True)


def read_options() -> Any:
    parser = arguments(__doc__)
    parser.add_argument("--sets", type=_names(SETS), help="with commas between them; default: all")
    parser.add_argument("--methods", type=_names(METHODS), help="likewise")
    parser.add_argument("--seeds", type=_numbers(int, 0), help="0 and up, default: 0,1,2")
    parser.add_argument("--factors", type=_numbers(float, 0.01), help="clusters per class; default: 1,0.5,2,4")
    parser.add_argument(
        "--limit", type=float, default=LIMIT_SECONDS, help="seconds of CPU time a cell may take; default: 900"
    )
    parser.add_argument("--threads", type=int, default=1, help="of each cell; default: 1")
    parser.add_argument("--folder", type=Path, help="where prepared sets are kept; default: deepclust's data folder")
    parser.add_argument("--again", action="store_true", help="run cells that are there already")
    parser.add_argument("--retry", action="store_true", help="run cells that failed again")
    parser.add_argument("--page", action="store_true", help="run nothing, write docs/leaderboard.md")
    options = parser.parse_args()
    options.sets = options.sets or (QUICK_SETS if options.quick else tuple(SETS))
    options.methods = options.methods or (QUICK_METHODS if options.quick else tuple(METHODS))
    options.seeds = options.seeds or (SEEDS[:1] if options.quick else SEEDS)
    options.factors = options.factors or (FACTORS[:1] if options.quick else FACTORS)
    options.folder = options.folder or data_root() / "leaderboard"
    return options


def _names(known: Any) -> Any:
    def names(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if unknown := [name for name in chosen if name not in known]:
            raise ArgumentTypeError(f"nothing is called '{unknown[0]}': choose from {', '.join(known)}")
        return chosen

    return names


def _numbers(kind: type, at_least: float) -> Any:
    def numbers(text: str) -> tuple[Any, ...]:
        try:
            found = tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise ArgumentTypeError(f"'{text}' is no list of numbers: write them with commas between them") from None
        if not all(at_least <= number < 2**31 for number in found):
            raise ArgumentTypeError(f"'{text}' holds a number below {at_least:g} or above 2^31: choose others")
        return found

    return numbers


def run(options: Any, cells_file: Path) -> None:
    """Every cell that is not there yet, small sets first, C given first."""
    # As libraries read them when they are first imported, which is in the process that the cells' are forked from.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(options.threads)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the cell ends with it
    PROCESSES.set_forkserver_preload(
        sorted({one for name in options.methods for one in METHODS[name].modules} - NUMBA | PRELOADED)
    )
    sizes = prepared(options.sets, options.folder)
    methods = [name for name in options.methods if installed(name)]
    done = {} if options.again else {cell["key"]: cell for cell in newest(read_cells(cells_file))}
    wanted = [
        (name, method, factor, seed)
        for factor in options.factors
        for name in sorted(sizes, key=lambda one: sizes[one][0])
        for method in methods
        for seed in options.seeds
        if is_cell(METHODS[method], factor, seed, options) and round(factor * sizes[name][1]) >= 2
    ]
    for number, (name, method, factor, seed) in enumerate(wanted, 1):
        n_samples, n_classes = sizes[name]
        cell = description(name, method, factor if METHODS[method].told else None, seed, n_samples, n_classes)
        if is_done(done.get(cell["key"]), cell, options.retry):
            continue
        cell |= outcome(cell, options)
        append(cells_file, cell)
        shown = f"AMI {cell['AMI']:.3f}, {cell['cpu_seconds']:.1f} s of CPU time" if "AMI" in cell else told_why(cell)
        row = f"{name}, {METHODS[method].title}, C {factor_of(cell['factor'])}, seed {cell['seed']}"
        print(f"{number}/{len(wanted)} {row}: {shown}", flush=True)


def told_why(cell: Cell) -> str:
    """Why a cell has no scores."""
    return cell.get("error") or f"not tried, {cell['skipped']}"


def prepared(names: Sequence[str], folder: Path) -> dict[str, tuple[int, int]]:
    """Samples and classes of every set that can be had here."""
    sizes = {}
    for name in names:
        try:
            _, labels_N = load_set(name, folder)
        except MissingPackageError as error:
            print(f"{name} is skipped: {error}", flush=True)
            continue
        sizes[name] = (len(labels_N), int(labels_N.max()) + 1)
    return sizes


def installed(method: str) -> bool:
    package = METHODS[method].package
    try:
        version(package)
    except PackageNotFoundError:
        print(f"{METHODS[method].title} is skipped: pip install {package}", flush=True)
        return False
    return True


def is_cell(method: Method, factor: float, seed: int, options: Any) -> bool:
    """Methods that are not told C have no factor, those without a seed no second one: the first stands for all."""
    return (method.told or factor == options.factors[0]) and (method.seeded or seed == options.seeds[0])


def description(
    name: str, method: str, factor: float | None, seed: int, n_samples: int, n_classes: int
) -> dict[str, Any]:
    """What identifies a cell, and what its result depends on."""
    seed = seed if METHODS[method].seeded else 0
    return {
        "key": f"{name}/{method}/{'not told' if factor is None else f'{factor:g}'}/{seed}",
        "set": name,
        "method": method,
        "factor": factor,
        "seed": seed,
        "n_samples": n_samples,
        "n_classes": n_classes,
        "n_clusters": None if factor is None else round(factor * n_classes),
        "about_set": SETS[name].about,
        "about_method": METHODS[method].about,
        "version": f"{METHODS[method].package} {version(METHODS[method].package)}",
    }


def is_done(kept: Cell | None, cell: Cell, retry: bool) -> bool:
    """Whether the file has this cell, of the same set and settings."""
    if kept is None or any(kept.get(part) != cell[part] for part in ("about_set", "about_method")):
        return False
    return "error" not in kept or not retry


def outcome(cell: Cell, options: Any) -> dict[str, Any]:
    """Scores, or why there are none."""
    refusal = METHODS[cell["method"]].refusal(cell["n_samples"], cell["n_clusters"])
    if refusal:
        return {"skipped": refusal}
    task = {part: cell[part] for part in ("set", "method", "n_clusters", "seed")} | {"folder": str(options.folder)}
    receiving, sending = PROCESSES.Pipe(duplex=False)
    child = PROCESSES.Process(target=sent, args=(sending, task, max(1, round(options.limit * options.threads))))
    started = time.perf_counter()
    child.start()
    sending.close()
    try:
        if not receiving.poll(WALL_LIMITS * options.limit):
            return {"error": f"not finished after {time.perf_counter() - started:.0f} s by the clock"}
        return receiving.recv() | {"threads": options.threads}
    except EOFError:
        child.join()
        code = child.exitcode or 0
        if code == -signal.SIGXCPU:
            return {"error": f"not finished after {options.limit:g} s of CPU time"}
        return {"error": f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"}
    finally:
        child.kill()
        child.join()


def sent(sending: Any, task: dict[str, Any], limit: int) -> None:
    """In a process of its own: run a cell and send what it found, or why it failed."""
    # Both end it even where what waits for it was killed.
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    signal.alarm(WALL_LIMITS * limit)
    warnings.simplefilter("ignore")
    try:
        found = measured(**task)
    except Exception as error:  # of any package
        found = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}
    with suppress(BrokenPipeError):  # nobody waits any more
        sending.send(found)


def append(cells_file: Path, cell: Cell) -> None:
    """One line in one write: of a run that is killed meanwhile the line is there or not."""
    cells_file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(cell, ensure_ascii=False) + "\n"
    with open(cells_file, "ab+") as stream:
        if stream.tell() and (stream.seek(-1, os.SEEK_END), stream.read(1))[1] != b"\n":
            line = "\n" + line  # what stands there was cut off by a full disk or a crash of the machine
        stream.write(line.encode())


def measured(set: str, method: str, n_clusters: int | None, seed: int, folder: str) -> dict[str, Any]:
    """Run one cell in this process."""
    from deepclust.metrics import ami, ari, cluster_accuracy

    features_ND, labels_N = load_set(set, folder)
    chosen = METHODS[method]
    for module in chosen.modules:
        importlib.import_module(module)
    task = Task(features_ND, SETS[set].metric, n_clusters, seed, Path(folder) / "shared", set)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, started_cpu = time.perf_counter(), time.process_time()
    found_N = np.asarray(chosen.fit(task))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "AMI": ami(labels_N, found_N),
        "ACC": cluster_accuracy(labels_N, found_N),
        "ARI": ari(labels_N, found_N),
        "found": len(np.unique(found_N[found_N >= 0])),
        "noise": float((found_N < 0).mean()),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds + task.shared_seconds,
        "peak_MB": peak / 1024,
    }


if __name__ == "__main__":
    with one_line_errors():
        main()
