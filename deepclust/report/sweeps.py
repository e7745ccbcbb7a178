"""Runs of a sweep side by side: one metric of every method over a setting that varied.

A run is its config and its rows of results. The setting is a key of the config, dotted where nested: `n_clusters`,
`n_neighbors`, `encoder`, `benchmark`, `loss.temi.loss_options.beta`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepclust.clustering import display_name, method_order
from deepclust.report.tables import ABSENT
from deepclust.runtime.errors import InputError
from deepclust.subsets.counts import ORDER

Value = int | float | str
# The benchmark of all classes comes last.
WHOLE = "all"
# A setting that was left at null.
NONE = "none"
# Names that have an order: benchmarks, as in the tables of Adaloglou et al. 2024.
_PLACES = {name: place for place, name in enumerate([*(name for name in ORDER if name != WHOLE), "odd"])}


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        config: what was asked for, as plain containers.
        rows: its rows of results.
        folder: its name, for messages.
    """

    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    folder: str


@dataclass(frozen=True)
class Sweep:
    """One metric over one setting.

    Attributes:
        key: the setting.
        metric: a key of the rows.
        split: the split of all rows.
        values: of the setting, in order.
        methods: in the usual order.
        cells: (mean, standard deviation (n − 1) or None, runs) of each (value, method) that was run.
    """

    key: str
    metric: str
    split: str
    values: list[Value]
    methods: list[str]
    cells: dict[tuple[Value, str], tuple[float, float | None, int]]

    def curve(self, method: str) -> tuple[list[Value], list[float], list[float]]:
        """Values, means and deviations (0 for one run) of a method, where it was run."""
        found = [(value, self.cells[value, method]) for value in self.values if (value, method) in self.cells]
        return [value for value, _ in found], [cell[0] for _, cell in found], [cell[1] or 0.0 for _, cell in found]


def sweep(runs: Sequence[Run], key: str, metric: str, split: str | None = None) -> Sweep:
    """Gather one metric of every method over a setting; runs that differ in nothing else shown are averaged.

    Args:
        runs: finished runs.
        key: of the config. Where it is null, the loss's own setting, then the data set's, is what was run with.
        metric: of the rows, such as `acc`, `nmi`, `top1_to_L`, `ece`.
        split: default: `test` where any row is of it, else `train`.

    Raises:
        InputError: if no run has the setting, or no row has the metric on the split.
    """
    rows = [(run, row) for run in runs for row in run.rows]
    splits = {row["split"] for _, row in rows}
    split = split or ("test" if "test" in splits else "train")
    found: dict[tuple[Value, str], dict[str, float]] = {}
    known = False
    for run, row in rows:
        value = setting(run.config, key, row)
        if row["split"] != split or value is None:
            continue
        known = True
        if row.get(metric) is not None:
            cell = found.setdefault((value, row["method"]), {})
            cell[row.get("same_run", f"the {len(cell) + 1}th")] = row[metric]
    if not known:
        raise InputError(
            f"no run has a setting '{key}' on split {split}: name a key of config.yaml, such as n_clusters"
        )
    if not found:
        names = sorted({name for _, row in rows for name, entry in row.items() if isinstance(entry, float)})
        raise InputError(f"no row of split {split} has '{metric}': choose from {', '.join(names)}")
    cells = {
        place: (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, len(values))
        for place, values in ((place, list(cell.values())) for place, cell in found.items())
    }
    values = sorted({value for value, _ in cells}, key=natural_order)
    methods = sorted({method for _, method in cells}, key=method_order)
    return Sweep(key, metric, split, values, methods, cells)


def setting(config: Mapping[str, Any], key: str, row: Mapping[str, Any]) -> Value | None:
    """The value of a setting in a run, for one of its rows; of a choice with options, such as an encoder, its name.

    `none` where it was left at null: no encoder, say, since the data set's own features were taken.
    """
    places = [(config, key), (config.get("loss", {}).get(row["method"], {}), key), (config.get("data", {}), key)]
    for place, name in places:
        value = _nested(place, name)
        if isinstance(value, Mapping):
            value = value.get("name")
        if isinstance(value, (int, float, str)):
            return value
    return NONE if any(isinstance(place, Mapping) and name in place for place, name in places) else None


def sweep_cells(found: Sweep) -> tuple[list[str], list[list[str]]]:
    """Header and cells: a line per value, a column per method; percent, mean ± deviation where runs were averaged."""
    header = [found.key, *(display_name(method) for method in found.methods)]
    cells = [
        [str(value), *(_cell(found.cells.get((value, method))) for method in found.methods)] for value in found.values
    ]
    return header, cells


def difference(found: Sweep, first: str, second: str) -> list[tuple[Value, float]]:
    """(value, first − second) where both methods were run, the largest first (Adaloglou et al. 2024, figure 3 right).

    Raises:
        InputError: if there is no value at which both were run.
    """
    pairs = [
        (value, found.cells[value, first][0] - found.cells[value, second][0])
        for value in found.values
        if (value, first) in found.cells and (value, second) in found.cells
    ]
    if not pairs:
        raise InputError(
            f"'{first}' and '{second}' were not both run anywhere: choose two of {', '.join(found.methods)}"
        )
    return sorted(pairs, key=lambda pair: -pair[1])


def natural_order(value: Value) -> tuple[Any, ...]:
    """Numbers by size, benchmarks as in the paper, other names with their numbers by size, `all` last."""
    if not isinstance(value, str):
        return (0, value)
    if value in _PLACES:
        return (1, _PLACES[value])
    if value == WHOLE:
        return (3,)
    parts = re.split(r"(\d+)", value)
    return (2, [(int(part), "") if part.isdigit() else (-1, part) for part in parts])


def _nested(place: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        if not isinstance(place, Mapping) or part not in place:
            return None
        place = place[part]
    return place


def _cell(cell: tuple[float, float | None, int] | None) -> str:
    if cell is None:
        return ABSENT
    mean, spread, _ = cell
    return f"{100 * mean:.1f}" if spread is None else f"{100 * mean:.1f} ± {100 * spread:.1f}"
