"""Several feature spaces of the same samples, such as those of two encoders, joined into one.

Each space has its rows scaled to length 1 and divided by √K, then they stand side by side. The cosine of two joined
rows is the mean of their cosines in the K spaces, so that neighbors are near in all of them, and no space counts more
for having more dimensions or longer rows.

Shape suffixes: N samples, B rows of a block, D dimensions of one space, J of all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.features.table_files import TableReading
from deepclust.runtime.errors import InputError

BLOCK_ROWS = 16384
Place = str | os.PathLike


def load_spaces(
    places: Place | Sequence[Place],
    labels: Place | None = None,
    *,
    split: str = "train",
    tables: TableReading | None = None,
) -> FeatureSet:
    """The features of one place, as `load_features` reads them, or of several places, joined.

    Args:
        places: a file or folder, or several whose rows are of the same samples in the same order.
        labels: optional file with one label per row.
        split: which split of a folder of splits.
        tables: of `load_features`.

    Raises:
        InputError: if a place cannot be read, has rows that are no features, or differs from the first in its number of
            rows or in its labels.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.save(folder / "a.npy", np.eye(4, 3, dtype=np.float32) + 1)
        >>> np.save(folder / "b.npy", np.eye(4, 2, dtype=np.float32) + 1)
        >>> load_spaces([folder / "a.npy", folder / "b.npy"]).features.shape
        (4, 5)
    """
    if isinstance(places, (str, os.PathLike)):
        return load_features(places, labels, split=split, tables=tables)
    spaces = [load_features(place, split=split, tables=tables).check(str(place)) for place in places]
    _check_aligned(spaces, places)
    rows_NJ = np.empty((len(spaces[0]), sum(space.dim for space in spaces)), np.float32)
    left = 0
    for space in spaces:
        for low in range(0, len(space), BLOCK_ROWS):
            block_BD = np.asarray(space.features[low : low + BLOCK_ROWS], dtype=np.float32)
            lengths_B1 = np.linalg.norm(block_BD, axis=1, keepdims=True)
            rows_NJ[low : low + BLOCK_ROWS, left : left + space.dim] = block_BD / (lengths_B1 * len(spaces) ** 0.5)
        left += space.dim
    labelled = next((space for space in spaces if space.labels is not None), spaces[0])
    joined = FeatureSet.from_arrays(
        rows_NJ,
        labelled.labels,
        class_names=labelled.class_names,
        paths=spaces[0].paths,
        manifest={
            "source": spaces[0].manifest.get("source"),
            "spaces": [{"dim": space.dim, "encoder": space.manifest.get("encoder")} for space in spaces],
        },
        name=", ".join(map(str, places)),
    )
    joined.columns = next((space.columns for space in spaces if space.columns is not None), None)
    if labels is not None:
        own = load_features(Path(places[0]), labels, split=split, tables=tables)
        joined.labels, joined.class_names = own.labels, own.class_names
    return joined


def _check_aligned(spaces: Sequence[FeatureSet], places: Sequence[Place]) -> None:
    """Refuse spaces whose rows cannot be the same samples."""
    labelled = None
    for space, place in zip(spaces, places):
        if len(space) != len(spaces[0]):
            raise InputError(
                f"{place} has {len(space)} rows and {places[0]} {len(spaces[0])}: feature spaces that are given "
                "together need the same samples in the same order"
            )
        if space.labels is None:
            continue
        if labelled is not None and not np.array_equal(space.labels, labelled[0]):
            raise InputError(
                f"{place} and {labelled[1]} have other labels: feature spaces that are given together need the same "
                "samples in the same order"
            )
        labelled = labelled or (space.labels, place)
