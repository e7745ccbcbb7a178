"""Rows of images: a sample, then its nearest neighbors (Zhou and Zhang 2022, figure 2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from deepclust.features.feature_set import FeatureSet
from deepclust.features.idx import fashion_mnist
from deepclust.neighbors import Neighbors
from deepclust.report.contact_sheet import Images, contact_sheet, image_thumbnail
from deepclust.runtime.errors import InputError

# Around the sample itself, and around a neighbor of another class.
_SAMPLE, _OTHER = "#0072B2", "#D55E00"
_FRAME = 3
# Files of which one must be there: somebody may have removed the first.
LOOKED_FOR = 100


def images_of(features: FeatureSet) -> Images | None:
    """The images behind features: their files, or the pixels that the features are; None where neither is known.

    Features that were extracted from Fashion-MNIST have its images again, wherever they are found.
    """
    files = features.files
    if files is not None:
        return files if any(one.is_file() for one in itertools.islice(files, LOOKED_FOR)) else None
    source = features.manifest.get("source")
    if not isinstance(source, dict):
        return None
    if source.get("name") in ("fashion_mnist train", "fashion_mnist test"):
        try:
            images, _ = fashion_mnist(source["name"].split()[1])
        except InputError:
            return None
        return images if len(images) == len(features) else None
    side = int(np.sqrt(features.dim))
    if source.get("kind") not in ("scikit-learn", "fashion_mnist") or side * side != features.dim:
        return None
    pixels = 255 * np.clip(np.asarray(features.features, dtype=np.float32), 0, 1)
    return pixels.round().astype(np.uint8).reshape(-1, side, side)


def neighbor_rows(
    images: Images,
    neighbors: Neighbors,
    rows: Sequence[int],
    *,
    labels: np.ndarray | None = None,
    k: int = 5,
    thumbnail: int = 72,
) -> Image.Image:
    """An image per line with its k nearest neighbors, the nearest first; neighbors of another class are framed.

    Args:
        images: N paths, or the images as (N, H, W) or (N, H, W, 3) uint8.
        neighbors: of the same samples.
        rows: the samples to show.
        labels: class ids, for the frames.
        k: neighbors to show; 5 in TSP's figure.
        thumbnail: side of the square that an image is fitted into, in pixels.

    Raises:
        InputError: if there is not one image per sample.
    """
    if len(images) != len(neighbors):
        raise InputError(f"{len(images)} images for the neighbors of {len(neighbors)} samples: give one per sample")
    k = min(k, neighbors.k)
    cells = []
    for row in rows:
        for place, sample in enumerate([row, *neighbors.ids[row, :k].tolist()]):
            frame = "white"
            if place == 0:
                frame = _SAMPLE
            elif labels is not None and labels[sample] != labels[row]:
                frame = _OTHER
            fitted = ImageOps.pad(image_thumbnail(_image_of_row(images, sample), thumbnail), (thumbnail, thumbnail))
            cells.append(ImageOps.expand(fitted, border=_FRAME, fill=frame))
    title = f"a sample and its {k} nearest neighbors" + ("" if labels is None else "; framed orange: of another class")
    return contact_sheet(cells, title=title, columns=k + 1)


def one_of_each(labels: np.ndarray | None, n_samples: int, n_rows: int = 10, seed: int = 0) -> list[int]:
    """Samples to show: one of each class, of the largest classes where there are more than `n_rows`; else any."""
    rng = np.random.default_rng(seed)
    if labels is None:
        return sorted(rng.choice(n_samples, min(n_rows, n_samples), replace=False).tolist())
    classes, sizes = np.unique(labels, return_counts=True)
    shown = np.sort(classes[np.argsort(-sizes, kind="stable")[:n_rows]])
    return [int(rng.choice(np.flatnonzero(labels == label))) for label in shown]


def _image_of_row(images: Images, row: int) -> str | Path | np.ndarray:
    return images[row]  # type: ignore[return-value]
