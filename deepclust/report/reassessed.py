"""Panels of images whose label was reassessed (figures 1 and 9 to 11 of Adaloglou et al. 2024).

Shape suffixes: N images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from deepclust.report.contact_sheet import Images, contact_sheet, image_thumbnail
from deepclust.runtime.files import written_whole


def write_reassessed(
    folder: Path,
    images: Images,
    labels_N: np.ndarray,
    reassessed_N: np.ndarray,
    class_names: Sequence[str],
    *,
    n_classes: int = 12,
    n_labels: int = 4,
    per_label: int = 6,
    thumbnail: int = 112,
) -> list[Path]:
    """Write a panel per class: its images that have another label now, a row per new label, the most frequent first.

    Args:
        folder: where to; the files are `<number>-<class>.jpg`.
        images: N image paths, or the images themselves.
        labels_N, reassessed_N: the class of each before and after.
        class_names: of both.
        n_classes: panels; the classes with the most reassessed images have them, at equal numbers the first.
        n_labels: rows of a panel, at most.
        per_label: images of a row, at most: the first.
        thumbnail: side of the square that an image is fitted into, in pixels.

    Returns:
        The files; none where no label has changed.
    """
    changed_N = labels_N != reassessed_N
    sizes = np.bincount(labels_N, minlength=len(class_names))
    counts = np.bincount(labels_N[changed_N], minlength=len(class_names))
    files = []
    for label in np.argsort(-counts, kind="stable")[:n_classes]:
        if not counts[label]:
            break
        rows = np.flatnonzero(changed_N & (labels_N == label))
        new, of_each = np.unique(reassessed_N[rows], return_counts=True)
        strips = []
        for other in new[np.argsort(-of_each, kind="stable")][:n_labels]:
            shown = rows[reassessed_N[rows] == other]
            tiles = [image_thumbnail(images[row], thumbnail) for row in shown[:per_label]]
            tiles += [Image.new("RGB", (thumbnail, thumbnail), "white")] * (per_label - len(tiles))
            strips.append(contact_sheet(tiles, title=f"{class_names[other]} · {len(shown)}", columns=per_label))
        title = f"{class_names[label]} · {counts[label]} of {sizes[label]} reassessed"
        # Two classes may have one word, such as crane.
        file = folder / f"{label:05d}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', class_names[label])[:80]}.jpg"
        with written_whole(file) as temporary:
            contact_sheet(strips, title=title, columns=1).save(temporary, "JPEG", quality=90)
        files.append(file)
    return files
