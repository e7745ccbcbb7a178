"""The papers' own figures, and a run's beside them.

Every row of every table is in one file per paper, `published/<paper>.csv`:

- `table`, `row`: where it stands; a section for the few figures of the text.
- `method`, `encoder`, `data`, `benchmark`: by the names of this project where it has the thing, else in words.
- `metric`, `value`, `spread`: as printed, percent for all but silhouettes, correlations and counts.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.clustering import display_name
from deepclust.report.sweeps import Run

FOLDER = Path(__file__).parent / "published"
PAPERS: Mapping[str, str] = {
    "zhou2022": "Zhou & Zhang 2022",
    "lowe2023": "Lowe et al. 2023",
    "lowe2024": "Lowe et al. 2024 (talk)",
    "adaloglou2024": "Adaloglou et al. 2024",
}
# What rows of results hold as fractions and papers print in percent.
PERCENT = ("acc", "nmi", "ami", "ari", "top1_to_1", "top1_to_L", "top5_to_1", "top5_to_L")
COMPARED = (*PERCENT, "silhouette", "n_found")
# The best of five starts beside the mean of three: shown, and said.
INSTEAD = {"kmeans": ("kmeans_paper", "the best of several starts, published is the mean of three")}
# Of these the papers say that they score the validation or test split.
ON_TEST = ("adaloglou2024", "lowe2023")
WHOLE = "all"


@dataclass(frozen=True)
class Figure:
    """One published figure.

    Attributes:
        paper: a key of `PAPERS`.
        table, row: where it stands.
        method, encoder, data, benchmark, metric: what it is of; empty where it is of none.
        value: as printed.
        spread: standard deviation as printed, or None.
    """

    paper: str
    table: str
    row: str
    method: str
    encoder: str
    data: str
    benchmark: str
    metric: str
    value: float
    spread: float | None

    @property
    def where(self) -> str:
        """`Lowe et al. 2023, table 2a`."""
        word = "" if self.table.startswith("section") or " " in self.table else "table "
        return f"{PAPERS[self.paper]}, {word}{self.table}"


@dataclass(frozen=True)
class Comparison:
    """A run's figure beside a published one.

    Attributes:
        run: the mean over the seeds, as printed.
        n_seeds: how many.
        figure: the published one.
        but: in what the two differ beside the value.
    """

    run: float
    n_seeds: int
    figure: Figure
    but: tuple[str, ...]

    @property
    def difference(self) -> float:
        return self.run - self.figure.value


@cache
def published(paper: str) -> tuple[Figure, ...]:
    """Every figure of a paper's tables.

    Example:
        >>> [one.value for one in published("adaloglou2024") if (one.method, one.benchmark) == ("temi", "union")]
        [59.4]
    """
    figures = []
    with open(FOLDER / f"{paper}.csv", encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
            value, spread = line.pop("value"), line.pop("spread")
            figures.append(Figure(paper, **line, value=float(value), spread=float(spread) if spread else None))
    return tuple(figures)


def beside_published(runs: Sequence[Run], split: str | None = None) -> tuple[list[Comparison], list[str]]:
    """A run's figures beside the published ones of the same method, data set and benchmark.

    Where the very encoder is among them only its figures are shown; else those of all encoders, and `but` says so.

    Args:
        runs: finished runs; those on the same data, encoder and benchmark are averaged, as over their seeds.
        split: default: `test` where a run has it, else `train`.

    Returns:
        The comparisons, and a sentence for each method and data set of which nothing is published.
    """
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    for run in runs:
        splits = {row["split"] for row in run.rows}
        wanted = split or ("test" if "test" in splits else "train")
        for row in run.rows:
            for metric in COMPARED if row["split"] == wanted else ():
                if row.get(metric) is not None:
                    key = (row["method"], *_source(run.config), _neighbors(run.config, row["method"]), wanted, metric)
                    cell = found.setdefault(key, {})  # a baseline stands in every job of a sweep over losses
                    cell[row.get("same_run", f"the {len(cell) + 1}th")] = float(row[metric])
    comparisons: list[Comparison] = []
    in_no_table: dict[str, bool] = {}
    for (method, data, encoder, benchmark, neighbors, wanted, metric), values in found.items():
        theirs, reservation = INSTEAD.get(method, (method, ""))
        same = [
            one
            for paper in PAPERS
            for one in published(paper)
            if (one.method, one.data, one.benchmark or WHOLE, one.metric) == (theirs, data, benchmark, metric)
            and not one.table.startswith("section")
            and _published_neighbors(one) in (None, neighbors)
        ]
        place = f"{display_name(method)} on data={data}, benchmark={benchmark}"
        in_no_table[place] = in_no_table.get(place, True) and not same
        value = float(np.mean(list(values.values()))) * (100 if metric in PERCENT else 1)
        for one in [figure for figure in same if figure.encoder == encoder] or same:
            but = [reservation] if reservation else []
            if one.encoder != encoder:
                but.append(f"the features here are of {encoder or 'no encoder'}")
            if wanted == "train" and one.paper in ON_TEST:
                but.append("the split that was clustered, published is the test split")
            if one.paper == "lowe2023":
                but.append("settings and space of this run, published are those of the protocol's search")
            comparisons.append(Comparison(value, len(values), one, tuple(but)))
    return comparisons, [f"{place} is in no table." for place, nothing in in_no_table.items() if nothing]


def published_notes(run: Run) -> list[str]:
    """For under a run's results: the published accuracies of its very method, data and encoder, a sentence each."""
    comparisons, _ = beside_published([run])
    return [
        f"Published, {one.figure.where}: {one.figure.row}, accuracy {one.figure.value:g} %, {one.difference:+.1f} here."
        for one in comparisons
        if one.figure.metric == "acc" and not one.but
    ]


