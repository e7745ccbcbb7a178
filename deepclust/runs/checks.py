"""The settings of `deepclust train`, each with its type and range, checked before anything is read or written.

What a recipe, the trainer, the mining or the experiment declares is taken from there. Declared here are the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from deepclust.neighbors.mining import MiningSettings
from deepclust.runs.experiment import Experiment
from deepclust.runs.source import LOADED
from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import check_names, check_values, setting
from deepclust.training.recipe import Recipe
from deepclust.training.trainer import TrainerSettings


@dataclass
class Places:
    """Where things lie."""

    run_dir: str | None = setting(None, "where everything goes", text=True)
    resume: str | None = setting(None, "a run folder to continue", text=True)
    features_dir: str | None = setting(None, "where extracted features lie", text=True)
    cache_dir: str | None = setting(None, "where mined neighbors or reduced features are kept", text=True)


@dataclass
class Counts:
    """Numbers of clusters that a run may go without."""

    n_clusters: int | None = setting(None, "C, the number of clusters", at_least=2, whole=True)


@dataclass
class DataSettings:
    """Those of data= that are about the data themselves."""

    train: str | None = setting(None, "features of the training split", text=True)
    train_labels: str | None = setting(None, "labels of the training split", text=True)
    test: str | None = setting(None, "features of the test split", text=True)
    test_labels: str | None = setting(None, "labels of the test split", text=True)
    path: str | None = setting(None, "images, or raw data", text=True)
    labels: str | None = setting(None, "`folders`: sub-folders are labels", choices=("folders",))
    on_error: str = setting("skip", "for images that cannot be read", choices=("skip", "raise"))


@dataclass
class ReductionSettings:
    """Those of reduction=; `Reduction` says what they mean."""

    dims: int = setting(50, "dimensions", at_least=1, whole=True)
    variance: float | None = setting(None, "share of the variance instead of dims", above=0, at_most=1)
    n_neighbors: int | None = setting(None, "neighbors of a sample", at_least=2, whole=True)
    min_dist: float = setting(0.0, "least distance of embedded samples", at_least=0)
    seed: int | None = setting(None, "None: the run's", at_least=0, whole=True)


# Keys at the top level that are groups of settings, or no setting of Recipe, Experiment, Places or Counts.
GROUPS = ("loss", "data", "baselines", "reduction", "select", "trainer", "logger", "encoder", "benchmark", "neighbors")
# Those of a recipe that are given for every loss at once.
SHARED = ("head", "init", "n_heads", "n_neighbors", "max_epochs", "patience", "learning_rate", "preprocess", "pca_dim")
OF_DATA = (*LOADED, "n_clusters", "encoder", "batch_size", "micro_batch_size", "in_memory")
# The other loggers hand what they do not know on.
OF_LOGGER = {"none": ("name",), "csv": ("name", "prefix", "flush_logs_every_n_steps")}
OF_SELECT = ("by", "reductions", "dims", "n_clusters")


def check_train(config: Mapping[str, Any]) -> None:
    """Check the names, types and ranges of everything that a command line gives.

    Args:
        config: the settings of `deepclust train`.

    Raises:
        InputError: naming the first that is unknown or out of range, and what it may be.
    """
    data, select = config["data"], config["select"]
    places = [one.name for one in fields(Places) if one.name != "cache_dir"]
    check_names(
        config, (*places, "seed", "n_clusters", "silhouette", "baselines_named", *SHARED, *GROUPS), "deepclust train"
    )
    check_names(data, OF_DATA, "data")
    check_names(select, OF_SELECT, "select")
    check_names(config["neighbors"], ("method", "recall", "cache_dir"), "neighbors")
    check_names(
        config["reduction"],
        [one.name for one in fields(ReductionSettings)] + ["kind", "metric", "cache_dir"],
        "reduction",
    )
    logger = config["logger"]
    if logger["name"] in OF_LOGGER:
        check_names(logger, OF_LOGGER[logger["name"]], f"logger={logger['name']}")
    check_values(Places, config)
    check_values(Experiment, {key: config[key] for key in ("seed", "silhouette")})
    check_values(Experiment, {"in_memory": data.get("in_memory")}, "data.")
    check_values(Counts, config)
    check_values(DataSettings, data, "data.")
    # None leaves them to each loss.
    check_values(Recipe, {key: config[key] for key in SHARED if config[key] is not None})
    sizes = {key: data[key] for key in ("batch_size", "micro_batch_size") if data.get(key) is not None}
    check_values(Recipe, sizes, "data.")
    check_values(Places, config["neighbors"], "neighbors.")
    check_values(MiningSettings, config["neighbors"], "neighbors.")
    check_values(Places, config["reduction"], "reduction.")
    check_values(ReductionSettings, config["reduction"], "reduction.")
    check_values(ReductionSettings, {"dims": select.get("dims", 50)}, "select.")
    check_values(TrainerSettings, config["trainer"], "trainer.")
    for key in ("reductions", "n_clusters"):
        if not isinstance(select.get(key), list | None):
            raise InputError(f"select.{key} is {select[key]!r}: it must be a list, such as [{select[key]}]")
    for count in select.get("n_clusters") or ():
        check_values(Counts, {"n_clusters": count}, "select.")
