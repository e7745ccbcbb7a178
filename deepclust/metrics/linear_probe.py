"""The linear probe: how well a linear classifier with labels does on frozen features, an upper bound for clustering.

The published grid of 6 learning rates × 3 weight decays (Adaloglou et al. 2024, appendix C.3) is trained at once: all
classifiers see the same minibatches, so their weights stand side by side in one (D, G · C) matrix and a step is two
matrix products. Labels are used here and nowhere near the training of heads.

Memory: weights, momentum and gradient take 12 · G · D · C bytes, logits and probabilities 12 · B · G · C. For all 18
points at C = 10 450, D = 1024, B = 256 that is 2.3 + 0.6 GB; where less is free the grid is trained in groups, one
after the other.

Shape suffixes: N samples, B samples of a minibatch, D feature dimensions, C classes, G points of the grid.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepclust.clustering import TOP
from deepclust.features.bank import FeatureBank
from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.runtime.devices import free_bytes, native_bfloat16
from deepclust.runtime.errors import InputError
from deepclust.runtime.progress import Stage

# Adaloglou et al. 2024, appendix C.3.
LEARNING_RATES = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3)
WEIGHT_DECAYS = (0.0, 1e-3, 1e-5)
MAX_EPOCHS = 100
# The paper names neither; these are common in linear evaluation.
BATCH_SIZE = 256
MOMENTUM = 0.9
PRECISIONS = ("auto", "32", "bf16")

# Without a test split, this share of every class is held out.
HELD_OUT = 0.2
BLOCK_LOGITS = 1 << 24


@dataclass(frozen=True)
class GridPoint:
    """One classifier of the grid; `accuracy` on the validation split is None where it diverged."""

    learning_rate: float
    weight_decay: float
    accuracy: float | None


@dataclass(frozen=True)
class Probe:
    """The best classifier of the grid.

    Attributes:
        accuracy: share of validation samples it gets right; samples of classes without a training sample are wrong.
        learning_rate, weight_decay: of the best point; the first of the grid among equals.
        grid: every point.
        classes_C: the class ids that it tells apart.
        class_accuracy_C: its accuracy on each of them, NaN without a validation sample.
        weight_DC, bias_C: the classifier.
        top_ids_NT: (N, T) class ids of the validation samples, the most probable first.
        seconds: of training and validation.
    """

    accuracy: float
    learning_rate: float
    weight_decay: float
    grid: tuple[GridPoint, ...]
    classes_C: np.ndarray
    class_accuracy_C: np.ndarray
    weight_DC: np.ndarray
    bias_C: np.ndarray
    top_ids_NT: np.ndarray
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The figures for a table, without the classifier and its predictions."""
        return {
            "accuracy": self.accuracy,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "seconds": round(self.seconds, 3),
            "grid": [vars(point) for point in self.grid],
        }


