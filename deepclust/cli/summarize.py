"""Finished runs side by side: mean ± standard deviation over seeds, or one metric over a setting that varied.

deepclust summarize runs/my_seeds            a folder of run folders, or any number of run folders
deepclust summarize runs/my_seeds --split test --markdown docs/table.md
deepclust summarize runs/sweep --by n_clusters --metric nmi --figure nmi_over_c
deepclust summarize runs/sweep --by encoder --difference temi scan --figure difference
deepclust summarize runs/sweep --by benchmark --separability --figure separability
deepclust summarize runs/paper --published    beside the papers' own figures of the same method, data and benchmark
deepclust summarize runs/rehearsal --benchmarks --figure docs/images/accuracy     benchmarks × methods, and figure 2
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from deepclust.cli.arguments import Arguments, path
from deepclust.clustering import display_name, method_order
from deepclust.metrics import ROW_KEYS
from deepclust.report.published import beside_published, comparison_cells
from deepclust.report.sweeps import Run, setting, sweep, sweep_cells
from deepclust.report.tables import (
    ABSENT,
    mean_std_markdown,
    mean_std_table,
    plain_markdown,
    plain_table,
    read_rows,
    report_console,
)
from deepclust.runs.folder import RunFolder
from deepclust.runs.identity import Identity, flat
from deepclust.runtime.errors import InputError, one_line_errors
from deepclust.runtime.files import read_json, written_whole

# Over these the mean is taken.
SEEDS = ("seed", "random_state", "reduction.seed")
SVG_TITLE = "Scores in percent, mean ± standard deviation over seeds"
MEASURE = "measure it again with deepclust evaluate"


def main() -> None:
    parser = Arguments("summarize", __doc__)
    parser.add_argument("folders", nargs="+", type=path)
    parser.add_argument("--split", help="only this split")
    parser.add_argument("--markdown", type=path, help="write the table to this file, too")
    parser.add_argument("--svg", type=path, help="draw the table into this file, too")
    parser.add_argument("--by", metavar="KEY", help="one metric over this key of config.yaml, a column per method")
    parser.add_argument("--metric", default="acc", help="with --by: acc, nmi, top1_to_L, ece, … (default: acc)")
    parser.add_argument("--difference", nargs=2, metavar="METHOD", help="with --by: draw the first minus the second")
    parser.add_argument("--separability", action="store_true", help="separability over linear-probe accuracy, with R²")
    parser.add_argument("--benchmarks", action="store_true", help="one row per benchmark instead of one per method")
    parser.add_argument("--published", action="store_true", help="the papers' figures beside those of the runs")
    parser.add_argument("--figure", type=path, help="with --by, --separability, --benchmarks: write PATH.png, .svg")
    with one_line_errors():
        options = parser.parse_args()
        if options.published:
            show_published(options)
        elif options.benchmarks:
            show_benchmarks(options)
        elif options.separability:
            show_separability(options)
        elif options.by:
            show_sweep(options)
        elif options.figure or options.difference:
            raise InputError("--figure and --difference need --by KEY: the setting that varied, such as n_clusters")
        else:
            show_seeds(options)


def show_seeds(options: argparse.Namespace) -> None:
    """Mean ± standard deviation over the seeds."""
    rows = collect(options.folders, options.split)
    notes = differences(options.folders, rows)
    report_console().print(mean_std_table(rows, notes))
    if options.svg:
        picture = Console(record=True, width=94, file=io.StringIO())
        picture.print(mean_std_table(rows, notes))
        with written_whole(options.svg) as temporary:
            # Without its font rules the picture fetches nothing; the viewer's own monospace font does.
            svg = re.sub(r"@font-face {.*?}", "", picture.export_svg(title=SVG_TITLE), flags=re.DOTALL)
            temporary.write_text(svg, encoding="utf-8")
    if options.markdown:
        with written_whole(options.markdown) as temporary:
            temporary.write_text(mean_std_markdown(rows, notes), encoding="utf-8")


def differences(folders: list[Path], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where the runs behind a mean differ in more than the seed, a sentence for each method."""
    return [
        f"{display_name(method)}: its runs differ in {', '.join(names)} as well; --by KEY shows one at a time"
        for method, names in differing(folders, {row["method"] for row in rows}).items()
    ]


