"""The look of every figure: one palette, one font size, PNG for the screen and SVG for the paper."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from deepclust.clustering import DISPLAY_NAMES
from deepclust.runtime.files import written_whole

# Okabe and Ito's palette, told apart with every common kind of color blindness. Yellow is too pale for a line.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# Dashes tell lines apart where there are more of them than colors.
DASHES = ("-", "--", ":", "-.")
# Methods in the order in which they take colors: those that most figures show have one of their own.
FIRST = ("temi", "scan", "tsp", "kmeans", "agglomerative", "spectral", "hdbscan")
METHODS = (*FIRST, *(method for method in DISPLAY_NAMES if method not in FIRST))

# Column widths of a two-column paper, in inches.
ONE_COLUMN = 3.4
TWO_COLUMNS = 7.0
NOTEBOOK_DPI = 110

STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e0e0e0",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    # Ids in the SVG are drawn from this, so that the same figure is the same file.
    "svg.hashsalt": "deepclust",
}


def line_style(index: int) -> dict[str, Any]:
    """Color, marker and dashes of the line of a number; no two are alike among the first 28."""
    turn, place = divmod(index, len(PALETTE))
    return {
        "color": PALETTE[place],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": DASHES[turn % len(DASHES)],
    }


def method_style(method: str) -> dict[str, Any]:
    """Color, marker and dashes of a method, the same in every figure; those of an unknown name are all alike.

    Example:
        >>> method_style("temi")["color"] == PALETTE[0]
        True
    """
    return line_style(METHODS.index(method) if method in METHODS else len(METHODS))


class ShownFigure(Figure):
    """A figure that notebooks show, whether somebody imported pyplot or not."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        with rc_context(STYLE):
            self.savefig(stream, format="png", dpi=NOTEBOOK_DPI)
        return stream.getvalue()


def new_figure(
    width: float = TWO_COLUMNS, height: float = 2.6, *, n_rows: int = 1, n_columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure in the house style and its axes in reading order; sizes in inches. No global state is touched."""
    with rc_context(STYLE):
        figure = ShownFigure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(n_rows, n_columns, squeeze=False)
    return figure, list(axes.flat)


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write `path` as .png (200 dpi) and as .svg, each whole or not at all; returns both paths."""
    written = []
    for suffix, options in ((".png", {"dpi": 200}), (".svg", {"metadata": {"Date": None}})):
        target = path.with_name(path.name + suffix)
        with rc_context(STYLE), written_whole(target) as temporary:
            figure.savefig(temporary, format=suffix[1:], **options)  # type: ignore[arg-type]
        written.append(target)
    return written
