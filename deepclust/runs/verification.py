"""Whether everything that lies in a folder is as it was written: features, runs, and folders of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from deepclust.features.feature_files import load_features
from deepclust.features.shards import MANIFEST
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import CHECKSUMS, checksums_in, file_sha256, read_json, read_npz, read_tensors, read_yaml

REMEDY = "restore it from a copy, or remove it and make it again"
READERS: dict[str, Callable[[Path, str], object]] = {
    ".json": read_json,
    ".yaml": read_yaml,
    ".npz": read_npz,
    ".ckpt": read_tensors,
    ".pt": read_tensors,
}


@dataclass
class Verified:
    """What was found.

    Attributes:
        n_compared: files that were compared with a checksum.
        n_read: files without one that can be read.
        damaged: a line for each that differs or cannot be read.
        missing: files that have a checksum and are not there: somebody has removed them.
    """

    n_compared: int = 0
    n_read: int = 0
    damaged: list[str] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)


def verify(folder: Path) -> Verified:
    """Read every file of a folder, and of those in it, and compare it with its checksum.

    Raises:
        InputError: if the folder holds nothing that deepclust writes.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}: name a run folder, or a folder of features")
    found = Verified()
    of_features = {path.parent for path in folder.rglob(MANIFEST)}
    for place in sorted(of_features):
        _features(place, found)
    ledgers = {path.parent: checksums_in(path.parent) for path in sorted(folder.rglob(CHECKSUMS))}
    noted = {(place / name): sums for place, names in ledgers.items() for name, sums in names.items()}
    found.missing += sorted(path for path in noted if not path.is_file())
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name.startswith(".") or of_features & set(path.parents):
            continue
        if path in noted:
            found.n_compared += 1
            if file_sha256(path) not in noted[path]:
                found.damaged.append(f"{path} is not as it was written")
        elif path.suffix in READERS:
            try:
                READERS[path.suffix](path, REMEDY)
                found.n_read += 1
            except InputError as error:
                found.damaged.append(error.cause)
    if not (found.n_compared or found.n_read or found.damaged or found.missing):
        raise InputError(f"{folder} holds nothing of deepclust: name a run folder, or a folder of features")
    return found


def _features(place: Path, found: Verified) -> None:
    try:
        features = load_features(place).check(str(place))
    except InputError as error:
        found.damaged.append(str(error))
        return
    files = {MANIFEST, *features.manifest.get("checksums", {}), *(one["file"] for one in features.manifest["shards"])}
    found.n_compared += len(files)
