"""Choosing without labels: the highest silhouette wins, and labels only tell what that costs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deepclust.clustering import Clustering
from deepclust.runs import choosing as module
from deepclust.runs.choosing import Candidate, judge, more_candidates, select_by_silhouette
from deepclust.runtime.errors import InputError


def candidate(method, silhouette, ami=None, **more):
    return Candidate(method, more.pop("reduction", "none"), more.pop("n_clusters", 10), 10, silhouette, ami, **more)


def test_labels_have_no_part_in_the_choice():
    bare = [candidate("kmeans", 0.3), candidate("hdbscan", None), candidate("leiden", 0.2)]
    labeled = [candidate("kmeans", 0.3, 0.5), candidate("hdbscan", None, 0.9), candidate("leiden", 0.2, 0.8)]
    assert select_by_silhouette(bare).chosen == bare[0]
    found = select_by_silhouette(labeled)
    assert found.chosen == labeled[0]
    assert found.best == labeled[1]
    assert found.gap == pytest.approx(0.4)
    assert found.note == (
        "By silhouette (30.0) the choice is k-means with C = 10: its AMI is 50.0, 40.0 below the best of 3 candidates, "
        "HDBSCAN with C = 10 at 90.0."
    )
    assert select_by_silhouette(bare).gap is None
    assert select_by_silhouette(bare).note == "By silhouette (30.0) the choice is k-means with C = 10, of 3 candidates."


def test_a_negative_silhouette_is_still_one_and_none_is_none():
    found = select_by_silhouette([candidate("kmeans", None), candidate("optics", -0.3)])
    assert found.chosen is not None
    assert found.chosen.method == "optics"
    nothing = select_by_silhouette([candidate("kmeans", None)])
    assert (nothing.chosen, nothing.best, nothing.gap) == (None, None, None)
    assert "none of 1 candidates" in nothing.note


def test_the_best_choice_says_so():
    note = select_by_silhouette([candidate("kmeans", 0.5, 0.9), candidate("leiden", 0.1, 0.2)]).note
    assert "also the best by AMI (90.0)" in note


def test_the_planted_number_of_clusters_is_found_without_labels(planted, tmp_path):
    found = more_candidates({"none": lambda: planted}, {"kmeans": {}, "leiden": {}}, [2, 3, 5, 8], folder=tmp_path)
    assert [(item.method, item.n_clusters) for item in found] == [
        ("kmeans", 2), ("kmeans", 3), ("kmeans", 5), ("kmeans", 8), ("leiden", None),
    ]  # fmt: skip
    selection = select_by_silhouette(found)
    assert selection.chosen is not None
    assert selection.chosen.n_found == 5
    assert selection.gap == 0


def test_finished_candidates_are_not_made_again(planted, tmp_path, monkeypatch):
    arguments = ({"none": lambda: planted}, {"kmeans": {}}, [3, 5])
    first = more_candidates(*arguments, folder=tmp_path)
    monkeypatch.setattr(module, "make_clusterer", lambda *_, **__: pytest.fail("made again"))
    assert more_candidates(*arguments, folder=tmp_path) == first
    assert more_candidates(*arguments, known=first) == []


def test_reduced_spaces_are_clustered_and_judged_as_they_are(planted):
    stretched = module.FeatureSet.from_arrays(np.asarray(planted.features) * 7 + 100, planted.labels)
    (found,) = more_candidates({"PCA 16": lambda: stretched}, {"kmeans_l2": {}}, [5])
    assert found.ami == pytest.approx(1)
    assert found.silhouette is not None
    assert found.silhouette > 0.7


def test_a_refused_candidate_keeps_its_reason_and_is_not_chosen(planted):
    def too_many():
        raise InputError("reduction.dims=500, but the features are 300 × 16")

    found = more_candidates({"UMAP 500": too_many, "none": lambda: planted}, {"kmeans": {}}, [5])
    assert "dims=500" in found[0].reason
    selection = select_by_silhouette(found)
    assert selection.chosen == found[1]


def test_an_unknown_number_of_clusters_is_refused(planted):
    with pytest.raises(InputError, match=r"kmeans needs the number of clusters: .* select.n_clusters"):
        more_candidates({"none": lambda: planted}, {"kmeans": {}}, [None])


def test_noise_is_one_more_cluster_so_that_leaving_samples_out_does_not_win(planted):
    half = np.where(np.arange(len(planted)) % 2, -1, planted.labels)
    whole = judge(Clustering(planted.labels, "kmeans", 5), "none", planted)
    noisy = judge(Clustering(half, "hdbscan"), "none", planted)
    assert whole.silhouette is not None
    assert noisy.silhouette is not None
    assert whole.silhouette > 0.9
    assert noisy.silhouette < 0.1
    assert (noisy.n_found, str(noisy)) == (5, "HDBSCAN")


OWN = ("data=features", "data.train=X.npy", "loss=none", "run_dir=run", "select=silhouette")


@pytest.fixture
def own_features(planted, tmp_path):
    np.save(tmp_path / "X.npy", planted.features)
    np.save(tmp_path / "y.npy", planted.labels)


@pytest.mark.usefixtures("own_features")
def test_train_selects_clusterer_reduction_and_number_of_clusters(command, tmp_path):
    outcome = command(
        "train.py", *OWN, "data.train_labels=y.npy", "baselines=[kmeans,leiden]", "select.n_clusters=[2,5,9]",
        "select.reductions=[pca]", "select.dims=4",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    selection = json.loads((tmp_path / "run" / "selection.json").read_text())
    assert selection["chosen"]["n_found"] == 5
    assert selection["ami_below_best"] == pytest.approx(0)
    assert [(c["method"], c["reduction"], c["n_clusters"]) for c in selection["candidates"]] == [
        ("leiden", "none", None), ("kmeans", "none", 2), ("kmeans", "none", 5), ("kmeans", "none", 9),
        ("kmeans", "PCA 4", 2), ("kmeans", "PCA 4", 5), ("kmeans", "PCA 4", 9), ("leiden", "PCA 4", None),
    ]  # fmt: skip
    assert selection["note"] in (tmp_path / "run" / "results.md").read_text()


@pytest.mark.usefixtures("own_features")
def test_train_selects_without_labels_too(command, tmp_path):
    outcome = command("train.py", *OWN, "n_clusters=5", "baselines=[kmeans,agglomerative]")
    assert (outcome.code, outcome.err) == (0, "")
    selection = json.loads((tmp_path / "run" / "selection.json").read_text())
    assert (selection["best_by_ami"], selection["ami_below_best"]) == (None, None)
    assert not (tmp_path / "run" / "selection").exists()
    assert "By silhouette" in outcome.out


@pytest.mark.usefixtures("own_features")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("baselines=[kmeans]",), "kmeans needs the number of clusters"),
        (("baselines=[leiden]", "select.reductions=[tsne]"), "unknown select.reductions 'tsne'"),
        (("baselines=[kmeans]", "select.n_clusters=[1]"), "select.n_clusters"),
        (("baselines=[kmeans]", "select.n_clusters=[5,999]"), "select.n_clusters"),
    ],
)
def test_bad_selections_are_refused_before_anything_is_made(command, tmp_path, arguments, message):
    outcome = command("train.py", *OWN, *arguments)
    assert outcome.code == 2
    assert message in outcome.error_line
    assert not (tmp_path / "run").exists()
