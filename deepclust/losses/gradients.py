"""The losses' gradients in closed form: what a training step uses in place of autograd.

With ℓ = log softmax of the log-odds, p = exp ℓ, and a score s = log Σ_c exp(β (ℓ_c + t_c) - o_c) whose softmax
responsibilities are r, the gradient of -w · s in the log-odds is w β (p - r), as every softmax's is. The entropy term
Σ_c k_c p_c, k = 1 + log q̂, adds p (k - Σ_c k_c p_c). So value and gradient come from one pass over the probabilities
and two temporaries of their size, where autograd records a dozen.

The pure functions of `temi.py`, `scan.py` and `tsp.py` are the definition; tests hold these to their autograd.

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepclust.losses.log_space import log_clamped

# Heads are taken in groups whose log-probabilities have at most so many elements: a few MB, which the temporaries of
# this file reuse while they are in cache. It bounds memory as well: no float32 tensor of all heads is ever made.
GROUP_ELEMENTS = 1 << 20


def head_groups(n_heads: int, n_rows: int, n_clusters: int) -> list[slice]:
    """Slices of heads whose (heads, rows, clusters) block stays within `GROUP_ELEMENTS`, one head at least."""
    size = max(1, GROUP_ELEMENTS // max(1, n_rows * n_clusters))
    return [slice(low, min(low + size, n_heads)) for low in range(0, n_heads, size)]


def agreement_gradient(
    log_probs_HBC: Tensor,
    other_log_probs_HBC: Tensor,
    *,
    power: float = 1.0,
    log_offset_HC: Tensor | None = None,
    weights_B: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """- mean_b w_b log Σ_c exp(β (ℓ + t) - o) for every head, its responsibilities and its gradient factor.

    Args:
        log_probs_HBC: ℓ.
        other_log_probs_HBC: t, of the other member of each pair.
        power: β.
        log_offset_HC: o.
        weights_B: w; None is 1.

    Returns:
        The loss (H,); the responsibilities r (H, B, C); and the factor w β / B, shaped to scale (H, B, C), such that
        `factor * (p - r)` is the gradient in the log-odds of ℓ.
    """
    score_HBC = log_probs_HBC + other_log_probs_HBC
    if power != 1:
        score_HBC.mul_(power)
    if log_offset_HC is not None:
        score_HBC.sub_(log_offset_HC[:, None, :])
    log_responsibilities_HBC = torch.log_softmax(score_HBC, dim=2)
    # log r = score - log Σ exp(score), so any column tells the sum.
    log_sum_HB = score_HBC[:, :, 0] - log_responsibilities_HBC[:, :, 0]
    responsibilities_HBC = log_responsibilities_HBC.exp_()
    n_pairs = log_probs_HBC.shape[1]
    if weights_B is None:
        factor = torch.full((1, 1, 1), power / n_pairs, dtype=log_sum_HB.dtype, device=log_sum_HB.device)
        return -log_sum_HB.mean(dim=1), responsibilities_HBC, factor
    return -(weights_B * log_sum_HB).mean(dim=1), responsibilities_HBC, weights_B[None, :, None] * (power / n_pairs)


def add_entropy_gradient(
    gradient_HBC: Tensor, probs_HBC: Tensor, mean_probs_HC: Tensor, entropy_weight: float
) -> Tensor:
    """Add the gradient of α Σ_c q̂ log q̂ in the log-odds of these probabilities; returns the value, (H,).

    Args:
        gradient_HBC: changed in place.
        probs_HBC: p; overwritten.
        mean_probs_HC: q̂ over the whole batch.
        entropy_weight: α.
    """
    log_mean_HC = log_clamped(mean_probs_HC)
    slope_HC = (1 + log_mean_HC) * (entropy_weight / probs_HBC.shape[1])
    inner_HB1 = torch.bmm(probs_HBC, slope_HC[:, :, None])
    gradient_HBC.addcmul_(probs_HBC, slope_HC[:, None, :])
    gradient_HBC.sub_(probs_HBC.mul_(inner_HB1))
    return entropy_weight * (mean_probs_HC * log_mean_HC).sum(dim=1)
