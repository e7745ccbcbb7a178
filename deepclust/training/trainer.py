"""Where and how training runs: Lightning's Trainer as heads need it, and the processes that train together."""

from __future__ import annotations

import difflib
import inspect
import logging
import math
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import distributed as dist

from deepclust.runtime.devices import native_bfloat16
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import Launch, Ranks
from deepclust.runtime.settings import check_settings, setting
from deepclust.training.lost_ranks import CHILDREN, start_heartbeats, stop_heartbeats

# k-means, mining and evaluation on rank 0 may take hours at ImageNet-21K's size; the default limit is 30 minutes.
COLLECTIVE_TIMEOUT = timedelta(days=1)
# How often a process that Lightning started looks whether the one that started it is still there.
PARENT_SECONDS = 1.0
# The id of the process that started the others, which inherit it: it may have ended before they look.
PARENT_VARIABLE = "DEEPCLUST_PARENT"
SHARDS = ("batch", "heads")
PRECISIONS = ("auto", "32", "32-true", "bf16-mixed")
# Options of Lightning's Trainer that training sets itself.
OURS: Mapping[str, Any] = MappingProxyType(
    {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
    }
)
SET_BY_TRAINING = (*OURS, "max_epochs", "callbacks", "logger", "plugins")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's hints about workers, devices and its own newer features say nothing about this run."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for pattern in (".*does not have many workers.*", ".*isinstance.treespec.*", ".*LeafSpec.*"):
                warnings.filterwarnings("ignore", pattern)
            warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning.*")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@dataclass(frozen=True)
