"""Callbacks: a progress bar, checkpoints that are whole or not there, and metrics along the way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import score
from deepclust.runtime.files import written_whole
from deepclust.runtime.progress import progress_bar
from deepclust.training.module import ClusteringModule


class TrainingProgress(pl.Callback):
    """One bar per fit: epochs, samples/s, loss. Reading the loss waits for the device, so it is read ten times a second
    at most."""

    def __init__(self, description: str) -> None:
        self.description = description
        self._bar: Any = None
        self._last = self._samples = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar = progress_bar(trainer.is_global_zero)
        self._bar.start()
        total = (trainer.max_epochs or 0) * int(trainer.num_training_batches)
        done = trainer.current_epoch * int(trainer.num_training_batches)
        self._task = self._bar.add_task(self.description, total=total, completed=done, unit="samples/s", detail="")
        self._last, self._samples = time.monotonic(), 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self._bar is None or self._bar.disable:
            return
        self._samples += batch.global_size
        self._bar.advance(self._task)
        elapsed = time.monotonic() - self._last
        if elapsed > 0.5:
            loss = float(pl_module.loss_sum_H.mean()) / (batch_idx + 1)
            detail = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {loss:.4f}"
            self._bar.update(self._task, speed=self._samples / elapsed, detail=detail)
            self._last, self._samples = time.monotonic(), 0.0

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class WholeCheckpoint(pl.Callback):
    """Keeps the newest checkpoint at `path`, replaced in one step, so that a kill at any moment leaves a readable one.

    Args:
        path: the checkpoint file.
        every_seconds: save at the end of an epoch if so much time has passed since the last one; the last epoch is
            always saved.
    """

    def __init__(self, path: Path, every_seconds: float = 60.0) -> None:
        self.path, self.every_seconds = path, every_seconds
        self._saved_at = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.current_epoch + 1 == trainer.max_epochs
        # Rank 0's clock decides for all: saving is a collective call.
        due = trainer.strategy.broadcast(last or time.monotonic() - self._saved_at >= self.every_seconds)
        if due:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Training that was ended early did not know its last epoch for the last.
        if trainer.should_stop and trainer.current_epoch != trainer.max_epochs:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            with written_whole(self.path) as temporary:
                trainer.save_checkpoint(temporary)
        else:
            trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()


class LogValidation(pl.Callback):
    """Logs `val/acc`, `val/nmi`, … of the best head so far, on rank 0 by row number, so that no sample counts twice.

    Training never looks at these numbers.

    Args:
        features: the split; without labels only `val/silhouette` and `val/n_found` are logged.
        n_epochs: how often.
    """

    def __init__(self, features: FeatureSet, n_epochs: int) -> None:
        self.features, self.n_epochs = features, n_epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or (trainer.current_epoch + 1) % self.n_epochs or trainer.logger is None:
            return
        assert isinstance(pl_module, ClusteringModule)
        row = score(
            pl_module.trained().assign(self.features),
            self.features.features,
            self.features.labels,
            silhouette_metric="cosine" if self.features.reduction is None else "euclidean",
        )
        metrics = {
            f"{pl_module.log_prefix}val/{key}": float(row[key])
            for key in ("acc", "nmi", "ami", "ari", "silhouette", "n_found")
            if row[key] is not None
        }
        trainer.logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, step=trainer.global_step)
