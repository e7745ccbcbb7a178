"""The Dataset: the features of the splits of one data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError

if TYPE_CHECKING:
    from deepclust.runtime.ranks import Ranks


@dataclass(frozen=True)
class Clustered:
    """What is known of the training split that a run clustered.

    Attributes:
        digest: of its features, as `FeatureSet.fingerprint(times=False)` gives it, or None.
        n_samples: how many there were, or None.
    """

    digest: str | None = None
    n_samples: int | None = None


@dataclass
class Dataset:
    """The features of one data set, as a run uses them.

    Attributes:
        name: the data set's name.
        train: the split that heads and baselines are fitted on.
        test: the split that they are judged on as well, or None.
        encoder: name of the encoder that made the features; None for features that came without one.
        checked: whether every row was looked at.
    """

    name: str
    train: FeatureSet
    test: FeatureSet | None
    encoder: str | None
    checked: bool = False

    def splits(self) -> dict[str, FeatureSet]:
        """The splits that are scored, the one that was fitted on first."""
        return {"train": self.train, **({"test": self.test} if self.test is not None else {})}

    def check(self, ranks: Ranks | None = None) -> Dataset:
        """Look at every row, unless that is done; returns itself. Arguments and refusals are those of
        `FeatureSet.check`."""
        for name, split in self.splits().items() if not self.checked else ():
            split.check(f"{self.name} ({name} split)", ranks)
        self.checked = True
        return self


def check_same_encoder(
    train: FeatureSet, test: FeatureSet, names: tuple[str, str] = ("the train split", "the test split")
) -> None:
    """Refuse a test split that another encoder, other weights or another transform made than the train split.

    Args:
        train, test: the two.
        names: of the two, for messages.

    Raises:
        InputError: naming the two, or the two widths.
    """
    for key in ("encoder", "weights", "transform", "spaces"):
        ours, theirs = train.manifest.get(key), test.manifest.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            raise InputError(
                f"{names[1]} was made by another encoder than {names[0]}: {key} "
                f"{_differing(ours, theirs)} in {test.root} and {train.root}; extract both alike"
            )
    if train.dim != test.dim:
        raise InputError(
            f"{names[1]} has {test.dim} dimensions and {names[0]} {train.dim} "
            f"({test.root}, {train.root}): extract both with one encoder"
        )


def _differing(ours: Any, theirs: Any) -> str:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        return ", ".join(f"{key} is {theirs.get(key)} and {ours.get(key)}" for key in keys[:2])
    return f"is {theirs} and {ours}"
