"""TURTLE: labelings that linear classifiers generalize to (Gadetsky, Jiang & Brbić 2024).

A labeling τ is sought that a linear classifier of the features learns easily, which in separable data is the one with
the largest margin:

    inner   u = the classifier after M more steps of Adam on CE(τ, u), from where the step before left it
    outer   L = mean_i CE(τ(x_i), u(x_i)) - γ H(mean_i τ(x_i)),   CE(τ, u) = - Σ_c τ_c log u_c

The student is τ, the teacher is u: it is fitted to the student's labels of the whole batch before the batch's gradient
(`training/inner_classifier.py`). The gradient is first order, u a constant: with g = - log u + γ (1 + log mean τ) it is
τ (g - Σ_c g_c τ_c) in the student's log-odds, over B. Pairs play no part: only the samples are learnt from. With a
prior the entropy is the divergence from it, as in PET-TURTLE (Salazar Cavazos 2026).

Shape suffixes: H heads, B pairs, C clusters, V = 1 mean of a batch.
"""

from __future__ import annotations

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
    negative_entropy,
    through_softmax,
)
from deepclust.losses.prior import UNIFORM, check_prior, log_prior, prior_setting
from deepclust.runtime.settings import setting


def turtle_loss(
    labels_log_probs_HBC: Tensor,
    classifier_log_probs_HBC: Tensor,
    mean_HC: Tensor,
    *,
    entropy_weight: float = 10.0,
    prior: str = UNIFORM,
) -> tuple[Tensor, Tensor]:
    """TURTLE's outer loss for every head at once.

    Args:
        labels_log_probs_HBC: log τ of the samples.
        classifier_log_probs_HBC: log u of the same samples; no gradient flows into it.
        mean_HC: mean of τ over the whole batch, of which the samples at hand may be a part. The gradient is that
            through the mean all the same.
        entropy_weight: γ, 10 in the paper.
        prior: π, see `losses/prior.py`; equal sizes in the paper.

    Returns:
        Loss per head, shape (H,), in nats; its gradient in the log-odds of τ, (H, B, C).

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> even = torch.full((1, 3, 4), 0.25).log()
        >>> loss_H, _ = turtle_loss(even, even, even.exp().mean(dim=1), entropy_weight=1.0)
        >>> loss_H  # log 4 of the cross-entropy, less log 4 of the entropy
        tensor([0.])
    """
    check_pairs(labels_log_probs_HBC, classifier_log_probs_HBC)
    labels_HBC = labels_log_probs_HBC.exp()
    entropy_H, gradient_HBC = negative_entropy(mean_HC, labels_HBC, entropy_weight, log_prior(prior, mean_HC))
    cross_entropy_H = -(labels_HBC * classifier_log_probs_HBC).sum(dim=2).mean(dim=1)
    slope_HBC = through_softmax(-classifier_log_probs_HBC, labels_HBC)
    return entropy_H + cross_entropy_H, gradient_HBC.add_(slope_HBC, alpha=1 / labels_HBC.shape[1])


@dataclass(frozen=True)
class TURTLE(Loss):
    """`turtle_loss` of the samples.

    Args:
        entropy_weight: γ, 10 in the paper.
        inner_steps: M, 10 in the paper.
        inner_learning_rate: of the classifier's Adam. The paper's 1e-3 is for 6000 steps of training.
        prior: π, the sizes that clusters are asked to have; equal ones in the paper.

    Raises:
        InputError: if a setting is out of range.

    Example:
        >>> student, teacher = (LogProbs(*torch.randn(2, 1, 8, 4).log_softmax(dim=3)) for _ in range(2))
        >>> loss = TURTLE()
        >>> loss_H, gradients = loss.gradient(student, teacher, loss.look(student.exp()))
        >>> loss_H.shape, gradients.anchors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    entropy_weight: float = setting(10.0, "γ, how strongly cluster sizes of `prior` are favored", at_least=0)
    inner_steps: int = setting(
        10, "M, steps of the classifier in each step of training", at_least=1, at_most=1000, whole=True
    )
    inner_learning_rate: float = setting(1e-2, "of the classifier's Adam", above=0)
    prior: str = prior_setting()

    name = "turtle"
    title = "TURTLE"
    trained_with = MappingProxyType(
        {
            "head": "normed_linear",
            "temperature": 1.0,
            "batch_size": 1024,
            "optimizer": "adam",
            "learning_rate": 1e-2,
            "weight_decay": 0.0,
            "freeze_prototypes_epochs": 0,
        }
    )

    student_assigns = True

    @property
    def inner_fit(self) -> tuple[int, float]:
        return self.inner_steps, self.inner_learning_rate

    def check(self, n_clusters: int) -> None:
        check_prior(self.prior, n_clusters)

    def look(self, probs: Probs) -> BatchLook:
        """The mean of τ over the samples."""
        return BatchLook.of_one_view(probs.anchors)

    def gradient(
        self, student: LogProbs, teacher: LogProbs, batch: BatchLook, scale: float = 1.0
    ) -> tuple[Tensor, Gradients]:
        loss_H, anchors_HBC = turtle_loss(
            student.anchors,
            teacher.anchors,
            batch.mean_VHC[0],
            entropy_weight=self.entropy_weight,
            prior=self.prior,
        )
        return loss_H, Gradients(anchors_HBC.mul_(scale), torch.zeros_like(student.neighbors))
