"""What every clusterer is: features in, Clusterings out.

A new clusterer is one file with a dataclass derived from `Clusterer`, and its lines in the registry.

Shape suffixes: N samples, D feature dimensions, C clusters, T closest clusters per sample, B rows of a block.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from deepclust.clustering import NOISE, TOP, Clustering, display_name
from deepclust.features.arrays import check_rows
from deepclust.features.rows import Rows
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.runtime.settings import check_settings, seed_setting, setting
from deepclust.spherical_kmeans import kmeans_predict

BLOCK_ROWS = 16384
# The default `max_samples` of methods whose time grows with N² or faster: no run should take an hour unasked.
MAX_SAMPLES = 10_000
NORMALIZATIONS = ("l2", "none")


def max_samples_setting(default: int | None) -> Any:
    """A `setting` of how many samples a method is run on at most."""
    return setting(default, "samples that the method is run on; null: all", at_least=2, whole=True, optional=True)


@dataclass(eq=False)
class Clusterer(ABC):
    """A clusterer that is fitted on one split and can assign the samples of another.

    One rule says which space is clustered. `normalize="l2"`, the default, is for features of an encoder: rows are
    scaled to length 1, so that they are compared by direction and need not be normalized. `normalize="none"` takes the
    rows as they are and is for a space whose Euclidean distances have a meaning of their own, such as what `Reduction`
    makes; whoever has reduced the features passes it. New samples of a method without a rule of its own go to the
    nearest cluster mean in the same space: by cosine similarity under `l2`, by Euclidean distance under `none`.

    Above `max_samples` the method is run on a random subsample, and every other sample is assigned as new samples are.
    The notes of the Clustering say so.

    Subclasses are dataclasses of their settings with a `name`; they implement `_fit`, override `check` with what they
    refuse, and `_predict` where the method has a rule of its own for new samples.

    Args:
        n_clusters: C; a method with `needs_n_clusters = False` finds it and ignores this one.
        seed: the same seed gives the same labels.
        normalize: `l2` or `none`.
        max_samples: how many samples the method is run on at most; None: all.

    Raises:
        InputError: if C is not given to a method that needs it, or a setting is out of range.
    """

    name: ClassVar[str]
    needs_n_clusters: ClassVar[bool] = True
    # Whether the processes of a distributed run share the work of `fit`; if not, the first process does it alone.
    over_ranks: ClassVar[bool] = False
    fewest_clusters: ClassVar[int] = 1

    n_clusters: int | None = setting(None, "C", whole=True)
    _: KW_ONLY
    seed: int = seed_setting(0, "of what is drawn")
    normalize: str = setting("l2", "of the rows", choices=NORMALIZATIONS)
    max_samples: int | None = max_samples_setting(None)
    # Whether the method settled; None for methods that always do.
    converged: bool | None = field(default=None, init=False, repr=False)
    _ranks: Ranks = field(default=ALONE, init=False, repr=False)
    _centroids_CD: np.ndarray | None = field(default=None, init=False, repr=False)
    # The cluster id of each centroid; an id without members has no centroid.
    _centroid_ids_C: np.ndarray | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.needs_n_clusters:
            self.n_clusters = None
        elif self.n_clusters is None:
            raise InputError(f"{self.name} needs the number of clusters: set n_clusters=")
        check_settings(self)

    @classmethod  # noqa: B027
    def check_installed(cls) -> None:
        """Refuse a method whose library is not there.

        Raises:
            InputError: saying what to install.
        """

    def n_fitted(self, n_samples: int) -> int:
        """How many of so many samples the method itself is run on."""
        return min(n_samples, self.max_samples or n_samples)

    @property
    def settings(self) -> dict[str, Any]:
        """What the method is run with, as kept in the Clustering."""
        return {setting.name: getattr(self, setting.name) for setting in fields(self) if setting.init}

    @abstractmethod
    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        """(N,) labels, (N, T) closest clusters or None, and notes for the table."""

    def fit(self, features_ND: Rows, ranks: Ranks = ALONE) -> Clustering:
        """Cluster the features.

        Args:
            features_ND: N × D.
            ranks: the processes that share the work, all of which call; for methods `over_ranks`.

        Raises:
            InputError: if the features hold NaN, infinite or (under `l2`) zero rows, or do not suit the settings.
        """
        start = time.perf_counter()
        self._ranks = ranks
        if features_ND.ndim != 2:
            raise InputError(f"features have shape {features_ND.shape}: give a matrix, one row per sample")
        n_samples = features_ND.shape[0]
        self.check(n_samples)
        if self.max_samples is None or n_samples <= self.max_samples:
            labels_N, top_ids_NT, notes = self._fit(features_ND)
        else:
            labels_N, top_ids_NT, notes = self._fit_subsample(features_ND, self.max_samples)
        return self._clustering(labels_N, top_ids_NT, time.perf_counter() - start, notes)

    def check(self, n_samples: int) -> None:
        """Refuse a number of samples that the settings, or the memory at hand, do not allow.

        Raises:
            InputError: saying what to change.
        """
        n_used = self.n_fitted(n_samples)
        fewest = self.fewest_clusters
        if self.n_clusters is not None and not fewest <= self.n_clusters <= n_used:
            raise InputError(
                f"n_clusters is {self.n_clusters}: {self.name} clustering of {n_used} samples gives {fewest} to "
                f"{n_used}" + (f"; raise max_samples (there are {n_samples} samples)" if n_used < n_samples else "")
            )
        self._check(n_used)

    def _check(self, n_samples: int) -> None:  # noqa: B027
        """Refuse a number of samples that this method cannot be run on."""

    def _fit_subsample(self, features_ND: Rows, n_drawn: int) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        n_samples = features_ND.shape[0]
        drawn_S = np.sort(np.random.default_rng(self.seed).choice(n_samples, n_drawn, replace=False))
        sample_SD = np.asarray(features_ND[drawn_S])
        check_rows(sample_SD, drawn_S, zeros=self.normalize == "none")
        drawn_labels_S, _, notes = self._fit(sample_SD)
        labels_N, _ = self._nearest(features_ND)
        labels_N[drawn_S] = drawn_labels_S
        note = (
            f"{display_name(self.name)} was run on {n_drawn} of {n_samples} samples drawn at random; the others joined "
            "the nearest cluster mean."
        )
        return labels_N, None, (note, *notes)

    def predict(self, features_ND: Rows) -> Clustering:
        """Assign new samples to the clusters that `fit` found.

        Raises:
            InputError: if nothing was fitted, or the features are of another dimension.
        """
        start = time.perf_counter()
        labels_N, top_ids_NT, notes = self._predict(features_ND)
        return self._clustering(labels_N, top_ids_NT, time.perf_counter() - start, notes)

    def _predict(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        note = f"{display_name(self.name)} has no rule for new samples: they joined the nearest cluster mean."
        return (*self._nearest(features_ND), (note,))

    def _compared_rows(self, features_ND: Rows) -> np.ndarray:
        """(N, D) float32 rows in memory, as the method compares them.

        Raises:
            InputError: if the features hold NaN, infinite or (under `l2`) zero rows.
        """
        rows_ND = np.array(features_ND[:], dtype=np.float32)
        check_rows(rows_ND, zeros=self.normalize == "none")
        return unit(rows_ND) if self.normalize == "l2" else rows_ND

    @property
    def _by_direction(self) -> bool:
        """Whether the nearest centroid is the one of the most similar direction."""
        return self.normalize == "l2"

    def _nearest(self, features_ND: Rows, ranks: Ranks = ALONE) -> tuple[np.ndarray, np.ndarray]:
        """Labels and top ids of the nearest centroids; all noise where no cluster was found.

        Args:
            ranks: the processes that share the rows where they are compared by direction.
        """
        if self._centroids_CD is None or self._centroid_ids_C is None:
            raise InputError(f"{self.name} was not fitted: call fit before predict")
        if features_ND.ndim != 2 or features_ND.shape[1] != self._centroids_CD.shape[1]:
            raise InputError(
                f"features have shape {features_ND.shape}, but the clusters were found in "
                f"{self._centroids_CD.shape[1]} dimensions: give features of the same encoder and reduction"
            )
        if len(self._centroids_CD) == 0:
            return np.full(len(features_ND), NOISE, np.int32), np.full((len(features_ND), 1), NOISE, np.int32)
        if self._by_direction:
            _, rows_NT = kmeans_predict(features_ND, self._centroids_CD, ranks=ranks)
        else:
            rows_NT = _nearest_euclidean(features_ND, self._centroids_CD, normalize=self.normalize == "l2")
        top_ids_NT = self._centroid_ids_C[rows_NT].astype(np.int32)
        return top_ids_NT[:, 0].copy(), top_ids_NT

    def _keep_centroids(self, features_ND: Rows, labels_N: np.ndarray) -> None:
        """Remember the mean of each cluster's members; under `l2` the mean direction."""
        self._centroid_ids_C = np.unique(labels_N[labels_N != NOISE])
        centroids_CD = np.zeros((len(self._centroid_ids_C), features_ND.shape[1]))
        counts_C = np.zeros(len(self._centroid_ids_C))
        for start in range(0, features_ND.shape[0], BLOCK_ROWS):
            own_B = labels_N[start : start + BLOCK_ROWS]
            clustered_B = own_B != NOISE
            block_BD = np.asarray(features_ND[start : start + BLOCK_ROWS], dtype=np.float64)[clustered_B]
            if self.normalize == "l2":
                block_BD /= np.linalg.norm(block_BD, axis=1, keepdims=True)
            places_B = np.searchsorted(self._centroid_ids_C, own_B[clustered_B])
            np.add.at(centroids_CD, places_B, block_BD)
            counts_C += np.bincount(places_B, minlength=len(counts_C))
        if self.normalize == "l2":
            # The members of a cluster may point in opposite directions, and their mean may be zero.
            scale_C = np.maximum(np.linalg.norm(centroids_CD, axis=1), 1e-12)
        else:
            scale_C = counts_C
        self._centroids_CD = (centroids_CD / scale_C[:, None]).astype(np.float32)

    def _clustering(
        self, labels_N: np.ndarray, top_ids_NT: np.ndarray | None, seconds: float, notes: Sequence[str]
    ) -> Clustering:
        return Clustering(
            labels=labels_N.astype(np.int32),
            method=self.name,
            n_clusters=self.n_clusters,
            top_ids=top_ids_NT,
            settings=self.settings,
            seconds=seconds,
            notes=tuple(notes),
        )


