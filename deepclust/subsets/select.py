"""From the name of a benchmark to a data set's rows and labels under it: `deepclust train … benchmark=odd`."""

from __future__ import annotations

import csv
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.features.dataset import Dataset
from deepclust.features.feature_files import read_npy
from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError
from deepclust.subsets import selectors
from deepclust.subsets.find_hierarchy import find_hierarchy
from deepclust.subsets.hierarchy import Hierarchy
from deepclust.subsets.selectors import Benchmark, Classes

RULES: Mapping[str, Callable[..., Benchmark]] = {
    "everything": selectors.everything,
    "around_median": selectors.around_median,
    "imbalanced": selectors.imbalanced,
    "centered": selectors.centered,
    "odd": selectors.odd,
    "coarse": selectors.coarse,
    "source_leaf": selectors.source_leaf,
    "tree_leaf": selectors.tree_leaf,
    "relabeled": selectors.relabeled,
    "easiest": selectors.easiest,
    "union": selectors.union,
    "random": selectors.random_classes,
}


def make_benchmark(name: str, rule: str, classes: Classes, **options: Any) -> Benchmark:
    """A benchmark of a data set's classes.

    Args:
        name: for messages and tables.
        rule: one of `RULES`.
        classes: of the data set.
        **options: of the rule.

    Raises:
        InputError: if the rule is unknown, has no such option or lacks one, or refuses these classes.
    """
    if rule not in RULES:
        raise InputError(f"benchmark={name} has the rule '{rule}': choose one of {', '.join(RULES)}")
    try:
        inspect.signature(RULES[rule]).bind(name, classes, **options)
    except TypeError as error:
        known = ", ".join(list(inspect.signature(RULES[rule]).parameters)[2:]) or "none"
        raise InputError(f"benchmark={name}: {error}; its options are {known}") from None
    return RULES[rule](name, classes, **options)


def select_benchmark(
    dataset: Dataset,
    name: str,
    rule: str,
    *,
    hierarchy: str | os.PathLike | None = None,
    links: str = "paper",
    hypernym: str = "last",
    **options: Any,
) -> Dataset:
    """The data set under a benchmark: every split selected and relabeled, no feature copied.

    Args:
        dataset: with labels on every split.
        name, rule: of the benchmark.
        hierarchy, links, hypernym: of `find_hierarchy`.
        **options: of the rule; `accuracies` and `relabels` name files. Those not named are looked for in the folder
            `benchmarks` beside the train split's, as `clip_1k_accuracies.json` and `leaf_hzr_train.npy`.

    Raises:
        InputError: if a split has no labels, a file is missing, or the benchmark does not suit the data.
    """
    classes = classes_of(dataset, hierarchy=hierarchy, links=links, hypernym=hypernym)
    folder = None if dataset.train.root is None else dataset.train.root.parent / "benchmarks"
    read = read_files(name, options, classes, folder, has_test=dataset.test is not None)
    benchmark = make_benchmark(name, rule, classes, **read)
    test = None if dataset.test is None else selected(dataset.test, benchmark, "test")
    return replace(dataset, train=selected(dataset.train, benchmark, "train"), test=test)


def selected(features: FeatureSet, benchmark: Benchmark, split: str) -> FeatureSet:
    """One split under a benchmark."""
    assert features.labels is not None
    selection = benchmark.select(features.labels, split)
    if not selection.rows_N.any():
        raise InputError(f"benchmark={benchmark.name} keeps no sample of the {split} split")
    return features.view(selection.rows_N, selection.labels, selection.class_names)


