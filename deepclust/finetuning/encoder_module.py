"""The network in training: its optimizer with layer-wise rates, its schedule, its steps."""

from __future__ import annotations

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from deepclust.finetuning.finetune_settings import FinetuneSettings
from deepclust.finetuning.objectives import Objective
from deepclust.finetuning.training_images import seed_all
from deepclust.runtime.errors import InputError

# Where the cosine ends, as in MAE's public recipe.
LEAST_RATE = 1e-6
# A line at least so often while an epoch lasts.
LINE_SECONDS = 60.0


class EncoderModule(pl.LightningModule):
    """An encoder and the head on it, both trained.

    Args:
        network: images to the objective's outputs.
        objective: what is learned.
        settings: how.
        n_batches: of an epoch.
        progress: print a line after every epoch, and every minute.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        settings: FinetuneSettings,
        n_batches: int,
        *,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.objective, self.settings = network, objective, settings
        self.n_batches, self.progress = n_batches, progress
        self.losses: list[float] = []
        self._sum = torch.zeros(())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        # Mixup and drop path draw from the global generators; the last word sets a step apart from an image.
        seed_all(self.settings.seed, self.current_epoch, batch_idx, 1)
        step = self.objective.step(self.network, *batch)
        self._sum = self._sum.to(step.loss.device) + step.loss
        return step.backward

    def configure_optimizers(self) -> Any:
        optimizer = layered_optimizer(self.network, self.settings)
        schedule = {"scheduler": LambdaLR(optimizer, self.rate_factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def rate_factor(self, step: int) -> float:
        """What every learning rate is multiplied with at a step."""
        return rate_factor(step / self.n_batches, self.settings)

    def on_train_start(self) -> None:
        self._began = self._said = time.monotonic()
        self._first = self.current_epoch

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Not at the epoch's end: callbacks are called before the module there, and a checkpoint must hold this epoch's.
        if batch_idx + 1 == self.n_batches:
            self.losses.append(float(self._sum) / self.n_batches)
            self._sum = torch.zeros(())
            if not math.isfinite(self.losses[-1]):
                raise InputError(
                    f"the loss is not finite after epoch {self.current_epoch + 1}: lower learning_rate, or precision=32"
                )
            self._say(batch_idx, self.losses[-1])
        elif time.monotonic() - self._said > LINE_SECONDS:
            self._say(batch_idx, float(self._sum) / (batch_idx + 1))

    def _say(self, batch_idx: int, loss: float) -> None:
        self._said = time.monotonic()
        if not self.progress:
            return
        done = (self.current_epoch - self._first) * self.n_batches + batch_idx + 1
        seconds = self._said - self._began
        left = seconds / done * ((self.settings.max_epochs - self._first) * self.n_batches - done)
        print(
            f"epoch {self.current_epoch + 1}/{self.settings.max_epochs}, batch {batch_idx + 1}/{self.n_batches}: loss "
            f"{loss:.4f}, {done / seconds * self.settings.batch_size:.0f} samples/s, {left / 60:.1f} minutes left",
            flush=True,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"] = self.losses

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.losses = list(checkpoint["losses"])


def layered_optimizer(network: nn.Module, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """timm's optimizer, whose groups learn the slower the farther they are from the head.

    Which parameters make a layer is timm's: the stem, every block, the head; a norm after the last block counts as that
    block's. Biases, gains and what the network itself spares, such as position embeddings, do not decay.

    Args:
        network: with its head.
        settings: the rates.
    """
    from timm.optim import create_optimizer_v2

    optimizer = create_optimizer_v2(
        network,
        opt=settings.optimizer,
        lr=base_rate(settings),
        weight_decay=settings.weight_decay,
        layer_decay=None if settings.layer_decay == 1 else settings.layer_decay,
    )
    for group in optimizer.param_groups:
        # timm leaves the scale to its own schedulers.
        group["lr"] *= group.get("lr_scale", 1.0)
    return optimizer


def base_rate(settings: FinetuneSettings) -> float:
    """The head's learning rate after the warm-up: the setting is for a batch of 256."""
    return settings.learning_rate * settings.batch_size / 256


def rate_factor(epoch: float, settings: FinetuneSettings) -> float:
    """What a learning rate is multiplied with at a moment of training, in epochs: MAE's warm-up from 0 and cosine.

    Example:
        >>> [round(rate_factor(epoch, FinetuneSettings()), 3) for epoch in (0, 2.5, 5, 52.5, 100)]
        [0.0, 0.5, 1.0, 0.5, 0.001]
    """
    if epoch < settings.warmup_epochs:
        return epoch / settings.warmup_epochs
    if settings.lr_schedule == "constant":
        return 1.0
    least = min(1.0, LEAST_RATE / base_rate(settings))
    done = (epoch - settings.warmup_epochs) / (settings.max_epochs - settings.warmup_epochs)
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
