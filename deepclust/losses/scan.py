"""SCANv2: the semantic clustering loss in the self-distillation framework (Adaloglou et al. 2024, eq. 2).

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

from torch import Tensor

from deepclust.losses.log_space import check_pairs, log_agreement, negative_entropy


def scan_loss(
    student_log_probs_HBC: Tensor,
    teacher_log_probs_HBC: Tensor,
    mean_probs_HC: Tensor | None = None,
    *,
    entropy_weight: float = 5.0,
) -> Tensor:
    """One direction of the SCANv2 loss for every head at once: the student on x', the teacher on x.

        L_i = - mean_b log Σ_c q_t^i(c|x_b) · q_s^i(c|x'_b)  +  α Σ_c q̂_s^i(c) log q̂_s^i(c)

    Args:
        student_log_probs_HBC: student log-probabilities of one member of each pair.
        teacher_log_probs_HBC: teacher log-probabilities of the other; no gradient flows into them.
        mean_probs_HC: q̂_s, the student's mean over the whole batch where the pairs at hand are only a part of it (a
            micro-batch, one rank); the gradient stays exact. None: the pairs at hand are the batch.
        entropy_weight: α, how strongly uniform cluster sizes are favored. 5 in the paper.

    Returns:
        Loss per head, shape (H,), in nats.

    Raises:
        ValueError: if the shapes differ.
    """
    check_pairs(student_log_probs_HBC, teacher_log_probs_HBC)
    consistency_H = -log_agreement(student_log_probs_HBC, teacher_log_probs_HBC.detach()).mean(dim=1)
    probs_HBC = student_log_probs_HBC.exp()
    mean_HC = probs_HBC.mean(dim=1) if mean_probs_HC is None else mean_probs_HC
    return consistency_H + entropy_weight * negative_entropy(mean_HC, probs_HBC)
