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
from deepclust.runtime.ranks import is_first_process
from deepclust.runtime.settings import Group, Member, setting

LOGGERS = ("none", "csv", "tensorboard", "wandb")
TEXT = setting(None, "text", text=True)
FLAG = setting(None, "yes or no", flag=True)
# What is checked here of the options of loggers; the packages behind them take more.
OPTIONS: Mapping[str, Mapping[str, Member]] = {
    "none": {},
    "csv": {"prefix": TEXT, "flush_logs_every_n_steps": setting(100, "", at_least=1, whole=True)},
    "tensorboard": {
        **dict.fromkeys(("log_graph", "default_hp_metric"), FLAG),
        **dict.fromkeys(("prefix", "sub_dir", "comment", "filename_suffix"), TEXT),
        **dict.fromkeys(("max_queue", "flush_secs"), setting(None, "", at_least=1, whole=True)),
    },
    "wandb": {
        **dict.fromkeys(("project", "entity", "group", "notes", "job_type", "prefix", "checkpoint_name"), TEXT),
        "mode": setting(None, "", choices=("online", "offline", "disabled", "shared")),
        "tags": setting(None, "", each=True, text=True),
        **dict.fromkeys(("anonymous", "force", "save_code", "sync_tensorboard"), FLAG),
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
        options: of the logger; for `wandb` for example `project`, `entity`, `mode`.
    """

    name: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> LoggerSettings:
        """Those of a flat mapping."""
        return cls(settings["name"], {key: value for key, value in settings.items() if key != "name"})


@contextmanager
def logging_to(settings: LoggerSettings, run_dir: Path, config: Mapping[str, Any]) -> Iterator[Any]:
    """A Lightning logger for the time of one run, which knows the run's settings; False where there is none.

    Args:
        settings: which logger.
        run_dir: where it writes.
        config: the run's settings.

    Raises:
        InputError: as `make_logger`.
    """
    logger = make_logger(settings.name, run_dir, **settings.options)
    if logger:
        logger.log_hyperparams(dict(config))
    try:
        yield logger
    finally:
        if settings.name == "wandb":
            import wandb

            # Without this the next job of a sweep would continue this run.
            wandb.finish()


def make_logger(name: str, run_dir: Path, **options: Any) -> Any:
    """A Lightning logger by name, writing into the run folder.

    The id of a Weights & Biases run is kept in the run folder, so that a resumed run continues it.

    Args:
        name: `none`, `csv`, `tensorboard` or `wandb`.
        **options: of the logger; for `wandb` for example `project`, `entity`, `mode`.

    Raises:
        InputError: if the name is unknown or the logger's package is missing.
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

            return TensorBoardLogger(str(run_dir), name="logs", version="", **options)
        except ModuleNotFoundError:
            raise InputError("logger=tensorboard needs tensorboard: pip install 'deepclust[tensorboard]'") from None
    if name == "wandb":
        from pytorch_lightning.loggers import WandbLogger

        id_file = run_dir / "wandb_id.txt"
        run_id = id_file.read_text().strip() if id_file.is_file() else os.urandom(4).hex()
        if is_first_process():
            run_dir.mkdir(parents=True, exist_ok=True)
            id_file.write_text(run_id + "\n")
        mode = options.pop("mode", None)
        return WandbLogger(
            name=run_dir.name, save_dir=str(run_dir), id=run_id, resume="allow", offline=mode == "offline", **options
        )
    raise InputError(f"unknown logger '{name}': choose one of {', '.join(LOGGERS)}")


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
    logger.log_metrics(metrics)
    if hasattr(logger, "log_table") and rows:
        logger.log_table("results", columns=list(rows[0]), data=[list(row.values()) for row in rows])
    logger.save()
