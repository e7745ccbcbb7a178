"""Self-Classifier: one network, two softmaxes (Amrani, Karlinsky & Bronstein 2022).

With s the logits, both softmaxes of both views, symmetrised over (x, x') and (x', x):

    L(x, x')  = - mean_i Σ_c t_c(x'_i) log u_c(x_i)
    u_c(x_i)  = (B / C) · p_c(x_i) / Σ_j p_c(x_j),              p = softmax over the clusters of s / τ_row
    t_c(x'_i) = e_c(x'_i) / Σ_d e_d(x'_i),                      e_c = softmax over the samples of s_c / τ_col

Equal clusters are the only prior, so nothing collapses and nothing is weighed. The gradient flows through both u and
t. With a = s / τ_row, κ = τ_row / τ_col, m = mean of p, Z = mean of exp(κ a), T = mean of t, and
h = t (g - Σ_c t_c g_c) for g = - log u, it is, over B,

    p - t + p (T/m - Σ_c p_c T_c/m_c)          in a of x, through u
    κ (h - mean(h) · exp(κ a) / Z)             in a of x', through t

T and the mean of h are known once m and Z are, so the batch is looked at twice.

Shape suffixes: H heads, B pairs, C clusters, V = 8 means of a batch: m, Z, T and the mean of h, of each view; W = 2 H
heads, those on x, then those on x'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from deepclust.losses.base import (
    BatchLook,
    Gradients,
    LogProbs,
    Loss,
    Probs,
    check_pairs,
    log_clamped,
    through_softmax,
)
from deepclust.runtime.settings import setting


def column_exponentials(log_odds_HBC: Tensor, sharpness: float) -> Tensor:
    """exp(κ a), before it is divided by its sum over the samples."""
    return (log_odds_HBC * sharpness).exp_()


def row_log_probs(log_odds_HBC: Tensor, mean_HC: Tensor) -> Tensor:
    """log u: the softmax over the clusters, every cluster scaled to its equal share of the samples."""
    n_clusters = log_odds_HBC.shape[2]
    log_probs_HBC = torch.log_softmax(log_odds_HBC, dim=2)
    return log_probs_HBC.sub_(log_clamped(mean_HC)[:, None, :] + math.log(n_clusters))


def targets(log_odds_HBC: Tensor, column_mean_HC: Tensor, sharpness: float) -> Tensor:
    """t: the softmax over the samples, every sample's shares scaled to a sum of 1."""
    return torch.softmax(log_odds_HBC * sharpness - log_clamped(column_mean_HC)[:, None, :], dim=2)


def target_slopes(targets_HBC: Tensor, row_log_probs_HBC: Tensor) -> Tensor:
    """h: the gradient in log t before its softmax over the samples."""
    return through_softmax(-row_log_probs_HBC, targets_HBC)


