"""SCANv2: the semantic clustering loss in the self-distillation framework (Adaloglou et al. 2024, eq. 2).

Per head i, symmetrised over (x, x') and (x', x):

    L_i = - mean_b log Σ_c q_t^i(c|x_b) · q_s^i(c|x'_b)  +  α Σ_c q̂_s^i(c) log q̂_s^i(c)

q̂_s is the student's mean over the whole batch. Each direction has the student on one view, so q̂_s is the mean over that
view alone, and the two entropies are averaged. The entropy wants a batch well above C.

With r the softmax over c of log(q_s q_t), and k = α (1 + log q̂_s), the gradient in the student's log-odds of each pair
is (q_s - r) + q_s (k - Σ_c k_c q_s,c), over B.

Shape suffixes: H heads, B pairs, C clusters, V = 2 means of a batch, one per view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepclust.losses.base import (
    BatchLook,
    Gradients,
    LogProbs,
    Loss,
    Probs,
    both_ways,
    check_pairs,
    log_sum_and_shares,
    negative_entropy,
)
from deepclust.losses.prior import UNIFORM, check_prior, log_prior, prior_setting
from deepclust.runtime.settings import setting


def scan_loss(
    student_log_probs_HBC: Tensor,
    teacher_log_probs_HBC: Tensor,
    mean_HC: Tensor,
    *,
    entropy_weight: float = 5.0,
    prior: str = UNIFORM,
) -> tuple[Tensor, Tensor]:
    """One direction of SCANv2 for every head at once: the student on x', the teacher on x.

    Args:
        student_log_probs_HBC: log q_s of one member of each pair.
        teacher_log_probs_HBC: log q_t of the other member; no gradient flows into it.
        mean_HC: q̂_s, the student's mean over this view of the whole batch, of which the pairs at hand may be a part.
            The gradient is that through the mean all the same.
        entropy_weight: α, how strongly uniform cluster sizes are favored. 5 in the paper.
        prior: π, see `losses/prior.py`; equal sizes in the paper.

    Returns:
        Loss per head, shape (H,), in nats; its gradient in the student's log-odds, (H, B, C).

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> q = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]).log()
        >>> loss_H, _ = scan_loss(q, q, q.exp().mean(dim=1), entropy_weight=1.0)
        >>> loss_H
        tensor([0.])
    """
    check_pairs(student_log_probs_HBC, teacher_log_probs_HBC)
    log_agreement_HB, shares_HBC = log_sum_and_shares(student_log_probs_HBC + teacher_log_probs_HBC)
    probs_HBC = student_log_probs_HBC.exp()
    entropy_H, gradient_HBC = negative_entropy(mean_HC, probs_HBC, entropy_weight, log_prior(prior, mean_HC))
    gradient_HBC.add_(probs_HBC.sub_(shares_HBC), alpha=1 / probs_HBC.shape[1])
    return entropy_H - log_agreement_HB.mean(dim=1), gradient_HBC


@dataclass(frozen=True)
class SCAN(Loss):
    """`scan_loss` both ways, each with the student's mean over its own view.

    Args:
        entropy_weight: α, 5 in the paper.
        prior: π, the sizes that clusters are asked to have; equal ones in the paper.

    Raises:
        InputError: if a setting is out of range.

    Example:
        >>> student = LogProbs(*torch.randn(2, 1, 8, 4).log_softmax(dim=3))
        >>> loss = SCAN()
        >>> loss_H, gradients = loss.gradient(student, student, loss.look(student.exp()))
        >>> loss_H.shape, gradients.neighbors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    entropy_weight: float = setting(5.0, "α, how strongly cluster sizes of `prior` are favored", at_least=0)
    prior: str = prior_setting()

    name = "scan"
    title = "SCANv2"
    n_means = 2

    def gradient(
        self, student: LogProbs, teacher: LogProbs, batch: BatchLook, scale: float = 1.0
    ) -> tuple[Tensor, Gradients]:
        anchors_mean_HC, neighbors_mean_HC = batch.mean_VHC
        return both_ways(
            scan_loss(
                student.anchors,
                teacher.neighbors,
                anchors_mean_HC,
                entropy_weight=self.entropy_weight,
                prior=self.prior,
            ),
            scan_loss(
                student.neighbors,
                teacher.anchors,
                neighbors_mean_HC,
                entropy_weight=self.entropy_weight,
                prior=self.prior,
            ),
            scale,
        )

    def check(self, n_clusters: int) -> None:
        check_prior(self.prior, n_clusters)

    def look(self, probs: Probs) -> BatchLook:
        """The student's mean over each view."""
        means_VHC = torch.stack([probs.anchors.mean(dim=1), probs.neighbors.mean(dim=1)])
        return BatchLook(means_VHC, means_VHC.new_ones(probs.anchors.shape[1]))
