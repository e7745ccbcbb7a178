"""From a command line to plain settings: the one place that knows Hydra.

Precedence is Hydra's, for every setting: what the code declares < `sized/<loss>_<data set>.yaml` < the experiment < the
command line. `loss/<name>.yaml` shows the order. Settings at the top level (`n_heads=4`) are for every loss of the run,
and are written into each of them here.
"""

from __future__ import annotations

import functools
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deepclust.cli.mistakes import told_in_one_line
from deepclust.cli.own_data import loss_of_own_data
from deepclust.cli.words import read_words
from deepclust.runtime.errors import InputError, one_line_errors

PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel conf/ lies inside the package, in a clone beside it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
# Sweeps of W&B's, which are no choices of Hydra's.
WANDB_SWEEPS = "wandb"
# Of the command `zero-shot`, and no recipe of a loss.
ZERO_SHOT = "zero_shot_paper"

# What Hydra raises where a command line names what there is not.
MISTAKES = (HydraException, OmegaConfBaseException)
# Settings at the top level that are for every loss of the run, and those of data= that are, too.
SHARED = (
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
SHARED_OF_DATA = ("batch_size", "micro_batch_size")
ENCODER_OPTIONS = (
    "name",
    "library",
    "model",
    "pretrained",
    "checkpoint",
    "image_size",
    "crop_pct",
    "interpolation",
    "study",
    "pooling",
    "layer",
)
# Encoders that the catalog does not hold, and what must be said of them.
OPEN_ENCODERS = {
    "default": (),
    "timm": ("name", "model"),
    "torchvision": ("name", "model", "pretrained"),
    "open_clip": ("name", "model", "pretrained"),
    "hub": ("name", "model", "pretrained"),
}


@functools.cache
def register_choices() -> None:
    """Tell Hydra the choices that tables of the code hold: losses, data sets, encoders, benchmarks, baselines."""
    from deepclust.clusterers import CLUSTERERS
    from deepclust.extraction.dataset_facts import DATASETS
    from deepclust.extraction.encoder_catalog import ENCODERS
    from deepclust.features.columns import TABLE_ROLES
    from deepclust.finetuning.finetune_settings import OBJECTIVES
    from deepclust.finetuning.finetune_settings import default_settings as objective_settings
    from deepclust.losses import LOSSES
    from deepclust.subsets.benchmarks import BENCHMARKS
    from deepclust.training.recipe import default_settings

    OmegaConf.register_new_resolver("choices", _listing, replace=True)
    OmegaConf.register_new_resolver("settings", _settings, replace=True)
    choices = ConfigStore.instance()
    # Hydra copies all choices whenever it looks for one, which takes a help text many seconds. It changes none of them:
    # what it loads is copied once more.
    choices.__deepcopy__ = lambda _: choices  # type: ignore[attr-defined]
    store = choices.store
    for loss in LOSSES:
        store(group="recipe", name=loss, node=default_settings(loss))
    for name, facts in DATASETS.items():
        store(
            group="data",
            name=name,
            node={
                "name": name,
                "n_clusters": facts.n_classes,
                "encoder": facts.encoder,
                **dict.fromkeys((*SHARED_OF_DATA, "in_memory", "train", "train_labels", "test", "test_labels", "path")),
                "labels": facts.labels,
                "on_error": "skip",
                "columns": dict.fromkeys(TABLE_ROLES),
            },
        )
    for name in ENCODERS:
        store(group="encoder", name=name, node={**dict.fromkeys(ENCODER_OPTIONS), "name": name})
    for name, required in OPEN_ENCODERS.items():
        options = {**dict.fromkeys(ENCODER_OPTIONS), **dict.fromkeys(required, "???")}
        store(group="encoder", name=name, node={**options, "library": name if required else None})
    for name, rule in BENCHMARKS.items():
        store(group="benchmark", name=name, node=dict(rule))
    for name in OBJECTIVES:
        store(group="objective", name=name, package="_global_", node=objective_settings(name))
    for name in CLUSTERERS:
        store(group="baselines", name=name, node={name: {}})
    store(group="baselines", name="all", node={name: {} for name in CLUSTERERS})
    store(group="baselines", name="none", node={})


def _listing(what: str) -> str:
    """Names for a help text, each line indented as the templates in conf/ are."""
    from deepclust.extraction.dataset_facts import DATASETS
    from deepclust.extraction.encoder_catalog import ENCODERS
    from deepclust.subsets.benchmarks import BENCHMARKS

    if what == "encoders":
        return _table({name: spec.title for name, spec in ENCODERS.items()}, 21)
    if what == "datasets":
        return _table({name: facts.about for name, facts in sorted(DATASETS.items())}, 17)
    if what == "experiments":
        return ", ".join(
            sorted(path.stem for path in (CONF / "experiment").glob("*_paper.yaml") if path.stem != ZERO_SHOT)
        )
    return "\n  ".join(textwrap.wrap(", ".join(BENCHMARKS), 98))


def _settings(command: str, *, _root_: DictConfig) -> str:
    """Every setting of a command as it comes, for its help; dollar signs are doubled, as Hydra wants them."""
    # Imported here: only `--help` needs it.
    from deepclust.cli.help_text import settings_text
    from deepclust.cli.schema import schema

    named = [str(key) for key in _root_ if key != "hydra"]
    plain = OmegaConf.to_container(OmegaConf.masked_copy(_root_, named), resolve=False)
    assert isinstance(plain, dict)
    values = {str(key): value for key, value in plain.items()}
    chosen = groups() - {"hydra", "recipe", "sized", "paper"}

    def names_of(key: str) -> list[str]:
        return sorted({*_choices(key)} - {"default"}) if key in chosen else []

    return settings_text(values, schema(command, values), CONF / f"{command}.yaml", names_of).replace("$", "$$")


def _table(about: Mapping[str, str], width: int) -> str:
    lines = [
        line
        for name, text in about.items()
        for line in textwrap.wrap(f"{name:{width}}{text}", 98, subsequent_indent=" " * width)
    ]
    return "\n  ".join(lines)


def composed(command: str, overrides: Iterable[str]) -> dict[str, Any]:
    """The settings that a command line gives, without running anything.

    Args:
        command: the name of a file in conf/.
        overrides: as on the command line.

    Raises:
        InputError: if they name what there is not.

    Example:
        >>> composed("train", ["data=imagenet", "loss=temi", "n_heads=4"])["loss"]["temi"]["n_heads"]
        4
    """
    overrides = list(overrides)
    try:
        config = _composed(command, overrides)
    except MISTAKES as error:
        raise InputError(told_in_one_line(error, command, _choices, _known_keys)) from None
    return settled(config, overrides)


def _composed(command: str, overrides: list[str]) -> DictConfig:
    register_choices()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, overrides)