def self_classifier_loss(
    predicted_log_odds_HBC: Tensor,
    target_log_odds_HBC: Tensor,
    means_VHC: Tensor,
    *,
    sharpness: float = 2.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of Self-Classifier for every head at once: u of one member of each pair, t of the other.

    Args:
        predicted_log_odds_HBC: logits over τ_row of the members that are predicted.
        target_log_odds_HBC: those of the others, of which the targets are made.
        means_VHC: over the whole batch, of which the pairs at hand may be a part: m of the first, Z, T and the mean of
            h of the second.
        sharpness: κ, τ_row over τ_col. 0.1 over 0.05 in the paper.

    Returns:
        Loss per head, shape (H,), in nats; its gradients in the log-odds of both, (H, B, C).

    Raises:
        ValueError: if the shapes differ.
    """
    check_pairs(predicted_log_odds_HBC, target_log_odds_HBC)
    n_pairs = predicted_log_odds_HBC.shape[1]
    mean_HC, column_mean_HC, target_mean_HC, slope_mean_HC = means_VHC
    log_u_HBC = row_log_probs(predicted_log_odds_HBC, mean_HC)
    targets_HBC = targets(target_log_odds_HBC, column_mean_HC, sharpness)
    loss_H = -(targets_HBC * log_u_HBC).sum(dim=2).mean(dim=1)

    probs_HBC = torch.softmax(predicted_log_odds_HBC, dim=2)
    smallest = torch.finfo(mean_HC.dtype).tiny
    ratio_HBC = (target_mean_HC / mean_HC.clamp_min(smallest))[:, None, :].expand_as(probs_HBC)
    predicted_HBC = through_softmax(ratio_HBC.clone(), probs_HBC).add_(probs_HBC).sub_(targets_HBC)

    column_mean_H1C = column_mean_HC.clamp_min(smallest)[:, None, :]
    shares_HBC = column_exponentials(target_log_odds_HBC, sharpness).div_(column_mean_H1C)
    target_HBC = target_slopes(targets_HBC, log_u_HBC).addcmul_(shares_HBC, slope_mean_HC[:, None, :], value=-1)
    return loss_H, predicted_HBC.div_(n_pairs), target_HBC.mul_(sharpness / n_pairs)


@dataclass(frozen=True)
class SelfClassifier(Loss):
    """`self_classifier_loss` both ways.

    The exponentials over the samples are taken of the logits as they are: a head of cosines, as the paper's and `mlp`,
    keeps them in range.

    Args:
        sharpness: κ, 2 as in the paper (τ_row = 0.1, which is the recipe's `temperature`; τ_col = 0.05).

    Raises:
        InputError: if κ is not above 0.

    Example:
        >>> log_odds = LogProbs(*torch.randn(2, 1, 8, 4))
        >>> loss = SelfClassifier()
        >>> means_VHC = loss.look_again(log_odds, loss.look(log_odds).mean_VHC).mean_VHC
        >>> loss_H, gradients = loss.gradient(log_odds, log_odds, BatchLook(means_VHC, torch.ones(8)))
        >>> loss_H.shape, gradients.neighbors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    sharpness: float = setting(2.0, "κ, the temperature over clusters divided by that over samples", above=0)

    name = "self_classifier"
    title = "Self-Classifier"
    trained_with = MappingProxyType({"freeze_prototypes_epochs": 0})
    uses_teacher = False
    reads_log_odds = True
    n_means = 8

    @property
    def n_looks(self) -> int:
        return 2

    def look(self, probs: Probs) -> BatchLook:
        """m and Z of each view; T and the mean of h are 0 so far."""
        views_WBC = torch.cat(probs)
        rows_WC = torch.softmax(views_WBC, dim=2).mean(dim=1)
        columns_WC = column_exponentials(views_WBC, self.sharpness).mean(dim=1)
        zeros_WC = torch.zeros_like(rows_WC)
        return self._look(rows_WC, columns_WC, zeros_WC, zeros_WC, n_pairs=probs.anchors.shape[1])

    def look_again(self, probs: Probs, mean_VHC: Tensor) -> BatchLook:
        """T and the mean of h of each view, beside what is known."""
        rows_WC, columns_WC = mean_VHC[:4].unflatten(0, (2, 2)).flatten(1, 2)
        targets_WBC = targets(torch.cat(probs), columns_WC, self.sharpness)
        predicted_WBC = row_log_probs(torch.cat(probs[::-1]), other_view(rows_WC))
        target_mean_WC = targets_WBC.mean(dim=1)
        slope_mean_WC = target_slopes(targets_WBC, predicted_WBC).mean(dim=1)
        return self._look(rows_WC, columns_WC, target_mean_WC, slope_mean_WC, n_pairs=probs.anchors.shape[1])

    def _look(self, *means_WC: Tensor, n_pairs: int) -> BatchLook:
        means_VHC = torch.stack(means_WC).unflatten(1, (2, -1)).flatten(0, 1)
        return BatchLook(means_VHC, means_VHC.new_ones(n_pairs))

    def gradient(
        self, student: LogProbs, teacher: LogProbs, batch: BatchLook, scale: float = 1.0
    ) -> tuple[Tensor, Gradients]:
        """As `Loss.gradient`, of log-odds; the student is its own teacher, and so `teacher` is not read."""
        of_rows_WC, *of_targets_WC = batch.mean_VHC.unflatten(0, (4, 2)).flatten(1, 2)
        means_VWC = torch.stack([of_rows_WC, *map(other_view, of_targets_WC)])
        loss_W, predicted_WBC, target_WBC = self_classifier_loss(
            torch.cat(student), torch.cat(student[::-1]), means_VWC, sharpness=self.sharpness
        )
        gradient_WBC = predicted_WBC.add_(other_view(target_WBC)).mul_(scale / 2)
        return loss_W.unflatten(0, (2, -1)).mean(dim=0), Gradients(*gradient_WBC.chunk(2))


def other_view(both: Tensor) -> Tensor:
    """What belongs to x' where that of x was, and the other way round."""
    return both.roll(len(both) // 2, dims=0)
