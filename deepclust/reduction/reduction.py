"""Features in fewer dimensions, before anything is clustered: PCA, UMAP, PaCMAP.

A reduction is fitted on one split and carries others into the same space; `deepclust.reduction.splits` does so for the
splits of a data set and keeps the result on disk.

Shape suffixes: N samples, D feature dimensions in, P dimensions out, B samples in a block, K neighbors.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any

import faiss
import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from deepclust.features.rows import Rows
from deepclust.neighbors import Neighbors, mine_neighbors
from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import check_value, seed_setting, setting, settings_of

KINDS = ("none", "pca", "umap", "pacmap")
METRICS = ("euclidean", "cosine")
BLOCK_ROWS = 16384
UMAP_NEIGHBORS = 30
# What has to be installed, and how; PaCMAP's own requirements would bring a second faiss over the one that is there.
PACKAGES = {
    "umap": ("umap-learn", "pip install 'deepclust[clusterers]'"),
    "pacmap": ("pacmap", "pip install --no-deps pacmap"),
}


@dataclass(eq=False)
class Reduction:
    """A map of features into a space of fewer dimensions, as in Lowe et al. 2023 (appendix C.2).

    Args:
        kind: `none`; `pca`: each dimension is scaled to zero mean and unit variance, then projected to the principal
            directions, without whitening; `umap`; `pacmap`.
        dims: P, at most D and below N. The paper searches 2 … 500 and settles on 50.
        variance: for `pca` instead of `dims`: as many directions as explain more than this share of the variance.
        n_neighbors: neighbors of a sample, for UMAP itself included. None: 30 for UMAP, as in the paper, and PaCMAP's
            own rule: 10, and more above 10 000 samples.
        min_dist: UMAP's least distance of embedded samples; 0 in the paper.
        metric: `euclidean` (the paper) or `cosine`, in which UMAP and PaCMAP look for neighbors.
        seed: the same seed gives the same result; UMAP then runs on one core.

    Raises:
        InputError: for an unknown kind or metric, or settings out of range.
    """

    kind: str = setting("umap", "the method", choices=KINDS)
    dims: int = setting(50, "P", at_least=1, whole=True)
    variance: float | None = setting(None, "share of the variance instead of dims", above=0, below=1)
    n_neighbors: int | None = setting(None, "neighbors of a sample", at_least=2, whole=True)
    min_dist: float = setting(0.0, "least distance of embedded samples", at_least=0, at_most=1)
    metric: str = setting("euclidean", "in which neighbors are sought", choices=METRICS)
    seed: int = seed_setting(0, "of what is drawn")
    _fitted: Any = field(default=None, init=False, repr=False)
    _in_dim: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown reduction '{self.kind}': choose one of {', '.join(KINDS)}")
        if self.variance is not None and self.kind != "pca":
            raise InputError(f"reduction.variance is for reduction=pca, not for {self.kind}: set reduction.dims")
        for name, one in settings_of(self).items():
            check_value(one, getattr(self, name), f"reduction.{name}")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the result of this kind, without those that it ignores."""
        used = {
            "none": ("kind",),
            "pca": ("kind", "dims" if self.variance is None else "variance"),
            "umap": ("kind", "dims", "n_neighbors", "min_dist", "metric", "seed"),
            "pacmap": ("kind", "dims", "n_neighbors", "metric", "seed"),
        }[self.kind]
        return {setting.name: getattr(self, setting.name) for setting in fields(self) if setting.name in used}

    @property
    def package_version(self) -> str | None:
        """Version of the package that does the work; None where this one does."""
        return version(PACKAGES[self.kind][0]) if self.kind in PACKAGES else None

    def check(self, n_samples: int, dim: int) -> Reduction:
        """Refuse what cannot be done with so many samples and dimensions; returns self.

        Raises:
            InputError: if P is above D or not below N, there are not more samples than neighbors, or a package is
                missing.
        """
        if self.kind == "none":
            return self
        if self.variance is None and (self.dims > dim or self.dims >= n_samples):
            raise InputError(
                f"reduction.dims={self.dims}, but the features are {n_samples} × {dim}: choose at most "
                f"{min(dim, n_samples - 1)}"
            )
        needed = UMAP_NEIGHBORS if self.kind == "umap" else 2
        if self.kind != "pca" and (self.n_neighbors or needed) >= n_samples:
            raise InputError(
                f"reduction={self.kind} looks at {self.n_neighbors or needed} neighbors, but there are only "
                f"{n_samples} samples: set a smaller reduction.n_neighbors"
            )
        self._import()
        return self

    def fit_transform(self, features_ND: Rows, neighbors: Neighbors | None = None) -> np.ndarray:
        """Fit to the samples and reduce them.

        Args:
            features_ND: samples.
            neighbors: mined already, by this `metric` and at least `wanted_neighbors` of them. None: they are mined
                here, for Euclidean distance exactly. UMAP and PaCMAP would approximate them.

        Returns:
            (N, P) float32.

        Raises:
            InputError: as `check`; if the samples hold NaN or infinite values; or if the neighbors are too few or of
                another metric or number of samples.
        """
        _check_finite(features_ND)
        self.check(*features_ND.shape)
        self._in_dim = features_ND.shape[1]
        if self.kind == "none":
            return np.array(features_ND[:], dtype=np.float32)
        if self.kind == "pca":
            self._fitted = _Principal(features_ND, self.dims, self.variance)
            return self._fitted.transform(features_ND)
        rows_ND = np.array(features_ND[:], dtype=np.float32)
        wanted = self.wanted_neighbors(len(rows_ND))
        if neighbors is None:
            neighbors = mine_neighbors(rows_ND, wanted, metric=self.metric)
        self._check_neighbors(neighbors, len(rows_ND))
        make = self._umap if self.kind == "umap" else self._pacmap
        model = make(rows_ND, neighbors.first(wanted))
        with _quiet():
            reduced_NP = model.fit_transform(rows_ND, **({"init": "pca"} if self.kind == "pacmap" else {}))
        self._fitted = (model, rows_ND)
        return np.ascontiguousarray(reduced_NP, dtype=np.float32)

    def transform(self, features_ND: Rows) -> np.ndarray:
        """(N, P) float32: new samples in the space that was fitted; UMAP and PaCMAP place them among the fitted ones.

        Raises:
            InputError: if nothing was fitted, or the samples have other dimensions or hold NaN or infinite values.
        """
        _check_finite(features_ND)
        if self.kind == "none":
            return np.array(features_ND[:], dtype=np.float32)
        if self._fitted is None:
            raise InputError("the reduction was not fitted: call fit_transform before transform")
        if features_ND.shape[1] != self._in_dim:
            raise InputError(
                f"the features have {features_ND.shape[1]} dimensions, the reduction was fitted on {self._in_dim}: "
                "give features of the same encoder"
            )
        if self.kind == "pca":
            return self._fitted.transform(features_ND)
        model, rows_ND = self._fitted
        new_ND = np.array(features_ND[:], dtype=np.float32)
        with _quiet():
            if self.kind == "pacmap":
                reduced_NP = model.transform(new_ND, basis=rows_ND)
            else:
                reduced_NP = model.transform(new_ND)
        return np.ascontiguousarray(reduced_NP, dtype=np.float32)

    def wanted_neighbors(self, n_samples: int) -> int:
        """K: how many neighbors, the sample itself not included, `fit_transform` takes if it is given them."""
        if self.kind == "umap":
            return (self.n_neighbors or UMAP_NEIGHBORS) - 1
        return min(self._pacmap_neighbors(n_samples) + 50, n_samples - 1)  # PaCMAP chooses among 50 more

    @property
    def note(self) -> str:
        """A sentence to stand under a table, once fitted."""
        if self.kind == "pca":
            return self._fitted.note
        name = {"umap": "UMAP", "pacmap": "PaCMAP"}.get(self.kind, self.kind)
        return f"Reduced by {name} to {self.dims} dimensions, in which everything was clustered and scored."

    def _import(self) -> Any:
        if self.kind not in PACKAGES:
            return None
        package, command = PACKAGES[self.kind]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return importlib.import_module(self.kind)
        except ImportError:
            raise InputError(f"reduction={self.kind} needs {package}: {command}") from None

    def _check_neighbors(self, neighbors: Neighbors, n_samples: int) -> None:
        metric = neighbors.metric
        if metric != self.metric:
            raise InputError(
                f"the neighbors are by {metric}, the reduction's metric is {self.metric}: mine by the same"
            )
        wanted = self.wanted_neighbors(n_samples)
        if neighbors.k < wanted or len(neighbors) != n_samples:
            raise InputError(
                f"{neighbors.k} neighbors of {len(neighbors)} samples were given, but the reduction takes {wanted} of "
                f"{n_samples}: mine again with k={wanted}"
            )

    def _umap(self, rows_ND: np.ndarray, neighbors: Neighbors) -> Any:
        return self._import().UMAP(
            n_components=self.dims,
            n_neighbors=neighbors.k + 1,
            min_dist=self.min_dist,
            metric=self.metric,
            random_state=self.seed,
            n_jobs=1,
            precomputed_knn=(*_with_self(neighbors), _ExactIndex(rows_ND, self.metric)),
        )

    def _pacmap(self, rows_ND: np.ndarray, neighbors: Neighbors) -> Any:
        pacmap = self._import()
        n_neighbors = self._pacmap_neighbors(len(rows_ND))
        distances_NK = _distances(neighbors)
        if self.metric == "cosine":  # its angular distance is the Euclidean one of the unit rows
            distances_NK = np.sqrt(2 * distances_NK)
        # PaCMAP's rule: of 50 more than it wants, those that are nearest by the width of both samples' neighborhoods.
        width_N = np.maximum(distances_NK[:, 3:6].mean(axis=1), 1e-10)
        scaled_NK = pacmap.pacmap.scale_dist(distances_NK, width_N, neighbors.ids)
        pairs = pacmap.pacmap.sample_neighbors_pair(rows_ND, scaled_NK, neighbors.ids, n_neighbors)
        with _quiet():
            return pacmap.PaCMAP(
                n_components=self.dims,
                n_neighbors=n_neighbors,
                pair_neighbors=pairs,
                distance="angular" if self.metric == "cosine" else "euclidean",
                apply_pca=False,  # as in Lowe et al.; its own default would look at 100 principal directions only
                random_state=self.seed,
            )

    def _pacmap_neighbors(self, n_samples: int) -> int:
        """PaCMAP's rule, limited where there are few samples: it must not ask for more pairs than there are."""
        chosen = self.n_neighbors or (10 if n_samples <= 10_000 else round(10 + 15 * (np.log10(n_samples) - 4)))
        return max(1, min(int(chosen), int((n_samples - 1) / 3.5)))


