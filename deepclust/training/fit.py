"""From features and a recipe to trained heads: one call, in one process or over ranks."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import Neighbors
from deepclust.runtime.devices import freed_memory_kept, native_bfloat16
from deepclust.runtime.errors import InputError
from deepclust.training.callbacks import LogValidation, TrainingProgress, WholeCheckpoint
from deepclust.training.module import EPOCH_LOSS, ClusteringModule
from deepclust.training.pairs import PairDataModule
from deepclust.training.recipe import Recipe
from deepclust.training.trained import TrainedHeads

# Freed memory is kept for the next step while no tensor of a step is larger.
KEPT_BYTES = 256 << 20
# An epoch whose loss fell by less, in nats, counts as one without progress.
MIN_IMPROVEMENT = 1e-3
# k-means, mining and evaluation on rank 0 may take hours at ImageNet-21K's size; the default limit is 30 minutes.
COLLECTIVE_TIMEOUT = timedelta(days=1)
PRECISIONS = ("auto", "32", "32-true", "bf16-mixed")


@dataclass
class FitResult:
    """Trained heads, and how long mining, initializing and training took in seconds."""

    trained: TrainedHeads
    seconds: float
    neighbors: Neighbors


def fit_heads(
    features: FeatureSet,
    recipe: Recipe,
    *,
    neighbors: Neighbors | None = None,
    cache_dir: str | Path | None = None,
    mining: dict[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    resume: bool = False,
    callbacks: Sequence[pl.Callback] = (),
    validation: FeatureSet | None = None,
    val_every_n_epochs: int = 1,
    logger: Any = False,
    log_prefix: str = "",
    progress: bool = False,
    accelerator: str = "auto",
    devices: Any = 1,
    strategy: str = "auto",
    num_nodes: int = 1,
    precision: str | int = "auto",
    in_memory: bool | None = None,
    **trainer_options: Any,
) -> FitResult:
    """Train the heads of a recipe.

    Args:
        features: the training split.
        recipe: what to train.
        neighbors: mined already; None mines them, or reads the cache.
        cache_dir: where mined neighbors are kept; None keeps them beside the features.
        mining: options of `mine_neighbors`.
        checkpoint: keep the newest training state in this file.
        checkpoint_seconds: at most one checkpoint per so many seconds, at the end of an epoch.
        resume: continue from `checkpoint` if it exists.
        callbacks: further Lightning callbacks.
        validation: a split whose `val/…` metrics are logged along the way; training never looks at them.
        val_every_n_epochs: how often.
        logger: a Lightning logger, or False.
        log_prefix: put before the name of every logged metric.
        progress: show progress bars where stdout is a terminal.
        accelerator, devices, strategy, num_nodes: as in `pytorch_lightning.Trainer`.
        precision: `32`, `bf16-mixed`, or `auto`: bf16-mixed where the device multiplies bfloat16 natively.
        in_memory: hold the heads' inputs in memory (on the GPU where there is one), or leave the features in their file
            and stage the rows of coming batches; None holds them if they take less than half of the free memory of
            every rank. Above 131 072 samples the two shuffle differently; a resumed run keeps to what it began with.
        **trainer_options: further options of the Trainer.

    Raises:
        InputError: if the recipe does not fit the features, or the checkpoint does not fit either.
    """
    recipe.check_features(len(features))
    started = time.perf_counter()
    module = ClusteringModule(recipe, features.dim, log_prefix=log_prefix)
    data = PairDataModule(
        features,
        recipe,
        neighbors=neighbors,
        cache_dir=cache_dir,
        mining={"progress": progress, **(mining or {})},
        in_memory=in_memory,
    )
    if validation is not None and logger:
        callbacks = [*callbacks, LogValidation(validation, val_every_n_epochs)]
    if recipe.patience is not None:
        callbacks = [
            *callbacks,
            EarlyStopping(f"{log_prefix}{EPOCH_LOSS}", MIN_IMPROVEMENT, recipe.patience, check_on_train_epoch_end=True),
        ]
    resume_from = None
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        callbacks = [*callbacks, WholeCheckpoint(checkpoint, checkpoint_seconds)]
        if resume and checkpoint.is_file():
            _check_resumable(checkpoint, recipe, features)
            resume_from = str(checkpoint)
            module.initialized = True
            _restore_transform(module, checkpoint)
            if in_memory is None:
                state = torch.load(checkpoint, map_location="cpu", weights_only=True)
                data.in_memory = state.get("PairDataModule", {}).get("in_memory")
    with _quiet_lightning():
        trainer = make_trainer(
            max_epochs=recipe.epochs(len(features)),
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,
            logger=logger,
            callbacks=[*callbacks, TrainingProgress(recipe.loss.upper())],
            **trainer_options,
        )
        # Of the largest tensors, kept memory leaves holes that grow the process: 7.9 instead of 5.5 GB at C = 10 450.
        with freed_memory_kept() if _largest_bytes(recipe) <= KEPT_BYTES else nullcontext():
            trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True if resume_from else None)
    assert data.neighbors is not None
    seconds = time.perf_counter() - started
    return FitResult(module.trained(), seconds, data.neighbors)


def make_trainer(
    *, accelerator: str = "auto", strategy: str = "auto", precision: str | int = "auto", **options: Any
) -> pl.Trainer:
    """Lightning's Trainer as heads need it: no checkpoints, bars or samplers of its own.

    Raises:
        InputError: for settings that do not work on this machine, such as `accelerator=gpu` without a GPU.
    """
    check_precision(precision)
    try:
        return pl.Trainer(
            accelerator=accelerator,
            strategy=DDPStrategy(timeout=COLLECTIVE_TIMEOUT) if strategy == "ddp" else strategy,  # type: ignore[arg-type]
            precision=resolve_precision(str(precision), accelerator),  # type: ignore[arg-type]
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            **options,
        )
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        raise InputError(f"the trainer's settings do not work here: {str(error).splitlines()[0]}") from None


def n_processes(*, checkpoint_seconds: float = 60.0, **trainer: Any) -> int:
    """How many processes `fit_heads` would train in with these of its options; refuses as `make_trainer`."""
    with _quiet_lightning():
        return make_trainer(logger=False, **trainer).world_size


def _largest_bytes(recipe: Recipe) -> int:
    """Of the logits or the hidden layer of all heads, both views, in bfloat16."""
    width = max(recipe.n_clusters, recipe.hidden_dim if recipe.head == "mlp" else 0)
    return 2 * recipe.n_heads * 2 * (recipe.micro_batch_size or recipe.batch_size) * width


def resolve_precision(precision: str, accelerator: str = "auto") -> str:
    """`auto` as bf16-mixed on GPUs and CPUs with bfloat16 matrix instructions, else 32; other names as they are."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if native_bfloat16(accelerator) else "32"


def check_precision(precision: str | int) -> None:
    """Raises InputError for a precision that training does not support."""
    if str(precision) not in PRECISIONS:
        raise InputError(f"precision {precision} is not supported: choose one of {', '.join(PRECISIONS)}")


def _check_resumable(checkpoint: Path, recipe: Recipe, features: FeatureSet) -> None:
    old = TrainedHeads.load(checkpoint)
    old.check_features(features)
    changed = [key for key, value in recipe.as_dict().items() if old.recipe.as_dict().get(key) != value]
    if changed:
        raise InputError(
            f"{checkpoint} was trained with other settings ({', '.join(changed)}): "
            "resume with the run's own, or start a new run"
        )


def _restore_transform(module: ClusteringModule, checkpoint: Path) -> None:
    """The bank is filled before Lightning restores the module, and needs the transform as it was fitted."""
    module.transform.load_state_dict(TrainedHeads.load(checkpoint).transform.state_dict())


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Lightning's hints about workers, devices and its own newer features say nothing about this run."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for pattern in (".*does not have many workers.*", ".*isinstance.treespec.*", ".*LeafSpec.*"):
                warnings.filterwarnings("ignore", pattern)
            warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning.*")
            yield
    finally:
        logger.setLevel(level)
