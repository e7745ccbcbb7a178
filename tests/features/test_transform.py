"""What a feature goes through before a head sees it, against NumPy and scikit-learn.

Shape suffixes: N samples, D feature dimensions.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.runtime.errors import InputError


@pytest.fixture
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((8, 8))
    return (rng.standard_normal((500, 8)) @ mixing + 3 * rng.standard_normal(8)).astype(np.float32)


def transformed(kind, rows, new=None, pca_dim=None) -> np.ndarray:
    transform = FeatureTransform.fitted_to(FeatureSet.from_arrays(rows), kind, pca_dim)
    return transform(torch.from_numpy(rows if new is None else new)).numpy()


def test_none_changes_nothing(rows):
    np.testing.assert_array_equal(transformed("none", rows), rows)


def test_standardize_uses_the_training_splits_mean_and_deviation(rows):
    out = transformed("standardize", rows)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=0), 1, atol=1e-5)
    new = rows[:5] + 1
    np.testing.assert_allclose(
        transformed("standardize", rows, new), (new - rows.mean(axis=0)) / rows.std(axis=0), atol=1e-4
    )


def test_standardize_stands_a_large_offset():
    rows = (1000 + np.random.default_rng(1).standard_normal((2000, 3))).astype(np.float32)
    np.testing.assert_allclose(transformed("standardize", rows).std(axis=0), 1, atol=1e-3)


def test_a_constant_dimension_becomes_zero(rows):
    rows[:, 2] = 7
    out = transformed("standardize", rows)
    assert np.isfinite(out).all()
    assert (out[:, 2] == 0).all()


def test_l2_gives_rows_of_length_one(rows):
    out = transformed("l2", rows)
    np.testing.assert_allclose(out, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-6)


def test_pca_is_scikit_learns_up_to_sign_and_one_scale(rows):
    out = transformed("none", rows, pca_dim=3)
    expected = PCA(3).fit_transform(rows.astype(np.float64))
    signs = np.sign((out * expected).sum(axis=0))
    scale = np.sqrt(expected.var(axis=0).mean())
    np.testing.assert_allclose(out * signs, expected / scale, atol=1e-3)
    assert out.var(axis=0).mean() == pytest.approx(1, abs=1e-3)


def test_pca_of_standardized_features_then_length_one(rows):
    standardized = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    out = transformed("standardize", rows, pca_dim=4)
    expected = PCA(4).fit_transform(standardized)
    correlations = np.abs([np.corrcoef(out[:, i], expected[:, i])[0, 1] for i in range(4)])
    np.testing.assert_allclose(correlations, 1, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(transformed("l2", rows, pca_dim=4), axis=1), 1, atol=1e-5)


def test_pca_says_how_much_of_the_variance_it_keeps(rows):
    transform = FeatureTransform.fitted_to(FeatureSet.from_arrays(rows), "none", 3)
    expected = PCA(3).fit(rows.astype(np.float64)).explained_variance_ratio_.sum()
    assert float(transform.explained_variance) == pytest.approx(expected, abs=1e-4)
    assert transform.out_dim == 3


def test_a_refit_gives_the_same_projection(rows):
    np.testing.assert_array_equal(transformed("none", rows, pca_dim=4), transformed("none", rows.copy(), pca_dim=4))


def test_float16_is_accumulated_in_full_precision(rows):
    half = (rows / 4).astype(np.float16)
    transform = FeatureTransform.fitted_to(FeatureSet.from_arrays(half), "standardize")
    np.testing.assert_allclose(transform.mean, half.astype(np.float64).mean(axis=0), rtol=1e-5, atol=1e-6)


def test_the_fitted_transform_travels_in_its_state(rows):
    fitted = FeatureTransform.fitted_to(FeatureSet.from_arrays(rows), "standardize", 3)
    fresh = FeatureTransform(8, "standardize", 3)
    fresh.load_state_dict(fitted.state_dict())
    np.testing.assert_array_equal(fresh(torch.from_numpy(rows)), fitted(torch.from_numpy(rows)))


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="unknown preprocessing 'whiten': choose one of none, standardize, l2"):
        FeatureTransform(8, "whiten")
    for pca_dim in (0, 9):
        with pytest.raises(InputError, match=f"PCA to {pca_dim} dimensions, but the features have 8"):
            FeatureTransform(8, "none", pca_dim)
