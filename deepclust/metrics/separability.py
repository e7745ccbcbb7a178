"""How well the classes are separated in the feature space, before any clustering (Adaloglou et al. 2024, figure 4).

Everything is measured on rows of length 1, the space that the neighbors are mined in. Both scores follow from class
means alone, in one or two passes over blocks of rows.

Shape suffixes: N samples, D feature dimensions, K classes, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from deepclust.features.rows import Rows
from deepclust.features.unit_rows import UnitRows
from deepclust.metrics.intrinsic import silhouette
from deepclust.runtime.errors import InputError

# Rows of the K × K distances between class means that are held at once.
MEANS_AT_ONCE = 1024
# Squared distances of means below this are the rounding of equal means: rows have length 1.
SAME_MEAN = 1e-14


@dataclass(frozen=True)
class Separability:
    """Attributes: the three scores of figure 4. `alignment` and `davies_bouldin` are better when small."""

    alignment: float | None
    davies_bouldin: float | None
    silhouette: float | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "alignment": self.alignment,
            "davies_bouldin": self.davies_bouldin,
            "silhouette": self.silhouette,
        }


def separability(features_ND: Rows, labels_N: np.ndarray) -> Separability:
    """Alignment, Davies–Bouldin score and cosine silhouette of the classes.

    Raises:
        InputError: as `alignment` and `davies_bouldin`.
    """
    return Separability(
        alignment(features_ND, labels_N),
        davies_bouldin(features_ND, labels_N),
        silhouette(features_ND, labels_N).value,
    )


def alignment(features_ND: Rows, labels_N: np.ndarray) -> float:
    """L_align = E ‖z₁ − z₂‖² over two different samples of one class, in [0, 4]; exact, O(N · D).

    The first sample is drawn from the data and the second from the others of its class: the positive pairs then have
    the data's own distribution, as Wang and Isola (2020) ask; a class counts by its size, not by its square. A class of
    one sample has no pair and takes no part.

    Raises:
        InputError: if there is not one label per row, a row is zero or not finite, or no class has two samples.
    """
    unit, dense_N, sizes_K = _unit_rows_and_classes(features_ND, labels_N)
    paired_K = sizes_K > 1
    if not paired_K.any():
        raise InputError("no class has two samples: an alignment compares samples of one class")
    sums_KD = np.zeros((len(sizes_K), unit.dim))
    for start, block_BD in unit.blocks():
        sums_KD += _members(dense_N[start : start + len(block_BD)], len(sizes_K)).T @ block_BD
    # Σ_{i≠j} ‖zᵢ − zⱼ‖² = 2 n Σ ‖zᵢ‖² − 2 ‖Σ zᵢ‖², and ‖zᵢ‖ = 1.
    n_K = sizes_K[paired_K].astype(np.float64)
    pair_mean_K = 2 * (n_K**2 - np.square(sums_KD[paired_K]).sum(axis=1)) / (n_K * (n_K - 1))
    return float(np.maximum(pair_mean_K, 0) @ n_K / n_K.sum())


def davies_bouldin(features_ND: Rows, labels_N: np.ndarray) -> float:
    """Davies and Bouldin's score (1979): the mean over classes of their worst (sᵢ + sⱼ) / ‖mᵢ − mⱼ‖.

    sᵢ is the mean Euclidean distance of a class to its mean mᵢ. Classes with the same mean are not compared, as in
    scikit-learn.

    Raises:
        InputError: if there is not one label per row, a row is zero or not finite, or there are fewer than two classes.
    """
    unit, dense_N, sizes_K = _unit_rows_and_classes(features_ND, labels_N)
    n_classes = len(sizes_K)
    if n_classes < 2:
        raise InputError(f"{n_classes} class found: a Davies–Bouldin score compares at least 2")
    means_KD = np.zeros((n_classes, unit.dim))
    for start, block_BD in unit.blocks():
        means_KD += _members(dense_N[start : start + len(block_BD)], n_classes).T @ block_BD
    means_KD /= sizes_K[:, None]
    spread_K = np.zeros(n_classes)
    for start, block_BD in unit.blocks():
        own_B = dense_N[start : start + len(block_BD)]
        distances_B = np.linalg.norm(block_BD - means_KD[own_B], axis=1)
        spread_K += np.bincount(own_B, weights=distances_B, minlength=n_classes)
    spread_K /= sizes_K
    squares_K = np.square(means_KD).sum(axis=1)
    worst_K = np.zeros(n_classes)
    for low in range(0, n_classes, MEANS_AT_ONCE):
        rows = np.arange(low, min(low + MEANS_AT_ONCE, n_classes))
        squared_BK = squares_K[rows, None] + squares_K - 2 * means_KD[rows] @ means_KD.T
        squared_BK[np.arange(len(rows)), rows] = 0
        apart_BK = np.sqrt(np.maximum(squared_BK, 0))
        sums_BK = spread_K[rows, None] + spread_K
        ratio_BK = np.divide(sums_BK, apart_BK, out=np.zeros_like(sums_BK), where=squared_BK > SAME_MEAN)
        worst_K[rows] = ratio_BK.max(axis=1)
    return float(worst_K.mean())


def r_squared(x: np.ndarray | Sequence[float], y: np.ndarray | Sequence[float]) -> float | None:
    """Coefficient of determination of the least-squares line y(x); None for fewer than 3 points or a constant."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def _unit_rows_and_classes(features_ND: Rows, labels_N: np.ndarray) -> tuple[UnitRows, np.ndarray, np.ndarray]:
    """The unit rows, dense class ids and class sizes."""
    labels_N = np.asarray(labels_N)
    if labels_N.shape != (features_ND.shape[0],):
        raise InputError(
            f"labels have shape {labels_N.shape}, but there are {features_ND.shape[0]} rows of features: "
            "give one label per row"
        )
    _, dense_N, sizes_K = np.unique(labels_N, return_inverse=True, return_counts=True)
    return UnitRows(features_ND), dense_N, sizes_K


def _members(own_B: np.ndarray, n_classes: int) -> sparse.csr_array:
    """(B, K) with a one where a row belongs to a class."""
    return sparse.csr_array((np.ones(len(own_B)), own_B, np.arange(len(own_B) + 1)), shape=(len(own_B), n_classes))
