"""`deepclust evaluate` with metrics and figures, and `deepclust summarize` over what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import ROW_KEYS, one_sided_ami
from deepclust.metrics.multilabel import SCORE_NAMES

TINY = ("max_epochs=2", "n_heads=2", "n_neighbors=8", "data.batch_size=128", "init=kmeans", "n_clusters=5")
OWN = ("data=features", "data.train=X.npy", "data.train_labels=y.npy", "data.test=X_test.npy", "loss=temi")
TEST = ("data.test_labels=y_test.npy", "baselines=kmeans")


@pytest.fixture
def workplace(tmp_path: Path, planted: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows, labels = np.asarray(planted.features), planted.labels
    np.save("X.npy", rows[:200])
    np.save("y.npy", labels[:200])
    np.save("X_test.npy", rows[200:])
    np.save("y_test.npy", labels[200:])
    return tmp_path


@pytest.fixture
def run(command, workplace) -> Path:
    assert command("train.py", *OWN, *TEST, *TINY, "run_dir=run").code == 0
    return workplace / "run"


def rows_in(path: Path) -> dict[tuple[str, str], dict]:
    return {(row["method"], row["split"]): row for row in json.loads(path.read_text())}


def test_baselines_are_scored_beside_the_heads(run, command):
    assert command("evaluate.py", f"run={run}").code == 0
    found, trained = rows_in(run / "evaluation.json"), rows_in(run / "results.json")
    assert set(found) == {(method, split) for method in ("temi", "kmeans") for split in ("train", "test")}
    for place, row in found.items():
        assert tuple(row) == ROW_KEYS
        assert {**row, "seconds": 0} == {**trained[place], "seconds": 0}


def test_a_run_of_baselines_alone_is_scored(command, workplace):
    arguments = ("data=features", "data.train=X.npy", "data.train_labels=y.npy", "n_clusters=5", "loss=none")
    assert command("train.py", *arguments, "run_dir=run").code == 0
    assert command("evaluate.py", "run=run").code == 0
    assert set(rows_in(workplace / "run" / "evaluation.json")) == {("kmeans", "train"), ("agglomerative", "train")}
    outcome = command("evaluate.py", "run=run", "data=features", "data.train=X_test.npy")
    assert outcome.code == 2
    assert "the clusters of kmeans, agglomerative are for its own data only" in outcome.error_line


def test_a_run_that_went_without_silhouettes_is_scored_without(command, workplace):
    assert command("train.py", *OWN, *TEST, "loss=none", "n_clusters=5", "silhouette=false", "run_dir=run").code == 0
    assert command("evaluate.py", "run=run").code == 0
    assert all(row["silhouette"] is None for row in rows_in(workplace / "run/evaluation.json").values())


def test_other_features_leave_out_the_baselines_and_say_so(run, command):
    assert command("evaluate.py", f"run={run}").code == 0
    own = (run / "evaluation.json").read_text()
    outcome = command("evaluate.py", f"run={run}", "data=features", "data.train=X_test.npy")
    (folder,) = (run / "other_data").iterdir()
    assert folder.name.startswith("features-")
    assert set(rows_in(folder / "evaluation.json")) == {("temi", "train")}
    assert (run / "evaluation.json").read_text() == own
    assert "k-means left clusters of its own data only" in outcome.out


def test_a_second_command_adds_to_what_the_first_measured(run, command):
    few = ("probe.max_epochs=1", "probe.learning_rates=[0.5]", "probe.weight_decays=[0]")
    assert command("evaluate.py", f"run={run}", "metrics=[multilabel,probe]", *few).code == 0
    first = rows_in(run / "evaluation.json")
    assert command("evaluate.py", f"run={run}", "metrics=calibration").code == 0
    both = rows_in(run / "evaluation.json")
    assert set(both) == set(first)
    assert both["linear_probe", "test"] == first["linear_probe", "test"]
    for place in set(both) - {("linear_probe", "test")}:
        assert both[place]["top1_to_1"] == first[place]["top1_to_1"]
        assert set(both[place]) == {*first[place], "ece", "mean_msp"}
    (run / "evaluation.json").write_text("{")
    outcome = command("evaluate.py", f"run={run}", "metrics=calibration")
    assert outcome.code == 2
    assert "is no list of rows" in outcome.error_line


def test_metrics_add_columns_and_files(run, command, workplace):
    (workplace / "sets.json").write_text(json.dumps({"0": [1], "1": [0]}))
    outcome = command(
        "evaluate.py",
        f"run={run}",
        "metrics=[multilabel,calibration,separability,probe]",
        "label_sets=sets.json",
        "figures=[consistency,confusion]",
        "probe.max_epochs=3",
        "probe.learning_rates=[0.5]",
    )
    assert (outcome.code, outcome.err) == (0, "")
    rows = rows_in(run / "evaluation.json")
    for row in rows.values():
        assert row["top1_to_1"] == pytest.approx(row["acc"])
        assert row["top1_to_1"] <= row["top1_to_L"] <= row["top5_to_L"]
    assert rows["temi", "test"]["ece"] >= 0
    assert rows["kmeans", "test"]["ece"] is None
    assert "k-means gives no probabilities, so it has no calibration." in outcome.out
    folder = run / "evaluation"
    assert set(json.loads((folder / "calibration.json").read_text())) == {"temi"}
    assert set(json.loads((folder / "separability.json").read_text())) == {"train", "test"}
    probe = json.loads((folder / "probe.json").read_text())
    assert (probe["judged_on"], len(probe["grid"])) == ("test", 3)
    assert probe["accuracy"] == 1.0
    assert {k: share for k, share in probe["knn"].items() if share is not None} == {
        "1": 1,
        "10": 1,
        "20": 1,
        "100": 1,
        "200": 1,
    }
    assert json.loads((folder / "probe_class_accuracy.json").read_text()) == {str(c): 1.0 for c in range(5)}
    figures = {path.name for path in folder.glob("*.png")}
    assert figures == {
        "reliability.png", "confidence.png", "consistency.png", "confusion_temi.png", "confusion_kmeans.png",
    }  # fmt: skip


def test_features_are_probed_without_a_run_and_their_easiest_classes_are_a_benchmark(command, workplace):
    rng = np.random.default_rng(0)
    rows = np.load("X_test.npy")
    hard = np.load("y_test.npy") >= 3  # two of the five classes are noise
    rows[hard] = rng.standard_normal((int(hard.sum()), rows.shape[1]))
    np.save("X_test.npy", rows)
    probe = ("metrics=probe", "probe.max_epochs=3", "probe.learning_rates=[0.5]")
    outcome = command("evaluate.py", *OWN[:4], TEST[0], *probe, "run_dir=features")
    assert (outcome.code, outcome.err) == (0, "")
    accuracies = json.loads((workplace / "features/evaluation/probe_class_accuracy.json").read_text())
    assert [accuracies[name] for name in "012"] == [1.0] * 3
    assert max(accuracies["3"], accuracies["4"]) < 0.9
    benchmark = ("benchmark=clip_1k", "benchmark.n_classes=3")
    file = "benchmark.accuracies=features/evaluation/probe_class_accuracy.json"
    arguments = [entry for entry in TINY if not entry.startswith("n_clusters")]
    assert command("train.py", *OWN, *TEST, *arguments, *benchmark, file, "run_dir=easy").code == 0
    assert {row["n_clusters"] for row in rows_in(workplace / "easy/results.json").values()} == {3}


def test_features_alone_are_measured_in_a_folder_of_their_own(run, command, workplace):
    data, separability = (*OWN[:4], TEST[0]), "metrics=separability"
    for arguments, message in (
        ((*data, "metrics=calibration"), "metrics=[calibration] measures clusters: name the run that found them"),
        ((*data, "figures=umap"), "figures=[umap] measures clusters: name the run that found them, run="),
        (data, "nothing to measure: name metrics= or figures= of features, separability, probe"),
        ((*data, separability, f"run_dir={run}"), "holds a run: evaluate it by run="),
    ):
        outcome = command("evaluate.py", *arguments)
        assert outcome.code == 2
        assert message in outcome.error_line
    assert not (workplace / "runs").exists()
    assert command("evaluate.py", *data, separability, "run_dir=alone").code == 0
    assert set(json.loads((workplace / "alone/evaluation/separability.json").read_text())) == {"train", "test"}
    few = ("probe.max_epochs=1", "probe.learning_rates=[0.5]", "probe.weight_decays=[0]")
    assert command("evaluate.py", *data, "metrics=[multilabel,probe]", *few, "run_dir=alone").code == 0
    assert set(rows_in(workplace / "alone/evaluation.json")) == {("linear_probe", "test")}
    outcome = command("evaluate.py", "data=digits", separability, "run_dir=alone")
    assert outcome.code == 2
    assert "run_dir=alone holds the evaluation of other features: choose another run_dir" in outcome.error_line


def test_r_squared_over_benchmarks_needs_no_run(command, workplace):
    measured = ("metrics=[separability,probe]", "probe.max_epochs=1", "run_dir=sweep")
    outcome = command("evaluate.py", "-m", *OWN[:4], TEST[0], "benchmark=all,odd", *measured)
    assert outcome.code == 0
    assert {path.name for path in (workplace / "sweep").iterdir()} >= {
        "benchmark=all,data=features",
        "benchmark=odd,data=features",
    }
    outcome = command("summarize", "sweep", "--separability", "--by", "benchmark")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()[2:5]] == ["all", "odd", "R²"]


def test_sets_of_each_sample_draw_labels_for_the_split_they_are_of(run, command, workplace):
    labels = np.load("y_test.npy").tolist()
    (workplace / "sets.json").write_text(json.dumps([[label, (label + 1) % 5] for label in labels]))
    outcome = command("evaluate.py", f"run={run}", "metrics=multilabel", "label_sets=sets.json", "n_draws=4")
    rows = rows_in(run / "evaluation.json")
    assert rows["temi", "test"]["top1_to_1_std"] > 0
    assert "top1_to_1" not in rows["temi", "train"]
    assert "the label sets are not those of the train split" in outcome.out
    (workplace / "sets.json").write_text("[[1]]")
    outcome = command("evaluate.py", f"run={run}", "metrics=multilabel", "label_sets=sets.json")
    assert outcome.code == 2
    assert "label_sets=sets.json is of another number of samples than any split" in outcome.error_line


TREE = "1,0\n2,1\n3,\n4,3\n"


def test_ancestors_make_the_label_sets_and_the_probe_has_a_row_of_its_own(run, command, workplace):
    (workplace / "tree.csv").write_text(TREE)
    probe = ("probe.max_epochs=3", "probe.learning_rates=[0.5]")
    outcome = command(
        "evaluate.py", f"run={run}", "metrics=[multilabel,probe]", "label_sets=ancestors", "hierarchy=tree.csv", *probe
    )
    assert (outcome.code, outcome.err) == (0, "")
    by_tree = rows_in(run / "evaluation.json")
    (workplace / "sets.json").write_text(json.dumps({"1": [0], "2": [1, 0], "4": [3]}))
    assert command("evaluate.py", f"run={run}", "metrics=multilabel", "label_sets=sets.json").code == 0
    by_file = rows_in(run / "evaluation.json")
    for place, row in by_file.items():
        assert {name: row[name] for name in SCORE_NAMES} == {name: by_tree[place][name] for name in SCORE_NAMES}
    row = by_tree["linear_probe", "test"]
    assert row["acc"] == row["top1_to_1"] == row["top5_to_L"] == 1.0
    multi = next(line for line in outcome.out.splitlines() if line.startswith("Linear probe"))
    assert multi.split()[2:] == ["test", "100.0", "100.0", "100.0", "100.0"]


def test_ancestors_reach_over_classes_that_a_benchmark_left_out(command, workplace):
    labels = np.load("y.npy")
    names = np.array(["animal", "dog", "poodle", "chair", "stool"])[labels]
    names[np.flatnonzero(labels == 0)[:8]] = "poodle"  # these look like other animals
    np.save("names.npy", names)
    (workplace / "tree.csv").write_text("poodle,dog\ndog,animal\nstool,chair\n")
    accuracies = {"animal": 0.9, "poodle": 0.8, "dog": 0, "chair": 0.1, "stool": 0.2}
    (workplace / "easy.json").write_text(json.dumps(accuracies))
    data = ("data=features", "data.train=X.npy", "data.train_labels=names.npy", "loss=none", "baselines=kmeans")
    easy = ("benchmark=clip_1k", "benchmark.n_classes=2", "benchmark.accuracies=easy.json")
    assert command("train.py", *data, *easy, "run_dir=run").code == 0
    ancestors = ("metrics=multilabel", "label_sets=ancestors", "hierarchy=tree.csv")
    outcome = command("evaluate.py", "run=run", *ancestors)
    assert (outcome.code, outcome.err) == (0, "")
    row = rows_in(workplace / "run/evaluation.json")["kmeans", "train"]
    # A poodle is an animal, though its parent, the dog, is no class of the benchmark.
    assert row["top1_to_1"] == pytest.approx(1 - 8 / np.isin(labels, [0, 2]).sum())
    assert row["top1_to_L"] == 1.0


def test_every_level_of_a_hierarchy_has_its_one_sided_ami(run, command, workplace):
    (workplace / "tree.csv").write_text(TREE)
    outcome = command("evaluate.py", f"run={run}", "metrics=levels", "hierarchy=tree.csv")
    assert (outcome.code, outcome.err) == (0, "")
    labels = {"train": np.load("y.npy"), "test": np.load("y_test.npy")}
    at_depth = {1: [0, 0, 0, 3, 3], 2: [0, 1, 1, 3, 4], 3: [0, 1, 2, 3, 4]}
    for (method, split), row in rows_in(run / "evaluation.json").items():
        found = Clustering.load(run / "clusterings" / f"{method}{'_test' if split == 'test' else ''}.npz").labels
        for depth, coarse in at_depth.items():
            expected = one_sided_ami(np.array(coarse)[labels[split]], found)
            assert row[f"one_sided_ami_d{depth}"] == pytest.approx(expected, abs=1e-12)
    assert json.loads((run / "evaluation/levels.json").read_text()) == {"classes": {"1": 2, "2": 4, "3": 5}}
    table = outcome.out[outcome.out.index("Depth d") :].splitlines()
    assert [line.split()[0] for line in table[2:5]] == ["1", "2", "3"]
    assert (run / "evaluation/levels.png").is_file()
    (workplace / "root.csv").write_text("0,all\n1,all\n2,all\n3,all\n4,all\n")
    assert command("evaluate.py", f"run={run}", "metrics=levels", "hierarchy=root.csv").code == 0
    written = json.loads((run / "evaluation/levels.json").read_text())
    assert written == {"classes": {"1": 1, "2": 5}}
    # Of the other hierarchy nothing is left; where there is one class there is nothing to explain.
    again = rows_in(run / "evaluation.json")["temi", "test"]
    assert {name for name in again if name.startswith("one_sided")} == {"one_sided_ami_d1", "one_sided_ami_d2"}
    assert again["one_sided_ami_d1"] is None


def test_overclustering_runs_every_method_at_each_number_of_clusters_once(run, command, workplace):
    arguments = ("evaluate.py", f"run={run}", "metrics=overclustering", "counts=[5,10]")
    outcome = command(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.split("NMI at C")[1].split()[:2] == ["TEMI", "k-means"]
    assert (run / "evaluation" / "overclustering.png").is_file()
    clusterings = {
        count: Clustering.load(run / "overclustering" / str(count) / "clusterings" / "temi.npz") for count in (5, 10)
    }
    assert {count: clustering.n_clusters for count, clustering in clusterings.items()} == {5: 5, 10: 10}
    assert "for heads" not in (run / "overclustering" / "5" / "results.md").read_text()
    # The same recipe at the same number of clusters is the same run.
    assert (clusterings[5].labels == Clustering.load(run / "clusterings" / "temi.npz").labels).all()
    written = (run / "overclustering" / "10" / "checkpoints" / "temi.ckpt").stat().st_mtime_ns
    assert command(*arguments).code == 0
    assert (run / "overclustering" / "10" / "checkpoints" / "temi.ckpt").stat().st_mtime_ns == written
    outcome = command(
        "summarize", run / "overclustering", "--by", "n_clusters", "--metric", "nmi", "--figure", "over_c",
        "--markdown", "over_c.md",
    )  # fmt: skip
    assert outcome.code == 0
    assert (workplace / "over_c.png").is_file()
    lines = (workplace / "over_c.md").read_text().splitlines()
    assert lines[0] == "| n_clusters | TEMI | k-means |"
    assert [line.split(" |")[0] for line in lines[2:4]] == ["| 5", "| 10"]


def test_runs_side_by_side_by_a_setting(command, workplace):
    for k in (4, 8):
        arguments = [entry for entry in TINY if not entry.startswith("n_neighbors")]
        folder = f"run_dir=sweep/{k}"
        assert command("train.py", *OWN, *TEST, *arguments, f"n_neighbors={k}", folder).code == 0
        measured = ("metrics=[separability,probe,calibration]", "probe.max_epochs=1")
        assert command("evaluate.py", f"run=sweep/{k}", *measured).code == 0
    outcome = command("summarize", "sweep", "--by", "n_neighbors", "--metric", "ece")
    assert outcome.code == 0
    assert "ece on split test, in percent" in outcome.out
    outcome = command("summarize", "sweep", "--by", "n_neighbors", "--difference", "temi", "kmeans", "--figure", "d")
    assert outcome.code == 0
    assert (workplace / "d.svg").is_file()
    outcome = command("summarize", "sweep", "--separability", "--by", "n_neighbors", "--figure", "s")
    assert outcome.code == 0
    assert "R²" in outcome.out
    assert (workplace / "s.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("metrics=[ece]",), "no metric is called 'ece': choose from multilabel, levels,"),
        (("figures=[tsne]",), "no figure is called 'tsne': choose from consistency, neighbors, umap, confusion"),
        (("figures=[neighbors]",), "figures=[neighbors] needs images: these features know no image files"),
        (("metrics=multilabel", "label_sets=none.json"), "label_sets=none.json cannot be read as JSON"),
        (("metrics=multilabel", "label_sets=ancestors"), "deepclust evaluate: hierarchy=FILE"),
        (("metrics=levels", "hierarchy=none.csv"), "no such file: none.csv"),
        (("metrics=multilabel", "label_sets=real"), "label_sets=real needs features that know their files"),
        (("metrics=overclustering", "counts=[1000]"), "n_clusters=1000, but there are only 200 samples"),
        (("metrics=overclustering", "data=features", "data.train=X.npy"), "trains again on the run's own data"),
        (("metrics=probe", "data=features", "data.train=X.npy"), "needs labels"),
        (("metrics=calibration", "data=features", "data.train=X.npy"), "metrics=[calibration] needs labels"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(run, command, arguments, message):
    outcome = command("evaluate.py", f"run={run}", *arguments)
    assert outcome.code == 2
    assert message in outcome.error_line
    assert not (run / "evaluation.json").exists()


def test_overclustering_without_labels_is_refused_before_it_trains(command, workplace):
    asked = ("data=features", "data.train=X.npy", "loss=none", "baselines=kmeans", "n_clusters=5")
    assert command("train.py", *asked, "run_dir=bare").code == 0
    outcome = command("evaluate.py", "run=bare", "metrics=overclustering", "counts=[3,4]")
    assert "metrics=[overclustering] needs labels" in outcome.error_line
    assert not (workplace / "bare" / "overclustering").exists()


def test_a_refused_sweep_leaves_nothing(command, tmp_path):
    outcome = command("evaluate.py", "-m", "run=runs/a,runs/b")
    assert outcome.code == 2
    assert outcome.error_line == "error: run=runs/a: no such folder"
    assert not list(tmp_path.iterdir())


def test_summarize_refuses_what_it_cannot_show(command, workplace):
    outcome = command("summarize", ".", "--figure", "x")
    assert outcome.code == 2
    assert "--figure and --difference need --by KEY" in outcome.error_line
    outcome = command("summarize", ".", "--by", "seed", "--metric", "ece")
    assert outcome.code == 2
    assert (
        "no evaluation.json beside a config.yaml in .: run deepclust evaluate metrics=[…] first" in outcome.error_line
    )
    outcome = command("summarize", ".", "--separability")
    assert outcome.code == 2
    assert "run `deepclust evaluate run=… metrics=[separability,probe]` on each" in outcome.error_line


@pytest.mark.parametrize("other", [("seed=1",), ("loss=tsp",)])
def test_a_checkpoint_of_another_run_is_refused(run, command, other):
    settings = (*OWN, *TINY, *other, "baselines=none", "run_dir=other")
    assert command("train.py", *settings).code == 0
    (foreign,) = Path("other/checkpoints").glob("*.ckpt")
    foreign.replace(run / "checkpoints" / "temi.ckpt")
    outcome = command("evaluate.py", f"run={run}")
    assert outcome.code == 2
    assert "temi.ckpt is of another run" in outcome.err
    assert not (run / "evaluation.json").exists()
