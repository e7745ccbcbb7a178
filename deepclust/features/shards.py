"""The files of a FeatureSet folder: shards of rows with their checksums, labels, paths, and the manifest last.

manifest.json         provenance, shapes, and the checksum of every shard
features-00000.npy    shards of rows, in order, float16 or float32
labels.npy            optional, N integers
paths.txt             optional, one image path per row
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.runtime.files import write_json, written_whole

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


def shard_name(index: int) -> str:
    return f"features-{index:05d}.npy"


def write_shard(folder: Path, index: int, rows: np.ndarray) -> dict[str, Any]:
    """Write one shard whole and return its manifest entry: file, rows, sha256 of the file."""
    path = folder / shard_name(index)
    with written_whole(path) as temporary:
        np.save(temporary, rows)
    return {"file": path.name, "rows": len(rows), "sha256": file_sha256(path)}


def file_sha256(path: str | os.PathLike) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(stream)


def _sha256(stream: Any) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 24):
        digest.update(chunk)
    return digest.hexdigest()


def write_split(
    folder: Path,
    shards: list[dict[str, Any]],
    labels: np.ndarray | None,
    class_names: Sequence[str] | None,
    paths: Sequence[str] | None,
    provenance: dict[str, Any],
) -> None:
    """Write everything of a FeatureSet folder but its shards, the manifest last."""
    if labels is not None:
        with written_whole(folder / "labels.npy") as temporary:
            np.save(temporary, np.asarray(labels, dtype=np.int64))
    if paths is not None:
        with written_whole(folder / "paths.txt") as temporary:
            # JSON per line: file names may hold line breaks and bytes that are not UTF-8.
            temporary.write_text("".join(json.dumps(str(path)) + "\n" for path in paths), encoding="utf-8")
    manifest = {
        **{key: value for key, value in provenance.items() if key not in ("shards", "n_rows")},
        "format": FORMAT_VERSION,
        "n_rows": sum(shard["rows"] for shard in shards),
        "shards": shards,
        "class_names": list(class_names) if class_names is not None else None,
        "has_labels": labels is not None,
        "has_paths": paths is not None,
    }
    write_json(folder / MANIFEST, manifest)
