"""Sprite sheets: many thumbnails in few pictures, as a page holds them."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from deepclust.report.contact_sheet import Images, image_thumbnail

# (thumbnails, their side in pixels): the first line whose count is not exceeded; the last is the most a page holds.
SIDES = ((1000, 112), (2500, 80), (8000, 48))
COLUMNS = 16
# A sheet has COLUMNS rows of as many: a page decodes only the sheets that it shows.
PER_SHEET = COLUMNS * COLUMNS
QUALITY = 72


@dataclass(frozen=True)
class Sprites:
    """Thumbnails on sheets.

    Attributes:
        side: of a thumbnail, in pixels.
        slot_N: the place of each sample, counted over all sheets; -1 for samples without a thumbnail.
        sheets: WebP pictures in base64, `COLUMNS` thumbnails a line.
    """

    side: int
    slot_N: np.ndarray
    sheets: list[str]


def most_thumbnails() -> int:
    """How many thumbnails a page holds at most."""
    return SIDES[-1][0]


def make_sprites(images: Images, rows: Sequence[int] | np.ndarray) -> Sprites:
    """Thumbnails of some samples.

    Args:
        images: N paths, or the images as (N, H, W) or (N, H, W, 3) uint8.
        rows: the samples, at most `most_thumbnails()`.
    """
    rows = np.asarray(rows)
    side = next((side for most, side in SIDES if len(rows) <= most), SIDES[-1][1])
    if isinstance(images, np.ndarray):
        side = min(side, max(images.shape[1:3]))
    slot_N = np.full(len(images), -1, np.int32)
    slot_N[rows] = np.arange(len(rows))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding gives the interpreter free
        return Sprites(side, slot_N, [*_sheets(images, rows, side, pool)])


def _sheets(images: Images, rows: np.ndarray, side: int, pool: ThreadPoolExecutor) -> Iterator[str]:
    for start in range(0, len(rows), PER_SHEET):
        part = rows[start : start + PER_SHEET].tolist()
        sheet = Image.new("RGBA", (COLUMNS * side, -(-len(part) // COLUMNS) * side))
        thumbnails = pool.map(lambda row: image_thumbnail(images[row], side), part)
        for place, thumbnail in enumerate(thumbnails):
            line, column = divmod(place, COLUMNS)
            left, top = (side - thumbnail.width) // 2, (side - thumbnail.height) // 2
            sheet.paste(thumbnail, (column * side + left, line * side + top))
        stream = io.BytesIO()
        sheet.save(stream, "WEBP", quality=QUALITY, method=3)
        yield base64.b64encode(stream.getvalue()).decode("ascii")
