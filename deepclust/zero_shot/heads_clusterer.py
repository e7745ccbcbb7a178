"""Trained heads as clusterers of the protocol, so that they stand in one table with classical clustering."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from deepclust.clusterers.base import Clusterer
from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import Rows
from deepclust.losses import LOSSES
from deepclust.runtime.settings import setting
from deepclust.training.recipe import Recipe


@dataclass(eq=False)
class HeadsClusterer(Clusterer):
    """The best head of a loss, trained on the split that it assigns.

    Args:
        loss: which; all other settings are its defaults.

    Example:
        >>> rows = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
        >>> HeadsClusterer(3, loss="tsp").fit(rows).n_clusters
        3
    """

    name: ClassVar[str] = "heads"
    fewest_clusters: ClassVar[int] = 2
    _: KW_ONLY
    loss: str = setting("temi", "which heads", choices=LOSSES)

    def _fit(self, features_ND: Rows) -> tuple[np.ndarray, np.ndarray | None, Sequence[str]]:
        # Imported here: Lightning takes seconds, and `--help` and a mistyped setting answer without it.
        from deepclust.training.fit import fit_heads

        features = FeatureSet.from_arrays(self._compared_rows(features_ND))
        recipe = Recipe.of(self.loss, n_clusters=self.n_clusters, seed=self.seed)
        trained = fit_heads(features, recipe).trained
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the notes say the same
            notes = trained.warn_of_collapse(features)
        return trained.assign(features).labels, None, notes
