"""`deepclust train` and `deepclust evaluate` as a user meets them: what they write, and what they refuse."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from deepclust.clusterers import CLUSTERERS, dendrogram
from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import ROW_KEYS
from deepclust.runtime.files import write_json
from deepclust.training.module import ClusteringModule

# Two short epochs of everything: what is computed is not looked at here.
TINY = ("max_epochs=2", "n_heads=2", "n_neighbors=8", "data.batch_size=128", "init=kmeans")
OWN = ("data=features", "data.train=X.npy", "n_clusters=5", *TINY)
# Data of one's own get other heads where none are named.
PAPERS = "loss=[temi,scan,tsp]"
LABEL_METRICS = ("acc", "nmi", "ami", "ari")


@pytest.fixture
def workplace(tmp_path: Path, planted: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the planted clusters: X.npy and y.npy, X_test.npy and y_test.npy."""
    monkeypatch.chdir(tmp_path)
    rows, labels = np.asarray(planted.features), planted.labels
    np.save(tmp_path / "X.npy", rows[:200])
    np.save(tmp_path / "y.npy", labels[:200])
    np.save(tmp_path / "X_test.npy", rows[200:])
    np.save(tmp_path / "y_test.npy", labels[200:])
    return tmp_path


def rows_of(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_data_of_ones_own_gets_the_heads_that_are_best_over_many_sets(command, workplace):
    outcome = command("train.py", *OWN, "baselines=none", "run_dir=run")
    assert (outcome.code, outcome.err) == (0, "")
    assert [row["method"] for row in rows_of(workplace / "run")] == ["consensus_heads"]
    assert command("train.py", *OWN, "loss=tsp", "baselines=none", "run_dir=asked").code == 0
    assert [row["method"] for row in rows_of(workplace / "asked")] == ["tsp"]


# --- what a run leaves ---------------------------------------------------------------------------------------------


def test_the_bare_command_trains_every_loss_and_runs_the_baselines(command, tmp_path):
    outcome = command("train.py", "max_epochs=1", "n_heads=1", "n_neighbors=5")
    assert (outcome.code, outcome.err) == (0, "")
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("_digits_temi-scan-tsp")
    *table, last = outcome.out.strip().splitlines()
    assert last == f"run folder: runs/{folder.name}"
    rows = rows_of(folder)
    assert len([line for line in table if " train " in line]) == len(rows)
    assert [row["method"] for row in rows] == ["temi", "scan", "tsp", "kmeans", "agglomerative"]
    for row in rows:
        assert tuple(row) == ROW_KEYS
        assert (row["split"], row["n_clusters"], row["seed"]) == ("train", 10, 0)
        assert 1 <= row["n_found"] <= 10
        assert all(0 <= row[key] <= 1 for key in LABEL_METRICS)
        assert -1 <= row["silhouette"] <= 1
        assert row["seconds"] > 0
        clustering = Clustering.load(folder / "clusterings" / f"{row['method']}.npz")
        assert clustering.method == row["method"]
        assert clustering.labels.shape == (1797,)
        assert clustering.n_found == row["n_found"]
        if row["method"] != "agglomerative":
            assert clustering.top_ids.shape == (1797, 5)
        if row["method"] in ("temi", "scan", "tsp"):
            assert clustering.top_probs.shape == (1797, 5)
    written = {path for path in files_in(folder) if (folder / path).is_file()}
    assert {"config.yaml", "results.json", "results.md", "checkpoints/tsp.ckpt"} <= written
    assert not [path for path in written if Path(path).name.startswith(".")]


def test_without_labels_the_intrinsic_metrics_are_there_and_the_others_null(command, workplace):
    assert command("train.py", *OWN, PAPERS, "run_dir=run").code == 0
    rows = rows_of(workplace / "run")
    assert len(rows) == 5
    for row in rows:
        assert tuple(row) == ROW_KEYS
        assert all(row[key] is None for key in LABEL_METRICS)
        assert isinstance(row["silhouette"], float)
        assert row["n_found"] >= 1
    assert "nan" not in (workplace / "run" / "results.md").read_text().lower()


def test_a_test_split_is_scored_beside_the_training_split(command, workplace):
    arguments = ("data.train_labels=y.npy", "data.test=X_test.npy", "data.test_labels=y_test.npy")
    assert command("train.py", *OWN, PAPERS, *arguments, "run_dir=run", "seed=3").code == 0
    rows = rows_of(workplace / "run")
    assert [(row["method"], row["split"]) for row in rows] == [
        (method, split) for method in ("temi", "scan", "tsp", "kmeans", "agglomerative") for split in ("train", "test")
    ]
    for row in rows:
        assert row["seed"] == 3
        suffix = "" if row["split"] == "train" else "_test"
        clustering = Clustering.load(workplace / "run" / "clusterings" / f"{row['method']}{suffix}.npz")
        assert len(clustering) == (200 if row["split"] == "train" else 100)
        assert row["acc"] > 0.9, "planted clusters with a k-means start"


@pytest.mark.parametrize("kind", ["npy16", "npy64", "npz", "pt", "FeatureSet", "splits"])
def test_features_of_every_kind_are_read(kind, command, workplace):
    rows, labels = np.load(workplace / "X.npy"), np.load(workplace / "y.npy")
    expected_splits, train = ["train"], {"npz": "own.npz", "pt": "own.pt"}.get(kind, "own.npy")
    if kind == "npy16":
        np.save("own.npy", rows.astype(np.float16))
    elif kind == "npy64":
        np.save("own.npy", rows.astype(np.float64))
    elif kind == "npz":
        np.savez("own.npz", features=rows, labels=labels)
    elif kind == "pt":
        torch.save({"features": torch.from_numpy(rows).bfloat16(), "labels": torch.from_numpy(labels)}, "own.pt")
    else:
        train = "own"
        root = workplace / "own"
        FeatureSet.from_arrays(rows, labels).save(root / "train" if kind == "splits" else root)
        if kind == "splits":
            FeatureSet.from_arrays(rows[:50], labels[:50]).save(root / "test")
            expected_splits = ["train", "test"]
    arguments = (f"data.train={train}", "n_clusters=5", "loss=tsp", "baselines=kmeans", "run_dir=run")
    outcome = command("train.py", "data=features", *arguments, *TINY)
    assert outcome.code == 0, outcome.err
    found = rows_of(workplace / "run")
    assert [row["split"] for row in found] == expected_splits * 2
    labeled = kind not in ("npy16", "npy64")
    assert all((row["acc"] is not None) == labeled for row in found)


@pytest.mark.parametrize(
    ("choice", "methods"),
    [
        (("loss=none",), ["kmeans", "agglomerative"]),
        (("loss=none", "baselines=kmeans"), ["kmeans"]),
        (("loss=scan", "baselines=none"), ["scan"]),
        (("loss=[temi,tsp]", "baselines=agglomerative"), ["temi", "tsp", "agglomerative"]),
    ],
)
def test_losses_and_baselines_are_chosen_by_name(choice, methods, command, workplace):
    assert command("train.py", *OWN, *choice, "run_dir=run").code == 0
    assert [row["method"] for row in rows_of(workplace / "run")] == methods


def test_every_clusterer_runs_in_one_command(command, workplace):
    arguments = ("loss=none", "baselines=all", "data.train_labels=y.npy", "data.test=X_test.npy", "run_dir=run")
    outcome = command("train.py", *OWN, *arguments, "data.test_labels=y_test.npy")
    assert (outcome.code, outcome.err) == (0, "")
    rows = {(row["method"], row["split"]): row for row in rows_of(workplace / "run")}
    assert {method for method, _ in rows} == set(CLUSTERERS)
    assert [row["n_clusters"] for row in rows.values() if row["method"] in ("spectral", "leiden")] == [5, 5, None, None]
    assert rows["spectral", "train"]["acc"] == rows["leiden", "test"]["acc"] == 1


def test_one_tree_serves_both_agglomerative_methods_of_a_run(command, workplace, monkeypatch):
    built = []
    real = dendrogram.build_dendrogram
    monkeypatch.setattr(dendrogram, "build_dendrogram", lambda *args: built.append(args[1:]) or real(*args))
    outcome = command(
        "train.py", *OWN, "loss=none", "baselines=[agglomerative,agglomerative_threshold]",
        "select=silhouette", "select.n_clusters=[3,4,5]",
    )  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    # One in the run, and one for the numbers of clusters that select= tries.
    assert built == [("ward", "euclidean")] * 2


def test_clusterers_that_find_the_number_of_clusters_need_none(command, workplace):
    arguments = ("data=features", "data.train=X.npy", "loss=none", "run_dir=run")
    assert command("train.py", *arguments, "baselines=[leiden,hdbscan]").code == 0
    assert rows_of(workplace / "run")[0]["n_found"] == 5
    outcome = command("train.py", *arguments, "baselines=[leiden,spectral]", "run_dir=other")
    assert outcome.code == 2
    assert "spectral needs the number of clusters: set n_clusters=" in outcome.error_line
    assert not (workplace / "other").exists()


def test_a_clustering_without_a_silhouette_says_why(command, workplace):
    arguments = (
        "loss=none",
        "baselines=agglomerative_threshold",
        "+baselines.agglomerative_threshold.distance_threshold=99",
    )
    outcome = command("train.py", *OWN, *arguments, "run_dir=run")
    assert outcome.code == 0, outcome.err
    (row,) = rows_of(workplace / "run")
    assert (row["n_found"], row["silhouette"]) == (1, None)
    assert "no silhouette, as 1 clusters of 200 samples were found" in (workplace / "run" / "results.md").read_text()


def test_heads_and_baselines_see_the_reduced_space_and_evaluate_does_too(command, workplace):
    arguments = ("data.train_labels=y.npy", "data.test=X_test.npy", "data.test_labels=y_test.npy", "loss=tsp")
    reduction = ("reduction=pca", "reduction.dims=6")
    outcome = command("train.py", *OWN, *arguments, *reduction, "run_dir=run")
    assert (outcome.code, outcome.err) == (0, "")
    run = workplace / "run"
    rows = rows_of(run)
    assert all(row["acc"] > 0.9 for row in rows)
    for name in ("tsp", "kmeans", "agglomerative"):
        settings = Clustering.load(run / "clusterings" / f"{name}.npz").settings
        assert settings.get("normalize", "none") == "none"
    assert "Reduced by PCA to 6 dimensions" in outcome.out
    assert "Reduced by PCA to 6 dimensions" in (run / "results.md").read_text()
    assert torch.load(run / "checkpoints" / "tsp.ckpt", weights_only=False)["state_dict"]["transform.mean"].shape == (
        6,
    )
    # Scored again from the checkpoint: the same rows; and new features take the same road.
    assert command("evaluate.py", "run=run").code == 0
    again = json.loads((run / "evaluation.json").read_text())
    assert [row["silhouette"] for row in again] == [row["silhouette"] for row in rows]
    new = ("data=features", "data.train=X_test.npy", "data.train_labels=y_test.npy")
    assert command("evaluate.py", "run=run", *new).code == 0
    (file,) = run.glob("other_data/*/evaluation.json")
    (row,) = json.loads(file.read_text())
    assert row["acc"] == next(row["acc"] for row in rows if (row["method"], row["split"]) == ("tsp", "test"))


def test_settings_reach_the_training(command, workplace):
    choices = ("loss=temi", "loss.temi.beta=0.8", "init=random", "head=linear", "baselines=none", "seed=7")
    assert command("train.py", *OWN, *choices, "run_dir=run").code == 0
    settings = Clustering.load(workplace / "run" / "clusterings" / "temi.npz").settings
    expected = {"n_clusters": 5, "n_heads": 2, "n_neighbors": 8, "max_epochs": 2, "batch_size": 128}
    expected |= {"init": "random", "head": "linear", "seed": 7}
    assert {key: settings[key] for key in expected} == expected
    assert settings["loss_options"]["beta"] == 0.8


def test_equal_seeds_give_equal_clusterings(command, workplace):
    for name in ("first", "second"):
        assert command("train.py", *OWN, "loss=temi", f"run_dir={name}").code == 0
    for method in ("temi", "kmeans", "agglomerative"):
        first, second = (
            Clustering.load(workplace / run / "clusterings" / f"{method}.npz") for run in ("first", "second")
        )
        np.testing.assert_array_equal(first.labels, second.labels)


def test_a_second_run_reads_the_neighbors_of_the_first(command, workplace, monkeypatch):
    assert command("train.py", *OWN, "loss=temi", "baselines=none", "run_dir=first").code == 0

    def refuse(*arguments, **options):
        raise AssertionError("mined again")

    monkeypatch.setattr("deepclust.neighbors.mine_neighbors", refuse)
    assert command("train.py", *OWN, "loss=temi", "baselines=none", "run_dir=second").code == 0


def test_a_sweep_writes_one_folder_per_job(command, workplace):
    outcome = command("train.py", *OWN, "loss=temi,tsp", "-m", "seed=0,1", "baselines=none", "run_dir=sweep")
    assert outcome.code == 0, outcome.err
    results = sorted((workplace / "sweep").rglob("results.json"))
    found = {(row["method"], row["seed"]) for path in results for row in json.loads(path.read_text())}
    assert len(results) == 4
    assert found == {("temi", 0), ("temi", 1), ("tsp", 0), ("tsp", 1)}


def test_jobs_that_differ_in_the_data_alone_have_folders_of_their_own(command, workplace):
    os.makedirs("a/b")
    for name in ("a/b/G.npy", "a_b_G.npy", "H.npy"):
        np.save(name, np.load("X.npy")[:, ::-1] if name == "H.npy" else np.load("X.npy"))
    sweep = ("-m", "data=features", "loss=none", "baselines=kmeans", "n_clusters=5", "run_dir=sweep")
    outcome = command("train.py", *sweep, "data.train=a/b/G.npy,a_b_G.npy,H.npy")
    assert (outcome.code, outcome.err) == (0, "")
    folders = sorted(path.parent.name for path in (workplace / "sweep").rglob("results.json"))
    assert len(folders) == 3
    assert "baselines=kmeans,data.train=H.npy,data=features,loss=none,n_clusters=5" in folders


def test_jobs_that_differ_in_the_experiment_alone_have_folders_of_their_own(command, workplace):
    sweep = ("-m", *OWN, "experiment=temi_paper,tsp_paper", "baselines=none", "run_dir=sweep")
    outcome = command("train.py", *sweep)
    assert (outcome.code, outcome.err) == (0, "")
    found = [json.loads(path.read_text())[0]["method"] for path in (workplace / "sweep").rglob("results.json")]
    assert sorted(found) == ["temi", "tsp"]


def test_evaluations_of_a_sweep_over_data_have_folders_of_their_own(command, workplace):
    np.save("H.npy", np.load("X.npy")[:, :4])
    data = ("data=features", "data.train=X.npy,H.npy", "data.train_labels=y.npy", "metrics=separability")
    outcome = command("evaluate.py", "-m", *data, "run_dir=sweep")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(list((workplace / "sweep").rglob("separability.json"))) == 2


# --- loggers -------------------------------------------------------------------------------------------------------


def test_csv_metrics_have_the_promised_names(command, workplace):
    arguments = ("data.train_labels=y.npy", "loss=temi", "logger=csv", "trainer.val_every_n_epochs=1")
    outcome = command("train.py", *OWN, *arguments, "trainer.log_every_n_steps=1", "run_dir=run")
    assert outcome.code == 0, outcome.err
    with open(workplace / "run" / "logs" / "metrics.csv") as stream:
        logged = list(csv.DictReader(stream))
    filled = {name: [float(line[name]) for line in logged if line[name]] for name in logged[0]}
    assert len(filled["train/loss"]) == 4  # two epochs of 200 samples in batches of up to 128
    assert len(filled["train/loss_head_00"]) == len(filled["train/loss_head_01"]) == 2
    for metric in ("acc", "nmi", "ami", "ari", "silhouette", "n_found"):
        assert len(filled[f"val/{metric}"]) == 2
    # A step's loss is the mean over heads, an epoch's loss of a head the mean over steps.
    by_epoch = np.reshape(filled["train/loss"], (2, 2)).mean(axis=1)
    heads = np.mean([filled["train/loss_head_00"], filled["train/loss_head_01"]], axis=0)
    np.testing.assert_allclose(heads, by_epoch, atol=1e-4)
    (row, *_) = rows_of(workplace / "run")
    assert filled["train/acc"] == pytest.approx([row["acc"]])
    # The last validation looks at the heads that the run ends with.
    assert filled["val/acc"][-1] == pytest.approx(row["acc"])


def test_resuming_keeps_the_metrics_of_the_part_before(command, workplace):
    arguments = (*OWN, "loss=tsp", "baselines=none", "logger=csv", "trainer.log_every_n_steps=1")
    assert command("train.py", *arguments, "run_dir=run").code == 0
    run = workplace / "run"
    before = (run / "logs" / "metrics.csv").read_text()
    for part in (1, 2):
        # As if it had been killed after its last checkpoint.
        (run / "clusterings" / "tsp.npz").unlink()
        (run / "results.json").unlink()
        outcome = command("train.py", *arguments, "resume=run")
        assert (outcome.code, outcome.err) == (0, "")
        assert (run / "logs" / "metrics.csv").read_text() == before
        assert "train/silhouette" in (run / "logs" / f"resumed_{part}" / "metrics.csv").read_text()


def test_several_losses_are_logged_under_their_names(command, workplace):
    arguments = ("loss=[temi,tsp]", "logger=csv", "baselines=kmeans", "trainer.log_every_n_steps=1")
    assert command("train.py", *OWN, *arguments, "run_dir=run").code == 0
    header = (workplace / "run" / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    expected = {"temi/train/loss", "tsp/train/loss", "temi/train/loss_head_00", "temi/train/silhouette"}
    assert expected | {"kmeans/train/silhouette"} <= set(header)


def test_tensorboard_shows_the_measures_of_every_epoch_the_results_and_pictures(command, workplace, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr("deepclust.report.map_layout.UMAP_SAMPLES", 0)
    labels = ("data.train_labels=y.npy", "baselines=none", "logger=tensorboard")
    outcome = command("train.py", *OWN, *labels, "loss=tsp", "run_dir=run")
    assert outcome.code == 0, outcome.err
    shown = events.EventAccumulator(str(workplace / "run" / "logs")).Reload()
    assert set(shown.Tags()["images"]) == {"map", "confusion/tsp"}
    assert len(shown.Scalars("train/pair_information")) == 2
    assert "hp_metric" not in shown.Tags()["scalars"]
    assert b"n_clusters" in shown.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    (row,) = rows_of(workplace / "run")
    assert shown.Scalars("train/acc")[-1].value == pytest.approx(row["acc"])
    (results,) = shown.Tensors("results/text_summary")
    assert f"{100 * row['acc']:.1f}" in results.tensor_proto.string_val[0].decode()


# --- evaluate ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(command, workplace) -> Path:
    arguments = ("data.train_labels=y.npy", "data.test=X_test.npy", "data.test_labels=y_test.npy", "baselines=none")
    assert command("train.py", *OWN, PAPERS, *arguments, "n_heads=3", "run_dir=run").code == 0
    return workplace / "run"


def test_evaluate_reproduces_the_rows_of_the_run(run, command):
    outcome = command("evaluate.py", f"run={run}")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads((run / "evaluation.json").read_text())
    for rows in (found, trained := rows_of(run)):
        for row in rows:
            assert tuple(row) == ROW_KEYS
            del row["seconds"]
    assert sorted(found, key=str) == sorted(trained, key=str)


def test_evaluate_scores_other_features_of_the_same_encoder(run, command, workplace):
    arguments = ("data=features", "data.train=X_test.npy", "data.train_labels=y_test.npy")
    assert command("evaluate.py", f"run={run}", *arguments).code == 0
    (file,) = run.glob("other_data/features-*/evaluation.json")
    found = {row["method"]: row for row in json.loads(file.read_text())}
    for row in rows_of(run):
        if row["split"] == "test":
            assert found[row["method"]]["acc"] == row["acc"]


def test_evaluate_needs_the_checkpoints_alone(run, command):
    for leftover in [*(run / "clusterings").iterdir(), run / "results.json", run / "results.md"]:
        leftover.unlink()
    (run / "checkpoints" / ".temi.x1y2.ckpt").write_bytes(b"left by a killed process")
    assert command("evaluate.py", f"run={run}").code == 0
    methods = {row["method"] for row in json.loads((run / "evaluation.json").read_text())}
    assert methods == {"temi", "scan", "tsp"}
    # Without a note of its settings too, where the data are named.
    (run / "config.yaml").unlink()
    assert command("evaluate.py", f"run={run}", "data=features", "data.train=X_test.npy").code == 0


def test_evaluate_refuses_features_of_another_encoder(run, command, workplace):
    np.save("narrow.npy", np.load(workplace / "X.npy")[:, :7])
    outcome = command("evaluate.py", f"run={run}", "data=features", "data.train=narrow.npy")
    assert outcome.code == 2
    assert "the features have 7 dimensions, but the heads were trained on 16" in outcome.error_line
    assert not (run / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "run=old: no such folder"),
        (lambda folder: folder.mkdir(), r"old holds no checkpoint \(checkpoints/\*\.ckpt\)"),
        (lambda folder: (folder / "checkpoints").mkdir(parents=True), "old holds no checkpoint"),
    ],
    ids=["missing", "empty", "no checkpoint"],
)
def test_evaluate_refuses_a_folder_without_a_checkpoint(prepare, message, command, tmp_path):
    prepare(tmp_path / "old")
    before = files_in(tmp_path)
    outcome = command("evaluate.py", "run=old")
    assert outcome.code == 2
    assert re.search(message, outcome.error_line)
    assert files_in(tmp_path) == before


def test_evaluate_refuses_a_broken_checkpoint(run, command):
    checkpoint = run / "checkpoints" / "scan.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    outcome = command("evaluate.py", f"run={run}")
    assert outcome.code == 2
    assert "scan.ckpt is no readable checkpoint" in outcome.error_line


def test_evaluate_without_a_run_says_what_to_name(command):
    outcome = command("evaluate.py")
    assert outcome.code == 2
    assert "name the run to evaluate: run=<run folder>" in outcome.error_line


# --- bad input -----------------------------------------------------------------------------------------------------


def with_row(value):
    def prepare(rows: np.ndarray) -> None:
        rows = rows.copy()
        rows[[17, 40]] = value
        np.save("bad.npy", rows)

    return prepare


def truncated(name: str):
    def prepare(rows: np.ndarray) -> None:
        path = Path(name)
        if path.suffix == ".npy":
            np.save(path, rows)
        elif path.suffix == ".npz":
            np.savez(path, features=rows)
        else:
            torch.save(torch.from_numpy(rows), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return prepare


def nothing(rows: np.ndarray) -> None:
    pass


BAD = ("data=features", "data.train=bad.npy", "n_clusters=5", *TINY)
BAD_INPUT = {
    "NaN": (with_row(np.nan), BAD, r"bad.npy: 2 of 200 rows hold NaN or infinite values \(first: row 17\)"),
    "infinite": (with_row(np.inf), BAD, r"bad.npy: 2 of 200 rows hold NaN or infinite values \(first: row 17\)"),
    "zero rows": (with_row(0), BAD, r"bad.npy: 2 of 200 rows are all zero \(first: row 17\)"),
    "one dimension": (lambda rows: np.save("bad.npy", rows[:, 0]), BAD, r"has shape \(200,\)"),
    "no rows": (lambda rows: np.save("bad.npy", rows[:0]), BAD, r"bad.npy is empty: shape \(0, 16\)"),
    "text": (lambda rows: np.save("bad.npy", np.full((9, 2), "a")), BAD, "features must be real numbers"),
    "empty file": (lambda rows: Path("bad.npy").touch(), BAD, r"bad.npy is empty \(0 bytes\)"),
    "truncated npy": (truncated("bad.npy"), BAD, "bad.npy is no readable .npy file, or is truncated"),
    "truncated npz": (truncated("bad.npz"), (*BAD, "data.train=bad.npz"), "bad.npz is no readable .npz file"),
    "truncated pt": (truncated("bad.pt"), (*BAD, "data.train=bad.pt"), "bad.pt is no readable tensor file"),
    "missing file": (nothing, BAD, "no such file: bad.npy"),
    "no file": (nothing, ("data=features", "n_clusters=5"), "data=features needs data.train=PATH"),
    "labels of another length": (
        lambda rows: np.save("short.npy", np.zeros(199, int)),
        (*OWN, "data.train_labels=short.npy"),
        r"labels of X.npy have shape \(199,\), but there are 200 rows",
    ),
    "test labels of another length": (
        lambda rows: np.save("short.npy", np.zeros(99, int)),
        (*OWN, "data.test=X_test.npy", "data.test_labels=short.npy"),
        r"labels of X_test.npy have shape \(99,\), but there are 100 rows",
    ),
    "splits of different widths": (
        lambda rows: np.save("narrow.npy", rows[:, :9]),
        (*OWN, "data.test=narrow.npy"),
        "the test split has 9 dimensions and the train split 16",
    ),
    "NaN in the test split": (
        with_row(np.nan),
        (*OWN, "data.test=bad.npy"),
        "bad.npy: 2 of 200 rows hold NaN or infinite values",
    ),
    "N <= K": (nothing, (*OWN, "n_neighbors=200"), "n_neighbors=200, but there are only 200 samples"),
    "C > N": (nothing, (*OWN, "n_clusters=201"), "n_clusters=201, but there are only 200 samples"),
    "C > N without a loss": (nothing, (*OWN, "loss=none", "n_clusters=201"), "201.*200"),
    "C < 2": (
        nothing,
        (*OWN, "n_clusters=1"),
        "n_clusters is 1: it must be a whole number of 2 or more, auto, or bounds",
    ),
    "C < 2 without a loss": (nothing, (*OWN, "loss=none", "n_clusters=1"), "n_clusters"),
    "C = 0": (
        nothing,
        (*OWN, "n_clusters=0"),
        "n_clusters is 0: it must be a whole number of 2 or more, auto, or bounds",
    ),
    "C unknown": (nothing, ("data=features", "data.train=X.npy"), "no known number of clusters: set n_clusters="),
    "infinite rate": (
        nothing,
        (*OWN, "learning_rate=inf"),
        "learning_rate is inf: it must be a finite number, above 0",
    ),
    "NaN decay": (nothing, (*OWN, "loss.temi.weight_decay=nan"), "weight_decay is nan: it must be 0 or more"),
    "beta": (nothing, (*OWN, "loss.temi.beta=0.3"), "beta is 0.3"),
    "unknown head": (nothing, (*OWN, "head=deep"), "unknown head 'deep': choose one of mlp, linear"),
    "unknown init": (nothing, (*OWN, "init=magic"), "unknown init 'magic'"),
    "reduction above D": (nothing, (*OWN, "reduction=umap", "reduction.dims=17"), "reduction.dims=17.*200 × 16"),
    "pca twice": (nothing, (*OWN, "reduction=pca", "reduction.dims=8", "pca_dim=4"), "pca_dim=4 would project again"),
    "pca above D": (nothing, (*OWN, "pca_dim=17"), "PCA to 17 dimensions, but the features have 16"),
    "precision": (nothing, (*OWN, "trainer.precision=16"), "precision 16 is not supported"),
    "no such strategy": (nothing, (*OWN, "trainer.strategy=magic"), "settings do not work here: .*'magic'"),
    "no device": (nothing, (*OWN, "trainer.devices=0"), r"settings do not work here: `Trainer\(devices=0\)`"),
    "mining method": (nothing, (*OWN, "neighbors.method=lsh"), "unknown neighbors.method 'lsh'"),
    "mining recall": (nothing, (*OWN, "neighbors.recall=1.5"), r"recall is 1\.5: it must be above 0 and at most 1"),
    "baseline option": (nothing, (*OWN, "+baselines.kmeans.speed=9"), "baseline kmeans has no setting 'speed'"),
    "resume without a run": (nothing, (*OWN, "resume=old"), r"resume=old: no run there \(config.yaml is missing\)"),
    "sweep with ddp": (nothing, ("-m", *OWN, "seed=0,1", "trainer.strategy=ddp"), r"a sweep \(-m\) cannot train with"),
    "sweep over processes": (
        nothing,
        ("-m", *OWN, "seed=0,1", "trainer.accelerator=cpu", "trainer.devices=2"),
        r"a sweep \(-m\) cannot train with strategy=auto on devices=2",
    ),
    "sweep of what is not there": (nothing, ("-m", *BAD, "seed=0,1"), "no such file: bad.npy"),
}

# Without a loss, so that no recipe looks at what is given.
REFUSED = {
    "silhouette=abc": "silhouette is 'abc': it must be true or false",
    "data.in_memory=abc": "data.in_memory is 'abc': it must be true or false",
    "+nokey=1": "deepclust train has no setting 'nokey'",
    "+data.nokey=1": "data has no setting 'nokey'",
    "+reduction.nokey=1": "reduction has no setting 'nokey'",
    "+select.nokey=1": "select has no setting 'nokey'",
    "+logger.nokey=1": "logger=none has no setting 'nokey'",
    "learning_rate=true": "learning_rate is True: it must be a number, above 0",
    "run_dir=": "run_dir is empty: give it a value, or leave it out",
    "run_dir=5": "run_dir is 5: it must be text",
    "resume=": "resume is empty",
    "features_dir=": "features_dir is empty",
    "neighbors.cache_dir=": "neighbors.cache_dir is empty",
    "data.train=": "data.train is '': it must be a file or a folder, or a list of them",
    "seed=-1": "seed is -1: it must be 0 or more",
    "seed=abc": "seed is 'abc': it must be a whole number, 0 or more",
    "seed=1.5": "seed is 1.5: it must be a whole number",
    "seed=null": "seed is None: it must be a whole number",
    "n_clusters=five": "n_clusters is 'five': it must be a whole number",
    "n_heads=0": "n_heads is 0: it must be 1 or more",
    "head=5": "unknown head '5'",
    "data.batch_size=0": "data.batch_size is 0: it must be 1 or more",
    "data.labels=x": "unknown data.labels 'x': choose one of folders",
    "data.on_error=x": "unknown data.on_error 'x'",
    "trainer.checkpoint_seconds=abc": "trainer.checkpoint_seconds is 'abc': it must be a number, 0 or more",
    "trainer.checkpoint_seconds=-1": "trainer.checkpoint_seconds is -1: it must be 0 or more",
    "trainer.log_every_n_steps=0": "trainer.log_every_n_steps is 0: it must be 1 or more",
    "trainer.val_every_n_epochs=x": "trainer.val_every_n_epochs is 'x'",
    "trainer.num_nodes=0": "trainer.num_nodes is 0",
    "trainer.accelerator=5": "trainer.accelerator is 5: it must be text",
    "neighbors.recall=nan": "neighbors.recall is nan",
    "reduction.dims=x": "reduction.dims is 'x': it must be a whole number",
    "reduction.seed=-1": "reduction.seed is -1",
    "data.path=a,b": "data.path=a,b holds a comma: put it in two kinds of quotes",
    "run_dir": "'run_dir' has no value: write setting=value",
    "=5": "'=5' names no setting",
    "los=temi": r"no setting is called 'los' \(did you mean loss\?\)",
}
BAD_INPUT |= {
    word: (nothing, ("data=features", "data.train=X.npy", "n_clusters=5", "loss=none", word), told)
    for word, told in REFUSED.items()
}
BAD_INPUT["select's numbers"] = (
    nothing,
    (*OWN, "select=silhouette", "select.n_clusters=5"),
    r"select.n_clusters is 5: it must be a list, such as \[5\]",
)
BAD_INPUT["negative decay"] = (nothing, (*OWN, "loss.temi.weight_decay=-1"), "weight_decay is -1: it must be 0 or more")
for word in ("n_heads=1000000000", "loss.temi.hidden_dim=1000000000"):
    BAD_INPUT[word] = (nothing, (*OWN, "loss=temi", word), "temi: training n_heads=.* takes .* GB and more")
BAD_INPUT["csv"] = (nothing, (*OWN, "logger=csv", "+logger.nokey=1"), "logger=csv has no setting 'nokey'")

if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
    BAD_INPUT["no GPU"] = (
        nothing,
        (*OWN, "trainer.accelerator=gpu"),
        "settings do not work here: No supported gpu backend",
    )


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_exit_code_two_and_nothing_written(case, command, workplace):
    prepare, arguments, message = BAD_INPUT[case]
    prepare(np.load(workplace / "X.npy"))
    before = files_in(workplace)
    outcome = command("train.py", *arguments)
    assert outcome.code == 2, outcome.err
    assert re.search(message, outcome.error_line), outcome.err
    assert outcome.error_line.startswith("error: ")
    assert outcome.out == ""
    assert files_in(workplace) == before


def test_a_sweep_whose_later_job_is_refused_keeps_what_it_made(command, workplace):
    outcome = command("train.py", "-m", *OWN, "loss=none", "baselines=kmeans", "n_clusters=5,300", "run_dir=sweep")
    assert outcome.code == 2
    assert "n_clusters=300, but there are 200 samples" in outcome.error_line
    assert len(list((workplace / "sweep").rglob("results.json"))) == 1
    assert (workplace / "runs" / "multirun.yaml").is_file()


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "stl10", "imagenet", "imagenet21k"])
def test_missing_features_name_folder_content_and_the_command_that_makes_them(data, command, workplace):
    outcome = command("train.py", "loss=temi", f"data={data}")
    assert outcome.code == 2
    found = re.search(
        rf"features/{data}/(\w+)/train does not exist, it should hold manifest.json and features-\*.npy "
        rf"\([\d ]+ × \d+ float16 rows\); make them with `deepclust extract data={data} encoder=(\w+)",
        outcome.error_line,
    )
    assert found, outcome.err
    assert found[1] == found[2]
    assert not (workplace / "runs").exists()