def show_sweep(options: argparse.Namespace) -> None:
    """One metric of every method over a setting."""
    # What `deepclust evaluate metrics=[…]` measured stands in its own file.
    file = "results.json" if options.metric in ROW_KEYS else "evaluation.json"
    if options.difference and not options.figure:
        raise InputError("--difference is drawn: give --figure, too")
    found = sweep(collect_runs(options.folders, file), options.by, options.metric, options.split)
    header, cells = sweep_cells(found)
    notes = [f"{options.metric} on split {found.split}, in percent"]
    console = report_console()
    console.print(plain_table(header, cells))
    console.print(notes[0], style="italic dim", markup=False)
    if options.markdown:
        with written_whole(options.markdown) as temporary:
            temporary.write_text(plain_markdown(header, cells, notes), encoding="utf-8")
    if options.figure:
        # Imported here: matplotlib takes a second.
        from deepclust.report.figures import save_figure
        from deepclust.report.sweep_figures import difference_figure, sweep_figure

        figure = difference_figure(found, *options.difference) if options.difference else sweep_figure(found)
        save_figure(figure, options.figure)


def show_published(options: argparse.Namespace) -> None:
    """The runs' figures beside the papers'."""
    runs = [
        # What `deepclust evaluate` measured stands beside the rows of the run there.
        replace(run, rows=rows_of(place, "evaluation.json") or run.rows)
        for place, run in zip(
            [one for one in run_folders(options.folders, "results.json") if (one / "config.yaml").is_file()],
            collect_runs(options.folders, "results.json"),
            strict=True,
        )
    ]
    comparisons, notes = beside_published(runs, options.split)
    if not comparisons:
        said = "; ".join(note.rstrip(".") for note in notes) or "they have no labels"
        raise InputError(f"nothing is published of these runs ({said})")
    header, cells, reservations = comparison_cells(comparisons)
    notes = [*reservations, *notes, *differences(options.folders, [row for run in runs for row in run.rows])]
    Console(width=160).print(plain_table(header, cells, notes=notes))
    if options.markdown:
        with written_whole(options.markdown) as temporary:
            temporary.write_text(plain_markdown(header, cells, notes), encoding="utf-8")


def show_separability(options: argparse.Namespace) -> None:
    """Separability scores of every run over the accuracy of its linear probe."""
    from deepclust.metrics.separability import r_squared
    from deepclust.report.figures import save_figure
    from deepclust.report.sweep_figures import separability_figure

    points = separability_points(options.folders, options.by)
    figure = separability_figure(points)  # refuses to draw nothing
    scores = ("alignment", "davies_bouldin", "silhouette")
    header = ["Run", "Probe (%)", "Alignment", "Davies–Bouldin", "Silhouette"]
    cells = [
        [point["name"], f"{100 * point['probe']:.1f}", *(_three(point[score]) for score in scores)] for point in points
    ]
    known = {score: [point for point in points if point[score] is not None] for score in scores}
    determined = [
        r_squared([point["probe"] for point in known[score]], [point[score] for point in known[score]])
        for score in scores
    ]
    cells.append(["R²", "", *map(_three, determined)])
    report_console().print(plain_table(header, cells))
    if options.markdown:
        with written_whole(options.markdown) as temporary:
            temporary.write_text(plain_markdown(header, cells), encoding="utf-8")
    if options.figure:
        save_figure(figure, options.figure)


