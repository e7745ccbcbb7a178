"""Cuts of one tree are the clusterings that scikit-learn finds with one fit each, and memory is asked for beforehand.

Shape suffixes: N samples, D feature dimensions.
"""

from __future__ import annotations

import gc
import time
import weakref

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

import deepclust.clusterers.dendrogram as dendrogram_module
import deepclust.runtime.memory as memory_module
from deepclust.clusterers import (
    AgglomerativeClusterer,
    AgglomerativeThresholdClusterer,
    Linkages,
    build_dendrogram,
    make_clusterer,
)
from deepclust.clusterers.dendrogram import LINKAGES, METRICS, pairwise_distances
from deepclust.runtime.errors import InputError

CASES = [(linkage, metric) for linkage in LINKAGES for metric in METRICS if linkage != "ward" or metric == "euclidean"]
every_case = pytest.mark.parametrize(("linkage", "metric"), CASES)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Overlapping groups far from the origin, whose squared norms would drown their distances."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((12, 7))[rng.integers(12, size=160)] * 2 + rng.standard_normal((160, 7)) + 30


def scikit_learns(rows_ND: np.ndarray, linkage: str, metric: str, **stop) -> np.ndarray:
    known = {"linf": "chebyshev"}
    if metric == "arccos":
        cosines = 1 - squareform(pdist(rows_ND, "cosine"))
        angles = np.arccos(np.clip(cosines, -1, 1))
        return AgglomerativeClustering(metric="precomputed", linkage=linkage, **stop).fit_predict(angles)
    if metric == "linf":
        distances = squareform(pdist(rows_ND, known[metric]))
        return AgglomerativeClustering(metric="precomputed", linkage=linkage, **stop).fit_predict(distances)
    return AgglomerativeClustering(metric=metric, linkage=linkage, **stop).fit_predict(rows_ND)


@every_case
def test_cuts_by_number_are_scikit_learns(linkage, metric, rows):
    tree = build_dendrogram(rows, linkage, metric)
    for n_clusters in (2, 5, 17, 90, 159):
        labels = tree.cut(n_clusters)
        expected = scikit_learns(rows, linkage, metric, n_clusters=n_clusters)
        assert adjusted_rand_score(expected, labels) == 1.0
        np.testing.assert_array_equal(np.unique(labels), np.arange(n_clusters))


@every_case
def test_cuts_by_distance_are_scikit_learns(linkage, metric, rows):
    tree = build_dendrogram(rows, linkage, metric)
    for threshold in (*np.quantile(tree.heights, (0.1, 0.5, 0.9, 0.99)), 2 * tree.heights[-1]):
        threshold = float(threshold * 1.0001)
        expected = scikit_learns(rows, linkage, metric, n_clusters=None, distance_threshold=threshold)
        labels = tree.cut_at(threshold)
        assert adjusted_rand_score(expected, labels) == 1.0
        assert tree.n_clusters_at(threshold) == len(np.unique(labels)) == len(np.unique(expected))


@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_scipys(metric, rows):
    expected = {
        "euclidean": pdist(rows),
        "l1": pdist(rows, "cityblock"),
        "linf": pdist(rows, "chebyshev"),
        "cosine": pdist(rows, "cosine"),
        "arccos": np.arccos(1 - pdist(rows, "cosine")),
    }[metric]
    np.testing.assert_allclose(pairwise_distances(rows, metric), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("linkage", "metric"), [case for case in CASES if case[0] in ("ward", "single")])
def test_the_tree_that_saves_memory_is_the_same(linkage, metric, rows, monkeypatch):
    tree = build_dendrogram(rows, linkage, metric)
    monkeypatch.setattr(dendrogram_module, "CONDENSED_SAMPLES", 10)
    if metric != "arccos":
        monkeypatch.setattr(dendrogram_module, "pairwise_distances", None)
    lean = build_dendrogram(rows, linkage, metric)
    np.testing.assert_allclose(lean.heights, tree.heights, rtol=1e-6)
    for one, other in ((lean.cut(count), tree.cut(count)) for count in (3, 20, 80)):
        assert adjusted_rand_score(one, other) == 1.0


