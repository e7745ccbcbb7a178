"""The FeatureSet: N × D frozen features with optional labels, on disk or in memory.

A FeatureSet folder holds one split:

    manifest.json         provenance, shapes, and the checksum of every shard
    features-00000.npy    shards of rows, in order, float16 or float32
    labels.npy            optional, N integers
    paths.txt             optional, one image path per row

A bare `.npy`, `.npz` or `.pt` file is accepted wherever a folder is.

Shape suffixes: N samples, D feature dimensions.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deepclust.errors import InputError
from deepclust.files import fingerprint, write_json, written_whole

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
# 1 GiB keeps a shard small enough to copy and checksum, large enough that ImageNet-21K is ~20 of them.
SHARD_BYTES = 1 << 30


class ShardedRows:
    """Memory-mapped shards that read as one N × D array: slices and integer index arrays."""

    ndim = 2

    def __init__(self, shards: Sequence[np.ndarray]) -> None:
        self.shards = list(shards)
        self.offsets = np.cumsum([0] + [len(shard) for shard in self.shards])
        self.dtype = self.shards[0].dtype
        self.shape = (int(self.offsets[-1]), self.shards[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            parts = []
            shard = bisect.bisect_right(self.offsets, start) - 1
            while start < stop and shard < len(self.shards):
                low = start - self.offsets[shard]
                high = min(stop - self.offsets[shard], len(self.shards[shard]))
                parts.append(self.shards[shard][low:high])
                start = self.offsets[shard] + high
                shard += 1
            return np.concatenate(parts) if parts else np.empty((0, self.shape[1]), self.dtype)
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows = np.where(rows < 0, rows + len(self), rows)
        out = np.empty((len(rows), self.shape[1]), self.dtype)
        owners = np.searchsorted(self.offsets, rows, side="right") - 1
        for shard in np.unique(owners):
            mine = np.flatnonzero(owners == shard)
            out[mine] = self.shards[shard][rows[mine] - self.offsets[shard]]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)


class RowSource(Protocol):
    """What reads as an N × D array without being one: by slice and by integer index array."""

    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray: ...


Rows = np.ndarray | RowSource


@dataclass
class FeatureSet:
    """N × D features of one split, with what is known about them.

    Attributes:
        features: N × D float16 or float32, in memory or memory-mapped; index it by slice or integer array.
        labels: N integer class ids, or None.
        class_names: name of each class id, or None.
        paths: image path (or id) per row, or None.
        manifest: provenance: encoder, weights, transform, versions, source.
        root: the folder or file it was read from, or None.
    """

    features: Rows
    labels: np.ndarray | None = None
    class_names: list[str] | None = None
    paths: list[str] | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    root: Path | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    @property
    def n_classes(self) -> int | None:
        """How many distinct labels occur, or None without labels."""
        return None if self.labels is None else len(np.unique(self.labels))

    @property
    def reduction(self) -> dict[str, Any] | None:
        """What the features were reduced by (see `deepclust.reduced_splits`), or None."""
        return self.manifest.get("reduction")

    @property
    def files(self) -> list[Path] | None:
        """The image file of each row, where the features were extracted from files; None otherwise."""
        source = self.manifest.get("source")
        if self.paths is None or not isinstance(source, dict) or source.get("kind") != "files":
            return None
        return [Path(source["root"]) / path for path in self.paths]

    @classmethod
    def from_arrays(
        cls,
        features: Any,
        labels: Any = None,
        *,
        class_names: Sequence[str] | None = None,
        paths: Sequence[str] | None = None,
        manifest: dict[str, Any] | None = None,
        name: str = "features",
    ) -> FeatureSet:
        """A FeatureSet over arrays (NumPy, or a CPU torch tensor). float64 becomes float32.

        Raises:
            InputError: if the features are not an N × D numeric matrix, or labels or paths are of another length.
        """
        rows = features if isinstance(features, ShardedRows) else _as_matrix(features, name)
        n_rows = len(rows)
        checked_labels = None
        if labels is not None:
            checked_labels = np.asarray(labels)
            if checked_labels.ndim != 1 or len(checked_labels) != n_rows:
                raise InputError(
                    f"labels of {name} have shape {checked_labels.shape}, but there are {n_rows} rows of features: "
                    "give one label per row"
                )
            if not np.issubdtype(checked_labels.dtype, np.integer):
                names, checked_labels = np.unique(checked_labels, return_inverse=True)
                class_names = class_names or [str(label) for label in names]
            checked_labels = checked_labels.astype(np.int64)
        if paths is not None and len(paths) != n_rows:
            raise InputError(f"{name} has {n_rows} rows but {len(paths)} paths: give one path per row")
        return cls(
            rows,
            checked_labels,
            list(class_names) if class_names is not None else None,
            list(paths) if paths is not None else None,
            dict(manifest or {}),
        )

    def blocks(self, rows: int = 16384) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, float32 block of at most `rows` rows), in order."""
        for start in range(0, len(self), rows):
            yield start, np.asarray(self.features[start : start + rows], dtype=np.float32)

    def select(self, rows: np.ndarray) -> FeatureSet:
        """The FeatureSet of the given rows (a boolean mask or integer ids), copied into memory."""
        ids = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows)
        return FeatureSet(
            np.asarray(self.features[ids]),
            None if self.labels is None else self.labels[ids],
            self.class_names,
            None if self.paths is None else [self.paths[i] for i in ids],
            dict(self.manifest),
        )

    def check(self, name: str = "features") -> FeatureSet:
        """Refuse NaN, infinite and zero rows; returns self so that a loader can end with it.

        Raises:
            InputError: naming how many rows are bad and the first of them.
        """
        bad = zero = 0
        first_bad = first_zero = -1
        for start, block in self.blocks():
            finite = np.isfinite(block).all(axis=1)
            if not finite.all():
                if not bad:
                    first_bad = start + int(np.argmin(finite))
                bad += int((~finite).sum())
            empty = ~block.any(axis=1)
            if empty.any():
                if not zero:
                    first_zero = start + int(np.argmax(empty))
                zero += int(empty.sum())
        if bad:
            raise InputError(
                f"{name}: {bad} of {len(self)} rows hold NaN or infinite values (first: row {first_bad}): "
                "remove or repair them"
            )
        if zero:
            raise InputError(
                f"{name}: {zero} of {len(self)} rows are all zero (first: row {first_zero}) and have no direction "
                "for cosine similarity: remove them"
            )
        return self

    def fingerprint(self) -> str:
        """Digest of the content: equal features give equal digests, whatever file they came from is not looked at.

        A folder is fingerprinted by its manifest's checksums with the size and modification time of each shard,
        so that 20 GB need not be read again; everything else by its bytes.
        """
        shards = self.manifest.get("shards")
        if self.root is not None and shards:
            stats = [(self.root / shard["file"]).stat() for shard in shards]
            return fingerprint(shards, [(stat.st_size, stat.st_mtime_ns) for stat in stats])
        return fingerprint(np.asarray(self.features))

    def save(self, folder: str | os.PathLike, *, shard_bytes: int = SHARD_BYTES) -> Path:
        """Write a FeatureSet folder; the manifest comes last, so an interrupted save is no FeatureSet."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        row_bytes = max(1, self.features.shape[1] * self.features.dtype.itemsize)
        rows_per_shard = max(1, shard_bytes // row_bytes)
        shards = []
        for index, start in enumerate(range(0, len(self), rows_per_shard)):
            shards.append(write_shard(folder, index, np.asarray(self.features[start : start + rows_per_shard])))
        write_split(folder, shards, self.labels, self.class_names, self.paths, self.manifest)
        return folder


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
            "make one with `python extract.py`, or give a .npy, .npz or .pt file"
        )
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / MANIFEST} is not valid JSON ({error}): extract the features again") from None
    if manifest.get("format") != FORMAT_VERSION:
        raise InputError(f"{folder} has format {manifest.get('format')}, this version reads {FORMAT_VERSION}")
    shards = []
    for entry in manifest["shards"]:
        shard = _load_npy(folder / entry["file"])
        if len(shard) != entry["rows"]:
            raise InputError(
                f"{folder / entry['file']} has {len(shard)} rows, its manifest says {entry['rows']}: extract it again"
            )
        shards.append(shard)
    if not shards:
        raise InputError(f"{folder} holds no features: extract it again")
    rows: Rows = shards[0] if len(shards) == 1 else ShardedRows(shards)
    paths = None
    if manifest.get("has_paths"):
        with open(folder / "paths.txt", encoding="utf-8") as stream:
            paths = [json.loads(line) for line in stream]
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


def _as_matrix(features: Any, name: str) -> np.ndarray:
    if hasattr(features, "detach"):
        features = features.detach().cpu()
        if str(features.dtype) == "torch.bfloat16":
            features = features.float()
        features = features.numpy()
    matrix = np.asarray(features) if not isinstance(features, np.ndarray) else features
    if matrix.ndim != 2:
        raise InputError(f"{name} has shape {matrix.shape}: features must be a matrix, one row per sample")
    if 0 in matrix.shape:
        raise InputError(f"{name} is empty: shape {matrix.shape}")
    if matrix.dtype in (np.float16, np.float32):
        return matrix
    if not (np.issubdtype(matrix.dtype, np.number) or matrix.dtype == bool) or np.iscomplexobj(matrix):
        raise InputError(f"{name} holds {matrix.dtype} values: features must be real numbers")
    return matrix.astype(np.float32)
