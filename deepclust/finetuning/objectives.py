"""What an encoder is trained for: each objective says how many outputs the head on it has, and their loss.

Shape suffixes: B images or pairs in the batch, H = 1 head, C clusters, K classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from deepclust.finetuning.finetune_settings import FinetuneSettings
from deepclust.losses import TSP
from deepclust.losses.base import LogProbs


class Step(NamedTuple):
    """What a batch gives: `backward` has the gradient, `loss` is the number to report."""

    backward: Tensor
    loss: Tensor


class Objective(Protocol):
    """What training asks of an objective."""

    n_outputs: int

    def step(self, network: nn.Module, images: Tensor, labels_B: Tensor) -> Step:
        """The loss of a batch.

        Args:
            network: from images to `n_outputs` numbers.
            images: (B, 3, S, S); with pairs (2 B, 3, S, S), the samples before their neighbors.
            labels_B: of the images.
        """


class Labels:
    """Cross-entropy with labels: timm's mixup, CutMix and label smoothing.

    Args:
        n_classes: K.
        settings: their strengths.
    """

    def __init__(self, n_classes: int, settings: FinetuneSettings) -> None:
        from timm.data import Mixup
        from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

        self.n_outputs = n_classes
        self.mixup: Any = None
        if settings.mixup or settings.cutmix:
            self.mixup = Mixup(
                mixup_alpha=settings.mixup,
                cutmix_alpha=settings.cutmix,
                label_smoothing=settings.label_smoothing,
                num_classes=n_classes,
            )
        # Mixup smooths the labels as it mixes them.
        self.criterion: nn.Module = (
            LabelSmoothingCrossEntropy(settings.label_smoothing) if self.mixup is None else SoftTargetCrossEntropy()
        )

    def step(self, network: nn.Module, images: Tensor, labels_B: Tensor) -> Step:
        targets = labels_B
        if self.mixup is not None:
            images, targets = self.mixup(images, labels_B)
        loss = self.criterion(network(images).float(), targets)
        return Step(loss, loss.detach())


class Pairs:
    """TSP's loss of pairs of images (`deepclust.losses.tsp`) by one head; labels are not read.

    Args:
        n_clusters: C.
    """

    def __init__(self, n_clusters: int) -> None:
        self.n_outputs = n_clusters
        self.loss = TSP()

    def step(self, network: nn.Module, images: Tensor, labels_B: Tensor) -> Step:
        logits_HBC = network(images).float()[None]
        with torch.no_grad():
            log_probs = LogProbs(*logits_HBC.log_softmax(dim=2).chunk(2, dim=1))
            loss_H, gradients = self.loss.gradient(log_probs, log_probs, self.loss.look(log_probs.exp()))
        # Linear in the logits, with the gradient that the loss gives in closed form.
        return Step((logits_HBC * torch.cat(gradients, dim=1)).sum(), loss_H.mean())
