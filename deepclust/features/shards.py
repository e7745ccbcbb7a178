"""The files of a FeatureSet folder: shards of rows with their checksums, labels, paths, and the manifest last.

manifest.json         provenance, shapes, and the checksum of every file, its own included
features-00000.npy    shards of rows, in order, float16 or float32
labels.npy            optional, N integers
paths.txt             optional, one image path per row
columns.parquet       optional, what a table said of its rows
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.features.columns import COLUMNS, Columns
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import file_sha256, fingerprint, plain_json, write_json, written_whole

MANIFEST = "manifest.json"
PATHS = "paths.txt"
FORMAT_VERSION = 1
# What a manifest says of its own files; the rest tells where the features come from.
OF_THE_FOLDER = ("shards", "n_rows", "checksums", "checksum", "columns")
END_BYTES = 1 << 16


def shard_name(index: int) -> str:
    return f"features-{index:05d}.npy"


def write_shard(folder: Path, index: int, rows: np.ndarray) -> dict[str, Any]:
    """Write one shard whole and return its manifest entry: file, rows, dim, dtype, and checksums of the file."""
    path = folder / shard_name(index)
    with written_whole(path) as temporary:
        np.save(temporary, rows)
    shape = {"rows": len(rows), "dim": int(rows.shape[1]), "dtype": str(rows.dtype)}
    return {"file": path.name, **shape, "sha256": file_sha256(path), "ends": ends_digest(path)}


def ends_digest(path: Path) -> str:
    """A digest of a file's size, beginning and end: it tells shards apart without reading them."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        first = stream.read(END_BYTES)
        stream.seek(max(0, size - END_BYTES))
        return hashlib.sha256(b"%d " % size + first + stream.read()).hexdigest()[:16]


REMEDY = "copy it again, or extract it again"


def check_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the files of a FeatureSet folder with its manifest, as far as it speaks of them.

    Of the shards size, beginning and end are compared; `check_shards` reads every byte.

    Raises:
        InputError: naming the first that differs.
    """
    stated = {key: value for key, value in manifest.items() if key != "checksum"}
    if "checksums" in manifest and "checksum" not in manifest:  # which were never written one without the other
        raise InputError(f"{folder / MANIFEST} is not as it was written (its own checksum is missing): {REMEDY}")
    if "checksum" in manifest and fingerprint(stated) != manifest["checksum"]:
        raise InputError(f"{folder / MANIFEST} is not as it was written (its checksum differs): {REMEDY}")
    for name, checksum in manifest.get("checksums", {}).items():
        if (folder / name).is_file() and file_sha256(folder / name) != checksum:
            raise InputError(f"{folder / name} differs from its manifest's checksum: {REMEDY}")
    for shard in manifest["shards"]:
        path = folder / shard["file"]  # one that is missing is told where it is read
        if path.is_file() and "ends" in shard and ends_digest(path) != shard["ends"]:
            raise InputError(f"{path} is not the shard that its manifest tells of: {REMEDY}")


def check_shards(folder: Path, shards: Sequence[Mapping[str, Any]]) -> None:
    """Compare every byte of some shards with the checksums of their entries in the manifest.

    Raises:
        InputError: naming the first that differs.
    """
    for shard in shards:
        path = folder / shard["file"]
        if path.is_file() and file_sha256(path) != shard["sha256"]:
            raise InputError(f"{path} differs from its manifest's checksum: {REMEDY}")


def write_split(
    folder: Path,
    shards: list[dict[str, Any]],
    labels: np.ndarray | None,
    class_names: Sequence[str] | None,
    paths: Sequence[str] | None,
    provenance: dict[str, Any],
    columns: Columns | None = None,
) -> None:
    """Write everything of a FeatureSet folder but its shards, the manifest last."""
    if labels is not None:
        with written_whole(folder / "labels.npy") as temporary:
            np.save(temporary, np.asarray(labels, dtype=np.int64))
    if paths is not None:
        with written_whole(folder / PATHS) as temporary:
            # JSON per line: file names may hold line breaks and bytes that are not UTF-8.
            temporary.write_text("".join(json.dumps(str(path)) + "\n" for path in paths), encoding="utf-8")
    if columns is not None and (columns.path != folder / COLUMNS or columns.ids_S is not None):
        import pyarrow.parquet as parquet

        table = columns.read()
        with written_whole(folder / COLUMNS) as temporary:
            parquet.write_table(table, temporary)
    beside = {"labels.npy": labels is not None, PATHS: paths is not None, COLUMNS: columns is not None}
    manifest = {
        **{key: value for key, value in provenance.items() if key not in OF_THE_FOLDER},
        "format": FORMAT_VERSION,
        "n_rows": sum(shard["rows"] for shard in shards),
        "shards": shards,
        "class_names": list(class_names) if class_names is not None else None,
        "has_labels": labels is not None,
        "has_paths": paths is not None,
        **({} if columns is None else {"columns": columns.facts()}),
        "checksums": {name: file_sha256(folder / name) for name, there in beside.items() if there},
    }
    manifest = plain_json(manifest)
    write_json(folder / MANIFEST, {**manifest, "checksum": fingerprint(manifest)})
