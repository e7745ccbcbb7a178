"""The map of a report: a place in the plane for every sample.

Shape suffixes: N samples.
"""

from __future__ import annotations

import importlib.util

import numpy as np

from deepclust.features.feature_set import FeatureSet
from deepclust.reduction.plane import principal_plane
from deepclust.reduction.reduction import Reduction

MAPS = ("auto", "umap", "pca")
# UMAP with a seed runs on one core: above so many samples a report would wait minutes for it.
UMAP_SAMPLES = 10_000
UMAP_NEIGHBORS = 15
# A far cluster does not squeeze the rest: places end so many times the width of the middle 98 % beyond it.
BEYOND = 0.25
WIDEST_GAP = 0.1


def map_layout(features: FeatureSet, kind: str = "auto", seed: int = 0) -> tuple[np.ndarray, str]:
    """Places of the samples in the unit square, and the name of the method.

    Args:
        features: N × D.
        kind: `umap`, `pca`, or `auto`: UMAP where umap-learn is installed and there are at most `UMAP_SAMPLES`.
        seed: of UMAP.

    Returns:
        (N, 2) float32 in [0, 1], and `UMAP` or `PCA`.

    Raises:
        InputError: if umap-learn is asked for and missing.
    """
    if kind == "auto":
        there = importlib.util.find_spec("umap") is not None
        kind = "umap" if there and 2 * UMAP_NEIGHBORS < len(features) <= UMAP_SAMPLES and features.dim > 2 else "pca"
    if features.dim < 2 or len(features) < 3:
        places_N2 = np.zeros((len(features), 2), np.float32)
        places_N2[:, 0] = np.asarray(features.features[:])[:, 0]
    elif kind == "pca":
        places_N2 = principal_plane(features.features)
    else:
        layout = Reduction(kind, 2, n_neighbors=UMAP_NEIGHBORS, min_dist=0.1, metric="cosine", seed=seed)
        places_N2 = layout.fit_transform(features.features)
    return within_square(places_N2), {"umap": "UMAP", "pca": "PCA"}[kind]


def without_gaps(places_N2: np.ndarray) -> np.ndarray:
    """Places whose empty stretches along each axis are at most `WIDEST_GAP` of it: one far cluster would squeeze the
    rest. How far apart clusters lie says little in a layout by UMAP."""
    shorter_N2 = np.empty(places_N2.shape, np.float64)
    for axis in range(2):
        order_N = np.argsort(places_N2[:, axis], kind="stable")
        gaps = np.diff(places_N2[order_N, axis].astype(np.float64), prepend=places_N2[order_N[:1], axis])
        for _ in range(8):  # what is left grows shorter with its gaps
            gaps = np.minimum(gaps, WIDEST_GAP * gaps.sum())
        shorter_N2[order_N, axis] = np.cumsum(gaps)
    return shorter_N2


def within_square(places_N2: np.ndarray) -> np.ndarray:
    """Places scaled to the unit square, one scale for both axes; those far out are drawn in to its edge."""
    low_2, high_2 = np.percentile(places_N2, (1, 99), axis=0)
    beyond = BEYOND * (high_2 - low_2)
    kept_N2 = np.clip(places_N2, low_2 - beyond, high_2 + beyond)
    low_2, high_2 = kept_N2.min(axis=0), kept_N2.max(axis=0)
    width = max(float((high_2 - low_2).max()), 1e-12)
    return ((kept_N2 - (low_2 + high_2) / 2) / width + 0.5).astype(np.float32)
