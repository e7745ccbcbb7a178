"""Figures over the runs of a sweep (Adaloglou et al. 2024, figures 2 to 6 and TSP's table 2 as a figure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from deepclust.clustering import display_name
from deepclust.metrics.separability import r_squared
from deepclust.report.figures import MARKERS, ONE_COLUMN, PALETTE, STYLE, TWO_COLUMNS, method_style, new_figure
from deepclust.report.sweeps import Sweep, difference, natural_order
from deepclust.report.tables import METRIC_NAMES
from deepclust.runtime.errors import InputError

_KEY_NAMES = {
    "n_clusters": "number of clusters C",
    "n_neighbors": "nearest neighbors K",
    "depth": "maximal depth d of the labels",
    "benchmark": "",
    "encoder": "",
}
# Settings whose values are steps, not amounts.
_COUNTED = ("depth",)
# So many names at most stand slanted below an axis; more stand upright.
_SLANTED = 12
_SCORES = {
    "alignment": "alignment score",
    "davies_bouldin": "Davies–Bouldin score",
    "silhouette": "silhouette",
}


@rc_context(STYLE)
def sweep_figure(found: Sweep) -> Figure:
    """A line per method over the setting, with deviations where runs were averaged; values are drawn as they are.

    Numbers that span a factor of 8 or more stand on a logarithmic axis, levels excepted. Names have markers alone.
    """
    named = not all(isinstance(value, (int, float)) for value in found.values)
    width = TWO_COLUMNS if named and len(found.values) > 6 else ONE_COLUMN
    figure, (axes,) = new_figure(width, 3.2 if named and len(found.values) > _SLANTED else 2.6)
    for index, method in enumerate(found.methods):
        values, means, deviations = found.curve(method)
        style = method_style(method)
        if named:
            # No order leads from name to name, so no line does; methods stand beside each other.
            aside = 0.6 * ((index + 0.5) / len(found.methods) - 0.5)
            x = [found.values.index(value) + aside for value in values]
            style |= {"linestyle": "none"}
        else:
            x = [float(value) for value in values]
        axes.errorbar(
            x,
            100 * np.array(means),
            100 * np.array(deviations) if any(deviations) else None,
            capsize=2,
            label=display_name(method),
            **style,
        )
    if named:
        # Slanted labels of neighbors run into each other where there are many.
        slant = {"rotation": 90} if len(found.values) > _SLANTED else {"rotation": 30, "ha": "right"}
        axes.set_xticks(range(len(found.values)), [str(value) for value in found.values], **slant)
    else:
        numbers = [float(value) for value in found.values]
        if found.key not in _COUNTED and min(numbers) > 0 and max(numbers) >= 8 * min(numbers):
            axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(numbers))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{value:g}" for value in numbers]))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(_KEY_NAMES.get(found.key, found.key))
    axes.set_ylabel(f"{metric_name(found.metric)} (%)")
    # Above the axes: lines may run anywhere in them.
    columns = 6 if width == TWO_COLUMNS else 3
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns, fontsize=7)
    return figure


@rc_context(STYLE)
def difference_figure(found: Sweep, first: str, second: str) -> Figure:
    """Bars of how much better the first method is than the second at each value, the largest on top.

    Raises:
        InputError: as `difference`.
    """
    pairs = difference(found, first, second)
    figure, (axes,) = new_figure(ONE_COLUMN + 0.6, 0.7 + (0.26 if len(pairs) <= 12 else 0.17) * len(pairs))
    gaps = [100 * gap for _, gap in pairs]
    lines = range(len(pairs))
    axes.barh(lines, gaps, color=[method_style(first if gap >= 0 else second)["color"] for gap in gaps], height=0.7)
    for line, gap in zip(lines, gaps):
        axes.annotate(
            _signed(gap), (gap, line), xytext=(3 if gap >= 0 else -3, 0), textcoords="offset points",
            ha="left" if gap >= 0 else "right", va="center", fontsize=7,
        )  # fmt: skip
    axes.set_yticks(lines, [str(value) for value, _ in pairs])
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.margins(x=0.18)
    axes.set_xlabel(f"{metric_name(found.metric)} of {display_name(first)} − {display_name(second)} (points)")
    return figure


@rc_context(STYLE)
def separability_figure(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Each separability score over linear-probe accuracy, a point per run, with the R² of the line (figure 4).

    Args:
        points: dicts with `name`, `probe` (accuracy), `alignment`, `davies_bouldin` and `silhouette`; those of one name
            look alike.

    Raises:
        InputError: if there is no point.
    """
    if not points:
        raise InputError(
            "no run holds evaluation/separability.json and evaluation/probe.json: "
            "run `deepclust evaluate run=… metrics=[separability,probe]` on each"
        )
    names = sorted({str(point["name"]) for point in points}, key=natural_order)
    columns = 5
    figure, panels = new_figure(TWO_COLUMNS, 2.2 + 0.16 * -(-len(names) // columns), n_columns=3)
    for axes, (key, score_name) in zip(panels, _SCORES.items()):
        used = [point for point in points if point.get(key) is not None]
        x, y = np.array([100 * point["probe"] for point in used]), np.array([point[key] for point in used])
        for index, name in enumerate(names):
            here = [str(point["name"]) == name for point in used]
            axes.plot(
                x[here],
                y[here],
                linestyle="none",
                marker=MARKERS[index // len(PALETTE) % len(MARKERS)],
                color=PALETTE[index % len(PALETTE)],
                label=name,
            )
        determined = r_squared(x, y)
        if determined is not None:
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, np.polyval(np.polyfit(x, y, 1), ends), color="#7f7f7f", linewidth=0.9, linestyle="--")
            axes.set_title(f"R² = {determined:.2f}")
        axes.set(xlabel="linear probe accuracy (%)", ylabel=score_name)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=7)
    return figure


def _signed(points: float) -> str:
    """With a sign of its own width, and none for what rounds to zero."""
    shown = f"{points:+.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown.replace("-", "−")


def metric_name(metric: str) -> str:
    """A metric as readers know it."""
    known = {**METRIC_NAMES, "ece": "ECE", "mean_msp": "mean MSP", "one_sided_ami": "one-sided AMI"}
    if metric.startswith("one_sided_ami_d"):
        return f"one-sided AMI, d = {metric.removeprefix('one_sided_ami_d')}"
    return known.get(metric, metric.replace("_to_", "→"))