def test_a_missing_folder_is_looked_for_where_features_dir_says(command, workplace):
    outcome = command("train.py", "loss=temi", "data=imagenet21k", "features_dir=elsewhere")
    assert "elsewhere/imagenet21k/ibot_vitl16/train does not exist" in outcome.error_line
    assert "11 060 223 × 1024" in outcome.error_line


@pytest.mark.parametrize("argument", ["loss=moco", "data=mars", "logger=paper", "n_cluster=5", "trainer.device=2"])
def test_an_unknown_config_name_is_refused_by_hydra(argument, command, workplace):
    before = files_in(workplace)
    outcome = command("train.py", *OWN, argument)
    assert outcome.code != 0
    assert argument.split("=")[0].split(".")[-1] in outcome.err
    assert files_in(workplace) == before


def test_a_folder_that_holds_a_run_is_not_written_over(command, workplace):
    assert command("train.py", *OWN, "loss=none", "baselines=kmeans", "run_dir=run").code == 0
    before = {path: (workplace / path).stat().st_mtime_ns for path in files_in(workplace)}
    outcome = command("train.py", *OWN, "loss=none", "run_dir=run")
    assert outcome.code == 2
    assert "run holds a run already: continue it with resume=run, or choose another run_dir" in outcome.error_line
    assert {path: (workplace / path).stat().st_mtime_ns for path in files_in(workplace)} == before


