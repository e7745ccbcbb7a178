"""The zero-shot protocol's figures: average ranks, AMI against silhouette, AMI by taxonomy level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from deepclust.report.figures import MARKERS, METHODS, ONE_COLUMN, PALETTE, TWO_COLUMNS, new_figure
from deepclust.zero_shot.protocol import CLASSES
from deepclust.zero_shot.statistics import ami_silhouette_correlation, average_ranks

# How far the lines of one level stand apart, as a share of the distance between levels.
SPREAD = 0.16
# Inches that one entry of a legend takes.
LEGEND_LINE = 0.15
DATASET_MARKERS = (*MARKERS, "<", ">", "p", "*", "h", "d")

Row = Mapping[str, Any]
Names = Mapping[str, str]


def rank_figure(rows: Sequence[Row], of: str, titles: Names) -> Figure | None:
    """Dots at the average ranks, ± 1 standard deviation, the best on top (Lowe et al. 2023, figures 1 and 2).

    A clusterer has the color that its method has in every other figure.

    Args:
        rows: the cells.
        of: `encoder` or `clusterer`.
        titles: what they are called.

    Returns:
        The figure, or None where nothing can be ranked.
    """
    ranks = sorted(average_ranks([row for row in rows if row["clusterer"] != CLASSES], of), key=lambda rank: rank.mean)
    if not ranks:
        return None
    figure, (axes,) = new_figure(ONE_COLUMN, 0.75 + 0.26 * len(ranks))
    places = np.arange(len(ranks))
    for place, rank in zip(places, ranks):
        index = place_of(rank.name) if of == "clusterer" else 0
        color = PALETTE[index % len(PALETTE)]
        axes.errorbar(
            rank.mean, place, xerr=rank.std or 0, color=color, elinewidth=1.2,
            marker=MARKERS[index % len(MARKERS)], markersize=5, markerfacecolor=_face(color, index),
        )  # fmt: skip
    axes.set_yticks(places, [titles.get(rank.name, rank.name) for rank in ranks])
    axes.set_ylim(len(ranks) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, None)
    fewest, most = min(rank.n for rank in ranks), max(rank.n for rank in ranks)
    # Cells without a result take no part.
    compared = f"n = {most}" if fewest == most else f"n = {fewest} to {most}"
    axes.set_xlabel(f"Average rank by AMI (1 is best, {compared})")
    return figure


def scatter_figure(rows: Sequence[Row], datasets: Names, clusterers: Names) -> Figure | None:
    """AMI against silhouette, a point per cell: color by clusterer, marker by data set (figure 3)."""
    shown = [row for row in rows if row["clusterer"] in clusterers and None not in (row["ami"], row["silhouette"])]
    if not shown:
        return None
    # High enough for the legend.
    figure, (axes,) = new_figure(TWO_COLUMNS, max(3.2, LEGEND_LINE * (len(clusterers) + len(datasets) + 5)))
    for clusterer in clusterers:
        color_place = place_of(clusterer)
        for marker_place, dataset in enumerate(datasets):
            points = [row for row in shown if (row["clusterer"], row["dataset"]) == (clusterer, dataset)]
            color = PALETTE[color_place % len(PALETTE)]
            axes.plot(
                [row["silhouette"] for row in points], [100 * row["ami"] for row in points],
                linestyle="none", marker=DATASET_MARKERS[marker_place % len(DATASET_MARKERS)], markersize=5,
                color=color, markerfacecolor=_face(color, color_place), alpha=0.9,
            )  # fmt: skip
    correlation, n_cells = ami_silhouette_correlation(shown)
    axes.set_xlabel("Silhouette in the clustered space")
    axes.set_ylabel("AMI (%)")
    if correlation is not None:
        axes.set_title(f"Pearson's r = {correlation:.2f} over {n_cells} cells", loc="left", fontsize=8)
    handles: list[Any] = [_heading("Clusterer")]
    for clusterer, title in clusterers.items():
        place = place_of(clusterer)
        color = PALETTE[place % len(PALETTE)]
        handles.append(Patch(edgecolor=color, facecolor=_face(color, place), label=title))
    handles += [_heading(""), _heading("Data set")]
    handles += [
        _handle(title, DATASET_MARKERS[place % len(DATASET_MARKERS)], "#555555", 0, "none")
        for place, title in enumerate(datasets.values())
    ]
    legend = figure.legend(handles=handles, loc="outside right upper", fontsize=7, handlelength=1.6, frameon=False)
    for place in (0, len(clusterers) + 2):
        legend.get_texts()[place].set_fontweight("bold")
    return figure


def level_figure(rows: Sequence[Row], datasets: Names, clusterers: Names) -> Figure | None:
    """One-sided AMI at each level of a taxonomy, coarse to fine: a line per clusterer, averaged over encoders.

    Only data sets with more levels than their classes have a panel.
    """
    scored = [row for row in rows if row["clusterer"] in clusterers and len(row["one_sided_ami"]) > 1]
    panels = [name for name in datasets if any(row["dataset"] == name for row in scored)]
    if not panels:
        return None
    figure, all_axes = new_figure(min(TWO_COLUMNS, 1.5 + 2.2 * len(panels)), 2.6, n_columns=len(panels))
    for axes, dataset in zip(all_axes, panels, strict=True):
        here = [row for row in scored if row["dataset"] == dataset]
        levels = list(here[0]["one_sided_ami"])
        for order, clusterer in enumerate(clusterers):
            place = place_of(clusterer)
            lines = [[row["one_sided_ami"][level] for level in levels] for row in here if row["clusterer"] == clusterer]
            if lines:
                color = PALETTE[place % len(PALETTE)]
                # Side by side, as many a value is shared.
                places = np.arange(len(levels)) + SPREAD * (order / max(1, len(clusterers) - 1) - 0.5)
                axes.plot(
                    places, 100 * np.mean(lines, axis=0), color=color,
                    marker=MARKERS[place % len(MARKERS)], markerfacecolor=_face(color, place),
                )  # fmt: skip
        axes.set_xticks(range(len(levels)), levels)
        axes.margins(x=0.12, y=0.08)
        axes.set_title(datasets[dataset], loc="left", fontsize=8)
    ranges = [axes.get_ylim() for axes in all_axes]
    for axes in all_axes:
        axes.set_ylim(min(low for low, _ in ranges), max(high for _, high in ranges))
    all_axes[0].set_ylabel("One-sided AMI (%)")
    handles = [
        _handle(title, MARKERS[place % len(MARKERS)], PALETTE[place % len(PALETTE)], place, "-")
        for place, title in ((place_of(clusterer), title) for clusterer, title in clusterers.items())
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=7, frameon=False)
    return figure


def place_of(clusterer: str) -> int:
    """A clusterer's place in the palette: that of its method in every other figure."""
    return METHODS.index(clusterer) if clusterer in METHODS else len(METHODS)


def _face(color: str, place: int) -> str:
    """Filled markers for the first round of the palette, open ones for the next."""
    return color if place < len(PALETTE) else "white"


def _heading(label: str) -> Line2D:
    """A line of a legend that is text only."""
    return Line2D([], [], linestyle="none", label=label)


def _handle(label: str, marker: str, color: str, place: int, line: Literal["-", "none"]) -> Line2D:
    return Line2D(
        [], [], linestyle=line, linewidth=1.4, marker=marker, markersize=5, color=color,
        markerfacecolor=_face(color, place), label=label,
    )  # fmt: skip
