"""I-Con: debiased InfoNCE clustering (Alshammari et al. 2025, section 4).

Which sample j goes with sample i is a distribution twice: p̃ as the neighbor graph has it, q as the clusters have it.

    L       = mean_i KL(p̃(·|i) ‖ q(·|i)), but for the entropy of p̃
    p̃(j|i)  = (1 - α) p(j|i) + α / N,         p even over i's neighbors and over short walks on their graph
    q(j|i)  = Σ_c p(c|i) p(c|j) / (N m_c),    m_c = mean_k p(c|k): what i's clusters hold, shared out evenly
    q̃(j|i)  = (1 - α_q) q(j|i) + α_q / N      in place of q, where the learned distribution is debiased, too

The sum over all N samples j is never taken: j is drawn from p̃, a neighbor or, with probability α, any sample at all, so
the mean over the pairs, - log((1 - α_q) S + α_q) with S = Σ_c p_c(i) p_c(j) / m_c, is that of L and exact in parts.

There is no teacher: the gradient flows through both members and through m. With r the softmax of log(p_i p_j / m),
w = (1 - α_q) S / ((1 - α_q) S + α_q) and g = mean(w r) / m, it is w (p_i - r) + p_i (g - Σ_c g_c p_i,c) in the log-odds
of i, and w (p_j - r) in those of j, over B. g is known once m is, so the batch is looked at twice.

Shape suffixes: H heads, B pairs, C clusters, V = 2 means of a batch: m, and the mean of w r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from deepclust.losses.base import (
    BatchLook,
    Gradients,
    LogProbs,
    Loss,
    Probs,
    check_pairs,
    log_clamped,
    log_sum_and_shares,
    through_softmax,
)
from deepclust.losses.tsp import TSP
from deepclust.runtime.settings import setting


def shared_likelihood(pairs: LogProbs, mean_HC: Tensor, alpha_learned: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of every pair log N q̃, (H, B); w, (H, B, 1); and r, each cluster's share of S, (H, B, C)."""
    log_s_HB, shares_HBC = log_sum_and_shares(pairs.anchors + pairs.neighbors - log_clamped(mean_HC)[:, None, :])
    if alpha_learned == 0:
        return log_s_HB, torch.ones_like(log_s_HB)[..., None], shares_HBC
    log_odds_HB = log_s_HB + math.log((1 - alpha_learned) / alpha_learned)
    log_likelihood_HB = math.log(alpha_learned) - functional.logsigmoid(-log_odds_HB)
    return log_likelihood_HB, torch.sigmoid(log_odds_HB)[..., None], shares_HBC


def icon_loss(pairs: LogProbs, means_VHC: Tensor, *, alpha_learned: float = 0.0) -> tuple[Tensor, Gradients]:
    """I-Con for every head at once.

    Args:
        pairs: log-probabilities of the samples, and of one other of each, drawn from p̃.
        means_VHC: over the whole batch, of which the pairs at hand may be a part: m over the samples, and the mean of
            w r. The gradient is that through m all the same.
        alpha_learned: α_q; 0 leaves q as it is.

    Returns:
        Loss per head, shape (H,), in nats, without the entropy of p̃; its gradients in the log-odds of both members of
        the pairs.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> p = torch.eye(4)[None].log()  # four samples in four clusters, each with itself
        >>> loss_H, _ = icon_loss(LogProbs(p, p), torch.full((2, 1, 4), 0.25))
        >>> loss_H  # - log 4: each is four times as likely as any sample
        tensor([-1.3863])
    """
    check_pairs(*pairs)
    n_pairs = pairs.anchors.shape[1]
    mean_HC, pull_HC = means_VHC
    log_likelihood_HB, weights_HB1, shares_HBC = shared_likelihood(pairs, mean_HC, alpha_learned)
    probs = pairs.exp()
    slope_HC = pull_HC / mean_HC.clamp_min(torch.finfo(mean_HC.dtype).tiny)
    anchors_HBC = through_softmax(slope_HC[:, None, :].expand_as(shares_HBC).clone(), probs.anchors)
    anchors_HBC.addcmul_(probs.anchors - shares_HBC, weights_HB1)
    neighbors_HBC = (probs.neighbors - shares_HBC).mul_(weights_HB1)
    return -log_likelihood_HB.mean(dim=1), Gradients(anchors_HBC.div_(n_pairs), neighbors_HBC.div_(n_pairs))


@dataclass(frozen=True)
class ICon(Loss):
    """`icon_loss` of the samples and of one other of each, drawn from p̃.

    Args:
        alpha: α, 0.6 to 0.8 in the paper.
        alpha_learned: α_q; the paper's best has α here, too, 0 leaves q as it is.
        walk: how many further steps a neighbor may be away; 1 in the paper.

    Raises:
        InputError: if a setting is out of range.

    Example:
        >>> student = LogProbs(*torch.randn(2, 1, 8, 4).log_softmax(dim=3))
        >>> loss = ICon()
        >>> means_VHC = loss.look_again(student.exp(), loss.look(student.exp()).mean_VHC).mean_VHC
        >>> loss_H, gradients = loss.gradient(student, student, BatchLook(means_VHC, torch.ones(8)))
        >>> loss_H.shape, gradients.neighbors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    alpha: float = setting(
        0.6, "α, the share of pairs that are of any two samples instead of neighbors", at_least=0, below=1
    )
    alpha_learned: float = setting(
        0.6, "α_q, the same share in the clusters' distribution; 0 leaves it as it is", at_least=0, below=1
    )
    walk: int = setting(
        1,
        "up to so many further steps from neighbor to neighbor, each number equally often",
        at_least=0,
        at_most=10,
        whole=True,
    )

    name = "icon"
    title = "I-Con"
    # A linear head as in the paper, with TSP's optimizer. Its batch of 4096 is for 1000 clusters.
    trained_with = MappingProxyType({**TSP.trained_with, "batch_size": 1024})
    uses_teacher = False
    n_means = 2

    @property
    def n_looks(self) -> int:
        return 2

    @property
    def random_share(self) -> float:
        return self.alpha

    @property
    def walk_steps(self) -> int:
        return self.walk

    def look(self, probs: Probs) -> BatchLook:
        """m; the mean of w r is 0 so far."""
        mean_HC = probs.anchors.mean(dim=1)
        return BatchLook(torch.stack([mean_HC, torch.zeros_like(mean_HC)]), mean_HC.new_ones(probs.anchors.shape[1]))

    def look_again(self, probs: Probs, mean_VHC: Tensor) -> BatchLook:
        """The mean of w r, beside m."""
        pairs = LogProbs(*(log_clamped(view) for view in probs))
        _, weights_HB1, shares_HBC = shared_likelihood(pairs, mean_VHC[0], self.alpha_learned)
        means_VHC = torch.stack([mean_VHC[0], (shares_HBC * weights_HB1).mean(dim=1)])
        return BatchLook(means_VHC, means_VHC.new_ones(probs.anchors.shape[1]))

    def gradient(
        self, student: LogProbs, teacher: LogProbs, batch: BatchLook, scale: float = 1.0
    ) -> tuple[Tensor, Gradients]:
        """As `Loss.gradient`; the student is its own teacher, and so `teacher` is not read."""
        loss_H, gradients = icon_loss(student, batch.mean_VHC, alpha_learned=self.alpha_learned)
        return loss_H, Gradients(gradients.anchors.mul_(scale), gradients.neighbors.mul_(scale))
