"""The objectives by name. A new one is a file here with its pure functions, and a class below.

An objective turns the log-probabilities of both members of each pair into one loss per head. What the loss needs of the
whole batch, beyond the pairs at hand, it names as a statistic: the trainer averages that over micro-batches and
ranks and passes it back as the state. So no loss knows a loader or a rank, and the batch that the loss sees is
independent of the batch that memory sees.

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from deepclust.losses.gradients import add_entropy_gradient, agreement_gradient
from deepclust.losses.log_space import log_clamped
from deepclust.losses.scan import scan_loss
from deepclust.losses.temi import temi_loss, temi_weights, updated_marginal
from deepclust.losses.tsp import gaussian_neighbor_weights, tsp_loss
from deepclust.runtime.errors import InputError

__all__ = [
    "OBJECTIVES",
    "SCAN",
    "TEMI",
    "TSP",
    "Objective",
    "gaussian_neighbor_weights",
    "make_objective",
    "scan_loss",
    "temi_loss",
    "temi_weights",
    "tsp_loss",
    "updated_marginal",
]

# Probabilities, or their logarithms, of the samples and of their neighbors, each (H, B, C).
Views = tuple[Tensor, Tensor]


class Objective(Protocol):
    """What the trainer asks of a loss."""

    uses_teacher: bool
    """Whether an EMA teacher takes part; without one `teacher` is None in the calls below."""
    gaussian_pairs: bool
    """Whether neighbors are drawn with TSP's Gaussian weights instead of uniformly."""
    statistic_of_teacher: bool
    """Whether `statistic` looks at the teacher (else at the student): the other need not be computed for it."""

    def statistic(self, student: Views | None, teacher: Views | None) -> Tensor:
        """Mean over the pairs at hand, (H, C), of what the loss needs over the whole batch; from probabilities."""

    def next_state(self, state_HC: Tensor, batch_statistic_HC: Tensor) -> Tensor:
        """The state, initially 1/C, from the last step's and this batch's statistic."""

    def loss(self, student: Views, teacher: Views | None, state_HC: Tensor) -> Tensor:
        """Loss per head, (H,), averaged over the pairs at hand: the definition; from log-probabilities."""

    def weights(self, teacher: Views) -> Tensor | None:
        """A weight per pair, (B,), averaged over the heads at hand, from probabilities; None: all count the same."""

    def gradient(
        self, student: Views, teacher: Views | None, state_HC: Tensor, weights_B: Tensor | None, scale: float = 1.0
    ) -> tuple[Tensor, Views]:
        """`loss` and `scale` times its gradient in the student's log-odds (logits over temperature), without autograd.

        Args:
            student: log-probabilities, as for the loss.
            teacher: log-probabilities.
            weights_B: `weights` averaged over all heads, where the views hold a group of them.
        """


def _both_views_mean(views: Views) -> Tensor:
    return (views[0].mean(dim=1) + views[1].mean(dim=1)) / 2


def _given(views: Views | None) -> Views:
    if views is None:
        raise ValueError("this objective needs the probabilities of both networks")
    return views


@dataclass(frozen=True)
class TEMI:
    """`temi_loss`, symmetrised over (x, x') and (x', x); the state is the teacher's running marginal."""

    beta: float = 0.6
    marginal_momentum: float = 0.9
    uses_teacher = True
    gaussian_pairs = False
    statistic_of_teacher = True

    def __post_init__(self) -> None:
        if not 0.5 < self.beta <= 1:
            raise InputError(f"beta is {self.beta}: TEMI needs 0.5 < beta <= 1")

    def statistic(self, student: Views | None, teacher: Views | None) -> Tensor:
        return _both_views_mean(_given(teacher))

    def next_state(self, state_HC: Tensor, batch_statistic_HC: Tensor) -> Tensor:
        return updated_marginal(state_HC, batch_statistic_HC, self.marginal_momentum)

    def weights(self, teacher: Views) -> Tensor | None:
        return (teacher[0] * teacher[1]).sum(dim=2).mean(dim=0)

    def gradient(
        self, student: Views, teacher: Views | None, state_HC: Tensor, weights_B: Tensor | None, scale: float = 1.0
    ) -> tuple[Tensor, Views]:
        teacher, offset_HC = _given(teacher), log_clamped(state_HC)
        loss_H, gradients = torch.zeros_like(state_HC[:, 0]), []
        for own_HBC, other_HBC in ((student[0], teacher[1]), (student[1], teacher[0])):
            part_H, responsibilities_HBC, factor = agreement_gradient(
                own_HBC, other_HBC, power=self.beta, log_offset_HC=offset_HC, weights_B=weights_B
            )
            loss_H += part_H / 2
            gradients.append(own_HBC.exp().sub_(responsibilities_HBC).mul_(factor * (scale / 2)))
        return loss_H, (gradients[0], gradients[1])

    def loss(self, student: Views, teacher: Views | None, state_HC: Tensor) -> Tensor:
        teacher = _given(teacher)
        weights_B = temi_weights(*teacher)
        forward_H = temi_loss(student[0], teacher[1], state_HC, weights_B, beta=self.beta)
        backward_H = temi_loss(student[1], teacher[0], state_HC, weights_B, beta=self.beta)
        return (forward_H + backward_H) / 2


