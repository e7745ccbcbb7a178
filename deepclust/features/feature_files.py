"""Reading FeatureSets: the folders that `FeatureSet.save` writes, bare files of matrices, and tables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.features.arrays import as_labels
from deepclust.features.columns import COLUMNS, ROLES, Columns
from deepclust.features.feature_set import FeatureSet
from deepclust.features.paths import PathsFile, read_paths
from deepclust.features.rows import Rows, ShardedRows
from deepclust.features.shards import FORMAT_VERSION, MANIFEST, PATHS, check_folder
from deepclust.features.table_files import TABLES, TableReading, converted, is_table
from deepclust.features.texts import read_texts
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_json
from deepclust.runtime.settings import ANYTHING, Group, setting


def load_features(
    path: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    *,
    split: str = "train",
    tables: TableReading | None = None,
) -> FeatureSet:
    """Read features from a FeatureSet folder, a `.npy`, `.npz`, `.pt` or `.safetensors` file, or a table.

    `.npy` and folders are memory-mapped; tables (`.parquet`, `.csv`, `.feather` …) are converted to a folder once.

    Args:
        path: the file or folder. A folder with one sub-folder per split gives `split`.
        labels: optional file with one label per row (`.npy`, `.npz`, `.pt`, `.safetensors`, or `.txt` with a line per
            row); overrides labels that came along.
        split: which split of a folder of splits.
        tables: which columns of a table are what, and where it is converted to; None looks for the columns.

    Raises:
        InputError: if the file is missing, empty, truncated, of an unknown kind, or not an N × D matrix.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        features = _load_folder(path, split)
    elif is_table(path):
        features = _load_folder(converted(path, tables or TableReading()), split)
    else:
        matrix, own_labels = _load_file(path, ("features", "X", "x", "embeddings", "data"))
        features = FeatureSet.from_arrays(matrix, own_labels, name=str(path))
        features.root = path
    if labels is not None:
        vector = _label_file(Path(labels).expanduser())
        features.labels, features.class_names = as_labels(vector, len(features), str(path), features.class_names)
    return features


def _label_file(path: Path) -> Any:
    """One label per row."""
    if is_table(path):
        raise InputError(
            f"{path}: labels come as a .npy, .npz, .pt, .safetensors or .txt file, the last with a line per row; those "
            "of a table are a column beside its embeddings, data.columns.label=NAME"
        )
    return read_texts(path, "labels") if path.suffix == ".txt" else _load_file(path, ("labels", "y", "targets"))[0]


def _load_folder(path: Path, split: str) -> FeatureSet:
    folder = path if (path / MANIFEST).is_file() else path / split
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{path} is no FeatureSet: neither {path / MANIFEST} nor {path / split / MANIFEST} exists; "
            "make one with `deepclust extract`, or give a .npy, .npz or .pt file"
        )
    manifest = _read_manifest(folder)
    check_folder(folder, manifest)
    shards: list[np.ndarray] = []
    for entry in manifest["shards"]:
        place = folder / entry["file"]
        shard = read_npy(place)
        if shard.ndim != 2 or shard.dtype not in (np.float16, np.float32) or 0 in shard.shape:
            raise InputError(f"{place} holds {shard.dtype} of shape {shard.shape}, no rows of features: {AGAIN}")
        if (shard.shape[1], shard.dtype) != (shards[0].shape[1], shards[0].dtype) if shards else False:
            raise InputError(f"{place} holds rows of another width or type than the shards before: {AGAIN}")
        if len(shard) != entry["rows"]:
            raise InputError(f"{place} has {len(shard)} rows, its manifest says {entry['rows']}: {AGAIN}")
        shards.append(shard)
    rows: Rows = shards[0] if len(shards) == 1 else ShardedRows(shards)
    result = FeatureSet.from_arrays(
        rows,
        read_npy(folder / "labels.npy") if manifest.get("has_labels") else None,
        class_names=manifest.get("class_names"),
        paths=_paths_of(folder, manifest),
        manifest=manifest,
        name=str(folder),
    )
    if manifest.get("columns") is not None:
        result.columns = Columns(folder / COLUMNS, **manifest["columns"])
    result.root = folder
    return result


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    manifest = read_json(path, AGAIN, "valid JSON")
    if isinstance(manifest, dict) and manifest.get("format") != FORMAT_VERSION:
        raise InputError(f"{folder} has format {manifest.get('format')}, this version reads {FORMAT_VERSION}")
    try:
        OF_A_MANIFEST.check(manifest, f"{path}: ")
    except InputError as error:
        raise InputError(f"{error}; {AGAIN}") from None
    if not manifest["shards"]:
        raise InputError(f"{folder} holds no features: {AGAIN}")
    if manifest.get("n_rows", (n_rows := sum(shard["rows"] for shard in manifest["shards"]))) != n_rows:
        raise InputError(f"{path} says {manifest['n_rows']} rows, its shards hold {n_rows}: {AGAIN}")
    return manifest


