"""TEMI: teacher ensemble-weighted pointwise mutual information (Adaloglou et al. 2023; 2024, eq. 1).

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepclust.losses.log_space import LOG_FLOOR, check_pairs, log_clamped


def temi_weights(anchor_log_probs_HBC: Tensor, neighbor_log_probs_HBC: Tensor) -> Tensor:
    """w(x, x') = (1/H) Σ_j Σ_c q_t^j(c|x) q_t^j(c|x'): how surely the teachers put a pair together.

    Args:
        anchor_log_probs_HBC: the teachers' log-probabilities of the samples.
        neighbor_log_probs_HBC: the teachers' log-probabilities of their neighbors.

    Returns:
        One weight per pair in [0, 1], shape (B,), without gradient. Symmetric in its arguments.
    """
    with torch.no_grad():
        return (anchor_log_probs_HBC.exp() * neighbor_log_probs_HBC.exp()).sum(dim=2).mean(dim=0)


def temi_loss(
    student_log_probs_HBC: Tensor,
    teacher_log_probs_HBC: Tensor,
    marginal_HC: Tensor,
    weights_B: Tensor,
    *,
    beta: float = 0.6,
) -> Tensor:
    """One direction of the TEMI loss for every head at once: the student on x, the teacher on x'.

        L_i = - mean_b w_b · log Σ_c (q_s^i(c|x_b) · q_t^i(c|x'_b))^β / p̃_t^i(c)

    Args:
        student_log_probs_HBC: student log-probabilities of one member of each pair.
        teacher_log_probs_HBC: teacher log-probabilities of the other member; no gradient flows into them.
        marginal_HC: p̃_t, the teacher's running cluster marginal of each head.
        weights_B: pair weights, see `temi_weights`.
        beta: β in (0.5, 1]; below 1 it keeps one cluster from swallowing all. 0.6 in the papers.

    Returns:
        Loss per head, shape (H,), in nats.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> q = torch.full((1, 2, 4), 0.25).log()
        >>> temi_loss(q, q, torch.full((1, 4), 0.25), torch.ones(2), beta=1.0)
        tensor([-0.])
    """
    check_pairs(student_log_probs_HBC, teacher_log_probs_HBC)
    log_marginal_HC = log_clamped(marginal_HC)
    # In log space a probability of 0 raised to β < 1 has a finite gradient; in plain space its gradient is infinite.
    pair_HBC = student_log_probs_HBC.clamp_min(LOG_FLOOR) + teacher_log_probs_HBC.detach().clamp_min(LOG_FLOOR)
    score_HB = torch.logsumexp(beta * pair_HBC - log_marginal_HC[:, None, :], dim=2)
    return -(weights_B.detach() * score_HB).mean(dim=1)


def updated_marginal(marginal_HC: Tensor, batch_mean_HC: Tensor, momentum: float = 0.9) -> Tensor:
    """p̃ ← λ p̃ + (1 - λ) · batch mean of the teacher's probabilities, over both views and all ranks.

    Args:
        marginal_HC: p̃, initialized to 1/C.
        batch_mean_HC: mean over the whole batch, already averaged over ranks.
        momentum: λ, 0.9 in the authors' published settings.
    """
    return torch.lerp(batch_mean_HC.to(marginal_HC.dtype), marginal_HC, momentum)