def test_a_threshold_that_a_merge_hits_exactly_keeps_it_apart():
    # Merges at 1, 1 and 4: scikit-learn merges what is nearer than the threshold, and not what is as near.
    rows = np.array([[0.0], [1.0], [5.0], [6.0]])
    tree = build_dendrogram(rows, "single", "l1")
    for threshold in (0.5, 1.0, 1.5, 4.0, 4.5):
        expected = scikit_learns(rows, "single", "l1", n_clusters=None, distance_threshold=threshold)
        assert tree.n_clusters_at(threshold) == len(np.unique(expected))


def test_tied_heights_give_the_clusters_asked_for():
    tree = build_dendrogram(np.repeat(np.eye(8), 3, axis=0), "average", "euclidean")
    assert [len(np.unique(tree.cut(count))) for count in range(1, 25)] == list(range(1, 25))


def test_more_samples_than_the_memory_reaches_are_refused_before_anything_is_allocated(monkeypatch):
    monkeypatch.setattr(memory_module, "free_bytes", lambda: 1_000_000_000)
    monkeypatch.setattr(dendrogram_module, "pairwise_distances", None)
    message = (
        r"average linkage of 20000 samples needs 1\.6 GB, and 0\.9 GB are at hand, which reach for 15000 samples: "
        r"use linkage=ward"
    )
    with pytest.raises(InputError, match=message):
        build_dendrogram(np.zeros((20_000, 1)), "average")
    baseline = AgglomerativeClusterer(10, linkage="average", max_samples=None)
    baseline.check(14_000)
    with pytest.raises(InputError, match="set max_samples="):
        baseline.check(20_000)
    AgglomerativeClusterer(10, linkage="average", max_samples=5_000).check(10_000_000)
    for linkage in ("ward", "single"):
        AgglomerativeClusterer(10, linkage=linkage, max_samples=None).check(10_000_000)


def test_the_baselines_cut_their_tree(rows):
    by_number = AgglomerativeClusterer(7, normalize="none", linkage="average", metric="l1")
    labels = by_number.fit(rows).labels
    assert by_number.dendrogram is not None
    np.testing.assert_array_equal(labels, by_number.dendrogram.cut(7))
    threshold = float(by_number.dendrogram.heights[-10])
    by_distance = AgglomerativeThresholdClusterer(
        3, normalize="none", linkage="average", metric="l1", distance_threshold=threshold
    )
    clustering = by_distance.fit(rows)
    assert (clustering.n_clusters, clustering.n_found, clustering.notes) == (None, 11, ())
    same = AgglomerativeClusterer(normalize="none", linkage="average", metric="l1", distance_threshold=threshold)
    np.testing.assert_array_equal(same.fit(rows).labels, clustering.labels)


