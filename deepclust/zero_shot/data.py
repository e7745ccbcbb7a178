"""The data sets of the matrix: which rows of which features, with which labels.

Shape suffixes: N samples of a split, M samples chosen, D feature dimensions, K classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from deepclust.extraction.datasets import load_dataset
from deepclust.features.arrays import as_array
from deepclust.features.feature_files import load_features, read_npy
from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint
from deepclust.runtime.settings import check_names, check_value, seed_setting, setting, settings_of
from deepclust.zero_shot.protocol import check_name

# Stands for no encoder: a data set's own pixels.
RAW = "raw"
# How far data sets are from ImageNet, on which the encoders were trained (Lowe et al. 2024), nearest first.
DOMAINS: Mapping[str, str] = MappingProxyType(
    {
        "in_domain": "In-domain",
        "domain_shift": "Domain shift",
        "near_ood": "Near-OOD",
        "fine_grained": "Fine-grained",
        "far_ood": "Far-OOD",
    }
)


@dataclass(frozen=True)
class DataSpec:
    """One column of the matrix.

    Attributes:
        key: what tables and files call it.
        name: a data set of `deepclust.extraction.datasets` (`digits`, `fashion_mnist`, …); None with `features`.
        features: for other features, a FeatureSet folder or a .npy, .npz or .pt file; `{encoder}` in it becomes the
            encoder's name.
        labels: a file of labels for `features`.
        split: `train` or `test`.
        title: what table columns call it, default `key`.
        rows: at most so many rows, a random subset that keeps the classes' shares; None for all.
        seed: of that subset.
        range: first and one past the last row that take part, before anything else.
        classes: only samples of these classes.
        n_clusters: C, where there are no labels to count.
        levels: taxonomy levels beside the classes: name -> a coarse id per class, or a .npy file of one per class or
            per row of the split.
        ranks: taxonomy levels in the class names, coarsest first: the parts between `_`, a leading number left out, as
            those of iNaturalist 2021 and of `bioscan1m` are. What follows the last rank is the class's own.
        probe: the data set that serves the kNN probe as memory, or None for no probe.
        encoders: the encoders that it comes with; None for every one.
        domain: a key of `DOMAINS`, for ΔAMI; None takes no part there.
        optional: leave it out where its features are not there, instead of refusing.
    """

    key: str
    name: str | None = setting(None, "of a known data set", text=True)
    features: str | None = setting(None, "a folder or file", text=True)
    labels: str | None = setting(None, "a file", text=True)
    split: str = setting("train", "of the data set", choices=("train", "test"), optional=True)
    title: str | None = setting(None, "of the column", text=True)
    rows: int | None = setting(None, "at most so many", at_least=3, whole=True)
    seed: int = seed_setting(0, "of the subset")
    range: tuple[int, int] | None = setting(None, "first row and one past the last", each=True, at_least=0, whole=True)
    classes: tuple[int, ...] | None = setting(None, "that take part", each=True, at_least=0, whole=True)
    n_clusters: int | None = setting(None, "C", at_least=2, whole=True)
    levels: Mapping[str, Any] | None = setting(None, "of a taxonomy", such=lambda value: _levels(value))
    ranks: tuple[str, ...] | None = setting(None, "in the class names", each=True, text=True)
    probe: str | None = setting(None, "the memory of the kNN probe", text=True)
    encoders: tuple[str, ...] | None = setting(None, "that it comes with", each=True, text=True)
    domain: str | None = setting(None, "its distance from ImageNet", choices=tuple(DOMAINS))
    optional: bool = setting(False, "left out where it is not there", flag=True)

    @property
    def column(self) -> str:
        return self.title or self.key

    def has(self, encoder: str) -> bool:
        return self.encoders is None or encoder in self.encoders


@dataclass(frozen=True)
class LoadedData:
    """The rows of one data set by one encoder.

    Attributes:
        features: M × D, in memory.
        levels: (M,) ids per taxonomy level, the classes themselves not among them.
        n_clusters: C: the number of classes, or what the spec says; None where nobody knows.
        key: digest of all of it.
    """

    features: FeatureSet
    levels: Mapping[str, np.ndarray]
    n_clusters: int | None
    key: str

    @property
    def labels(self) -> np.ndarray | None:
        return self.features.labels


def data_specs(config: Mapping[str, Mapping[str, Any]]) -> dict[str, DataSpec]:
    """The specs of a config, by key.

    Raises:
        InputError: if a key or a setting is not valid, or a probe's memory is not among the data sets.
    """
    known = settings_of(DataSpec)
    specs = {}
    for key, settings in config.items():
        check_name(key, "data")
        check_names(settings, known, f"data.{key}")
        for name, value in settings.items():
            check_value(known[name], value, f"data.{key}.{name}")
        given = {name: value for name, value in settings.items() if value is not None}
        if ("name" in given) == ("features" in given):
            raise InputError(f"data.{key}: give either name= of a known data set or features=PATH")
        for name in ("range", "classes", "encoders", "ranks"):
            if name in given:
                given[name] = tuple(given[name])
        if len(given.get("range", (0, 1))) != 2:
            raise InputError(f"data.{key}.range is {list(given['range'])}: give the first row and one past the last")
        specs[key] = DataSpec(key=key, **given)
    for spec in specs.values():
        if spec.probe is not None and spec.probe not in specs:
            raise InputError(f"data.{spec.key}.probe is '{spec.probe}', which is no data set here")
    return specs


def _levels(value: Any) -> str | None:
    good = value is None or (
        isinstance(value, Mapping)
        and all(isinstance(ids, (str, list)) and all(type(one) in (int, str) for one in ids) for ids in value.values())
    )
    return None if good else "{name: [a coarse id for each class], …}, or {name: FILE.npy, …}"


def load_data(
    spec: DataSpec, encoder: str, features_dir: str | os.PathLike | None = None, study: str | None = None
) -> LoadedData:
    """The chosen rows of a data set by an encoder, copied into memory.

    Labels serve three things: C, the classes' shares in a random subset, and the scores.

    Args:
        spec: which data set, and which of its rows.
        encoder: `raw` for the data set's own pixels, else the encoder whose extracted features are read.
        features_dir: see `load_dataset`.
        study: by whose rule the images must have been cut (`deepclust.extraction.studies`); None takes any.

    Raises:
        InputError: if the features are not there, hold bad rows, were made of images that were cut otherwise, or the
            spec asks for rows or classes that they lack.
    """
    split = load_split(spec, encoder, features_dir, study)
    where = f"data set {spec.key} ({encoder})"
    if spec.classes is not None and split.labels is None:
        raise InputError(f"{where}: classes= chooses by label, and there are none")
    rows = np.arange(len(split))
    if spec.range is not None:
        first, last = spec.range
        if not 0 <= first < last <= len(split):
            raise InputError(f"{where}: range is {first} to {last}, but there are {len(split)} rows")
        rows = rows[first:last]
    if spec.classes is not None and split.labels is not None:
        rows = rows[np.isin(split.labels[rows], spec.classes)]
    if spec.rows is not None and spec.rows < len(rows):
        labels = None if split.labels is None else split.labels[rows]
        rows = rows[stratified_rows(len(rows), spec.rows, labels, spec.seed)]
    if len(rows) < 3:
        raise InputError(f"{where}: {len(rows)} rows are left: clustering needs at least 3")
    chosen = split.select(rows).check(where)
    levels = {name: _level(given, name, split, rows, where) for name, given in (spec.levels or {}).items()}
    levels |= _ranks(spec.ranks or (), split, rows, where)
    n_clusters = spec.n_clusters or chosen.n_classes
    key = fingerprint(chosen.features, chosen.labels, n_clusters, *[part for pair in levels.items() for part in pair])
    return LoadedData(chosen, levels, n_clusters, key)


def stratified_rows(n_rows: int, n_chosen: int, labels_N: np.ndarray | None, seed: int) -> np.ndarray:
    """Sorted ids of a random subset in which every class keeps its share, up to rounding; without labels, any subset.

    The paper's tuning sets are class-stratified subsets of the size of the test split.
    """
    rng = np.random.default_rng(seed)
    if labels_N is None:
        return np.sort(rng.choice(n_rows, n_chosen, replace=False))
    # Rows in a random order within their class, classes one after the other: every (n/m)-th is a stratified sample.
    order_N = rng.permutation(n_rows)
    order_N = order_N[np.argsort(labels_N[order_N], kind="stable")]
    start = rng.random()
    return np.sort(order_N[((np.arange(n_chosen) + start) * n_rows / n_chosen).astype(np.int64)])


def load_split(spec: DataSpec, encoder: str, features_dir: str | os.PathLike | None, study: str | None) -> FeatureSet:
    """The whole split that a spec is of; arguments and errors as those of `load_data`."""
    if spec.features is not None:
        path = Path(spec.features.format(encoder=encoder))
        labels = None if spec.labels is None else spec.labels.format(encoder=encoder)
        return load_features(path, labels, split=spec.split)
    assert spec.name is not None
    asked = None if encoder == RAW else {"name": encoder, "study": study}
    dataset = load_dataset(spec.name, encoder=asked, features_dir=features_dir)
    split = dataset.train if spec.split == "train" else dataset.test
    if split is None:
        raise InputError(f"data set {spec.key} ({encoder}): {spec.name} has no test split")
    return split


def _ranks(ranks: Sequence[str], split: FeatureSet, rows: np.ndarray, where: str) -> dict[str, np.ndarray]:
    """Ids of each rank for the rows. Equal names under different parents are different groups."""
    if not ranks:
        return {}
    if split.class_names is None or split.labels is None:
        raise InputError(f"{where}: ranks= are parts of the class names, and there are none")
    parts = [re.sub(r"^\d+_", "", name).split("_") for name in split.class_names]
    short = next((name for name, own in zip(split.class_names, parts, strict=True) if len(own) <= len(ranks)), None)
    if short is not None:
        raise InputError(
            f"{where}: ranks has {len(ranks)} names, but the class '{short}' has no part for each and one of its own"
        )
    found = {}
    for place, rank in enumerate(ranks, start=1):
        groups = ["_".join(own[:place]) for own in parts]
        found[rank] = np.unique(np.unique(groups, return_inverse=True)[1][split.labels[rows]], return_inverse=True)[1]
    return found


def _level(given: str | Sequence[int], name: str, split: FeatureSet, rows: np.ndarray, where: str) -> np.ndarray:
    if isinstance(given, str):
        coarse = read_npy(given)
    else:
        coarse = as_array(given, f"{where}: level '{name}'")
    if coarse.dtype.kind not in "biuU":
        raise InputError(f"{where}: level '{name}' holds {coarse.dtype} values: give whole numbers or text")
    if coarse.ndim == 1 and len(coarse) == len(split):
        return np.unique(coarse[rows], return_inverse=True)[1]
    if split.labels is None:
        raise InputError(
            f"{where}: level '{name}' has {len(coarse)} ids for {len(split)} rows, and there are no labels"
        )
    n_classes = int(split.labels.max()) + 1
    if coarse.ndim != 1 or len(coarse) < n_classes:
        raise InputError(
            f"{where}: level '{name}' has shape {coarse.shape}: give one id for each of the {n_classes} classes, or "
            f"for each of the {len(split)} rows"
        )
    return np.unique(coarse[split.labels[rows]], return_inverse=True)[1]
