"""What is asked for is what runs: defaults < a data set's size < an experiment < the command line, for every key."""

from __future__ import annotations

import re
from typing import Any

import pytest

from deepclust import SCAN, TEMI, TSP
from deepclust.cli import schema
from deepclust.cli.configure import CONF, SHARED, WANDB_SWEEPS, composed
from deepclust.clusterers import CLUSTERERS
from deepclust.extraction.dataset_facts import DATASETS
from deepclust.extraction.encoder_catalog import ENCODERS
from deepclust.losses import LOSSES
from deepclust.reduction.reduction import KINDS, Reduction
from deepclust.runtime.errors import InputError
from deepclust.subsets.benchmarks import BENCHMARKS
from deepclust.training.recipe import Recipe, default_settings

ESTIMATORS = {"temi": TEMI, "scan": SCAN, "tsp": TSP}
# The papers' own three have experiments and sizes; those that they are compared with have defaults.
OWN = tuple(ESTIMATORS)
DATA = ("digits", "cifar10", "imagenet", "imagenet21k")
# Of every setting a value that no loss, size or experiment has.
OTHER: dict[str, Any] = {
    "beta": 0.77,
    "marginal_momentum": 0.77,
    "sharpness": 7.7,
    "rounds": 7,
    "threshold": 0.77,
    "start": "other.ckpt",
    "entropy_weight": 1.25,
    "prior": "zipf(0.77)",
    "balance": 0.77,
    "alpha": 0.77,
    "alpha_learned": 0.77,
    "walk": 3,
    "inner_steps": 7,
    "inner_learning_rate": 0.077,
    "hidden_dim": 33,
    "embedding_dim": 34,
    "n_heads": 3,
    "temperature": 0.33,
    "n_neighbors": 7,
    "warm_start_epochs": 4,
    "preprocess": "l2",
    "pca_dim": 5,
    "max_epochs": 17,
    "patience": 6,
    "batch_size": 777,
    "micro_batch_size": 77,
    "learning_rate": 0.0123,
    "warmup_fraction": 0.37,
    "weight_decay": 0.037,
    "teacher_momentum": 0.37,
    "freeze_prototypes_epochs": 7,
    "gradient_clip": 3.7,
}
OTHER_WORDS = {
    "head": ("mlp", "linear"),
    "init": ("random", "kmeans"),
    "optimizer": ("adamw", "adam"),
    "lr_schedule": ("constant", "cosine"),
    "decay_gains": (True, False),
}
every_loss = pytest.mark.parametrize("loss", LOSSES)
own_losses = pytest.mark.parametrize("loss", OWN)
every_data = pytest.mark.parametrize("data", DATA)
every_experiment = pytest.mark.parametrize("experiment", [None, "paper"])


def recipe_of(loss: str, *words: str) -> Recipe:
    return Recipe.of(loss, **composed("train", words)["loss"][loss], n_clusters=10)


def values(recipe: Recipe) -> dict[str, Any]:
    """Of every setting, as the command line names it."""
    saved = recipe.as_dict()
    return {**saved.pop("loss_options"), **saved}


def other_values(now: dict[str, Any], loss: str) -> dict[str, Any]:
    """Of every setting of a loss another value than it has now."""
    words = {key: second if now[key] == first else first for key, (first, second) in OTHER_WORDS.items()}
    return {key: {**OTHER, **words}[key] for key in default_settings(loss)}


def said(value: Any) -> str:
    """A value as the command line wants it, where parentheses are quoted."""
    return f"'{value}'" if "(" in str(value) else str(value)


@own_losses
@every_data
@every_experiment
def test_a_value_on_the_command_line_is_the_value_in_the_recipe(loss, data, experiment):
    words = [f"data={data}", f"experiment={loss}_paper" if experiment else f"loss={loss}"]
    others = other_values(values(recipe_of(loss, *words)), loss)
    asked = [f"loss.{loss}.{key}={said(value)}" for key, value in others.items()]
    recipe = values(recipe_of(loss, *words, *asked))
    assert {key: recipe[key] for key in others} == others


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in OWN])
def test_a_value_on_the_command_line_is_the_value_in_a_comparators_recipe(loss):
    others = other_values(values(recipe_of(loss, f"loss={loss}")), loss)
    asked = [f"loss.{loss}.{key}={said(value)}" for key, value in others.items()]
    recipe = values(recipe_of(loss, f"loss={loss}", *asked))
    assert {key: recipe[key] for key in others} == others


