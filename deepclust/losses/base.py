"""What the losses share: their types, what training asks of a loss, and the arithmetic that two of them need.

A loss is a function of the log-probabilities of both members of each pair, and of a few means over the whole batch.
Training holds only a part of the batch at a time, so a loss says by `look` what it needs of the whole. Training
averages it over micro-batches and ranks and passes it back to `gradient`. No loss knows a loader or a rank, and the
batch that the loss sees does not depend on the batch that memory sees. Where the gradient of such a mean needs another
mean, or the loss iterates over the batch, it looks again, knowing the means so far.

Gradients are in closed form, and in the student's log-odds: the logits over the temperature, of which ℓ is the log
softmax. With p = exp ℓ and a score s = log Σ_c exp(β (ℓ_c + t_c) - o_c) whose softmax is r, the gradient of -w · s is
w β (p - r), as every softmax's is. Value and gradient come from one pass over the probabilities, where autograd would
record and keep a dozen tensors of their size.

Shape suffixes: H heads, B pairs, C clusters, V means of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from deepclust.runtime.settings import check_settings


class Probs(NamedTuple):
    """Probabilities of the samples and of their neighbors, each (H, B, C); rows sum to 1."""

    anchors: Tensor
    neighbors: Tensor


class LogProbs(NamedTuple):
    """Log-probabilities of the samples and of their neighbors, each (H, B, C), finite, as `log_softmax` gives them."""

    anchors: Tensor
    neighbors: Tensor

    def exp(self) -> Probs:
        return Probs(self.anchors.exp(), self.neighbors.exp())


class Gradients(NamedTuple):
    """Gradients in the student's log-odds of the samples and of their neighbors, each (H, B, C)."""

    anchors: Tensor
    neighbors: Tensor


class BatchLook(NamedTuple):
    """What a loss needs to know of a batch before the gradient of any part of it.

    Attributes:
        mean_VHC: means of probabilities over the batch.
        weights_B: how much each pair counts, averaged over the heads; 1 in the losses that weigh none.
    """

    mean_VHC: Tensor
    weights_B: Tensor

    @classmethod
    def of_one_view(cls, values_HBC: Tensor) -> BatchLook:
        """The mean of one view's values, every pair counting alike."""
        mean_HC = values_HBC.mean(dim=1)
        return cls(mean_HC[None], mean_HC.new_ones(values_HBC.shape[1]))