class _Principal:
    """Standardization, then principal directions, from sums over blocks in float64: nothing is copied whole."""

    def __init__(self, features_ND: Rows, dims: int, variance: float | None) -> None:
        self._scaler = StandardScaler()
        for start in range(0, len(features_ND), BLOCK_ROWS):
            self._scaler.partial_fit(np.asarray(features_ND[start : start + BLOCK_ROWS], dtype=np.float64))
        covariance_DD = sum(block_BD.T @ block_BD for block_BD in self._scaled(features_ND))
        values_D, vectors_DD = np.linalg.eigh(covariance_DD)
        shares_D = np.maximum(values_D[::-1], 0) / max(values_D.sum(), np.finfo(float).tiny)
        if variance is not None:
            dims = min(int(np.searchsorted(np.cumsum(shares_D), variance, side="right")) + 1, len(shares_D))
        vectors_DP = vectors_DD[:, ::-1][:, :dims]
        # eigh leaves each direction's sign open: the largest entry becomes positive, as in scikit-learn.
        self._components_DP = vectors_DP * np.sign(vectors_DP[np.abs(vectors_DP).argmax(axis=0), np.arange(dims)])
        self.note = (
            f"Reduced by PCA to {dims} dimensions, {100 * shares_D[:dims].sum():.1f} % of the variance, in which "
            "everything was clustered and scored."
        )

    def transform(self, features_ND: Rows) -> np.ndarray:
        """(N, P) float32."""
        blocks = self._scaled(features_ND)
        return np.concatenate([(block_BD @ self._components_DP).astype(np.float32) for block_BD in blocks])

    def _scaled(self, features_ND: Rows) -> Iterator[np.ndarray]:
        for start in range(0, len(features_ND), BLOCK_ROWS):
            yield self._scaler.transform(np.asarray(features_ND[start : start + BLOCK_ROWS], dtype=np.float64))


