"""`benchmark=` from the settings under conf/ to the rows of a data set, and the commands that use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepclust.clustering import Clustering
from deepclust.features.dataset import Dataset
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import RowView
from deepclust.runtime.errors import InputError
from deepclust.subsets.benchmarks import BENCHMARKS
from deepclust.subsets.counts import PAPER_COUNTS, benchmark_counts
from deepclust.subsets.select import classes_of, make_benchmark, read_accuracies, select_benchmark
from deepclust.subsets.selectors import Classes

SETTINGS = {name: dict(BENCHMARKS[name]) for name in sorted(BENCHMARKS)}
NAMES = ["animal", "dog", "terrier", "poodle", "cat", "chair"]
TREE = "dog,animal\nterrier,dog\npoodle,dog\ncat,animal\nchair,\n"
SIZES = [20, 21, 22, 23, 24, 25]
TINY = ("loss=temi", "baselines=kmeans", "max_epochs=1", "n_heads=1", "n_neighbors=4", "init=kmeans")


@pytest.fixture
def folder(tmp_path):
    """FeatureSet folders of six classes in two splits, with what every benchmark asks for beside them."""
    rng = np.random.default_rng(0)
    for split, sizes in (("train", SIZES), ("test", [4] * 6)):
        labels = rng.permutation(np.repeat(np.arange(6), sizes))
        rows = (5 * np.eye(6)[labels] + rng.standard_normal((len(labels), 6))).astype(np.float32)
        FeatureSet.from_arrays(rows, labels, class_names=NAMES).save(tmp_path / "set" / split)
        extra = tmp_path / "set" / "benchmarks"
        extra.mkdir(exist_ok=True)
        for name in ("leaf_hzr", "p_hzr"):
            np.save(extra / f"{name}_{split}.npy", np.where(labels < 2, 2, labels).astype(np.int32))
    for shift, model in enumerate(("clip_1k", "dinov2_1k", "sup_1k")):
        np.save(extra / f"{model}_accuracies.npy", np.roll(np.arange(6) / 10, shift))
    (tmp_path / "tree.csv").write_text(TREE)
    return tmp_path / "set"


@pytest.fixture
def dataset(folder):
    return Dataset("own", load_features(folder), load_features(folder, split="test"), None)


def settings_of(name, tree):
    """As under conf/, at the size of six classes."""
    settings = dict(SETTINGS[name])
    if "n_classes" in settings:
        settings["n_classes"] = 2
    if "hierarchy" in settings:
        settings["hierarchy"] = tree
    return settings


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_benchmark_of_conf_selects_rows_of_both_splits(name, dataset, folder):
    tree = folder.parent / "tree.csv"
    if name == "wordnet_leaf":
        with pytest.raises(InputError, match="use benchmark=in21k_leaf"):
            select_benchmark(dataset, **settings_of(name, tree))
        return
    found = select_benchmark(dataset, **settings_of(name, tree))
    n_classes = len(found.train.class_names)
    assert 2 <= n_classes <= 6
    for split, whole in ((found.train, dataset.train), (found.test, dataset.test)):
        assert len(split.labels) == len(split) <= len(whole)
        assert np.unique(split.labels).tolist() == list(range(n_classes))
        base = split.features.base if isinstance(split.features, RowView) else split.features
        assert base is whole.features, "features are not copied"
    assert settings_of(name, tree)["name"] == name


def test_there_is_a_setting_for_every_benchmark_of_the_paper():
    # Odd is a table of its own; d = 9 is in section 4.2 and in no table.
    assert set(SETTINGS) == {*PAPER_COUNTS, "odd", "coarse_9"}


def test_a_split_without_labels_cannot_be_selected_from(dataset):
    without = Dataset("own", FeatureSet(dataset.train.features), None, None)
    with pytest.raises(InputError, match=r"the train split of data=own has no labels.*leave out benchmark="):
        select_benchmark(without, "odd", "odd")


def test_labels_beyond_the_class_names_are_refused(dataset):
    dataset.train.class_names = NAMES[:3]
    with pytest.raises(InputError, match="labels of data=own go from 0 to 5, but there are 3 class names"):
        classes_of(dataset)


def test_an_unknown_option_is_refused_with_those_that_there_are():
    classes = Classes(["a", "b"], np.array([1, 2]), lambda: None)
    with pytest.raises(InputError, match="its options are spread"):
        make_benchmark("tiny", "around_median", classes, spreads=5)
    with pytest.raises(InputError, match="choose one of everything"):
        make_benchmark("tiny", "median", classes)


def test_accuracies_are_read_from_any_of_three_kinds_of_file(tmp_path):
    np.save(tmp_path / "a.npy", np.array([0.5, 0.25]))
    (tmp_path / "a.json").write_text(json.dumps({"y": 0.25, "x": 0.5}))
    (tmp_path / "b.json").write_text("[0.5, 0.25]")
    (tmp_path / "a.csv").write_text("y,0.25\nx,0.5\n")
    (tmp_path / "d.json").write_text(json.dumps({"x": 0.5, "y": None}))
    assert np.isnan(read_accuracies(tmp_path / "d.json", ["x", "y"])).tolist() == [False, True]
    for name in ("a.npy", "a.json", "b.json", "a.csv"):
        assert read_accuracies(tmp_path / name, ["x", "y"]).tolist() == [0.5, 0.25]
    with pytest.raises(InputError, match=r"no accuracy of 1 classes \(first: 'z'\)"):
        read_accuracies(tmp_path / "a.json", ["x", "z"])
    (tmp_path / "c.csv").write_text("x,high\n")
    with pytest.raises(InputError, match="no list of per-class accuracies"):
        read_accuracies(tmp_path / "c.csv", ["x"])


def test_counts_are_those_of_the_selected_rows(dataset, folder):
    names = ("in21k_leaf", "coarse_1", "odd", "random_1k")
    settings = {name: settings_of(name, None) for name in names} | {"random_1k": SETTINGS["random_1k"]}
    classes = classes_of(dataset, hierarchy=folder.parent / "tree.csv")
    rows, notes = benchmark_counts(
        classes, settings, train_labels=dataset.train.labels, test_labels=dataset.test.labels
    )
    found = {row["benchmark"]: (row["classes"], row["train"], row["test"]) for row in rows}
    assert found == {"coarse_1": (2, 135, 24), "in21k_leaf": (4, 94, 16), "odd": (6, 135 - 10 - 11 - 12, 24)}
    assert [row["paper_classes"] for row in rows] == [None] * 3, "the paper's counts are those of ImageNet-21K"
    assert len(notes) == 1
    assert "random_1k keeps 1000 classes, but there are 6" in notes[0]


# --- commands --------------------------------------------------------------------------------------------------------


def test_training_on_a_benchmark_sees_its_rows_alone_and_evaluates_on_them(command, folder):
    arguments = ("data=features", f"data.train={folder}", "benchmark=in21k_leaf", "run_dir=run", *TINY)
    arguments += (f"benchmark.hierarchy={folder.parent / 'tree.csv'}",)
    outcome = command("train.py", *arguments)
    assert (outcome.code, outcome.err) == (0, "")
    rows = json.loads(Path("run/results.json").read_text())
    assert {row["n_clusters"] for row in rows} == {4}
    for method in ("temi", "kmeans"):
        assert len(Clustering.load(f"run/clusterings/{method}.npz")) == 22 + 23 + 24 + 25
        assert len(Clustering.load(f"run/clusterings/{method}_test.npz")) == 16
    assert all(row["acc"] > 0.8 for row in rows if row["method"] == "kmeans")
    assert command("evaluate.py", "run=run").code == 0
    again = json.loads(Path("run/evaluation.json").read_text())
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]


def test_odd_digits_train_on_fewer_rows_and_n_clusters_can_be_set(command):
    outcome = command("train.py", "benchmark=odd", "n_clusters=12", "silhouette=false", "run_dir=run", *TINY)
    assert (outcome.code, outcome.err) == (0, "")
    rows = json.loads(Path("run/results.json").read_text())
    assert all(row["silhouette"] is None and row["n_clusters"] == 12 for row in rows)
    labels = np.bincount(_digits_labels())
    expected = labels.sum() - (labels[1::2] // 2).sum()
    assert len(Clustering.load("run/clusterings/kmeans.npz")) == expected


def _digits_labels():
    from sklearn.datasets import load_digits

    return load_digits().target


def test_the_folder_of_a_run_names_the_benchmark(command, tmp_path):
    assert command("train.py", "benchmark=odd", "silhouette=false", *TINY).code == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("_digits-odd_temi")


@pytest.mark.parametrize(
    ("benchmark", "words"),
    [
        ("coarse_1", "no class hierarchy is known for data=digits: give one by benchmark.hierarchy=FILE"),
        ("random_1k", "keeps 1000 classes, but there are 10: set benchmark.n_classes between 2 and 10"),
        ("clip_1k", "needs the accuracy of a linear probe on each class"),
        ("p_hzr", "which `deepclust relabel` makes: benchmark.relabels.train=FILE"),
    ],
)
def test_a_benchmark_that_digits_do_not_allow_is_refused_in_one_line(benchmark, words, command, tmp_path):
    outcome = command("train.py", f"benchmark={benchmark}", "run_dir=run", *TINY)
    assert outcome.code == 2
    assert words in outcome.error_line
    assert not (tmp_path / "run").exists()


def test_the_table_of_counts_needs_no_features(command):
    outcome = command("subsets", "--data", "digits", "--json", "counts.json")
    assert (outcome.code, outcome.err) == (0, "")
    content = json.loads(Path("counts.json").read_text())
    assert {row["benchmark"] for row in content["benchmarks"]} >= {"odd", "imbalanced_2k", "tiny"}
    assert "no class hierarchy is known for data=digits" in outcome.out
    assert "metrics=[probe]" in outcome.out  # brackets are no markup


def test_relabeled_samples_go_from_the_command_to_the_benchmark(command, folder, monkeypatch):
    # "CLIP" features: the text of a class is its direction, and these images of animals all show poodles.
    rng = np.random.default_rng(0)
    root = folder.parent / "features" / "own" / "clip_vitb16"
    Image.new("L", (8, 8)).save(folder.parent / "poodle.png")
    files = {"source": {"kind": "files", "root": str(folder.parent)}}
    for split, manifest in (("train", files), ("test", None)):
        labels = load_features(folder, split=split).labels
        paths = None if manifest is None else ["poodle.png"] * len(labels)
        shown = np.where(np.asarray(labels) < 2, 3, labels)
        rows = (np.eye(6)[shown] + 0.05 * rng.standard_normal((len(labels), 6))).astype(np.float32)
        made = FeatureSet.from_arrays(rows, labels, class_names=NAMES, paths=paths, manifest=manifest)
        made.save(root / split)
    text = np.eye(6)
    text[1] = text[2] + text[3]
    np.save("text.npy", text)
    clip = ("--data", "own", "--clip", "clip_vitb16", "--features-dir", folder.parent / "features")
    outcome = command("relabel", *clip, "--hierarchy", folder.parent / "tree.csv", "--text", "text.npy")
    assert (outcome.code, outcome.err) == (0, "")
    labels = np.asarray(load_features(root).labels)
    assert (np.load(root / "benchmarks" / "leaf_hzr_train.npy") == np.where(labels < 2, 3, labels)).all()
    chance = json.loads((root / "benchmarks" / "zero_shot.json").read_text())["train"]
    right = {among: found["accuracy"] for among, found in chance.items()}
    assert right["all"] <= right["level"] <= right["siblings"]
    # Figure 7 of the paper: the confidence of every sample is kept, and what it says of them is drawn.
    with np.load(root / "benchmarks" / "zero_shot_train.npz") as kept:
        for among, accuracy in right.items():
            assert (kept[f"{among}_class"] == labels).mean() == pytest.approx(accuracy)
            confidence = kept[f"{among}_confidence"]
            assert confidence.shape == labels.shape
            assert chance[among]["mean_confidence"] == pytest.approx(float(confidence.mean()), abs=1e-6)
            assert sum(chance[among]["counts"]) == len(labels)
    assert (root / "benchmarks" / "zero_shot_test.png").stat().st_size > 1000
    # Figures 1 and 9 to 11: a panel per class that p-HZR changed, of the split whose images are at hand.
    changed = np.unique(labels[np.load(root / "benchmarks" / "p_hzr_train.npy") != labels])
    panels = sorted(path.name for path in (root / "benchmarks" / "reassessed_train").iterdir())
    assert panels == [f"{label:05d}-{NAMES[label]}.jpg" for label in changed]
    assert not (root / "benchmarks" / "reassessed_test").exists()
    arguments = ("data=digits", "data.name=own", "features_dir=features", "data.encoder=clip_vitb16")
    monkeypatch.chdir(folder.parent)
    assert command("train.py", *arguments, "benchmark=leaf_hzr", "run_dir=run", *TINY).code == 0
    rows = json.loads(Path("run/results.json").read_text())
    assert {row["n_clusters"] for row in rows} == {4}
