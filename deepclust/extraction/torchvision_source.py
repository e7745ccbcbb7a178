"""torchvision's data sets as image sources: the class of each, its splits for training and test, and its labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepclust.extraction.image_source import ImageSource, split_folders
from deepclust.extraction.images import UnreadableImageError
from deepclust.features.idx import data_root
from deepclust.runtime.errors import InputError

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How torchvision serves one data set.

    Attributes:
        cls: name of the class in `torchvision.datasets`.
        train, test: arguments of each part; the parts of a split are joined in this order. No test: one split.
        labels: the labels of one part, without opening an image.
        downloads: torchvision can fetch it.
    """

    cls: str
    train: Sequence[Options]
    test: Sequence[Options] = ()
    labels: Callable[[Any], Any] = lambda part: part.targets
    downloads: bool = True


def _splits(cls: str, train: Sequence[str], test: Sequence[str], key: str = "split", **rest: Any) -> Recipe:
    return Recipe(cls, [{key: name} for name in train], [{key: name} for name in test], **rest)


def _lsun_labels(part: Any) -> np.ndarray:
    return np.repeat(np.arange(len(part.dbs)), np.diff([0, *part.indices]))


def _train_flag(cls: str) -> Recipe:
    return Recipe(cls, [{"train": True}], [{"train": False}])


RECIPES: Mapping[str, Recipe] = {
    "cifar10": _train_flag("CIFAR10"),
    "cifar100": _train_flag("CIFAR100"),
    "mnist": _train_flag("MNIST"),
    "stl10": _splits("STL10", ["train"], ["test"], labels=lambda part: part.labels),
    "svhn": _splits("SVHN", ["train"], ["test"], labels=lambda part: part.labels),
    "flowers102": _splits("Flowers102", ["train", "val"], ["test"], labels=lambda part: part._labels),
    "fgvc_aircraft": _splits("FGVCAircraft", ["trainval"], ["test"], labels=lambda part: part._labels),
    "dtd": _splits("DTD", ["train", "val"], ["test"], labels=lambda part: part._labels),
    "eurosat": Recipe("EuroSAT", [{}]),
    "stanford_cars": _splits(
        "StanfordCars", ["train"], ["test"], labels=lambda part: [label for _, label in part._samples], downloads=False
    ),
    "inaturalist2021": _splits(
        "INaturalist",
        ["2021_train"],
        ["2021_valid"],
        key="version",
        labels=lambda part: [category for category, _ in part.index],
    ),
    "celeba": _splits("CelebA", ["train"], ["test"], labels=lambda part: part.identity.squeeze(1)),
    "places365": Recipe(
        "Places365",
        [{"split": "train-standard", "small": True}],
        [{"split": "val", "small": True}],
    ),
    "lsun": _splits("LSUN", ["train"], ["val"], key="classes", labels=_lsun_labels, downloads=False),
    "imagenet": _splits("ImageNet", ["train"], ["val"], downloads=False),
}


class TorchvisionSource(ImageSource):
    """One split: one or more parts of a torchvision data set, one after the other."""

    def __init__(self, name: str, parts: Sequence[Any], labels: Sequence[Any]) -> None:
        self.name = name
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in self.parts])
        self.labels = np.concatenate([np.asarray(part, dtype=np.int64) for part in labels])
        names = getattr(self.parts[0], "classes", None) or getattr(self.parts[0], "all_categories", None)
        # ImageNet's classes are tuples of synonyms.
        self.class_names = names and [name if isinstance(name, str) else ", ".join(name) for name in names]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def image(self, index: int, *, shrink_to: int | None = None) -> Image.Image:
        part = int(np.searchsorted(self.ends, index, side="right"))
        start = int(self.ends[part - 1]) if part else 0
        try:
            image = self.parts[part][index - start][0]
        except Exception as error:  # whatever Pillow, scipy or lmdb raise
            raise UnreadableImageError(
                str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            ) from None
        return image if image.mode in ("L", "RGB") else image.convert("RGB")

    def path(self, index: int) -> str:
        return str(index)

    def describe(self) -> dict[str, Any]:
        assert self.labels is not None
        digest = hashlib.blake2b(self.labels.tobytes(), digest_size=8)
        return {"kind": "torchvision", "name": self.name, "key": digest.hexdigest()}


def torchvision_sources(name: str, path: str | os.PathLike | None = None) -> Mapping[str, ImageSource]:
    """`train` and, where there is one, `test` of a data set of torchvision's, downloaded if need be.

    Args:
        name: a key of `RECIPES`.
        path: torchvision's root folder; None for `$DEEPCLUST_DATA`, else `~/.cache/deepclust/data`.

    Raises:
        InputError: if the data set is unknown, incomplete, or cannot be downloaded.
    """
    if name not in RECIPES:
        raise InputError(
            f"unknown data set '{name}': images can be had of {', '.join(sorted(RECIPES))}, fashion_mnist, …"
        )
    recipe = RECIPES[name]
    if path is None and not recipe.downloads:
        raise InputError(f"data={name} needs data.path: torchvision cannot download it, fetch it by hand")
    root = Path(path).expanduser() if path is not None else data_root()
    if path is not None and not root.is_dir():
        raise InputError(f"no such folder: {root} (data.path)")
    if name == "imagenet" and (root / "train").is_dir() and _has_folders(root / "val"):
        # The usual layout, read directly: torchvision's class wants the development kit's archive beside it.
        return split_folders(root, stat_files=False)
    splits: dict[str, ImageSource] = {}
    for split, parts in (("train", recipe.train), ("test", recipe.test)):
        if parts:
            loaded = [_load(name, recipe, root, options) for options in parts]
            splits[split] = TorchvisionSource(f"{name} {split}", loaded, [recipe.labels(part) for part in loaded])
    return splits


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(entry.is_dir() for entry in os.scandir(folder))


def _load(name: str, recipe: Recipe, root: Path, options: Options) -> Any:
    from torchvision import datasets

    cls = getattr(datasets, recipe.cls)
    try:
        part = cls(str(root), **options)
    except Exception as missing:  # torchvision raises RuntimeError, FileNotFoundError, lmdb.Error, ImportError …
        if not recipe.downloads:
            raise InputError(f"{name} cannot be read from {root} ({_first_line(missing)})") from None
        try:
            root.mkdir(parents=True, exist_ok=True)
            part = cls(str(root), **options, download=True)
        except Exception as error:
            raise InputError(
                f"{name} is not in {root} and its download failed ({_first_line(error)}): put torchvision's files "
                "there, or give data.path=FOLDER that holds them"
            ) from None
    if recipe.cls == "INaturalist":
        # torchvision lists each folder as the file system does, in an order of its own.
        part.index.sort()
    return part


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]