def test_resuming_with_other_settings_is_refused_and_changes_nothing(command, workplace):
    assert command("train.py", *OWN, "loss=temi", "baselines=none", "run_dir=run").code == 0
    # As if it had been killed after its last checkpoint.
    (workplace / "run" / "clusterings" / "temi.npz").unlink()
    (workplace / "run" / "results.json").unlink()
    before = {path: (workplace / path).stat().st_mtime_ns for path in files_in(workplace)}
    outcome = command("train.py", *OWN, "loss=temi", "baselines=none", "resume=run", "max_epochs=3")
    assert outcome.code == 2
    assert "run was run with max_epochs=2 for temi, not 3: resume it with its own settings" in outcome.error_line
    assert {path: (workplace / path).stat().st_mtime_ns for path in files_in(workplace)} == before


@pytest.mark.parametrize("word", ["learning_rate=1e30", "loss.temi.weight_decay=1e30"])
@pytest.mark.filterwarnings("ignore:.*not finite")
def test_training_that_is_not_finite_leaves_no_result(word, command, workplace):
    outcome = command("train.py", *OWN, "loss=temi", "baselines=none", word, "run_dir=run")
    assert outcome.code == 2
    assert "temi: no head is finite after epoch" in outcome.error_line
    assert "try a learning_rate below" in outcome.error_line
    left = {path for path in files_in(workplace / "run") if (workplace / "run" / path).is_file()}
    assert left <= {"run.lock", "deepclust.sha256", "config.yaml", "identity.json"}


