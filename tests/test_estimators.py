"""TEMI, SCAN and TSP as scikit-learn estimators.

Shape suffixes: N samples, D feature dimensions, C clusters.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import validation
from sklearn.utils.estimator_checks import parametrize_with_checks

from deepclust import SCAN, TEMI, TSP, BaselineClusterer, ConsensusHeads, SphericalKMeans
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
every_estimator = pytest.mark.parametrize("kind", [TEMI, SCAN, TSP, ConsensusHeads])


def small(kind, **options: Any):
    return kind(**{"n_clusters": 5, **SMALL, **options})


EXPECTED_FAILURES = {
    "check_estimators_dtypes": "its integer rows hold a zero row, which is refused: it has no direction",
}
# The wrapper has n_clusters for every method, and the check takes it for what HDBSCAN must not exceed.
FINDS_ITS_OWN = {"check_clustering": "HDBSCAN finds more clusters than the number that it is not told"}


def expected_failures(estimator):
    if "hdbscan" in str(estimator):
        return FINDS_ITS_OWN
    return {} if "normalize='none'" in str(estimator) else EXPECTED_FAILURES


@parametrize_with_checks(
    [
        *[small(kind, n_clusters=3, n_neighbors=4, max_epochs=2, batch_size=32) for kind in (TEMI, SCAN, TSP)],
        *[BaselineClusterer(method, 3) for method in ("kmeans", "kmeans_l2", "agglomerative")],
        *[BaselineClusterer(method, 3, normalize="none") for method in ("spectral", "optics", "leiden", "hdbscan")],
    ],
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
    temperature = fitted.temperature * fitted.trained_.confidence_temperature
    scaled = np.exp(logits.astype(np.float64) / temperature)
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
@pytest.mark.parametrize("given", ["FeatureSet", "mapped", "float64", "float16", "list", "shards", "reversed"])
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
        "reversed": half[::-1].copy()[::-1],
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
        ({"n_clusters": 0}, lambda rows: rows, "n_clusters is 0: it must be 1 or more"),
        ({}, lambda rows: rows[:, 0], "Expected 2D array, got 1D array"),
    ],
    ids=["NaN", "infinite", "zero rows", "N <= K", "C > N", "C < 1", "one dimension"],
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


class Table(np.ndarray):
    """Rows whose columns have names: a DataFrame without a library of them."""

    names: np.ndarray

    @classmethod
    def of(cls, rows: Any, names: Any) -> Table:
        table = np.asarray(rows).view(cls)
        table.names = np.array(list(names), dtype=object)
        return table


@pytest.fixture(autouse=True)
def tables_have_names(monkeypatch):
    known = validation._get_feature_names
    monkeypatch.setattr(
        validation, "_get_feature_names", lambda X: getattr(X, "names", None) if isinstance(X, Table) else known(X)
    )


every_kind = pytest.mark.parametrize(
    "estimator", [small(TEMI), small(TSP), SphericalKMeans(5, n_init=1), BaselineClusterer("kmeans", 5)]
)
NAMES = "abcdefghijklmnop"


@every_estimator
def test_columns_in_another_order_are_refused_also_after_loading(kind, planted, tmp_path):
    rows = Table.of(planted.features, NAMES)
    fitted = small(kind).fit(rows)
    loaded = kind.load(fitted.save(tmp_path / "fitted.pt"))
    assert list(loaded.feature_names_in_) == list(fitted.feature_names_in_) == list(NAMES)
    np.testing.assert_array_equal(loaded.predict(rows), fitted.labels_)
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        loaded.predict(Table.of(planted.features[:, ::-1], NAMES[::-1]))
    assert not hasattr(fitted.fit(planted), "feature_names_in_")


def test_outputs_have_names_and_may_be_data_frames(planted):
    fitted = small(TEMI).fit(planted.features)
    assert list(fitted.get_feature_names_out()) == [f"temi{c}" for c in range(5)]
    assert list(SphericalKMeans(3).fit(planted.features).get_feature_names_out())[2] == "sphericalkmeans2"
    pandas = pytest.importorskip("pandas")
    named = fitted.set_output(transform="pandas").transform(planted.features)
    assert isinstance(named, pandas.DataFrame)
    assert list(named.columns) == list(fitted.get_feature_names_out())
    assert isinstance(fitted.predict_proba(planted.features), np.ndarray)


@every_kind
def test_a_refit_that_fails_leaves_the_model_as_it_was(estimator, planted):
    fitted = clone(estimator).fit(Table.of(planted.features, NAMES))
    before = dict(vars(fitted))
    with pytest.raises(ValueError, match="NaN"):
        fitted.fit(spoiled(np.asarray(planted.features[:, :7]), np.nan))
    assert vars(fitted).keys() == before.keys()
    assert all(vars(fitted)[name] is value for name, value in before.items())


@every_kind
def test_tensors_are_taken_with_gradients_and_in_bfloat16(estimator, planted):
    rows = torch.from_numpy(np.asarray(planted.features)).bfloat16()
    expected = clone(estimator).set_params(random_state=0).fit(rows.float().numpy()).labels_
    for same in (rows, rows.float().requires_grad_()):
        fitted = clone(estimator).set_params(random_state=0).fit(same)
        np.testing.assert_array_equal(fitted.labels_, expected)
        np.testing.assert_array_equal(fitted.predict(same), expected)


@pytest.mark.parametrize("init", ["kmeans", "spectral"])
@every_estimator
def test_the_callers_random_numbers_go_on_as_if_nothing_had_been_fitted(kind, init, planted):
    drawn = torch.get_rng_state(), np.random.get_state()[1].tolist()
    small(kind, init=init).fit(planted.features).predict(planted.features)
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert np.random.get_state()[1].tolist() == drawn[1]


@every_kind
@pytest.mark.parametrize("random_state", [-1, 2**32, 1.5, True, "abc", np.random.default_rng(0)])
def test_a_random_state_that_is_none_is_refused_in_one_line(estimator, random_state, planted):
    with pytest.raises(InputError, match=r"^random_state is .*: give a whole number from 0 to 4294967295, a .*$"):
        clone(estimator).set_params(random_state=random_state).fit(planted.features)


@every_kind
@pytest.mark.parametrize("init", ["kmeans", "spectral", "random"])
def test_one_cluster_holds_everything(estimator, init, planted):
    estimator = clone(estimator).set_params(n_clusters=1)
    if "n_heads" in estimator.get_params():
        estimator.set_params(init=init)
    fitted = estimator.fit(planted.features)
    assert fitted.labels_.tolist() == fitted.predict(planted.features).tolist() == [0] * 300


def test_a_grid_search_finds_the_number_of_clusters(planted):
    def agreement(estimator, rows, labels):
        return adjusted_rand_score(labels, estimator.predict(rows))

    search = GridSearchCV(small(TEMI, max_epochs=10), {"n_clusters": [2, 5]}, scoring=agreement, cv=2)
    assert search.fit(np.asarray(planted.features), planted.labels).best_params_ == {"n_clusters": 5}


def test_frames_of_numbers_and_of_lists_are_the_same_rows_as_arrays(planted):
    pandas, polars, pa = map(pytest.importorskip, ("pandas", "polars", "pyarrow"))
    rows = np.asarray(planted.features)
    names = [f"e{column}" for column in range(rows.shape[1])]
    expected = SphericalKMeans(n_clusters=5, random_state=0).fit(rows)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    wide = pandas.DataFrame(rows, columns=names)
    for frame, named in (
        (wide, True),
        (polars.from_pandas(wide), True),
        (pa.Table.from_pandas(wide), True),
        (pandas.DataFrame({"emb": list(rows)}), False),
        (polars.DataFrame({"emb": rows}), False),
        (pa.table({"emb": lists}), False),
    ):
        fitted = SphericalKMeans(n_clusters=5, random_state=0).fit(frame)
        np.testing.assert_array_equal(fitted.labels_, expected.labels_)
        np.testing.assert_array_equal(fitted.predict(frame), expected.labels_)
        assert fitted.n_features_in_ == 16
        assert list(getattr(fitted, "feature_names_in_", [])) == (names if named else [])
    with pytest.raises(InputError, match=r"give the embedding alone, X\[\['emb'\]\]"):
        SphericalKMeans(n_clusters=5).fit(pa.table({"id": pa.array(range(len(rows))), "emb": lists}))
