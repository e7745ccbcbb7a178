"""TEMI, SCAN and TSP as scikit-learn estimators.

Shape suffixes: N samples, D feature dimensions, C clusters.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from deepclust import SCAN, TEMI, TSP
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import ShardedRows
from deepclust.runtime.errors import InputError

SMALL: dict[str, Any] = {
    "n_heads": 2,
    "n_neighbors": 8,
    "max_epochs": 3,
    "batch_size": 100,
    "hidden_dim": 16,
    "embedding_dim": 8,
    "init": "kmeans",
    "device": "cpu",
    "precision": "32",
    "random_state": 0,
}
every_estimator = pytest.mark.parametrize("kind", [TEMI, SCAN, TSP])


def small(kind, **options: Any):
    return kind(**{"n_clusters": 5, **SMALL, **options})


ONE_CLUSTER = "sets n_clusters=1, which is refused: one cluster says nothing"
EXPECTED_FAILURES = {
    "check_dont_overwrite_parameters": ONE_CLUSTER,
    "check_fit2d_1feature": ONE_CLUSTER,
    "check_fit2d_predict1d": ONE_CLUSTER,
    "check_methods_subset_invariance": ONE_CLUSTER,
    "check_estimators_dtypes": "its integer rows hold a zero row, which is refused: it has no direction",
}


def expected_failures(estimator) -> dict[str, str]:
    return EXPECTED_FAILURES


@parametrize_with_checks(
    [small(kind, n_clusters=3, n_neighbors=4, max_epochs=2, batch_size=32) for kind in (TEMI, SCAN, TSP)],
    expected_failed_checks=expected_failures,
)
def test_scikit_learns_contract(estimator, check):
    check(estimator)


@every_estimator
def test_planted_clusters_are_found(kind, planted):
    fitted = small(kind, max_epochs=10).fit(planted.features)
    assert adjusted_rand_score(planted.labels, fitted.labels_) > 0.99
    assert fitted.labels_.shape == (300,)
    assert fitted.labels_.dtype == np.int32
    assert (fitted.n_features_in_, fitted.n_iter_) == (16, 10)
    assert fitted.head_losses_.shape == (2,)
    assert fitted.best_head_ == fitted.head_losses_.argmin()


@every_estimator
def test_labels_predictions_probabilities_and_logits_agree(kind, planted):
    rows = np.asarray(planted.features)
    fitted = small(kind).fit(rows)
    probabilities, logits = fitted.predict_proba(rows), fitted.transform(rows)
    assert probabilities.shape == logits.shape == (300, 5)
    assert probabilities.dtype == logits.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (probabilities >= 0).all()
    np.testing.assert_array_equal(fitted.predict(rows), fitted.labels_)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), fitted.labels_)
    scaled = np.exp(logits.astype(np.float64) / fitted.temperature)
    np.testing.assert_allclose(probabilities, scaled / scaled.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(fitted.predict(rows[40:50]), fitted.labels_[40:50])
    np.testing.assert_array_equal(small(kind).fit_predict(rows), fitted.labels_)


@every_estimator
def test_a_saved_estimator_comes_back_whole(kind, planted, tmp_path):
    fitted = small(kind).fit(planted.features)
    path = fitted.save(tmp_path / "fitted.pt")
    loaded = kind.load(path)
    assert loaded.get_params() == fitted.get_params()
    np.testing.assert_array_equal(loaded.labels_, fitted.labels_)
    np.testing.assert_array_equal(loaded.predict(planted.features), fitted.predict(planted.features))
    np.testing.assert_array_equal(loaded.transform(planted.features), fitted.transform(planted.features))
    np.testing.assert_array_equal(loaded.head_losses_, fitted.head_losses_)
    assert (loaded.best_head_, loaded.n_features_in_, loaded.n_iter_) == (fitted.best_head_, 16, 3)
    other = SCAN if kind is TEMI else TEMI
    with pytest.raises(InputError, match=f"holds {kind.__name__}, not {other.__name__}"):
        other.load(path)


@pytest.mark.parametrize(
    "options",
    [{"random_state": np.random.RandomState(0)}, {"random_state": np.int64(3)}, {"n_clusters": np.int64(4)}],
    ids=["RandomState", "NumPy seed", "NumPy n_clusters"],
)
def test_parameters_of_numpys_types_are_saved_too(options, planted, tmp_path):
    fitted = small(TEMI, **options).fit(planted.features)
    loaded = TEMI.load(fitted.save(tmp_path / "fitted.pt"))
    np.testing.assert_array_equal(loaded.predict(planted.features), fitted.labels_)


def test_files_that_hold_no_estimator_are_refused(planted, tmp_path):
    with pytest.raises(InputError, match="no checkpoint at"):
        TEMI.load(tmp_path / "nowhere.pt")
    (tmp_path / "broken.pt").write_bytes(b"not a tensor file")
    with pytest.raises(InputError, match="is no readable checkpoint"):
        TEMI.load(tmp_path / "broken.pt")
    small(TEMI).fit(planted.features).trained_.save(tmp_path / "heads.pt")
    with pytest.raises(InputError, match="holds no estimator, not TEMI"):
        TEMI.load(tmp_path / "heads.pt")


@every_estimator
def test_a_fitted_estimator_can_be_pickled(kind, planted):
    fitted = small(kind).fit(planted.features)
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.predict(planted.features), fitted.labels_)


@every_estimator
def test_the_random_state_decides(kind, planted):
    def logits(**options):
        return small(kind, **options).fit(planted.features).transform(planted.features)

    np.testing.assert_array_equal(logits(random_state=1), logits(random_state=1))
    np.testing.assert_array_equal(
        logits(random_state=np.random.RandomState(5)), logits(random_state=np.random.RandomState(5))
    )
    assert not np.allclose(logits(random_state=1), logits(random_state=2))
    assert not np.allclose(logits(random_state=None), logits(random_state=None))


@every_estimator
def test_a_clone_carries_the_settings_and_nothing_else(kind, planted):
    fitted = small(kind, learning_rate=3e-3).fit(planted.features)
    copied = clone(fitted)
    assert copied.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copied.predict(planted.features)


@every_estimator
def test_it_works_in_a_pipeline(kind, planted):
    rows = np.asarray(planted.features)
    pipeline = make_pipeline(StandardScaler(), small(kind, preprocess="none", max_epochs=8)).fit(rows)
    assert adjusted_rand_score(planted.labels, pipeline.predict(rows)) > 0.95
    assert pipeline.predict_proba(rows).shape == pipeline.transform(rows).shape == (300, 5)


@every_estimator
@pytest.mark.parametrize("given", ["FeatureSet", "mapped", "float64", "float16", "list", "shards"])
def test_every_kind_of_features_gives_the_same_labels(kind, given, planted, tmp_path):
    half = np.asarray(planted.features).astype(np.float16)
    expected = small(kind).fit(half.astype(np.float32)).labels_
    np.save(tmp_path / "X.npy", half)
    rows = {
        "FeatureSet": FeatureSet.from_arrays(half),
        "mapped": load_features(tmp_path / "X.npy"),
        "float64": half.astype(np.float64),
        "float16": half,
        "list": half.astype(float).tolist(),
        "shards": FeatureSet.from_arrays(ShardedRows([half[:100], half[100:]])),
    }[given]
    fitted = small(kind).fit(rows)
    np.testing.assert_array_equal(fitted.labels_, expected)
    np.testing.assert_array_equal(fitted.predict(rows), expected)


def spoiled(rows: np.ndarray, value: float) -> np.ndarray:
    rows = rows.copy()
    rows[[12, 30, 31]] = value
    return rows


@every_estimator
@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({}, lambda rows: spoiled(rows, np.nan), r"X: 3 of 300 rows hold NaN or infinite values \(first: row 12\)"),
        ({}, lambda rows: spoiled(rows, np.inf), r"X: 3 of 300 rows hold NaN or infinite values \(first: row 12\)"),
        ({}, lambda rows: spoiled(rows, 0), r"X: 3 of 300 rows are all zero \(first: row 12\)"),
        ({"n_neighbors": 300}, lambda rows: rows, "n_neighbors=300, but there are only 300 samples"),
        ({"n_clusters": 301}, lambda rows: rows, "n_clusters=301, but there are only 300 samples"),
        ({"n_clusters": 1}, lambda rows: rows, "n_clusters is 1: it must be 2 or more"),
        ({}, lambda rows: rows[:, 0], "Expected 2D array, got 1D array"),
    ],
    ids=["NaN", "infinite", "zero rows", "N <= K", "C > N", "C < 2", "one dimension"],
)
def test_bad_input_is_a_value_error_that_says_what(kind, options, change, message, planted):
    rows = change(np.asarray(planted.features))
    with pytest.raises(ValueError, match=message):
        small(kind, **options).fit(rows)


@every_estimator
def test_new_samples_are_looked_at_too(kind, planted):
    rows = np.asarray(planted.features)
    fitted = small(kind).fit(rows)
    with pytest.raises(ValueError, match="3 of 300 rows hold NaN"):
        fitted.predict(spoiled(rows, np.nan))
    with pytest.raises(ValueError, match=r"X has 7 features, but .* is expecting 16 features"):
        fitted.predict(rows[:, :7])
    with pytest.raises(ValueError, match="the features have 7 dimensions, but the heads were trained on 16"):
        fitted.predict(FeatureSet.from_arrays(rows[:, :7]))


def test_options_of_the_loss_are_checked_when_fitting(planted):
    with pytest.raises(ValueError, match=r"beta is 0\.2"):
        small(TEMI, beta=0.2).fit(planted.features)


def test_a_collapse_is_warned_of(planted):
    collapsing = small(SCAN, n_clusters=40, entropy_weight=0.0, init="random", max_epochs=15)
    with pytest.warns(UserWarning, match=r"scan head \d.* uses \d+ of its 40 clusters: try init="):
        collapsing.fit(planted.features)
