"""Spherical k-means: cosine similarity, unit centers, every sample takes part.

The samples are read in blocks, so float16 and memory-mapped matrices of any size work, and a run stops when it has
converged. faiss's `Kmeans` does neither: it wants one float32 matrix and runs a fixed number of iterations. Its flat
index is not used for the assignment either: on a CPU its matrix product took 2 to 5 times as long as torch's
(16 384 × 1280 samples against 10, 1000 and 5000 centers, 2 cores).

Shape suffixes: N samples, D feature dimensions, C clusters, B samples in a block, S samples of this rank's share
or those that the seeding looks at, T closest centers kept per sample, R candidates of one seeding step.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from deepclust.clustering import TOP
from deepclust.features.for_estimators import seed_of, validated_rows, whole_fit
from deepclust.features.rows import Rows, RowView
from deepclust.features.unit_rows import UnitRows, check_matrix, unit_blocks, unit_tensors
from deepclust.runtime.devices import fastest_device, native_bfloat16
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import ALONE, Ranks

# A block's similarities to all centers stay below 128 MB.
BLOCK_SIMILARITIES = 1 << 25
# k-means++ looks at this many rows, or at 16 per center where that is more: seeding then costs less than
# one iteration over a large data set, and at 60 000 samples it finds centers as good as from all of them.
SEEDING_ROWS = 16384
SEEDING_ROWS_PER_CENTER = 16
# Which of several runs is best shows on a sample, of as many rows per center as faiss' k-means trains on.
COMPETING_ROWS = 1 << 17
COMPETING_ROWS_PER_CENTER = 256
PRECISIONS = ("auto", "float32", "bfloat16")
STARTS = ("k-means++", "random")
# With fewer centers the products are no longer what a pass spends its time on. At 20 000 × 1280 and 100 centers
# bfloat16 took 0.42 of the time and, over 6 seeds, ended within 1e-5 of float32's mean objective (seeds: 2e-4).
HALF_CLUSTERS = 32


@dataclass(frozen=True)
class KMeansResult:
    """What one k-means run ended with.

    Attributes:
        centroids_CD: float32 centers of norm 1.
        labels_N: int32, the closest center of each sample.
        similarity: mean cosine similarity of the samples to their centers; the objective, higher is better.
        n_iter: updates of the centers in the run that was kept; where runs competed on a sample, those afterwards.
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
    ranks: Ranks = ALONE,
    precision: str = "auto",
) -> KMeansResult:
    """Cluster the directions of the samples: the best of `n_init` runs by mean cosine similarity.

    Above 131 072 samples, and 256 for each cluster, the runs compete on a random sample of so many, and the best of
    them goes on over all samples until it has converged there.

    A center that loses all its samples is moved to the sample that is least similar to its own center.

    Args:
        features_ND: any real dtype, in memory or memory-mapped, normalized or not.
        n_clusters: C, at least 1 and at most N.
        n_init: independent runs, each from its own seeding; one run looks at all samples.
        max_iter: at most this many updates of the centers per run.
        tol: a run has converged once an update raises the mean similarity by less than this share of it.
        init: `k-means++` (greedy, as scikit-learn's) or `random` (distinct samples).
        seed: the same seed and settings give the same labels.
        ranks: processes that share the work, all of which call with the same arguments: each assigns its part of the
            rows, and all return the same result, that of one process up to float order.
        precision: of the comparisons: `float32`; `bfloat16`: in all passes but the last ones, so that the labels are
            exact; `auto`: bfloat16 where the device multiplies it natively and C is 32 or more.

    Raises:
        InputError: if the features are no N × D matrix with D ≥ 2, hold NaN, infinite or zero rows, if C < 1 or
            C > N, or if a setting is out of range.
    """
    _check_settings(n_clusters, n_init, max_iter, init, precision)
    check_matrix(features_ND)
    n_samples = features_ND.shape[0]
    if n_samples < 2:
        raise InputError("features have n_samples=1: k-means needs at least 2, give more samples")
    if n_clusters > n_samples:
        raise InputError(
            f"n_clusters is {n_clusters}, but n_samples={n_samples}: ask for fewer clusters or give more samples"
        )
    half = precision == "bfloat16" or (precision == "auto" and n_clusters >= HALF_CLUSTERS and native_bfloat16())
    unit = _unit_rows(features_ND, half, ranks)  # looks at all rows first: what is wrong is refused by its number
    sample_ND = _competing_rows(features_ND, n_clusters, seed) if n_init > 1 else None
    competing = unit if sample_ND is None else _unit_rows(sample_ND, half, ranks)
    best: tuple[np.ndarray, np.ndarray, float, int] | None = None
    for run in range(n_init):
        rng = np.random.default_rng([seed, run])
        centroids_CD = _seed_centroids(competing, n_clusters, init, rng, ranks, half)
        found = _lloyd(competing, centroids_CD, max_iter, tol, ranks, half)
        if best is None or found[2] > best[2]:
            best = found
    assert best is not None
    if competing is not unit:
        del competing
        best = _lloyd(unit, best[0], max_iter, tol, ranks, half)
    centroids_CD, labels_S, similarity, n_iter = best
    return KMeansResult(centroids_CD, ranks.gather(labels_S), similarity, n_iter, seed)


