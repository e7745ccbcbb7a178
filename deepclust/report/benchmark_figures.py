"""Tables and figures over benchmarks: methods side by side, accuracy against granularity and imbalance (figure 2)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from rich.table import Table

from deepclust.clustering import display_name, method_order
from deepclust.report.figures import ONE_COLUMN, STYLE, TWO_COLUMNS, method_style, new_figure, save_figure
from deepclust.report.sweeps import WHOLE, natural_order
from deepclust.report.tables import read_rows
from deepclust.runtime.errors import InputError

DEPTHS = tuple(f"coarse_{depth}" for depth in range(1, 10))
SPREADS = {"tiny": 5, "small": 15, "base": 25, "large": 35, "huge": 45}

Row = Mapping[str, Any]


def benchmark_rows(folders: Iterable[str | os.PathLike], benchmark_of: Mapping[Path, str | None]) -> list[dict]:
    """The rows of results of run folders, each with the `benchmark` it was run on.

    Args:
        folders: run folders with `results.json`.
        benchmark_of: the benchmark of each, None without one.
    """
    rows = []
    for folder in map(Path, folders):
        name = benchmark_of[folder] or WHOLE
        found = read_rows(folder / "results.json")
        rows += [{**row, "benchmark": name} for row in found]
    return rows


def means_by_benchmark(rows: Sequence[Row], split: str, metric: str) -> dict[str, dict[str, tuple[float, float, int]]]:
    """benchmark → method → (mean, standard deviation, runs) of a metric on a split; standard deviation over seeds.

    Raises:
        InputError: if no row has that split and metric.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["split"] == split and row.get(metric) is not None:
            values.setdefault(row["benchmark"], {}).setdefault(row["method"], []).append(float(row[metric]))
    if not values:
        raise InputError(f"no results of split {split} hold {metric}: choose another split or metric")
    return {
        benchmark: {
            method: (float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else 0.0, len(found))
            for method, found in methods.items()
        }
        for benchmark, methods in values.items()
    }


def benchmark_cells(rows: Sequence[Row], split: str, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table benchmarks × (metric, method), in percent, with ± where there are several seeds."""
    methods = sorted({row["method"] for row in rows}, key=method_order)
    tables = {metric: means_by_benchmark(rows, split, metric) for metric in metrics}
    clusters = {row["benchmark"]: row["n_clusters"] for row in rows}
    header = ["Benchmark", "Clusters"]
    header += [f"{metric.upper()} {display_name(method)}" for metric in metrics for method in methods]
    lines = []
    for benchmark in sorted(clusters, key=natural_order):
        line = [benchmark, str(clusters[benchmark])]
        for metric in metrics:
            found = tables[metric].get(benchmark, {})
            best = max((value[0] for value in found.values()), default=None)
            for method in methods:
                if method not in found:
                    line.append("–")
                    continue
                mean, std, runs = found[method]
                text = f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if runs > 1 else "")
                line.append(f"**{text}**" if mean == best else text)
        lines.append(line)
    return header, lines


def benchmark_markdown(rows: Sequence[Row], split: str, metrics: Sequence[str] = ("acc", "ami")) -> str:
    """The table in Markdown, the best method of each benchmark and metric in bold."""
    header, lines = benchmark_cells(rows, split, metrics)
    rule = ["---"] * 2 + ["---:"] * (len(header) - 2)
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *lines]) + "\n"


def benchmark_tables(rows: Sequence[Row], split: str, metrics: Sequence[str] = ("acc", "ami")) -> list[Table]:
    """The table for the terminal, one for each metric: side by side they would not fit its width."""
    tables = []
    for metric in metrics:
        header, lines = benchmark_cells(rows, split, [metric])
        table = Table(title=f"{metric.upper()}, {split} split, %", title_justify="left", box=None)
        for index, name in enumerate(header):
            table.add_column(
                name.removeprefix(f"{metric.upper()} "), justify="left" if index == 0 else "right", no_wrap=True
            )
        for line in lines:
            table.add_row(*(f"[bold]{cell[2:-2]}[/bold]" if cell.startswith("**") else cell for cell in line))
        tables.append(table)
    return tables


@rc_context(STYLE)
def accuracy_figure(rows: Sequence[Row], path: Path, split: str = "test") -> list[Path]:
    """Clustering accuracy against the maximal depth d, and against the interval s around the median (figure 2).

    Args:
        rows: of `benchmark_rows`; benchmarks that were not run leave a gap.
        path: of the picture, without a suffix.
        split: whose accuracy.

    Raises:
        InputError: if none of the benchmarks of either axis is among the rows.
    """
    means = means_by_benchmark(rows, split, "acc")
    panels = (
        ("maximal depth d of the classes", {name: depth for depth, name in enumerate(DEPTHS, 1)}, 9),
        ("classes within s percent of the median frequency", SPREADS, 50),
    )
    drawn = [panel for panel in panels if any(name in means for name in panel[1])]
    if not drawn:
        raise InputError("no benchmark of figure 2 (coarse_1 … coarse_9, tiny … huge) is among the results")
    methods = sorted({row["method"] for row in rows}, key=method_order)
    figure, axes = new_figure(TWO_COLUMNS if len(drawn) > 1 else ONE_COLUMN, n_columns=len(drawn))
    for axis, (label, places, whole) in zip(axes, drawn):
        known = {**places, WHOLE: whole}
        for method in methods:
            points = [(at, *means[name][method][:2]) for name, at in known.items() if method in means.get(name, {})]
            if not points:
                continue
            x, mean, std = np.array(sorted(points)).T
            spread = 100 * std if std.any() else None
            axis.errorbar(x, 100 * mean, spread, capsize=2, label=display_name(method), **method_style(method))
        axis.set_xticks(list(known.values()), [*map(str, places.values()), "all"])
        axis.set_xlim(min(known.values()) - 0.06 * whole, 1.06 * whole)
        axis.set_xlabel(label)
        axis.set_ylabel("ACC (%)")
    found = {name: line for axis in axes for line, name in zip(*axis.get_legend_handles_labels())}
    names = [name for name in map(display_name, methods) if name in found]
    # Above the axes: lines may run anywhere in them.
    figure.legend(
        [found[name] for name in names], names, loc="outside upper center", ncols=3 * len(drawn), fontsize=7
    )  # fmt: skip
    return save_figure(figure, path)