@own_losses
@every_data
@every_experiment
def test_a_value_for_every_loss_is_the_value_in_the_recipe_unless_the_loss_has_its_own(loss, data, experiment):
    words = [f"data={data}", f"experiment={loss}_paper" if experiment else f"loss={loss}"]
    others = other_values(values(recipe_of(loss, *words)), loss)
    shared = {
        **{key: key for key in SHARED},
        "batch_size": "data.batch_size",
        "micro_batch_size": "data.micro_batch_size",
    }
    asked = [f"{place}={others[key]}" for key, place in shared.items()]
    recipe = values(recipe_of(loss, *words, *asked))
    assert {key: recipe[key] for key in shared} == {key: others[key] for key in shared}
    own = values(recipe_of(loss, *words, *asked, f"loss.{loss}.n_heads=5", f"loss.{loss}.batch_size=55"))
    assert (own["n_heads"], own["batch_size"], own["init"]) == (5, 55, others["init"])


@own_losses
def test_the_command_lines_recipe_is_the_estimators(loss):
    assert values(recipe_of(loss, f"loss={loss}")) == values(ESTIMATORS[loss](n_clusters=10, random_state=0).recipe())


@every_loss
def test_the_command_lines_recipe_is_that_of_the_loss_by_name(loss):
    assert recipe_of(loss, f"loss={loss}") == Recipe.of(loss, n_clusters=10)


# Adaloglou et al. 2024, section 5 and appendix C.1; Zhou & Zhang 2022, section 4.1 and appendix A.
SELF_DISTILLED = {
    "head": "mlp",
    "temperature": 0.1,
    "init": "random",
    "optimizer": "adamw",
    "learning_rate": 1e-4,
    "lr_schedule": "constant",
    "warmup_fraction": 0.2,
    "weight_decay": 1e-4,
    "teacher_momentum": 0.996,
    "freeze_prototypes_epochs": 1,
    "decay_gains": True,
    "preprocess": "standardize",
    "n_heads": 32,
}
PUBLISHED = {
    "temi": {**SELF_DISTILLED, "beta": 0.6, "marginal_momentum": 0.9, "batch_size": 512},
    "scan": {**SELF_DISTILLED, "entropy_weight": 5.0, "batch_size": 4096},
    "tsp": {
        "head": "linear",
        "temperature": 1.0,
        "init": "kmeans_l2",
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "lr_schedule": "constant",
        "warmup_fraction": 0.0,
        "weight_decay": 0.0,
        "freeze_prototypes_epochs": 0,
        "n_heads": 1,
        "entropy_weight": 3.0,
        "batch_size": 256,
    },
}
OF_SIZE = {
    "imagenet": {"temi": (50, 50), "scan": (50, 50), "tsp": (20, 100)},
    "imagenet21k": {"temi": (25, 25), "scan": (25, 25), "tsp": (20, 100)},
}


@own_losses
@pytest.mark.parametrize("data", OF_SIZE)
def test_a_loss_on_imagenet_is_the_papers_recipe_whole(loss, data):
    recipe = values(recipe_of(loss, f"loss={loss}", f"data={data}"))
    n_neighbors, max_epochs = OF_SIZE[data][loss]
    published = {**PUBLISHED[loss], "n_neighbors": n_neighbors, "max_epochs": max_epochs}
    assert {key: recipe[key] for key in published} == published
    # The same for every loss of a run at once.
    assert values(recipe_of(loss, f"data={data}")) == recipe


def test_an_experiment_on_a_data_set_of_its_paper_is_the_recipe_that_the_loss_has_there():
    # tests/cli/test_paper_recipes.py holds every value; here the two roads to it are one.
    assert recipe_of("temi", "experiment=temi_paper", "data=imagenet") == recipe_of("temi", "data=imagenet")
    assert recipe_of("temi", "data=imagenet", "loss.temi.n_heads=16").n_heads == 16