def _shards(value: Any) -> str | None:
    good = isinstance(value, list) and all(
        isinstance(shard, dict)
        and isinstance(shard.get("file"), str)
        and Path(shard["file"]).name == shard["file"]
        and type(shard.get("rows")) is int
        for shard in value
    )
    return None if good else 'a list of {"file": a name in this folder, "rows": how many}'


def _columns(value: Any) -> str | None:
    good = value is None or (
        isinstance(value, dict)
        and value.keys() == {"names", "roles"}
        and isinstance(value["names"], list)
        and isinstance(value["roles"], dict)
        and all(role in ROLES and name in value["names"] for role, name in value["roles"].items())
    )
    return None if good else "the names and roles of columns"


def _source(value: Any) -> str | None:
    good = isinstance(value, dict) and (value.get("kind") != "files" or isinstance(value.get("root"), str))
    return None if good else "where the rows come from, with the root of files"


AGAIN = "extract the features again"
# Its other entries say where the features come from, and are read by people.
OF_A_MANIFEST = Group(
    "the manifest",
    {
        "format": setting(FORMAT_VERSION, at_least=1, whole=True),
        "n_rows": setting(about="of all shards", at_least=1, whole=True),
        "shards": setting(about="files of rows", such=_shards),
        "class_names": setting(None, each=True, text=True),
        "has_labels": setting(False, flag=True),
        "has_paths": setting(False, flag=True),
        "encoder": Group("encoder", {"name": setting(about="of the encoder", text=True)}, others=ANYTHING),
        "weights": Group("weights", others=ANYTHING),
        "transform": setting(None, such=lambda value: None if isinstance(value, (dict, str)) else "text, or settings"),
        "source": setting(None, such=_source),
        "columns": setting(None, such=_columns),
        "reduction": Group("reduction", {"note": setting(text=True)}, others=ANYTHING, optional=True, needed=("note",)),
    },
    others=ANYTHING,
    needed=("format", "shards"),
)


def _paths_of(folder: Path, manifest: dict[str, Any]) -> Sequence[str] | None:
    """Paths whose file is as it was written are read when one is asked for; those without a checksum are looked at."""
    if not manifest.get("has_paths"):
        return None
    path = folder / PATHS
    n_rows = sum(shard["rows"] for shard in manifest["shards"])
    checked = PATHS in manifest.get("checksums", {}) and path.is_file()
    return PathsFile(path, n_rows) if checked else read_paths(path, AGAIN)


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """A `.npy` file, memory-mapped.

    Raises:
        InputError: if there is none, or it is empty, truncated or damaged.
    """
    path = Path(path).expanduser()
    _check_file(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy's reader of headers raises whatever Python's does on such text
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"{path} is no readable .npy file, or is truncated ({reason})") from None
    if isinstance(array, np.memmap) and array.offset + array.nbytes != path.stat().st_size:
        raise InputError(f"{path} is no readable .npy file: it is longer than its header says")
    return array


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")


def _load_file(path: Path, keys: Sequence[str]) -> tuple[Any, Any]:
    """(array, labels or None) of a bare file; `keys` are the names looked for inside an archive."""
    _check_file(path)
    if path.suffix == ".npy":
        return read_npy(path), None
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                content = dict(archive)
        except Exception as error:  # zipfile, zlib and numpy each raise their own on a broken archive
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise InputError(f"{path} is no readable .npz file, or is truncated ({reason})") from None
        return _pick(content, path, keys)
    if path.suffix in (".pt", ".pth"):
        import torch

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of kinds of tensors that are refused below
                content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch each raise their own on a broken file
            reason = str(error).splitlines()[0][:200]
            raise InputError(f"{path} is no readable tensor file, or is truncated ({reason})") from None
        return _pick(content, path, keys) if isinstance(content, dict) else (content, None)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
        except Exception as error:  # of its own kind for each damage
            raise InputError(f"{path} is no readable .safetensors file ({str(error).splitlines()[0][:160]})") from None
        return _pick(tensors, path, keys)
    raise InputError(
        f"{path}: unknown kind '{path.suffix}'; give a .npy, .npz, .pt or .safetensors file, a table "
        f"({', '.join(TABLES)}), or a FeatureSet folder"
    )


def _pick(content: dict[Any, Any], path: Path, keys: Sequence[str]) -> tuple[Any, Any]:
    labels = next((content[key] for key in ("labels", "y", "targets") if key in content), None)
    for key in keys:
        if key in content:
            return content[key], (labels if content[key] is not labels else None)
    if len(content) == 1:
        return next(iter(content.values())), None
    raise InputError(f"{path} holds {sorted(map(str, content))}, none of them named {' or '.join(keys)}: rename one")
