"""The door for arrays: what it lets in, and the one line for everything else, wherever it is asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepclust.clusterers import make_clusterer
from deepclust.clusterers.estimator import BaselineClusterer
from deepclust.estimators import TEMI
from deepclust.features.arrays import as_labels, as_matrix, check_rows
from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError
from deepclust.spherical_kmeans import SphericalKMeans

ROWS = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
CLASSES = np.arange(60) % 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.where(CLASSES == 1, np.nan, CLASSES), r"hold nan \(row 1\): class ids are whole numbers from 0 on"),
        (CLASSES + np.where(CLASSES == 2, np.inf, 0), r"hold inf \(row 2\)"),
        (CLASSES + 0.5, r"hold 0.5 \(row 0\)"),
        (CLASSES - 1, r"hold -1 \(row 0\)"),
        (CLASSES * (1 << 40), r"hold 1099511627776 \(row 1\)"),
        (CLASSES.astype(complex), "hold complex128 values"),
        (CLASSES.astype("datetime64[s]"), r"hold datetime64\[s\] values"),
        (np.array(["a", None] * 30, dtype=object), "hold object values"),
        (CLASSES[:5], r"have shape \(5,\), but there are 60 rows"),
        (np.eye(3)[CLASSES], r"have shape \(60, 3\)"),
        ([[0], [1, 2]] * 30, "is no array of numbers"),
        (torch.from_numpy(CLASSES).to_sparse(), "is no array of numbers .*[Ss]parse"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    with pytest.raises(InputError, match=message) as refused:
        FeatureSet.from_arrays(ROWS, labels, name="X.npy")
    assert len(str(refused.value).splitlines()) == 1


def test_whole_numbers_are_classes_whatever_their_type():
    tensor = torch.from_numpy(CLASSES).bfloat16()
    for labels in (CLASSES.astype(float), tensor, CLASSES.tolist(), CLASSES.astype(">u2")):
        ids, names = as_labels(labels, 60)
        assert ids.dtype == np.int64
        assert ids.tolist() == CLASSES.tolist()
        assert names is None


def test_text_is_numbered_by_the_names_that_are_known():
    text = np.array(["dog", "cat", "cat"])
    assert as_labels(text, 3)[0].tolist() == [1, 0, 0]
    ids, names = as_labels(text, 3, class_names=["dog", "bird", "cat"])
    assert (ids.tolist(), names) == ([0, 2, 2], ["dog", "bird", "cat"])
    with pytest.raises(InputError, match="go up to 5, but there are 2 class names"):
        as_labels([0, 5], 2, class_names=["a", "b"])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.from_numpy(ROWS).to_sparse(), "no array of numbers .*[Ss]parse"),
        (torch.empty(60, 8, device="meta"), "no array of numbers"),
        ([[1.0], [2.0, 3.0]], "no array of numbers"),
        (None, r"shape \(\)"),
        (ROWS.astype(complex), "complex128 values"),
        (np.zeros((60, 8), "timedelta64[s]"), r"timedelta64\[s\] values"),
        (ROWS.astype(np.float64) * 1e300, "above 3.4e38"),
    ],
)
def test_features_that_are_no_real_matrix_are_refused(features, message):
    with pytest.raises(InputError, match=message):
        as_matrix(features)


@pytest.mark.parametrize("scale", [1e20, 1e-20, 1e-40])
@pytest.mark.parametrize(
    "take",
    [
        lambda rows: FeatureSet.from_arrays(rows).check(),
        lambda rows: make_clusterer("kmeans", n_clusters=3).fit(rows),
        lambda rows: make_clusterer("agglomerative", n_clusters=3).fit(rows),
        lambda rows: make_clusterer("kmeans_l2", n_clusters=3, normalize="none").fit(rows),
        lambda rows: SphericalKMeans(3).fit(rows),
        lambda rows: BaselineClusterer("agglomerative", 3).fit(rows),
        lambda rows: TEMI(3, max_epochs=1, n_heads=1).fit(rows),
    ],
    ids=["FeatureSet", "kmeans", "agglomerative", "euclidean", "SphericalKMeans", "BaselineClusterer", "TEMI"],
)
def test_rows_that_float32_cannot_square_are_refused_by_all_who_compare_rows(take, scale):
    with pytest.raises(InputError, match=r"rows are (longer|shorter) than float32 can square \(first: row 0\).*scale"):
        take(ROWS * np.float32(scale))


def test_reversed_rows_are_copied_and_others_stay_where_they_are():
    assert as_matrix(ROWS) is ROWS
    for view in (ROWS[::-1], ROWS[:, ::-1], ROWS.astype(np.float16)[::-1]):
        np.testing.assert_array_equal(torch.from_numpy(as_matrix(view)), view.copy())


def test_one_number_per_row_has_no_direction():
    with pytest.raises(InputError, match="X: n_features=1, and a direction needs at least 2"):
        FeatureSet.from_arrays(ROWS[:, :1]).check("X")


def test_rows_near_zero_are_as_good_as_zero_where_distances_are_euclidean():
    rows = ROWS.copy()
    rows[7] *= np.float32(1e-30)
    check_rows(rows, zeros=True)
    with pytest.raises(InputError, match=r"shorter .*\(first: row 7\)"):
        check_rows(rows)


def test_bad_rows_are_counted_over_blocks():
    rows = np.repeat(ROWS, 600, axis=0)
    rows[[20_000, 30_000]] = np.nan
    with pytest.raises(InputError, match=r"X: 2 of 36000 rows hold NaN or infinite values \(first: row 20000\)"):
        FeatureSet.from_arrays(rows).check("X")
