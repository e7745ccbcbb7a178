"""Lightning's Trainer as heads need it, and the processes that train together."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

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
from deepclust.training.lost_ranks import CHILDREN, replace_lightnings_watch, start_heartbeats, stop_heartbeats
from deepclust.training.trainer_settings import OURS, TrainerSettings

# k-means, mining and evaluation on rank 0 may take hours at ImageNet-21K's size; the default limit is 30 minutes.
COLLECTIVE_TIMEOUT = timedelta(days=1)
# How often a process that Lightning started looks whether the one that started it is still there.
PARENT_SECONDS = 1.0
# The id of the process that started the others, which inherit it: it may have ended before they look.
PARENT_VARIABLE = "DEEPCLUST_PARENT"


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
    replace_lightnings_watch()
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