def linear_probe(
    train: FeatureSet,
    val: FeatureSet,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    max_epochs: int = MAX_EPOCHS,
    batch_size: int = BATCH_SIZE,
    momentum: float = MOMENTUM,
    preprocess: str = "none",
    precision: str = "auto",
    device: str | torch.device | None = None,
    at_once: int | None = None,
    in_memory: bool | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Probe:
    """Train a linear classifier per point of the grid with SGD and keep the one that is best on `val`.

    No augmentation, no schedule, classifiers start at zero: the loss is convex, so there is nothing to draw.

    Args:
        train, val: features with labels; memory-mapped rows are staged batch by batch.
        learning_rates, weight_decays: the grid; defaults from Adaloglou et al. 2024, appendix C.3. The decay applies to
            weight and bias, as in torch's SGD.
        max_epochs: default from the same place.
        batch_size, momentum: B and SGD's momentum, which the paper leaves open.
        preprocess: `none`, `standardize` (with the train split's mean and deviation) or `l2`.
        precision: `32`, `bf16` (products only; weights and softmax stay in float32), or `auto`: bf16 where the device
            multiplies it natively.
        device: default: a GPU where there is one.
        at_once: G at most; default: as many as half of the free memory takes.
        in_memory: hold all rows on the device, or none; default: if they fit.
        seed: of the order of the samples.
        progress: show how far it is.

    Raises:
        InputError: if a split has no labels, the dimensions differ, an option is out of range, the memory does not
            suffice for one classifier, or every point diverged.
    """
    started = time.perf_counter()
    if train.labels is None or val.labels is None:
        raise InputError("a linear probe needs labels on both splits: give data with labels")
    precision = str(precision)  # 32 comes as a number from a command line
    _check(train, val, max_epochs, batch_size, precision)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    half = precision == "bf16" or (precision == "auto" and native_bfloat16(place.type))
    dtype = torch.bfloat16 if half else torch.float32
    transform = FeatureTransform.fitted_to(train, preprocess)
    banks = [FeatureBank(split, transform.to(place), place, dtype, in_memory=in_memory) for split in (train, val)]
    classes_C, train_labels = np.unique(train.labels, return_inverse=True)
    labels_N = torch.from_numpy(train_labels).to(place)
    grid = list(product(learning_rates, weight_decays))
    at_once = min(len(grid), at_once or _fitting(len(grid), train.dim, len(classes_C), batch_size, place))
    points: list[GridPoint] = []
    best: tuple[float, Tensor, Tensor] | None = None
    n_epochs = max_epochs * -(-len(grid) // at_once)
    with Stage("linear probe", n_epochs, unit="epochs", enabled=progress) as stage:
        for low in range(0, len(grid), at_once):
            group = _Classifiers(grid[low : low + at_once], train.dim, len(classes_C), momentum, place, dtype)
            for epoch in range(max_epochs):
                batches = epoch_batches(len(train), batch_size, seed, epoch)
                for ids_B in banks[0].prefetched(batches, lambda ids_B: ids_B):
                    group.step(banks[0].gather(ids_B), labels_N[ids_B.to(place)])
                stage.advance()
            for index, accuracy in enumerate(group.accuracies(banks[1], _dense(val, classes_C))):
                points.append(GridPoint(*grid[low + index], accuracy))
                if accuracy is not None and (best is None or accuracy > best[0]):
                    best = (accuracy, *group.classifier(index))
    if best is None:
        raise InputError("every classifier of the linear probe diverged: give smaller learning_rates, or preprocess=l2")
    accuracy, weight_DC, bias_C = best
    top_NT = _top_classes(banks[1], weight_DC, bias_C)
    chosen = points[[point.accuracy for point in points].index(accuracy)]
    return Probe(
        accuracy=accuracy,
        learning_rate=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        grid=tuple(points),
        classes_C=classes_C,
        class_accuracy_C=_class_accuracy(top_NT[:, 0], _dense(val, classes_C), len(classes_C)),
        weight_DC=weight_DC.cpu().numpy(),
        bias_C=bias_C.cpu().numpy(),
        top_ids_NT=classes_C[top_NT],
        seconds=time.perf_counter() - started,
    )


def held_out_split(features: FeatureSet, seed: int = 0) -> tuple[FeatureSet, FeatureSet]:
    """(train, val) for data without a test split: `HELD_OUT` of each class, rounded down, becomes the latter.

    Raises:
        InputError: if there are no labels.
    """
    if features.labels is None:
        raise InputError("a linear probe needs labels: give data with labels")
    order = np.random.default_rng(seed).permutation(len(features))
    order = order[np.argsort(features.labels[order], kind="stable")]
    _, starts, sizes = np.unique(features.labels[order], return_index=True, return_counts=True)
    rank_N = np.arange(len(order)) - np.repeat(starts, sizes)
    out_N = rank_N < np.repeat((HELD_OUT * sizes).astype(np.int64), sizes)
    return features.select(np.sort(order[~out_N])), features.select(np.sort(order[out_N]))


def epoch_batches(n_samples: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """The row numbers of each minibatch of an epoch, a function of (seed, epoch); the last one may be smaller."""
    order_N = np.random.default_rng((seed, epoch)).permutation(n_samples)
    yield from torch.from_numpy(order_N).split(batch_size)


class _Classifiers:
    """G linear classifiers side by side, trained with SGD as torch.optim.SGD computes it."""

    def __init__(
        self,
        points: Sequence[tuple[float, float]],
        dim: int,
        n_classes: int,
        momentum: float,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.shape = (len(points), n_classes)
        self.momentum, self.dtype = momentum, dtype
        width = len(points) * n_classes
        # The last row is the bias.
        self.weight = torch.zeros(dim + 1, width, device=device)
        self.velocity = torch.zeros_like(self.weight)
        rates, decays = torch.tensor(points, device=device, dtype=torch.float32).T
        self.rate = rates.repeat_interleave(n_classes)
        self.decay = decays.repeat_interleave(n_classes)

    @torch.no_grad()
    def step(self, rows_BD: Tensor, labels_B: Tensor) -> None:
        """One SGD step of every classifier on the mean cross-entropy of the batch."""
        gradient_BGC = torch.softmax(self._logits(rows_BD), dim=2)
        chosen_BG1 = labels_B[:, None, None].expand(-1, self.shape[0], 1)
        gradient_BGC.scatter_add_(2, chosen_BG1, gradient_BGC.new_full(chosen_BG1.shape, -1.0))
        gradient_BX = gradient_BGC.div_(len(rows_BD)).flatten(1)
        # velocity ← momentum · velocity + gradient + decay · weight
        self.velocity.mul_(self.momentum).addcmul_(self.weight, self.decay)
        self.velocity[:-1] += rows_BD.T @ gradient_BX.to(self.dtype)
        self.velocity[-1] += gradient_BX.sum(0)
        self.weight.addcmul_(self.velocity, self.rate, value=-1)

    def classifier(self, index: int) -> tuple[Tensor, Tensor]:
        """(D, C) weight and (C,) bias of one of them."""
        columns = slice(index * self.shape[1], (index + 1) * self.shape[1])
        return self.weight[:-1, columns].clone(), self.weight[-1, columns].clone()

    @torch.no_grad()
    def accuracies(self, bank: FeatureBank, labels_N: np.ndarray) -> list[float | None]:
        """Share of samples that each gets right, None where it diverged."""
        labels = torch.from_numpy(labels_N).to(self.weight.device)
        right_G = torch.zeros(self.shape[0], device=self.weight.device, dtype=torch.int64)
        for start, rows_BD in bank.blocks(max(64, BLOCK_LOGITS // self.weight.shape[1])):
            found_BG = self._logits(rows_BD).argmax(dim=2)
            right_G += (found_BG == labels[start : start + len(rows_BD), None]).sum(0)
        finite_G = torch.isfinite(self.weight).all(0).view(self.shape).all(1)
        shares = (right_G.double() / len(labels_N)).tolist()
        return [share if finite else None for share, finite in zip(shares, finite_G.tolist())]

    def _logits(self, rows_BD: Tensor) -> Tensor:
        product_BX = rows_BD @ self.weight[:-1].to(self.dtype)
        return product_BX.float().add_(self.weight[-1]).view(len(rows_BD), *self.shape)


def _dense(features: FeatureSet, classes_C: np.ndarray) -> np.ndarray:
    """The place of each label among the classes, -1 for labels that are none of them."""
    assert features.labels is not None
    places_N = np.searchsorted(classes_C, features.labels).clip(max=len(classes_C) - 1)
    return np.where(classes_C[places_N] == features.labels, places_N, -1)


@torch.no_grad()
def _top_classes(bank: FeatureBank, weight_DC: Tensor, bias_C: Tensor) -> np.ndarray:
    """(N, T) places of the most probable classes."""
    top = min(TOP, weight_DC.shape[1])
    found = [
        ((rows_BD @ weight_DC.to(rows_BD.dtype)).float() + bias_C).topk(top, dim=1).indices.cpu()
        for _, rows_BD in bank.blocks(max(64, BLOCK_LOGITS // weight_DC.shape[1]))
    ]
    return torch.cat(found).numpy()


def _class_accuracy(found_N: np.ndarray, labels_N: np.ndarray, n_classes: int) -> np.ndarray:
    known_N = labels_N >= 0
    sizes_C = np.bincount(labels_N[known_N], minlength=n_classes)
    right_C = np.bincount(labels_N[known_N], weights=(found_N == labels_N)[known_N], minlength=n_classes)
    return right_C / np.where(sizes_C > 0, sizes_C, np.nan)


def _fitting(n_points: int, dim: int, n_classes: int, batch_size: int, device: torch.device) -> int:
    """How many classifiers half of the free memory takes."""
    each = 12 * n_classes * (dim + 1 + batch_size)
    free = free_bytes(device) // 2
    if each > free:
        raise InputError(
            f"a linear classifier of {dim} dimensions and {n_classes} classes needs {each / 1e9:.1f} GB to train, "
            f"{free / 1e9:.1f} GB may be taken on {device}: use a machine with more memory"
        )
    return min(n_points, free // each)


def _check(train: FeatureSet, val: FeatureSet, max_epochs: int, batch_size: int, precision: str) -> None:
    if len(train) == 0 or len(val) == 0:
        raise InputError("a linear probe needs samples to train on and to validate on: one split is empty")
    if train.dim != val.dim:
        raise InputError(f"the train split has {train.dim} dimensions, the other {val.dim}: use one encoder")
    if max_epochs < 1 or batch_size < 1:
        raise InputError(f"max_epochs is {max_epochs} and batch_size {batch_size}: both must be at least 1")
    if precision not in PRECISIONS:
        raise InputError(f"precision is '{precision}': choose one of {', '.join(PRECISIONS)}")
