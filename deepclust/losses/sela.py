"""SeLa: self-labelling by optimal transport (Asano, Rupprecht & Vedaldi 2020).

Labels of all N samples and the network are found in turn. As an epoch begins, labels are the best assignment of equal
clusters under the network as it is: with p its probabilities, Q_ic ∝ r_c · p_c(x_i)^λ with rows that sum to 1/N and
columns that sum to 1/C. Sinkhorn and Knopp's iteration finds it, r_c ← r_c / (C · mean_i q_c(i)), where q is Q with
rows that sum to 1. Then the network learns them:

    L = - log q_s(y(x) | x'),     y(x) = argmax_c Q_c(x)

symmetrised over (x, x') and (x', x). The column scalings r, C numbers per head, and the network at the epoch's start,
the teacher, are all that is kept of the N × C table. The gradient in the student's log-odds is q_s - onehot(y), over B.

Shape suffixes: H heads, B pairs, C clusters, V = 1: log r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from deepclust.losses.base import BatchLook, Gradients, LogProbs, Loss, Probs, both_ways, check_pairs, log_clamped
from deepclust.runtime.settings import setting


def sela_labels(teacher_log_probs_HBC: Tensor, log_scaling_HC: Tensor, sharpness: float) -> Tensor:
    """(H, B, 1) argmax_c of r_c · p_c^λ."""
    return (teacher_log_probs_HBC * sharpness + log_scaling_HC[:, None, :]).argmax(dim=2, keepdim=True)


def sela_loss(student_log_probs_HBC: Tensor, labels_HB1: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy with the labels for every head at once.

    Args:
        student_log_probs_HBC: log q_s of one member of each pair.
        labels_HB1: the other member's.

    Returns:
        Loss per head, shape (H,), in nats; its gradient in the student's log-odds, (H, B, C).

    Example:
        >>> loss_H, _ = sela_loss(torch.full((1, 2, 4), 0.25).log(), torch.tensor([[[0], [3]]]))
        >>> loss_H
        tensor([1.3863])
    """
    n_pairs = student_log_probs_HBC.shape[1]
    loss_H = -student_log_probs_HBC.gather(2, labels_HB1).mean(dim=(1, 2))
    gradient_HBC = student_log_probs_HBC.exp()
    gradient_HBC.scatter_add_(2, labels_HB1, gradient_HBC.new_full((1, 1, 1), -1).expand_as(labels_HB1))
    return loss_H, gradient_HBC.div_(n_pairs)


@dataclass(frozen=True)
class SeLa(Loss):
    """`sela_loss` both ways, with labels of all samples, made anew as each epoch begins.

    Args:
        sharpness: λ, 25 in the paper and its code.
        rounds: of Sinkhorn and Knopp's iteration.

    Raises:
        InputError: if a setting is out of range.

    Example:
        >>> student = LogProbs(*torch.randn(2, 1, 8, 4).log_softmax(dim=3))
        >>> loss = SeLa()
        >>> even = BatchLook(loss.first_mean(1, 4), torch.ones(8))
        >>> loss_H, gradients = loss.gradient(student, student, even)
        >>> loss_H.shape, gradients.neighbors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    sharpness: float = setting(25.0, "λ, how strictly labels follow the probabilities", above=0)
    rounds: int = setting(50, "of the iteration that evens out the clusters", at_least=1, at_most=1000, whole=True)

    name = "sela"
    title = "SeLa"
    trained_with = MappingProxyType({"freeze_prototypes_epochs": 0})
    looks_at_teacher = True
    of_all_samples = True
    student_assigns = True

    @property
    def n_looks(self) -> int:
        return self.rounds

    def first_mean(self, n_heads: int, n_clusters: int) -> Tensor:
        """log r = 0."""
        return torch.zeros(1, n_heads, n_clusters)

    def look(self, probs: Probs) -> BatchLook:
        """The mean of q for log r = 0: an epoch's iteration starts anew."""
        return self.look_again(probs, torch.zeros_like(probs.anchors[:, 0])[None])

    def look_again(self, probs: Probs, mean_VHC: Tensor) -> BatchLook:
        """log r for which the columns would be even if the rows stayed as they are."""
        scores_HBC = log_clamped(probs.anchors).mul_(self.sharpness).add_(mean_VHC[0][:, None, :])
        return BatchLook.of_one_view(torch.softmax(scores_HBC, dim=2))

    def next_mean(self, mean_VHC: Tensor, batch_mean_VHC: Tensor) -> Tensor:
        """log r ← log r - log(C · mean of q)."""
        return mean_VHC - log_clamped(batch_mean_VHC) - math.log(batch_mean_VHC.shape[2])

    def gradient(
        self, student: LogProbs, teacher: LogProbs, batch: BatchLook, scale: float = 1.0
    ) -> tuple[Tensor, Gradients]:
        check_pairs(*student)
        own, other = (sela_labels(view, batch.mean_VHC[0], self.sharpness) for view in teacher)
        return both_ways(sela_loss(student.anchors, other), sela_loss(student.neighbors, own), scale)
