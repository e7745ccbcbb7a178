"""The row of results."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.clustering import Clustering
from deepclust.metrics import ROW_KEYS, score
from deepclust.runtime.errors import InputError

FEATURES = np.repeat(np.eye(3, dtype=np.float16), 4, axis=0) + np.float16(0.1)
LABELS = np.repeat([5, 6, 7], 4)


def test_a_perfect_clustering_scores_one_everywhere():
    clustering = Clustering(np.repeat([2, 0, 1], 4), "temi", 3, seconds=1.5, settings={"seed": 9})
    row = score(clustering, FEATURES, LABELS, split="test")
    assert tuple(row) == ROW_KEYS
    assert [row[key] for key in ("acc", "nmi", "ami", "ari", "silhouette")] == pytest.approx([1] * 5)
    assert (row["method"], row["split"], row["n_clusters"], row["n_found"]) == ("temi", "test", 3, 3)
    assert (row["seconds"], row["seed"]) == (1.5, 9)
    assert score(clustering, FEATURES, seed=2)["seed"] == 2


def test_without_labels_only_label_metrics_are_absent():
    row = score(Clustering(np.repeat([2, 0, 1], 4), "tsp", 3), FEATURES)
    assert [row[key] for key in ("acc", "nmi", "ami", "ari")] == [None] * 4
    assert row["silhouette"] == pytest.approx(1, abs=1e-3)


def test_one_cluster_has_no_silhouette():
    assert score(Clustering(np.zeros(12, int), "tsp", 3), FEATURES, LABELS)["silhouette"] is None


def test_noise_is_one_more_cluster_in_the_row_as_everywhere():
    noisy = np.repeat([0, 1, -1], 4)
    named = np.repeat([0, 1, 2], 4)
    row, other = (score(Clustering(labels, "hdbscan"), FEATURES, LABELS) for labels in (noisy, named))
    assert row["silhouette"] == other["silhouette"] == pytest.approx(1, abs=1e-3)
    assert (row["n_found"], other["n_found"]) == (2, 3)


def test_labels_of_another_length_are_refused():
    with pytest.raises(InputError, match="11 labels for the 12 samples of split 'test'"):
        score(Clustering(np.zeros(12, int), "tsp", 3), FEATURES, LABELS[:-1], split="test")
