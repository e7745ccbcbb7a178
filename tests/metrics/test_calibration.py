"""Calibration against a loop over bins and against torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from deepclust.clustering import Clustering
from deepclust.metrics import cluster_accuracy
from deepclust.metrics.calibration import calibration, why_no_calibration
from deepclust.runtime.errors import InputError


def head_on_random_data(n_samples=4000, n_classes=6, sharpness=4.0, seed=0):
    """Labels drawn from softmax probabilities (so a calibrated head), and the Clustering of that head."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.standard_normal((n_samples, n_classes))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (probs.cumsum(1) > rng.random((n_samples, 1))).argmax(1)
    return labels, probs, clustering_of(probs)


def clustering_of(probs):
    order = np.argsort(-probs, axis=1)[:, :5]
    top_probs = np.take_along_axis(probs, order, axis=1).astype(np.float32)
    return Clustering(order[:, 0].astype(np.int32), "head", probs.shape[1], order.astype(np.int32), top_probs)


@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_ece_is_torchmetrics_and_the_definition(n_bins):
    labels, probs, clustering = head_on_random_data(sharpness=1.5)
    found = calibration(clustering, labels, n_bins=n_bins)
    theirs = multiclass_calibration_error(
        torch.from_numpy(probs), torch.from_numpy(labels), num_classes=6, n_bins=n_bins, norm="l1"
    )
    assert found.ece == pytest.approx(float(theirs), abs=1e-6)
    confidence, right = probs.max(1), probs.argmax(1) == labels
    ece = 0.0
    for low, high in zip(found.edges, found.edges[1:]):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert found.ece == pytest.approx(ece, abs=1e-6)


def test_probabilities_that_are_true_have_little_error_and_sharpened_ones_much():
    labels, probs, clustering = head_on_random_data()
    sharpened = probs**4 / (probs**4).sum(1, keepdims=True)
    assert calibration(clustering, labels).ece < 0.03
    overconfident = calibration(clustering_of(sharpened), labels)
    assert overconfident.ece > 0.08
    assert overconfident.mean_confidence > overconfident.accuracy


def test_bins_hold_every_sample_and_clusters_may_be_numbered_in_any_way():
    labels, probs, clustering = head_on_random_data()
    found = calibration(clustering, labels)
    assert found.counts_B.sum() == len(labels)
    assert found.accuracy == pytest.approx(cluster_accuracy(labels, clustering.labels))
    assert np.nansum(found.accuracy_B * found.counts_B) / len(labels) == pytest.approx(found.accuracy)
    renumbered = clustering_of(probs[:, [3, 1, 5, 0, 2, 4]])
    assert calibration(renumbered, labels).ece == pytest.approx(found.ece, abs=1e-12)


def test_a_sure_and_a_torn_sample_fall_into_the_outer_bins():
    clustering = clustering_of(np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
    found = calibration(clustering, np.array([0, 0, 1]), n_bins=2)
    assert found.counts_B.tolist() == [1, 2]
    assert found.as_dict()["bin_confidence"] == [0.5, 1.0]


def test_what_has_no_calibration_says_so():
    kmeans = Clustering(np.array([0, 1]), "kmeans", 2)
    assert why_no_calibration(kmeans) == "kmeans gives no probabilities, so it has no calibration"
    with pytest.raises(InputError, match="kmeans gives no probabilities, so it has no calibration: evaluate"):
        calibration(kmeans, np.array([0, 1]))
    labels, _, head = head_on_random_data(n_samples=50)
    assert why_no_calibration(head) is None
    with pytest.raises(InputError, match="49 labels for the 50 samples of head"):
        calibration(head, labels[1:])
    head.top_probs = head.top_probs * 3
    with pytest.raises(InputError, match=r"lie outside \[0, 1\]"):
        calibration(head, labels)