@dataclass(frozen=True)
class SCAN:
    """`scan_loss`, symmetrised; q̂ is the student's mean over both views of the whole batch."""

    entropy_weight: float = 5.0
    uses_teacher = True
    gaussian_pairs = False
    statistic_of_teacher = False

    def __post_init__(self) -> None:
        _check_entropy_weight(self.entropy_weight)

    def statistic(self, student: Views | None, teacher: Views | None) -> Tensor:
        return _both_views_mean(_given(student))

    def next_state(self, state_HC: Tensor, batch_statistic_HC: Tensor) -> Tensor:
        return batch_statistic_HC

    def weights(self, teacher: Views) -> Tensor | None:
        return None

    def gradient(
        self, student: Views, teacher: Views | None, state_HC: Tensor, weights_B: Tensor | None, scale: float = 1.0
    ) -> tuple[Tensor, Views]:
        teacher = _given(teacher)
        loss_H, gradients = torch.zeros_like(state_HC[:, 0]), []
        for own_HBC, other_HBC in ((student[0], teacher[1]), (student[1], teacher[0])):
            part_H, responsibilities_HBC, factor = agreement_gradient(own_HBC, other_HBC)
            probs_HBC = own_HBC.exp()
            gradient_HBC = responsibilities_HBC.neg_().add_(probs_HBC).mul_(factor)
            entropy_H = add_entropy_gradient(gradient_HBC, probs_HBC, state_HC, self.entropy_weight)
            loss_H += (part_H + entropy_H) / 2
            gradients.append(gradient_HBC.mul_(0.5 * scale))
        return loss_H, (gradients[0], gradients[1])

    def loss(self, student: Views, teacher: Views | None, state_HC: Tensor) -> Tensor:
        teacher = _given(teacher)
        forward_H = scan_loss(student[0], teacher[1], state_HC, entropy_weight=self.entropy_weight)
        backward_H = scan_loss(student[1], teacher[0], state_HC, entropy_weight=self.entropy_weight)
        return (forward_H + backward_H) / 2


@dataclass(frozen=True)
class TSP:
    """`tsp_loss`: one network, neighbors drawn with Gaussian weights; q̂ is the mean over the samples."""

    entropy_weight: float = 3.0
    uses_teacher = False
    gaussian_pairs = True
    statistic_of_teacher = False

    def __post_init__(self) -> None:
        _check_entropy_weight(self.entropy_weight)

    def statistic(self, student: Views | None, teacher: Views | None) -> Tensor:
        return _given(student)[0].mean(dim=1)

    def next_state(self, state_HC: Tensor, batch_statistic_HC: Tensor) -> Tensor:
        return batch_statistic_HC

    def weights(self, teacher: Views) -> Tensor | None:
        return None

    def gradient(
        self, student: Views, teacher: Views | None, state_HC: Tensor, weights_B: Tensor | None, scale: float = 1.0
    ) -> tuple[Tensor, Views]:
        loss_H, responsibilities_HBC, factor = agreement_gradient(student[0], student[1])
        neighbors_HBC = student[1].exp().sub_(responsibilities_HBC).mul_(factor * scale)
        probs_HBC = student[0].exp()
        anchors_HBC = responsibilities_HBC.neg_().add_(probs_HBC).mul_(factor)
        loss_H = loss_H + add_entropy_gradient(anchors_HBC, probs_HBC, state_HC, self.entropy_weight)
        return loss_H, (anchors_HBC.mul_(scale), neighbors_HBC)

    def loss(self, student: Views, teacher: Views | None, state_HC: Tensor) -> Tensor:
        return tsp_loss(student[0], student[1], state_HC, entropy_weight=self.entropy_weight)


def _check_entropy_weight(weight: float) -> None:
    if not weight >= 0:
        raise InputError(f"entropy_weight is {weight}: it must be 0 or more")


OBJECTIVES: dict[str, type[Any]] = {"temi": TEMI, "scan": SCAN, "tsp": TSP}


def make_objective(name: str, **options: Any) -> Objective:
    """An objective by name.

    Raises:
        InputError: if the name or an option is unknown, or an option is out of range.
    """
    if name not in OBJECTIVES:
        raise InputError(f"unknown loss '{name}': choose one of {', '.join(OBJECTIVES)}")
    try:
        return OBJECTIVES[name](**options)
    except TypeError as error:
        raise InputError(f"loss '{name}': {error}") from None


def initial_state(n_heads: int, n_clusters: int) -> Tensor:
    """1/C for every head and cluster."""
    return torch.full((n_heads, n_clusters), 1 / n_clusters)
