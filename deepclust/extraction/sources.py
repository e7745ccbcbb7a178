"""The splits of a data set of images, by its name."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import numpy as np

from deepclust.extraction.dataset_facts import DATASETS
from deepclust.extraction.image_source import ArraySource, ImageSource, folder_source, split_folders
from deepclust.extraction.layouts import LAYOUTS, laid_out_sources
from deepclust.features.idx import CLASS_NAMES, fashion_mnist
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import is_first_process


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
    sources = _opened(name, path, labels)
    _warn_of_counts(name, sources)
    return sources


def _warn_of_counts(name: str, sources: Mapping[str, ImageSource]) -> None:
    """Say which split has another number of images or test classes than the published data set."""
    facts = DATASETS.get(name)
    if facts is None or not is_first_process():
        return
    for split, n_images, n_classes in (
        ("train", facts.n_train, None),
        ("test", facts.n_test, facts.n_test_classes),
    ):
        if split not in sources:
            continue
        labels_N = sources[split].labels
        here = (len(sources[split]), 0 if labels_N is None else len(np.unique(labels_N)))
        for what, found, published in (("images", here[0], n_images), ("classes", here[1], n_classes)):
            if published not in (None, found):
                print(
                    f"warning: {name} {split} has {found} {what} here, published are {published}: is it whole?",
                    file=sys.stderr,
                )


def _opened(name: str, path: str | os.PathLike | None, labels: str | None) -> Mapping[str, ImageSource]:
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
    if name in LAYOUTS:
        return laid_out_sources(name, path or "")
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