def settled(config: DictConfig, overrides: Iterable[str]) -> dict[str, Any]:
    """Plain settings; those that are for every loss of the run stand in each of them.

    A setting of one loss on the command line (`loss.temi.n_heads=16`) wins over one for all (`n_heads=4`).

    Args:
        config: as composed.
        overrides: of the command line.

    Raises:
        InputError: if a setting that must be given is missing.
    """
    for key in sorted(OmegaConf.missing_keys(config)):
        raise InputError(f"{key} has no value here: set {key}=")
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    # Imported here: `--help` answers at once.
    from deepclust.runs.source import with_its_encoder

    settings = with_its_encoder({str(key): value for key, value in plain.items()})
    chosen, data = settings.get("loss"), settings.get("data")
    if "n_heads" not in settings or not (isinstance(chosen, Mapping) and isinstance(data, Mapping)):
        return settings
    own = {override.lstrip("+").split("=")[0] for override in overrides}
    shared = {key: settings.get(key) for key in SHARED} | {key: data.get(key) for key in SHARED_OF_DATA}
    losses = {}
    for name, loss in chosen.items():
        if not isinstance(loss, Mapping):
            losses[name] = loss  # refused by the schema
        elif "n_heads" not in loss or "batch_size" not in loss:
            # An experiment may hold settings of a loss that this run does not train: they are no loss of their own.
            asked = [key for key in own if key.startswith(f"loss.{name}.")]
            if asked:
                raise InputError(
                    f"{asked[0]} is of a loss that is not trained: choose loss=[{name},…], or leave it out"
                )
        else:
            given = {key: value for key, value in shared.items() if value is not None}
            given = {key: value for key, value in given.items() if f"loss.{name}.{key}" not in own}
            losses[name] = {**loss, **given}
    named = any(key.split(".")[0].lstrip("~") == "baselines" for key in own)
    neighbors_named = any(key.split(".")[-1] == "n_neighbors" for key in own)
    return {**settings, "loss": losses, "baselines_named": named, "n_neighbors_named": neighbors_named}