class TrainerSettings:
    """Where and how training runs. What it computes is the recipe's.

    Attributes:
        accelerator: `auto`, `cpu` or `gpu`, as in `pytorch_lightning.Trainer`.
        devices: how many on each node, which, or `auto` for all.
        num_nodes: machines.
        strategy: `auto`, or `ddp` for several processes.
        shard: what ranks share out: `batch`, each has all heads and a part of every batch; `heads`, each has a part of
            the heads and every batch. The result is the same up to float order.
        precision: `32`, `bf16-mixed`, or `auto`: bf16-mixed where the device multiplies bfloat16 natively.
        checkpoint_seconds: at most one checkpoint per so many seconds, at the end of an epoch.
        log_every_n_steps: how often `train/loss` is logged, with a logger.
        val_every_n_epochs: how often `val/…` is logged, with a logger; 0 never.
        more: further options of `pytorch_lightning.Trainer`.

    Raises:
        InputError: for a precision that training does not support, and for names in `more` that the Trainer does not
            know or that training sets itself.

    Example:
        >>> TrainerSettings.of({"devices": 2, "strategy": "ddp", "max_steps": 10}).more
        {'max_steps': 10}
    """

    accelerator: str = setting("auto", "as in `pytorch_lightning.Trainer`", text=True)
    devices: int | str | Sequence[int] = setting(1, "how many, which, or `auto`", such=lambda value: _devices(value))
    num_nodes: int = setting(1, "machines", at_least=1, whole=True)
    strategy: str = setting("auto", "`auto`, or `ddp` for several processes", text=True)
    shard: str = setting("batch", "what ranks share out: every `batch`, or the `heads`", choices=SHARDS)
    precision: str | int = "auto"
    checkpoint_seconds: float = setting(60.0, "at most one checkpoint per so many seconds", at_least=0)
    log_every_n_steps: int = setting(10, "how often `train/loss` is logged", at_least=1, whole=True)
    val_every_n_epochs: int = setting(5, "how often `val/…` is logged; 0 never", at_least=0, whole=True)
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self)
        if str(self.precision) not in PRECISIONS:
            raise InputError(f"precision {self.precision} is not supported: choose one of {', '.join(PRECISIONS)}")
        own = [member.name for member in fields(self) if member.name != "more"]
        known = [name for name in inspect.signature(pl.Trainer).parameters if name not in (*own, *SET_BY_TRAINING)]
        for name in self.more:
            if name in own:
                raise InputError(f"trainer option '{name}' has a field of its own: give it there, not in more")
            if name in SET_BY_TRAINING:
                raise InputError(f"trainer option '{name}' is set by training itself: leave it out")
            if name not in known:
                near = difflib.get_close_matches(name, [*own, *known], n=1, cutoff=0.0)
                raise InputError(f"unknown trainer option '{name}': did you mean '{near[0]}'?")
        kinds = get_type_hints(pl.Trainer.__init__)
        for name, value in self.more.items():
            if not _is_of(value, kinds[name]):
                raise InputError(f"trainer.{name} is {value!r}: pytorch_lightning.Trainer takes {kinds[name]}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TrainerSettings:
        """The settings of a flat mapping: names that are no field go to `more`."""
        own = {member.name for member in fields(cls)} - {"more"}
        return cls(
            **{name: value for name, value in options.items() if name in own},
            more={name: value for name, value in options.items() if name not in own},
        )


def _devices(value: Any) -> str | None:
    numbers = value if isinstance(value, (list, tuple)) else [value]
    good = isinstance(value, str) or (bool(numbers) and all(type(number) is int for number in numbers))
    return None if good else "a number of devices, a list of their numbers, or auto"


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a type; what is no plain type is left to those who take it."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (list, dict):
        return isinstance(value, get_origin(kind))
    if get_args(kind):
        return any(_is_of(value, one) for one in get_args(kind))
    if kind is float:
        return isinstance(value, float) and math.isfinite(value)
    return type(value) is kind if kind is int else isinstance(value, kind)


DEFAULT_TRAINER = TrainerSettings()


def make_trainer(
    settings: TrainerSettings,
    *,
    max_epochs: int = 1,
    callbacks: Sequence[pl.Callback] = (),
    logger: Any = False,
    checkpoint_io: CheckpointIO | None = None,
) -> pl.Trainer:
    """Lightning's Trainer as heads need it: no checkpoints, bars or samplers of its own.

    Raises:
        InputError: for settings that do not work on this machine, such as `accelerator=gpu` without a GPU.
    """
    strategy: Any = settings.strategy
    precision: Any = resolve_precision(str(settings.precision), settings.accelerator)
    devices: Any = settings.devices
    try:
        trainer = pl.Trainer(
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=settings.num_nodes,
            strategy=strategy,
            precision=precision,
            log_every_n_steps=settings.log_every_n_steps,
            max_epochs=max_epochs,
            callbacks=list(callbacks),
            logger=logger,
            plugins=None if checkpoint_io is None else [checkpoint_io],
            **OURS,
            **settings.more,
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        raise InputError(f"the trainer's settings do not work here: {str(error).splitlines()[0]}") from None
    if isinstance(trainer.strategy, DDPStrategy):
        # Set here, as `auto` chooses this strategy, too; it is read when the processes join.
        trainer.strategy._timeout = COLLECTIVE_TIMEOUT
        # Nothing is left for DDP's wrapper: the heads are handed out and gradients summed by training itself. It would
        # keep a second copy of all gradients and send every buffer of the module at every step.
        trainer.strategy.configure_ddp = lambda: None  # type: ignore[method-assign]
    return trainer


@quiet_lightning()
def trains_on_a_cpu(settings: TrainerSettings) -> bool:
    """Whether these settings train on a CPU; refuses as `make_trainer`."""
    return make_trainer(settings).strategy.root_device.type == "cpu"


@quiet_lightning()
def n_processes(settings: TrainerSettings) -> int:
    """How many processes these settings train in; refuses as `make_trainer`."""
    return make_trainer(settings).world_size


def join_processes(trainer: pl.Trainer) -> Ranks:
    """Start the other processes of a distributed run, where nobody else has, and join them.

    Lightning would do so inside `fit`. Here it is done before, as neighbors are mined over all ranks. A second call and
    the one inside `fit`, find them there.

    Raises:
        InputError: for a strategy whose processes live inside `fit` alone.
    """
    launcher = trainer.strategy.launcher
    if launcher is not None:
        if not isinstance(launcher, _SubprocessScriptLauncher):
            raise InputError("this strategy starts its processes for training alone, not for mining: use strategy=ddp")
        if not launcher.cluster_environment.creates_processes_externally:  # this one is about to start the others
            os.environ[PARENT_VARIABLE] = str(os.getpid())
        launcher.launch(lambda: None, trainer=trainer)
        CHILDREN[:] = launcher.procs or CHILDREN
    end_with_parent()
    trainer.strategy.setup_environment()
    start_heartbeats()
    return Ranks.of_run()


def end_with_parent() -> None:
    """In a process that Lightning started: end when the one that started it has ended, however it did.

    Nobody else would tell: a process that waits in a collective of NCCL does not see that the first rank is gone.
    """
    launch = Launch.from_environment()
    watched = any(thread.name == _Parent.__name__ for thread in threading.enumerate())
    if launch.started_by == "lightning" and launch.rank > 0 and PARENT_VARIABLE in os.environ and not watched:
        _Parent(int(os.environ[PARENT_VARIABLE])).start()


class _Parent(threading.Thread):
    """Watches the process that started this one."""

    def __init__(self, pid: int) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self.pid, self.left = pid, threading.Event()

    def run(self) -> None:
        while not self.left.wait(PARENT_SECONDS):
            if os.getppid() != self.pid:
                os._exit(1)  # an exception in this thread would not end the one that waits


def leave_processes() -> None:
    """Leave the process group, if there is one: one of its threads may end a process that ends in it."""
    for thread in threading.enumerate():
        if isinstance(thread, _Parent):
            thread.left.set()
    stop_heartbeats()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def joined_ranks(settings: TrainerSettings, *, trains: bool = True) -> Ranks:
    """Start and join the processes that these settings train in: every later call on them finds them there.

    Args:
        settings: where training runs.
        trains: whether anything is trained. If not, no further process is started, but those that torchrun or srun
            has started are joined, as each of them would otherwise do everything.
    """
    launch = Launch.from_environment()
    if not trains:
        if not launch.starts_every_rank:
            return Ranks()
        # There may be more of them than GPUs, and they exchange little.
        settings = replace(settings, accelerator="cpu", strategy="ddp", **_asked_by(launch))
        if torch.cuda.is_available():  # k-means and searches still compute there, each rank on its own
            torch.cuda.set_device(launch.local_rank % torch.cuda.device_count())
    with quiet_lightning():
        return join_processes(make_trainer(settings))


@quiet_lightning()
def check_launch(settings: TrainerSettings) -> None:
    """Refuse to train in another number of processes than torchrun or srun started: each would train alone.

    Raises:
        InputError: saying what to set.
    """
    launch, trainer = Launch.from_environment(), make_trainer(settings)
    n_asked = trainer.num_devices * trainer.num_nodes
    if launch.starts_every_rank and n_asked != launch.world_size:
        wanted = " ".join(f"trainer.{name}={value}" for name, value in _asked_by(launch).items())
        raise InputError(
            f"{launch.started_by} started {launch.world_size} processes, but the trainer's settings are for {n_asked}: "
            f"set trainer=ddp {wanted}"
        )


def _asked_by(launch: Launch) -> dict[str, Any]:
    """The trainer's settings for as many processes as were started."""
    return {"devices": launch.local_world_size, "num_nodes": launch.world_size // launch.local_world_size}


def resolve_precision(precision: str, accelerator: str = "auto") -> str:
    """`auto` as bf16-mixed on GPUs and CPUs with bfloat16 matrix instructions, else 32; other names as they are."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if native_bfloat16(accelerator) else "32"
