"""Where images come from: folders, lists of files, arrays.

An image source is a sequence: `len(source)`, `source.image(i)`, `source.path(i)`, with `labels` and `class_names` where
there are some. Its order is fixed, whatever the file system lists first. Everything here is cheap until an image is
asked for, and can be sent to a worker process.
"""

from __future__ import annotations

import abc
import hashlib
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepclust.extraction.images import SUFFIXES, UNREAD, read_image
from deepclust.runtime.errors import InputError

TEST_FOLDERS = ("test", "val", "valid", "validation")


class ImageSource(abc.ABC):
    """A sequence of images with optional labels.

    Attributes:
        name: what messages and manifests call it.
        labels: (N,) int64 class ids, or None.
        class_names: name of each class id, or None.
    """

    name: str
    labels: np.ndarray | None = None
    class_names: list[str] | None = None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def image(self, index: int, *, shrink_to: int | None = None) -> Image.Image:
        """The image in mode `L` or `RGB`.

        Raises:
            UnreadableImageError: if it cannot be read.
        """

    @abc.abstractmethod
    def path(self, index: int) -> str:
        """Where the image lies, relative to the source's root; or its index, where it has no file of its own."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the manifest says of the source: kind, place, and `key`, a digest that changes with the images."""


class PathList(Sequence[str]):
    """Millions of paths in one block of bytes: a list of `str` would be copied into every worker as it is read."""

    def __init__(self, paths: Iterable[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self.ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self.content = b"".join(encoded)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = index % len(self)
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.content[start : int(self.ends[index])])


class FileSource(ImageSource):
    """Image files under one root, in the order given.

    Args:
        root: folder that the paths are relative to.
        paths: relative paths.
        labels: (N,) class ids, or None.
        class_names: name of each class id, or None.
        key: digest of the list; None to make it of the paths, sizes and times of modification.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        paths: Sequence[str],
        *,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        key: str | None = None,
    ) -> None:
        self.root = Path(root)
        self.name = str(root)
        self.paths = PathList(paths)
        self.labels = labels
        self.class_names = None if class_names is None else list(class_names)
        self.key = key or _listing_key(self.root, paths)

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int, *, shrink_to: int | None = None) -> Image.Image:
        return read_image(self.root / self.paths[index], shrink_to=shrink_to)

    def path(self, index: int) -> str:
        return self.paths[index]

    def describe(self) -> dict[str, Any]:
        return {"kind": "files", "root": str(self.root), "key": self.key}


class ArraySource(ImageSource):
    """Images in memory: (N, H, W) gray or (N, H, W, 3) uint8."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        *,
        name: str = "array",
    ) -> None:
        shape_fits = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
        if images.dtype != np.uint8 or not shape_fits:
            raise InputError(
                f"{name} has shape {images.shape} and type {images.dtype}: images are (N, H, W) or (N, H, W, 3) uint8"
            )
        if labels is not None and len(labels) != len(images):
            raise InputError(f"{name} has {len(images)} images but {len(labels)} labels: give one label per image")
        self.images = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.class_names = None if class_names is None else list(class_names)
        self.name = name

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int, *, shrink_to: int | None = None) -> Image.Image:
        return Image.fromarray(self.images[index])

    def path(self, index: int) -> str:
        return str(index)

    def describe(self) -> dict[str, Any]:
        digest = hashlib.blake2b(np.ascontiguousarray(self.images).data, digest_size=8)
        return {"kind": "array", "name": self.name, "key": digest.hexdigest()}


