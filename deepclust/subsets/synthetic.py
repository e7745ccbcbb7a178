"""Synthetic features over a real class tree: a rehearsal of ImageNet-21K with all its classes and without images.

Class means diffuse down the tree: a mean is its parent's plus a Gaussian step that shrinks with depth. A sample is its
class's mean plus noise; classes differ in how noisy they are, hence in how easy. A class is not a ball: it is stretched
along a direction of its own, by a length that has nothing to do with its noise. An easy class, then, is thin and as
long as any other, which a linear probe does not mind and k-means does. A sample of a class that has classes below may
show one of those, as a photograph labeled "dog" shows some breed.

Shape suffixes: K classes, N samples, D feature dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepclust.subsets.clip_labels import top_down
from deepclust.subsets.hierarchy import Hierarchy

# Training samples per class at these percentiles of the classes, in units of the mean. Drawn so that the frequency
# benchmarks of ImageNet-21K (Adaloglou et al. 2024, table 5 and table 1) hold the shares of the samples that they do.
FREQUENCY_QUANTILES = ((0, 5, 15, 25, 35, 45, 55, 65, 75, 85, 95, 100),
                       (0.60, 0.77, 0.81, 0.88, 0.97, 1.035, 1.05, 1.09, 1.11, 1.14, 1.20, 1.60))  # fmt: skip
DRAWN_ROWS = 1 << 15


@dataclass(frozen=True)
class SyntheticClasses:
    """The distribution that samples are drawn from.

    Attributes:
        hierarchy: of the K classes.
        means_KD: their means.
        noise_K: the expected length of a sample's noise.
        stretch_KD: half the length along which a class is drawn out, uniformly.
        shown_below: share of the samples of a class with classes below that show one of those.
    """

    hierarchy: Hierarchy
    means_KD: np.ndarray
    noise_K: np.ndarray
    stretch_KD: np.ndarray
    shown_below: float

    def draw(self, labels_N: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) float16 features of samples of some classes, and (N,) the class that each shows."""
        shown_N = self._shown(labels_N, rng)
        dim = self.means_KD.shape[1]
        features_ND = np.empty((len(labels_N), dim), np.float16)
        for start in range(0, len(labels_N), DRAWN_ROWS):
            own_B = shown_N[start : start + DRAWN_ROWS]
            noise_BD = rng.standard_normal((len(own_B), dim), dtype=np.float32)
            noise_BD *= self.noise_K[own_B, None] / np.sqrt(dim)
            along_B = rng.uniform(-1, 1, len(own_B)).astype(np.float32)
            drawn_BD = self.means_KD[own_B] + noise_BD + along_B[:, None] * self.stretch_KD[own_B]
            features_ND[start : start + DRAWN_ROWS] = drawn_BD
        return features_ND, shown_N

    def _shown(self, labels_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Samples that show a class below go down one step at a time until a leaf, each child as likely as another."""
        shown_N = np.array(labels_N)
        parents_M, children = self.hierarchy.parents_M, self.hierarchy.children
        n_children_K = np.array([len(below) for below in children])
        first_K = np.cumsum(n_children_K) - n_children_K
        below_all = np.argsort(parents_M, kind="stable")[(parents_M < 0).sum() :]
        moving = np.flatnonzero(rng.random(len(labels_N)) < self.shown_below)
        while len(moving := moving[n_children_K[shown_N[moving]] > 0]):
            at = shown_N[moving]
            shown_N[moving] = below_all[first_K[at] + rng.integers(0, n_children_K[at])]
        return shown_N


def synthetic_classes(
    hierarchy: Hierarchy,
    dim: int = 128,
    *,
    decay: float = 0.8,
    noise: float = 2.2,
    noise_spread: float = 0.35,
    stretch: float = 1.0,
    shown_below: float = 0.5,
    seed: int = 0,
) -> SyntheticClasses:
    """Classes over a tree.

    Args:
        hierarchy: of the classes; each node is one.
        dim: D.
        decay: a step from a parent has the expected length decay^(depth - 1).
        noise: the median class's expected length of noise.
        noise_spread: standard deviation of its logarithm over the classes.
        stretch: half the length along which the longest class is drawn out, as a multiple of `noise`; over the classes
            it is uniform between 0 and this, whatever their own noise.
        shown_below: as in `SyntheticClasses`.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    n_classes = len(hierarchy)
    means_KD = np.zeros((n_classes, dim), np.float32)
    lengths_K = decay ** (hierarchy.depths_M - 1) / np.sqrt(dim)
    steps_KD = rng.standard_normal((n_classes, dim), dtype=np.float32) * lengths_K[:, None].astype(np.float32)
    for node in top_down(hierarchy):
        parent = hierarchy.parents_M[node]
        means_KD[node] = steps_KD[node] + (means_KD[parent] if parent >= 0 else 0)
    noise_K = (noise * np.exp(noise_spread * rng.standard_normal(n_classes))).astype(np.float32)
    directions_KD = rng.standard_normal((n_classes, dim), dtype=np.float32)
    directions_KD /= np.linalg.norm(directions_KD, axis=1, keepdims=True)
    stretch_K = stretch * noise * rng.uniform(0, 1, n_classes).astype(np.float32)
    return SyntheticClasses(hierarchy, means_KD, noise_K, directions_KD * stretch_K[:, None], shown_below)


def class_counts(n_classes: int, n_samples: int, *, seed: int = 0) -> np.ndarray:
    """(K,) training samples per class with the quantiles of ImageNet-21K's, in random order, at least 2 each.

    They add up to `n_samples` but for rounding.
    """
    places, quantiles = FREQUENCY_QUANTILES
    shares_K = np.interp(100 * (np.arange(n_classes) + 0.5) / n_classes, places, quantiles)
    counts_K = np.maximum(2, np.round(shares_K / shares_K.mean() * n_samples / n_classes)).astype(np.int64)
    return np.random.default_rng(seed).permutation(counts_K)
