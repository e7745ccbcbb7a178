"""A person's changes to a clustering: read from the file that a page saved, replayed, handed on as tables and folders.

run folder/edited/
  clustering.npz      the Clustering with the changes; clusters that were not touched keep their ids
run folder/edited/ or elsewhere:
  samples.csv         row, path where there is one, cluster, name, confidence, marked
  clusters.csv        cluster, name, size, the most typical samples
  folders/NAME/       an image each: links, copies, or instead of them moves.csv, a list of (from, to)

Shape suffixes: N samples.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.clustering import NOISE, Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.report.contact_sheet import confidences
from deepclust.report.member_scores import member_scores, nearest_clusters
from deepclust.report.sample_tables import name_of
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint, make_folder, read_json, written_whole

FORMAT = 1
FOLDERS = ("links", "copies", "list", "none")
TYPICAL = 5
LONGEST_NAME = 80
REMEDY = "download it from the page again"


@dataclass
class Edited:
    """A clustering with a person's changes.

    Attributes:
        clustering: with the changed cluster ids; `settings["names"]` holds the names.
        names: of clusters by id, as far as they have one.
        marked: row numbers, ascending.
        n_steps: how many changes were made.
    """

    clustering: Clustering
    names: dict[int, str] = field(default_factory=dict)
    marked: list[int] = field(default_factory=list)
    n_steps: int = 0

    def name(self, cluster: int) -> str:
        """What a cluster is called in tables and folders."""
        return name_of(self.names, cluster)


def read_edits(path: Path) -> dict[str, Any]:
    """The changes that a page saved.

    Raises:
        InputError: if there is none, or it holds anything else.
    """
    if not path.is_file():
        raise InputError(f"edits={path}: no such file: download the changes from the page and name the file here")
    edits = read_json(path, REMEDY)
    if not isinstance(edits, dict) or not isinstance(edits.get("steps"), list):
        raise InputError(f"{path} holds no changes of a page: {REMEDY}")
    if edits.get("deepclust_edits") != FORMAT:
        raise InputError(f"{path} has format {edits.get('deepclust_edits')}, this version reads {FORMAT}: {REMEDY}")
    return edits


def edited_clustering(
    edits: Mapping[str, Any],
    clusterings: Mapping[str, Clustering],
    where: str,
    features: FeatureSet | None = None,
) -> Edited:
    """The clustering that the changes were made to, with the changes.

    Args:
        edits: as `read_edits` gives them.
        clusterings: those that it may be, by name.
        where: the file, for messages.
        features: of `replayed`.

    Raises:
        InputError: if the changes were made to none of these, or one of them cannot be.
    """
    made_of = [one for one in clusterings.values() if fingerprint(one.labels.astype(np.int32)) == edits.get("made_of")]
    if not made_of:
        raise InputError(
            f"{where} was made for other clusters than those of this run: name the run whose page it comes from, or "
            "make the page and the changes again"
        )
    return replayed(made_of[0], edits["steps"], where, features)


def replayed(
    clustering: Clustering, steps: Sequence[Any], where: str = "edits", features: FeatureSet | None = None
) -> Edited:
    """A clustering after some changes, in their order.

    Args:
        clustering: is not changed.
        steps: as a page writes them: `{"step": "rename", "id", "name"}`, `{"step": "merge", "ids", "into"}`,
            `{"step": "move", "rows", "to"}`, `{"step": "split", "id", "rows", "to"}`, `{"step": "mark", "rows", "on"}`.
            `rows` of a split are those that leave cluster `id` for a new one; of a page that holds some of the samples
            alone, `rest` are those that stay, and every other member goes with the part whose center is nearer.
        where: the file, for messages.
        features: of the samples, for such a `rest`.

    Raises:
        InputError: naming the first step that is none.

    Example:
        >>> found = Clustering(np.array([0, 1, 2]), "kmeans")
        >>> replayed(found, [{"step": "merge", "ids": [1, 2], "into": 1}]).clustering.labels.tolist()
        [0, 1, 1]
    """
    labels_N = clustering.labels.astype(np.int32)
    names = {int(cluster): str(name) for cluster, name in clustering.settings.get("names", {}).items()}
    marked = set(clustering.settings.get("marked", []))
    # Ids that clusters have or had: a change of any other would change nothing.
    known = set(np.unique(labels_N).tolist())
    for number, step in enumerate(steps, start=1):
        try:
            kind = step["step"]
            if kind == "rename":
                names[_id(step["id"], known)] = str(step["name"])
                if not step["name"]:
                    del names[step["id"]]
            elif kind == "merge":
                labels_N[np.isin(labels_N, [_id(one, known) for one in step["ids"]])] = _id(step["into"])
            elif kind == "move":
                labels_N[_rows(step["rows"], len(labels_N))] = _id(step["to"])
            elif kind == "split":
                labels_N = _split(labels_N, step, features)
            elif kind == "mark":
                rows = _rows(step["rows"], len(labels_N)).tolist()
                marked = marked | set(rows) if step["on"] else marked - set(rows)
            else:
                raise ValueError(kind)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(f"{where}: change {number} cannot be made ({str(step)[:80]}): {REMEDY}") from None
        known.update(step[key] for key in ("into", "to") if key in step)
    there = {cluster: name for cluster, name in names.items() if (labels_N == cluster).any()}
    same_N = labels_N == clustering.labels
    # What the method thought of a sample is no confidence in where a person has put it.
    probs_NT = None if clustering.top_probs is None else np.where(same_N[:, None], clustering.top_probs, 1.0)
    changed = replace(
        clustering,
        labels=labels_N,
        top_ids=None,
        top_probs=None if probs_NT is None else probs_NT[:, :1].astype(np.float32),
        settings={**clustering.settings, "names": there, "marked": sorted(marked)},
        notes=[f"A person made {len(steps)} changes to the clusters that the method found."]
        if steps
        else clustering.notes,
        n_clusters=None if steps else clustering.n_clusters,
        repeats=None,
        disagreement=None if steps else clustering.disagreement,
    )
    return Edited(changed, there, sorted(marked), len(steps))


def _split(labels_N: np.ndarray, step: Mapping[str, Any], features: FeatureSet | None) -> np.ndarray:
    """The cluster ids after a cluster was split in two."""
    cluster, new, rows = _id(step["id"]), _id(step["to"]), _rows(step["rows"], len(labels_N))
    members = np.flatnonzero(labels_N == cluster)
    kept = np.setdiff1d(members, rows)
    if NOISE in (cluster, new) or (labels_N == new).any() or not np.isin(rows, members).all():
        raise ValueError(new)
    if not len(rows) or not len(kept):
        raise ValueError(rows)
    labels_N = labels_N.copy()
    if "rest" in step:
        rest = _rows(step["rest"], len(labels_N))
        others = np.setdiff1d(kept, rest)
        if features is None or not len(rest) or not np.isin(rest, kept).all():
            raise ValueError(rest)
        parts_N = np.full(len(labels_N), NOISE, np.int32)
        parts_N[rest], parts_N[rows] = cluster, new
        labels_N[others] = nearest_clusters(features, parts_N, features.select(others))
    labels_N[rows] = new
    return labels_N


def _id(value: Any, known: Collection[int] | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not NOISE <= value < 2**31:
        raise ValueError(value)
    if known is not None and value not in known:
        raise ValueError(value)
    return value


def _rows(values: Any, n_samples: int) -> np.ndarray:
    rows = np.array(values if isinstance(values, list) else [None], dtype=object)
    if not all(isinstance(row, int) and not isinstance(row, bool) and 0 <= row < n_samples for row in rows):
        raise ValueError(values)
    return rows.astype(np.intp)


# --- handed on -------------------------------------------------------------------------------------------------------


def export(edited: Edited, features: FeatureSet, out: Path, folders: str = "links") -> list[Path]:
    """Write the tables of a clustering, and a folder per cluster where the samples are files.

    Args:
        edited: N samples.
        features: the same samples.
        out: the folder to write.
        folders: `links` to the images, `copies` of them, a `list` of what to move where, or `none`.

    Returns:
        What was written.

    Raises:
        InputError: if `out` cannot be written, or holds folders already.
    """
    target = out / "folders"
    files = features.files if folders != "none" else None
    if files is not None and folders != "list" and target.exists():
        raise InputError(f"{target} is there already: remove it, or choose another out=")
    scores = member_scores(features, edited.clustering.labels)
    written = [_write_samples(out / "samples.csv", edited, features.paths)]
    written.append(_write_clusters(out / "clusters.csv", edited, features.paths, scores.typical_N))
    if files is None:
        return written
    places = folder_places(edited, features.paths or [])
    if folders == "list":
        with _table(out / "moves.csv") as table:
            table.writerow(["from", "to"])
            table.writerows((os.fspath(files[row]), os.fspath(target / place)) for row, place in enumerate(places))
        return [*written, out / "moves.csv"]
    _fill(target, files, places, copies=folders == "copies")
    return [*written, target]


def folder_places(edited: Edited, paths: Sequence[str]) -> list[Path]:
    """Where each image goes: the folder of its cluster, and its own name; a second of that name is called `name-2`."""
    ids = np.unique(edited.clustering.labels).tolist()
    taken: set[str] = set()
    folder_of = {cluster: _free(taken, _file_name(edited.name(cluster)), "") for cluster in ids}
    used: set[str] = set()
    places = []
    for cluster, path in zip(edited.clustering.labels.tolist(), paths):
        own = Path(path)
        places.append(Path(_free(used, f"{folder_of[cluster]}/{own.stem}", own.suffix)))
    return places


def _file_name(name: str) -> str:
    """A name that every file system takes: without its separators and reserved signs, not hidden, not too long."""
    cleaned = re.sub(r'[\x00-\x1f<>:"/\\|?*]+', "_", name).strip(" .")
    return cleaned.encode()[:LONGEST_NAME].decode(errors="ignore").strip(" .") or "unnamed"


def _free(taken: set[str], stem: str, suffix: str) -> str:
    """The name, or with a number if it is taken; file systems that ignore case are respected."""
    name, number = f"{stem}{suffix}", 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.lower())
    return name


def _fill(target: Path, files: Sequence[Path], places: Sequence[Path], *, copies: bool) -> None:
    """Links or copies below a folder that appears when all of them are there."""
    unfinished = make_folder(target.parent) / f".{target.name}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for row, place in enumerate(places):
            (unfinished / place.parent).mkdir(parents=True, exist_ok=True)
            if copies:
                shutil.copy2(files[row], unfinished / place)
            else:
                (unfinished / place).symlink_to(files[row].absolute())
        unfinished.rename(target)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise InputError(
            f"cannot write {target} ({error.strerror or error}): write elsewhere with out=, or take folders=list"
        ) from None


def _write_samples(path: Path, edited: Edited, paths: Sequence[str] | None) -> Path:
    clustering, marked = edited.clustering, set(edited.marked)
    confidence = confidences(clustering)
    with _table(path) as table:
        table.writerow(["row", *([] if paths is None else ["path"]), "cluster", "name", "confidence", "marked"])
        for row, cluster in enumerate(clustering.labels.tolist()):
            sure = "" if confidence is None else f"{confidence[row]:.6g}"
            place = [] if paths is None else [paths[row]]
            table.writerow([row, *place, cluster, edited.name(cluster), sure, int(row in marked)])
    return path


def _write_clusters(path: Path, edited: Edited, paths: Sequence[str] | None, typical_N: np.ndarray) -> Path:
    labels_N = edited.clustering.labels
    order = np.lexsort((-typical_N, labels_N))
    clusters, starts, sizes = np.unique(labels_N[order], return_index=True, return_counts=True)
    with _table(path) as table:
        table.writerow(["cluster", "name", "size", "typical"])
        for cluster, start, size in zip(clusters.tolist(), starts.tolist(), sizes.tolist()):
            rows = order[start : start + min(TYPICAL, size)].tolist()
            typical = "; ".join(str(row) if paths is None else paths[row] for row in rows)
            table.writerow([cluster, edited.name(cluster), size, typical])
    return path


@contextmanager
def _table(path: Path) -> Iterator[Any]:
    with (
        written_whole(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        yield csv.writer(stream)
