"""IIC: invariant information clustering (Ji, Henriques & Vedaldi 2019).

    P_cd = mean over the pairs of p_c(x) p_d(x'), made symmetric
    L    = - Σ_cd P_cd · (log P_cd - λ log P_c - λ log P_d),   P_c = Σ_d P_cd

For λ = 1 it is minus the mutual information of the clusters of both members. There is no teacher: the gradient flows
through both. With A = λ (log P_c + log P_d) - log P_cd, it is A p(x') in the probabilities of x, over B.

Shape suffixes: H heads, B pairs, C and D clusters, V = C means of a batch, one for each row of the joint.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deepclust.losses.base import (
    BatchLook,
    Gradients,
    LogProbs,
    Probs,
    WithoutTeacher,
    check_pairs,
    joint_mean,
    log_clamped,
    product,
    through_softmax,
)
from deepclust.runtime.settings import setting


def iic_loss(
    anchor_log_probs_HBC: Tensor,
    neighbor_log_probs_HBC: Tensor,
    joint_CHD: Tensor,
    *,
    entropy_weight: float = 1.0,
) -> tuple[Tensor, Gradients]:
    """IIC for every head at once.

    Args:
        anchor_log_probs_HBC: log p of the samples.
        neighbor_log_probs_HBC: log p of one neighbor of each; the paper has an augmented view.
        joint_CHD: mean of p_c(x) p_d(x') over the whole batch, of which the pairs at hand may be a part, before it is
            made symmetric. The gradient is that through the mean all the same.
        entropy_weight: λ, how strongly uniform cluster sizes are favored. 1 in the paper.

    Returns:
        Loss per head, shape (H,), in nats; its gradients in the log-odds of both members of the pairs.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import torch
        >>> p = torch.eye(4)[None]  # four samples in four clusters, each with its neighbor
        >>> loss_H, _ = iic_loss(p.log(), p.log(), joint_mean(p, p))  # - log 4
        >>> loss_H
        tensor([-1.3863])
    """
    check_pairs(anchor_log_probs_HBC, neighbor_log_probs_HBC)
    n_pairs = anchor_log_probs_HBC.shape[1]
    joint_HCD = joint_CHD.movedim(0, 1)
    joint_HCD = (joint_HCD + joint_HCD.transpose(1, 2)) / 2
    log_marginal_HC = log_clamped(joint_HCD.sum(dim=2))
    # What the clamp changes is multiplied with a probability of 0.
    slope_HCD = (log_marginal_HC[:, :, None] + log_marginal_HC[:, None, :]).mul_(entropy_weight)
    slope_HCD.sub_(log_clamped(joint_HCD))
    loss_H = (joint_HCD * slope_HCD).sum(dim=(1, 2))
    slope_HCD.div_(n_pairs)
    anchors_HBC, neighbors_HBC = anchor_log_probs_HBC.exp(), neighbor_log_probs_HBC.exp()
    return loss_H, Gradients(
        through_softmax(product(neighbors_HBC, slope_HCD), anchors_HBC),
        through_softmax(product(anchors_HBC, slope_HCD), neighbors_HBC),
    )


@dataclass(frozen=True)
class IIC(WithoutTeacher):
    """`iic_loss` of the batch's joint. The batch wants to be well above C², as the joint has as many entries.

    Args:
        entropy_weight: λ, 1 in the paper and its code.

    Raises:
        InputError: if λ is negative.

    Example:
        >>> import torch
        >>> student = LogProbs(*torch.randn(2, 1, 8, 4).log_softmax(dim=3))
        >>> loss = IIC()
        >>> loss_H, gradients = loss.gradient(student, student, loss.look(student.exp()))
        >>> loss_H.shape, gradients.neighbors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    entropy_weight: float = setting(1.0, "λ, how strongly uniform cluster sizes are favored", at_least=0)

    name = "iic"
    title = "IIC"

    def means(self, n_clusters: int) -> int:
        return n_clusters

    def of_student(self, student: LogProbs, mean_VHC: Tensor) -> tuple[Tensor, Gradients]:
        return iic_loss(*student, mean_VHC, entropy_weight=self.entropy_weight)

    def look(self, probs: Probs) -> BatchLook:
        """The joint of both members."""
        joint_CHD = joint_mean(*probs)
        return BatchLook(joint_CHD, joint_CHD.new_ones(probs.anchors.shape[1]))
