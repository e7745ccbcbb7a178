"""Views of clustered images: a contact sheet of each cluster.

Shape suffixes: N images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from deepclust.clustering import NOISE, Clustering
from deepclust.extraction.images import UnreadableImageError, read_image
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import written_whole

Images = Sequence[str | os.PathLike] | np.ndarray

# Thumbnails that are kept: 37 kB each.
_KEPT = 8000
_MARGIN = 4
_HEADER = 28
_INK, _PAPER, _UNREADABLE, _HAIRLINE = (32, 32, 32), (255, 255, 255), (216, 216, 216), (200, 200, 200)


def confidences(clustering: Clustering) -> np.ndarray | None:
    """(N,) probability of each image's own cluster; None for a method that has none."""
    return None if clustering.top_probs is None else clustering.top_probs[:, 0]


class Thumbnails:
    """Images fitted into a square, each made once: several methods show the same ones.

    Args:
        images: N image paths, or the images themselves as (N, H, W) or (N, H, W, 3) uint8.
    """

    def __init__(self, images: Images) -> None:
        self.images = images
        self._made: dict[tuple[int, int], Image.Image] = {}

    def __len__(self) -> int:
        return len(self.images)

    def fitted(self, row: int, side: int) -> Image.Image:
        """An image in a square of that side, in pixels."""
        if (row, side) not in self._made:
            thumbnail = image_thumbnail(self.images[row], side)
            if len(self._made) >= _KEPT:
                return thumbnail
            self._made[row, side] = thumbnail
        return self._made[row, side]


def write_contact_sheets(
    folder: str | os.PathLike,
    images: Images | Thumbnails,
    clustering: Clustering,
    *,
    per_cluster: int = 36,
    max_clusters: int = 200,
    thumbnail: int = 112,
) -> list[Path]:
    """Write a contact sheet per cluster: its most confident images, the most confident first.

    The sheets are `cluster-00003.jpg` for cluster 3, and `noise.jpg` if there is noise. Clusters without members have
    none.

    Args:
        folder: where to write them.
        images: N image paths, the images themselves as (N, H, W) or (N, H, W, 3) uint8, or their thumbnails.
        clustering: the clustering of these images. Without probabilities, images come in their own order.
        per_cluster: images on a sheet, at most.
        max_clusters: sheets to write, at most; the largest clusters have them.
        thumbnail: side of the square that an image is fitted into, in pixels.

    Returns:
        The files, the largest cluster's first.

    Raises:
        InputError: if there is not one image per label.
    """
    _require_one_each(len(images), clustering, "images")
    folder = Path(folder)
    thumbnails = images if isinstance(images, Thumbnails) else Thumbnails(images)
    files = []
    for cluster, size, rows in _most_confident(clustering, per_cluster, max_clusters):
        file = folder / ("noise.jpg" if cluster == NOISE else f"cluster-{cluster:05d}.jpg")
        title = _title(cluster, size, rows, confidences(clustering))
        sheet = contact_sheet([thumbnails.fitted(int(row), thumbnail) for row in rows], title=title)
        with written_whole(file) as temporary:
            sheet.save(temporary, quality=90)
        files.append(file)
    return files


def contact_sheet(images: Sequence[Image.Image], *, title: str = "", columns: int | None = None) -> Image.Image:
    """Images in a grid, row by row, under a title.

    Args:
        images: at least one; each cell is as large as the largest.
        title: one line above.
        columns: default: as many as make the grid square.
    """
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    n_rows = -(-len(images) // columns)
    width, height = max(image.width for image in images), max(image.height for image in images)
    font = ImageFont.load_default(size=14)
    title_width = int(font.getlength(title)) + 2 * _MARGIN
    canvas = Image.new(
        "RGB",
        (max(title_width, columns * (width + _MARGIN) + _MARGIN), n_rows * (height + _MARGIN) + _MARGIN + _HEADER),
        _PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN + 2), title, fill=_INK, font=font)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left = _MARGIN + column * (width + _MARGIN) + (width - image.width) // 2
        top = _HEADER + _MARGIN + row * (height + _MARGIN) + (height - image.height) // 2
        canvas.paste(image, (left, top))
        # Around the image, so that a white one is seen on the paper.
        draw.rectangle((left - 1, top - 1, left + image.width, top + image.height), outline=_HAIRLINE)
    return canvas


def _require_one_each(n: int, clustering: Clustering, what: str) -> None:
    if n != len(clustering):
        raise InputError(f"{n} {what} for {len(clustering)} labels of {clustering.method}: give one per image")


def _most_confident(
    clustering: Clustering, per_cluster: int, max_clusters: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(cluster, its size, rows of its most confident members), the largest cluster first."""
    confidence = confidences(clustering)
    keys = np.zeros(len(clustering)) if confidence is None else -np.asarray(confidence, dtype=np.float64)
    order = np.lexsort((keys, clustering.labels))
    clusters, starts, sizes = np.unique(clustering.labels[order], return_index=True, return_counts=True)
    for i in np.argsort(-sizes, kind="stable")[:max_clusters]:
        yield int(clusters[i]), int(sizes[i]), order[starts[i] : starts[i] + min(per_cluster, sizes[i])]


def _title(cluster: int, size: int, rows: np.ndarray, confidence: np.ndarray | None) -> str:
    name = "noise" if cluster == NOISE else f"cluster {cluster}"
    shown = f"{name} · {size:,} images · the {len(rows)}"
    if confidence is None:
        return f"{shown} first"
    return f"{shown} most confident: {confidence[rows[0]]:.3f} to {confidence[rows[-1]]:.3f}"


def image_thumbnail(content: str | os.PathLike | np.ndarray, side: int) -> Image.Image:
    """An image fitted into a square of that side, in pixels; gray where its file cannot be read."""
    if isinstance(content, np.ndarray):
        image = Image.fromarray(content)
    else:
        try:
            image = read_image(content, shrink_to=side)
        except UnreadableImageError:  # it could be read when it was embedded, and has changed since
            return Image.new("RGB", (side, side), _UNREADABLE)
    # A line of pixels a thousand times longer than wide would be fitted to nothing.
    fitted = ImageOps.contain(image, (side, side), Image.Resampling.BICUBIC) if _is_shown_whole(image, side) else image
    return fitted.crop((0, 0, min(side, fitted.width), min(side, fitted.height))).convert("RGB")


def _is_shown_whole(image: Image.Image, side: int) -> bool:
    return min(image.size) * side >= max(image.size)
