"""A prior on cluster sizes: the shares of the samples that clusters are asked to have.

The objectives favor equal sizes. Where pairs agree and are sure, TEMI's - log Σ_c (q q')^β / p̃_c is log p̃_c of the
pair's cluster, in the mean Σ p̃ log p̃: lowest for p̃ = 1/C. SCAN's and TSP's entropy term says the same. With a prior π
both measure sizes relative to it, p̃ / π in place of p̃:

    TEMI        - w log Σ_c (q_s q_t)^β · π_c / p̃_c         in the mean, where pairs agree, KL(p̃ ‖ π)
    SCAN, TSP   α Σ_c q̂_c log(q̂_c / π_c) = α KL(q̂ ‖ π)

which is lowest for p̃ = π, and up to a constant the papers' formula for π = 1/C. Clusters have no order, so π is matched
with them by rank: its largest share with the largest cluster. Of all orders of π this one has the lowest KL, so the
gradient is that of the lowest.

Shape suffixes: H heads, C clusters.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import setting

UNIFORM = "uniform"
ZIPF = re.compile(r"zipf\(\s*(\d+(?:\.\d+)?|\.\d+)\s*\)")


def prior_setting() -> Any:
    """The setting `prior` of a loss."""
    return setting(
        UNIFORM,
        "sizes that clusters are asked to have: `uniform`, equal ones; `zipf(a)`, the i-th largest in proportion to "
        "1 / i^a; or a file, `.npy` or text, of C numbers in proportion to which they are",
        text=True,
    )


def check_prior(prior: str, n_clusters: int) -> None:
    """Raises InputError unless a prior has a share above 0 for each cluster."""
    prior_shares(prior, n_clusters)


def log_prior(prior: str, mean_HC: Tensor) -> Tensor | float:
    """(H, C) log π in the order of the clusters' sizes, the largest for the largest; 0 for equal ones.

    Args:
        prior: as set.
        mean_HC: the clusters' shares of the samples as they are.

    Example:
        >>> log_prior("zipf(1)", torch.tensor([[0.1, 0.6, 0.3]])).exp()
        tensor([[0.1818, 0.5455, 0.2727]])
    """
    if prior == UNIFORM:
        return 0.0
    log_shares_C = _log_shares(prior, mean_HC.shape[1], mean_HC.dtype, mean_HC.device)
    order_HC = mean_HC.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(mean_HC).scatter_(1, order_HC, log_shares_C.expand_as(mean_HC))


def prior_shares(prior: str, n_clusters: int) -> np.ndarray:
    """(C,) shares, largest first, that sum to 1.

    Raises:
        InputError: if it is no prior, its file cannot be read, or it has not C numbers, each above 0.
    """
    if prior == UNIFORM:
        return np.full(n_clusters, 1 / n_clusters)
    if (zipf := ZIPF.fullmatch(prior)) is not None:
        sizes = np.arange(1, n_clusters + 1) ** -float(zipf[1])
    else:
        sizes = _sizes_of_file(Path(prior).expanduser())
        if sizes.shape != (n_clusters,):
            raise InputError(f"prior={prior} has {sizes.size} sizes, but n_clusters={n_clusters}: give one per cluster")
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise InputError(f"prior={prior} has a size that is not above 0: every cluster needs one")
    return np.sort(sizes / sizes.sum())[::-1]


def _sizes_of_file(path: Path) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"prior={path} is neither `{UNIFORM}`, nor `zipf(a)`, such as zipf(1), nor a file of sizes")
    try:
        sizes = np.load(path) if path.suffix == ".npy" else np.loadtxt(path, ndmin=1)
        return np.asarray(sizes, dtype=np.float64).ravel()
    except (ValueError, OSError, EOFError):
        raise InputError(f"prior={path} cannot be read: give a .npy of C numbers, or text with one a line") from None


@lru_cache(maxsize=8)
def _log_shares(prior: str, n_clusters: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(np.log(prior_shares(prior, n_clusters))).to(device, dtype)
