"""How many clusters, where nobody said: by the silhouette of k-means over some numbers."""

from __future__ import annotations

import numpy as np

from deepclust.clusterers import make_clusterer
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics.intrinsic import silhouette

# Fewer clusters say little of a collection, more are not looked at.
CANDIDATES = (5, 8, 10, 12, 15, 20, 25, 30, 40, 50)
# Members that clusters must have on average.
MEMBERS = 20
# Silhouettes change little above the right number: the smallest number is taken that reaches this share of the highest.
ENOUGH = 0.97
SAMPLE = 20_000


def likely_number(features: FeatureSet, seed: int = 0) -> int:
    """The smallest number of clusters whose k-means has almost (`ENOUGH`) the highest cosine silhouette.

    Args:
        features: N × D; of more than `SAMPLE` rows a sample is looked at.
        seed: of the sample and of k-means.

    Returns:
        One of `CANDIDATES` that leaves `MEMBERS` for each cluster; 2 where there is none.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> likely_number(FeatureSet.from_arrays(load_digits().data.astype(np.float32)))
        10
    """
    if len(features) > SAMPLE:
        features = features.select(np.sort(np.random.default_rng(seed).choice(len(features), SAMPLE, replace=False)))
    scores = {}
    for count in CANDIDATES:
        if count * MEMBERS <= len(features):
            found = make_clusterer("kmeans", n_clusters=count, seed=seed).fit(features.features)
            scores[count] = silhouette(features.features, found.labels).value or -1.0
    enough = ENOUGH * max(scores.values(), default=0.0)
    return next((count for count, score in scores.items() if score >= enough), 2)
