"""The number of clusters from the command line: `auto`, bounds, constraints, and other cuts of a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from deepclust.clustering import Clustering

# Of 300 samples in 5 classes: the fixture `planted`.
DATA = ("data=features", "data.train=X.npy", "data.train_labels=y.npy", "loss=temi", "baselines=kmeans")
SHORT = ("n_heads=3", "max_epochs=8", "n_neighbors=8", "data.batch_size=128", "trainer.accelerator=cpu")


@pytest.fixture
def data(tmp_path, planted, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", np.asarray(planted.features))
    np.save("y.npy", planted.labels)
    return planted


def pairs_of(labels: np.ndarray, path: str, n_pairs: int = 200) -> str:
    drawn = np.random.default_rng(0).integers(0, len(labels), (n_pairs, 2))
    answers = ("same" if labels[a] == labels[b] else "different" for a, b in drawn)
    lines = [f"{a},{b},{answer}" for (a, b), answer in zip(drawn, answers) if a != b]
    Path(path).write_text("\n".join(["first,second,answer", *lines]))
    return path


def test_a_run_finds_its_number_and_is_cut_elsewhere_without_training(command, data):
    outcome = command("train", *DATA, *SHORT, "n_clusters=[3,12]", "run_dir=run")
    assert outcome.code == 0, outcome.err
    found = json.loads(Path("run/exploration/temi.json").read_text())
    assert [cut["n_clusters"] for cut in found["cuts"]] == list(range(3, 13))
    assert found["chosen"] == 5
    assert found["recommended"][0] <= 5 <= found["recommended"][1]
    assert found["note"].split(";")[0] in " ".join(outcome.out.split())
    assert Path("run/exploration/temi.svg").is_file()
    rows = {row["method"]: row for row in json.loads(Path("run/results.json").read_text())}
    assert rows["temi"]["n_found"] == rows["kmeans"]["n_found"] == 5
    left = Clustering.load("run/clusterings/temi.npz")
    assert adjusted_rand_score(data.labels, left.labels) > 0.95
    assert left.disagreement is not None
    assert left.disagreement.shape == (300,)
    before = Path("run/checkpoints/temi.ckpt").read_bytes()

    assert command("evaluate", "run=run").code == 0  # scored as it was cut
    assert json.loads(Path("run/evaluation.json").read_text())[0]["n_found"] == 5
    assert command("evaluate", "run=run", "n_clusters=8", "metrics=[calibration]").code == 0
    row = json.loads(Path("run/cuts/8/evaluation.json").read_text())[0]
    assert (row["method"], row["n_clusters"], row["n_found"]) == ("temi", 8, 8)
    eight = Clustering.load("run/cuts/8/clusterings/temi.npz")
    assert len(np.unique(np.stack([eight.labels, left.labels]), axis=1).T) <= 9  # the tree's: 5 are made of these 8
    assert command("evaluate", "run=run", f"constraints={pairs_of(data.labels, 'answers.csv')}").code == 0
    chosen = json.loads(Path("run/cuts/auto_constraints/exploration/temi.json").read_text())
    assert chosen["chosen"] == 5
    assert next(cut for cut in chosen["cuts"] if cut["n_clusters"] == 5)["pair_f1"] > 0.95
    assert Path("run/checkpoints/temi.ckpt").read_bytes() == before

    note = Path("run/checkpoints/temi.json")
    note.rename("away.json")
    uncut = command("evaluate", "run=run")
    assert (uncut.code, "put back temi.json" in uncut.error_line) == (2, True)
    Path("away.json").rename(note)
    too_many = command("evaluate", "run=run", "n_clusters=13")
    assert (too_many.code, "trained with 12 clusters" in too_many.error_line) == (2, True)
    again = command("train", *DATA, *SHORT, "n_clusters=[3,11]", "resume=run")
    assert (again.code, "was run with n_clusters=[3, 12]" in again.error_line) == (2, True)


@pytest.mark.usefixtures("data")
def test_what_views_say_of_a_single_head_is_the_same_where_they_are_made_again(command):
    words = (*DATA[:3], "loss=consensus_heads", "baselines=none", "n_clusters=7", "max_epochs=4")
    assert command("train", *words, "trainer.accelerator=cpu", "run_dir=run").code == 0
    note, place = Path("run/checkpoints/consensus_heads.json"), Path("run/clusterings/consensus_heads.npz")
    settled, first = note.read_text(), Clustering.load(place)
    assert first.disagreement is not None
    assert 0 < first.disagreement.mean() < 0.6  # seven clusters of five are drawn in several ways
    note.unlink()
    place.unlink()  # as a kill before the end of the run leaves it
    Path("run/deepclust.sha256").unlink(missing_ok=True)
    outcome = command("train", *words, "trainer.accelerator=cpu", "resume=run")
    assert outcome.code == 0, outcome.err
    again = Clustering.load(place)
    assert note.read_text() == settled
    np.testing.assert_array_equal(again.disagreement, first.disagreement)
    np.testing.assert_array_equal(again.top_probs, first.top_probs)
    assert command("evaluate", "run=run", "n_clusters=5").code == 0
    cut = Clustering.load("run/cuts/5/clusterings/consensus_heads.npz")
    assert cut.disagreement is not None
    assert cut.disagreement.mean() < first.disagreement.mean()  # five of five are drawn in one


@pytest.mark.usefixtures("data")
def test_of_a_single_head_of_a_consensus_the_number_is_voted_on_before_training(command):
    words = (*DATA[:3], "loss=consensus_heads", "baselines=kmeans", "n_clusters=[3,8]", "max_epochs=2")
    assert command("train", *words, "trainer.accelerator=cpu", "run_dir=run").code == 0
    found = json.loads(Path("run/exploration/consensus_heads.json").read_text())
    assert found["chosen"] == 5
    assert len(found["tree"]["merges"]) == 4  # five were trained, not eight
    rows = {row["method"]: row for row in json.loads(Path("run/results.json").read_text())}
    assert rows["consensus_heads"]["n_clusters"] == rows["kmeans"]["n_clusters"] == 5
    place = Path("run/clusterings/consensus_heads.npz")
    first = Clustering.load(place)
    place.unlink()  # as a kill before the end of the run leaves it
    Path("run/deepclust.sha256").unlink(missing_ok=True)
    outcome = command("train", *words, "trainer.accelerator=cpu", "resume=run")
    assert outcome.code == 0, outcome.err
    np.testing.assert_array_equal(Clustering.load(place).top_probs, first.top_probs)
    assert command("evaluate", "run=run", "n_clusters=3").code == 0
    assert json.loads(Path("run/cuts/3/evaluation.json").read_text())[0]["n_found"] == 3


def test_a_damaged_or_foreign_note_of_the_cut_is_refused(command, data):
    assert command("train", *DATA, *SHORT, "n_clusters=5", "max_epochs=2", "baselines=none", "run_dir=run").code == 0
    note = Path("run/checkpoints/temi.json")
    found = json.loads(note.read_text())
    assert found["groups"] is None
    assert found["confidence_temperature"] > 0
    Path("run/deepclust.sha256").unlink(missing_ok=True)
    note.write_text(json.dumps({**found, "identity": "another"}))
    outcome = command("evaluate", "run=run")
    assert (outcome.code, "is of another run" in outcome.error_line) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("n_clusters=1",), "n_clusters is 1: it must be a whole number of 2 or more, auto, or bounds such as [5,50]"),
        (("n_clusters=[5]",), "or bounds such as [5,50]"),
        (("n_clusters=[9,5]",), "or bounds such as [5,50]"),
        (("n_clusters=[2,301]",), "n_clusters is [2,301], but there are only 300 samples"),
        (("n_clusters=auto", "n_heads=1"), "heads are compared to choose n_clusters, and n_heads=1"),
        (("n_clusters=auto", "loss=none"), "name a loss, or a number"),
        (("n_clusters=5", "constraints=good.csv"), "set n_clusters=auto, or bounds"),
        (("n_clusters=auto", "constraints=far.csv"), "line 2: there is no sample '300': name rows from 0 to 299"),
    ],
)
@pytest.mark.usefixtures("data")
def test_what_cannot_choose_is_refused_in_a_line_and_leaves_nothing(command, words, said):
    Path("good.csv").write_text("1,2,same\n1,3,different")
    Path("far.csv").write_text("1,2,same\n1,300,different")
    outcome = command("train", *DATA, *SHORT, *words, "run_dir=run")
    assert outcome.code == 2
    assert said in outcome.error_line
    assert not Path("run").exists()
