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
from sklearn.model_selection import train_test_split

from deepclust.extraction.image_source import ImageSource, split_folders
from deepclust.extraction.images import UnreadableImageError
from deepclust.features.idx import data_root
from deepclust.runtime.errors import InputError

Options = Mapping[str, Any]

# CIFAR-100's superclasses in their order, and that of each of its 100 classes (Krizhevsky 2009).
SUPERCLASSES = (
    "aquatic mammals", "fish", "flowers", "food containers", "fruit and vegetables", "household electrical devices",
    "household furniture", "insects", "large carnivores", "large man-made outdoor things",
    "large natural outdoor scenes", "large omnivores and herbivores", "medium-sized mammals",
    "non-insect invertebrates", "people", "reptiles", "small mammals", "trees", "vehicles 1", "vehicles 2",
)  # fmt: skip
SUPERCLASS_OF = np.array(
    [
        4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
        6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
        16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
        12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How torchvision serves one data set.

    Attributes:
        cls: name of the class in `torchvision.datasets`.
        train, test: arguments of each part; the parts of a split are joined in this order. No test: one split.
        labels: the labels of one part, without opening an image.
        class_names: where they are not the part's own.
        held_out: of a data set with one split, the share that becomes the test split: drawn at random with the classes'
            shares kept, as in the code of Lowe et al., with its seed.
        downloads: torchvision can fetch it.
    """

    cls: str
    train: Sequence[Options]
    test: Sequence[Options] = ()
    labels: Callable[[Any], Any] = lambda part: part.targets
    class_names: Sequence[str] | None = None
    held_out: float | None = None
    downloads: bool = True


def _splits(cls: str, train: Sequence[str], test: Sequence[str], key: str = "split", **rest: Any) -> Recipe:
    return Recipe(cls, [{key: name} for name in train], [{key: name} for name in test], **rest)


def _lsun_labels(part: Any) -> np.ndarray:
    return np.repeat(np.arange(len(part.dbs)), np.diff([0, *part.indices]))


def _train_flag(cls: str, **rest: Any) -> Recipe:
    return Recipe(cls, [{"train": True}], [{"train": False}], **rest)


RECIPES: Mapping[str, Recipe] = {
    "cifar10": _train_flag("CIFAR10"),
    "cifar20": _train_flag(
        "CIFAR100", labels=lambda part: SUPERCLASS_OF[np.asarray(part.targets)], class_names=SUPERCLASSES
    ),
    "cifar100": _train_flag("CIFAR100"),
    "mnist": _train_flag("MNIST"),
    "stl10": _splits("STL10", ["train"], ["test"], labels=lambda part: part.labels),
    "svhn": _splits("SVHN", ["train"], ["test"], labels=lambda part: part.labels),
    "flowers102": _splits("Flowers102", ["train", "val"], ["test"], labels=lambda part: part._labels),
    "fgvc_aircraft": _splits("FGVCAircraft", ["trainval"], ["test"], labels=lambda part: part._labels),
    "dtd": _splits("DTD", ["train", "val"], ["test"], labels=lambda part: part._labels),
    "eurosat": Recipe("EuroSAT", [{}], held_out=0.15),
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
    """One split: one or more parts of a torchvision data set, one after the other.

    Args:
        name: what messages and manifests call it.
        parts: of the split.
        labels: of each part.
        class_names: None: those of the first part.
        rows: which images of the parts the split has; None: all.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[Any],
        labels: Sequence[Any],
        class_names: Sequence[str] | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in self.parts])
        self.rows = np.arange(self.ends[-1]) if rows is None else rows
        self.labels = np.concatenate([np.asarray(part, dtype=np.int64) for part in labels])[self.rows]
        own = getattr(self.parts[0], "classes", None) or getattr(self.parts[0], "all_categories", None)
        names = own if class_names is None else class_names
        if names:  # ImageNet's are tuples of synonyms
            self.class_names = [name if isinstance(name, str) else ", ".join(name) for name in names]

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, index: int) -> tuple[Any, int]:
        """The part that an image lies in, and its number there."""
        row = int(self.rows[index])
        part = int(np.searchsorted(self.ends, row, side="right"))
        return self.parts[part], row - (int(self.ends[part - 1]) if part else 0)

    def image(self, index: int, *, shrink_to: int | None = None) -> Image.Image:
        part, number = self.place(index)
        try:
            image = part[number][0]
        except Exception as error:  # whatever Pillow, scipy or lmdb raise
            raise UnreadableImageError(
                str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            ) from None
        return image if image.mode in ("L", "RGB") else image.convert("RGB")

    def path(self, index: int) -> str:
        part, number = self.place(index)
        # Folders of images, such as ImageNet's unpacked archives, know their files; ReaL's labels go by these names.
        files = getattr(part, "samples", None)
        return str(index) if files is None else os.path.relpath(files[number][0], part.root)

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
            labels = [recipe.labels(part) for part in loaded]
            if recipe.held_out is None:
                splits[split] = TorchvisionSource(f"{name} {split}", loaded, labels, recipe.class_names)
                continue
            rows = np.arange(sum(map(len, loaded)))
            halves = train_test_split(rows, test_size=recipe.held_out, random_state=0, stratify=np.concatenate(labels))
            for half, drawn in zip(("train", "test"), halves, strict=True):
                splits[half] = TorchvisionSource(
                    f"{name} {half}", loaded, labels, recipe.class_names, rows=np.sort(drawn)
                )
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
