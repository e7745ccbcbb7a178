"""The settings under conf/ are those of the estimators, and every one of them is a setting that training knows."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from deepclust import SCAN, TEMI, TSP
from deepclust.clusterers import CLUSTERERS
from deepclust.estimators import RUN_OPTIONS
from deepclust.extraction.datasets import DATASETS
from deepclust.losses import OBJECTIVES
from deepclust.reduction.reduction import KINDS, Reduction
from deepclust.training.recipe import Recipe

CONF = Path(__file__).resolve().parents[1] / "conf"
ESTIMATORS = {"temi": TEMI, "scan": SCAN, "tsp": TSP}
every_loss = pytest.mark.parametrize("loss", OBJECTIVES)


def settings_of(loss: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / "loss" / f"{loss}.yaml").read_text())[loss]


def defaults_of(loss: str) -> dict[str, Any]:
    parameters = inspect.signature(ESTIMATORS[loss].__init__).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.name != "self"}


@every_loss
def test_a_losss_settings_are_the_defaults_of_its_estimator(loss):
    settings = settings_of(loss)
    flat = {**settings.pop("loss_options"), **settings}
    defaults = defaults_of(loss)
    # The command line takes these from the data, the trainer and the seed.
    for name in ("n_clusters", *RUN_OPTIONS):
        del defaults[name]
    assert flat == defaults


@every_loss
def test_a_losss_settings_make_a_recipe(loss):
    settings = settings_of(loss)
    recipe = Recipe(n_clusters=10, loss=loss, **settings)
    assert {**recipe.as_dict(), **settings} == recipe.as_dict()
    # Nothing is left to a default that the file does not show.
    shown = {*settings, "n_clusters", "loss", "seed"}
    assert {field.name for field in fields(Recipe)} == shown


@every_loss
def test_the_estimators_defaults_make_a_recipe(loss):
    recipe = ESTIMATORS[loss](n_clusters=7, random_state=3)._recipe()
    assert (recipe.loss, recipe.n_clusters, recipe.seed) == (loss, 7, 3)


def test_there_is_a_config_for_every_choice():
    def names(group: str) -> set[str]:
        return {path.stem for path in (CONF / group).glob("*.yaml")}

    assert names("loss") == {*OBJECTIVES, "none"}
    assert names("baselines") == {*CLUSTERERS, "none", "all"}
    assert names("reduction") == set(KINDS)
    assert names("data") >= {*DATASETS, "digits", "features"}
    assert names("logger") == {"none", "csv", "tensorboard", "wandb"}


def test_all_baselines_are_all_of_the_registry():
    assert list(yaml.safe_load((CONF / "baselines" / "all.yaml").read_text())) == list(CLUSTERERS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reductions_settings_are_its_defaults(kind):
    settings = yaml.safe_load((CONF / "reduction" / f"{kind}.yaml").read_text())
    assert settings.pop("seed") is None  # the run's
    assert settings.pop("cache_dir") is None
    assert {key: getattr(Reduction(kind), key) for key in settings} == settings


@pytest.mark.parametrize("path", sorted((CONF / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_data_configs_agree_with_what_is_known_of_the_data(path):
    config = yaml.safe_load(path.read_text())
    assert config["name"] == path.stem or config["name"] in DATASETS or path.stem not in DATASETS
    if path.stem in DATASETS:
        assert config["n_clusters"] == DATASETS[path.stem].n_classes
