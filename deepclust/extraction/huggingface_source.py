"""Images of a Hugging Face `datasets` folder on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deepclust.extraction.image_source import TEST_FOLDERS, ImageSource, existing_folder
from deepclust.extraction.images import UnreadableImageError, read_image
from deepclust.runtime.errors import InputError


class HuggingFaceSource(ImageSource):
    """One split: its first column of images, and its first column of class labels."""

    def __init__(self, table: Any, *, name: str) -> None:
        import datasets

        self.name = name
        self.column = next((key for key, kind in table.features.items() if isinstance(kind, datasets.Image)), None)
        if self.column is None:
            raise InputError(f"{name} has no column of images, only {', '.join(table.features)}")
        label = next((key for key, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)), None)
        if label is not None:
            ids = np.asarray(table.with_format("numpy")[label][:], dtype=np.int64)
            # -1 stands for "no label" in the splits of competitions.
            if (ids >= 0).all():
                self.labels, self.class_names = ids, list(table.features[label].names)
        # Not decoded here: this package reads the bytes or the path itself.
        self.table = table.cast_column(self.column, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.table)

    def image(self, index: int, *, shrink_to: int | None = None) -> Image.Image:
        cell = self.table[index][self.column]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise UnreadableImageError("no image in this row")
        return read_image(cell["path"] if cell["bytes"] is None else cell["bytes"], shrink_to=shrink_to)

    def path(self, index: int) -> str:
        return str(index)

    def describe(self) -> dict[str, Any]:
        return {"kind": "huggingface", "name": self.name, "key": self.table._fingerprint}


def huggingface_sources(path: str | os.PathLike) -> Mapping[str, ImageSource]:
    """The splits of a folder that `save_to_disk` wrote: `train`, and the first of `test` and `validation`.

    Raises:
        InputError: if the library is missing, or the folder was not written by it.
    """
    folder = existing_folder(path)
    try:
        import datasets
    except ImportError:
        raise InputError("data=huggingface needs the datasets library: pip install 'deepclust[huggingface]'") from None
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # FileNotFoundError, ValueError, pyarrow's own
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{folder} is no folder written by datasets.save_to_disk ({reason})") from None
    if not isinstance(loaded, datasets.DatasetDict):
        return {"train": HuggingFaceSource(loaded, name=str(folder))}
    if "train" not in loaded:
        raise InputError(f"{folder} has the splits {', '.join(loaded)}, none named train: give the folder of one split")
    splits: dict[str, ImageSource] = {"train": HuggingFaceSource(loaded["train"], name=str(Path(folder) / "train"))}
    test = next((key for key in TEST_FOLDERS if key in loaded), None)
    if test is not None:
        splits["test"] = HuggingFaceSource(loaded[test], name=str(Path(folder) / test))
    return splits