def classes_of(dataset: Dataset, **hierarchy: Any) -> Classes:
    """The classes of a labeled data set; `hierarchy` holds the arguments of `find_hierarchy`.

    Raises:
        InputError: if a split has no labels, or labels that no class name belongs to.
    """
    for split, features in (("train", dataset.train), ("test", dataset.test)):
        if features is not None and features.labels is None:
            raise InputError(
                f"a benchmark is made of labeled samples, but the {split} split of data={dataset.name} has no labels: "
                f"give data.{split}_labels, or leave out benchmark="
            )
    labels = [features.labels for features in (dataset.train, dataset.test) if features is not None]
    lowest = min(int(split.min()) for split in labels if split is not None)
    highest = max(int(split.max()) for split in labels if split is not None)
    known = dataset.train.class_names
    names = list(known) if known is not None else [str(number) for number in range(highest + 1)]
    if lowest < 0 or highest >= len(names):
        raise InputError(
            f"labels of data={dataset.name} go from {lowest} to {highest}, but there are {len(names)} class names: "
            "number the classes from 0"
        )
    counts_K = np.bincount(np.asarray(dataset.train.labels), minlength=len(names))
    return Classes(names, counts_K, lazy_hierarchy(names, dataset.name, **hierarchy))


def lazy_hierarchy(names: Sequence[str], data_name: str, **options: Any) -> Callable[[], Hierarchy]:
    """Reads the hierarchy when it is first asked for: most benchmarks need none."""
    given = options.pop("hierarchy", None)
    return cache(partial(find_hierarchy, given, tuple(names), data_name, **options))


def read_files(
    name: str, options: Mapping[str, Any], classes: Classes, folder: Path | None = None, *, has_test: bool = True
) -> dict[str, Any]:
    """The options with the content of the files that they name, or of the files beside the data set.

    Raises:
        InputError: if a file is not named, missing or unreadable.
    """

    def found(given: str | None, own: Sequence[str], key: str, what: str) -> str | Path:
        if given is not None:
            return given
        places = [] if folder is None else [folder / file for file in own]
        for place in places:
            if place.is_file():
                return place
        raise InputError(f"benchmark={name} needs {what}: {key}=FILE{f', or write {places[0]}' if places else ''}")

    read = dict(options)
    if "accuracies" in read:
        given = read.pop("accuracies")
        several = isinstance(given, Mapping)
        what = "the accuracy of a linear probe on each class (`deepclust evaluate data=… metrics=[probe]` measures it)"
        accuracies = []
        for model, file in (given if several else {name: given}).items():
            own = [f"{model}_accuracies.{suffix}" for suffix in ("json", "csv", "npy")]
            key = "benchmark.accuracies" + (f".{model}" if several else "")
            accuracies.append(read_accuracies(found(file, own, key, what), classes.names))
        read |= {"accuracies": accuracies} if several else {"accuracies_K": accuracies[0]}
    if "relabels" in read:
        what = "the new class of each sample (.npy), which `deepclust relabel` makes"
        read["relabels"] = {
            split: read_npy(found(file, [f"{name}_{split}.npy"], f"benchmark.relabels.{split}", what))
            for split, file in read["relabels"].items()
            if split == "train" or has_test
        }
    return read


def read_accuracies(file: str | os.PathLike, class_names: Sequence[str]) -> np.ndarray:
    """(K,) per-class accuracies, NaN where JSON says null: a `.json` object by class name, as the linear probe of
    `deepclust evaluate` leaves it, a `.json` list or `.npy` in the order of the classes, or a `.csv` of class,accuracy.

    Raises:
        InputError: if the file is missing, unreadable, or lacks a class.
    """
    path = Path(file).expanduser()
    if path.suffix == ".npy":
        accuracies = read_npy(path)
        if accuracies.dtype.kind not in "biuf":
            raise InputError(f"{path} holds {accuracies.dtype} values, no per-class accuracies")
        return accuracies.astype(np.float64)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
        else:
            with open(path, encoding="utf-8", newline="") as stream:
                content = dict(line[:2] for line in csv.reader(stream) if line)
        if isinstance(content, list):
            return np.array(content, dtype=np.float64)
        missing = [name for name in class_names if name not in content]
        if missing:
            raise InputError(f"{path} has no accuracy of {len(missing)} classes (first: '{missing[0]}'): add them")
        values = [content[name] for name in class_names]
        return np.array([np.nan if value is None else float(value) for value in values])
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no list of per-class accuracies ({error})") from None
