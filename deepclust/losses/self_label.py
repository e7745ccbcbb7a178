"""Self-labelling, SCAN's third step (Van Gansbeke et al. 2020): learn from the samples that the head is sure of.

    L = Σ_i w(y_i) · [max p(x_i) > θ] · (- log p_{y_i}(x_i)) / Σ_i w(y_i) · [max p(x_i) > θ],    y_i = argmax_c p_c(x_i)

with w(c) the inverse of cluster c's share of the batch's sure samples, so that every cluster that has some counts
alike. Labels get no gradient. The paper takes them of a weak augmentation and learns them on a strong one; features
have neither, so here both are the sample itself. With f_c the share of the batch that is sure of c, over the K clusters
of f_c > 0, the gradient in the log-odds of a sure sample is (p - onehot(y)) / (K f_y), over B.

Shape suffixes: H heads, B pairs, C clusters, V = 1: f.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from deepclust.losses.base import BatchLook, Gradients, LogProbs, Probs, WithoutTeacher
from deepclust.losses.tsp import TSP
from deepclust.runtime.settings import setting


def sure_labels(probs_HBC: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """(H, B, 1) the most probable cluster, and 1 where it is above the threshold, else 0."""
    highest_HB1, labels_HB1 = probs_HBC.max(dim=2, keepdim=True)
    return labels_HB1, (highest_HB1 > threshold).to(probs_HBC.dtype)


def self_label_loss(log_probs_HBC: Tensor, sure_HC: Tensor, *, threshold: float = 0.99) -> tuple[Tensor, Tensor]:
    """Self-labelling for every head at once.

    Args:
        log_probs_HBC: log p of the samples.
        sure_HC: f, over the whole batch, of which the samples at hand may be a part.
        threshold: θ, 0.99 in the paper.

    Returns:
        Loss per head, shape (H,), in nats, 0 where no sample is sure; its gradient in the log-odds, (H, B, C).

    Example:
        >>> log_probs = torch.log_softmax(torch.tensor([[[9.0, 0.0], [0.1, 0.0]]]), dim=2)  # the first is sure
        >>> loss_H, gradient_HBC = self_label_loss(log_probs, torch.tensor([[0.5, 0.0]]))
        >>> float(loss_H[0]) == -float(log_probs[0, 0, 0]), bool(gradient_HBC[0, 1].any())
        (True, False)
    """
    probs_HBC = log_probs_HBC.exp()
    labels_HB1, sure_HB1 = sure_labels(probs_HBC, threshold)
    n_present_H1 = (sure_HC > 0).sum(dim=1, keepdim=True).clamp_min(1)
    weights_HC = torch.where(sure_HC > 0, 1 / (n_present_H1 * sure_HC), 0)
    weights_HB1 = weights_HC.gather(1, labels_HB1[:, :, 0])[:, :, None].mul_(sure_HB1)
    loss_H = -(weights_HB1 * log_probs_HBC.gather(2, labels_HB1)).mean(dim=(1, 2))
    probs_HBC.scatter_add_(2, labels_HB1, probs_HBC.new_full((1, 1, 1), -1).expand_as(labels_HB1))
    return loss_H, probs_HBC.mul_(weights_HB1).div_(log_probs_HBC.shape[1])


@dataclass(frozen=True)
class SelfLabel(WithoutTeacher):
    """`self_label_loss` of the samples, for one head, which starts as a trained one.

    Args:
        threshold: θ, 0.99 in the paper.
        start: a checkpoint, or an export, of the heads to go on with; the best of them is taken.

    Raises:
        InputError: if θ is out of range.

    Example:
        >>> student = LogProbs(*torch.randn(2, 1, 8, 4).log_softmax(dim=3))
        >>> loss = SelfLabel(threshold=0.5)
        >>> loss_H, gradients = loss.gradient(student, student, loss.look(student.exp()))
        >>> loss_H.shape, gradients.anchors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    threshold: float = setting(0.99, "θ, how sure a sample must be to count", at_least=0, below=1)
    start: str | None = setting(
        None, "a checkpoint of trained heads, of which the best goes on; None: as `init` says", text=True
    )

    name = "self_label"
    title = "SCAN, self-labelled"
    # As the head that it goes on with; a batch of 1000 as in the authors' settings.
    trained_with = MappingProxyType({**TSP.trained_with, "n_heads": 1, "batch_size": 1000, "learning_rate": 1e-4})

    def of_student(self, student: LogProbs, mean_VHC: Tensor) -> tuple[Tensor, Gradients]:
        loss_H, anchors_HBC = self_label_loss(student.anchors, mean_VHC[0], threshold=self.threshold)
        return loss_H, Gradients(anchors_HBC, torch.zeros_like(student.neighbors))

    def look(self, probs: Probs) -> BatchLook:
        """The share of the samples that are sure of each cluster."""
        labels_HB1, sure_HB1 = sure_labels(probs.anchors, self.threshold)
        sure_HBC = torch.zeros_like(probs.anchors).scatter_(2, labels_HB1, sure_HB1)
        return BatchLook.of_one_view(sure_HBC)
