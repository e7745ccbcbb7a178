"""The bookkeeping of an extraction: which images go to which shard, which shards are done, and the finish.

While features are made, their folder holds a hidden sub-folder:

    .progress/plan.json           what is being made: source, encoder, sizes. Another plan is refused.
    .progress/shard-00000.json    one record per finished shard, written after the shard itself

A killed run leaves shards without a record at most; they are made again. Ranks share nothing but this folder: rank r of
R makes the shards r, r + R, r + 2 R, …, and whoever sees the last record writes the manifest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.extraction.image_source import ImageSource
from deepclust.features.shards import MANIFEST, shard_name, write_shard, write_split
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import (
    file_sha256,
    keep_checksums,
    make_folder,
    read_json,
    remove_temporaries,
    write_json,
)

PROGRESS = ".progress"


@dataclass(frozen=True)
class ShardPlan:
    """How one split is cut into shards.

    Attributes:
        folder: the FeatureSet folder being made.
        n_images: how many images the source has.
        images_per_shard: how many of them each shard covers; fewer rows where some cannot be read.
        provenance: what the manifest will say of encoder and source; equal plans have equal provenance.
    """

    folder: Path
    n_images: int
    images_per_shard: int
    provenance: dict[str, Any]

    @property
    def n_shards(self) -> int:
        return -(-self.n_images // self.images_per_shard)

    def images_of(self, shard: int) -> range:
        start = shard * self.images_per_shard
        return range(start, min(start + self.images_per_shard, self.n_images))

    def start(self, *, overwrite: bool, first_rank: bool) -> None:
        """Create the folder, or join what another run or rank began there.

        Raises:
            InputError: if the folder holds features, finished or not, of another plan.
        """
        if overwrite and first_rank and self.folder.is_dir():
            _remove_features(self.folder)
        wanted = {**self.provenance, "n_images": self.n_images, "images_per_shard": self.images_per_shard}
        for path in (self.folder / MANIFEST, self.folder / PROGRESS / "plan.json"):
            if path.is_file():
                _refuse_another(read_json(path, "give overwrite=true to extract again"), wanted, self.folder)
        if (self.folder / MANIFEST).is_file():
            return
        make_folder(self.folder / PROGRESS)
        if first_rank:
            keep_checksums(self.folder / PROGRESS)
            remove_temporaries(self.folder)
        write_json(self.folder / PROGRESS / "plan.json", wanted)

    @property
    def finished(self) -> bool:
        return (self.folder / MANIFEST).is_file()

    @property
    def n_done(self) -> int:
        """How many shards have a record."""
        return sum(1 for _ in (self.folder / PROGRESS).glob("shard-*.json"))

    def record_path(self, shard: int) -> Path:
        return self.folder / PROGRESS / f"shard-{shard:05d}.json"

    def is_done(self, shard: int) -> bool:
        """Whether the shard has a record and its file is what the record says."""
        if not self.record_path(shard).is_file():
            return False
        try:
            entry = read_json(self.record_path(shard))["shard"]
        except InputError:  # damaged: its shard is made again
            return False
        if entry is None:
            return True
        path = self.folder / entry["file"]
        # The record is written after the file, but a crash of the machine may keep one and lose the other.
        return path.is_file() and file_sha256(path) == entry["sha256"]

    def finish_shard(self, shard: int, rows: np.ndarray, skipped: list[tuple[int, str]]) -> None:
        """Write a shard and then its record. A shard of which no image could be read has a record only."""
        _remove(self.folder.glob(f".{Path(shard_name(shard)).stem}.*.npy"))
        entry = write_shard(self.folder, shard, rows) if len(rows) else None
        write_json(self.record_path(shard), {"shard": entry, "skipped": skipped})

    def finish(self, source: ImageSource) -> bool:
        """Write labels, paths and the manifest if every shard is done; False if some are not.

        Raises:
            InputError: if not one image could be read.
        """
        paths = [self.record_path(shard) for shard in range(self.n_shards)]
        if not all(path.is_file() for path in paths):
            return self.finished
        try:
            records = [read_json(path) for path in paths]
        except InputError:
            if self.finished:  # another rank has finished it, and removed the records
                return True
            raise
        skipped = [(int(index), str(reason)) for record in records for index, reason in record["skipped"]]
        if len(skipped) == self.n_images:
            first, reason = skipped[0]
            raise InputError(
                f"none of the {self.n_images} images of {source.name} can be read; {source.path(first)}: {reason}"
            )
        kept = np.ones(self.n_images, dtype=bool)
        kept[[index for index, _ in skipped]] = False
        listing = [{"path": printable(source.path(index)), "reason": reason} for index, reason in skipped]
        write_split(
            self.folder,
            [record["shard"] for record in records if record["shard"] is not None],
            None if source.labels is None else source.labels[kept],
            source.class_names,
            [source.path(int(index)) for index in np.flatnonzero(kept)],
            {
                **self.provenance,
                "n_images": self.n_images,
                "images_per_shard": self.images_per_shard,
                "skipped": {"count": len(listing), "images": listing},
            },
        )
        shutil.rmtree(self.folder / PROGRESS, ignore_errors=True)
        return True


def printable(path: str) -> str:
    """A path as valid UTF-8 text, also where its bytes are not."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _refuse_another(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    # Versions may change between runs; a finished folder does not depend on how it was cut.
    ignored = {"versions"} | ({"images_per_shard"} if "shards" in found else set())
    plain = json.loads(json.dumps(wanted))
    differing = next((key for key in plain if key not in ignored and found.get(key) != plain[key]), None)
    if differing is None:
        return
    theirs, ours = found.get(differing), plain[differing]
    if isinstance(theirs, dict) and isinstance(ours, dict):
        inner = next(key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key))
        differing, theirs, ours = f"{differing}.{inner}", theirs.get(inner), ours.get(inner)
    raise InputError(
        f"{folder} holds features made otherwise: {differing} is {theirs}, now {ours}; "
        "give out=FOLDER elsewhere, or overwrite=true to make them again"
    )


def _remove_features(folder: Path) -> None:
    """Remove what an extraction wrote, the manifest first, and nothing else that may lie there."""
    for pattern in (MANIFEST, "features-*.npy", "labels.npy", "paths.txt", ".features-*.npy"):
        _remove(folder.glob(pattern))
    shutil.rmtree(folder / PROGRESS, ignore_errors=True)


def _remove(paths: Iterator[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)
