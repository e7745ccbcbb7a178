"""DEC: deep embedded clustering (Xie, Girshick & Farhadi 2016, eqs. 1 to 3).

    q_ic ∝ 1 / (1 + ‖z_i - μ_c‖²),      p_ic ∝ q_ic² / f_c,   f_c = Σ_i q_ic
    L    = mean_i Σ_c p_ic log(p_ic / q_ic)

The targets p are of the network as the epoch began, the teacher, and f is taken over all samples then; they get no
gradient. The head `student_t` has q for its probabilities. Pairs play no part: only the samples are learnt from. With
respect to the log-odds of q the gradient is q - p, over B.

Shape suffixes: H heads, B pairs, C clusters, V = 1: f over N.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from deepclust.losses.base import BatchLook, Gradients, LogProbs, Loss, Probs, check_pairs, log_clamped


def dec_loss(
    student_log_probs_HBC: Tensor, teacher_log_probs_HBC: Tensor, frequency_HC: Tensor
) -> tuple[Tensor, Tensor]:
    """DEC for every head at once.

    Args:
        student_log_probs_HBC: log q of the samples.
        teacher_log_probs_HBC: log q of the network that makes the targets; no gradient flows into it.
        frequency_HC: f, or its mean per sample: its unit cancels.

    Returns:
        Loss per head, shape (H,), in nats; its gradient in the student's log-odds, (H, B, C).

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> q = torch.full((1, 3, 4), 0.25).log()
        >>> loss_H, _ = dec_loss(q, q, q.exp().mean(dim=1))
        >>> loss_H
        tensor([0.])
    """
    check_pairs(student_log_probs_HBC, teacher_log_probs_HBC)
    log_targets_HBC = torch.log_softmax(2 * teacher_log_probs_HBC - log_clamped(frequency_HC)[:, None, :], dim=2)
    targets_HBC = log_targets_HBC.exp()
    loss_H = (targets_HBC * log_targets_HBC.sub_(student_log_probs_HBC)).sum(dim=2).mean(dim=1)
    return loss_H, student_log_probs_HBC.exp().sub_(targets_HBC).div_(student_log_probs_HBC.shape[1])


@dataclass(frozen=True)
class DEC(Loss):
    """`dec_loss` of the samples, with targets made anew as each epoch begins.

    Example:
        >>> student = LogProbs(*torch.randn(2, 1, 8, 4).log_softmax(dim=3))
        >>> loss = DEC()
        >>> loss_H, gradients = loss.gradient(student, student, loss.look(student.exp()))
        >>> loss_H.shape, gradients.anchors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    name = "dec"
    title = "DEC"
    # Features stand for the pretrained encoder, their 10 principal directions for its code of 10 numbers: they are what
    # a linear autoencoder finds. One scale for all of them, k-means start, batch of 256 and no decay as in the paper.
    trained_with = MappingProxyType(
        {
            "head": "student_t",
            "temperature": 1.0,
            "init": "kmeans",
            "preprocess": "none",
            "pca_dim": 10,
            "batch_size": 256,
            "optimizer": "adam",
            "weight_decay": 0.0,
            "freeze_prototypes_epochs": 0,
        }
    )
    looks_at_teacher = True
    of_all_samples = True
    student_assigns = True

    def gradient(
        self, student: LogProbs, teacher: LogProbs, batch: BatchLook, scale: float = 1.0
    ) -> tuple[Tensor, Gradients]:
        loss_H, anchors_HBC = dec_loss(student.anchors, teacher.anchors, batch.mean_VHC[0])
        return loss_H, Gradients(anchors_HBC.mul_(scale), torch.zeros_like(student.neighbors))

    def look(self, probs: Probs) -> BatchLook:
        """The mean of q over the samples."""
        return BatchLook.of_one_view(probs.anchors)
