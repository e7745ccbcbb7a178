"""From a run's settings, as config.yaml holds them, to the data, recipes, reductions and folders that they name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepclust.clusterers import clusterer_class
from deepclust.subsets.select import classes_of, select_benchmark
from deepclust.subsets.selectors import Classes
from deepclust.extraction.datasets import load_dataset
from deepclust.features.dataset import Dataset
from deepclust.reduction.splits import reduced_dataset
from deepclust.reduction.reduction import Reduction
from deepclust.runs.choosing import check_numbers
from deepclust.training.recipe import Recipe

Settings = Mapping[str, Any]

# Settings at the top level that apply to every loss of the run.
SHARED = (
    "n_clusters",
    "head",
    "init",
    "n_heads",
    "n_neighbors",
    "max_epochs",
    "patience",
    "learning_rate",
    "preprocess",
    "pca_dim",
)
# Keys of conf/data/ that are about training on the data, not about loading it.
NOT_LOADED = ("n_clusters", "batch_size", "micro_batch_size", "in_memory", "recipe")
# Of the folder of a sweep's job; file systems stop at 255 bytes, and caches append to names.
MAX_NAME_BYTES = 200


def data_name(config: Settings) -> str:
    """The data set and its benchmark, for the names of folders."""
    return config["data"]["name"] + (f"-{config['benchmark']['name']}" if config.get("benchmark") else "")


def job_name(overrides: str, number: int) -> str:
    """The folder of one job of a sweep: what was varied, shortened where no file system would take it, or a number."""
    name = overrides.replace("/", "_") or str(number)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: MAX_NAME_BYTES - 9].decode(errors='ignore')}-{digest}"


def load_data(config: Settings) -> Dataset:
    """The splits that `data=`, `encoder=` and `benchmark=` name.

    Raises:
        InputError: if the features or labels are missing or unreadable, or the benchmark does not suit them.
    """
    data = {key: value for key, value in config["data"].items() if key not in NOT_LOADED}
    encoder = config.get("encoder") or data.pop("encoder")
    data.pop("encoder", None)
    dataset = load_dataset(**data, encoder=encoder, features_dir=config["features_dir"])
    if config.get("benchmark"):
        dataset = select_benchmark(dataset, **config["benchmark"])
    return dataset


def known_classes(config: Settings, dataset: Dataset) -> int | None:
    """How many classes the data set has, or what its benchmark leaves of them; None where nobody knows."""
    names = dataset.train.class_names
    return len(names) if config.get("benchmark") and names is not None else config["data"]["n_clusters"]


def make_recipe(name: str, settings: dict[str, Any], config: Settings, n_clusters: int) -> Recipe:
    """The recipe of one loss: its own settings, then those for a data set of this size, then those of the run."""
    shared = {key: config[key] for key in SHARED if config[key] is not None}
    batch = {key: config["data"][key] for key in ("batch_size", "micro_batch_size") if config["data"][key] is not None}
    sized = config["data"].get("recipe") or {}
    return Recipe(
        **{**settings, **sized, **shared, **batch, "loss": name, "n_clusters": n_clusters, "seed": config["seed"]}
    )


def without_c(baselines: dict[str, Any], select: dict[str, Any]) -> dict[str, Any]:
    """The baselines of a run whose C is unknown: those that need one wait for the numbers that select= tries."""
    if not select.get("n_clusters"):
        return baselines
    return {name: options for name, options in baselines.items() if not clusterer_class(name).needs_n_clusters}


def select_reductions(config: Settings, n_samples: int) -> list[Reduction]:
    """The further reductions of select=; refuses numbers of clusters that cannot be."""
    select = config["select"]
    check_numbers(select["n_clusters"] or (), n_samples)
    return [Reduction(kind, select["dims"], seed=config["seed"]) for kind in select["reductions"] or ()]


def make_reduction(config: Settings) -> Reduction:
    """What the features are reduced by, with the run's seed unless it has its own."""
    settings = {
        key: value for key, value in (config.get("reduction") or {"kind": "none"}).items() if key != "cache_dir"
    }
    if settings.get("seed") is None:
        settings["seed"] = config.get("seed", 0)
    return Reduction(**settings)


def reduced_as_trained(dataset: Dataset, trained_on: Settings, *, record: Path, own: bool) -> Dataset:
    """Splits in the space that a run clustered, which was fitted to its own training split.

    Args:
        dataset: the run's own data, or other features of the same encoder.
        trained_on: the run's settings.
        record: its note of the reduction.
        own: whether the data are its own.

    Raises:
        InputError: if the features do not allow the reduction.
    """
    reduction = make_reduction(trained_on)
    if reduction.kind == "none":
        return dataset
    mining = dict(trained_on["neighbors"])
    return reduced_dataset(
        reduction,
        dataset,
        fitted_on=None if own else load_data(trained_on).train,
        neighbors_dir=mining.pop("cache_dir") or cache_folder(trained_on),
        mining=mining,
        cache_dir=reductions_folder(trained_on),
        record=record,
    )


def all_classes(config: Settings) -> Classes:
    """The classes of the data set, also those that its benchmark leaves out, as a path of the hierarchy may lead there.

    The hierarchy is that of `hierarchy=`, `links=` and `hypernym=`, else the benchmark's.

    Raises:
        InputError: if a split has no labels.
    """
    benchmark = config.get("benchmark") or {}
    keys = ("hierarchy", "links", "hypernym")
    named = {key: config[key] if config.get(key) is not None else benchmark.get(key) for key in keys}
    given = {key: value for key, value in named.items() if value is not None}
    return classes_of(load_data({**config, "benchmark": None}), **given)


def cache_folder(config: Settings) -> Path | None:
    """Neighbors of features that have no folder of their own are kept here; others lie beside their features."""
    if config["data"]["name"] in ("digits", "fashion_mnist"):
        root = config["features_dir"] or os.environ.get("DEEPCLUST_FEATURES") or "features"
        return Path(root) / config["data"]["name"] / "neighbors"
    return None


def reductions_folder(config: Settings) -> Path | None:
    """Reduced features are kept beside the neighbors."""
    chosen = (config.get("reduction") or {}).get("cache_dir")
    neighbors = config["neighbors"]["cache_dir"] or cache_folder(config)
    return Path(chosen) if chosen else Path(neighbors).with_name("reductions") if neighbors else None
