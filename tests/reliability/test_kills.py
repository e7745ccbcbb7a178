"""A command that is killed at any moment leaves nothing half-made: said again, it ends as if nothing had happened.

Moments are seeded: right before the n-th change of a file, and so many seconds after the start.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepclust.clustering import Clustering
from deepclust.features.feature_files import load_features
from tests.reliability.conftest import Ended, save_data

DATA = ("data=features", "data.train=X.npy", "data.train_labels=y.npy", "n_clusters=3")
SMALL = ("loss=tsp", "n_heads=1", "max_epochs=2", "init=kmeans", "n_neighbors=4", "trainer.accelerator=cpu")
TRAIN = ("train", *DATA, *SMALL, "baselines=[kmeans]", "silhouette=false", "trainer.checkpoint_seconds=0")
ZERO_SHOT = (
    *("zero-shot", "stage=search", "folder=zs", "clusterers=[kmeans]", "search.umap_dims=[]", "search.pca_dims=[4]"),
    *("search.pca_variances=[]", "tuning=[digits_first]", "data.digits_first.rows=40"),
)
# What two runs of one command differ in.
CLOCK = ("seconds", "path", "finished")


def moments(seed: int, n: int, last: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, last + 1, n).tolist()


def left_over(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if ".part" in path.name] + list(folder.rglob("*.blocks"))


def timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items() if not key.endswith(CLOCK)}
    return [timeless(value) for value in content] if isinstance(content, list) else content


def rows_of(path: Path) -> Any:
    return timeless(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def whole(ended: Ended, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands leave that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    save_data(folder)
    for words in ((*TRAIN, "run_dir=run"), ("evaluate", "run=run", "metrics=[separability]"), ZERO_SHOT):
        outcome = ended(folder, *words)
        assert outcome.code == 0, outcome.err
    return folder


def test_training_that_is_killed_again_and_again_ends_with_the_same_labels(ended, whole, tmp_path):
    save_data(tmp_path)
    kills = 0
    by_operation: list[dict[str, Any]] = [{"kill_at": number} for number in moments(0, 11, 70)]
    by_clock: list[dict[str, Any]] = [{"signal_after": seconds} for seconds in (0.05, 0.2, 0.4, 0.6)]
    for moment in [*by_operation, *by_clock, {}]:
        begun = (tmp_path / "run" / "config.yaml").is_file()
        outcome = ended(tmp_path, *TRAIN, "resume=run" if begun else "run_dir=run", **moment)
        assert outcome.code == -9 or (outcome.code == 0), outcome.err
        kills += outcome.code == -9
    assert kills >= 10
    assert outcome.code == 0
    for name in ("tsp", "kmeans"):
        killed, straight = (Clustering.load(place / "run/clusterings" / f"{name}.npz") for place in (tmp_path, whole))
        np.testing.assert_array_equal(killed.labels, straight.labels)
    assert rows_of(tmp_path / "run/results.json") == rows_of(whole / "run/results.json")
    assert left_over(tmp_path) == []
    assert ended(tmp_path, "verify", "run").code == 0


def test_an_evaluation_that_is_killed_is_made_by_the_same_command(ended, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "work")
    work = tmp_path / "work"
    (work / "run/evaluation.json").unlink()
    words = ("evaluate", "run=run", "metrics=[separability]")
    codes = [ended(work, *words, kill_at=number).code for number in (1, 2, 3, 5, 7, 9)]
    assert codes == [-9] * 6
    assert ended(work, *words).code == 0
    assert rows_of(work / "run/evaluation.json") == rows_of(whole / "run/evaluation.json")
    assert ended(work, "verify", "run").code == 0


def test_an_extraction_that_is_killed_goes_on(ended, tmp_path):
    words = extraction(tmp_path)
    assert ended(tmp_path, *words, "out=whole").code == 0
    codes = [ended(tmp_path, *words, "out=killed", kill_at=number).code for number in moments(1, 6, 14)]
    assert codes.count(-9) >= 5
    assert ended(tmp_path, *words, "out=killed").code == 0
    killed, straight = (load_features(tmp_path / name).check() for name in ("killed", "whole"))
    np.testing.assert_array_equal(killed.features[:], straight.features[:])
    assert killed.manifest["checksums"] == straight.manifest["checksums"]
    assert left_over(tmp_path) == []
    assert ended(tmp_path, "verify", "killed").code == 0


def test_a_protocol_that_is_killed_keeps_its_cells(ended, whole, tmp_path):
    codes = [ended(tmp_path, *ZERO_SHOT, kill_at=number).code for number in (4, 9, 14, 20)]
    assert codes.count(-9) >= 3
    assert ended(tmp_path, *ZERO_SHOT).code == 0
    killed, straight = (rows_of(place / "zs/chosen/raw.json") for place in (tmp_path, whole))
    assert killed == straight
    assert left_over(tmp_path) == []
    assert ended(tmp_path, "verify", "zs").code == 0


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (("summarize", "run", "--markdown", "table.md"), "table.md"),
        (("subsets", "--data", "digits", "--json", "counts.json"), "counts.json"),
    ],
)
def test_a_table_is_there_whole_or_not_at_all(words, written, ended, whole):
    (whole / written).unlink(missing_ok=True)
    for number in (1, 2):
        assert ended(whole, *words, kill_at=number).code == -9
        assert not (whole / written).exists()
    assert ended(whole, *words).code == 0
    before = (whole / written).read_text()
    assert ended(whole, *words, kill_at=2).code == -9
    assert (whole / written).read_text() == before


def extraction(folder: Path) -> tuple[str, ...]:
    """Twelve images in folders of three kinds, and the command that embeds them four at a time."""
    import timm
    import torch

    rng = np.random.default_rng(0)
    for index in range(12):
        place = folder / "photos" / "abc"[index % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(place / f"{index:02d}.png")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), folder / "tiny.pth")
    return (
        *("extract", "data=folder", "data.path=photos", "encoder=timm", "encoder.name=tiny"),
        *("encoder.model=test_resnet", "encoder.image_size=32", "encoder.checkpoint=tiny.pth"),
        *("device=cpu", "precision=float32", "images_per_shard=4", "batch_size=4", "workers=0"),
    )
