"""Figures are written as PNG and SVG, the same bytes for the same figure."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from deepclust.clustering import DISPLAY_NAMES
from deepclust.report.figures import line_style, method_style, new_figure, save_figure


def test_a_figure_is_saved_as_png_and_svg(tmp_path: Path) -> None:
    def draw(folder: Path) -> list[Path]:
        figure, (axes,) = new_figure(3.0, 2.0)
        axes.plot([0, 1], [1, 0])
        return save_figure(figure, folder / "deep" / "line")

    png, svg = draw(tmp_path / "a")
    assert Image.open(png).size == (600, 400)
    assert "<svg" in svg.read_text()
    assert [path.read_bytes() for path in draw(tmp_path / "b")] == [png.read_bytes(), svg.read_bytes()]


def test_no_two_of_many_lines_look_alike() -> None:
    assert len({tuple(line_style(index).items()) for index in range(28)}) == 28
    # Without color, neighbors still differ.
    assert all(line_style(index)["marker"] != line_style(index + 1)["marker"] for index in range(6))


def test_a_method_has_one_look_and_no_other_has_it() -> None:
    looks = {tuple(method_style(method).items()) for method in DISPLAY_NAMES}
    assert len(looks) == len(DISPLAY_NAMES)
    assert len({method_style(method)["color"] for method in ("temi", "scan", "tsp", "kmeans", "agglomerative")}) == 5