def _three(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


def run_folders(folders: list[Path], file: str) -> list[Path]:
    """The folders that hold a file, among those given and those directly below them."""
    return [place for folder in folders for place in (folder, *sorted(folder.glob("*"))) if (place / file).is_file()]


def show_benchmarks(options: argparse.Namespace) -> None:
    """A row per benchmark, a column per method."""
    from deepclust.report.benchmark_figures import accuracy_figure, benchmark_markdown, benchmark_rows, benchmark_tables

    found = run_folders(options.folders, "results.json")
    configs = {folder: RunFolder(folder).read_config() for folder in found}
    rows = benchmark_rows(found, {run: (config.get("benchmark") or {}).get("name") for run, config in configs.items()})
    if not rows:
        raise InputError(f"no results in {', '.join(map(str, options.folders))}: name run folders of `deepclust train`")
    split = options.split or ("test" if any(row["split"] == "test" for row in rows) else "train")
    for table in benchmark_tables(rows, split):
        report_console().print(table, "")
    if options.markdown:
        with written_whole(options.markdown) as temporary:
            temporary.write_text(benchmark_markdown(rows, split), encoding="utf-8")
    if options.figure:
        print(*accuracy_figure(rows, options.figure, split))


def collect(folders: list[Path], split: str | None) -> list[dict]:
    """Rows of every results.json in the folders or directly below them.

    Raises:
        InputError: if there are none.
    """
    places = run_folders(folders, "results.json")
    rows = [row for place in places for row in rows_of(place, "results.json")]
    rows = [row for row in rows if split is None or row["split"] == split]
    if not rows:
        where = ", ".join(map(str, folders))
        raise InputError(
            f"no results{f' of split {split}' if split else ''} in {where}: name run folders of `deepclust train`"
        )
    return rows


def rows_of(place: Path, file: str) -> list[dict[str, Any]]:
    """The rows of a run, each with `same_run`: equal where a method was run with equal settings on equal data, as a
    baseline is in every job of a sweep over losses."""
    identity = Identity.read(RunFolder(place).identity)
    known = {} if identity is None else {method: identity.digest(method) for method in identity.methods}
    return [{**row, "same_run": known.get(row["method"], str(place))} for row in read_rows(place / file)]


def differing(folders: list[Path], methods: Iterable[str]) -> dict[str, list[str]]:
    """Of each method whose runs differ in more than the seed: the settings in which they do, and `data`."""
    found: dict[str, list[dict[str, Any]]] = {method: [] for method in sorted(methods, key=method_order)}
    for place in run_folders(folders, "results.json"):
        identity = Identity.read(RunFolder(place).identity)
        for method in found if identity else ():
            if identity and method in identity.methods:
                own = {**dict(flat(identity.shared)), **dict(flat(identity.methods[method])), "data": identity.data}
                found[method].append(own)
    names: dict[str, list[str]] = {}
    for method, runs in found.items():
        asked = dict.fromkeys(name for run in runs for name in run if name not in SEEDS)
        different = [name for name in asked if any(run.get(name) != runs[0].get(name) for run in runs)]
        if different:
            names[method] = different
    return names


def collect_runs(folders: list[Path], file: str) -> list[Run]:
    """Every run with such a file of rows and a config.yaml, in the folders or directly below them.

    Raises:
        InputError: if there is none.
    """
    places = [place for place in run_folders(folders, file) if (place / "config.yaml").is_file()]
    if not places:
        made_by = "`deepclust train`" if file == "results.json" else "deepclust evaluate metrics=[…]"
        raise InputError(f"no {file} beside a config.yaml in {', '.join(map(str, folders))}: run {made_by} first")
    return [Run(RunFolder(place).read_config(), rows_of(place, file), place.name) for place in places]


def separability_points(folders: list[Path], key: str | None) -> list[dict[str, Any]]:
    """Of every run with both measurements: its scores on the split that the probe was judged on, and its name."""
    points = []
    for place in run_folders(folders, "evaluation/separability.json"):
        if not (place / "evaluation" / "probe.json").is_file():
            continue
        scores = read_json(place / "evaluation" / "separability.json", MEASURE)
        probe = read_json(place / "evaluation" / "probe.json", MEASURE)
        value = setting(RunFolder(place).read_config(), key, {"method": ""}) if key else None
        points.append(
            {"name": str(value or place.name), "probe": probe["accuracy"], **scores.get("test", scores["train"])}
        )
    return points


if __name__ == "__main__":
    main()
