"""Log-space arithmetic that the losses share: finite values and gradients for probabilities of 0.

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

# exp(-80) is far below any probability that a softmax at these temperatures gives, and sums of two such logs
# still have their exponential inside float32's subnormal-free range after a log-sum-exp shift.
LOG_FLOOR = -80.0


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


def log_agreement(first_log_probs_HBC: Tensor, second_log_probs_HBC: Tensor) -> Tensor:
    """log Σ_c p(c) q(c), the log-probability that two draws agree; shape (H, B)."""
    pair_HBC = first_log_probs_HBC.clamp_min(LOG_FLOOR) + second_log_probs_HBC.clamp_min(LOG_FLOOR)
    return torch.logsumexp(pair_HBC, dim=2)


def negative_entropy(mean_probs_HC: Tensor, local_probs_HBC: Tensor) -> Tensor:
    """Σ_c q̂ log q̂ of a batch mean q̂ that may reach beyond the probabilities at hand, with the exact gradient.

    The value is that of q̂. The gradient into `local_probs_HBC` is the first-order term Σ_c (1 + log q̂_c) q_c, which
    is all that the gradient of a function of a mean consists of; so micro-batches and ranks that know q̂ add up to the
    gradient of the whole batch, without ever holding it.

    Args:
        mean_probs_HC: q̂, the mean over the whole batch; no gradient flows into it.
        local_probs_HBC: the part of the batch at hand. Its share of the batch is the caller's factor.

    Returns:
        Shape (H,), in nats.
    """
    mean_HC = mean_probs_HC.detach()
    log_mean_HC = log_clamped(mean_HC)
    local_mean_HC = local_probs_HBC.mean(dim=1)
    linear_HC = (1 + log_mean_HC) * (local_mean_HC - local_mean_HC.detach())
    return (mean_HC * log_mean_HC + linear_HC).sum(dim=1)
