"""Affinity propagation as a baseline: samples elect exemplars by messages between all pairs (Frey & Dueck 2007).

Shape suffixes: N samples, D feature dimensions.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.cluster import AffinityPropagation
from sklearn.exceptions import ConvergenceWarning

from deepclust.clusterers.base import MAX_SAMPLES, Clusterer, max_samples_setting
from deepclust.features.rows import Rows
from deepclust.runtime.memory import check_memory
from deepclust.runtime.settings import setting

# At the peak, where 28.5 were measured: similarities, availabilities, responsibilities and a temporary in float32, and
# float64 noise against ties.
BYTES_PER_PAIR = 32


@dataclass(eq=False, kw_only=True)
class AffinityPropagationClusterer(Clusterer):
    """scikit-learn's AffinityPropagation on minus squared Euclidean distances; new samples join the nearest exemplar.

    It finds the number of clusters. Where it does not converge, a note says so.

    Args:
        n_clusters: ignored.
        seed: of the noise that breaks ties.
        normalize: `l2` or `none`.
        max_samples: as in `Clusterer`; None, for all, is refused where the memory does not reach.
        damping: in [0.5, 1). scikit-learn's 0.5 is what Lowe et al. 2023 start from; it oscillates more easily.
        preference: how much a sample wants to be an exemplar; None takes the median similarity.
        max_iter: rounds of messages at most; the paper's code allows 1000.
        convergence_iter: rounds without a change after which it has converged.
    """

    name: ClassVar[str] = "affinity_propagation"
    needs_n_clusters: ClassVar[bool] = False

    max_samples: int | None = max_samples_setting(MAX_SAMPLES)
    damping: float = setting(0.9, "of the messages", at_least=0.5, below=1)
    preference: float | None = setting(None, "how much a sample wants to be an exemplar", number=True)
    max_iter: int = setting(200, "rounds of messages", at_least=1, whole=True)
    convergence_iter: int = setting(15, "rounds without a change", at_least=1, whole=True)

    def _check(self, n_samples: int) -> None:
        remedy = "set a smaller max_samples="
        check_memory(n_samples, BYTES_PER_PAIR * n_samples**2, "affinity propagation", remedy)

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        rows_ND = self._compared_rows(features_ND)
        fitted = AffinityPropagation(
            damping=self.damping,
            preference=self.preference,
            max_iter=self.max_iter,
            convergence_iter=self.convergence_iter,
            random_state=self.seed,
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            fitted.fit(rows_ND)
        labels_N = fitted.labels_.astype(np.int32)
        exemplars = np.asarray(fitted.cluster_centers_indices_, dtype=np.intp)
        self._centroids_CD = rows_ND[exemplars]
        self._centroid_ids_C = np.arange(len(exemplars))
        self.converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        if self.converged:
            return labels_N, None, ()
        outcome = "; every sample is noise" if len(exemplars) == 0 else ""
        note = f"Affinity propagation did not converge in {fitted.n_iter_} rounds{outcome}: raise damping or max_iter."
        return labels_N, None, (note,)

    def _predict(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        return (*self._nearest(features_ND), ())
