from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepclust.clustering import Clustering
from deepclust.report.contact_sheet import contact_sheet, write_contact_sheets
from deepclust.runtime.errors import InputError


def clustering(labels: list[int], confidences: list[float] | None = None) -> Clustering:
    ids = np.array(labels, dtype=np.int32)
    if confidences is None:
        return Clustering(ids, "kmeans")
    return Clustering(ids, "temi", top_ids=ids[:, None], top_probs=np.array(confidences, dtype=np.float32)[:, None])


def flat(values: list[int], side: int = 16) -> np.ndarray:
    return np.stack([np.full((side, side), value, np.uint8) for value in values])


def test_one_image_per_label_is_required(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 images for 2 labels"):
        write_contact_sheets(tmp_path, flat([1]), clustering([0, 1]))


def test_the_most_confident_come_first(tmp_path: Path) -> None:
    images = flat([40, 120, 200, 250])
    sheets = write_contact_sheets(
        tmp_path, images, clustering([0, 0, 0, 1], [0.2, 0.9, 0.5, 1.0]), per_cluster=2, thumbnail=16
    )
    assert [sheet.name for sheet in sheets] == ["cluster-00000.jpg", "cluster-00001.jpg"]
    sheet = np.asarray(Image.open(sheets[0]).convert("L")).astype(int)
    # Two tiles of 16 pixels, 4 apart, below a line of title.
    first, second = sheet[40, 12], sheet[40, 32]
    assert abs(first - 120) < 8
    assert abs(second - 200) < 8


def test_noise_and_empty_clusters(tmp_path: Path) -> None:
    sheets = write_contact_sheets(tmp_path, flat([1, 2, 3]), clustering([-1, 5, -1]), thumbnail=8)
    assert [sheet.name for sheet in sheets] == ["noise.jpg", "cluster-00005.jpg"]


def test_only_the_largest_clusters_have_sheets(tmp_path: Path) -> None:
    sheets = write_contact_sheets(tmp_path, flat([0] * 6), clustering([0, 1, 1, 1, 2, 2]), max_clusters=2, thumbnail=8)
    assert [sheet.name for sheet in sheets] == ["cluster-00001.jpg", "cluster-00002.jpg"]


def test_files_of_any_size_and_lost_files_fit_their_tiles(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("wide.png", "line.png", "tiny.png", "lost.png")]
    for path, size in zip(paths, [(300, 20), (20_000, 1), (1, 1)]):
        Image.new("RGB", size, "red").save(path)
    sheets = write_contact_sheets(tmp_path / "sheets", paths, clustering([0] * 4), thumbnail=32)
    # Two by two tiles of 32 pixels; the title may make the sheet wider.
    assert Image.open(sheets[0]).height == 28 + 2 * 36 + 4


def test_a_sheet_is_as_wide_as_its_title() -> None:
    tile = Image.new("RGB", (10, 10))
    assert contact_sheet([tile], title="x" * 60).width > contact_sheet([tile]).width
    assert contact_sheet([tile] * 5, columns=5).height < contact_sheet([tile] * 5, columns=1).height


def test_a_white_image_has_an_outline() -> None:
    white = Image.new("RGB", (20, 10), "white")
    sheet = np.asarray(contact_sheet([white, white], columns=2))
    assert (sheet[28:] < 255).any()  # below the title
    assert (sheet[33:41, 6:22] == 255).all()  # the image itself is as it was