class _ExactIndex:
    """The search index that UMAP needs to place new samples. It compares each with all fitted ones."""

    _angular_trees = False

    def __init__(self, rows_ND: np.ndarray, metric: str) -> None:
        self._metric = metric
        self._rows_ND = rows_ND

    def query(self, new_ND: np.ndarray, k: int, epsilon: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """(N, K) ids and distances, nearest first; the search is exact, so `epsilon` is ignored."""
        nearest = NearestNeighbors(n_neighbors=k, metric=self._metric, algorithm="brute").fit(self._rows_ND)
        distances_NK, ids_NK = nearest.kneighbors(new_ND)
        return ids_NK.astype(np.int32), distances_NK.astype(np.float32)


def _check_finite(features_ND: Rows) -> None:
    if features_ND.ndim != 2:
        raise InputError(f"features have shape {features_ND.shape}: give a matrix, one row per sample")
    for start in range(0, len(features_ND), BLOCK_ROWS):
        good_B = np.isfinite(np.asarray(features_ND[start : start + BLOCK_ROWS])).all(axis=1)
        if not good_B.all():
            raise InputError(
                f"features hold NaN or infinite values (first: row {start + int(np.argmin(good_B))}): remove or repair "
                "such rows"
            )


def _distances(neighbors: Neighbors) -> np.ndarray:
    """(N, K) float32 cosine distances 1 - cos, or Euclidean distances."""
    distances_NK = (
        -neighbors.similarities if neighbors.metric == "euclidean" else np.maximum(1 - neighbors.similarities, 0)
    )
    return distances_NK.astype(np.float32)


def _with_self(neighbors: Neighbors) -> tuple[np.ndarray, np.ndarray]:
    """(N, K + 1) ids and distances, each sample first among its own neighbors, as UMAP counts."""
    own_N1 = np.arange(len(neighbors), dtype=np.int32)[:, None]
    distances_NK = _distances(neighbors)
    return np.hstack([own_N1, neighbors.ids]), np.hstack([np.zeros_like(distances_NK[:, :1]), distances_NK])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence UMAP's and PaCMAP's remarks, and restore faiss' threads, which a seeded PaCMAP sets to one."""
    threads = faiss.omp_get_max_threads()
    logger = logging.getLogger("pacmap.pacmap")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logger.setLevel(level)
        faiss.omp_set_num_threads(threads)
