"""TEMI: teacher ensemble-weighted pointwise mutual information (Adaloglou et al. 2023; 2024, eq. 1).

Per head i, symmetrised over (x, x') and (x', x):

    L_i(x, x') = - w(x, x') · log Σ_c (q_s^i(c|x) · q_t^i(c|x'))^β · (π(c) / p̃_t^i(c))^κ
    w(x, x')   = (1/H) Σ_j Σ_c q_t^j(c|x) · q_t^j(c|x')                          no gradient
    p̃_t^i      ← λ p̃_t^i + (1 - λ) · batch mean of q_t^i over both views, 1/C at first

The papers have κ = 1 and no prior, which is π = 1/C but for a constant. κ below 1 asks less for equal sizes, or the
prior's (`losses/prior.py`): it is the exponent λ / (λ + ε) that optimal transport has where its columns may differ from
their target at a price of λ · KL, instead of not at all.

With r the softmax over c of β log(q_s q_t) - κ log(p̃ / π), the gradient in the student's log-odds is w β (q_s - r).

Shape suffixes: H heads, B pairs, C clusters, V = 1 mean of a batch.
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
    log_clamped,
    log_sum_and_shares,
)
from deepclust.losses.prior import UNIFORM, check_prior, log_prior, prior_setting
from deepclust.runtime.settings import setting


def temi_loss(
    student_log_probs_HBC: Tensor,
    teacher_log_probs_HBC: Tensor,
    marginal_HC: Tensor,
    weights_B: Tensor,
    *,
    beta: float = 0.6,
    prior: str = UNIFORM,
    balance: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """One direction of TEMI for every head at once: the student on x, the teacher on x'.

    Args:
        student_log_probs_HBC: log q_s of one member of each pair.
        teacher_log_probs_HBC: log q_t of the other member; no gradient flows into it.
        marginal_HC: p̃_t, the teacher's running cluster marginal of each head.
        weights_B: w, see `temi_weights`; (H, B) where each head has weights of its own.
        beta: β in (0.5, 1]; below 1 it keeps one cluster from swallowing all. 0.6 in the papers.
        prior: π, see `losses/prior.py`.
        balance: κ, 1 in the papers.

    Returns:
        Loss per head, shape (H,), in nats, averaged over the pairs; its gradient in the student's log-odds, (H, B, C).

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> q = torch.full((1, 2, 4), 0.25).log()
        >>> loss_H, gradient_HBC = temi_loss(q, q, torch.full((1, 4), 0.25), torch.ones(2), beta=1.0)
        >>> loss_H
        tensor([-0.])
        >>> gradient_HBC.shape
        torch.Size([1, 2, 4])
    """
    check_pairs(student_log_probs_HBC, teacher_log_probs_HBC)
    score_HBC = student_log_probs_HBC + teacher_log_probs_HBC
    log_ratio_HC = log_clamped(marginal_HC).sub_(log_prior(prior, marginal_HC))
    score_HBC.mul_(beta).sub_(log_ratio_HC[:, None, :], alpha=balance)
    log_sum_HB, shares_HBC = log_sum_and_shares(score_HBC)
    loss_H = -(weights_B * log_sum_HB).mean(dim=1)
    factor_B = weights_B * (beta / weights_B.shape[-1])
    gradient_HBC = student_log_probs_HBC.exp().sub_(shares_HBC).mul_(factor_B[..., None])
    return loss_H, gradient_HBC


def temi_weights(teacher: Probs) -> Tensor:
    """w(x, x'), how surely the teachers put a pair together: (B,) in [0, 1], the same for (x', x).

    Args:
        teacher: probabilities of all heads, over which the weights are averaged.
    """
    return (teacher.anchors * teacher.neighbors).sum(dim=2).mean(dim=0)


def next_marginal(marginal_HC: Tensor, batch_mean_HC: Tensor, momentum: float = 0.9) -> Tensor:
    """p̃ ← λ p̃ + (1 - λ) · the batch's mean of the teacher's probabilities, in the precision of p̃.

    Args:
        marginal_HC: p̃, 1/C at first.
        batch_mean_HC: over both views of the whole batch, of all ranks.
        momentum: λ, 0.9 in the authors' published settings.
    """
    return torch.lerp(batch_mean_HC.to(marginal_HC.dtype), marginal_HC, momentum)


@dataclass(frozen=True)
class TEMI(Loss):
    """`temi_loss` both ways, with the teacher's running marginal.

    Args:
        beta: β in (0.5, 1], 0.6 in the papers.
        marginal_momentum: λ, 0.9 in the authors' published settings.
        prior: π, the sizes that clusters are asked to have; equal ones in the papers.
        balance: κ, how strongly; 1 in the papers.

    Raises:
        InputError: if a setting is out of range.

    Example:
        >>> even = LogProbs(*torch.full((2, 1, 3, 4), 0.25).log())
        >>> loss_H, gradients = TEMI(beta=1.0).gradient(even, even, TEMI().look(even.exp()))
        >>> loss_H
        tensor([-0.])
        >>> gradients.anchors.abs().max()
        tensor(0.)
    """

    beta: float = setting(0.6, "β; below 1 it keeps one cluster from swallowing all", above=0.5, at_most=1)
    marginal_momentum: float = setting(0.9, "λ of the teacher's running cluster marginal", at_least=0, at_most=1)
    prior: str = prior_setting()
    balance: float = setting(1.0, "κ, how strongly the sizes of `prior` are asked for", at_least=0, at_most=2)

    name = "temi"
    title = "TEMI"
    looks_at_teacher = True

    def gradient(
        self, student: LogProbs, teacher: LogProbs, batch: BatchLook, scale: float = 1.0
    ) -> tuple[Tensor, Gradients]:
        marginal_HC, weights_B = batch.mean_VHC[0], batch.weights_B

        def one_way(student_HBC: Tensor, teacher_HBC: Tensor) -> tuple[Tensor, Tensor]:
            return temi_loss(
                student_HBC,
                teacher_HBC,
                marginal_HC,
                weights_B,
                beta=self.beta,
                prior=self.prior,
                balance=self.balance,
            )

        return both_ways(
            one_way(student.anchors, teacher.neighbors), one_way(student.neighbors, teacher.anchors), scale
        )

    def check(self, n_clusters: int) -> None:
        check_prior(self.prior, n_clusters)

    def look(self, probs: Probs) -> BatchLook:
        """The teacher's mean over both views, and the pairs' weights."""
        mean_HC = (probs.anchors.mean(dim=1) + probs.neighbors.mean(dim=1)) / 2
        return BatchLook(mean_HC[None], temi_weights(probs))

    def next_mean(self, mean_VHC: Tensor, batch_mean_VHC: Tensor) -> Tensor:
        """The running marginal."""
        return next_marginal(mean_VHC, batch_mean_VHC, self.marginal_momentum)
