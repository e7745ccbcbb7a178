"""Callbacks: how far training is, the newest checkpoint, and what is logged along the way."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor

from deepclust.runtime.progress import Stage
from deepclust.training.module import ClusteringModule
from deepclust.training.trained import TrainedHeads


class HostCopy:
    """A tensor on its way to the host.

    Attributes:
        value: on the host; what it holds is right once it has arrived.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.value = tensor.detach().to("cpu", non_blocking=True)  # into pinned memory
        self._copied = torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None

    def arrived(self) -> bool:
        return self._copied is None or self._copied.query()

    def read(self) -> Tensor:
        """The value, once it is there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self.value


class TrainingProgress(pl.Callback):
    """One stage per fit: epochs, samples/s, loss. The loss is sent for twice a second and shown once it is there, so
    that nothing waits for the device."""

    def __init__(self, description: str) -> None:
        self.description = description
        self._stage: Stage | None = None
        self._last = self._samples = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = (trainer.max_epochs or 0) * int(trainer.num_training_batches)
        done = trainer.current_epoch * int(trainer.num_training_batches)
        self._stage = Stage(
            self.description, total, unit="steps", completed=done, enabled=trainer.is_global_zero
        ).__enter__()
        self._last, self._samples = time.monotonic(), 0.0
        self._coming: HostCopy | None = None
        self._loss = math.nan

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self._stage is None or not self._stage.enabled:
            return
        self._samples += batch.global_size
        self._stage.advance()
        elapsed = time.monotonic() - self._last
        if elapsed > 0.5:
            if self._coming is None:
                self._coming = HostCopy(pl_module.loss_sum_H.mean() / (batch_idx + 1))
            if self._coming.arrived():
                self._loss, self._coming = float(self._coming.value), None
            rate = self._samples / elapsed
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self._stage.tell(f"{epoch}, loss {self._loss:.4f}, {rate:,.0f} samples/s")
            self._last, self._samples = time.monotonic(), 0.0

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end()  # Lightning calls no teardown then, and the stage would go on telling

    def _end(self) -> None:
        if self._stage is not None:
            self._stage.__exit__(*sys.exc_info())
            self._stage = None


class NewestCheckpoint(pl.Callback):
    """Keeps the newest training state at `path`.

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
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()


class LogEpoch(pl.Callback):
    """Logs of every epoch the learning rate, samples/s, the GPU's memory, and what `watch` says of the heads.

    An epoch's time ends before anything is looked at, so that samples/s are training's own.

    Args:
        watch: from the heads to numbers by name.
    """

    def __init__(self, watch: Callable[[TrainedHeads], Mapping[str, float]]) -> None:
        self.watch = watch
        self._began, self._samples = 0.0, 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began, self._samples = time.perf_counter(), 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self._samples += batch.global_size

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.perf_counter() - self._began  # the module has read the losses, so the device is done
        assert isinstance(pl_module, ClusteringModule)
        trained = pl_module.trained()  # on every rank, as each may have some of the heads
        if not trainer.is_global_zero or trainer.logger is None:
            return
        metrics = {
            "train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "train/samples_per_second": self._samples / seconds,
            **self.watch(trained),
        }
        device = trainer.strategy.root_device
        if device.type == "cuda":  # the most so far, of this rank
            metrics["train/gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        named = {f"{pl_module.log_prefix}{name}": value for name, value in metrics.items()}
        trainer.logger.log_metrics({**named, "epoch": trainer.current_epoch}, step=trainer.global_step)


class LogValidation(pl.Callback):
    """Logs what `validate` says of the heads so far as `val/…`, on rank 0 alone; training never looks at it.

    Args:
        validate: from the heads to numbers by name.
        n_epochs: how often; 0 never.
    """

    def __init__(self, validate: Callable[[TrainedHeads], Mapping[str, float]], n_epochs: int) -> None:
        self.validate, self.n_epochs = validate, n_epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        due = self.n_epochs > 0 and (trainer.current_epoch + 1) % self.n_epochs == 0
        if not due:
            return
        assert isinstance(pl_module, ClusteringModule)
        trained = pl_module.trained()  # on every rank, as each may have some of the heads
        if not trainer.is_global_zero or trainer.logger is None:
            return
        found = self.validate(trained)
        metrics = {f"{pl_module.log_prefix}val/{name}": value for name, value in found.items()}
        trainer.logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, step=trainer.global_step)
