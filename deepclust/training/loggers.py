"""Loggers by name, and the final table that goes to them.

Metrics are named `train/loss`, `train/loss_head_00`, `val/acc`, `test/acc`; with several losses in one run each has its
method's name before it, and so have the baselines always.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import ALONE, Ranks, is_first_process
from deepclust.runtime.settings import Group, Member, setting

LOGGERS = ("none", "csv", "tensorboard", "wandb")
# Of a group of settings, the one that says what was chosen; and entries of the settings that nobody asked for.
CHOSEN_BY = ("name", "kind", "by")
UNASKED = ("baselines_named", "n_neighbors_named")
TEXT = setting(None, "text", text=True)
FLAG = setting(None, "yes or no", flag=True)
# What a dashboard gets at the end of a run, beside the results (`deepclust.runs.dashboard`).
PICTURES = setting(True, "map, confusion with labels, contact sheets, the page of the run", flag=True)
HEADS = setting(True, "the trained heads as a model artifact", flag=True)
OURS = ("pictures", "heads")
# What is checked here of the options of loggers; the packages behind them take more.
OPTIONS: Mapping[str, Mapping[str, Member]] = {
    "none": {},
    "csv": {"prefix": TEXT, "flush_logs_every_n_steps": setting(100, "", at_least=1, whole=True)},
    "tensorboard": {
        **dict.fromkeys(("log_graph", "default_hp_metric"), FLAG),
        **dict.fromkeys(("prefix", "sub_dir", "comment", "filename_suffix"), TEXT),
        **dict.fromkeys(("max_queue", "flush_secs"), setting(None, "", at_least=1, whole=True)),
        "pictures": PICTURES,
    },
    "wandb": {
        **dict.fromkeys(("project", "entity", "group", "notes", "job_type", "prefix"), TEXT),
        "mode": setting(None, "", choices=("online", "offline", "disabled", "shared")),
        "tags": setting(None, "", each=True, text=True),
        **dict.fromkeys(("force", "save_code"), FLAG),
        "pictures": PICTURES,
        "heads": HEADS,
    },
}


def logger_group(name: Any) -> Group:
    """The settings of a logger."""
    known = {"name": setting("none", "of the logger", choices=LOGGERS), **OPTIONS.get(name, {})}
    return Group(f"logger={name}", known, needed=("name",))


@dataclass(frozen=True)
class LoggerSettings:
    """A logger by name, with its own options.

    Attributes:
        name: `none`, `csv`, `tensorboard` or `wandb`.
        options: of the logger; for `wandb` for example `project`, `entity`, `mode`, and what it shows at the end:
            `pictures`, `heads`.
    """

    name: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)

    def for_the_package(self) -> dict[str, Any]:
        """The options that the logger's package takes."""
        return {name: value for name, value in self.options.items() if name not in OURS}

    def shows(self, what: str) -> bool:
        """Whether the dashboard gets `pictures` or `heads` at the end; only where the logger has such a setting."""
        return what in OPTIONS[self.name] and self.options.get(what, True) is not False

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> LoggerSettings:
        """Those of a flat mapping."""
        return cls(settings["name"], {key: value for key, value in settings.items() if key != "name"})


@contextmanager
def logging_to(
    settings: LoggerSettings, run_dir: Path, config: Mapping[str, Any], facts: Mapping[str, Any], ranks: Ranks = ALONE
) -> Iterator[Any]:
    """A Lightning logger for the time of one run, which knows the run's settings; False where there is none.

    Args:
        settings: which logger.
        run_dir: where it writes.
        config: the run's settings.
        facts: what else runs are grouped by, such as the number of samples.
        ranks: the processes of the run, each of which calls: all go on, or none.

    Raises:
        InputError: as `make_logger`.
    """
    with ranks.all_or_none():
        logger = make_logger(settings.name, run_dir, **settings.for_the_package())
        if settings.name == "csv":
            logger.log_hyperparams(dict(config))  # a file, which may be as deep as the settings are
        elif logger:
            logger.log_hyperparams({**flat_settings(config), **facts})
    exit_code = 1
    try:
        yield logger
        exit_code = 0
    finally:
        if settings.name == "wandb":
            import wandb

            # Without this the next job of a sweep would continue this run.
            wandb.finish(exit_code)


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run one level deep, for dashboards that group and filter by them.

    A choice by name is its name: `data`, `loss`, `baselines`. A setting of the only loss has no prefix, so that runs of
    different losses share a column: `n_heads`; of several losses it is `temi_n_heads`. Others are joined by `_`, as
    W&B cannot filter by names with dots: `trainer_devices`. What is null is left out.

    Example:
        >>> flat_settings({"seed": 0, "n_heads": None, "loss": {"temi": {"n_heads": 8}}, "data": {"name": "digits"}})
        {'seed': 0, 'loss': 'temi', 'n_heads': 8, 'data': 'digits'}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name in ("loss", "baselines") and isinstance(value, Mapping):
            flat[name] = ",".join(value) or "none"
            for method, options in value.items():
                alone = name == "loss" and len(value) == 1
                flat |= _flattened(options, "" if alone else f"{method}_")
        elif name not in UNASKED:
            flat |= _flattened({name: value}, "")
    return flat


