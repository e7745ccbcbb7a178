"""TSP: one network, Gaussian-weighted neighbors (Zhou & Zhang 2022, eqs. 4 and 5).

Shape suffixes: H heads, B pairs, C clusters, N samples, K neighbors.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from deepclust.losses.log_space import check_pairs, log_agreement, negative_entropy


def tsp_loss(
    anchor_log_probs_HBC: Tensor,
    neighbor_log_probs_HBC: Tensor,
    mean_probs_HC: Tensor | None = None,
    *,
    entropy_weight: float = 3.0,
) -> Tensor:
    """The TSP loss for every head at once; the gradient flows through both members of a pair.

        L = - mean_i log ⟨p(x_i), p(x_j)⟩ - λ H(mean_i p(x_i)),   x_j drawn from the Gaussian neighbor weights

    Args:
        anchor_log_probs_HBC: log-probabilities of the samples x_i.
        neighbor_log_probs_HBC: log-probabilities of one neighbor x_j of each, drawn by `gaussian_neighbor_weights`.
        mean_probs_HC: mean of p(x_i) over the whole batch where the pairs at hand are only a part of it. None: they
            are the batch.
        entropy_weight: λ, 3 in the paper.

    Returns:
        Loss per head, shape (H,), in nats.

    Raises:
        ValueError: if the shapes differ.
    """
    check_pairs(anchor_log_probs_HBC, neighbor_log_probs_HBC)
    consistency_H = -log_agreement(anchor_log_probs_HBC, neighbor_log_probs_HBC).mean(dim=1)
    probs_HBC = anchor_log_probs_HBC.exp()
    mean_HC = probs_HBC.mean(dim=1) if mean_probs_HC is None else mean_probs_HC
    return consistency_H + entropy_weight * negative_entropy(mean_HC, probs_HBC)


def gaussian_neighbor_weights(squared_distances_NK: np.ndarray) -> np.ndarray:
    """P(x_j|x_i) ∝ exp(-‖z_i - z_j‖² / 2σ_i²) over the K neighbors of i, σ_i = ½ ‖z_i - z_(3rd neighbor)‖ (eq. 4).

    Where the third neighbor is an exact duplicate (σ = 0) the duplicates share the weight equally, which is the
    limit of the formula.

    Args:
        squared_distances_NK: squared Euclidean distances in latent space, nearest first.

    Returns:
        (N, K) float32, rows sum to 1.
    """
    squared = np.asarray(squared_distances_NK, dtype=np.float64)
    third = np.sort(squared, axis=1)[:, min(2, squared.shape[1] - 1)]
    two_sigma_squared = np.maximum(third / 2, 1e-12)
    # Shifting by the nearest distance changes no ratio and keeps the largest weight from underflowing.
    exponent = -(squared - squared.min(axis=1, keepdims=True)) / two_sigma_squared[:, None]
    weights = np.exp(exponent)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
