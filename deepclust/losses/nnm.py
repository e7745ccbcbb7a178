"""NNM: nearest neighbor matching (Dang et al. 2021).

Every sample makes two pairs: with one of its neighbors among all samples (global), and with the nearest of its batch
(local). Over both kinds of pairs together, as in the authors' published code:

    L = - mean log ⟨p(x), p(x')⟩  -  (1/C) Σ_c log softmax_d(cos(a_c, b_d))_c  -  λ H(mean p(x))

the first of SCAN, the second of PICA, over the columns a of the samples and b of their partners. The gradient flows
through both members.

Shape suffixes: H heads, B pairs, C clusters, V = C + 3 means of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deepclust.losses.base import BatchLook, Gradients, LogProbs, Probs, WithoutTeacher
from deepclust.losses.pica import BESIDE, column_confusion, columns_of
from deepclust.losses.tsp import tsp_loss
from deepclust.runtime.settings import setting


def nnm_loss(
    anchor_log_probs_HBC: Tensor,
    neighbor_log_probs_HBC: Tensor,
    columns_VHC: Tensor,
    *,
    entropy_weight: float = 5.0,
) -> tuple[Tensor, Gradients]:
    """NNM for every head at once.

    Args:
        anchor_log_probs_HBC: log p of the samples, each of which is there twice.
        neighbor_log_probs_HBC: log p of their partners, global ones and local ones.
        columns_VHC: `columns_of` the whole batch, of which the pairs at hand may be a part. The gradient is that
            through them all the same.
        entropy_weight: λ, how strongly uniform cluster sizes are favored. 5 in the authors' published settings.

    Returns:
        Loss per head, shape (H,), in nats; its gradients in the log-odds of both members of the pairs.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import torch
        >>> log_p = torch.log_softmax(100 * torch.eye(4)[None], dim=2)  # four samples in four clusters, sure
        >>> loss_H, _ = nnm_loss(log_p, log_p, columns_of(Probs(log_p.exp(), log_p.exp())), entropy_weight=0.0)
        >>> loss_H
        tensor([0.7437])
    """
    mean_HC = columns_VHC[anchor_log_probs_HBC.shape[2]]
    loss_H, matched = tsp_loss(anchor_log_probs_HBC, neighbor_log_probs_HBC, mean_HC, entropy_weight=entropy_weight)
    probs = LogProbs(anchor_log_probs_HBC, neighbor_log_probs_HBC).exp()
    confusion_H, gradients = column_confusion(probs, columns_VHC)
    return loss_H + confusion_H, Gradients(
        gradients.anchors.add_(matched.anchors), gradients.neighbors.add_(matched.neighbors)
    )


@dataclass(frozen=True)
class NNM(WithoutTeacher):
    """`nnm_loss` over global and local pairs.

    Args:
        entropy_weight: λ, 5 in the authors' published settings.

    Raises:
        InputError: if λ is negative.

    Example:
        >>> import torch
        >>> student = LogProbs(*torch.randn(2, 1, 8, 4).log_softmax(dim=3))
        >>> loss = NNM()
        >>> loss_H, gradients = loss.gradient(student, student, loss.look(student.exp()))
        >>> loss_H.shape, gradients.neighbors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    entropy_weight: float = setting(5.0, "λ, how strongly uniform cluster sizes are favored", at_least=0)

    name = "nnm"
    title = "NNM"
    local_pairs = True

    def means(self, n_clusters: int) -> int:
        return n_clusters + BESIDE

    def of_student(self, student: LogProbs, mean_VHC: Tensor) -> tuple[Tensor, Gradients]:
        return nnm_loss(*student, mean_VHC, entropy_weight=self.entropy_weight)

    def look(self, probs: Probs) -> BatchLook:
        """The batch's columns."""
        columns_VHC = columns_of(probs)
        return BatchLook(columns_VHC, columns_VHC.new_ones(probs.anchors.shape[1]))
