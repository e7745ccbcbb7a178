"""One cell of the matrix: a data set by an encoder, reduced, clustered and scored; and where finished cells are kept.

folder/
  cells/<data set>.<encoder>.<clusterer>.<key>.json   the scores, or why there are none; and .npz, the Clustering
  reduced/                                            reduced features, shared by the cells of one space

A cell's key is a digest of the features' content and of every setting: a finished cell is never made twice, and a
changed setting never meets an old one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.clusterers import Clusterer, Linkages, make_clusterer
from deepclust.clusterers.base import MAX_SAMPLES
from deepclust.clustering import NOISE, Clustering
from deepclust.metrics import ami, one_sided_ami, silhouette
from deepclust.reduction.reduction import Reduction
from deepclust.reduction.splits import REDUCTION_VERSIONS, reduced_splits
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint, read_json, write_json
from deepclust.zero_shot.data import LoadedData
from deepclust.zero_shot.heads_clusterer import HeadsClusterer
from deepclust.zero_shot.protocol import CLASSES, HEADS, PROTOCOL_CLUSTERERS, Settings

# Raised whenever a cell's result changes.
CELL_VERSION = 2
# Beyond the memory at hand the paper has no result of these; a sample gives one, and the tables mark it.
SAMPLED_BEYOND_MEMORY = ("affinity_propagation",)

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """The settings of one cell; the number of clusters is the data set's.

    Attributes:
        dataset, encoder: which features.
        clusterer: a name of `protocol.PROTOCOL_CLUSTERERS`, or `classes`: the labels as if they were a clustering.
        reduction: `kind` and `dims` or `variance`.
        options: of the clusterer.
        seed: of the reduction and the clusterer.
        silhouette: its distance in the reduced space; None leaves it out, as the search does.
    """

    dataset: str
    encoder: str
    clusterer: str
    reduction: Settings
    options: Settings = field(default_factory=dict)
    seed: int = 0
    silhouette: str | None = "euclidean"

    @property
    def space(self) -> tuple[str, str, str]:
        """Cells of one space share the reduced features."""
        return self.dataset, self.encoder, json.dumps(dict(self.reduction), sort_keys=True)

    def key(self, data: LoadedData) -> str:
        settings = {name: value for name, value in asdict(self).items() if name not in ("dataset", "encoder")}
        changed = [REDUCTION_VERSIONS[kind] for kind in REDUCTION_VERSIONS if kind == self.reduction["kind"]]
        return fingerprint(data.key, settings, CELL_VERSION, *changed)


class CellStore:
    """The folder that finished cells lie in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, cell: Cell, data: LoadedData) -> Path:
        return self.folder / "cells" / f"{cell.dataset}.{cell.encoder}.{cell.clusterer}.{cell.key(data)}.json"

    def read(self, cell: Cell, data: LoadedData, *, retry: bool = False) -> Row | None:
        """The row of a finished cell; None where it has to be made. `retry` makes those without a result again."""
        path = self.path(cell, data)
        if not path.is_file():
            return None
        try:
            row = read_json(path)
        except InputError as error:
            print(f"{error.cause}: made again", flush=True)
            return None
        return None if retry and row["reason"] else row

    def reduced(self, cell: Cell, data: LoadedData) -> tuple[np.ndarray, float]:
        """The reduced features, made once, and the seconds that took.

        Raises:
            InputError: if the reduction does not suit the features.
        """
        reduction = Reduction(**cell.reduction, seed=cell.seed)
        reduced = reduced_splits(reduction, {"fitted_on": data.features}, cache_dir=self.folder / "reduced")[
            "fitted_on"
        ]
        space_MD = np.array(reduced.features[:], dtype=np.float32)
        return space_MD, reduced.manifest.get("reduction_seconds", 0.0)


