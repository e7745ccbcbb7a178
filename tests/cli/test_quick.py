"""`deepclust PATH`: no settings, and an answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepclust.cli import quick
from deepclust.cli.main import is_place
from deepclust.clustering import Clustering


@pytest.fixture
def short_training(monkeypatch):
    """What is trained is tested elsewhere."""
    monkeypatch.setattr(quick, "TRAINING", (*quick.TRAINING, "max_epochs=3"))
    monkeypatch.setattr("deepclust.report.map_layout.UMAP_SAMPLES", 0)


@pytest.mark.usefixtures("short_training")
def test_embeddings_with_texts_become_a_page(command, planted):
    np.save("X.npy", planted.features)
    words = ["apple", "boat", "cloud", "dragon", "engine"]
    Path("texts.txt").write_text("".join(f"about {words[label]} {row}\n" for row, label in enumerate(planted.labels)))
    outcome = command("X.npy", "--texts", "texts.txt", "--out", "found")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == "found/report.html"
    assert "5 are taken" in outcome.out
    rows = json.loads(Path("found/results.json").read_text())
    assert [row["method"] for row in rows] == ["consensus_heads", "kmeans"]
    assert all(row["n_found"] == 5 for row in rows)
    page = Path("found/report.html").read_text(encoding="utf-8")
    assert "300 texts from X.npy" in page
    for word in words:  # each cluster is called by its own word
        assert f'"{word}"' in page or f'"{word},' in page
    again = command("X.npy", "-k", "5", "--out", "found")
    assert (again.code, "--out found holds a run already: choose another folder" in again.error_line) == (2, True)


@pytest.mark.usefixtures("short_training")
@pytest.mark.parametrize("lost", [["results.json", "report.html", "clusterings/consensus_heads.npz"], ["report.html"]])
def test_a_killed_command_goes_on_when_it_is_said_again(lost, command, planted):
    """As a kill leaves it once k-means has ended, and once all but the page is there."""
    np.save("X.npy", np.asarray(planted.features)[:100])
    words = ("X.npy", "-k", "3", "--out", "found")
    assert command(*words).code == 0
    labels = Clustering.load("found/clusterings/consensus_heads.npz").labels
    kept = Path("found/clusterings/kmeans.npz").stat().st_mtime_ns
    for name in lost:
        Path("found", name).unlink()
    again = command(*words)
    assert again.code == 0, again.err
    assert Path("found/clusterings/kmeans.npz").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(Clustering.load("found/clusterings/consensus_heads.npz").labels, labels)
    assert Path("found/report.html").is_file()


@pytest.mark.usefixtures("short_training")
def test_a_folder_of_seven_images_becomes_a_page(command):
    Path("photos").mkdir()
    for index in range(7):
        Image.new("RGB", (40, 30), (250 * (index % 2), 10 * index, 100)).save(f"photos/{index}.png")
    outcome = command("photos/", "-k", "2", "--encoder", "efficientnet_lite0", "--out", "found")
    assert outcome.code == 0, outcome.err
    assert "7 images from photos" in Path("found/report.html").read_text(encoding="utf-8")
    # Images that come later are no part of the run, and nothing is extracted for its page.
    Image.new("RGB", (40, 30)).save("photos/later.png")
    Path("photos/0.png").unlink()
    again = command("report", "run=found", "map=pca", "out=again.html")
    assert (again.code, "of the 7 of that time" in again.err) == (0, True), again.err
    page = Path("again.html").read_text(encoding="utf-8")
    assert ("7 images from photos" in page, "later.png" in page) == (True, False)
    asked = ("data=folder", "data.path=photos", "encoder=efficientnet_lite0", "loss=consensus_heads", "n_clusters=2")
    resumed = command("train", "resume=found", *asked, "baselines=[kmeans,agglomerative]", "max_epochs=3")
    assert (resumed.code, "of the 7 of that time" in resumed.err) == (0, True), resumed.err
    Path("photos/more.png").write_bytes(Path("photos/1.png").read_bytes())
    shutil.rmtree("features/folder")
    refused = command("report", "run=found", "map=pca")
    assert (refused.code, "8 images, 7 were clustered" in refused.error_line) == (2, True)
    assert not Path("features/folder").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing.npy",), "no such file or folder"),
        (("X.npz",), "no such file or folder (did you mean X.npy?)"),
        (("photos.zip",), "is no folder of images"),
        (("X.npy", "-k", "1"), "choose 2 clusters or more"),
        (("X.npy", "-k", "many"), "invalid int value"),
        (("X.npy", "--encoder", "dino_vitb16"), "--encoder is for images"),
        (("X.npy", "--texts", "short.txt"), "2 lines for 300 rows"),
        (("X.npy", "-k", "400"), "400"),
        (("folder", "--labels", "x.npy"), "--labels of images is `folders`"),
        (("folder", "--encoder", "dino_vitb17"), "dino_vitb17 is unknown"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_and_leaves_nothing(command, planted, words, said):
    np.save("X.npy", planted.features)
    Path("photos.zip").write_text("")
    Path("short.txt").write_text("a\nb\n")
    Path("folder").mkdir()
    outcome = command(*words)
    assert outcome.code == 2
    assert said in outcome.error_line
    assert not Path("runs").exists()


def test_a_place_is_told_from_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("train").mkdir()
    assert all(map(is_place, ("photos", "photos/", "missing/folder", "missing.npy", ".")))
    assert not any(map(is_place, ("train", "trian", "--help", "data.path=photos/", "-k")))