def run_hydra(command: str, task: Callable[[dict[str, Any]], None]) -> None:
    """Compose this process's command line, or each job of its sweep, and run the task on it.

    Mistakes end in one line and exit code 2.

    Args:
        command: the name of a file in conf/.
        task: gets the settings.
    """
    register_choices()

    def job(config: DictConfig) -> None:
        # Imported here: `--help` and a mistyped option answer at once.
        from deepclust.cli.schema import check

        given = HydraConfig.get()
        if os.path.isdir(given.runtime.cwd):  # a cluster's process may begin elsewhere, and places may be relative
            os.chdir(given.runtime.cwd)
        # Ray takes an exit for a lost process and begins the job again, for ever; an error goes to who began the sweep.
        by_ray = "ray_launcher" in given.launcher["_target_"]
        with nullcontext() if by_ray else one_line_errors(), no_note_of_a_refused_sweep():
            try:
                settings = settled(config, HydraConfig.get().overrides.task)
            except MISTAKES as error:  # in an interpolation, which is resolved here
                raise InputError(told_in_one_line(error, command, _choices, _known_keys)) from None
            check(command, settings)
            task(settings)

    # Hydra then raises what it would print in several lines.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with one_line_errors():
        try:
            words = read_words(sys.argv[1:], groups(), ("loss", "baselines"), command)
            # Hydra takes no option between settings, such as -m.
            settings = [str(word.input_line) for word in words]
            options = [word for word in sys.argv[1:] if word not in settings]
            sys.argv[1:] = [*options, *settings, *names_of_jobs(command, words), *loss_of_own_data(command, words)]
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(job)()
        except MISTAKES as error:
            raise InputError(told_in_one_line(error, command, _choices, _known_keys)) from None


def groups() -> set[str]:
    """Settings that are chosen by name."""
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {WANDB_SWEEPS}
    return folders | set(ConfigStore.instance().repo)


def names_of_jobs(command: str, overrides: Iterable[Override]) -> list[str]:
    """An override for Hydra itself: keys that a sweep varies get into its jobs' names, also those that conf/ excludes.

    A job knows its own overrides alone, and may run on another machine. Hydra hands this one to every job.

    Args:
        command: the name of a file in conf/.
        overrides: of the command line.
    """
    varied = {override.key_or_group for override in overrides if override.is_sweep_override()}
    config = OmegaConf.load(CONF / f"{command}.yaml")
    excluded = list(map(str, OmegaConf.select(config, "hydra.job.config.override_dirname.exclude_keys") or ()))
    if not varied & set(excluded):
        return []
    kept = ",".join(key for key in excluded if key not in varied)
    return [f"hydra.job.config.override_dirname.exclude_keys=[{kept}]"]


class no_note_of_a_refused_sweep:
    """What Hydra noted down of a sweep goes where its first job is refused, which ends it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, InputError):
            return
        settings = HydraConfig.get()
        in_series = settings.runtime.choices["hydra/launcher"] == "basic"
        if settings.mode == RunMode.MULTIRUN and in_series and settings.job.num == 0:
            folder = Path(settings.sweep.dir)
            (folder / "multirun.yaml").unlink(missing_ok=True)
            with suppress(OSError):  # there is more in it
                folder.rmdir()


def _choices(group: str) -> list[str]:
    files = [path.stem for path in (CONF / group).glob("*.yaml")]
    kept = ConfigStore.instance().repo.get(group, {})
    return [*files, *(name.removesuffix(".yaml") for name in kept)]


def _known_keys(command: str) -> set[str]:
    """Every setting of a command as it comes, and below the choices of this command line."""
    known: set[str] = set()
    for overrides in ([], *([word] for word in sys.argv[1:] if _is_setting(word))):
        with suppress(*MISTAKES):  # the mistake that is being told of, perhaps
            known |= set(_flat(OmegaConf.to_container(_composed(command, overrides))))  # type: ignore[arg-type]
    return known


def _is_setting(word: str) -> bool:
    return "=" in word and not word.startswith(("+", "-", "~"))


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterable[str]:
    for key, value in settings.items():
        yield f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
