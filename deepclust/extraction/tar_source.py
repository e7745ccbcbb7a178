"""WebDataset's tar shards, read in place: an index of byte ranges is made once, then each image takes one read."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepclust.extraction.image_source import TEST_FOLDERS, ImageSource, PathList
from deepclust.extraction.images import SUFFIXES, UnreadableImageError, read_image
from deepclust.runtime.errors import InputError

# Of one range; it is expanded before anything is looked for.
MOST_TARS = 100_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class TarSource(ImageSource):
    """The images of uncompressed tar files, in the order of the files and of their members.

    A sample is the members that share a name up to its first dot, as WebDataset has it: one image, and a `.cls` (an
    integer) or a `.json` with a `label` beside it. Labels are kept if every sample has one.
    """

    def __init__(self, tars: Sequence[str | os.PathLike], *, name: str) -> None:
        self.name = name
        self.tars = [str(tar) for tar in tars]
        samples = [sample for number, tar in enumerate(self.tars) for sample in _samples(number, tar)]
        if not samples:
            raise InputError(
                f"no images in {name}: looked for {', '.join(sorted(SUFFIXES))} in {len(self.tars)} tar files"
            )
        numbers, offsets, sizes, members, labels = zip(*samples)
        self.ranges = np.array([numbers, offsets, sizes], dtype=np.int64).T
        self.members = PathList(members)
        if all(label is not None for label in labels):
            self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ranges)

    def image(self, index: int, *, shrink_to: int | None = None) -> Image.Image:
        number, offset, size = (int(value) for value in self.ranges[index])
        try:
            with open(self.tars[number], "rb") as stream:
                stream.seek(offset)
                content = stream.read(size)
        except OSError as error:
            raise UnreadableImageError(str(error)) from None
        if len(content) < size:
            raise UnreadableImageError("the tar file ends inside it")
        return read_image(content, shrink_to=shrink_to)

    def path(self, index: int) -> str:
        return f"{os.path.basename(self.tars[int(self.ranges[index, 0])])}/{self.members[index]}"

    def describe(self) -> dict[str, Any]:
        digest = hashlib.blake2b(self.ranges.tobytes() + self.members.content, digest_size=8)
        return {"kind": "webdataset", "name": self.name, "tars": len(self.tars), "key": digest.hexdigest()}


Sample = tuple[int, int, int, str, int | None]


def _samples(number: int, path: str) -> Iterator[Sample]:
    """(tar, offset, size, member, label) of each sample of one tar file."""
    try:
        # "r:" refuses compression: a byte range of a compressed file means nothing.
        with tarfile.open(path, "r:") as tar:
            grouped = itertools.groupby((member for member in tar if member.isfile()), key=lambda m: _stem(m.name))
            for _, group in grouped:
                members = list(group)
                images = [member for member in members if os.path.splitext(member.name)[1].lower() in SUFFIXES]
                label = _label(path, tar, members) if images else None
                for image in images[:1]:
                    yield number, image.offset_data, image.size, image.name, label
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is no readable tar file ({error}); shards must be uncompressed and whole") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None


def _stem(name: str) -> str:
    folder, base = os.path.split(name)
    return os.path.join(folder, base.split(".", 1)[0])


def _label(path: str, tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo]) -> int | None:
    for member in members:
        suffix = os.path.splitext(member.name)[1]
        if suffix not in (".cls", ".json"):
            continue
        stream = tar.extractfile(member)
        content = b"" if stream is None else stream.read()
        try:
            value = json.loads(content)
            label = value.get("label") if isinstance(value, dict) else value
            if label is not None:
                return int(label)
        except (ValueError, TypeError):
            raise InputError(f"{path}: {member.name} holds no integer label") from None
    return None


def _expand(pattern: str) -> list[str]:
    """Paths of a pattern with `{0000..0099}` ranges, as WebDataset writes them, and wildcards."""
    match = _RANGE.search(pattern)
    if match is None:
        return sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    low, high = match[1], match[2]
    if int(high) - int(low) >= MOST_TARS:
        raise InputError(f"{match[0]} stands for {int(high) - int(low) + 1} tar files, {MOST_TARS} are the most")
    numbers = [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    return [path for number in numbers for path in _expand(pattern[: match.start()] + number + pattern[match.end() :])]


def tar_sources(path: str | os.PathLike) -> Mapping[str, ImageSource]:
    """The splits of a pattern (one split), or of a folder with train and test (or val) shards or sub-folders.

    Raises:
        InputError: if there is no tar file, or one of them is unreadable or compressed.
    """
    place = Path(path).expanduser()
    if not place.is_dir():
        tars = _expand(str(place))
        missing = next((tar for tar in tars if not os.path.isfile(tar)), None)
        if not tars or missing:
            raise InputError(
                f"no such tar file: {missing or place} (data.path); give a pattern such as 'shards/train-*.tar'"
            )
        return {"train": TarSource(tars, name=str(place))}
    tars = sorted(str(tar) for tar in place.rglob("*.tar"))
    if not tars:
        raise InputError(f"no .tar files in {place} (data.path)")
    test = [tar for tar in tars if _split_of(tar, place) in TEST_FOLDERS]
    train = [tar for tar in tars if tar not in set(test)]
    if not train:
        raise InputError(f"{place} holds test shards only: name the training shards train-*.tar")
    splits = {"train": TarSource(train, name=f"{place} train")}
    if test:
        splits["test"] = TarSource(test, name=f"{place} test")
    return splits


def _split_of(tar: str, root: Path) -> str:
    """The first word of a shard's path below the root: `val/0001.tar` and `val-0001.tar` are both `val`."""
    return re.split(r"[^a-z]", os.path.relpath(tar, root).lower(), maxsplit=1)[0]