def comparison_cells(comparisons: Sequence[Comparison]) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, cells and notes of a table of comparisons."""
    header = ["Method", "Data", "Encoder", "Metric", "Here", "Published", "Difference", "Where", "But"]
    reservations = list(dict.fromkeys(one for comparison in comparisons for one in comparison.but))
    cells = []
    for comparison in comparisons:
        figure = comparison.figure
        digits = 2 if figure.metric == "silhouette" else 0 if figure.metric == "n_found" else 1
        spread = "" if figure.spread is None else f" ± {figure.spread:g}"
        cells.append(
            [
                figure.row,
                figure.data + ("" if figure.benchmark in ("", WHOLE) else f", {figure.benchmark}"),
                figure.encoder or "–",
                figure.metric,
                f"{comparison.run:.{digits}f}",
                f"{figure.value:g}{spread}",
                f"{comparison.difference:+.{digits}f}",
                figure.where,
                ", ".join(str(1 + reservations.index(one)) for one in comparison.but),
            ]
        )
    notes = [f"{number}: {text}." for number, text in enumerate(reservations, 1)]
    return header, cells, notes


def protocol_figures(metric: str = "ami") -> dict[tuple[str, str, str], Figure]:
    """Lowe et al. 2023's figures of a metric by data set, encoder and method."""
    return {(one.data, one.encoder, one.method): one for one in published("lowe2023") if one.metric == metric}


def published_rows(data: str) -> int | None:
    """How many images of a data set Lowe et al. cluster (table 1 of the paper, and the talk's)."""
    counts = {
        one.data: int(one.value)
        for paper in ("lowe2024", "lowe2023")
        for one in published(paper)
        if one.metric == "n_samples"
    }
    return counts.get(data)


def _source(config: Mapping[str, Any]) -> tuple[str, str, str]:
    """Data set, encoder and benchmark of a run; an encoder that was not chosen is the data set's own."""
    data, encoder = config.get("data") or {}, config.get("encoder")
    name = encoder.get("name") if isinstance(encoder, Mapping) else encoder
    benchmark = config.get("benchmark") or {}
    return str(data.get("name")), str(name or data.get("encoder") or ""), str(benchmark.get("name") or WHOLE)


def _neighbors(config: Mapping[str, Any], method: str) -> int | None:
    return ((config.get("loss") or {}).get(method) or {}).get("n_neighbors")


def _published_neighbors(figure: Figure) -> int | None:
    """K, where a table varies it."""
    match = re.search(r", K = (\d+)$", figure.row)
    return None if match is None else int(match[1])