@pytest.mark.parametrize("word", ["+trainer.max_steps=1", "+trainer.limit_train_batches=0"])
def test_training_that_ends_before_its_first_epoch_does_leaves_no_result(word, command, workplace):
    outcome = command("train.py", *OWN, "loss=temi", "baselines=none", "run_dir=run", word)
    assert outcome.code == 2
    assert "temi: no epoch was trained to its end" in outcome.error_line
    assert not list((workplace / "run").glob("clusterings/*"))
    assert not (workplace / "run" / "results.json").exists()


def test_a_head_that_is_not_finite_is_named_and_never_the_best(command, workplace, monkeypatch):
    real = ClusteringModule.training_step

    def broken(module, pairs, batch_idx):
        real(module, pairs, batch_idx)
        if module.current_epoch == 1:
            module.student.prototypes.data[0] = np.nan

    monkeypatch.setattr(ClusteringModule, "training_step", broken)
    with pytest.warns(UserWarning, match="tsp head 0 is not finite since epoch 2"):
        outcome = command("train.py", *LABELED, "loss=tsp", "baselines=none", "run_dir=run")
    assert outcome.code == 0
    told = "tsp head 0 is not finite since epoch 2 and left out: try a learning_rate below"
    assert told in (workplace / "run" / "results.md").read_text()
    assert Clustering.load("run/clusterings/tsp.npz").settings["best_head"] == 1
    assert rows_of(workplace / "run")[0]["acc"] > 0.9
    # The checkpoint says the same.
    assert command("evaluate.py", "run=run").code == 0
    (row,) = json.loads((workplace / "run" / "evaluation.json").read_text())
    assert row["acc"] == rows_of(workplace / "run")[0]["acc"]


