"""PICA: partition confidence maximisation (Huang, Gong & Zhu 2020).

A cluster's assignment vector is its column of the batch's probabilities: a over the samples, b over their neighbors.

    L = - (1/C) Σ_c log softmax_d(cos(a_c, b_d))_c  +  λ (log C - H(mean_i p(x_i)))

There is no teacher: the gradient flows through both members. Cosines are of the means over the batch of p_c(x) p_d(x'),
p_c(x)² and p_d(x')², so pairs know the gradient once they know these.

Shape suffixes: H heads, B pairs, C and D clusters, V = C + 3 means of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deepclust.losses.base import (
    BatchLook,
    Gradients,
    LogProbs,
    Probs,
    WithoutTeacher,
    check_pairs,
    joint_mean,
    negative_entropy,
    product,
    through_softmax,
)
from deepclust.runtime.settings import setting

# Mean squares below it count as it: the square of what `torch.nn.functional.normalize` takes for the shortest length.
SHORTEST_SQUARED = 1e-24
# Means beside the joint: of the samples' probabilities, of their squares, and of the neighbors' squares.
BESIDE = 3


def columns_of(probs: Probs) -> Tensor:
    """(C + 3, H, C) what the pairs at hand tell of the batch's columns: the joint, a mean, two mean squares."""
    anchors, neighbors = probs
    others = [anchors.mean(dim=1), anchors.square().mean(dim=1), neighbors.square().mean(dim=1)]
    return torch.cat([joint_mean(anchors, neighbors), torch.stack(others)])


def column_confusion(probs: Probs, columns_VHC: Tensor) -> tuple[Tensor, Gradients]:
    """- (1/C) Σ_c log softmax_d(cos(a_c, b_d))_c: how badly each cluster's column is told from the others.

    With W = (softmax - 1 on the diagonal) / C the gradient in the cosines, and a scaled to length 1, that in a sample's
    p_c is (Σ_d W_cd p'_d / ‖b_d‖ - p_c / ‖a_c‖ Σ_d W_cd cos_cd) / ‖a_c‖.

    Args:
        probs: of the pairs at hand.
        columns_VHC: `columns_of` the whole batch.

    Returns:
        The value (H,), and its gradients in the log-odds of both members, over the number of pairs at hand.
    """
    n_pairs, n_clusters = probs.anchors.shape[1:]
    joint_HCD = columns_VHC[:n_clusters].movedim(0, 1)
    own_HC, other_HD = columns_VHC[n_clusters + 1 :].clamp_min(SHORTEST_SQUARED).rsqrt()
    cosines_HCD = joint_HCD * own_HC[:, :, None] * other_HD[:, None, :]
    log_shares_HCD = torch.log_softmax(cosines_HCD, dim=2)
    value_H = -log_shares_HCD.diagonal(dim1=1, dim2=2).mean(dim=1)
    slope_HCD = log_shares_HCD.exp_()
    slope_HCD.diagonal(dim1=1, dim2=2).sub_(1)
    slope_HCD.div_(n_clusters * n_pairs)
    along_HCD = cosines_HCD.mul_(slope_HCD)
    own_along_HC, other_along_HD = along_HCD.sum(dim=2), along_HCD.sum(dim=1)
    slope_HCD.mul_(own_HC[:, :, None]).mul_(other_HD[:, None, :])
    anchors_HBC = product(probs.neighbors, slope_HCD.transpose(1, 2))
    anchors_HBC.addcmul_(probs.anchors, (own_along_HC * own_HC.square())[:, None, :], value=-1)
    neighbors_HBC = product(probs.anchors, slope_HCD)
    neighbors_HBC.addcmul_(probs.neighbors, (other_along_HD * other_HD.square())[:, None, :], value=-1)
    return value_H, Gradients(
        through_softmax(anchors_HBC, probs.anchors), through_softmax(neighbors_HBC, probs.neighbors)
    )


def pica_loss(
    anchor_log_probs_HBC: Tensor,
    neighbor_log_probs_HBC: Tensor,
    columns_VHC: Tensor,
    *,
    entropy_weight: float = 2.0,
) -> tuple[Tensor, Gradients]:
    """PICA for every head at once.

    Args:
        anchor_log_probs_HBC: log p of the samples.
        neighbor_log_probs_HBC: log p of one neighbor of each; the paper has an augmented view.
        columns_VHC: `columns_of` the whole batch, of which the pairs at hand may be a part. The gradient is that
            through them all the same.
        entropy_weight: λ, how strongly uniform cluster sizes are favored. 2 in the paper.

    Returns:
        Loss per head, shape (H,), in nats; its gradients in the log-odds of both members of the pairs.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> p = torch.eye(4)[None]  # four samples in four clusters, each with its neighbor
        >>> loss_H, _ = pica_loss(p.log(), p.log(), columns_of(Probs(p, p)))
        >>> loss_H  # log(e + 3) - 1: cosines have no temperature
        tensor([0.7437])
    """
    check_pairs(anchor_log_probs_HBC, neighbor_log_probs_HBC)
    probs = LogProbs(anchor_log_probs_HBC, neighbor_log_probs_HBC).exp()
    n_clusters = probs.anchors.shape[2]
    confusion_H, gradients = column_confusion(probs, columns_VHC)
    entropy_H, balance_HBC = negative_entropy(columns_VHC[n_clusters], probs.anchors, entropy_weight)
    loss_H = confusion_H + entropy_H + entropy_weight * math.log(n_clusters)
    return loss_H, Gradients(balance_HBC.add_(gradients.anchors), gradients.neighbors)


@dataclass(frozen=True)
class PICA(WithoutTeacher):
    """`pica_loss` of the batch's columns.

    Args:
        entropy_weight: λ, 2 in the paper and its code.

    Raises:
        InputError: if λ is negative.

    Example:
        >>> student = LogProbs(*torch.randn(2, 1, 8, 4).log_softmax(dim=3))
        >>> loss = PICA()
        >>> loss_H, gradients = loss.gradient(student, student, loss.look(student.exp()))
        >>> loss_H.shape, gradients.neighbors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    entropy_weight: float = setting(2.0, "λ, how strongly uniform cluster sizes are favored", at_least=0)

    name = "pica"
    title = "PICA"

    def means(self, n_clusters: int) -> int:
        return n_clusters + BESIDE

    def of_student(self, student: LogProbs, mean_VHC: Tensor) -> tuple[Tensor, Gradients]:
        return pica_loss(*student, mean_VHC, entropy_weight=self.entropy_weight)

    def look(self, probs: Probs) -> BatchLook:
        """The batch's columns."""
        columns_VHC = columns_of(probs)
        return BatchLook(columns_VHC, columns_VHC.new_ones(probs.anchors.shape[1]))
