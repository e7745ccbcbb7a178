"""TSP: one network, Gaussian-weighted neighbors (Zhou & Zhang 2022, eqs. 4 and 5).

    L           = - mean_i log ⟨p(x_i), p(x_j)⟩ - λ H(mean_i p(x_i)),   x_j drawn from P(·|x_i)
    P(x_j|x_i)  ∝ exp(-‖z_i - z_j‖² / 2σ_i²) over the K nearest neighbors of x_i

There is no teacher: the gradient flows through both members of a pair. With r the softmax over c of log(p_i p_j), and
k = λ (1 + log of the mean), it is (p_i - r) + p_i (k - Σ_c k_c p_i,c) in the log-odds of x_i, and p_j - r in those of
x_j, over B.

Shape suffixes: H heads, B pairs, C clusters, V = 1 mean of a batch, N samples, K neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from torch import Tensor

from deepclust.losses.base import (
    BatchLook,
    Gradients,
    LogProbs,
    Probs,
    WithoutTeacher,
    check_pairs,
    log_sum_and_shares,
    negative_entropy,
)
from deepclust.losses.prior import UNIFORM, check_prior, log_prior, prior_setting
from deepclust.runtime.settings import setting


def tsp_loss(
    anchor_log_probs_HBC: Tensor,
    neighbor_log_probs_HBC: Tensor,
    mean_HC: Tensor,
    *,
    entropy_weight: float = 3.0,
    prior: str = UNIFORM,
) -> tuple[Tensor, Gradients]:
    """TSP for every head at once.

    Args:
        anchor_log_probs_HBC: log p(x_i) of the samples.
        neighbor_log_probs_HBC: log p(x_j) of one neighbor of each, drawn by `gaussian_neighbor_weights`.
        mean_HC: mean of p(x_i) over the whole batch, of which the pairs at hand may be a part. The gradient is that
            through the mean all the same.
        entropy_weight: λ, 3 in the paper.
        prior: π, see `losses/prior.py`; equal sizes in the paper.

    Returns:
        Loss per head, shape (H,), in nats; its gradients in the log-odds of both members of the pairs.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import torch
        >>> p = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]).log()
        >>> loss_H, _ = tsp_loss(p, p, p.exp().mean(dim=1), entropy_weight=1.0)
        >>> loss_H
        tensor([0.])
    """
    check_pairs(anchor_log_probs_HBC, neighbor_log_probs_HBC)
    n_pairs = anchor_log_probs_HBC.shape[1]
    log_agreement_HB, shares_HBC = log_sum_and_shares(anchor_log_probs_HBC + neighbor_log_probs_HBC)
    neighbors_HBC = neighbor_log_probs_HBC.exp().sub_(shares_HBC).mul_(1 / n_pairs)
    probs_HBC = anchor_log_probs_HBC.exp()
    entropy_H, anchors_HBC = negative_entropy(mean_HC, probs_HBC, entropy_weight, log_prior(prior, mean_HC))
    anchors_HBC.add_(probs_HBC.sub_(shares_HBC), alpha=1 / n_pairs)
    return entropy_H - log_agreement_HB.mean(dim=1), Gradients(anchors_HBC, neighbors_HBC)


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


@dataclass(frozen=True)
class TSP(WithoutTeacher):
    """`tsp_loss`: the student alone, on neighbors drawn with Gaussian weights.

    Args:
        entropy_weight: λ, 3 in the paper.
        prior: π, the sizes that clusters are asked to have; equal ones in the paper.

    Raises:
        InputError: if a setting is out of range.

    Example:
        >>> import torch
        >>> student = LogProbs(*torch.randn(2, 1, 8, 4).log_softmax(dim=3))
        >>> loss = TSP()
        >>> loss_H, gradients = loss.gradient(student, student, loss.look(student.exp()))
        >>> loss_H.shape, gradients.neighbors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    entropy_weight: float = setting(3.0, "λ, how strongly cluster sizes of `prior` are favored", at_least=0)
    prior: str = prior_setting()

    name = "tsp"
    title = "TSP"
    # A linear head, as the paper argues for, with Adam and B = 256; one map may learn faster than the paper's 1e-4.
    trained_with = MappingProxyType(
        {
            "head": "linear",
            "temperature": 1.0,
            "batch_size": 256,
            "optimizer": "adam",
            "learning_rate": 1e-2,
            "weight_decay": 0.0,
            "freeze_prototypes_epochs": 0,
        }
    )
    gaussian_pairs = True

    def of_student(self, student: LogProbs, mean_VHC: Tensor) -> tuple[Tensor, Gradients]:
        return tsp_loss(*student, mean_VHC[0], entropy_weight=self.entropy_weight, prior=self.prior)

    def check(self, n_clusters: int) -> None:
        check_prior(self.prior, n_clusters)

    def look(self, probs: Probs) -> BatchLook:
        """The mean over the samples, without their neighbors."""
        return BatchLook.of_one_view(probs.anchors)