def test_a_folder_that_another_run_writes_to_is_refused(command, workplace, locked_elsewhere):
    settings = (*OWN, "loss=none", "baselines=kmeans")
    assert command("train.py", *settings, "run_dir=run").code == 0
    (workplace / "run" / "results.json").unlink()
    other = locked_elsewhere(workplace / "run" / "run.lock")
    before = {path: (workplace / path).stat().st_mtime_ns for path in files_in(workplace)}
    outcome = command("train.py", *settings, "resume=run")
    assert outcome.code == 2
    assert "another run is writing to run: wait for its end, or choose another run_dir" in outcome.error_line
    assert {path: (workplace / path).stat().st_mtime_ns for path in files_in(workplace)} == before
    # The claim ends with its process, however that ends.
    other.kill()
    other.wait()
    assert command("train.py", *settings, "resume=run").code == 0


def test_of_two_runs_into_one_folder_one_is_refused(start_process, workplace):
    settings = (*OWN, "loss=tsp", "baselines=none", "max_epochs=300", "run_dir=run")
    runs = [start_process("train.py", *settings, f"seed={seed}") for seed in (0, 1)]
    ended = [(*process.communicate(timeout=200), process.returncode) for process in runs]
    assert sorted(code for *_, code in ended) == [0, 2]
    (refused,) = [err for _, err, code in ended if code == 2]
    assert re.fullmatch("error: (another run is writing to run|run holds a run already): .*\n", refused)
    (seed,) = [seed for seed, (*_, code) in enumerate(ended) if code == 0]
    assert [row["seed"] for row in rows_of(workplace / "run")] == [seed]
    assert Clustering.load("run/clusterings/tsp.npz").settings["seed"] == seed


