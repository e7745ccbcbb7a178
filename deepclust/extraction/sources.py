"""The splits of a data set of images, by its name."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from deepclust.extraction.datasets import DATASETS
from deepclust.extraction.image_source import ArraySource, ImageSource, folder_source, split_folders
from deepclust.features.idx import CLASS_NAMES, fashion_mnist
from deepclust.runtime.errors import InputError


def open_sources(
    name: str, path: str | os.PathLike | None = None, *, labels: str | None = None
) -> Mapping[str, ImageSource]:
    """The splits of a data set by name, `train` first.

    Args:
        name: a name of `deepclust.extraction.datasets.DATASETS` other than `features`.
        path: where its images lie; None for where torchvision downloads them to.
        labels: see `folder_source`.

    Raises:
        InputError: if the data set is unknown or its images cannot be had.
    """
    facts = DATASETS.get(name)
    if facts is not None and facts.needs_path and path is None:
        raise InputError(f"data={name} needs data.path. {facts.about}")
    if name == "folder":
        return {"train": folder_source(path or "", labels=labels)}
    if name == "class_folders":
        return split_folders(path or "")
    if name == "imagenet21k":
        return split_folders(path or "", stat_files=False)
    if name == "digits":
        return {"train": _digits()}
    if name == "fashion_mnist":
        return {
            split: ArraySource(*fashion_mnist(split, path), CLASS_NAMES, name=f"fashion_mnist {split}")
            for split in ("train", "test")
        }
    # The rarer kinds are imported when asked for: torchvision takes seconds, `datasets` is optional.
    if name == "webdataset":
        from deepclust.extraction.tar_source import tar_sources

        return tar_sources(path or "")
    if name == "huggingface":
        from deepclust.extraction.huggingface_source import huggingface_sources

        return huggingface_sources(path or "")
    from deepclust.extraction.torchvision_source import torchvision_sources

    return torchvision_sources(name, path)


def _digits() -> ArraySource:
    """scikit-learn's digits as 8 × 8 gray images."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 17 gray levels.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return ArraySource(images, digits.target, [str(digit) for digit in range(10)], name="digits")
