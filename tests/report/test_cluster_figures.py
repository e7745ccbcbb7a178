"""What the figures of features and clusters are drawn from, and that they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deepclust.clustering import Clustering
from deepclust.extraction.datasets import load_dataset
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import cluster_accuracy
from deepclust.metrics.calibration import calibration
from deepclust.neighbors import mine_neighbors
from deepclust.report.calibration_figures import confidence_figure, reliability_figure
from deepclust.report.cluster_figures import (
    confusion_figure,
    confusion_matrix,
    consistency_curve,
    consistency_figure,
    embedding_figure,
    labels_apart,
    umap_layout,
)
from deepclust.report.figures import save_figure
from deepclust.report.neighbor_rows import images_of, neighbor_rows, one_of_each
from deepclust.runtime.errors import InputError


def svg_of(figure, folder):
    return save_figure(figure, folder / "figure")[1].read_text()


def test_the_consistency_curve_is_the_share_of_neighbors_with_the_samples_label_at_each_k(digits, tmp_path):
    neighbors = mine_neighbors(digits, 20)
    curve = consistency_curve(neighbors, digits.labels)
    assert list(curve) == [1, 2, 3, 5, 10, 15, 20]
    for k, share in curve.items():
        assert share == pytest.approx((digits.labels[neighbors.ids[:, :k]] == digits.labels[:, None]).mean())
    assert "nearest neighbors k" in svg_of(consistency_figure({"digits": curve}), tmp_path)


def test_the_confusion_matrix_has_the_accuracy_on_its_diagonal(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.array([2, 5, 7])[rng.integers(3, size=400)]
    clusters = np.where(rng.random(400) < 0.6, labels % 5, rng.integers(-1, 5, size=400))
    clustering = Clustering(clusters, "kmeans", 5)
    counts, classes, columns = confusion_matrix(labels, clustering)
    assert classes.tolist() == [2, 5, 7]
    assert columns.tolist() == [2, 5, 7, -1]
    assert np.trace(counts[:, :3]) / 400 == pytest.approx(cluster_accuracy(labels, clusters))
    np.testing.assert_array_equal(counts.sum(axis=1), [np.sum(labels == label) for label in classes])
    text = svg_of(confusion_figure(labels, clustering, [f"name{i}" for i in range(8)]), tmp_path)
    assert "name5" in text
    assert "none" in text
    with pytest.raises(InputError, match="399 labels for the 400 samples of kmeans"):
        confusion_matrix(labels[1:], clustering)


def test_the_embedding_shows_classes_beside_clusters(tmp_path):
    rng = np.random.default_rng(0)
    places, labels = rng.standard_normal((60, 2)), rng.integers(3, size=60)
    clustering = Clustering((labels + 1) % 3, "temi", 3)
    figure = embedding_figure(places, clustering, labels, ["ant", "bee", "cat"])
    # Clusters are named after the class they are mapped to, so both panels name the same places.
    panels = [{text.get_text(): text.get_position() for text in axes.texts} for axes in figure.axes]
    assert set(panels[0]) == {"ant", "bee", "cat"}
    assert panels[0] == panels[1]
    assert "TEMI: clusters" in svg_of(embedding_figure(places, clustering), tmp_path)


def test_one_far_cluster_leaves_the_rest_its_room_and_labels_do_not_cover_each_other():
    rng = np.random.default_rng(0)
    places, labels = rng.standard_normal((200, 2)), rng.integers(3, size=200)
    places[:20, 0] += 1000  # a tenth of the samples
    axes = embedding_figure(places, Clustering(labels, "temi", 3), labels, ["ant", "bee", "cat"]).axes[0]
    shown = np.concatenate([np.asarray(drawn.get_offsets()) for drawn in axes.collections])
    assert np.ptp(np.percentile(shown, (2, 98), axis=0), axis=0).min() > 0.3  # 0.005 if gaps stayed
    apart = labels_apart(np.full((6, 2), 0.5), [8] * 6)
    heights = np.sort(apart[:, 1])
    assert np.diff(heights).min() > 0.044
    np.testing.assert_array_equal(labels_apart(np.eye(2), [3, 3]), np.eye(2))


def test_umap_of_too_few_samples_is_refused():
    with pytest.raises(InputError, match="9 samples: UMAP needs at least 10"):
        umap_layout(FeatureSet.from_arrays(np.ones((9, 4), np.float32)))


@pytest.mark.slow
def test_umap_keeps_planted_clusters_apart(planted):
    rows, places = umap_layout(planted, n_samples=200)
    assert places.shape == (200, 2)
    nearest = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(nearest, np.inf)
    labels = planted.labels[rows]
    assert (labels[nearest.argmin(1)] == labels).mean() > 0.98


def test_digits_are_images_and_a_row_of_neighbors_is_one_line_each(digits):
    features = load_dataset("digits").train
    images = images_of(features)
    assert images.shape == (1797, 8, 8)
    np.testing.assert_allclose(images[3].ravel() / 255, features.features[3], atol=1 / 255)
    assert images_of(digits) is None  # the same numbers, but not known to be pixels
    neighbors = mine_neighbors(features, 6)
    rows = one_of_each(features.labels, len(features))
    assert features.labels[rows].tolist() == list(range(10))
    sheet = neighbor_rows(images, neighbors, rows, labels=features.labels, thumbnail=20)
    short = neighbor_rows(images, neighbors, rows[:4], labels=features.labels, thumbnail=20)
    assert isinstance(sheet, Image.Image)
    cell = 20 + 2 * 3 + 4
    assert sheet.height - short.height == 6 * cell
    with pytest.raises(InputError, match="5 images for the neighbors of 1797 samples"):
        neighbor_rows(images[:5], neighbors, rows)


def test_features_of_fashion_mnist_have_its_images_again(monkeypatch):
    images = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
    monkeypatch.setattr("deepclust.report.neighbor_rows.fashion_mnist", lambda split: (images, np.arange(3)))
    manifest = {"source": {"kind": "array", "name": "fashion_mnist test"}}
    whole = FeatureSet.from_arrays(np.ones((3, 7), np.float32), manifest=manifest)
    np.testing.assert_array_equal(images_of(whole), images)
    assert images_of(whole.select(np.array([0, 2]))) is None  # which images these are is not known


def test_a_neighbor_of_another_class_is_framed():
    rows = np.array([[1, 0], [1, 0.01], [1, 0.1], [0, 1]], np.float32)
    neighbors = mine_neighbors(rows, 2)
    images = np.full((4, 8, 8), 128, np.uint8)
    framed = neighbor_rows(images, neighbors, [0], labels=np.array([0, 0, 1, 1]), k=2, thumbnail=10)
    colors = {color for _, color in framed.getcolors(1 << 20)}
    assert (0xD5, 0x5E, 0x00) in colors
    same = neighbor_rows(images, neighbors, [0], labels=np.array([0, 0, 0, 1]), k=2, thumbnail=10)
    assert (0xD5, 0x5E, 0x00) not in {color for _, color in same.getcolors(1 << 20)}


def test_samples_to_show_are_of_the_largest_classes():
    labels = np.array([0] * 5 + [1] * 9 + [2] * 7)
    assert labels[one_of_each(labels, 21, n_rows=2)].tolist() == [1, 2]
    assert len(one_of_each(None, 21, n_rows=4)) == 4


def test_calibration_figures_name_methods_and_errors(tmp_path):
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]], np.float32)
    ids = np.argsort(-probs, axis=1)
    head = Clustering(ids[:, 0], "temi", 2, ids, np.take_along_axis(probs, ids, axis=1))
    found = calibration(head, np.array([0, 1, 1, 1]))
    text = svg_of(reliability_figure({"temi": found, "scan": found}), tmp_path)
    assert text.count(f"ECE {100 * found.ece:.1f} %") == 2
    assert "TEMI, mean 75.0 %" in svg_of(confidence_figure({"temi": found}), tmp_path)
