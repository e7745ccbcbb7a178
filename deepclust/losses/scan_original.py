"""SCAN: semantic clustering by adopting nearest neighbors (Van Gansbeke et al. 2020, eq. 2), as first published.

    L = - mean log ⟨p(x), p(x')⟩  -  λ H(mean p(x))

A linear head, no teacher, a neighbor drawn uniformly among the K nearest: the gradient flows through both members. It
is TSP's formula with other pairs and another λ, so `tsp_loss` computes it.

Shape suffixes: H heads, B pairs, C clusters, V = 1 mean of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from deepclust.losses.tsp import TSP
from deepclust.runtime.settings import setting


@dataclass(frozen=True)
class ScanOriginal(TSP):
    """`tsp_loss` on neighbors that are drawn uniformly.

    Args:
        entropy_weight: λ, 5 in the paper and its code.

    Raises:
        InputError: if λ is negative.

    Example:
        >>> ScanOriginal().entropy_weight, ScanOriginal.gaussian_pairs
        (5.0, False)
    """

    entropy_weight: float = setting(5.0, "λ, how strongly uniform cluster sizes are favored", at_least=0)

    name = "scan_original"
    title = "SCAN"
    gaussian_pairs = False
    # As TSP: a linear head, which may learn faster on its own than the authors' 1e-4 for a whole network.
    trained_with = MappingProxyType({**TSP.trained_with})