@dataclass(frozen=True)
class Loss(ABC):
    """What training asks of a loss. The fields of a subclass are its options, with the defaults of its paper.

    Attributes:
        name: on the command line, in a recipe and of files.
        title: in tables and lines of progress.
        trained_with: the training settings in which the method differs from the defaults of `Recipe`.
        uses_teacher: whether an EMA teacher takes part. Without one, training passes the student as its own teacher.
        looks_at_teacher: whether `look` reads the teacher, else the student.
        gaussian_pairs: whether neighbors are drawn with TSP's Gaussian weights, else uniformly.
        local_pairs: whether each sample is paired with the nearest of its batch, too.
        reads_log_odds: whether `look` and `gradient` get log-odds as they are, for softmaxes over something else.
        of_all_samples: whether `look` sees all samples as each epoch begins, and not the pairs of each batch. The
            teacher then is the student as it was at that time.
        student_assigns: whether the student is what is kept though there is a teacher.
        keeps_start: whether what heads start from is what they end with, so that they must start from something.
        n_means: V, how many means of the batch per head the loss needs, where that does not depend on C.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    trained_with: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    uses_teacher: ClassVar[bool] = True
    looks_at_teacher: ClassVar[bool] = False
    gaussian_pairs: ClassVar[bool] = False
    local_pairs: ClassVar[bool] = False
    reads_log_odds: ClassVar[bool] = False
    of_all_samples: ClassVar[bool] = False
    student_assigns: ClassVar[bool] = False
    keeps_start: ClassVar[bool] = False
    n_means: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_settings(self)

    def warm_start_epochs(self, n_clusters: int) -> int:
        """How many epochs heads learn the partition that they start from, where nobody says."""
        return 1

    def epochs(self, n_rows: int) -> int:
        """How many epochs training takes over so many samples, where nobody says and they are not few."""
        return 10

    def check(self, n_clusters: int) -> None:  # noqa: B027 - most losses can train any number
        """Raises InputError where the loss cannot train so many clusters."""

    @abstractmethod
    def look(self, probs: Probs) -> BatchLook:
        """What the pairs at hand tell of the batch.

        Args:
            probs: of the teacher if `looks_at_teacher`, else of the student.
        """

    @property
    def n_looks(self) -> int:
        """How often the batch is looked at before its gradient: once, then by `look_again`."""
        return 1

    @property
    def random_share(self) -> float:
        """The share of the samples that are paired with any sample instead of a neighbor."""
        return 0.0

    @property
    def walk_steps(self) -> int:
        """How many steps beyond a neighbor its pair may be, from neighbor to neighbor."""
        return 0

    @property
    def inner_fit(self) -> tuple[int, float] | None:
        """Steps and learning rate of a teacher that is a linear classifier, fitted to the student's labels of each
        batch; None: the teacher, if there is one, is made of the student."""
        return None

    def look_again(self, probs: Probs, mean_VHC: Tensor) -> BatchLook:
        """A further look at the pairs, which knows what the looks before have told.

        Args:
            probs: as for `look`.
            mean_VHC: what `next_mean` made of the look before.
        """
        raise NotImplementedError(f"{self.name} looks once")

    def means(self, n_clusters: int) -> int:
        """V, how many means of the batch per head the loss needs."""
        return self.n_means

    def first_mean(self, n_heads: int, n_clusters: int) -> Tensor:
        """(V, H, C) the mean before the first batch: 1/C everywhere."""
        return torch.full((self.means(n_clusters), n_heads, n_clusters), 1 / n_clusters)

    def next_mean(self, mean_VHC: Tensor, batch_mean_VHC: Tensor) -> Tensor:
        """The mean that `gradient` is given: this batch's, unless the loss keeps a running one.

        Args:
            mean_VHC: that of the look before.
            batch_mean_VHC: over the whole batch, of all micro-batches and ranks.
        """
        return batch_mean_VHC

    @abstractmethod
    def gradient(
        self, student: LogProbs, teacher: LogProbs, batch: BatchLook, scale: float = 1.0
    ) -> tuple[Tensor, Gradients]:
        """The loss of the pairs at hand per head, (H,), and `scale` times its gradient in the student's log-odds.

        Args:
            student: of the pairs at hand.
            teacher: of the same pairs.
            batch: means over the whole batch, and weights of the pairs at hand.
            scale: multiplies the gradient, not the value.
        """


@dataclass(frozen=True)
class WithoutTeacher(Loss):
    """A loss of the student alone: the gradient flows through both members of a pair, and prototypes are not frozen."""

    trained_with = MappingProxyType({"freeze_prototypes_epochs": 0})
    uses_teacher = False

    @abstractmethod
    def of_student(self, student: LogProbs, mean_VHC: Tensor) -> tuple[Tensor, Gradients]:
        """The loss of the pairs at hand per head, (H,), and its gradient, which may be changed in place.

        Args:
            student: of the pairs at hand.
            mean_VHC: over the whole batch.
        """

    def gradient(
        self, student: LogProbs, teacher: LogProbs, batch: BatchLook, scale: float = 1.0
    ) -> tuple[Tensor, Gradients]:
        """As `Loss.gradient`; the student is its own teacher, and so `teacher` is not read."""
        loss_H, gradients = self.of_student(student, batch.mean_VHC)
        return loss_H, Gradients(gradients.anchors.mul_(scale), gradients.neighbors.mul_(scale))


def both_ways(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], scale: float) -> tuple[Tensor, Gradients]:
    """The mean of a loss over (x, x') and (x', x).

    Args:
        first: value (H,) and gradient (H, B, C) with the student on x; the gradient is changed in place.
        second: the same with the student on x'.
        scale: multiplies the gradients.
    """
    (first_H, anchors_HBC), (second_H, neighbors_HBC) = first, second
    return (first_H + second_H) / 2, Gradients(anchors_HBC.mul_(scale / 2), neighbors_HBC.mul_(scale / 2))


def log_sum_and_shares(score_HBC: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ_c exp(score), shape (H, B), and each cluster's share of that sum, the softmax of the score, (H, B, C)."""
    log_shares_HBC = torch.log_softmax(score_HBC, dim=2)
    # log share = score - log Σ exp(score), so any column tells the sum.
    log_sum_HB = score_HBC[:, :, 0] - log_shares_HBC[:, :, 0]
    return log_sum_HB, log_shares_HBC.exp_()


