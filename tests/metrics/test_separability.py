"""Separability against all pairs and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import davies_bouldin_score, r2_score

from deepclust.metrics.separability import alignment, davies_bouldin, r_squared, separability
from deepclust.runtime.errors import InputError
from tests.conftest import planted_clusters


def unequal_classes(seed=0, dim=8):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 3, 4, 9], [40, 7, 1, 90])
    rows = rng.standard_normal((len(labels), dim)) + rng.standard_normal((10, dim))[labels]
    return (rows * rng.uniform(0.1, 5, (len(rows), 1))).astype(np.float32), labels


def unit(rows):
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def test_alignment_is_the_mean_over_pairs_of_a_sample_and_another_of_its_class():
    rows, labels = unequal_classes()
    z = unit(rows)
    means = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i and labels[j] == labels[i]]
        if others:
            means.append(np.mean([np.sum((z[i] - z[j]) ** 2) for j in others]))
    assert alignment(rows, labels) == pytest.approx(np.mean(means), rel=1e-6)


def test_davies_bouldin_is_scikit_learns_on_unit_rows():
    rows, labels = unequal_classes()
    assert davies_bouldin(rows, labels) == pytest.approx(davies_bouldin_score(unit(rows), labels), rel=1e-6)


def test_davies_bouldin_in_blocks_of_classes_and_rows(monkeypatch):
    rng = np.random.default_rng(1)
    labels = rng.integers(70, size=3000)
    rows = rng.standard_normal((3000, 5)).astype(np.float32)
    monkeypatch.setattr("deepclust.metrics.separability.MEANS_AT_ONCE", 16)
    assert davies_bouldin(rows, labels) == pytest.approx(davies_bouldin_score(unit(rows), labels), rel=1e-5)


def test_classes_with_the_same_mean_are_not_compared():
    rows = np.array([[1, 0], [0, 1], [0, 1], [1, 0], [-1, 0.2], [-1, 0.3]], np.float32)
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert davies_bouldin(rows, labels) == pytest.approx(davies_bouldin_score(unit(rows), labels), rel=1e-6)


def test_rows_of_one_direction_per_class_are_perfectly_separated():
    rows, labels = planted_clusters(noise=0.0)
    found = separability(rows, labels)
    assert found.alignment == pytest.approx(0, abs=1e-5)
    assert found.davies_bouldin == pytest.approx(0, abs=1e-4)
    assert found.silhouette == pytest.approx(1, abs=1e-4)


def test_noise_worsens_all_three():
    close, labels = planted_clusters(noise=0.05)
    loose, loose_labels = planted_clusters(noise=0.2)
    better, worse = separability(close, labels), separability(loose, loose_labels)
    assert better.alignment < worse.alignment
    assert better.davies_bouldin < worse.davies_bouldin
    assert better.silhouette > worse.silhouette


def test_r_squared_is_that_of_the_fitted_line():
    rng = np.random.default_rng(0)
    x = rng.random(12)
    y = 3 - 2 * x + 0.3 * rng.standard_normal(12)
    assert r_squared(x, y) == pytest.approx(r2_score(y, np.polyval(np.polyfit(x, y, 1), x)))
    assert r_squared(x[:2], y[:2]) is None
    assert r_squared(x, np.ones(12)) is None


def test_what_cannot_be_compared_is_refused():
    rows, labels = unequal_classes()
    with pytest.raises(InputError, match=r"labels have shape \(137,\), but there are 138 rows"):
        alignment(rows, labels[1:])
    with pytest.raises(InputError, match="no class has two samples"):
        alignment(rows, np.arange(len(rows)))
    with pytest.raises(InputError, match="1 class found"):
        davies_bouldin(rows, np.zeros(len(rows), int))
    with pytest.raises(InputError, match="rows are all zero"):
        alignment(np.concatenate([rows, rows[:1] * 0]), np.append(labels, 0))