def test_without_a_threshold_the_tree_is_cut_where_dendrograms_change_color(rows):
    clustering = AgglomerativeThresholdClusterer(normalize="none").fit(rows)
    tree = build_dendrogram(rows)
    np.testing.assert_array_equal(clustering.labels, tree.cut_at(0.7 * tree.heights[-1]))
    assert "0.7 of the tallest merge" in clustering.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n_clusters": 3, "linkage": "median"},
            "unknown linkage 'median': choose one of ward, complete, average",
        ),
        ({"n_clusters": 3, "metric": "l3"}, "unknown metric 'l3': choose one of euclidean, l1, linf, cosine, arccos"),
        ({"n_clusters": 3, "metric": "l1"}, "ward linkage is defined for metric=euclidean only, not for l1"),
        ({}, "agglomerative needs the number of clusters: set n_clusters="),
        ({"n_clusters": 3, "distance_threshold": 1.0}, "give one of them, or use agglomerative_threshold"),
        ({"distance_threshold": 0.0}, "distance_threshold is 0.0: it must be above 0"),
        ({"n_clusters": 3, "max_samples": 1}, "max_samples is 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        AgglomerativeClusterer(**options)


def test_cuts_out_of_range_are_refused(rows):
    tree = build_dendrogram(rows)
    with pytest.raises(InputError, match="a tree of 160 samples is cut into 1 to 160"):
        tree.cut(161)
    with pytest.raises(InputError, match="distance_threshold is nan"):
        tree.cut_at(float("nan"))
    with pytest.raises(InputError, match="there is 1 sample"):
        build_dendrogram(rows[:1])


@pytest.fixture
def built(monkeypatch) -> list[tuple]:
    """(samples, linkage, metric) of every tree that is built."""
    calls: list[tuple] = []
    real = dendrogram_module.build_dendrogram

    def counted(rows_ND, linkage, metric):
        calls.append((len(rows_ND), linkage, metric))
        return real(rows_ND, linkage, metric)

    monkeypatch.setattr(dendrogram_module, "build_dendrogram", counted)
    return calls


def test_methods_that_share_linkages_build_each_once_and_find_what_they_find_alone(rows, built):
    linkages = Linkages()
    methods: list[tuple[str, dict]] = [
        ("agglomerative", {"n_clusters": 5}),
        ("agglomerative", {"n_clusters": 9, "seed": 3}),
        ("agglomerative_threshold", {}),
        ("agglomerative", {"n_clusters": 5, "linkage": "average"}),
        ("agglomerative", {"n_clusters": 5, "normalize": "none"}),
        ("agglomerative_threshold", {"max_samples": 100, "beyond": "sample"}),
        ("agglomerative", {"n_clusters": 5, "max_samples": 100, "beyond": "sample"}),
        ("agglomerative", {"n_clusters": 5, "max_samples": 100, "beyond": "sample", "seed": 1}),
    ]
    shared = [make_clusterer(name, linkages, **options).fit(rows) for name, options in methods]
    # Ward of the unit rows, average linkage, the rows as they are, and two samples of the rows.
    assert built == [(160, "ward", "euclidean"), (160, "average", "euclidean"), (160, "ward", "euclidean"),
                     (100, "ward", "euclidean"), (100, "ward", "euclidean")]  # fmt: skip
    for (name, options), clustering in zip(methods, shared, strict=True):
        np.testing.assert_array_equal(clustering.labels, make_clusterer(name, **options).fit(rows).labels)


def test_linkages_are_no_setting_and_methods_without_a_tree_leave_them_alone(rows, built):
    linkages = Linkages()
    for name in ("agglomerative", "kmeans"):
        clusterer = make_clusterer(name, linkages, n_clusters=3)
        assert "linkages" not in clusterer.settings
        clusterer.fit(rows)
        with pytest.raises(InputError, match="unexpected keyword argument 'linkages'"):
            make_clusterer(name, n_clusters=3, linkages=5)
    assert len(built) == 1


def test_rows_that_changed_in_place_have_a_tree_of_their_own(rows, built):
    clusterer = make_clusterer("agglomerative", Linkages(), n_clusters=2, normalize="none")
    mine = rows.copy()
    before = clusterer.fit(mine).labels
    mine[:80] += 100
    after = clusterer.fit(mine).labels
    assert len(built) == 2
    assert adjusted_rand_score(np.arange(160) < 80, after) == 1 > adjusted_rand_score(before, after)


def test_a_shared_tree_is_counted_in_the_seconds_of_every_method(rows, monkeypatch):
    def slow(*args):
        time.sleep(0.05)
        return build_dendrogram(*args)

    monkeypatch.setattr(dendrogram_module, "build_dendrogram", slow)
    linkages = Linkages()
    clusterers = [make_clusterer("agglomerative", linkages, n_clusters=count) for count in (3, 4)]
    first, second = (clusterer.fit(rows).seconds for clusterer in clusterers)
    assert min(first, second) >= 0.05


def test_linkages_keep_no_rows(rows):
    linkages = Linkages()
    mine = rows.copy()
    gone = weakref.ref(mine)
    linkages.dendrogram(mine, "ward", "euclidean")
    del mine
    gc.collect()
    assert gone() is None