def unit(rows_ND: np.ndarray) -> np.ndarray:
    """The rows scaled to length 1, in place."""
    rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return rows_ND


def _nearest_euclidean(features_ND: Rows, centroids_CD: np.ndarray, *, normalize: bool) -> np.ndarray:
    """(N, T) numbers of the closest centroids, nearest first."""
    top = min(TOP, len(centroids_CD))
    origin_D = centroids_CD.mean(axis=0, dtype=np.float64)
    centered_CD = centroids_CD - origin_D
    half_norms_C = np.einsum("cd,cd->c", centered_CD, centered_CD) / 2
    rows_NT = np.empty((features_ND.shape[0], top), np.int64)
    for start in range(0, len(rows_NT), BLOCK_ROWS):
        block_BD = np.array(features_ND[start : start + BLOCK_ROWS], dtype=np.float64)
        check_rows(block_BD, start, zeros=not normalize)
        block_BD = (unit(block_BD) if normalize else block_BD) - origin_D
        # Half the squared distance, less the sample's own norm, which does not change the order.
        scores_BC = half_norms_C - block_BD @ centered_CD.T
        best_BT = np.argpartition(scores_BC, top - 1, axis=1)[:, :top]
        order_BT = np.argsort(np.take_along_axis(scores_BC, best_BT, axis=1), axis=1, kind="stable")
        rows_NT[start : start + len(block_BD)] = np.take_along_axis(best_BT, order_BT, axis=1)
    return rows_NT
