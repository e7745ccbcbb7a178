"""TEMI without its parts (Adaloglou et al. 2023, and the authors' published code).

PMI is TEMI's term without weights, WMI weighs every pair by the head's own teacher instead of by all heads':

    PMI:  L_i(x, x') = - log Σ_c (q_s^i(c|x) · q_t^i(c|x'))^β / p̃_t^i(c)
    WMI:  L_i(x, x') = - w_i(x, x') · the same logarithm,    w_i = Σ_c q_t^i(c|x) q_t^i(c|x')

both with β = 1 unless asked otherwise, as there. With one head WMI for β = 0.6 is TEMI.

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deepclust.losses.base import BatchLook, Gradients, LogProbs, Probs
from deepclust.losses.temi import TEMI
from deepclust.runtime.settings import setting


@dataclass(frozen=True)
class PMI(TEMI):
    """TEMI without weights.

    Args:
        beta: β in (0.5, 1], 1 in the authors' code.
        marginal_momentum: λ, as in TEMI.

    Example:
        >>> PMI().beta
        1.0
    """

    beta: float = setting(1.0, "β; below 1 it keeps one cluster from swallowing all", above=0.5, at_most=1)

    name = "pmi"
    title = "PMI"

    def look(self, probs: Probs) -> BatchLook:
        """The teacher's mean over both views."""
        look = super().look(probs)
        return look._replace(weights_B=look.weights_B.new_ones(len(look.weights_B)))


@dataclass(frozen=True)
class WMI(PMI):
    """TEMI with each head's own weights.

    Args:
        beta: β in (0.5, 1], 1 in the authors' code.
        marginal_momentum: λ, as in TEMI.

    Example:
        >>> WMI(beta=0.6).marginal_momentum
        0.9
    """

    name = "wmi"
    title = "WMI"

    def gradient(
        self, student: LogProbs, teacher: LogProbs, batch: BatchLook, scale: float = 1.0
    ) -> tuple[Tensor, Gradients]:
        own_HB = (teacher.anchors + teacher.neighbors).exp_().sum(dim=2)
        return super().gradient(student, teacher, batch._replace(weights_B=own_HB), scale)
