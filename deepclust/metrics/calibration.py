"""Do probabilities tell how often a head, or CLIP, is right? (Adaloglou et al. 2024, section 6, figures 3, 7 and 8.)

The confidence of a sample is its maximum softmax probability (MSP); it is right where the Hungarian map sends its
cluster to its label. The expected calibration error (Guo et al. 2017, eq. 3) is the mean of |accuracy − confidence|
over bins of equal width, weighted by their samples.

Shape suffixes: N samples, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from deepclust.clustering import Clustering
from deepclust.metrics.agreement import hungarian_map
from deepclust.metrics.multilabel import mapped_classes
from deepclust.runtime.errors import InputError

# Guo et al. 2017, table 1.
N_BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Confidence and accuracy bin by bin, and the histogram of the confidences.

    Attributes:
        ece: expected calibration error, a fraction.
        accuracy: share of samples that the Hungarian map gets right.
        mean_confidence: mean maximum softmax probability.
        edges: (B + 1,) bins are (low, high], the first includes 0.
        counts_B: samples in each bin.
        accuracy_B, confidence_B: means over the bin; NaN for empty bins.
    """

    ece: float
    accuracy: float
    mean_confidence: float
    edges: np.ndarray
    counts_B: np.ndarray
    accuracy_B: np.ndarray
    confidence_B: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, None for empty bins."""
        return {
            "ece": self.ece,
            "accuracy": self.accuracy,
            "mean_confidence": self.mean_confidence,
            "edges": self.edges.tolist(),
            "counts": self.counts_B.tolist(),
            "bin_accuracy": [None if np.isnan(value) else float(value) for value in self.accuracy_B],
            "bin_confidence": [None if np.isnan(value) else float(value) for value in self.confidence_B],
        }


def why_no_calibration(clustering: Clustering) -> str | None:
    """A sentence for methods without probabilities, such as k-means; None where a calibration can be measured."""
    if clustering.top_probs is not None:
        return None
    return f"{clustering.method} gives no probabilities, so it has no calibration"


def calibration(clustering: Clustering, labels_N: np.ndarray, *, n_bins: int = N_BINS) -> Calibration:
    """ECE, reliability and the histogram of the maximum softmax probability after the Hungarian map.

    Args:
        clustering: with `top_probs`, of which the first column is the confidence.
        labels_N: class ids.
        n_bins: B, of equal width over [0, 1].

    Raises:
        InputError: if the method has no probabilities, they lie outside [0, 1], or the lengths differ.
    """
    reason = why_no_calibration(clustering)
    if reason is not None or clustering.top_probs is None:
        raise InputError(f"{reason}: evaluate a trained head")
    if len(labels_N) != len(clustering):
        raise InputError(
            f"{len(labels_N)} labels for the {len(clustering)} samples of {clustering.method}: give one per sample"
        )
    classes_N = mapped_classes(hungarian_map(labels_N, clustering.labels), clustering.labels)
    return calibration_of(clustering.top_probs[:, 0], classes_N == labels_N, n_bins=n_bins, name=clustering.method)


def calibration_of(
    confidence_N: np.ndarray, right_N: np.ndarray, *, n_bins: int = N_BINS, name: str = "the model"
) -> Calibration:
    """The same of any predictions, such as CLIP's zero-shot labels.

    Args:
        confidence_N: maximum softmax probabilities.
        right_N: whether each prediction is right.
        n_bins: B, of equal width over [0, 1].
        name: whose predictions, for messages.

    Raises:
        InputError: if the probabilities lie outside [0, 1].
    """
    confidence_N = np.asarray(confidence_N, dtype=np.float64)
    # A softmax in float32 may end a rounding above 1.
    if not (confidence_N.min() >= 0 and confidence_N.max() <= 1 + 1e-5):
        raise InputError(f"probabilities of {name} lie outside [0, 1]: give those of a softmax")
    bin_N = np.clip(np.ceil(confidence_N * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    counts_B = np.bincount(bin_N, minlength=n_bins)
    right_B = np.bincount(bin_N, weights=right_N, minlength=n_bins)
    sums_B = np.bincount(bin_N, weights=confidence_N, minlength=n_bins)
    filled_B = np.where(counts_B > 0, counts_B, np.nan)
    return Calibration(
        ece=float(np.abs(right_B - sums_B).sum() / len(confidence_N)),
        accuracy=float(right_N.mean()),
        mean_confidence=float(confidence_N.mean()),
        edges=np.linspace(0, 1, n_bins + 1),
        counts_B=counts_B,
        accuracy_B=right_B / filled_B,
        confidence_B=sums_B / filled_B,
    )
