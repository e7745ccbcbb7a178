"""Several feature spaces of the same samples: what their cosines are, and what is refused.

Shape suffixes: N samples, D dimensions.
"""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.extraction.datasets import load_dataset
from deepclust.features.spaces import load_spaces
from deepclust.runtime.errors import InputError

N = 30


@pytest.fixture
def places(tmp_path):
    rng = np.random.default_rng(0)
    for name, dim, scale in (("narrow", 4, 1.0), ("wide", 50, 300.0), ("third", 7, 0.01)):
        np.save(tmp_path / f"{name}.npy", (scale * rng.normal(size=(N, dim))).astype(np.float32))
    np.save(tmp_path / "labels.npy", np.arange(N) % 3)
    return [tmp_path / f"{name}.npy" for name in ("narrow", "wide", "third")]


def cosines(rows_ND: np.ndarray) -> np.ndarray:
    unit_ND = rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return unit_ND @ unit_ND.T


def test_joined_cosines_are_the_mean_of_the_spaces(places):
    joined = np.asarray(load_spaces(places).features)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, atol=1e-6)
    expected = np.mean([cosines(np.load(place)) for place in places], axis=0)
    np.testing.assert_allclose(cosines(joined), expected, atol=1e-6)


def test_one_space_is_as_it_came(places):
    np.testing.assert_array_equal(load_spaces(places[1]).features, np.load(places[1]))


def test_a_data_set_of_spaces_has_labels_and_a_test_split_of_the_same_spaces(places, tmp_path):
    dataset = load_dataset("features", train=places[:2], train_labels=tmp_path / "labels.npy", test=places[:2])
    assert dataset.train.dim == dataset.test.dim == 54
    np.testing.assert_array_equal(dataset.train.labels, np.arange(N) % 3)
    with pytest.raises(InputError, match="spaces"):
        load_dataset("features", train=places[:2], test=places[1::-1])


def test_spaces_of_other_samples_are_refused(places, tmp_path):
    np.save(tmp_path / "short.npy", np.load(places[0])[1:])
    with pytest.raises(InputError, match=r"short\.npy has 29 rows and .*narrow\.npy 30: feature spaces"):
        load_spaces([places[0], tmp_path / "short.npy"])
    labels = np.arange(N) % 3
    np.savez(tmp_path / "one.npz", X=np.load(places[0]), y=labels)
    np.savez(tmp_path / "other.npz", X=np.load(places[1]), y=labels[::-1])
    with pytest.raises(InputError, match=r"other\.npz and .*one\.npz have other labels"):
        load_spaces([tmp_path / "one.npz", tmp_path / "other.npz"])
