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
from deepclust.report.map_layout import map_layout
from deepclust.report.member_scores import member_scores
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
    names = _names(clustering, features, _one_each(texts, features, "texts"))
    table = samples_table(features, {clustering.method: clustering}, {clustering.method: names})
    if texts is not None and "text" not in table.column_names:
        table = table.add_column(1, "text", [list(map(str, texts))])
    try:
        return table.to_pandas()
    except ImportError:
        raise InputError("to_frame needs pandas: pip install pandas") from None


def map_figure(
    clustering: Clustering, features: FeatureSet, texts: Sequence[str] | None, kind: str, seed: int
) -> Figure:
    """The samples in the plane, by cluster and by label."""
    names = _names(clustering, features, _one_each(texts, features, "texts"))
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
    images, texts = _images(images, features), _one_each(texts, features, "texts")
    members = np.flatnonzero(clustering.labels == cluster)
    if len(members) == 0:
        found = np.unique(clustering.labels)
        raise InputError(f"cluster {cluster} has no members: choose one of {', '.join(map(str, found[:20]))}")
    if n < 1:
        raise InputError(f"n is {n}: show 1 member or more")
    typical_N = member_scores(features, clustering.labels).typical_N
    rows = members[np.argsort(-typical_N[members], kind="stable")[:n]]
    name = name_of(_names(clustering, features, texts), cluster)
    number = "" if cluster == NOISE or name == f"cluster {cluster}" else f"cluster {cluster}: "
    noun = noun_of(images is not None, texts is not None)
    title = f"{number}{name} · {len(members):,} {noun} · the {len(rows)} most typical"
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
    images, texts = _images(images, features), _one_each(texts, features, "texts")
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
        facts=[f"Every sample is {features.dim} numbers; clusters are samples that are alike in them."],
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


def _one_each(texts: Sequence[str] | None, features: FeatureSet, what: str) -> Sequence[str] | None:
    """The texts that were given, else those of the features; one per sample."""
    if texts is None:
        return features.texts
    if isinstance(texts, str) or len(texts) != len(features):
        raise InputError(f"{len(texts)} {what} for {len(features)} samples: give one per sample")
    return list(texts)


def _images(images: Images | None, features: FeatureSet) -> Images | None:
    """The images that were given, else those of the features; one per sample."""
    if images is None:
        return images_of(features)
    if len(images) != len(features):
        raise InputError(f"{len(images)} images for {len(features)} samples: give one per sample")
    if not isinstance(images, np.ndarray) or images.dtype.kind in "OU":
        return list(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)):
        raise InputError(
            f"images are {images.dtype} {images.shape}: give uint8 of shape (N, H, W) or (N, H, W, 3), or N paths"
        )
    return images
