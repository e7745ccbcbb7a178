"""The staged search finds what an exhaustive look finds, keeps every trial, and hands over to `apply`."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import ami
from deepclust.metrics.knn_probe import knn_probe
from deepclust.runtime.errors import InputError
from deepclust.training.fit import fit_heads
from deepclust.training.recipe import Recipe
from deepclust.zero_shot import Candidates, Runner, Search, apply_choices, data_specs, read_results
from deepclust.zero_shot.tuning import read_choices

NAMES = ("kmeans", "agglomerative", "agglomerative_threshold")
SMALL = Candidates(
    pca_dims=(2, 10),
    pca_variances=(),
    umap_dims=(),
    metrics=("euclidean", "l1"),
    linkages=("ward", "average"),
    thresholds=(0.5, 2, 5, 20),
)


def runner_of(folder, workers=1):
    data = {
        "a": {"name": "digits", "range": [0, 150]},
        "b": {"name": "digits", "range": [900, 1050], "probe": "a"},
    }
    return Runner(folder, data_specs(data), workers=workers, report=lambda _: None)


@pytest.fixture
def runner(tmp_path):
    return runner_of(tmp_path)


def test_each_stage_keeps_the_candidate_with_the_highest_mean_ami(runner):
    search = Search(runner, "raw", ["a", "b"], NAMES, SMALL)
    chosen = search.run()
    assert list(chosen) == list(NAMES)
    trials = search.trials
    for name, stage in (
        ("kmeans", "reduction"),
        ("agglomerative", "linkage"),
        ("agglomerative_threshold", "threshold"),
    ):
        amis: dict[str, list[float]] = {}
        for trial in trials:
            if (trial["clusterer"], trial["stage"]) == (name, stage):
                amis.setdefault(json.dumps([trial["reduction"], trial["options"]]), []).append(trial["ami"])
        means = {settings: np.mean(values) for settings, values in amis.items()}
        assert all(len(values) == 2 for values in amis.values())
        picked = json.dumps([dict(chosen[name].reduction), dict(chosen[name].options)])
        assert means[picked] == max(means.values()) == pytest.approx(chosen[name].ami)
    # The later stages start from what the earlier ones chose.
    assert chosen["agglomerative_threshold"].reduction == chosen["agglomerative"].reduction
    assert chosen["agglomerative_threshold"].options["linkage"] == chosen["agglomerative"].options["linkage"]
    # Two sets × (three reductions of two clusterers, three linkages and metrics, four thresholds).
    assert len(trials) == 2 * (3 * 2 + 3 + 4)


def test_every_trial_is_kept_and_a_second_search_makes_none(runner, monkeypatch):
    first = Search(runner, "raw", ["a", "b"], NAMES, SMALL).run()
    trials = json.loads((runner.folder / "trials" / "raw.json").read_text())
    assert {(trial["stage"], trial["dataset"]) for trial in trials} == {
        (stage, dataset) for stage in ("reduction", "linkage", "threshold") for dataset in "ab"
    }
    assert (runner.folder / "trials" / "raw.csv").read_text().count("\n") == len(trials) + 1
    monkeypatch.setattr("deepclust.zero_shot.cells._clusterer", lambda *_: pytest.fail("made again"))
    assert Search(runner, "raw", ["a", "b"], NAMES, SMALL).run() == first
    assert read_choices(runner.folder / "chosen", "raw", NAMES)["kmeans"].reduction == first["kmeans"].reduction


def test_a_candidate_must_run_on_every_set(tmp_path):
    # Five dimensions are too many for the second set, on which they are never tried with success.
    narrow = FeatureSet.from_arrays(np.random.default_rng(0).standard_normal((60, 4)), np.arange(60) % 3)
    narrow.save(tmp_path / "narrow" / "raw")
    data = {"a": {"name": "digits", "rows": 120}, "narrow": {"features": f"{tmp_path}/narrow/{{encoder}}"}}
    runner = Runner(tmp_path / "run", data_specs(data), report=lambda _: None)
    candidates = Candidates(unreduced=False, pca_dims=(3, 10), pca_variances=(), umap_dims=())
    (choice,) = Search(runner, "raw", ["a", "narrow"], ["kmeans"], candidates).run().values()
    assert choice.reduction == {"kind": "pca", "dims": 3}
    alone = Candidates(unreduced=False, pca_dims=(10,), pca_variances=(), umap_dims=())
    (choice,) = Search(runner, "raw", ["a", "narrow"], ["kmeans"], alone).run().values()
    assert choice.tuned_on == ("a",)
    assert choice.notes == ("narrow is left out: no candidate ran on it",)


@pytest.mark.slow
def test_where_a_umap_wins_the_consistent_one_is_taken(tmp_path):
    runner = runner_of(tmp_path)
    candidates = Candidates(unreduced=False, pca_dims=(), pca_variances=(), umap_dims=(3, 6), consistent_umap_dims=6)
    (choice,) = Search(runner, "raw", ["a"], ["kmeans"], candidates).run().values()
    assert choice.reduction == {"kind": "umap", "dims": 6}


def test_tuning_sets_of_a_single_clusterer(runner):
    chosen = Search(runner, "raw", ["a", "b"], NAMES, SMALL, sets={"agglomerative": ["b"]}).run()
    assert chosen["kmeans"].tuned_on == ("a", "b")
    assert chosen["agglomerative"].tuned_on == chosen["agglomerative_threshold"].tuned_on == ("b",)


def test_optics_and_communities_have_a_stage_of_their_own(runner):
    pytest.importorskip("igraph")
    candidates = replace(SMALL, optics_min_samples=(5, 20), resolutions=(0.5, 1.0, 3.0))
    search = Search(runner, "raw", ["a"], ["optics", "louvain", "leiden"], candidates)
    chosen = search.run()
    for name, stage, option, values in (
        ("optics", "min_samples", "min_samples", (5, 20)),
        ("louvain", "resolution", "resolution", (0.5, 1.0, 3.0)),
        ("leiden", "resolution", "resolution", (0.5, 1.0, 3.0)),
    ):
        tried = {
            trial["options"][option]: trial["ami"]
            for trial in search.trials
            if (trial["clusterer"], trial["stage"]) == (name, stage)
        }
        assert tuple(tried) == values
        assert tried[chosen[name].options[option]] == max(tried.values())


def test_a_follower_alone_is_searched_with_its_leader(runner):
    chosen = Search(runner, "raw", ["a"], ["agglomerative_threshold"], SMALL).run()
    assert set(chosen) == {"agglomerative", "agglomerative_threshold"}


def test_chosen_settings_are_applied_to_other_data_and_read_back(runner):
    chosen = Search(runner, "raw", ["a"], NAMES, SMALL).run()
    rows = apply_choices(runner, runner.folder / "chosen", test=["b"], encoders=["raw"], clusterers=NAMES)
    assert [row["clusterer"] for row in rows] == [*NAMES, "classes"]
    for row in rows[:-1]:
        assert row["reduction"] == chosen[row["clusterer"]].reduction
        assert row["options"] == chosen[row["clusterer"]].options
        assert row["silhouette"] is not None
    found, (probe,) = read_results(runner.folder, test=["b"], encoders=["raw"], clusterers=NAMES)
    assert found == rows
    memory, judged = runner.load("a", "raw"), runner.load("b", "raw")
    expected = knn_probe(memory.features.features, memory.labels, judged.features.features, judged.labels)
    assert probe["accuracy"] == {str(k): value for k, value in expected.items()}
    assert probe["memory_samples"] == 150


@pytest.mark.slow
def test_over_processes_the_rows_are_the_same(tmp_path):
    choices = [
        Search(runner_of(tmp_path / str(workers), workers=workers), "raw", ["a", "b"], NAMES, SMALL).run()
        for workers in (1, 2)
    ]
    assert choices[0] == choices[1]


def test_what_is_missing_is_refused_in_one_line(runner, tmp_path):
    with pytest.raises(InputError, match="there is no data set 'c'"):
        Search(runner, "raw", ["c"], NAMES, SMALL).run()
    with pytest.raises(InputError, match="tuning is empty"):
        Search(runner, "raw", [], NAMES, SMALL).run()
    with pytest.raises(InputError, match="no features of digits by dino_vitb16"):
        Search(runner, "dino_vitb16", ["a"], NAMES, SMALL).run()
    with pytest.raises(InputError, match=r"no settings for encoder raw: .*stage=search"):
        apply_choices(runner, tmp_path / "none", test=["b"], encoders=["raw"], clusterers=NAMES)
    with pytest.raises(InputError, match="holds no cell of this matrix"):
        read_results(tmp_path, test=["b"], encoders=["raw"], clusterers=NAMES)


def test_a_tuning_set_without_labels_and_an_unknown_c_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32))
    data = {"bare": {"features": str(tmp_path / "x.npy")}, "a": {"name": "digits", "rows": 120}}
    runner = Runner(tmp_path / "run", data_specs(data), report=lambda _: None)
    with pytest.raises(InputError, match="tuning set bare has no labels"):
        Search(runner, "raw", ["bare"], NAMES, SMALL).run()
    Search(runner, "raw", ["a"], NAMES, SMALL).run()
    with pytest.raises(InputError, match="bare has no known number of clusters, which k-means needs"):
        apply_choices(runner, runner.folder / "chosen", test=["bare"], encoders=["raw"], clusterers=NAMES)
    blind = ["agglomerative_threshold"]
    (row,) = apply_choices(runner, runner.folder / "chosen", test=["bare"], encoders=["raw"], clusterers=blind)
    assert row["ami"] is None
    assert row["n_found"] > 0


def test_an_optional_data_set_that_is_not_there_is_left_out(tmp_path, capsys):
    data = {
        "a": {"name": "digits", "rows": 120},
        "gone": {"features": str(tmp_path / "none.npy"), "optional": True},
        "other": {"name": "digits", "encoders": ["dino_vitb16"]},
    }
    runner = Runner(tmp_path / "run", data_specs(data))
    Search(runner, "raw", ["a", "gone", "other"], ["agglomerative_threshold"], SMALL).run()
    names = ["a", "gone", "other"]
    rows = apply_choices(
        runner, runner.folder / "chosen", test=names, encoders=["raw"], clusterers=["agglomerative_threshold"]
    )
    assert {row["dataset"] for row in rows} == {"a"}
    assert "left out: no such file" in capsys.readouterr().out


def test_trained_heads_take_part_as_they_come(tmp_path):
    data = {
        "a": {"name": "digits", "range": [0, 150]},
        "b": {"name": "digits", "range": [900, 1797], "classes": [0, 1]},
    }
    runner = Runner(tmp_path, data_specs(data), report=lambda _: None)
    search = Search(runner, "raw", ["a"], ["kmeans", "tsp"], replace(SMALL, pca_dims=()))
    chosen = search.run()
    assert (chosen["tsp"].reduction, chosen["tsp"].options) == ({"kind": "none"}, {"loss": "tsp"})
    assert {trial["clusterer"] for trial in search.trials} == {"kmeans"}
    (row,) = [
        row
        for row in apply_choices(runner, tmp_path / "chosen", test=["b"], encoders=["raw"], clusterers=["tsp"])
        if row["clusterer"] == "tsp"
    ]
    features = runner.load("b", "raw").features
    by_hand = fit_heads(features, Recipe.of("tsp", n_clusters=2, seed=0)).trained.assign(features).labels
    assert row["ami"] == pytest.approx(ami(runner.load("b", "raw").labels, by_hand))
    assert row["ami"] > 0.9
    # Files of chosen settings from before heads took part are read as they are.
    assert read_choices(tmp_path / "chosen", "raw", ["temi", "scan"])["temi"].options == {"loss": "temi"}