def kmeans_predict(
    features_ND: Rows, centroids_CD: np.ndarray, top: int = TOP, *, ranks: Ranks = ALONE
) -> tuple[np.ndarray, np.ndarray]:
    """The closest centers of each sample by cosine similarity, in blocks.

    Args:
        features_ND: samples, normalized or not.
        centroids_CD: centers of norm 1.
        top: T, how many centers to keep; C where there are fewer.
        ranks: processes that share the rows, all of which call with the same arguments and return the same.

    Returns:
        (N,) int32 labels and (N, T) int32 center ids, the closest first.

    Raises:
        InputError: if the features do not match the centers, or hold NaN, infinite or zero rows.
    """
    check_matrix(features_ND)
    if features_ND.shape[1] != centroids_CD.shape[1]:
        raise InputError(
            f"features have {features_ND.shape[1]} dimensions, the centers have {centroids_CD.shape[1]}: "
            "give features of the encoder that the centers were fitted on"
        )
    share, device = ranks.share(features_ND.shape[0]), fastest_device()
    centroids_DC = torch.from_numpy(np.array(centroids_CD, dtype=np.float32)).to(device).T
    top_ids_ST = np.empty((share.stop - share.start, min(top, len(centroids_CD))), np.int32)
    with ranks.all_or_none():
        for start, block_BD in unit_tensors(features_ND, share, device):
            found_BT = closest(block_BD, centroids_DC, top_ids_ST.shape[1])
            top_ids_ST[start - share.start :][: len(block_BD)] = found_BT.cpu().numpy()
    top_ids_NT = ranks.gather(top_ids_ST)
    return top_ids_NT[:, 0].copy(), top_ids_NT


def _competing_rows(features_ND: Rows, n_clusters: int, seed: int) -> Rows | None:
    """The sample of rows on which several runs compete; None where it would be all."""
    n_rows = max(COMPETING_ROWS, COMPETING_ROWS_PER_CENTER * n_clusters)
    if len(features_ND) <= n_rows:
        return None
    return RowView(features_ND, np.sort(np.random.default_rng(seed).choice(len(features_ND), n_rows, replace=False)))


def _unit_rows(features_ND: Rows, half: bool, ranks: Ranks) -> UnitRows:
    with ranks.all_or_none():
        return UnitRows(features_ND, ranks.share(features_ND.shape[0]), half=half, device=fastest_device())


