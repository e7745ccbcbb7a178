"""From plain settings, as config.yaml holds them, to the experiment that they ask for.

Nothing here knows the command line: a notebook or a test may read an old run's config.yaml the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from deepclust.clusterers import clusterer_class, make_clusterer
from deepclust.clustering import display_name
from deepclust.cuts.exploration import bounds_of
from deepclust.features.dataset import Dataset
from deepclust.neighbors.mining import MiningSettings
from deepclust.reduction.reduction import Reduction
from deepclust.reduction.splits import reduced_dataset
from deepclust.runs.choosing import Choosing
from deepclust.runs.experiment import Experiment
from deepclust.runs.folder import RunFolder
from deepclust.runs.source import DataSource
from deepclust.runtime.errors import InputError
from deepclust.training.loggers import LoggerSettings
from deepclust.training.recipe import Recipe
from deepclust.training.trainer_settings import TrainerSettings

Settings = Mapping[str, Any]


def read_experiment(config: Settings, resumed: RunFolder | None = None) -> Experiment:
    """The experiment of `deepclust train`'s settings, its data read.

    Args:
        config: as `deepclust.cli.configure.composed("train", …)` gives them: the settings of each loss are complete.
        resumed: the folder of the run that it continues, whose data are meant; None: of a new one.

    Raises:
        InputError: if the data cannot be read, or a setting is unknown or out of range.
    """
    choosing = read_choosing(config)
    reduction = read_reduction(config)
    mining = read_mining(config)
    neighbors_dir, reductions_dir = cache_folders(config)
    source = DataSource.of(config)
    dataset = source.load() if resumed is None else source.load_for(resumed)
    n_clusters, bounds = config["n_clusters"], None
    if n_clusters is None:
        n_clusters = source.known_classes(dataset)
    elif not isinstance(n_clusters, int):
        n_clusters, bounds = None, bounds_of(n_clusters, len(dataset.train))
        if not config["loss"]:
            raise InputError(f"n_clusters={config['n_clusters']} cuts trained heads: name a loss, or a number")
    most = n_clusters if bounds is None else bounds[1]
    if most is None and config["loss"]:
        raise InputError(f"data={config['data']['name']} has no known number of clusters: set n_clusters=")
    baselines = runnable(config["baselines"], most, choosing)
    notes = [] if config["loss"] else not_for_baselines(config)
    if most is not None and not config.get("baselines_named", True):
        baselines, notes = possible(baselines, most, len(dataset.train))
    losses = config["loss"]
    if not config.get("n_neighbors_named", True):
        losses, more = with_neighbors_there(losses, len(dataset.train))
        notes += more
    return Experiment(
        config=config,
        notes=notes,
        dataset=dataset,
        recipes=[
            Recipe.of(name, **settings, n_clusters=most, seed=config["seed"]) for name, settings in losses.items()
        ],
        baselines=baselines,
        n_clusters=n_clusters,
        bounds=bounds,
        constraints=config.get("constraints"),
        seed=config["seed"],
        reduction=reduction,
        choosing=choosing,
        trainer=TrainerSettings.of(config["trainer"]),
        mining=mining,
        logger=LoggerSettings.of(config["logger"]),
        neighbors_dir=neighbors_dir,
        reductions_dir=reductions_dir,
        in_memory=config["data"]["in_memory"],
        silhouette=config["silhouette"],
    )


def runnable(baselines: Settings, n_clusters: int | None, choosing: Choosing | None) -> dict[str, Any]:
    """The baselines of the run itself. Without a known C, those that need one are left to select=."""
    if n_clusters is not None or choosing is None or not choosing.n_clusters:
        return dict(baselines)
    return {name: options for name, options in baselines.items() if not clusterer_class(name).needs_n_clusters}


def possible(baselines: Settings, n_clusters: int | None, n_samples: int) -> tuple[dict[str, Any], list[str]]:
    """The baselines that data of this size can have, and a sentence for each of the others.

    For baselines that nobody named, such as the defaults: what is asked for by name is refused where it cannot be had.
    """
    kept, notes = {}, []
    for name, options in baselines.items():
        try:
            make_clusterer(name, **{"n_clusters": n_clusters, "seed": 0, **options}).check(n_samples)
            kept[name] = options
        except InputError as error:
            notes.append(f"{display_name(name)} is left out, as nobody asked for it by name: {error}.")
    return kept, notes


def with_neighbors_there(losses: Settings, n_samples: int) -> tuple[dict[str, Any], list[str]]:
    """The settings of the losses with the neighbors that a small set has, and a sentence where they are fewer.

    For a number that nobody gave: half of the other samples, so that pairs say something; a given one is refused.
    """
    most = max(1, (n_samples - 1) // 2)
    fewer = {name: {**one, "n_neighbors": most} for name, one in losses.items() if one["n_neighbors"] >= n_samples}
    notes = [f"n_neighbors is {most}, as there are only {n_samples} samples."] if fewer and n_samples > 1 else []
    return {**losses, **fewer}, notes


def not_for_baselines(config: Settings) -> list[str]:
    """A sentence on the settings of heads that a run without heads was given, which change nothing in it."""
    names = [one.name for one in fields(Recipe) if one.name not in ("loss", "n_clusters", "seed")]
    given = [name for name in names if config.get(name) is not None]
    given += [f"data.{name}" for name in names if config["data"].get(name) is not None]
    if not given:
        return []
    change = f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} for heads, of which this run trains none"
    return [f"{change}; a baseline has options of its own, +baselines.NAME.OPTION=VALUE."]


def read_choosing(config: Settings) -> Choosing | None:
    """What `select=` asks for, or None."""
    select = config["select"]
    if select["by"] is None:
        return None
    return Choosing(
        baselines=config["baselines"],
        reductions=[
            Reduction(kind, select.get("dims", 50), seed=config["seed"]) for kind in select.get("reductions") or ()
        ],
        n_clusters=select.get("n_clusters") or (),
    )


def read_mining(config: Settings) -> MiningSettings:
    """How neighbors are searched."""
    settings = {key: value for key, value in config["neighbors"].items() if key != "cache_dir"}
    return MiningSettings(**settings)


def read_reduction(config: Settings) -> Reduction:
    """What the features are reduced by, with the run's seed unless it has its own."""
    asked = config.get("reduction") or {"kind": "none"}
    settings = {key: value for key, value in asked.items() if key != "cache_dir"}
    if settings.get("seed") is None:
        settings["seed"] = config.get("seed", 0)
    return Reduction(**settings)


def cache_folders(config: Settings) -> tuple[Path | None, Path | None]:
    """Where mined neighbors and reduced features are kept; None: beside their features.

    Reduced features lie beside the neighbors, unless `reduction.cache_dir` says otherwise.
    """
    mined = config.get("neighbors", {}).get("cache_dir")
    reduced = (config.get("reduction") or {}).get("cache_dir")
    source = DataSource.of(config)
    neighbors_dir = Path(mined) if mined else source.folder_of("neighbors")
    beside = None if neighbors_dir is None else neighbors_dir.with_name("reductions")
    return neighbors_dir, Path(reduced) if reduced else beside


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
    reduction = read_reduction(trained_on)
    if reduction.kind == "none":
        return dataset
    neighbors_dir, reductions_dir = cache_folders(trained_on)
    return reduced_dataset(
        reduction,
        dataset,
        fitted_on=None if own else DataSource.of(trained_on).load_of(RunFolder(record.parent)).train,
        neighbors_dir=neighbors_dir,
        mining=read_mining(trained_on),
        cache_dir=reductions_dir,
        record=record,
    )