def test_an_experiments_settings_of_a_loss_that_is_not_trained_make_no_loss():
    settings = composed("train", ["experiment=imagenet21k_rehearsal", "loss=scan"])
    assert list(settings["loss"]) == ["scan"]
    assert settings["loss"]["scan"]["temperature"] == 0.05


# --- the choices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_a_choice(name):
    data = composed("train", [f"data={name}"])["data"]
    assert (data["name"], data["n_clusters"]) == (name, DATASETS[name].n_classes)
    assert DATASETS[name].about


def test_every_encoder_benchmark_and_baseline_is_a_choice():
    for name in ENCODERS:
        assert composed("extract", [f"encoder={name}"])["encoder"]["name"] == name
    for name in BENCHMARKS:
        assert composed("train", [f"benchmark={name}"])["benchmark"]["name"] == name
    assert list(composed("train", ["baselines=all"])["baselines"]) == list(CLUSTERERS)
    assert composed("train", ["baselines=none"])["baselines"] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_reductions_settings_are_its_defaults(kind):
    settings = composed("train", [f"reduction={kind}"])["reduction"]
    assert settings.pop("seed") is None  # the run's
    assert settings.pop("cache_dir") is None
    assert {key: getattr(Reduction(kind), key) for key in settings} == settings


def test_the_settings_for_every_loss_are_the_checked_ones():
    assert set(schema.SHARED) == set(SHARED)


def test_configurations_are_few():
    assert len([path for path in CONF.rglob("*.yaml") if path.parent.name != WANDB_SWEEPS]) <= 65


# --- what there is not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "word", "told"),
    [
        (
            "train",
            "loss=temy",
            r"loss=temy is unknown \(did you mean temi\?\): choose from consensus_heads, dec, .*temi, tsp, turtle",
        ),
        ("train", "data=imagnet", r"data=imagnet is unknown \(did you mean imagenet\?\): choose from .*cifar10"),
        ("train", "benchmark=tinny", r"benchmark=tinny is unknown \(did you mean tiny\?\)"),
        ("extract", "encoder=dino_vitb15", r"encoder=dino_vitb15 is unknown \(did you mean dino_vitb16\?\)"),
        ("extract", "encoder=timm", r"encoder.model has no value here: set encoder.model="),
        ("train", "n_cluster=5", r"no setting is called 'n_cluster' \(did you mean n_clusters\?\)"),
        (
            "train",
            "loss.temi.n_head=5",
            r"no setting is called 'loss.temi.n_head' \(did you mean loss.temi.n_heads\?\)",
        ),
        ("train", "loss=tsp loss.temi.beta=1", r"loss.temi.beta is of loss=temi, which is not chosen"),
        ("train", "loss=[tsp,tsp]", r"tsp is chosen twice: name it once"),
        ("train", "baselines.kmeans.n_init=3", r"added, \+baselines.kmeans.n_init=VALUE, where it is chosen"),
        ("train", "trainer.device=2", r"no setting is called 'trainer.device' \(did you mean trainer.devices\?\)"),
        ("evaluate", "metric=[probe]", r"no setting is called 'metric' \(did you mean metrics\?\)"),
        (
            "zero_shot",
            "worker=2",
            r"no setting is called 'worker' \(did you mean workers\?\): `deepclust zero-shot --help`",
        ),
    ],
)
def test_an_unknown_name_is_told_in_one_line_with_the_nearest_one(command, word, told):
    with pytest.raises(InputError) as refused:
        composed(command, word.split())
    assert re.search(told, str(refused.value)), refused.value
    assert len(str(refused.value).splitlines()) == 1


def test_the_settings_name_the_encoder_that_is_used():
    assert composed("train", ["data=folder", "encoder=efficientnet_lite0"])["data"]["encoder"] == "efficientnet_lite0"
    assert composed("train", ["data=folder"])["data"]["encoder"] != "efficientnet_lite0"
