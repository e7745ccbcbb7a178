"""Callbacks: a progress bar, checkpoints that are whole or not there, and metrics along the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl

from deepclust.files import written_whole
from deepclust.report.progress import progress_bar


class TrainingProgress(pl.Callback):
    """One bar per fit: epochs, samples/s, loss. Reading the loss waits for the device, so it is read ten times a second
    at most."""

    def __init__(self, description: str) -> None:
        self.description = description
        self._bar = None
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
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        # Rank 0's clock decides for all: saving is a collective call.
        due = trainer.strategy.broadcast(last or time.monotonic() - self._saved_at >= self.every_seconds)
        if not due:
            return
        if trainer.is_global_zero:
            with written_whole(self.path) as temporary:
                trainer.save_checkpoint(temporary)
        else:
            trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()


class EveryEpochs(pl.Callback):
    """Calls `evaluate` on rank 0 every so many epochs and logs what it returns; training never looks at it.

    Args:
        evaluate: takes the module, returns metrics by name.
        n_epochs: how often.
    """

    def __init__(self, evaluate: Callable[[pl.LightningModule], dict[str, float]], n_epochs: int) -> None:
        self.evaluate, self.n_epochs = evaluate, n_epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and (trainer.current_epoch + 1) % self.n_epochs == 0 and trainer.logger is not None:
            trainer.logger.log_metrics(
                {**self.evaluate(pl_module), "epoch": trainer.current_epoch}, step=trainer.global_step
            )
