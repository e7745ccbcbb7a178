"""Facts about the baselines: features in, Clusterings out, fitted on one split and assigned on another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from deepclust import clusterers
from deepclust.clusterers import (
    CLUSTERERS,
    AgglomerativeClusterer,
    KMeansClusterer,
    clusterer_class,
    make_clusterer,
)
from deepclust.clustering import Clustering
from deepclust.metrics import ami, cluster_accuracy, score
from deepclust.runtime.errors import InputError
from deepclust.spherical_kmeans import kmeans_predict, spherical_kmeans

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data.astype(np.float32), data.target


@pytest.mark.parametrize("name", CLUSTERERS)
def test_every_baseline_fits_one_split_and_assigns_another(name, digits):
    features, labels = digits
    baseline = make_clusterer(name, n_clusters=10, seed=0)
    train, test = baseline.fit(features[:1200]), baseline.predict(features[1200:])
    assert baseline.n_clusters == (10 if baseline.needs_n_clusters else None)
    for clustering, truth in ((train, labels[:1200]), (test, labels[1200:])):
        assert clustering.method == name
        assert clustering.labels.shape == truth.shape
        assert clustering.labels.dtype == np.int32
        assert clustering.n_clusters == baseline.n_clusters
        assert clustering.n_found == (10 if baseline.needs_n_clusters else clustering.n_found)
        assert clustering.seconds > 0
        assert clustering.settings["seed"] == 0
        # OPTICS calls most of the digits noise.
        assert ami(truth, clustering.labels) > (0.1 if name == "optics" else 0.55)
        if clustering.top_ids is not None:
            np.testing.assert_array_equal(clustering.top_ids[:, 0], clustering.labels)


@pytest.mark.parametrize("name", CLUSTERERS)
def test_lengths_of_rows_do_not_matter(name, digits):
    features = digits[0][:400]
    # Powers of two: the directions stay what they are to the last bit.
    stretched = features * 2.0 ** np.random.default_rng(0).integers(-3, 4, (400, 1)).astype(np.float32)
    one, other = (make_clusterer(name, n_clusters=10).fit(rows).labels for rows in (features, stretched))
    assert adjusted_rand_score(one, other) > 0.99


def test_kmeans_is_spherical_kmeans_with_top_five(digits):
    features = digits[0]
    clustering = KMeansClusterer(10, seed=3).fit(features)
    np.testing.assert_array_equal(clustering.labels, spherical_kmeans(features, 10, seed=3).labels_N)
    assert clustering.top_ids.shape == (len(features), 5)


def test_the_papers_kmeans_scores_the_mean_over_three_single_random_starts(digits, tmp_path):
    features, labels = digits
    baseline = make_clusterer("kmeans_paper", n_clusters=10, seed=3)
    train, test = baseline.fit(features[:1200]), baseline.predict(features[1200:])
    starts = [
        spherical_kmeans(features[:1200], 10, n_init=1, init="random", seed=seed) for seed in (3, 3 + 1009, 3 + 2018)
    ]
    for clustering, rows, truth in ((train, features[:1200], labels[:1200]), (test, features[1200:], labels[1200:])):
        expected = [kmeans_predict(rows, start.centroids_CD)[0] for start in starts]
        np.testing.assert_array_equal(clustering.runs, expected)
        row = score(clustering, None, truth)
        for name, metric in (("acc", cluster_accuracy), ("ami", ami)):
            assert row[name] == pytest.approx(np.mean([metric(truth, run) for run in expected]))
            assert row[name] != pytest.approx(metric(truth, expected[0]))
    again = Clustering.load(test.save(tmp_path / "test.npz"))
    np.testing.assert_array_equal(again.runs, test.runs)
    # Its ids are 0 … 9 of one start each: none of the starts is chosen.
    assert len({tuple(run) for run in train.runs}) == 3


@pytest.mark.parametrize("linkage", ["ward", "average", "complete", "single"])
def test_agglomerative_equals_scikit_learns(linkage, digits):
    features = digits[0].astype(np.float64)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = AgglomerativeClustering(10, linkage=linkage).fit_predict(unit)
    clustering = AgglomerativeClusterer(10, linkage=linkage).fit(features)
    assert adjusted_rand_score(expected, clustering.labels) == 1.0
    assert clustering.notes == ()


def test_tied_heights_still_give_the_clusters_asked_for():
    features = np.repeat(np.eye(8), 3, axis=0)
    assert [AgglomerativeClusterer(c).fit(features).n_found for c in range(2, 12)] == list(range(2, 12))


def test_agglomerative_subsamples_above_the_limit_and_says_so(digits):
    features, labels = digits
    first, again, other = (
        AgglomerativeClusterer(10, seed=seed, max_samples=600, beyond="sample").fit(features) for seed in (0, 0, 1)
    )
    assert len(first) == len(features)
    assert "600 of 1797 samples" in first.notes[0]
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.labels != other.labels).any()
    assert ami(labels, first.labels) > 0.6


def test_agglomerative_says_how_new_samples_are_assigned(digits):
    baseline = AgglomerativeClusterer(10)
    baseline.fit(digits[0][:300])
    assert "nearest cluster mean" in baseline.predict(digits[0][300:400]).notes[0]


def test_bad_input_is_refused(digits):
    features = digits[0]
    with pytest.raises(
        InputError, match="no baseline is called 'dbscan': choose from kmeans, kmeans_l2, kmeans_paper, agglomerative,"
    ):
        make_clusterer("dbscan")
    with pytest.raises(InputError, match=r"baseline kmeans: .*'color'.*its options are n_clusters, seed"):
        make_clusterer("kmeans", n_clusters=3, color=1)
    with pytest.raises(InputError, match="agglomerative needs the number of clusters: set n_clusters="):
        make_clusterer("agglomerative")
    with pytest.raises(InputError, match="was not fitted"):
        KMeansClusterer(3).predict(features)
    with pytest.raises(InputError, match="unknown linkage 'median'"):
        AgglomerativeClusterer(3, linkage="median")
    with pytest.raises(InputError, match="raise max_samples"):
        AgglomerativeClusterer(200, max_samples=100).fit(features)
    broken = features[:50].copy()
    broken[7, 3] = np.nan
    broken[9] = 0
    with pytest.raises(InputError, match=r"rows hold NaN or infinite values \(first: row 7\)"):
        AgglomerativeClusterer(3).fit(broken)


def test_names_are_listed_without_the_libraries_that_do_the_work():
    listed = (
        "import sys, deepclust.clusterers as c; print(*c.CLUSTERERS, *{'torch', 'faiss', 'sklearn'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.split() == list(CLUSTERERS)


def test_every_name_has_a_class_of_that_name():
    assert [clusterer_class(name).name for name in CLUSTERERS] == list(CLUSTERERS)
    assert [name for name in CLUSTERERS if clusterer_class(name).needs_n_clusters] == [
        "kmeans", "kmeans_l2", "kmeans_paper", "agglomerative", "spectral", "consensus",
    ]  # fmt: skip
    with pytest.raises(InputError, match="no baseline is called 'dbscan': choose from kmeans, "):
        clusterer_class("dbscan")


def test_what_the_room_offers_is_there():
    assert all(getattr(clusterers, name) is not None for name in clusterers.__all__)
