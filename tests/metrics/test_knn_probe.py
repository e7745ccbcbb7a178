"""The kNN probe against scikit-learn's classifier, and its rank correlation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from deepclust.metrics import knn_probe as module
from deepclust.metrics.knn_probe import knn_probe, rank_correlation
from deepclust.runtime.errors import InputError


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, 7, 500)
    rows = rng.standard_normal((7, 12))[labels] + 1.5 * rng.standard_normal((500, 12))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:350].astype(np.float32), labels[:350], rows[350:].astype(np.float32), labels[350:]


@pytest.mark.parametrize("temperature", [None, 0.07, 1.0])
def test_accuracy_equals_scikit_learns(split, temperature, monkeypatch):
    memory, memory_labels, rows, labels = split
    monkeypatch.setattr(module, "BLOCK_ROWS", 37)

    def weights(distances):
        # Of unit vectors: cosine = 1 - d² / 2.
        return np.exp((1 - distances**2 / 2) / temperature) if temperature else np.ones_like(distances)

    ks = (20, 1, 5)
    ours = knn_probe(memory, memory_labels, rows, labels, ks=ks, temperature=temperature)
    assert list(ours) == list(ks)
    for k in ks:
        theirs = KNeighborsClassifier(k, weights=weights).fit(memory.astype(float), memory_labels)
        assert ours[k] == pytest.approx(theirs.score(rows.astype(float), labels))


def test_the_length_of_a_feature_does_not_count(split):
    memory, memory_labels, rows, labels = split
    longer = rows * np.linspace(1, 9, len(rows), dtype=np.float32)[:, None]
    assert knn_probe(memory, memory_labels, longer, labels) == knn_probe(memory, memory_labels, rows, labels)


def test_more_neighbors_than_the_memory_holds_give_none(split):
    memory, memory_labels, rows, labels = split
    result = knn_probe(memory, memory_labels, rows, labels, ks=(350, 351))
    assert result[350] is not None
    assert result[351] is None


def test_rank_correlation_is_of_ranks_and_leaves_out_what_is_missing():
    assert rank_correlation([0.1, 0.2, None, 0.9], [1, 10, 0, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, None], [3, 2, 1]) is None
    assert rank_correlation([1, 1, 1], [3, 2, 1]) is None


def test_bad_input_is_refused(split):
    memory, memory_labels, rows, labels = split
    with pytest.raises(InputError, match="150 rows and 149 labels"):
        knn_probe(memory, memory_labels, rows, labels[:-1])
    with pytest.raises(InputError, match="12 dimensions, the features 5"):
        knn_probe(memory, memory_labels, rows[:, :5], labels)
    with pytest.raises(InputError, match="from 1"):
        knn_probe(memory, memory_labels, rows, labels, ks=(0, 1))