def negative_entropy(
    mean_HC: Tensor, probs_HBC: Tensor, weight: float, log_prior_HC: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """α Σ_c q̂ log (q̂ / π) for a batch mean q̂, and its gradient in the log-odds of the probabilities at hand.

    With k = α (1 + log (q̂ / π)) the gradient through the mean is p (k - Σ_c k_c p_c) / B for every pair: linear in the
    pairs, so micro-batches and ranks that know q̂ add up to the gradient of the whole batch without ever holding it.

    Args:
        mean_HC: q̂, over the whole batch.
        probs_HBC: p, of the part of the batch at hand. Its share of the batch is the caller's factor.
        weight: α.
        log_prior_HC: log π, `losses/prior.py`; 0 where equal sizes are favored, which leaves out a constant.

    Returns:
        The value (H,), in nats, and the gradient (H, B, C).
    """
    log_mean_HC = log_clamped(mean_HC).sub_(log_prior_HC)
    slope_HC = (1 + log_mean_HC) * (weight / probs_HBC.shape[1])
    gradient_HBC = probs_HBC * slope_HC[:, None, :]
    # A sum, not a product of matrices: autocast would round that to bfloat16.
    gradient_HBC.addcmul_(probs_HBC, gradient_HBC.sum(dim=2, keepdim=True), value=-1)
    return weight * (mean_HC * log_mean_HC).sum(dim=1), gradient_HBC


def through_softmax(gradient_HBC: Tensor, probs_HBC: Tensor) -> Tensor:
    """From a gradient in the probabilities p that in their log-odds, p (g - Σ_c g_c p_c), in place."""
    gradient_HBC.mul_(probs_HBC)
    return gradient_HBC.addcmul_(probs_HBC, gradient_HBC.sum(dim=2, keepdim=True), value=-1)


def product(first: Tensor, second: Tensor) -> Tensor:
    """Products of matrices, head by head, in the precision of the operands whatever autocast is on."""
    with torch.autocast(first.device.type, enabled=False):
        return torch.bmm(first, second)


def joint_mean(first_HBC: Tensor, second_HBC: Tensor) -> Tensor:
    """(C, H, C) the mean over the pairs of p_c · p'_d: row c of the first member is mean c, column d of the second."""
    return product(first_HBC.transpose(1, 2), second_HBC).div_(first_HBC.shape[1]).movedim(1, 0)


def log_clamped(probs: Tensor) -> Tensor:
    """log p with p held at or above the smallest normal number of its type, so that log 0 stays finite."""
    return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()


def check_pairs(first_HBC: Tensor, second_HBC: Tensor) -> None:
    """Raises ValueError unless both are (H, B, C) of the same shape."""
    if first_HBC.ndim != 3 or first_HBC.shape != second_HBC.shape:
        raise ValueError(
            f"log-probabilities must be two tensors of one shape (heads, pairs, clusters), "
            f"got {tuple(first_HBC.shape)} and {tuple(second_HBC.shape)}"
        )
