"""Silhouettes against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples as reference_samples
from sklearn.metrics import silhouette_score

from deepclust.metrics import intrinsic, pairwise_silhouette, silhouette, silhouette_samples
from deepclust.runtime.errors import InputError


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.integers(7, size=590), np.full(10, -1), [7]])  # cluster 7 has one member
    features = 5 + 2 * rng.standard_normal((9, 20))[labels] + rng.standard_normal((601, 20))
    return features.astype(np.float32), labels


# Ours and scikit-learn's name of the distance.
METRICS = {
    "cosine": "cosine",
    "sqeuclidean": "sqeuclidean",
    "euclidean": "euclidean",
    "l1": "manhattan",
    "linf": "chebyshev",
}


@pytest.mark.parametrize("metric", METRICS)
def test_silhouette_equals_scikit_learns_with_noise_as_one_more_cluster(blobs, metric):
    features, labels = blobs
    expected = silhouette_score(features.astype(float), labels, metric=METRICS[metric])
    result = silhouette(features, labels, metric=metric)
    assert result.value == pytest.approx(expected, abs=1e-5)
    assert (result.n_used, result.n_samples) == (601, 601)
    renamed = silhouette(features, np.where(labels == -1, 99, labels), metric=metric)
    assert renamed.value == pytest.approx(result.value, rel=1e-9)  # summed in another order


def test_leaving_out_the_samples_between_clusters_does_not_raise_the_silhouette(blobs):
    features, labels = blobs
    rng = np.random.default_rng(1)
    between = rng.permutation(len(labels))[:200]
    blurred = features.copy()
    blurred[between] = features.mean(axis=0) + rng.standard_normal((200, 20))
    left_out = labels.copy()
    left_out[between] = -1
    whole, noisy = (silhouette(blurred, found, metric="euclidean").value for found in (labels, left_out))
    clustered = left_out != -1
    assert silhouette(blurred[clustered], left_out[clustered], metric="euclidean").value > whole + 0.1
    assert noisy < silhouette(blurred[clustered], left_out[clustered], metric="euclidean").value


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_closed_form_holds_per_sample_and_in_any_blocks(blobs, metric, monkeypatch):
    features, labels = blobs
    expected = reference_samples(features.astype(float), labels, metric=metric)
    monkeypatch.setattr(intrinsic, "BLOCK_ROWS", 37)
    ours = silhouette_samples(features.astype(np.float16).astype(np.float32), labels, metric=metric)
    np.testing.assert_allclose(ours, expected, atol=2e-3)
    np.testing.assert_allclose(silhouette_samples(features, labels, metric=metric), expected, atol=1e-5)


def test_a_far_away_origin_does_not_spoil_the_closed_form(blobs):
    features, labels = blobs
    moved = (features + 1000).astype(np.float32)
    expected = silhouette_score(moved.astype(float), labels, metric="sqeuclidean")
    assert silhouette(moved, labels, metric="sqeuclidean").value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", ["euclidean", "l1", "linf"])
def test_all_pairs_agree_with_scikit_learn_per_sample_and_in_any_blocks(blobs, metric, monkeypatch):
    features, labels = blobs
    expected = reference_samples(features.astype(float), labels, metric=METRICS[metric])
    ours = pairwise_silhouette.pairwise_silhouette_samples(features, labels, metric=metric)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    monkeypatch.setattr(pairwise_silhouette, "BLOCK_DISTANCES", 5000)
    blockwise = pairwise_silhouette.pairwise_silhouette_samples(features, labels, metric=metric)
    np.testing.assert_allclose(blockwise, ours, atol=1e-5)


def test_all_pairs_are_sampled_above_the_limit_and_say_so(blobs):
    features, labels = blobs
    exact = silhouette(features, labels, metric="euclidean").value
    sampled, again, other = (
        silhouette(features, labels, metric="euclidean", max_pairwise=300, seed=s) for s in (0, 0, 1)
    )
    assert (sampled.n_used, sampled.n_samples) == (300, 601)
    assert sampled.value == again.value != other.value
    assert sampled.value == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("labels", [np.zeros(20, int), np.arange(20), np.full(20, -1), np.r_[[0] * 12, [-1] * 8]])
def test_one_cluster_with_noise_or_without_and_only_singletons_have_no_silhouette_and_a_reason(labels):
    result = silhouette(np.random.default_rng(0).standard_normal((20, 4)), labels)
    assert result.value is None
    assert "at least 2" in result.reason


def test_bad_input_is_refused(blobs):
    features, labels = blobs
    with pytest.raises(InputError, match="one cluster id per row"):
        silhouette(features, labels[:-1])
    with pytest.raises(InputError, match="metric 'manhattan' is unknown"):
        silhouette(features, labels, metric="manhattan")
