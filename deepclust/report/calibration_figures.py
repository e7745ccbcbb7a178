"""Reliability diagrams and histograms of confidence (Adaloglou et al. 2024, figures 3 and 8)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from deepclust.clustering import display_name
from deepclust.metrics.calibration import Calibration
from deepclust.report.figures import ONE_COLUMN, STYLE, TWO_COLUMNS, method_style, new_figure


@rc_context(STYLE)
def reliability_figure(calibrations: Mapping[str, Calibration]) -> Figure:
    """Accuracy over confidence, one panel per method; a calibrated head lies on the diagonal.

    Args:
        calibrations: by method.
    """
    width = min(TWO_COLUMNS, 2.4 * len(calibrations))
    figure, panels = new_figure(max(width, 2.6), 2.5, n_columns=len(calibrations))
    for axes, (method, found) in zip(panels, calibrations.items()):
        middles_B = (found.edges[:-1] + found.edges[1:]) / 2
        filled_B = found.counts_B > 0
        axes.plot([0, 1], [0, 1], color="#7f7f7f", linewidth=0.9, linestyle="--", label="calibrated")
        axes.bar(
            middles_B[filled_B],
            found.accuracy_B[filled_B],
            width=np.diff(found.edges)[filled_B] * 0.92,
            color=method_style(method)["color"],
            alpha=0.85,
            label="accuracy",
        )
        axes.plot(
            middles_B[filled_B],
            found.confidence_B[filled_B],
            "k_",
            markersize=6,
            label="mean confidence",
            clip_on=False,
        )
        axes.set_title(f"{display_name(method)} · ECE {100 * found.ece:.1f} %")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence")
        axes.set_box_aspect(1)
    panels[0].set_ylabel("accuracy")
    panels[0].legend(loc="upper left", fontsize=7, handlelength=1.4)
    return figure


@rc_context(STYLE)
def confidence_figure(calibrations: Mapping[str, Calibration]) -> Figure:
    """Histogram of the maximum softmax probability, all methods in one panel."""
    figure, (axes,) = new_figure(ONE_COLUMN, 2.5)
    for method, found in calibrations.items():
        shares_B = found.counts_B / found.counts_B.sum()
        style = method_style(method)
        axes.stairs(
            100 * shares_B,
            found.edges,
            color=style["color"],
            linestyle=style["linestyle"],
            linewidth=1.4,
            fill=False,
            label=f"{display_name(method)}, mean {100 * found.mean_confidence:.1f} %",
        )
        # A marker per bin tells overlapping steps apart without color.
        middles_B = (found.edges[:-1] + found.edges[1:]) / 2
        axes.plot(middles_B, 100 * shares_B, style["marker"], color=style["color"], markersize=3)
    axes.set(xlim=(0, 1), xlabel="maximum softmax probability", ylabel="samples (%)")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", fontsize=7)
    return figure
