"""Changes of a person: replayed exactly, with stable ids, and handed on as tables and folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepclust.clustering import NOISE, Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.runs.editing import Edited, edited_clustering, export, folder_places, read_edits, replayed
from deepclust.runs.relearning import held_out, relearned_and_tested
from deepclust.runs.reporting import FinishedRun, page_of, write_report
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint
from deepclust.training.recipe import Recipe
from deepclust.training.trained import TrainedHeads

FOUND = Clustering(
    np.array([0, 1, 2, 2, 3, -1], np.int32),
    "tsp",
    4,
    top_ids=np.array([[0], [1], [2], [2], [3], [0]]),
    top_probs=np.full((6, 1), 0.5, np.float32),
    disagreement=np.full(6, 0.25, np.float32),
)


def test_clusters_that_nobody_touched_keep_their_ids():
    steps = [
        {"step": "rename", "id": 2, "name": "dogs"},
        {"step": "merge", "ids": [2, 0], "into": 2},
        {"step": "move", "rows": [5, 4], "to": 4},
        {"step": "rename", "id": 4, "name": "odd"},
        {"step": "mark", "rows": [1, 3], "on": True},
        {"step": "mark", "rows": [3], "on": False},
    ]
    edited = replayed(FOUND, steps)
    assert edited.clustering.labels.tolist() == [2, 1, 2, 2, 4, 4]
    assert edited.names == {2: "dogs", 4: "odd"}
    assert edited.marked == [1]
    # A probability is of the cluster that the method gave, not of the one that a person gave.
    np.testing.assert_array_equal(edited.clustering.top_probs[:, 0], [1, 0.5, 0.5, 0.5, 1, 1])
    # Other heads disagreed about the clusters that were found, not about these.
    assert (edited.clustering.disagreement, replayed(FOUND, []).clustering.disagreement is None) == (None, False)
    assert FOUND.labels.tolist() == [0, 1, 2, 2, 3, -1]
    again = replayed(
        edited.clustering, [{"step": "merge", "ids": [1, 4], "into": 1}, {"step": "rename", "id": 2, "name": ""}]
    )
    assert again.clustering.labels.tolist() == [2, 1, 2, 2, 1, 1]
    assert (again.names, again.marked) == ({}, [1])


@pytest.mark.parametrize(
    "step",
    [
        {"step": "split"},
        {},
        3,
        {"step": "rename", "id": "x", "name": "y"},
        {"step": "rename", "id": 8, "name": "y"},  # which no cluster has
        {"step": "merge", "ids": 3, "into": 1},
        {"step": "merge", "ids": [0, 8], "into": 1},
        {"step": "merge", "ids": [0], "into": -2},
        {"step": "merge", "ids": [0], "into": 2**40},
        {"step": "move", "rows": [6], "to": 1},
        {"step": "move", "rows": [-1], "to": 1},
        {"step": "move", "rows": [True], "to": 1},
        {"step": "mark", "rows": "ab", "on": True},
        {"step": "split", "id": 2, "rows": [2], "to": 3},  # which is there
        {"step": "split", "id": 2, "rows": [2], "to": -1},
        {"step": "split", "id": -1, "rows": [5], "to": 7},
        {"step": "split", "id": 2, "rows": [2, 3], "to": 7},  # nobody stays
        {"step": "split", "id": 2, "rows": [], "to": 7},
        {"step": "split", "id": 2, "rows": [1, 2], "to": 7},  # 1 is of another cluster
        {"step": "split", "id": 2, "rows": [2], "rest": [], "to": 7},
    ],
)
def test_a_change_that_cannot_be_is_refused_by_number(step):
    with pytest.raises(InputError, match="change 2 cannot be made"):
        replayed(FOUND, [{"step": "rename", "id": 0, "name": "a"}, step])


def test_a_split_gives_the_part_that_leaves_a_new_id():
    edited = replayed(
        FOUND, [{"step": "split", "id": 2, "rows": [3], "to": 9}, {"step": "rename", "id": 9, "name": "x"}]
    )
    assert edited.clustering.labels.tolist() == [0, 1, 2, 9, 3, -1]
    assert edited.names == {9: "x"}
    again = replayed(edited.clustering, [{"step": "merge", "ids": [2, 9], "into": 2}])
    assert again.clustering.labels.tolist() == FOUND.labels.tolist()


def test_samples_that_a_page_does_not_hold_go_with_the_nearer_part():
    rows = np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 1, 0, 2]]
    rows[:, 2] += np.linspace(0, 0.1, 7, dtype=np.float32)
    found = Clustering(np.array([4, 4, 4, 4, 4, 4, 5], np.int32), "kmeans")
    step = {"step": "split", "id": 4, "rows": [1], "rest": [0], "to": 6}
    edited = replayed(found, [step], features=FeatureSet.from_arrays(rows))
    assert edited.clustering.labels.tolist() == [4, 6, 4, 6, 6, 4, 5]


def test_changes_are_for_the_clusters_that_they_were_made_to():
    edits = {"made_of": fingerprint(FOUND.labels), "steps": []}
    other = Clustering(np.array([0, 1, 2, 2, 3, 3], np.int32), "kmeans")
    assert edited_clustering(edits, {"kmeans": other, "tsp": FOUND}, "e.json").clustering.method == "tsp"
    with pytest.raises(InputError, match="other clusters"):
        edited_clustering(edits, {"kmeans": other}, "e.json")


def test_other_files_are_no_edits(tmp_path):
    place = tmp_path / "edits.json"
    for content in ("[]", "{}", '{"steps": []}', '{"deepclust_edits": 9, "steps": []}', "no json"):
        place.write_text(content)
        with pytest.raises(InputError):
            read_edits(place)
    with pytest.raises(InputError, match="no such file"):
        read_edits(tmp_path / "missing.json")


def test_folders_have_names_that_file_systems_take_and_lose_no_file():
    labels = np.array([0, 0, 1, 2, 2, 3], np.int32)
    names = {0: "Cats", 1: "cats", 2: "a/b: c?\n", 3: ".. "}
    paths = ["x/1.jpg", "y/1.JPG", "1.jpg", "2.png", "z/2.png", "3.png"]
    places = folder_places(Edited(Clustering(labels, "tsp"), names), paths)
    shown = [str(place) for place in places]
    assert shown == ["Cats/1.jpg", "Cats/1-2.JPG", "cats-2/1.jpg", "a_b_ c_/2.png", "a_b_ c_/2-2.png", "unnamed/3.png"]


@pytest.fixture
def photos(tmp_path: Path) -> FeatureSet:
    """Twelve images of two colors, and features that tell them apart."""
    rows = np.zeros((12, 4), np.float32)
    (tmp_path / "photos").mkdir()
    for index in range(12):
        rows[index, index % 2] = 1
        rows[index, 2] = 0.01 * index
        color = (200, 10 * index, 0) if index % 2 else (0, 10 * index, 200)
        Image.new("RGB", (12, 9), color).save(tmp_path / "photos" / f"{index:02}.png")
    source = {"kind": "files", "root": str(tmp_path / "photos")}
    return FeatureSet.from_arrays(rows, paths=[f"{index:02}.png" for index in range(12)], manifest={"source": source})


@pytest.mark.parametrize("folders", ["links", "copies", "list", "none"])
def test_every_image_is_in_the_folder_of_its_cluster(photos, tmp_path, folders):
    edited = replayed(Clustering(np.arange(12) % 2, "kmeans"), [{"step": "rename", "id": 1, "name": "red"}])
    out = tmp_path / "out"
    written = export(edited, photos, out, folders)
    with open(out / "samples.csv", newline="", encoding="utf-8") as stream:
        samples = list(csv.DictReader(stream))
    assert [row["name"] for row in samples] == ["cluster 0", "red"] * 6
    with open(out / "clusters.csv", newline="", encoding="utf-8") as stream:
        assert [(row["name"], row["size"]) for row in csv.DictReader(stream)] == [("cluster 0", "6"), ("red", "6")]
    found = sorted((out / "folders" / "red").glob("*"))
    if folders in ("links", "copies"):
        assert [place.name for place in found] == [f"{index:02}.png" for index in range(1, 12, 2)]
        assert all(place.is_symlink() == (folders == "links") for place in found)
        assert found[0].read_bytes() == (tmp_path / "photos" / "01.png").read_bytes()
        with pytest.raises(InputError, match="there already"):
            export(edited, photos, out, folders)
    else:
        assert found == []
    assert ((out / "moves.csv") in written) == (folders == "list")


@pytest.mark.parametrize("n_heads", [1, 2])
def test_a_page_tells_of_agreement_only_where_there_is_another_head(n_heads, command, photos, tmp_path):
    photos.save(tmp_path / "features" / "train")
    words = ("loss=tsp", "baselines=none", "n_clusters=2", "n_neighbors=3", "init=kmeans", "max_epochs=2")
    trained = command(
        "train", "data=features", "data.train=features/train", *words, f"n_heads={n_heads}", "run_dir=run"
    )
    assert trained.code == 0, trained.err
    (shown,) = page_of(FinishedRun.read("run"), map_kind="pca").shown
    assert (shown.agreement_N is None) == (n_heads == 1)


def test_report_and_edit_from_the_command_line(command, photos, tmp_path):
    photos.save(tmp_path / "features" / "train")
    trained = command(
        "train", "data=features", "data.train=features/train", "loss=none", "baselines=kmeans", "n_clusters=2",
        "run_dir=run",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    reported = command("report", "run=run", "map=pca")
    assert (reported.code, reported.out.splitlines()[-1]) == (0, "run/report.html")
    found = Clustering.load("run/clusterings/kmeans.npz")
    edits = {
        "deepclust_edits": 1,
        "made_of": fingerprint(found.labels),
        "steps": [{"step": "merge", "ids": [0, 1], "into": 1}],
    }
    Path("edits.json").write_text(json.dumps(edits))
    edited = command("edit", "run=run", "edits=edits.json", "folders=copies", "map=pca")
    assert edited.code == 0, edited.err
    assert "1 change, 12 images in 1 cluster\n" in edited.out
    assert set(Clustering.load("run/edited/clustering.npz").labels) == {1}
    assert len(list(Path("run/edited/folders/cluster 1").iterdir())) == 12
    assert "k-means, edited" in Path("run/edited/report.html").read_text(encoding="utf-8")
    # The page with the changes takes further ones, and without changes the clusters are handed on as they are.
    edits = {
        "deepclust_edits": 1,
        "made_of": fingerprint(np.ones(12, np.int32)),
        "steps": [{"step": "rename", "id": 1, "name": "all"}],
    }
    Path("more.json").write_text(json.dumps(edits))
    assert command("edit", "run=run", "edits=more.json", "out=elsewhere", "map=pca").code == 0
    assert Path("elsewhere/folders/all").is_dir()
    assert command("edit", "run=run", "method=kmeans", "folders=none").code == 0
    assert Path("run/handed_on/samples.csv").is_file()
    words = ("loss=none", "baselines=kmeans", "n_clusters=2", "seed=1", "run_dir=other")
    assert command("train", "data=features", "data.train=features/train", *words).code == 0
    own = Path("run/clusterings/kmeans.npz").read_bytes()
    for name in ("kmeans", "temi"):  # in the place of its own, and beside it
        Path(f"run/clusterings/{name}.npz").write_bytes(Path("other/clusterings/kmeans.npz").read_bytes())
        refused = command("report", "run=run", "map=pca")
        assert (refused.code, f"clusterings/{name}.npz is of another run" in refused.error_line) == (2, True)
        Path(f"run/clusterings/{name}.npz").unlink()
        Path("run/clusterings/kmeans.npz").write_bytes(own)
    with pytest.raises(InputError, match="no such folder"):
        FinishedRun.read("nowhere")
    # Who gives a place alone is told which setting it is.
    for name, word in (("report", "run"), ("edit", "edits.json"), ("edit", "nothing")):
        told = {"run": "write run=run", "edits.json": "write edits=edits.json"}.get(word, "write setting=value")
        refused = command(name, word)
        assert (refused.code, told in refused.error_line) == (2, True)
    finished = FinishedRun.read("run")
    assert list(finished.clusterings) == ["edited:edited", "edited:edited-2", "kmeans"]
    with pytest.raises(InputError, match="method=tsp is not in run: choose from"):
        write_report(finished, method="tsp")
    with pytest.raises(InputError, match="3 texts for 12 samples"):
        write_report(finished, texts=["a", "b", "c"])


def test_the_page_shows_what_the_silhouette_chose_first(command, planted, tmp_path):
    np.save("X.npy", planted.features)
    words = ("data=features", "data.train=X.npy", "baselines=kmeans", "select=silhouette", "select.n_clusters=[3,5]")
    chosen = command("train", *words, "loss=none", "select.reductions=[]", "run_dir=run")
    assert chosen.code == 0, chosen.err
    assert "Candidates" in chosen.out  # a table of them, as there are no rows of results
    assert "k-means" in chosen.out
    run = FinishedRun.read("run")
    assert list(run.clusterings) == ["kmeans_5_none"]
    page = write_report(run, map_kind="pca").read_text(encoding="utf-8")
    assert "k-means, chosen" in page
    assert "By silhouette (" in page


def test_heads_trained_again_are_as_sure_as_their_held_out_samples_allow():
    """Two clouds that overlap: who learned them by heart is sure of all, and wrong of new samples of one in six."""
    rng = np.random.default_rng(0)
    truth = np.arange(1000) % 2
    rows = rng.normal(size=(1000, 16)).astype(np.float32)
    rows[:, 0] += 2 * truth
    learned, new = (FeatureSet.from_arrays(rows[part]) for part in (slice(0, 500), slice(500, None)))
    recipe = Recipe.of("temi", n_clusters=2, n_heads=1)
    trained = TrainedHeads(recipe, FeatureTransform(16, "none"), recipe.new_heads(16), np.zeros(1))
    labels = np.where(truth[:500] == 1, 7, 3)
    labels[:10] = NOISE
    again = relearned_and_tested(trained, learned, labels)
    assert again.n_held_out == 49
    found = again.heads.assign(new)
    right, sure = (found.labels == truth[500:]).mean(), found.top_probs[:, 0].mean()
    assert abs(right - again.n_agreed / 49) < 0.1
    assert abs(sure - right) < 0.1
    assert f"of 49 samples that were held out, {again.n_agreed / 49:.1%}" in str(again)


def test_each_cluster_keeps_a_sample_to_learn_from():
    labels = np.array([4, 4, 5, 5, 5, 6, NOISE])
    for n_copies, n_held in ((1, 1), (20, 12)):
        many = np.tile(labels, n_copies)
        held = held_out(many)
        assert len(held) == n_held
        assert set(np.delete(many, held)) == {4, 5, 6, NOISE}
        assert NOISE not in many[held]
    assert len(held_out(np.array([1, 2, 3]))) == 0


def test_heads_trained_again_put_new_samples_into_the_clusters_of_a_person(command, digits, tmp_path):
    """Of a run that was asked for too few clusters: a person splits one, and new samples come apart as well."""
    rows = np.flatnonzero(np.isin(digits.labels, [0, 1, 4, 6]))
    np.save("X.npy", digits.features[rows[::2]])
    np.save("new.npy", digits.features[rows[1::2]])
    truth, new_truth = digits.labels[rows[::2]], digits.labels[rows[1::2]]
    words = ("loss=tsp", "baselines=none", "n_clusters=2", "n_heads=1", "init=kmeans", "max_epochs=1", "run_dir=run")
    assert command("train", "data=features", "data.train=X.npy", *words).code == 0
    found = Clustering.load("run/clusterings/tsp.npz")
    # Every digit to a cluster of its own, one in no cluster; ids have gaps.
    steps = [
        {"step": "move", "rows": np.flatnonzero(truth == digit).tolist(), "to": 10 + int(digit)}
        for digit in (0, 1, 4, 6)
    ]
    steps += [{"step": "rename", "id": 14, "name": "fours"}, {"step": "move", "rows": [0], "to": -1}]
    edits = {"deepclust_edits": 1, "made_of": fingerprint(found.labels), "steps": steps}
    Path("edits.json").write_text(json.dumps(edits))
    Path("texts.txt").write_text("a digit\n" * len(truth))
    words = ("edits=edits.json", "retrain=true", "folders=none", "map=pca", "texts=texts.txt")
    edited = command("edit", "run=run", *words)
    assert edited.code == 0, edited.err
    assert "texts that were held out" in edited.out  # samples are called what they are
    again = TrainedHeads.load("run/edited/heads.pt")
    assert again.losses_H[0] < 0.05
    assert Clustering.load("run/edited/clustering.npz").labels[0] == -1
    assigned = command("assign", "run=run", "data=features", "data.train=new.npy")
    assert assigned.code == 0, assigned.err
    new = Clustering.load("run/assigned/clusterings/edited.npz").labels
    assert (new == 10 + new_truth).mean() > 0.95
    with open("run/assigned/samples.csv", newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert {row["edited_name"] for row in table if row["edited_cluster"] == "14"} == {"fours"}
    assert all("tsp_cluster" in row for row in table)
    # What cannot be trained is refused before anything is written.
    one = {**edits, "steps": [{"step": "merge", "ids": [0, 1], "into": 0}]}
    Path("one.json").write_text(json.dumps(one))
    for words, said in ((("edits=one.json",), "two or more are needed"), ((), "edits=")):
        refused = command("edit", "run=run", "retrain=true", "map=pca", *words)
        assert (refused.code, said in refused.error_line) == (2, True)
    assert not Path("run/edited-2").exists()
    Path("run/checkpoints/tsp.ckpt").unlink()
    refused = command("edit", "run=run", "edits=edits.json", "retrain=true")
    assert (refused.code, "run holds no heads" in refused.error_line) == (2, True)
