"""Scores of a clustering: agreement with labels, intrinsic quality, and the row of results that holds both."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import Rows
from deepclust.metrics.agreement import ami, ari, cluster_accuracy, hungarian_map, nmi, one_sided_ami
from deepclust.metrics.intrinsic import Metric, Silhouette, silhouette, silhouette_samples
from deepclust.runtime.errors import InputError

# One row of results.json, in this order.
ROW_KEYS = (
    "method",
    "split",
    "n_clusters",
    "n_found",
    "acc",
    "nmi",
    "ami",
    "ari",
    "silhouette",
    "seconds",
    "seed",
)


def score(
    clustering: Clustering,
    features: Rows | None,
    labels: np.ndarray | None = None,
    *,
    split: str = "train",
    seed: int | None = None,
    silhouette_metric: Metric = "cosine",
) -> dict[str, Any]:
    """One row of results for one clustering of one split.

    Args:
        clustering: N cluster ids with the method and the seconds they took; of a method that was run several times the
            scores are means over its runs.
        features: the N × D features that were clustered, on which the silhouette is computed. None leaves it out.
        labels: N class ids, or None: then the label metrics are None.
        split: the name of the split.
        seed: the run's seed; by default the one in the clustering's settings.
        silhouette_metric: its distance; `euclidean` for features that were reduced.

    Returns:
        A dict with the keys of `ROW_KEYS`; metrics are fractions, absent ones None.

    Raises:
        InputError: if features, labels and clustering differ in length.
    """
    if labels is not None and len(labels) != len(clustering):
        raise InputError(
            f"there are {len(labels)} labels for the {len(clustering)} samples of split '{split}': "
            "give one label per sample"
        )
    row: dict[str, Any] = {
        "method": clustering.method,
        "split": split,
        "n_clusters": clustering.n_clusters,
        "n_found": clustering.n_found,
    }
    for name, metric in (("acc", cluster_accuracy), ("nmi", nmi), ("ami", ami), ("ari", ari)):
        row[name] = None if labels is None else float(np.mean([metric(labels, run_N) for run_N in clustering.runs]))
    row["silhouette"] = None
    if features is not None:
        values = [silhouette(features, run_N, metric=silhouette_metric).value for run_N in clustering.runs]
        known = [value for value in values if value is not None]
        row["silhouette"] = float(np.mean(known)) if len(known) == len(values) else None
    row["seconds"] = round(float(clustering.seconds), 3)
    row["seed"] = clustering.settings.get("seed") if seed is None else seed
    return row


def distance_of(features: FeatureSet) -> Metric:
    """The silhouette's: by direction for features as they came, Euclidean for reduced ones."""
    return "cosine" if features.reduction is None else "euclidean"


__all__ = [
    "ROW_KEYS",
    "Silhouette",
    "ami",
    "ari",
    "cluster_accuracy",
    "distance_of",
    "hungarian_map",
    "nmi",
    "one_sided_ami",
    "score",
    "silhouette",
    "silhouette_samples",
]
