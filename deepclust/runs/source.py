"""Which data a run is on: a data set by name, as an encoder sees it, or what a benchmark leaves of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deepclust.clustering import Clustering
from deepclust.extraction.datasets import load_dataset
from deepclust.features.dataset import Clustered, Dataset
from deepclust.runs.folder import RunFolder
from deepclust.runs.identity import Identity
from deepclust.subsets.select import classes_of, select_benchmark
from deepclust.subsets.selectors import Classes

# Keys of data= that `load_dataset` takes; the others are about training on the data.
LOADED = ("name", "train", "train_labels", "test", "test_labels", "path", "labels", "on_error", "columns")
# Of features that have no folder of their own, to keep what is made of them beside them.
IN_MEMORY = ("digits", "fashion_mnist")


@dataclass(frozen=True)
class DataSource:
    """The data of a run, not read yet.

    Attributes:
        data: arguments of `load_dataset`, but for the encoder and the folder.
        encoder: name or options; None for the data set's own.
        benchmark: arguments of `select_benchmark`; None for the whole data set.
        features_dir: where extracted features lie; None: `$DEEPCLUST_FEATURES`, else `features`.
        n_classes: of the whole data set, where it is known.
    """

    data: Mapping[str, Any]
    encoder: str | Mapping[str, Any] | None = None
    benchmark: Mapping[str, Any] | None = None
    features_dir: str | None = None
    n_classes: int | None = field(default=None, compare=False)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> DataSource:
        """That of a run's settings, as config.yaml holds them."""
        data = config["data"]
        return cls(
            {key: data.get(key) for key in LOADED},
            config.get("encoder") or data.get("encoder"),
            config.get("benchmark") or None,
            config["features_dir"],
            data.get("n_clusters"),
        )

    @property
    def name(self) -> str:
        """The data set and its benchmark, for the names of folders."""
        return self.data["name"] + (f"-{self.benchmark['name']}" if self.benchmark else "")

    def load(self) -> Dataset:
        """Read the splits.

        Raises:
            InputError: if the features or labels are missing or unreadable, or the benchmark does not suit them.
        """
        return self._loaded()

    def load_of(self, run: RunFolder) -> Dataset:
        """Read the splits as a finished run had them: images that a folder has gained since are no part of it.

        Raises:
            InputError: as of `load`; or if the data have changed since, and the run's features are not kept.
        """
        dataset, identity = self.load_for(run), Identity.read(run.identity)
        if identity is not None:
            identity.check_data(dataset, run.path)
        return dataset

    def load_for(self, run: RunFolder) -> Dataset:
        """As `load_of`, of a run that compares the data itself, as it is continued."""
        if self.data["name"] != "folder" or self.benchmark:
            return self._loaded()
        identity, saved = Identity.read(run.identity), run.saved_methods()
        digest = None if identity is None else identity.data.get("features of the train split")
        n_samples = len(Clustering.load(run.clustering(saved[0]))) if saved else None
        return self._loaded(Clustered(digest, n_samples))

    def _loaded(self, clustered: Clustered | None = None) -> Dataset:
        asked = {**self.data, "encoder": self.encoder, "features_dir": self.features_dir}
        dataset = load_dataset(**asked, clustered=clustered)
        return select_benchmark(dataset, **self.benchmark) if self.benchmark else dataset

    def known_classes(self, dataset: Dataset) -> int | None:
        """How many classes the data set has, or what its benchmark leaves of them; None where nobody knows."""
        names = dataset.train.class_names
        return len(names) if self.benchmark and names is not None else self.n_classes

    def all_classes(self, **hierarchy: Any) -> Classes:
        """The classes, also those that the benchmark leaves out, as a path of the hierarchy may lead there.

        Args:
            **hierarchy: `hierarchy`, `links` and `hypernym` of `classes_of`; None takes the benchmark's.

        Raises:
            InputError: if a split has no labels.
        """
        own = self.benchmark or {}
        asked = {key: own.get(key) if hierarchy.get(key) is None else hierarchy[key] for key in CLASS_OPTIONS}
        whole = replace(self, benchmark=None).load()
        return classes_of(whole, **{key: value for key, value in asked.items() if value is not None})

    def folder_of(self, kind: str) -> Path | None:
        """Where what is made of features without a folder of their own is kept; None: beside the features."""
        if self.data["name"] not in IN_MEMORY:
            return None
        root = self.features_dir or os.environ.get("DEEPCLUST_FEATURES") or "features"
        return Path(root) / self.data["name"] / kind


def with_its_encoder(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose `data.encoder` is the encoder that is used: encoder= wins over that of the data set.

    Example:
        >>> with_its_encoder({"data": {"encoder": "a"}, "encoder": {"name": "b"}})["data"]
        {'encoder': 'b'}
    """
    data, encoder = settings.get("data"), settings.get("encoder")
    if isinstance(data, Mapping) and isinstance(encoder, Mapping) and encoder.get("name"):
        return {**settings, "data": {**data, "encoder": encoder["name"]}}
    return dict(settings)


CLASS_OPTIONS = ("hierarchy", "links", "hypernym")