def _listing_key(root: Path, paths: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        try:
            status = os.stat(root / path)
            line = f"\t{status.st_size}\t{status.st_mtime_ns}\n"
        except OSError:  # a broken link is part of the listing too
            line = "\t-\n"
        digest.update(os.fsencode(path) + line.encode())
    return digest.hexdigest()


def existing_folder(path: str | os.PathLike, setting: str = "data.path") -> Path:
    """The folder at `path`, with `~` expanded.

    Raises:
        InputError: if there is none, or it may not be listed.
    """
    folder = Path(path).expanduser()
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
        if is_folder:
            with os.scandir(folder):
                pass
    except FileNotFoundError:
        raise InputError(f"no such folder: {folder} ({setting}): give the folder that holds the images") from None
    except PermissionError:
        raise InputError(f"no permission to list {folder} ({setting}): make it readable, or give another") from None
    if not is_folder:
        raise InputError(f"{folder} ({setting}) is a file: give the folder that holds the images")
    return folder


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def image_files(root: Path, left_out: list[str] | None = None) -> Iterator[str]:
    """Relative paths of the image files under `root`, sorted within each folder; hidden files are left out.

    Links to folders are followed, each folder once.

    Args:
        root: the folder.
        left_out: is given the paths of images of formats that are not read (`UNREAD`).

    Raises:
        InputError: if a folder may not be listed: leaving it out silently would lose images.
    """
    seen: set[tuple[int, int]] = set()

    def walk(folder: str) -> Iterator[str]:
        here = root / folder
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        try:
            with os.scandir(here) as entries:
                listed = sorted(((entry.name, _is_folder(entry)) for entry in entries), key=lambda e: os.fsencode(e[0]))
        except PermissionError:
            raise InputError(f"no permission to list {here}: make it readable, or move it out of {root}") from None
        for name, is_folder in listed:
            if name.startswith("."):
                continue
            path = os.path.join(folder, name)
            if is_folder:
                yield from walk(path)
            elif (suffix := os.path.splitext(name)[1].lower()) in SUFFIXES:
                yield path
            elif left_out is not None and suffix in UNREAD:
                left_out.append(path)

    return walk("")


def folder_source(path: str | os.PathLike, *, labels: str | None = None, stat_files: bool = True) -> FileSource:
    """Every image under a folder, recursively.

    Args:
        path: the folder.
        labels: `folders` makes the first level of sub-folders the classes; None for no labels.
        stat_files: let the key depend on sizes and times of modification; False for millions of files that stay.

    Raises:
        InputError: if the folder is missing, unreadable or without images; with `labels="folders"`, if images lie
            outside any sub-folder.
    """
    if labels not in (None, "folders"):
        raise InputError(f"data.labels={labels} is unknown: `folders` (sub-folder names are labels) or null (none)")
    folder = existing_folder(path)
    left_out: list[str] = []
    paths = list(image_files(folder, left_out))
    told = told_of(left_out)
    if not paths:
        also = f"; {told}" if told else ""
        raise InputError(f"no images in {folder}: looked for {', '.join(sorted(SUFFIXES))}, in sub-folders too{also}")
    if told:
        warnings.warn(f"{folder}: {told}", stacklevel=2)
    ids = names = None
    if labels == "folders":
        first = [path.split(os.sep, 1) for path in paths]
        loose = next((parts[0] for parts in first if len(parts) == 1), None)
        if loose is not None:
            raise InputError(
                f"data.labels=folders, but {folder / loose} lies in no sub-folder: move it into its class's"
            )
        names, ids = np.unique([parts[0] for parts in first], return_inverse=True)
    key = None if stat_files else hashlib.blake2b("\n".join(paths).encode(errors="surrogateescape"), digest_size=8)
    return FileSource(
        folder.resolve(),
        paths,
        labels=None if ids is None else ids.astype(np.int64),
        class_names=None if names is None else [str(name) for name in names],
        key=None if key is None else key.hexdigest(),
    )


def told_of(left_out: list[str]) -> str:
    """What is to be said of images of formats that are not read: how many of each, and the remedy; empty for none."""
    if not left_out:
        return ""
    counts = Counter(os.path.splitext(path)[1].lower() for path in left_out)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
    reads = "pip install 'deepclust[photos]' reads HEIC; " if {".heic", ".heif"} & set(counts) else ""
    return f"left out {kinds} (such as {left_out[0]}): {reads}convert {'others' if reads else 'them'} to JPEG"


def split_folders(path: str | os.PathLike, *, stat_files: bool = True) -> dict[str, ImageSource]:
    """`train` and, where there is one, `test` (or `val`) of a folder laid out as <split>/<class>/<image>.

    Raises:
        InputError: if there is no train folder, or the splits have different classes.
    """
    root = existing_folder(path)
    if not (root / "train").is_dir():
        raise InputError(f"{root} has no folder train: it should hold train/<class>/ and val/<class>/ or test/<class>/")
    splits: dict[str, ImageSource] = {"train": folder_source(root / "train", labels="folders", stat_files=stat_files)}
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if test is not None:
        splits["test"] = folder_source(test, labels="folders", stat_files=stat_files)
        align_classes(splits["train"], splits["test"])
    return splits


def align_classes(train: ImageSource, test: ImageSource) -> None:
    """Give the test split the class ids of the train split, by name; a class may be missing from the test split.

    Raises:
        InputError: if the test split has a class that the train split lacks.
    """
    if train.class_names is None or test.class_names is None or test.labels is None:
        return
    ids = {name: i for i, name in enumerate(train.class_names)}
    unknown = [name for name in test.class_names if name not in ids]
    if unknown:
        raise InputError(f"{test.name} has a class '{unknown[0]}' that {train.name} lacks: give both the same classes")
    test.labels = np.array([ids[name] for name in test.class_names], dtype=np.int64)[test.labels]
    test.class_names = train.class_names


def as_source(images: Any) -> ImageSource:
    """An image source of a folder, a list of image paths, an array of images, or a source itself.

    Raises:
        InputError: if it is none of these.
    """
    if isinstance(images, ImageSource):
        return images
    if isinstance(images, (str, os.PathLike)):
        return folder_source(images)
    if isinstance(images, np.ndarray):
        return ArraySource(images)
    if isinstance(images, Sequence) and images and all(isinstance(path, (str, os.PathLike)) for path in images):
        return FileSource("", [os.fspath(path) for path in images])
    raise InputError(f"{type(images).__name__} is no image source: give a folder, a list of paths, or a uint8 array")