LABELED = (*OWN, "data.train_labels=y.npy")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("seed=1",), "was run with seed=0, not 1"),
        (("n_clusters=4",), "was run with n_clusters=5, not 4"),
        (("learning_rate=0.1",), "was run with learning_rate=0.001 for temi, not 0.1"),
        (("loss.temi.beta=0.7",), "was run with beta=0.6 for temi, not 0.7"),
        (("trainer.precision=bf16-mixed",), "was run with trainer.precision=auto for temi, not bf16-mixed"),
        (("+trainer.max_steps=3",), "was run with trainer.max_steps=null for temi, not 3"),
        (("neighbors.method=exact",), "was run with neighbors.method=auto for temi, not exact"),
        (("reduction=pca", "reduction.dims=4"), "was run with reduction.kind=none, not pca"),
        (("+baselines.kmeans.n_init=7",), "was run with n_init=5 for kmeans, not 7"),
        (("data.train=other.npy",), "is a run on other data (the features of the train split differ)"),
        (("data.train_labels=other_y.npy",), "is a run on other data (the labels of the train split differ)"),
        (("data.test=X_test.npy",), "is a run on other data (the features of the test split differ)"),
    ],
    ids=lambda value: value[0].split("=")[0] if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_run_is_continued_by_itself_alone(words, told, finished, command, workplace):
    settings = ("loss=temi", "baselines=kmeans")
    assert command("train.py", *LABELED, *settings, "run_dir=run").code == 0
    if not finished:
        (workplace / "run" / "clusterings" / "temi.npz").unlink()
        (workplace / "run" / "results.json").unlink()
    np.save("other.npy", np.load("X.npy")[::-1])
    np.save("other_y.npy", np.load("y.npy")[::-1])
    before = {path: (workplace / path).stat().st_mtime_ns for path in files_in(workplace)}
    outcome = command("train.py", *LABELED, *settings, *words, "resume=run")
    assert outcome.code == 2
    assert told in outcome.error_line
    assert {path: (workplace / path).stat().st_mtime_ns for path in files_in(workplace)} == before