def _flattened(settings: Mapping[str, Any], above: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            chosen = next((value[key] for key in CHOSEN_BY if value.get(key) is not None), None)
            flat |= {} if chosen is None else {f"{above}{name}": chosen}
            flat |= _flattened({key: one for key, one in value.items() if key not in CHOSEN_BY}, f"{above}{name}_")
        elif isinstance(value, (list, tuple)):
            flat[f"{above}{name}"] = ",".join(map(str, value))
        elif value is not None:
            flat[f"{above}{name}"] = value
    return flat


def make_logger(name: str, run_dir: Path, **options: Any) -> Any:
    """A Lightning logger by name, writing into the run folder.

    The id of a Weights & Biases run is kept in the run folder, so that a resumed run continues it.

    Args:
        name: `none`, `csv`, `tensorboard` or `wandb`.
        **options: of the logger; for `wandb` for example `project`, `entity`, `mode`.

    Raises:
        InputError: if the name is unknown, the logger's package is missing or refuses an option, or W&B can neither be
            reached nor logged in to.
    """
    try:
        return _logger(name, run_dir, options)
    except TypeError as error:  # an option that the logger does not have
        raise InputError(f"logger={name}: {str(error).splitlines()[0]}") from None


def _logger(name: str, run_dir: Path, options: dict[str, Any]) -> Any:
    if name == "none":
        return False
    if name == "csv":
        from pytorch_lightning.loggers import CSVLogger

        # Lightning deletes the metrics that it finds in its folder: a resumed run has one of its own.
        parts = sum(1 for _ in (run_dir / "logs").rglob("hparams.yaml"))
        return CSVLogger(run_dir, name="logs", version=f"resumed_{parts}" if parts else "", **options)
    if name == "tensorboard":
        try:
            from pytorch_lightning.loggers import TensorBoardLogger

            # Else it would show a metric of its own, hp_metric, which is -1 for ever.
            options.setdefault("default_hp_metric", False)
            return TensorBoardLogger(str(run_dir), name="logs", version="", **options)
        except ModuleNotFoundError:
            raise InputError("logger=tensorboard needs tensorboard: pip install 'deepclust[tensorboard]'") from None
    if name == "wandb":
        return _wandb_logger(run_dir, options)
    raise InputError(f"unknown logger '{name}': choose one of {', '.join(LOGGERS)}")


def _wandb_logger(run_dir: Path, options: dict[str, Any]) -> Any:
    """One W&B run, which the first process has; for the others, the same logger without one."""
    from pytorch_lightning.loggers import WandbLogger

    prefix = options.pop("prefix", None) or ""
    if not is_first_process():
        return WandbLogger(prefix=prefix)
    import wandb

    id_file = run_dir / "wandb_id.txt"
    options["id"] = id_file.read_text().strip() if id_file.is_file() else os.urandom(4).hex()
    if in_wandb_sweep():  # which names the run and says where it is
        for key in ("id", "project", "entity"):
            options.pop(key, None)
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        # Not by Lightning: it would leave the mode of an offline run to the next runs of this process.
        run = wandb.init(name=run_dir.name, dir=str(run_dir), resume="allow", **options)
    except (wandb.Error, ValueError) as error:
        raise InputError(f"logger=wandb: {_told_by_wandb(error)}") from None
    id_file.write_text(run.id + "\n")
    # As Lightning would: curves are drawn over training steps. Those of a second loss begin at 0 again.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run, prefix=prefix)


def _told_by_wandb(error: Exception) -> str:
    """Why W&B started no run, and what to do where it is not this run's settings."""
    import wandb

    lines = str(error).splitlines()
    # Of a setting that is out of its range the reason stands in the third line.
    said = next((line for line in lines if "Value error, " in line), lines[0])
    said = said.split("Value error, ")[-1].split(" [type=")[0].rstrip(".: ")
    unreached = isinstance(error, (wandb.errors.CommError, wandb.errors.AuthenticationError)) or "API key" in said
    return f"{said}: run `wandb login`, or set logger.mode=offline" if unreached else said


def in_wandb_sweep() -> bool:
    """Whether `wandb agent` started this process."""
    return "WANDB_SWEEP_ID" in os.environ


def log_final(rows: list[dict[str, Any]], logger: Any, several: bool) -> None:
    """`<split>/<metric>` of a single loss, `<method>/<split>/<metric>` of everything else, and the whole table."""
    if not logger:
        return
    metrics = {}
    first = rows[0]["method"] if rows else None
    for row in rows:
        prefix = "" if row["method"] == first and not several else f"{row['method']}/"
        for key, value in row.items():
            if key not in ("method", "split", "seed") and value is not None:
                metrics[f"{prefix}{row['split']}/{key}"] = float(value)
    with told_where_it_fails("the results"):
        if _is_tensorboard(logger):
            logger.log_hyperparams(logger.hparams, metrics)  # together, as its table of runs wants them
        else:
            logger.log_metrics(metrics)
        if hasattr(logger, "log_table") and rows:
            logger.log_table("results", columns=list(rows[0]), data=[list(row.values()) for row in rows])
        logger.save()


@contextmanager
def told_where_it_fails(what: str) -> Iterator[None]:
    """A section at the end of a run, whose results are on disk: where a dashboard fails the run has not, and a line
    says so.

    Args:
        what: the dashboard then lacks.
    """
    try:
        yield
    except Exception as error:  # of a package or a server: there is no telling which
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        print(f"the dashboard lacks {what}: {(reason.splitlines() or [''])[0]}", flush=True)


def _is_tensorboard(logger: Any) -> bool:
    from pytorch_lightning.loggers import TensorBoardLogger

    return isinstance(logger, TensorBoardLogger)
