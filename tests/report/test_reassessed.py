from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepclust.report import reassessed
from deepclust.report.reassessed import write_reassessed

NAMES = ["furniture, piece", "chair", "desk"]


def test_a_panel_has_a_row_per_new_label_the_most_frequent_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.array([0] * 10 + [1] * 5)
    new = np.array([0] * 4 + [2] + [1] * 5 + [1] * 5)
    images = np.arange(15, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8) * 16
    titles: list[str] = []
    drawn = reassessed.contact_sheet

    def noted(tiles: list[Image.Image], *, title: str, columns: int) -> Image.Image:
        titles.append(title)
        return drawn(tiles, title=title, columns=columns)

    monkeypatch.setattr(reassessed, "contact_sheet", noted)
    (file,) = write_reassessed(tmp_path, images, labels, new, NAMES, per_label=3, thumbnail=20)
    assert file.name == "00000-furniture_piece.jpg"  # chairs stay what they are
    assert titles == ["chair · 5", "desk · 1", "furniture, piece · 6 of 10 reassessed"]
    with Image.open(file) as panel:
        pixels = np.asarray(panel.convert("L"))
    # The first reassessed chair is image 5, beside it 6 and 7; the desk is image 4.
    for value in (5, 6, 7, 4):
        assert (np.abs(pixels.astype(int) - 16 * value) <= 2).sum() > 200


def test_where_no_label_has_changed_there_is_no_panel(tmp_path: Path) -> None:
    labels = np.array([0, 1, 2])
    assert write_reassessed(tmp_path, np.zeros((3, 2, 2), np.uint8), labels, labels, NAMES) == []
