"""What `deepclust.notebook_methods` hands to notebooks, made by the same code as tables and pages of runs.

Shape suffixes: N samples.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from deepclust.clustering import NOISE, Clustering, display_name
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import distance_of, score
from deepclust.neighbors import cached_neighbors
from deepclust.report.cluster_figures import embedding_figure
from deepclust.report.cluster_names import names_of
from deepclust.report.contact_sheet import Images, contact_sheet, image_thumbnail
from deepclust.report.map_layout import MAPS, map_layout
from deepclust.report.member_scores import most_typical
from deepclust.report.neighbor_rows import images_of
from deepclust.report.page import write_page
from deepclust.report.page_parts import MOST_ROWS, NEIGHBORS, Found, assembled_page, noun_of
from deepclust.report.sample_tables import name_of, samples_table
from deepclust.runtime.errors import InputError

if TYPE_CHECKING:
    import pandas

THUMBNAIL = 96
QUALITY = 85
LONGEST_TEXT = 100


@dataclass(frozen=True)
class Members:
    """The most typical members of a cluster.

    Attributes:
        title: its name, its size, how many are shown.
        rows: their row numbers, the most typical first.
        told: a line of each: its text, else its id or path, else its row number.
        sheet: their thumbnails, or None where there are no images.
    """

    title: str
    rows: np.ndarray
    told: Sequence[str]
    sheet: Image.Image | None = None

    def __repr__(self) -> str:
        return "\n".join([self.title, *(f"  {one}" for one in self.told)])

    def _repr_jpeg_(self) -> bytes | None:
        """Notebooks show the thumbnails; without any they show the lines."""
        if self.sheet is None:
            return None
        stream = io.BytesIO()
        self.sheet.save(stream, "JPEG", quality=QUALITY)
        return stream.getvalue()


def samples_frame(clustering: Clustering, features: FeatureSet, texts: Sequence[str] | None) -> pandas.DataFrame:
    """A row per sample."""
    told = _texts(texts, features)
    names = _names(clustering, features, told)
    table = samples_table(features, {clustering.method: clustering}, {clustering.method: names})
    if told is not None and "text" not in table.column_names:
        table = table.add_column(1, "text", [told])
    try:
        return table.to_pandas()
    except ImportError:
        raise InputError("to_frame needs pandas: pip install pandas") from None


def map_figure(
    clustering: Clustering, features: FeatureSet, texts: Sequence[str] | None, kind: str, seed: int
) -> Figure:
    """The samples in the plane, by cluster and by label."""
    _check_map(kind)
    names = _names(clustering, features, _texts(texts, features))
    places_N2, map_name = map_layout(features, kind, seed)
    figure = embedding_figure(places_N2, clustering, features.labels, features.class_names, names)
    figure.supxlabel(f"{len(features):,} samples by {map_name}", fontsize=7)
    return figure


def typical_members(
    clustering: Clustering,
    features: FeatureSet,
    cluster: int,
    images: Images | None,
    texts: Sequence[str] | None,
    n: int,
) -> Members:
    """The members of a cluster that are nearest to its center."""
    images, texts = _images(images, features), _texts(texts, features)
    n_members = int((clustering.labels == cluster).sum())
    if n_members == 0:
        found = np.unique(clustering.labels)
        raise InputError(f"cluster {cluster} has no members: choose one of {', '.join(map(str, found[:20]))}")
    if n < 1:
        raise InputError(f"n is {n}: show 1 member or more")
    rows = most_typical(features, clustering.labels, cluster)[:n]
    name = name_of(_names(clustering, features, texts), cluster)
    number = "" if cluster == NOISE or name == f"cluster {cluster}" else f"cluster {cluster}: "
    noun = noun_of(images is not None, texts is not None)
    title = f"{number}{name} · {n_members:,} {noun} · the {len(rows)} most typical"
    sheet = None
    if images is not None:
        sheet = contact_sheet([image_thumbnail(images[row], THUMBNAIL) for row in rows], title=title)
    return Members(title, rows, _told(features, texts, rows), sheet)


def write_notebook_page(
    path: str | os.PathLike,
    clustering: Clustering,
    features: FeatureSet,
    images: Images | None,
    texts: Sequence[str] | None,
    kind: str,
    seed: int,
) -> Path:
    """The page of one clustering."""
    _check_map(kind)
    images, texts = _images(images, features), _texts(texts, features)
    title = display_name(clustering.method)
    row = score(clustering, features.features, features.labels, silhouette_metric=distance_of(features))
    agreement_N, n_heads = None, 0
    if clustering.disagreement is not None:
        agreement_N = 1 - clustering.disagreement
        n_heads = int(np.isfinite(clustering.settings["head_losses"]).sum())
    neighbors = None
    if NEIGHBORS < len(features) <= MOST_ROWS:
        neighbors = cached_neighbors(features, NEIGHBORS)
    page = assembled_page(
        features,
        [Found(clustering, title, row, agreement_N, n_heads)],
        title=f"{len(features):,} {noun_of(images is not None, texts is not None)}",
        facts=[],
        why=f"The clusters are those of {title}.",
        run=None,
        images=images,
        texts=texts,
        neighbors=neighbors,
    )
    return write_page(path, page, map_kind=kind, seed=seed)


def _names(clustering: Clustering, features: FeatureSet, texts: Sequence[str] | None) -> dict[int, str]:
    given = {int(cluster): str(name) for cluster, name in clustering.settings.get("names", {}).items()}
    return {**names_of(features.labels, features.class_names, texts, clustering.labels), **given}


def _told(features: FeatureSet, texts: Sequence[str] | None, rows: np.ndarray) -> list[str]:
    if texts is not None:
        lines = [" ".join(str(texts[row]).split()) for row in rows]
        return [line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…" for line in lines]
    known = features.ids or features.paths
    return [f"row {row}" if known is None else str(known[row]) for row in rows.tolist()]


def _texts(texts: Sequence[str] | None, features: FeatureSet) -> Sequence[str] | None:
    """The texts that were given, else those of the features; one per sample, a missing one is empty."""
    if texts is None:
        return features.texts
    if isinstance(texts, str):
        raise InputError("texts is a single text: give a list, one per sample")
    told = ["" if text is None or text != text else str(text) for text in texts]  # NaN differs from itself
    _check_one_each(len(told), features, "texts")
    return told


def _images(images: Images | None, features: FeatureSet) -> Images | None:
    """The images that were given, else those of the features; one per sample."""
    if images is None:
        return images_of(features)
    _check_one_each(len(images), features, "images")
    if isinstance(images, np.ndarray) and images.dtype != object and images.dtype.kind != "U":
        _check_pixels(images, images.shape[1:])
        return images
    each = list(images)
    for one in each:
        if isinstance(one, np.ndarray):
            _check_pixels(one, one.shape)
        elif not isinstance(one, str | os.PathLike):
            raise InputError(f"images hold values of type {type(one).__name__}: give paths, or uint8 arrays")
    missing = [one for one in each if not isinstance(one, np.ndarray) and not Path(one).is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(each)} images are no files, the first of them {missing[0]}")
    return each


def _check_one_each(n: int, features: FeatureSet, what: str) -> None:
    if n != len(features):
        raise InputError(f"{n} {what} for {len(features)} samples: give one per sample")


def _check_pixels(pixels: np.ndarray, shape: tuple[int, ...]) -> None:
    """Of an image, or of all of them."""
    if pixels.dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
        raise InputError(f"images of {pixels.dtype} and shape {shape}: give uint8 and (H, W) or (H, W, 3), or paths")


def _check_map(kind: str) -> None:
    if kind not in MAPS:
        raise InputError(f"kind is '{kind}': choose one of {', '.join(MAPS)}")
