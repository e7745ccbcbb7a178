"""The kNN probe: how well the nearest labeled samples tell a sample's class, and how this correlates with AMI.

Shape suffixes: M labeled samples (the memory), N samples to classify, D feature dimensions, K classes, B samples in a
block, T neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import spearmanr

from deepclust.features.rows import Rows
from deepclust.neighbors.search import ExactSearch, normalized
from deepclust.runtime.errors import InputError

# Lowe et al. 2024, table of correlations with AMI.
PROBE_KS = (1, 10, 20, 100, 200)
# Wu et al. 2018 (non-parametric instance discrimination), and every probe of DINO's kind since.
TEMPERATURE = 0.07
BLOCK_ROWS = 1024
# A block's B × K votes stay below 64 MB.
BLOCK_VOTES = 1 << 24


def knn_probe(
    memory_MD: Rows,
    memory_labels_M: np.ndarray,
    features_ND: Rows,
    labels_N: np.ndarray,
    *,
    ks: Sequence[int] = PROBE_KS,
    temperature: float | None = TEMPERATURE,
) -> dict[int, float | None]:
    """Accuracy of k-nearest-neighbor classification by cosine similarity, exactly, block by block.

    Args:
        memory_MD: features of the labeled samples: the training split.
        memory_labels_M: their class ids.
        features_ND: features of the samples to classify: the test split.
        labels_N: their class ids.
        ks: neighbors that vote (1, 10, 20, 100 and 200 in Lowe et al. 2024).
        temperature: a neighbor of cosine s votes with weight exp(s / temperature) (default 0.07, Wu et al. 2018); None
            for one vote each. Of equal votes the smaller class id wins.

    Returns:
        {k: accuracy}; None where k is larger than the memory.

    Raises:
        InputError: if labels and features differ in length, the dimensions differ, or a k is below 1.
    """
    _check(memory_MD, memory_labels_M, features_ND, labels_N, ks)
    classes_K, memory_class_M = np.unique(memory_labels_M, return_inverse=True)
    usable = sorted({k for k in ks if k <= len(memory_labels_M)})
    right = dict.fromkeys(usable, 0)
    search = ExactSearch(memory_MD)
    rows_at_once = max(1, min(BLOCK_ROWS, BLOCK_VOTES // len(classes_K)))
    for start in range(0, len(labels_N) if usable else 0, rows_at_once):
        block = slice(start, min(start + rows_at_once, len(labels_N)))
        ids_BT, cosines_BT = search.nearest(normalized(features_ND, block), usable[-1])
        weights_BT = np.ones_like(cosines_BT) if temperature is None else _weights(cosines_BT, temperature)
        voted_BT = torch.from_numpy(memory_class_M[ids_BT])
        votes_BK = torch.zeros(len(ids_BT), len(classes_K), dtype=torch.float64)
        counted = 0
        for k in usable:
            new = slice(counted, k)
            votes_BK.scatter_add_(1, voted_BT[:, new], torch.from_numpy(weights_BT[:, new]).double())
            counted = k
            right[k] += int((classes_K[votes_BK.argmax(dim=1).numpy()] == labels_N[block]).sum())
    return {k: right[k] / len(labels_N) if k in right else None for k in ks}


def rank_correlation(first: Sequence[float | None], second: Sequence[float | None]) -> float | None:
    """Spearman's ρ over the pairs in which both are there; None for fewer than 3 pairs or a constant side."""
    pairs = np.array([(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None], float)
    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return None
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def _weights(cosines_BT: np.ndarray, temperature: float) -> np.ndarray:
    # Only ratios within a row count. The largest becomes 1: adding small numbers to exp(1 / 0.07) would lose them.
    return np.exp((cosines_BT - cosines_BT[:, :1]) / temperature)


def _check(
    memory_MD: Rows, memory_labels_M: np.ndarray, features_ND: Rows, labels_N: np.ndarray, ks: Sequence[int]
) -> None:
    for name, rows, labels in (("memory", memory_MD, memory_labels_M), ("features", features_ND, labels_N)):
        if len(labels) != rows.shape[0] or len(labels) == 0:
            raise InputError(f"kNN probe: the {name} has {rows.shape[0]} rows and {len(labels)} labels: give one each")
    if memory_MD.shape[1] != features_ND.shape[1]:
        raise InputError(
            f"kNN probe: the memory has {memory_MD.shape[1]} dimensions, the features {features_ND.shape[1]}: "
            "make both with one encoder"
        )
    if not ks or min(ks) < 1:
        raise InputError(f"kNN probe: k is {list(ks)}: give numbers of neighbors from 1")