def test_a_run_is_continued_in_its_own_folder_alone(command, workplace):
    assert command("train.py", *LABELED, "loss=none", "baselines=kmeans", "run_dir=run").code == 0
    again = (*LABELED, "loss=none", "baselines=kmeans", "resume=run")
    assert "two folders" in command("train.py", *again, "run_dir=other").error_line
    assert command("train.py", *again, f"run_dir={workplace / 'run'}").code == 0


def test_settings_of_heads_are_said_to_change_nothing_where_none_are_trained(command, workplace):
    """Leiden has neighbors, too, and does not take these."""
    asked = ("data=features", "data.train=X.npy", "loss=none", "baselines=leiden", "n_neighbors=4", "data.batch_size=9")
    outcome = command("train.py", *asked, "run_dir=run")
    assert outcome.code == 0
    told = (workplace / "run" / "results.md").read_text()
    assert "n_neighbors, data.batch_size are for heads, of which this run trains none" in told
    assert "for heads" not in command("train.py", *asked[:4], "run_dir=other").out


def test_a_method_is_added_to_a_finished_run(command, workplace):
    assert command("train.py", *LABELED, "loss=temi", "baselines=none", "run_dir=run").code == 0
    first = workplace / "run" / "clusterings" / "temi.npz"
    written = first.stat().st_mtime_ns
    # The data lie elsewhere now, which changes nothing.
    os.rename("X.npy", "moved.npy")
    added = ("loss=[temi,tsp]", "baselines=kmeans", "data.train=moved.npy", "resume=run")
    outcome = command("train.py", *LABELED, *added)
    assert (outcome.code, outcome.err) == (0, "")
    assert [row["method"] for row in rows_of(workplace / "run")] == ["temi", "tsp", "kmeans"]
    assert first.stat().st_mtime_ns == written
    # What was added is compared from then on, also where a run does not name it.
    outcome = command("train.py", *LABELED, *added, "loss.tsp.entropy_weight=9")
    assert "was run with entropy_weight=3.0 for tsp, not 9" in outcome.error_line


