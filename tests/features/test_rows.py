"""A view reads as the matrix of its rows, copies none of the others, and is told apart from its base."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.features.bank import FeatureBank
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import RowView
from deepclust.features.transform import FeatureTransform
from deepclust.metrics import silhouette
from deepclust.neighbors import cached_neighbors, mine_neighbors
from deepclust.spherical_kmeans import spherical_kmeans


class Counting:
    """A matrix that counts the rows that are read of it."""

    ndim = 2

    def __init__(self, rows):
        self.rows, self.shape, self.dtype = rows, rows.shape, rows.dtype
        self.read, self.largest = np.zeros(len(rows), int), 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, which):
        found = self.rows[which]
        self.read[which] += 1
        self.largest = max(self.largest, len(found))
        return found


@pytest.fixture
def base():
    return np.random.default_rng(0).standard_normal((500, 6)).astype(np.float16)


@pytest.fixture
def ids():
    return np.flatnonzero(np.random.default_rng(1).random(500) < 0.4)


def test_a_view_reads_as_its_rows(base, ids):
    view, rows = RowView(base, ids), base[ids]
    assert (view.shape, view.dtype, len(view)) == (rows.shape, rows.dtype, len(rows))
    assert view.nbytes == rows.nbytes
    for which in (slice(3, 90), slice(None), slice(90, 3), np.array([5, 0, 5]), np.array([], int), slice(0, 50, 7)):
        np.testing.assert_array_equal(view[which], rows[which])
    mask = np.arange(len(rows)) % 3 == 0
    np.testing.assert_array_equal(view[mask], rows[mask])
    np.testing.assert_array_equal(np.asarray(view), rows)
    np.testing.assert_array_equal(RowView(base, np.arange(20, 80))[5:10], base[25:30])


def test_rows_must_ascend(base):
    with pytest.raises(ValueError, match="ascending"):
        RowView(base, np.array([3, 3]))


def test_nothing_reads_the_rows_that_were_not_selected(base, ids):
    counting = Counting(base)
    features = FeatureSet(RowView(counting, ids))
    features.check()
    mine_neighbors(features, 5, method="exact")
    spherical_kmeans(features.features, 4, n_init=1)
    silhouette(features.features, np.arange(len(ids)) % 3)
    FeatureBank(features, FeatureTransform.fitted_to(features), in_memory=True)
    unselected = np.setdiff1d(np.arange(500), ids)
    assert counting.read[ids].all()
    assert not counting.read[unselected].any()


def test_a_file_is_read_in_blocks_not_whole(base):
    ids = np.arange(0, 500, 2)
    counting = Counting(base)
    for _, block in FeatureSet(RowView(counting, ids)).blocks(32):
        assert len(block) <= 32
    assert counting.largest <= 32


def test_results_through_a_view_are_those_of_a_copy(base, ids):
    view, copy = FeatureSet(RowView(base, ids)), FeatureSet(base[ids])
    for method in ("exact", "ivf"):
        found, expected = (mine_neighbors(features, 5, method=method) for features in (view, copy))
        np.testing.assert_array_equal(found.ids, expected.ids)
    runs = [spherical_kmeans(features.features, 4, seed=3) for features in (view, copy)]
    np.testing.assert_array_equal(runs[0].labels_N, runs[1].labels_N)


def test_a_view_of_a_folder_keeps_its_labels_paths_and_place_and_has_a_fingerprint_of_its_own(tmp_path, base):
    paths = [f"{i}.png" for i in range(500)]
    FeatureSet.from_arrays(base, np.arange(500) % 7, paths=paths).save(tmp_path)
    whole = load_features(tmp_path)
    rows = np.arange(500) % 2 == 0
    view = whole.view(rows, np.arange(250) % 3, ["a", "b", "c"])
    assert isinstance(view.features, RowView)
    assert view.features.base is whole.features
    assert (view.root, view.paths[1], view.class_names) == (whole.root, "2.png", ["a", "b", "c"])
    prints = {whole.fingerprint(), view.fingerprint(), whole.view(~rows, np.zeros(250, int), ["a"]).fingerprint()}
    assert len(prints) == 3
    assert view.fingerprint() == load_features(tmp_path).view(rows, np.zeros(250, int), ["z"]).fingerprint()
    # Labels do not enter it, and all rows are no view: both share one cache of neighbors.
    everything = whole.view(np.ones(500, bool), np.zeros(500, int), ["a"])
    assert everything.features is whole.features
    assert everything.fingerprint() == whole.fingerprint()


def test_neighbors_of_a_view_are_cached_apart_from_those_of_the_whole(tmp_path, base):
    FeatureSet.from_arrays(base).save(tmp_path / "set")
    whole = load_features(tmp_path / "set")
    view = whole.view(np.arange(500) < 400, np.zeros(400, int), ["a"])
    assert len(cached_neighbors(whole, 3, cache_dir=tmp_path / "cache")) == 500
    for _ in range(2):
        found = cached_neighbors(view, 3, cache_dir=tmp_path / "cache")
        assert len(found) == 400
        assert found.ids.max() < 400
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 2
