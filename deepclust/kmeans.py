"""Spherical k-means: cosine similarity, unit centers, every sample takes part.

The samples are read in blocks, so float16 and memory-mapped matrices of any size work, and a run stops when it has
converged. faiss's `Kmeans` does neither: it wants one float32 matrix and runs a fixed number of iterations. Its flat
index is not used for the assignment either: on a CPU its matrix product took 2 to 5 times as long as torch's
(16 384 × 1280 samples against 10, 1000 and 5000 centers, 2 cores).

Shape suffixes: N samples, D feature dimensions, C clusters, B samples in a block, S samples the seeding looks at,
T closest centers kept per sample, R candidates of one seeding step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from deepclust.clustering import TOP
from deepclust.errors import InputError
from deepclust.features.store import Rows

BLOCK_ROWS = 16384
# A block's similarities to all centers stay below 128 MB.
BLOCK_SIMILARITIES = 1 << 25
# Unit rows are kept in memory up to this size; above it each pass reads and normalizes them again.
RESIDENT_BYTES = 4 << 30
# k-means++ looks at this many rows, or at 16 per center where that is more: seeding then costs less than
# one iteration over a large data set, and at 60 000 samples it finds centers as good as from all of them.
SEEDING_ROWS = 16384
SEEDING_ROWS_PER_CENTER = 16


@dataclass(frozen=True)
class KMeansResult:
    """What one k-means run ended with.

    Attributes:
        centroids_CD: float32 centers of norm 1.
        labels_N: int32, the closest center of each sample.
        similarity: mean cosine similarity of the samples to their centers; the objective, higher is better.
        n_iter: how often the centers were updated in the run that was kept.
        seed: the seed that was asked for.
    """

    centroids_CD: np.ndarray
    labels_N: np.ndarray
    similarity: float
    n_iter: int
    seed: int


def spherical_kmeans(
    features_ND: Rows,
    n_clusters: int,
    *,
    n_init: int = 5,
    max_iter: int = 100,
    tol: float = 1e-5,
    init: str = "k-means++",
    seed: int = 0,
) -> KMeansResult:
    """Cluster the directions of the samples: the best of `n_init` runs by mean cosine similarity.

    A center that loses all its samples is moved to the sample that is least similar to its own center.

    Args:
        features_ND: any real dtype, in memory or memory-mapped, normalized or not.
        n_clusters: C, at least 2 and at most N.
        n_init: independent runs, each from its own seeding.
        max_iter: at most this many updates of the centers per run.
        tol: a run has converged once an update raises the mean similarity by less than this share of it.
        init: `k-means++` (greedy, as scikit-learn's) or `random` (distinct samples).
        seed: the same seed and settings give the same labels.

    Raises:
        InputError: if the features are no N × D matrix with D ≥ 2, hold NaN, infinite or zero rows, if C < 2 or
            C > N, or if a setting is out of range.
    """
    _check_settings(n_init, max_iter, init)
    unit = _UnitRows(features_ND)
    if len(unit) < 2:
        raise InputError("features have n_samples=1: k-means needs at least 2, give more samples")
    if n_clusters < 2:
        raise InputError(f"n_clusters is {n_clusters}: k-means needs at least 2")
    if n_clusters > len(unit):
        raise InputError(
            f"n_clusters is {n_clusters}, but n_samples={len(unit)}: ask for fewer clusters or give more samples"
        )
    best = None
    for run in range(n_init):
        rng = np.random.default_rng([seed, run])
        centroids_CD = _seed_centroids(unit, n_clusters, init, rng)
        result = _lloyd(unit, centroids_CD, max_iter, tol, seed)
        if best is None or result.similarity > best.similarity:
            best = result
    assert best is not None
    return best


def kmeans_predict(features_ND: Rows, centroids_CD: np.ndarray, top: int = TOP) -> tuple[np.ndarray, np.ndarray]:
    """The closest centers of each sample by cosine similarity, in blocks.

    Args:
        features_ND: samples, normalized or not.
        centroids_CD: centers of norm 1.
        top: T, how many centers to keep; C where there are fewer.

    Returns:
        (N,) int32 labels and (N, T) int32 center ids, the closest first.

    Raises:
        InputError: if the features do not match the centers, or hold NaN, infinite or zero rows.
    """
    _check_matrix(features_ND)
    if features_ND.shape[1] != centroids_CD.shape[1]:
        raise InputError(
            f"features have {features_ND.shape[1]} dimensions, the centers have {centroids_CD.shape[1]}: "
            "give features of the encoder that the centers were fitted on"
        )
    n_samples = features_ND.shape[0]
    centroids_DC = _columns(centroids_CD)
    top_ids_NT = np.empty((n_samples, min(top, len(centroids_CD))), np.int32)
    for start, block_BD in _unit_blocks(features_ND):
        top_ids_NT[start : start + len(block_BD)] = _closest(block_BD, centroids_DC, top_ids_NT.shape[1])[1]
    return top_ids_NT[:, 0].copy(), top_ids_NT


class _UnitRows:
    """The samples as unit float32 rows: kept in memory where they fit, otherwise normalized block by block."""

    def __init__(self, features_ND: Rows) -> None:
        _check_matrix(features_ND)
        self.shape: tuple[int, int] = features_ND.shape[0], features_ND.shape[1]
        self._features_ND = features_ND
        resident = self.shape[0] * self.shape[1] * 4 <= RESIDENT_BYTES
        self._unit_ND = np.empty(self.shape, np.float32) if resident else None
        for start, block_BD in _unit_blocks(features_ND):  # one pass in any case: it refuses bad rows
            if self._unit_ND is not None:
                self._unit_ND[start : start + len(block_BD)] = block_BD

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        if self._unit_ND is None:
            yield from _unit_blocks(self._features_ND)
            return
        for start in range(0, len(self), BLOCK_ROWS):
            yield start, self._unit_ND[start : start + BLOCK_ROWS]

    def take(self, ids: np.ndarray) -> np.ndarray:
        """A copy of the given rows."""
        if self._unit_ND is not None:
            return self._unit_ND[ids]
        rows = np.asarray(self._features_ND[ids], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _check_settings(n_init: int, max_iter: int, init: str) -> None:
    if n_init < 1:
        raise InputError(f"n_init is {n_init}: k-means needs at least one run")
    if max_iter < 1:
        raise InputError(f"max_iter is {max_iter}: k-means needs at least one iteration")
    if init not in ("k-means++", "random"):
        raise InputError(f"init is '{init}': k-means starts from 'k-means++' or 'random'")


def _check_matrix(features_ND: Rows) -> None:
    if features_ND.ndim != 2:
        raise InputError(f"features have shape {features_ND.shape}: k-means needs a matrix, one row per sample")
    if features_ND.shape[1] < 2:
        raise InputError(
            f"features have n_features={features_ND.shape[1]}: a direction needs at least 2, give more features"
        )


def _unit_blocks(features_ND: Rows) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, unit float32 block); NaN, infinite and zero rows are refused."""
    for start in range(0, features_ND.shape[0], BLOCK_ROWS):
        block_BD = np.asarray(features_ND[start : start + BLOCK_ROWS], dtype=np.float32)
        norms_B = np.linalg.norm(block_BD, axis=1)
        bad_B = ~np.isfinite(norms_B)
        if bad_B.any():
            raise InputError(
                f"features hold NaN or infinite values (first: row {start + int(np.argmax(bad_B))}): "
                "remove or repair such rows"
            )
        if not norms_B.all():
            raise InputError(
                f"features hold all-zero rows (first: row {start + int(np.argmin(norms_B))}), which have no direction "
                "for cosine similarity: remove them"
            )
        yield start, block_BD / norms_B[:, None]


def _columns(centroids_CD: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(centroids_CD, dtype=np.float32)).T


def _closest(block_BD: np.ndarray, centroids_DC: torch.Tensor, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Similarities to and ids of the `top` closest centers, (B, top) each, the closest first."""
    rows_at_once = max(64, BLOCK_SIMILARITIES // centroids_DC.shape[1])
    found = [(part_BD @ centroids_DC).topk(top, dim=1) for part_BD in torch.from_numpy(block_BD).split(rows_at_once)]
    return torch.cat([part.values for part in found]).numpy(), torch.cat([part.indices for part in found]).numpy()


def _seed_centroids(unit: _UnitRows, n_clusters: int, init: str, rng: np.random.Generator) -> np.ndarray:
    if init == "random":
        return unit.take(np.sort(rng.choice(len(unit), n_clusters, replace=False)))
    n_rows = min(len(unit), max(SEEDING_ROWS, SEEDING_ROWS_PER_CENTER * n_clusters))
    # Sorted, so that a memory-mapped file is read front to back.
    sample_SD = unit.take(np.sort(rng.choice(len(unit), n_rows, replace=False)))
    return _greedy_plus_plus(sample_SD, n_clusters, rng)


def _greedy_plus_plus(sample_SD: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ with 2 + ln C candidates per step, of which the one that lowers the objective most is kept.

    Arthur & Vassilvitskii 2007; the probability of a row is proportional to 1 - cosine, half its squared distance.
    """
    n_candidates = 2 + int(np.log(n_clusters))
    chosen = [int(rng.integers(len(sample_SD)))]
    distances_S = np.maximum(1 - sample_SD @ sample_SD[chosen[0]], 0)
    for _ in range(1, n_clusters):
        cumulative_S = np.cumsum(distances_S, dtype=np.float64)
        if cumulative_S[-1] > 0:
            draws_R = rng.random(n_candidates) * cumulative_S[-1]
            candidates_R = np.minimum(np.searchsorted(cumulative_S, draws_R, side="right"), len(sample_SD) - 1)
        else:  # fewer distinct rows than centers
            candidates_R = rng.integers(len(sample_SD), size=n_candidates)
        distances_RS = np.minimum(np.maximum(1 - sample_SD[candidates_R] @ sample_SD.T, 0), distances_S)
        best = int(np.argmin(distances_RS.sum(axis=1, dtype=np.float64)))
        chosen.append(int(candidates_R[best]))
        distances_S = distances_RS[best]
    return sample_SD[chosen]


def _lloyd(unit: _UnitRows, centroids_CD: np.ndarray, max_iter: int, tol: float, seed: int) -> KMeansResult:
    previous_similarity = -np.inf
    previous_empty = 0
    for n_iter in range(max_iter + 1):
        labels_N, similarities_N, sums_CD = _assign(unit, centroids_CD)
        similarity = float(similarities_N.mean(dtype=np.float64))
        counts_C = np.bincount(labels_N, minlength=len(centroids_CD))
        n_empty = int((counts_C == 0).sum())
        # Empty centers may stay empty where there are fewer distinct directions than clusters.
        converged = similarity - previous_similarity <= tol * abs(similarity) and n_empty in (0, previous_empty)
        # Stop after an assignment, never after an update: the labels returned belong to the centers returned.
        if converged or n_iter == max_iter:
            break
        if n_empty:
            _refill_empty(unit, labels_N, similarities_N, counts_C, sums_CD)
        lengths_C = np.linalg.norm(sums_CD, axis=1)
        has_direction_C = lengths_C > 1e-12  # members may cancel out, or an empty center found no refill
        centroids_CD = centroids_CD.copy()
        centroids_CD[has_direction_C] = sums_CD[has_direction_C] / lengths_C[has_direction_C, None]
        previous_similarity, previous_empty = similarity, n_empty
    return KMeansResult(centroids_CD, labels_N, similarity, n_iter, seed)


def _assign(unit: _UnitRows, centroids_CD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One pass over the samples: closest center, similarity to it, and the sum of each center's members (float64)."""
    centroids_DC = _columns(centroids_CD)
    labels_N = np.empty(len(unit), np.int32)
    similarities_N = np.empty(len(unit), np.float32)
    sums_CD = np.zeros(centroids_CD.shape, np.float64)
    for start, block_BD in unit.blocks():
        rows = slice(start, start + len(block_BD))
        similarities_B1, ids_B1 = _closest(block_BD, centroids_DC, 1)
        labels_N[rows], similarities_N[rows] = ids_B1[:, 0], similarities_B1[:, 0]
        members_BC = sparse.csr_array(
            (np.ones(len(block_BD), np.float32), labels_N[rows], np.arange(len(block_BD) + 1)),
            shape=(len(block_BD), len(centroids_CD)),
        )
        sums_CD += members_BC.T @ block_BD
    return labels_N, similarities_N, sums_CD


def _refill_empty(
    unit: _UnitRows, labels_N: np.ndarray, similarities_N: np.ndarray, counts_C: np.ndarray, sums_CD: np.ndarray
) -> None:
    """Give each empty center the sample that fits its own center worst; changes `sums_CD` in place."""
    empty_C = np.flatnonzero(counts_C == 0)
    # A singleton fits perfectly, so the worst samples never empty another cluster of one.
    worst = np.argsort(similarities_N, kind="stable")[: len(empty_C)]
    rows_D = unit.take(worst)
    np.subtract.at(sums_CD, labels_N[worst], rows_D)
    sums_CD[empty_C[: len(worst)]] = rows_D


class SphericalKMeans(TransformerMixin, ClusterMixin, BaseEstimator):
    """Spherical k-means as a scikit-learn estimator; see `spherical_kmeans`.

    Args:
        n_clusters: C, at least 2 and at most N.
        n_init: independent runs, of which the best is kept.
        max_iter: at most this many updates of the centers per run.
        tol: relative gain in mean similarity below which a run has converged.
        init: `k-means++` or `random`.
        random_state: seed, `RandomState` or None.

    Attributes:
        labels_: (N,) int32 cluster ids of the samples fitted on.
        cluster_centers_: (C, D) float32 centers of norm 1.
        inertia_: sum of squared distances of the normalized samples to their centers.
        similarity_: mean cosine similarity of the samples to their centers.
        n_iter_: updates of the centers in the run that was kept.
        n_features_in_: D.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        n_init: int = 5,
        max_iter: int = 100,
        tol: float = 1e-5,
        init: str = "k-means++",
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.init = init
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> SphericalKMeans:
        """Cluster the rows of X; y is ignored.

        Raises:
            InputError: as `spherical_kmeans`.
        """
        features_ND = validate_data(self, X, dtype=[np.float32, np.float16, np.float64])
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        result = spherical_kmeans(
            features_ND,
            self.n_clusters,
            n_init=self.n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            init=self.init,
            seed=int(seed),
        )
        self.labels_ = result.labels_N
        self.cluster_centers_ = result.centroids_CD
        self.similarity_ = result.similarity
        self.inertia_ = 2 * (1 - result.similarity) * len(features_ND)
        self.n_iter_ = result.n_iter
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(N,) int32, the closest center of each row."""
        return kmeans_predict(self._validated(X), self.cluster_centers_, top=1)[0]

    def transform(self, X: Any) -> np.ndarray:
        """(N, C) cosine similarities to the centers, float64 for float64 input, otherwise float32."""
        features_ND = self._validated(X)
        similarities_NC = np.empty((len(features_ND), len(self.cluster_centers_)), np.float32)
        for start, block_BD in _unit_blocks(features_ND):
            similarities_NC[start : start + len(block_BD)] = block_BD @ self.cluster_centers_.T
        return similarities_NC.astype(np.float64) if features_ND.dtype == np.float64 else similarities_NC

    def _validated(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, dtype=[np.float32, np.float16, np.float64], reset=False)