def run_space(cells: Sequence[Cell], data: LoadedData, store: CellStore, *, retry: bool = False) -> list[Row]:
    """The rows of cells that share one space, in their order; those that are missing are made and kept.

    A cell that is refused or fails keeps its reason in its row and leaves the others alone. Agglomerative cells that
    differ only in where the tree is cut share the tree.
    """
    rows: dict[int, Row] = {}
    for place, cell in enumerate(cells):
        finished = store.read(cell, data, retry=retry)
        if finished is not None:
            rows[place] = finished
    missing = [place for place in range(len(cells)) if place not in rows]
    if missing:
        space_MD: np.ndarray | None = None
        seconds, reason = 0.0, ""
        try:
            space_MD, seconds = store.reduced(cells[missing[0]], data)
        except Exception as error:  # the libraries raise their own for what they cannot reduce
            reason = _reason(error)
        linkages = Linkages()
        for place in missing:
            cell = cells[place]
            rows[place] = _make_cell(cell, data, space_MD, linkages, seconds, reason, store.path(cell, data))
    return [rows[place] for place in range(len(cells))]


def _make_cell(
    cell: Cell,
    data: LoadedData,
    space_MD: np.ndarray | None,
    linkages: Linkages,
    seconds: float,
    reason: str,
    path: Path,
) -> Row:
    row: Row = {
        **asdict(cell),
        "n_samples": len(data.features),
        "n_fitted": None,
        "converged": None,
        "n_dims": None if space_MD is None else space_MD.shape[1],
        "n_classes": data.n_clusters,
        "n_found": None,
        "noise": None,
        "ami": None,
        "one_sided_ami": {},
        "silhouette_metric": cell.silhouette,
        "silhouette": None,
        "silhouette_reason": "",
        "reduction_seconds": seconds,
        "seconds": None,
        "notes": [],
        "reason": reason,
        "cell": path.name,
    }
    if space_MD is not None:
        try:
            if cell.clusterer == CLASSES:
                clustering = _classes(data)
            else:
                clusterer = _clusterer(cell, data, linkages, len(space_MD))
                clustering = clusterer.fit(space_MD)
                row.update(n_fitted=clusterer.n_fitted(len(space_MD)), converged=clusterer.converged)
            row.update(_scores(cell, data, space_MD, clustering))
        except Exception as error:  # a library's failure on one cell must not take the matrix with it
            row["reason"] = _reason(error)
        else:
            clustering.save(path.with_suffix(".npz"))
    # The row comes last: it says that the cell is finished.
    write_json(path, row)
    return row


def _classes(data: LoadedData) -> Clustering:
    if data.labels is None:
        raise InputError("there are no labels")
    return Clustering(data.labels.astype(np.int32), CLASSES, data.n_clusters)


def _clusterer(cell: Cell, data: LoadedData, linkages: Linkages, n_rows: int) -> Clusterer:
    """The cell's clusterer, for all rows; one that holds all pairs, for a sample where the memory does not."""
    clusterer = PROTOCOL_CLUSTERERS[cell.clusterer]
    n_clusters = data.n_clusters if clusterer.given_n_clusters else None
    if clusterer.given_n_clusters and n_clusters is None:
        raise InputError(f"{clusterer.title} needs the number of clusters: set data.{cell.dataset}.n_clusters")
    options = {"normalize": "none", **cell.options, "seed": cell.seed}
    if clusterer.method == HEADS:
        return HeadsClusterer(n_clusters, **options)
    made = make_clusterer(clusterer.method, linkages, n_clusters=n_clusters, **options)
    if cell.clusterer in SAMPLED_BEYOND_MEMORY and made.max_samples is None:
        try:
            made.check(n_rows)
        except InputError:
            return make_clusterer(clusterer.method, linkages, **{**options, "max_samples": MAX_SAMPLES})
    return made


def _scores(cell: Cell, data: LoadedData, space_MD: np.ndarray, clustering: Clustering) -> Row:
    labels_M = clustering.labels
    scores: Row = {
        "n_found": clustering.n_found,
        "noise": float((labels_M == NOISE).mean()),
        "seconds": round(clustering.seconds, 3),
        "notes": list(clustering.notes),
    }
    if data.labels is not None:
        scores["ami"] = ami(data.labels, labels_M)
        levels: Mapping[str, np.ndarray] = {**data.levels, "class": data.labels}
        scores["one_sided_ami"] = {name: one_sided_ami(level, labels_M) for name, level in levels.items()}
    if cell.silhouette is not None:
        result = silhouette(space_MD, labels_M, metric=cell.silhouette, seed=cell.seed)  # type: ignore[arg-type]
        scores["silhouette"], scores["silhouette_reason"] = result.value, result.reason
    return scores


def _reason(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
