"""From features and a recipe to trained heads: one call, in one process or over ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import distributed as dist
from torch.utils.data import DataLoader

from deepclust.features.bank import FeatureBank, fits_in_memory, stored_dtype
from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.neighbors import Neighbors, cached_neighbors
from deepclust.neighbors.mining import DEFAULT_MINING, MiningSettings
from deepclust.neighbors.spectral import Partitions
from deepclust.runtime.devices import freed_memory_kept
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.training.callbacks import LogEpoch, LogValidation, NewestCheckpoint, TrainingProgress
from deepclust.training.checkpoint import CheckpointFile, in_memory_of, is_finished, read_checkpoint, transform_of
from deepclust.training.head_share import HeadShare
from deepclust.training.initialization import HeadStart
from deepclust.training.module import EPOCH_LOSS, ClusteringModule
from deepclust.training.pairs import pair_batches
from deepclust.training.recipe import Recipe
from deepclust.training.step_memory import check_heads_fit, training_bytes
from deepclust.training.termination import EndTogether
from deepclust.training.trained import TrainedHeads
from deepclust.training.trainer import join_processes, make_trainer, quiet_lightning
from deepclust.training.trainer_settings import DEFAULT_TRAINER, TrainerSettings

# Freed memory is kept for the next step while no tensor of a step is larger.
KEPT_BYTES = 256 << 20
# An epoch whose loss fell by less, in nats, counts as one without progress.
MIN_IMPROVEMENT = 1e-3


@dataclass
class FitResult:
    """Trained heads, and how long mining, initializing and training took in seconds."""

    trained: TrainedHeads
    seconds: float
    neighbors: Neighbors


@quiet_lightning()
def fit_heads(
    features: FeatureSet,
    recipe: Recipe,
    trainer: TrainerSettings = DEFAULT_TRAINER,
    *,
    neighbors: Neighbors | None = None,
    partitions: Partitions | None = None,
    cache_dir: str | Path | None = None,
    mining: MiningSettings = DEFAULT_MINING,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[pl.Callback] = (),
    logger: Any = False,
    log_prefix: str = "",
    validate: Callable[[TrainedHeads], Mapping[str, float]] | None = None,
    watch: Callable[[Neighbors, TrainedHeads], Mapping[str, float]] | None = None,
    progress: bool = False,
    in_memory: bool | None = None,
    identity: str | None = None,
) -> FitResult:
    """Train the heads of a recipe.

    Args:
        features: the training split.
        recipe: what to train.
        trainer: where and how.
        neighbors: mined already; None mines them, or reads the cache.
        partitions: of these neighbors, shared by the losses of a run that start from them; None shares nothing.
        cache_dir: where mined neighbors are kept; None keeps them beside the features.
        mining: how they are searched.
        checkpoint: keep the newest training state in this file.
        resume: continue from `checkpoint` if it exists.
        callbacks: further Lightning callbacks.
        logger: a Lightning logger, or False.
        log_prefix: put before the name of every logged metric.
        validate: called on rank 0 with the heads so far every `trainer.val_every_n_epochs` where there is a logger;
            what it returns is logged as `val/…`. Training never looks at it.
        watch: called on rank 0 with the mined neighbors and the heads so far after every epoch where there is a logger;
            what it returns is logged under its own names, beside the learning rate, samples/s and the GPU's memory.
        progress: show how far it is: bars where stdout is a terminal, else lines now and then.
        in_memory: hold the heads' inputs in memory (on the GPU where there is one), or leave the features in their file
            and stage the rows of coming batches; None holds them if they and what training needs fit into the free
            memory of every rank. Above 131 072 samples the two shuffle differently; a resumed run keeps to what it
            began with.
        identity: digest of the data and settings of the run, which the checkpoint names; None compares none.

    Raises:
        InputError: if the recipe does not fit the features, the checkpoint does not fit either, or the trainer's
            settings do not work on this machine.

    Example:
        >>> import torch
        >>> rows = torch.nn.functional.normalize(torch.randn(200, 16), dim=1).numpy()
        >>> recipe = Recipe.of("temi", n_clusters=3, n_heads=2, max_epochs=1, init="random")
        >>> fit_heads(FeatureSet.from_arrays(rows), recipe, TrainerSettings("cpu")).trained.losses_H.shape
        (2,)
    """
    recipe.check_features(len(features))
    started = time.perf_counter()
    path = None if checkpoint is None else Path(checkpoint)
    # Before anything that takes long: a run that cannot be resumed is refused at once, by all ranks or by none.
    joined = Ranks.of_run()
    saved = None
    if path is not None and joined.decide(resume and path.is_file()):
        with joined.all_or_none():
            saved = read_checkpoint(path, recipe, features, identity)
    if saved is not None and path is not None and is_finished(saved):
        wanted = recipe.mined_neighbors(len(features))
        if neighbors is None:
            neighbors = cached_neighbors(features, wanted, cache_dir=cache_dir, **asdict(mining), ranks=joined)
        return FitResult(TrainedHeads.load(path), time.perf_counter() - started, neighbors)
    watchers = [*callbacks, EndTogether()]
    if validate is not None and logger:
        watchers.append(LogValidation(validate, trainer.val_every_n_epochs))
    if recipe.patience is not None:
        loss = f"{log_prefix}{EPOCH_LOSS}"
        watchers.append(EarlyStopping(loss, MIN_IMPROVEMENT, recipe.patience, check_on_train_epoch_end=True))
    if path is not None:
        watchers.append(NewestCheckpoint(path, trainer.checkpoint_seconds))
    if progress:
        watchers.append(TrainingProgress(recipe.loss.title))
    runner = make_trainer(
        trainer,
        max_epochs=recipe.epochs(len(features)),
        callbacks=watchers,
        logger=logger,
        checkpoint_io=CheckpointFile(saved),
    )
    ranks, device = join_processes(runner), runner.strategy.root_device
    share = HeadShare(recipe.n_heads, ranks if trainer.shard == "heads" else ALONE)
    own = replace(recipe, n_heads=share.mine.stop - share.mine.start)
    in_dim, dtype = recipe.pca_dim or features.dim, stored_dtype(runner.precision)
    if device.type == "cpu":
        with ranks.all_or_none():
            check_heads_fit(own, in_dim)
    beside = training_bytes(own, in_dim, 1 if share.shared else ranks.world_size, dtype, device.type)
    if neighbors is None:
        wanted = recipe.mined_neighbors(len(features))
        neighbors = cached_neighbors(
            features, wanted, cache_dir=cache_dir, **asdict(mining), progress=progress, ranks=ranks
        )
    if watch is not None and logger:
        runner.callbacks.insert(0, LogEpoch(partial(watch, neighbors)))  # type: ignore[attr-defined]
    start = HeadStart(recipe, features, neighbors, partitions, progress=progress)
    batch_ranks = ALONE if share.shared else ranks
    pairs = pair_batches(features, neighbors, recipe, lambda: runner.current_epoch, batch_ranks, read_by=ranks)
    if saved is None:
        transform = FeatureTransform.fitted_to(features, recipe.preprocess, recipe.pca_dim, ranks)
    else:
        transform = transform_of(saved, recipe)
        in_memory = in_memory_of(saved) if in_memory is None else in_memory
    if in_memory is None:
        # The ranks of a node share its memory, but each has a GPU of its own.
        sharers = runner.num_devices if device.type == "cpu" else 1
        fits = fits_in_memory(len(features), transform.out_dim, dtype, device, sharers, beside)
        in_memory = runner.strategy.reduce_boolean_decision(fits, all=True)  # the order of samples follows from it
    bank = FeatureBank(features, transform.to(device), device, dtype, in_memory=in_memory)
    heads = recipe.new_heads(bank.shape[1]).to(device)
    resume_from = None if saved is None else path
    del saved  # the trainer has it, and frees it once all is restored
    # Of the largest tensors, kept memory leaves holes that grow the process: 7.9 instead of 5.5 GB at C = 10 450.
    with freed_memory_kept() if largest_bytes(recipe) <= KEPT_BYTES else nullcontext():
        with ranks.all_or_none():
            if resume_from is None and ranks.rank == 0:
                start.set(heads, bank)
        if ranks.world_size > 1:
            for parameter in heads.parameters():
                dist.broadcast(parameter.detach(), 0)
        module = ClusteringModule(recipe, heads, bank, log_prefix=log_prefix, identity=identity, share=share)
        del heads  # of which this rank may have some only
        loader = DataLoader(
            bank.staging(pairs),
            batch_size=None,
            generator=torch.Generator(),  # it draws a number that nobody needs, else from the caller's global one
            pin_memory=device.type == "cuda",  # row numbers go to a GPU while the host goes on
        )
        try:
            runner.fit(module, loader, ckpt_path=resume_from)
        except MisconfigurationException as error:  # of Lightning's options, some of which fail inside `fit` alone
            raise InputError(f"the trainer's settings do not work here: {str(error).splitlines()[0]}") from None
        if runner.received_sigterm:  # in the last batch, which Lightning takes for the end
            raise SIGTERMException
    bank.release()  # the trainer and the module hold each other, and it, until the garbage collector comes by
    trained = module.trained()
    trained.to(device)  # Lightning has moved them to the CPU, where assigning all samples would take long
    return FitResult(trained, time.perf_counter() - started, neighbors)


def largest_bytes(recipe: Recipe) -> int:
    """Of the logits or the hidden layer of all heads, both views, in bfloat16."""
    width = max(recipe.n_clusters, recipe.hidden_dim if recipe.head == "mlp" else 0)
    return 2 * recipe.n_heads * 2 * (recipe.micro_batch_size or recipe.batch_size) * width
