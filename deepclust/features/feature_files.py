"""Reading FeatureSets: the folders that `FeatureSet.save` writes, and bare `.npy`, `.npz` and `.pt` files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import Rows, ShardedRows
from deepclust.features.shards import FORMAT_VERSION, MANIFEST, check_folder
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_json


def load_features(
    path: str | os.PathLike, labels: str | os.PathLike | None = None, *, split: str = "train"
) -> FeatureSet:
    """Read features from a FeatureSet folder, or a `.npy`, `.npz` or `.pt` file. `.npy` and folders are memory-mapped.

    Args:
        path: the file or folder. A folder with one sub-folder per split gives `split`.
        labels: optional file with one label per row (`.npy`, `.npz` or `.pt`); overrides labels that came along.
        split: which split of a folder of splits.

    Raises:
        InputError: if the file is missing, empty, truncated, of an unknown kind, or not an N × D matrix.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        features = _load_folder(path, split)
    else:
        matrix, own_labels = _load_file(path, ("features", "X", "x", "embeddings", "data"))
        features = FeatureSet.from_arrays(matrix, own_labels, name=str(path))
        features.root = path
    if labels is not None:
        vector, _ = _load_file(Path(labels).expanduser(), ("labels", "y", "targets"))
        given = FeatureSet.from_arrays(features.features, vector, class_names=features.class_names, name=str(path))
        features.labels, features.class_names = given.labels, given.class_names
    return features


def _load_folder(path: Path, split: str) -> FeatureSet:
    folder = path if (path / MANIFEST).is_file() else path / split
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{path} is no FeatureSet: neither {path / MANIFEST} nor {path / split / MANIFEST} exists; "
            "make one with `deepclust extract`, or give a .npy, .npz or .pt file"
        )
    manifest = read_json(folder / MANIFEST, "extract the features again", "valid JSON")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise InputError(f"{folder} has format {found}, this version reads {FORMAT_VERSION}: extract it again")
    try:
        check_folder(folder, manifest)
        shards = [_load_shard(folder, entry) for entry in manifest["shards"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / MANIFEST} is no manifest of features ({error!r}): extract them again") from None
    if not shards:
        raise InputError(f"{folder} holds no features: extract it again")
    if len({(shard.shape[1:], shard.dtype) for shard in shards}) > 1:
        raise InputError(f"{folder} holds shards of different widths or dtypes: extract it again")
    rows: Rows = shards[0] if len(shards) == 1 else ShardedRows(shards)
    paths = None
    if manifest.get("has_paths"):
        try:
            with open(folder / "paths.txt", encoding="utf-8") as stream:
                paths = [json.loads(line) for line in stream]
        except (OSError, ValueError) as error:
            raise InputError(f"{folder / 'paths.txt'} cannot be read ({error}): extract the features again") from None
    result = FeatureSet.from_arrays(
        rows,
        _load_npy(folder / "labels.npy") if manifest.get("has_labels") else None,
        class_names=manifest.get("class_names"),
        paths=paths,
        manifest=manifest,
        name=str(folder),
    )
    result.root = folder
    return result


def _load_shard(folder: Path, entry: dict[str, Any]) -> np.ndarray:
    """A shard, if it is as the manifest says."""
    shard = _load_npy(folder / entry["file"])
    if shard.ndim != 2 or len(shard) != entry["rows"]:
        rows = len(shard) if shard.ndim else 0
        raise InputError(
            f"{folder / entry['file']} has {rows} rows, its manifest says {entry['rows']}: extract it again"
        )
    return shard


def _load_npy(path: Path) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is no readable .npy file, or is truncated ({error})") from None


def _load_file(path: Path, keys: Sequence[str]) -> tuple[Any, Any]:
    """(array, labels or None) of a bare file; `keys` are the names looked for inside an archive."""
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    if path.suffix == ".npy":
        return _load_npy(path), None
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                return _pick(dict(archive), path, keys)
        except InputError:
            raise
        except Exception as error:  # zipfile, zlib and numpy each raise their own on a broken archive
            raise InputError(f"{path} is no readable .npz file, or is truncated ({error})") from None
    if path.suffix in (".pt", ".pth"):
        import torch

        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch each raise their own on a broken file
            reason = str(error).splitlines()[0][:200]
            raise InputError(f"{path} is no readable tensor file, or is truncated ({reason})") from None
        return _pick(content, path, keys) if isinstance(content, dict) else (content, None)
    raise InputError(f"{path}: unknown kind '{path.suffix}'; give a .npy, .npz or .pt file, or a FeatureSet folder")


def _pick(content: dict[str, Any], path: Path, keys: Sequence[str]) -> tuple[Any, Any]:
    labels = next((content[key] for key in ("labels", "y", "targets") if key in content), None)
    for key in keys:
        if key in content:
            return content[key], (labels if content[key] is not labels else None)
    if len(content) == 1:
        return next(iter(content.values())), None
    raise InputError(f"{path} holds {sorted(content)}, none of them named {' or '.join(keys)}: rename one")