def _check_settings(n_clusters: int, n_init: int, max_iter: int, init: str, precision: str) -> None:
    for name, value in (("n_clusters", n_clusters), ("n_init", n_init), ("max_iter", max_iter)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} is {value!r}: k-means needs a whole number of at least 1")
    if init not in STARTS:
        raise InputError(f"init is '{init}': k-means starts from 'k-means++' or 'random'")
    if precision not in PRECISIONS:
        raise InputError(f"precision is '{precision}': choose one of {', '.join(PRECISIONS)}")


def closest(block_BD: Tensor, centroids_DC: Tensor, top: int) -> Tensor:
    """(B, top) numbers of the closest centers, the closest first."""
    parts = block_BD.split(max(64, BLOCK_SIMILARITIES // centroids_DC.shape[1]))
    if top == 1:
        return torch.cat([largest_column(part_BD @ centroids_DC)[:, None] for part_BD in parts])
    return torch.cat([(part_BD @ centroids_DC).topk(top, dim=1).indices for part_BD in parts])


def largest_column(values_BC: Tensor) -> Tensor:
    """(B,) the column of each row's largest value, the first of equals.

    On a CPU NumPy searches: torch does it number by number, and takes 5 times as long at 1000 columns.
    """
    if values_BC.device.type != "cpu":
        return values_BC.argmax(dim=1)
    if values_BC.dtype != torch.bfloat16:
        return torch.from_numpy(values_BC.numpy().argmax(axis=1))
    # Numbers above 0 are in the order of their bits, read as an integer, and numbers below 0 are below them.
    columns_B = torch.from_numpy(values_BC.view(torch.int16).numpy().argmax(axis=1))
    without_B = torch.nonzero(values_BC.gather(1, columns_B[:, None])[:, 0] <= 0)[:, 0]
    columns_B[without_B] = values_BC[without_B].argmax(dim=1)
    return columns_B


def _seed_centroids(
    unit: UnitRows, n_clusters: int, init: str, rng: np.random.Generator, ranks: Ranks, half: bool
) -> np.ndarray:
    """Rank 0 chooses for all ranks, so that rounding cannot differ and the others need not read the sample."""
    centroids_CD = np.empty((n_clusters, unit.dim), np.float32)
    if ranks.rank == 0:
        if init == "random":
            centroids_CD = unit.take(np.sort(rng.choice(unit.n_total, n_clusters, replace=False)))
        else:
            n_rows = min(unit.n_total, max(SEEDING_ROWS, SEEDING_ROWS_PER_CENTER * n_clusters))
            # Sorted, so that a memory-mapped file is read front to back.
            sample_SD = unit.take(np.sort(rng.choice(unit.n_total, n_rows, replace=False)))
            # ½‖x - y‖² = ½‖x‖² + ½‖y‖² - x·y about any origin; about the mean products and their rounding are small.
            centered_SD = torch.from_numpy(sample_SD - sample_SD.mean(axis=0)).to(unit.device)
            chosen_C = greedy_plus_plus(centered_SD, n_clusters, rng, half)
            centroids_CD = sample_SD[chosen_C.cpu().numpy()]
    return ranks.from_first(centroids_CD)


def greedy_plus_plus(centered_SD: Tensor, n_clusters: int, rng: np.random.Generator, half: bool) -> Tensor:
    """(C,) rows chosen by k-means++ with 2 + ln C candidates per step, of which the one that lowers the objective most
    is kept.

    Arthur & Vassilvitskii 2007; the probability of a row is proportional to 1 - cosine, half its squared distance.
    All is drawn before, so that no step waits for what the device has found.
    """
    n_rows, device = len(centered_SD), centered_SD.device
    first = int(rng.integers(n_rows))
    draws_MR = torch.from_numpy(rng.random((n_clusters - 1, 2 + int(np.log(n_clusters))))).to(device)
    halves_S = centered_SD.square().sum(dim=1) / 2
    compared_SD = centered_SD.bfloat16() if half else centered_SD

    def distances_to(rows_R: Tensor) -> Tensor:
        products_RS = (compared_SD @ compared_SD.index_select(0, rows_R).T).float().T
        distances_RS = halves_S.index_select(0, rows_R)[:, None] + halves_S - products_RS
        return distances_RS.scatter_(1, rows_R[:, None], 0.0).clamp_min_(0)

    chosen_C = torch.full((n_clusters,), first, device=device)
    distances_S = distances_to(chosen_C[:1])[0]
    for step, draws_R in enumerate(draws_MR, start=1):
        cumulative_S = distances_S.cumsum(0, dtype=torch.float64)
        total = cumulative_S[-1:]
        candidates_R = torch.searchsorted(cumulative_S, draws_R * total, right=True)
        # Fewer distinct rows than centers: no distance is left, and every row is as good.
        candidates_R = torch.where(total > 0, candidates_R, (draws_R * n_rows).long()).clamp_max_(n_rows - 1)
        distances_RS = torch.minimum(distances_to(candidates_R), distances_S)
        best_1 = distances_RS.sum(dim=1, dtype=torch.float64).argmin(dim=0, keepdim=True)
        chosen_C[step : step + 1] = candidates_R.index_select(0, best_1)
        distances_S = distances_RS.index_select(0, best_1)[0]
    return chosen_C


def _lloyd(
    unit: UnitRows, centroids_CD: np.ndarray, max_iter: int, tol: float, ranks: Ranks, half: bool
) -> tuple[np.ndarray, np.ndarray, float, int]:
    """One run: the centers, the labels of this rank's share, the mean similarity of all samples, the updates.

    With `half` the first passes compare in bfloat16 and the last ones in float32: rounding decides about samples
    between two centers only, and once nothing else moves, exact passes settle those.
    """
    previous_similarity = -np.inf
    previous_empty = 0
    for n_iter in range(max_iter + 1):
        half = half and n_iter < max_iter
        labels_S, sums_CD = _assign(unit, centroids_CD, half)
        sums_CD = ranks.sum(sums_CD)
        counts_C = ranks.sum(np.bincount(labels_S, minlength=len(centroids_CD)))
        # Σ_n x_n · c(n) = Σ_c s_c · c: exact for these labels, whatever the comparison was rounded to.
        similarity = float((sums_CD * centroids_CD).sum()) / unit.n_total
        n_empty = int((counts_C == 0).sum())
        # Empty centers may stay empty where there are fewer distinct directions than clusters.
        converged = similarity - previous_similarity <= tol * abs(similarity) and n_empty in (0, previous_empty)
        # Stop after an exact assignment, never after an update: the labels returned belong to the centers returned.
        if n_iter == max_iter or (converged and not half):
            break
        half = half and not converged
        if n_empty:
            _refill_empty(unit, centroids_CD, labels_S, counts_C, sums_CD, ranks)
        lengths_C = np.linalg.norm(sums_CD, axis=1)
        has_direction_C = lengths_C > 1e-12  # members may cancel out, or an empty center found no refill
        centroids_CD = centroids_CD.copy()
        centroids_CD[has_direction_C] = sums_CD[has_direction_C] / lengths_C[has_direction_C, None]
        previous_similarity, previous_empty = similarity, n_empty
    return centroids_CD, labels_S, similarity, n_iter


def _assign(unit: UnitRows, centroids_CD: np.ndarray, half: bool) -> tuple[np.ndarray, np.ndarray]:
    """One pass over the share: the closest center of each row, and the sum of each center's members (float64)."""
    labels_S, sums_CD = assigned(unit, torch.from_numpy(centroids_CD).to(unit.device), half)
    return labels_S.cpu().numpy().astype(np.int32), sums_CD.cpu().numpy()


def assigned(unit: UnitRows, centroids_CD: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    """As `_assign`, where the rows are."""
    columns_CD = centroids_CD
    if half:
        # The part that all centers share does not change which is closest; without it products and rounding are small.
        columns_CD = (columns_CD - columns_CD.mean(dim=0)).bfloat16()
    columns_DC = columns_CD.T
    rows_at_once = max(64, BLOCK_SIMILARITIES // len(centroids_CD))
    labels_S = torch.empty(len(unit), dtype=torch.long, device=unit.device)
    sums_CD = torch.zeros(centroids_CD.shape, dtype=torch.float64, device=unit.device)
    for start, block_BD in unit.tensors():
        compared_BD = unit.as_half(start, block_BD) if half else block_BD
        parts = [largest_column(part_BD @ columns_DC) for part_BD in compared_BD.split(rows_at_once)]
        labels_B = torch.cat(parts)
        labels_S[start : start + len(block_BD)] = labels_B
        add_members_(sums_CD, labels_B, block_BD)
    return labels_S, sums_CD


def add_members_(sums_CD: Tensor, labels_B: Tensor, block_BD: Tensor, dtype: type = np.float32) -> None:
    """Add each row to the float64 sum of its cluster, in place; on a CPU a sparse product does it, which is faster.

    Args:
        dtype: in which that product adds up.
    """
    if sums_CD.device.type != "cpu":
        sums_CD.index_add_(0, labels_B, block_BD.double())
        return
    members_BC = sparse.csr_array(
        (np.ones(len(block_BD), dtype), labels_B.int().numpy(), np.arange(len(block_BD) + 1)),
        shape=(len(block_BD), len(sums_CD)),
    )
    sums_CD += torch.from_numpy(members_BC.T @ block_BD.numpy())


def _refill_empty(
    unit: UnitRows,
    centroids_CD: np.ndarray,
    labels_S: np.ndarray,
    counts_C: np.ndarray,
    sums_CD: np.ndarray,
    ranks: Ranks,
) -> None:
    """Give each empty center the sample that fits its own center worst; changes `sums_CD` in place.

    Each rank offers its own worst rows, and all ranks choose the same among those.
    """
    empty_C = np.flatnonzero(counts_C == 0)
    similarities_S = np.empty(len(unit), np.float32)
    centers_CD = torch.from_numpy(centroids_CD).to(unit.device)
    for start, block_BD in unit.tensors():
        rows = slice(start, start + len(block_BD))
        own_BD = centers_CD.index_select(0, torch.from_numpy(labels_S[rows]).to(unit.device))
        similarities_S[rows] = torch.linalg.vecdot(block_BD, own_BD).cpu().numpy()
    offered = np.argsort(similarities_S, kind="stable")[: len(empty_C)]
    ids, labels = ranks.gather(offered + unit.first), ranks.gather(labels_S[offered])
    # A singleton fits perfectly, so the worst samples never empty another cluster of one.
    worst = np.argsort(ranks.gather(similarities_S[offered]), kind="stable")[: len(empty_C)]
    rows_D = unit.take(ids[worst])
    np.subtract.at(sums_CD, labels[worst], rows_D)
    sums_CD[empty_C[: len(worst)]] = rows_D


class SphericalKMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Spherical k-means as a scikit-learn estimator; see `spherical_kmeans`.

    Args:
        n_clusters: C, at least 1 and at most N.
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

    @whole_fit
    def fit(self, X: Any, y: Any = None) -> SphericalKMeans:
        """Cluster the rows of X; y is ignored.

        Raises:
            InputError: as `spherical_kmeans`.
        """
        features_ND = validated_rows(self, X)
        result = spherical_kmeans(
            features_ND,
            self.n_clusters,
            n_init=self.n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            init=self.init,
            seed=seed_of(self.random_state),
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
        for start, block_BD in unit_blocks(features_ND):
            similarities_NC[start : start + len(block_BD)] = block_BD @ self.cluster_centers_.T
        return similarities_NC.astype(np.float64) if features_ND.dtype == np.float64 else similarities_NC

    def _validated(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return validated_rows(self, X, reset=False)

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)
