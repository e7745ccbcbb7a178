"""The silhouette: what can be said about a clustering without labels.

For squared Euclidean and cosine distance the mean distance of a sample to a cluster follows from the cluster's mean
and mean squared norm alone, so the silhouette is exact at O(N · C · D) and needs two passes over blocks of rows. Other
distances need all pairs, which `pairwise_silhouette` walks block by block: exact up to `PAIRWISE_SAMPLES`,
sampled above.

Noise is one more cluster of the silhouette, as it is one more class for AMI: a method does not win by leaving out the
samples between clusters, and the clearly negative silhouettes of HDBSCAN in Lowe et al. 2023 (tables 4 and 5) imply the
same; their code computes them so.

Shape suffixes: N samples, D feature dimensions, C clusters, B samples in a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from deepclust.clustering import NOISE
from deepclust.features.rows import Rows
from deepclust.features.unit_rows import as_tensor
from deepclust.metrics.pairwise_silhouette import PAIRWISE_METRICS, pairwise_silhouette_samples
from deepclust.runtime.devices import fastest_device
from deepclust.runtime.errors import InputError
from deepclust.spherical_kmeans import add_members_

Metric = Literal["cosine", "sqeuclidean", "euclidean", "l1", "linf"]
SILHOUETTES = ("cosine", "sqeuclidean", *PAIRWISE_METRICS)

# All pairs of 100 000 samples in 50 dimensions take about 80 s on one core; the time grows with the square.
PAIRWISE_SAMPLES = 100_000
BLOCK_ROWS = 16384
# A block's B × C scores stay below 128 MB.
BLOCK_SCORES = 1 << 25


@dataclass(frozen=True)
class Silhouette:
    """A mean silhouette, its distance, and the samples it was computed on.

    Attributes:
        value: in [-1, 1]; None where it is not defined.
        metric: the distance.
        n_used: samples that took part in it.
        n_samples: N.
        reason: why there is no value, or empty.
    """

    value: float | None
    metric: str
    n_used: int
    n_samples: int
    reason: str = ""


def silhouette(
    features_ND: Rows,
    labels_N: np.ndarray,
    *,
    metric: Metric = "cosine",
    max_pairwise: int | None = None,
    seed: int = 0,
) -> Silhouette:
    """Mean silhouette (Rousseeuw 1987) in the space of the given features; noise is one more cluster.

    Args:
        features_ND: the features that were clustered.
        labels_N: cluster ids, -1 for noise. At least two clusters must be found; noise is none of them.
        metric: `cosine` and `sqeuclidean` are exact at any N; `euclidean`, `l1` and `linf` look at all pairs.
        max_pairwise: samples that these three look at, drawn at random where there are more; default
            `PAIRWISE_SAMPLES`.
        seed: of that draw.

    Raises:
        InputError: if there is not one label per row, or the metric is unknown.
    """
    labels_N = _checked_labels(features_ND, labels_N, SILHOUETTES, metric)
    n_samples = len(labels_N)
    n_found = len(np.unique(labels_N[labels_N != NOISE]))
    if n_found < 2 or n_found == n_samples:
        reason = f"{n_found} clusters of {n_samples} samples, it needs at least 2 and fewer than the samples"
        return Silhouette(None, metric, 0, n_samples, reason)
    if metric == "cosine" or metric == "sqeuclidean":
        value = float(silhouette_samples(features_ND, labels_N, metric=metric).mean())
        return Silhouette(value, metric, n_samples, n_samples)
    limit = PAIRWISE_SAMPLES if max_pairwise is None else max_pairwise
    rows = np.arange(n_samples)
    if n_samples > limit:
        rows = np.sort(np.random.default_rng(seed).choice(n_samples, limit, replace=False))
    n_drawn = len(np.unique(labels_N[rows]))
    if n_drawn < 2 or n_drawn == len(rows):
        return Silhouette(None, metric, 0, n_samples, f"{n_drawn} clusters among {len(rows)} samples drawn")
    drawn_ND = np.asarray(features_ND[rows], dtype=np.float32)
    value = float(pairwise_silhouette_samples(drawn_ND, labels_N[rows], metric=metric).mean())
    return Silhouette(value, metric, len(rows), n_samples)


def silhouette_samples(
    features_ND: Rows, labels_N: np.ndarray, *, metric: Literal["cosine", "sqeuclidean"] = "cosine"
) -> np.ndarray:
    """Silhouette of each sample, exactly, from cluster means: O(N · C · D) time, O(C · D) memory beside the result.

    Returns:
        (N,) float64, 0 for the only member of a cluster.

    Raises:
        InputError: if there is not one label per row, the metric is unknown, or there are fewer than 2 clusters, noise
            among them.
    """
    labels_N = _checked_labels(features_ND, labels_N, ("cosine", "sqeuclidean"), metric)
    clusters_C, first_C, dense_N = np.unique(labels_N, return_index=True, return_inverse=True)
    if len(clusters_C) < 2:
        raise InputError(f"{len(clusters_C)} cluster found: a silhouette compares at least 2")
    dense_N = first_C.argsort().argsort()[dense_N]  # by first member: what clusters are called does not change a bit
    device = torch.device(fastest_device())
    own_N, sizes_C = torch.from_numpy(dense_N).to(device), torch.from_numpy(np.bincount(dense_N)).to(device)
    means_CD, spread_C = _cluster_moments(features_ND, own_N, sizes_C, metric)
    means_DC, spread_C = means_CD.float().T.contiguous(), spread_C.float()
    result_N = np.empty(len(labels_N))
    rows_at_once = max(64, min(BLOCK_ROWS, BLOCK_SCORES // len(clusters_C)))
    for rows, block_BD in _blocks(features_ND, metric, rows_at_once, device):
        result_N[rows] = silhouette_of_block(block_BD, own_N[rows], sizes_C, means_DC, spread_C).cpu().numpy()
    return result_N


def silhouette_of_block(block_BD: Tensor, own_B: Tensor, sizes_C: Tensor, means_DC: Tensor, spread_C: Tensor) -> Tensor:
    """(B,) silhouettes of some rows, where they are.

    Args:
        block_BD: float32 rows.
        own_B: the cluster of each.
        sizes_C: members of each cluster.
        means_DC: float32 means of the clusters.
        spread_C: float32 mean squared norms of their members.
    """
    # Mean squared distance to the members of c: |x|² + E|y|² - 2 x·E[y].
    distances_BC = (block_BD @ means_DC).mul_(-2).add_(spread_C).add_(block_BD.square().sum(dim=1, keepdim=True))
    own_B1 = own_B[:, None]
    # The mean over the others: the sample's zero distance to itself is in the sum but not in the count.
    size_B = sizes_C.index_select(0, own_B)
    within_B = distances_BC.gather(1, own_B1)[:, 0].clamp_min(0) * size_B / (size_B - 1).clamp_min(1)
    between_B = distances_BC.scatter_(1, own_B1, torch.inf).amin(dim=1).clamp_min(0)
    widest_B = torch.maximum(within_B, between_B)
    values_B = (between_B - within_B) / torch.where(widest_B > 0, widest_B, 1)
    return torch.where(size_B > 1, values_B, 0)


def _checked_labels(features_ND: Rows, labels_N: np.ndarray, known: tuple[str, ...], metric: str) -> np.ndarray:
    labels_N = np.asarray(labels_N)
    if metric not in known:
        raise InputError(f"silhouette metric '{metric}' is unknown here: choose one of {', '.join(known)}")
    if labels_N.shape != (features_ND.shape[0],):
        raise InputError(
            f"the clustering has shape {labels_N.shape}, but there are {features_ND.shape[0]} rows of features: "
            "give one cluster id per row"
        )
    return labels_N


def _cluster_moments(features_ND: Rows, own_N: Tensor, sizes_C: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Each cluster's mean and mean squared norm, in float64, of the rows as `_blocks` gives them."""
    sums_CD = torch.zeros(len(sizes_C), features_ND.shape[1], dtype=torch.float64, device=own_N.device)
    squares_C = sums_CD.new_zeros(len(sizes_C))
    for rows, block_BD in _blocks(features_ND, metric, BLOCK_ROWS, own_N.device):
        add_members_(sums_CD, own_N[rows], block_BD, np.float64)
        squares_C.index_add_(0, own_N[rows], block_BD.square().sum(dim=1).double())
    return sums_CD / sizes_C[:, None], squares_C / sizes_C


def _blocks(features_ND: Rows, metric: str, rows_at_once: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, float32 block on the device).

    Cosine distance is half the squared Euclidean distance of the normalized rows, and a silhouette is a ratio of
    distances: normalizing is all that cosine takes. Distances do not change when all rows move together, but their
    rounding does: the mean of the first rows becomes the origin.
    """
    origin_D = _rows(features_ND, slice(0, BLOCK_ROWS), metric, device).mean(dim=0)
    for start in range(0, features_ND.shape[0], rows_at_once):
        rows = slice(start, start + rows_at_once)
        yield rows, _rows(features_ND, rows, metric, device) - origin_D


def _rows(features_ND: Rows, where: slice, metric: str, device: torch.device) -> Tensor:
    block_BD = as_tensor(features_ND, where).to(device).float()
    if metric != "cosine":
        return block_BD
    norms_B1 = torch.linalg.vector_norm(block_BD, dim=1, keepdim=True)
    return block_BD / torch.where(norms_B1 > 0, norms_B1, 1)
