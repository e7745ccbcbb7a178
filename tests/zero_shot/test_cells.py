"""One cell: its scores, its key, and what is kept when it fails."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_mutual_info_score, silhouette_score

from deepclust.clusterers import clusterer_class, dendrogram
from deepclust.clustering import Clustering
from deepclust.spherical_kmeans import spherical_kmeans
from deepclust.zero_shot import cells as module
from deepclust.zero_shot.cells import Cell, CellStore, run_space
from deepclust.zero_shot.data import data_specs, load_data
from deepclust.zero_shot.protocol import PROTOCOL_CLUSTERERS

TREE = {"linkage": "average", "metric": "l1"}


@pytest.fixture(scope="module")
def digits():
    specs = data_specs(
        {"digits": {"name": "digits", "rows": 300, "levels": {"parity": [0, 1] * 5}}, "tiny": {"name": "digits"}}
    )
    return load_data(specs["digits"], "raw")


def cell(clusterer, reduction=None, **options):
    return Cell("digits", "raw", clusterer, reduction or {"kind": "none"}, options)


def test_scores_equal_scikit_learns_in_the_reduced_space(digits, tmp_path):
    store = CellStore(tmp_path)
    asked = cell("kmeans", {"kind": "pca", "dims": 10})
    (row,) = run_space([asked], digits, store)
    space, _ = store.reduced(asked, digits)
    labels = Clustering.load((tmp_path / "cells" / row["cell"]).with_suffix(".npz")).labels
    assert space.shape == (300, 10)
    assert row["ami"] == pytest.approx(adjusted_mutual_info_score(digits.labels, labels))
    assert row["silhouette"] == pytest.approx(silhouette_score(space, labels), abs=1e-5)
    assert (row["n_found"], row["n_classes"], row["noise"], row["reason"]) == (10, 10, 0, "")
    assert list(row["one_sided_ami"]) == ["parity", "class"]
    # Not L2-normalized: the inertia is that of scikit-learn on the same space.
    best = KMeans(10, n_init=10, random_state=0).fit(space).inertia_
    centers = np.stack([space[labels == label].mean(axis=0) for label in range(10)])
    assert ((space - centers[labels]) ** 2).sum() == pytest.approx(best, rel=0.05)


def test_cuts_of_one_tree_equal_scikit_learns(digits, tmp_path, monkeypatch):
    built = []
    real = dendrogram.build_dendrogram
    monkeypatch.setattr(dendrogram, "build_dendrogram", lambda *args: built.append(args[1:]) or real(*args))
    thresholds = (0.5, 4.0, 6.0, 1000.0)
    cuts = [cell("agglomerative_threshold", **TREE, distance_threshold=value, max_samples=None) for value in thresholds]
    rows = run_space([*cuts, cell("agglomerative", **TREE, max_samples=None)], digits, CellStore(tmp_path))
    assert built == [("average", "l1")]
    pixels = np.asarray(digits.features.features, np.float64)
    for row, threshold in zip(rows, (*thresholds, None), strict=True):
        theirs = AgglomerativeClustering(
            n_clusters=None if threshold else 10, distance_threshold=threshold, linkage="average", metric="manhattan"
        ).fit_predict(pixels)
        assert row["reason"] == ""
        assert row["ami"] == pytest.approx(adjusted_mutual_info_score(digits.labels, theirs), abs=1e-9)
        assert row["n_found"] == theirs.max() + 1


def test_one_cluster_and_only_singletons_have_no_silhouette_but_a_reason(digits, tmp_path):
    asked = [cell("agglomerative_threshold", **TREE, distance_threshold=value) for value in (1e-3, 1e6)]
    for row, found in zip(run_space(asked, digits, CellStore(tmp_path)), (300, 1), strict=True):
        assert (row["n_found"], row["silhouette"], row["reason"]) == (found, None, "")
        assert "at least 2" in row["silhouette_reason"]


def test_noise_is_one_more_class_for_ami_and_one_more_cluster_for_the_silhouette(digits, tmp_path):
    (row,) = run_space([cell("hdbscan", max_cluster_size=0.2)], digits, CellStore(tmp_path))
    labels = Clustering.load((tmp_path / "cells" / row["cell"]).with_suffix(".npz")).labels
    assert 0 < row["noise"] == (labels == -1).mean()
    assert row["n_found"] == labels.max() + 1
    assert row["ami"] == pytest.approx(adjusted_mutual_info_score(digits.labels, labels))
    assert row["silhouette"] == pytest.approx(silhouette_score(digits.features.features, labels), abs=1e-5)


def test_k_means_is_euclidean_and_spherical_k_means_compares_directions(digits, tmp_path):
    store = CellStore(tmp_path)
    asked = [
        cell(name, {"kind": "pca", "dims": 10}, **PROTOCOL_CLUSTERERS[name].defaults)
        for name in ("kmeans", "spherical_kmeans")
    ]
    euclidean, spherical = (
        Clustering.load((tmp_path / "cells" / row["cell"]).with_suffix(".npz"))
        for row in run_space(asked, digits, store)
    )
    space, _ = store.reduced(asked[0], digits)
    np.testing.assert_array_equal(
        euclidean.labels, KMeans(10, n_init=1, max_iter=1000, random_state=0).fit_predict(space)
    )
    np.testing.assert_array_equal(spherical.labels, spherical_kmeans(space, 10, seed=0).labels_N)


@pytest.mark.parametrize("name", ["optics", "louvain", "leiden"])
def test_further_clusterers_have_results_in_a_reduced_space(name, digits, tmp_path):
    pytest.importorskip("igraph")
    (row,) = run_space(
        [cell(name, {"kind": "pca", "dims": 10}, **PROTOCOL_CLUSTERERS[name].defaults)], digits, CellStore(tmp_path)
    )
    assert row["reason"] == ""
    assert row["n_found"] > 1
    assert (row["noise"] > 0) == (name == "optics")


def test_a_finished_cell_is_not_made_again_and_a_changed_setting_is(digits, tmp_path, monkeypatch):
    store = CellStore(tmp_path)
    asked = cell("kmeans")
    first = run_space([asked], digits, store)
    monkeypatch.setattr(module, "make_clusterer", lambda *_, **__: pytest.fail("made again"))
    assert run_space([asked], digits, store) == first
    assert store.read(replace(asked, seed=1), digits) is None
    assert store.read(replace(asked, silhouette=None), digits) is None


def test_two_that_make_cells_of_one_space_at_once_reduce_once(digits, tmp_path, monkeypatch):
    fitted = []
    real = module.Reduction.fit_transform
    monkeypatch.setattr(
        module.Reduction, "fit_transform", lambda self, *args: (fitted.append(0), time.sleep(0.1), real(self, *args))[2]
    )
    asked = cell("kmeans", {"kind": "pca", "dims": 10})
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: CellStore(tmp_path).reduced(asked, digits), range(2)))
    assert len(fitted) == 1
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1] >= 0.1


def test_a_refused_cell_keeps_its_reason_and_leaves_the_others_alone(digits, tmp_path, monkeypatch):
    store = CellStore(tmp_path)
    refused = cell("affinity_propagation", damping=7)
    bad, good = run_space([refused, cell("kmeans")], digits, store)
    assert "damping is 7" in bad["reason"]
    assert bad["ami"] is None
    assert good["ami"] > 0.5
    assert store.read(refused, digits) == bad
    assert store.read(refused, digits, retry=True) is None
    monkeypatch.setattr(module, "make_clusterer", lambda *_, **__: 1 / 0)
    (failed,) = run_space([cell("leiden")], digits, store)
    assert failed["reason"].startswith("ZeroDivisionError")


@pytest.mark.parametrize("name", ["affinity_propagation", "hdbscan"])
def test_all_rows_take_part_though_the_clusterers_own_default_is_a_sample(name, digits, tmp_path):
    method = PROTOCOL_CLUSTERERS[name].method
    assert clusterer_class(method)().max_samples == 10_000  # `deepclust train`: no run should take an hour unasked
    asked = cell(name, {"kind": "pca", "dims": 5}, **PROTOCOL_CLUSTERERS[name].defaults)
    (row,) = run_space([asked], digits, CellStore(tmp_path))
    assert (row["n_samples"], row["n_fitted"]) == (300, 300)
    assert asked.options["max_samples"] is None
    assert not any("drawn at random" in note for note in row["notes"])


def test_affinity_propagation_takes_a_sample_where_the_memory_does_not_reach_and_says_so(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_SAMPLES", 120)
    monkeypatch.setattr("deepclust.runtime.memory.free_bytes", lambda: 32 * 150**2)
    asked = cell("affinity_propagation", {"kind": "pca", "dims": 5}, damping=0.9, max_samples=None)
    (row,) = run_space([asked], digits, CellStore(tmp_path))
    assert (row["reason"], row["n_samples"], row["n_fitted"], row["converged"]) == ("", 300, 120, True)
    assert any("120 of 300 samples" in note for note in row["notes"])


def test_affinity_propagation_says_whether_it_converged_in_the_authors_1000_rounds(digits, tmp_path):
    options = dict(PROTOCOL_CLUSTERERS["affinity_propagation"].defaults)
    assert options["max_iter"] == 1000  # cluster.py of the authors' code: --max-iter
    space = {"kind": "pca", "dims": 5}
    asked = [cell("affinity_propagation", space, **{**options, "max_iter": rounds}) for rounds in (1000, 3)]
    rows = run_space([*asked, cell("kmeans", space)], digits, CellStore(tmp_path))
    assert [row["converged"] for row in rows] == [True, False, None]
    assert "did not converge in 3 rounds" in rows[1]["notes"][0]


def test_a_reduction_above_the_dimensions_is_every_cells_reason(digits, tmp_path):
    rows = run_space(
        [cell(name, {"kind": "pca", "dims": 500}) for name in ("kmeans", "hdbscan")], digits, CellStore(tmp_path)
    )
    assert all("500" in row["reason"] and row["ami"] is None for row in rows)
    assert json.loads((tmp_path / "cells" / rows[0]["cell"]).read_text()) == rows[0]


def test_an_unknown_number_of_clusters_is_a_reason(digits, tmp_path):
    unknown = replace(digits, n_clusters=None)
    told, blind = run_space([cell("kmeans"), cell("leiden")], unknown, CellStore(tmp_path))
    assert "k-means needs the number of clusters: set data.digits.n_clusters" in told["reason"]
    assert blind["n_found"] > 1
