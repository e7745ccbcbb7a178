"""Figures over the runs of a sweep (Adaloglou et al. 2024, figures 2 to 6 and TSP's table 2 as a figure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from deepclust.errors import InputError
from deepclust.metrics.separability import r_squared
from deepclust.report.figures import MARKERS, ONE_COLUMN, PALETTE, STYLE, TWO_COLUMNS, new_figure
from deepclust.report.sweeps import Sweep, difference
from deepclust.report.tables import METRIC_NAMES, display_name

_KEY_NAMES = {
    "n_clusters": "number of clusters C",
    "n_neighbors": "nearest neighbors K",
    "benchmark": "",
    "encoder": "",
}
_SCORES = {
    "alignment": "alignment score",
    "davies_bouldin": "Davies–Bouldin score",
    "silhouette": "silhouette",
}


@rc_context(STYLE)
def sweep_figure(found: Sweep) -> Figure:
    """A line per method over the setting, with deviations where runs were averaged; values are drawn as they are.

    Numbers that span a factor of 8 or more stand on a logarithmic axis; names stand side by side.
    """
    named = not all(isinstance(value, (int, float)) for value in found.values)
    width = TWO_COLUMNS if named and len(found.values) > 6 else ONE_COLUMN
    figure, (axes,) = new_figure(width, 2.6)
    for index, method in enumerate(found.methods):
        values, means, deviations = found.curve(method)
        axes.errorbar(
            [found.values.index(value) for value in values] if named else [float(value) for value in values],
            100 * np.array(means),
            100 * np.array(deviations),
            color=PALETTE[index % len(PALETTE)],
            marker=MARKERS[index % len(MARKERS)],
            capsize=2,
            label=display_name(method),
        )
    if named:
        axes.set_xticks(range(len(found.values)), [str(value) for value in found.values], rotation=30, ha="right")
    else:
        numbers = [float(value) for value in found.values]
        if min(numbers) > 0 and max(numbers) >= 8 * min(numbers):
            axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(numbers))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{value:g}" for value in numbers]))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(_KEY_NAMES.get(found.key, found.key))
    axes.set_ylabel(f"{metric_name(found.metric)} (%)")
    axes.legend(fontsize=7)
    return figure


@rc_context(STYLE)
def difference_figure(found: Sweep, first: str, second: str) -> Figure:
    """Bars of how much better the first method is than the second at each value, the largest on top.

    Raises:
        InputError: as `difference`.
    """
    pairs = difference(found, first, second)
    figure, (axes,) = new_figure(ONE_COLUMN + 0.6, 0.9 + 0.26 * len(pairs))
    gaps = [100 * gap for _, gap in pairs]
    lines = range(len(pairs))
    axes.barh(lines, gaps, color=[PALETTE[0] if gap >= 0 else PALETTE[3] for gap in gaps], height=0.7)
    for line, gap in zip(lines, gaps):
        axes.annotate(
            f"{gap:+.1f}", (gap, line), xytext=(3 if gap >= 0 else -3, 0), textcoords="offset points",
            ha="left" if gap >= 0 else "right", va="center", fontsize=7,
        )  # fmt: skip
    axes.set_yticks(lines, [str(value) for value, _ in pairs])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.18)
    axes.set_xlabel(f"{metric_name(found.metric)} of {display_name(first)} − {display_name(second)} (points)")
    return figure


@rc_context(STYLE)
def separability_figure(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Each separability score over linear-probe accuracy, a point per run, with the R² of the line (figure 4).

    Args:
        points: dicts with `name`, `probe` (accuracy), `alignment`, `davies_bouldin` and `silhouette`.

    Raises:
        InputError: if there is no point.
    """
    if not points:
        raise InputError(
            "no run holds evaluation/separability.json and evaluation/probe.json: "
            "run `python evaluate.py run=… metrics=[separability,probe]` on each"
        )
    figure, panels = new_figure(TWO_COLUMNS, 2.6, n_columns=3)
    for axes, (key, name) in zip(panels, _SCORES.items()):
        used = [point for point in points if point.get(key) is not None]
        x, y = np.array([100 * point["probe"] for point in used]), np.array([point[key] for point in used])
        for index, point in enumerate(used):
            axes.plot(
                x[index],
                y[index],
                linestyle="none",
                marker=MARKERS[index // len(PALETTE) % len(MARKERS)],
                color=PALETTE[index % len(PALETTE)],
                label=point["name"],
            )
        determined = r_squared(x, y)
        if determined is not None:
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, np.polyval(np.polyfit(x, y, 1), ends), color="#7f7f7f", linewidth=0.9, linestyle="--")
            axes.set_title(f"R² = {determined:.2f}")
        axes.set(xlabel="linear probe accuracy (%)", ylabel=name)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7)
    return figure


def metric_name(metric: str) -> str:
    """A metric as readers know it."""
    known = {**METRIC_NAMES, "ece": "ECE", "mean_msp": "mean MSP"}
    return known.get(metric, metric.replace("_to_", "→"))