def test_a_clustering_of_another_run_is_not_taken_for_finished(command, workplace):
    settings = (*LABELED, "loss=none", "baselines=kmeans")
    for seed in (0, 1):
        assert command("train.py", *settings, f"seed={seed}", f"run_dir=run{seed}").code == 0
    own = Clustering.load("run0/clusterings/kmeans.npz")
    foreign = Clustering.load("run1/clusterings/kmeans.npz")
    assert own.identity != foreign.identity
    foreign.save("run0/clusterings/kmeans.npz")
    assert command("train.py", *settings, "resume=run0").code == 0
    assert Clustering.load("run0/clusterings/kmeans.npz").identity == own.identity


def test_a_checkpoint_of_another_run_is_refused(command, workplace):
    settings = ("data=features", "n_clusters=5", *TINY, "loss=tsp", "baselines=none")
    for name in ("X", "X_test"):
        assert command("train.py", *settings, f"data.train={name}.npy", f"run_dir=of_{name}").code == 0
    os.replace("of_X_test/checkpoints/tsp.ckpt", "of_X/checkpoints/tsp.ckpt")
    os.remove("of_X/clusterings/tsp.npz")
    outcome = command("train.py", *settings, "data.train=X.npy", "resume=of_X")
    assert outcome.code == 2
    assert "tsp.ckpt is of other data or another run than its folder" in outcome.error_line


def test_a_sweep_that_is_run_again_on_other_data_is_no_finished_one(command, workplace):
    sweep = ("-m", "data=features", "data.train=X.npy", "loss=none", "baselines=kmeans", "n_clusters=4,5")
    assert command("train.py", *sweep, "run_dir=sweep").code == 0
    outcome = command("train.py", *sweep, "run_dir=sweep")
    assert (outcome.code, outcome.out.count("is finished already")) == (0, 2)
    # Without silhouettes the same clusterings have other rows.
    outcome = command("train.py", *sweep, "run_dir=other")
    folder = next((workplace / "other").iterdir())
    identity = json.loads((folder / "identity.json").read_text())
    identity["results_of"]["silhouette"] = False
    write_json(folder / "identity.json", identity)
    assert command("train.py", *sweep, "run_dir=other").out.count("is finished already") == 1
    os.replace("X_test.npy", "X.npy")
    outcome = command("train.py", *sweep, "run_dir=sweep")
    assert outcome.code == 2
    assert "is a run on other data (the features of the train split differ)" in outcome.error_line


def test_a_process_of_its_own_says_one_line_too(in_process_of_its_own, workplace):
    with_row(np.nan)(np.load(workplace / "X.npy"))
    before = files_in(workplace)
    outcome = in_process_of_its_own("train.py", *BAD)
    assert outcome.code == 2
    assert "2 of 200 rows hold NaN" in outcome.error_line
    assert files_in(workplace) == before
