from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepclust.extraction.dataset_facts import DATASETS
from deepclust.extraction.datasets import load_dataset
from deepclust.extraction.sources import open_sources
from deepclust.extraction.torchvision_source import RECIPES
from deepclust.features.feature_set import FeatureSet
from deepclust.features.idx import DEBIAN_FOLDER
from deepclust.runtime.errors import InputError

ROOT = Path(__file__).parents[2]


def features(n: int = 6, dim: int = 4, **manifest: object) -> FeatureSet:
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(n, dim)).astype(np.float32)
    return FeatureSet.from_arrays(rows, np.arange(n) % 2, manifest=dict(manifest))


def test_digits_come_along() -> None:
    digits = load_dataset("digits")
    assert digits.train.features.shape == (1797, 64)
    assert 0 <= digits.train.features[:].min() < digits.train.features[:].max() == 1
    assert digits.train.n_classes == 10
    assert digits.test is None
    assert digits.encoder is None


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_is_pixels_without_an_encoder() -> None:
    dataset = load_dataset("fashion_mnist")
    assert dataset.train.features.shape == (60_000, 784)
    assert dataset.test is not None
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.train.features[:100].max() == 1


def test_extracted_features_are_found_by_data_set_and_encoder(tmp_path: Path) -> None:
    features(6).save(tmp_path / "cifar10" / "dino_vits16" / "train")
    features(4).save(tmp_path / "cifar10" / "dino_vits16" / "test")
    dataset = load_dataset("cifar10", encoder="dino_vits16", features_dir=tmp_path)
    assert (len(dataset.train), dataset.test and len(dataset.test), dataset.encoder) == (6, 4, "dino_vits16")


def test_options_of_an_encoder_are_those_that_made_the_features(tmp_path: Path) -> None:
    made = {"encoder": {"pooling": "own", "layer": None}, "transform": {"image_size": 128}}
    features(**made).save(tmp_path / "fashion_mnist" / "efficientnet_lite0" / "train")
    for options in ({"image_size": 128}, {"name": "efficientnet_lite0", "pooling": None}):
        assert load_dataset("fashion_mnist", encoder=options, features_dir=tmp_path).encoder == "efficientnet_lite0"
    with pytest.raises(InputError, match="was made with image_size=128, not 224"):
        load_dataset("fashion_mnist", encoder={"image_size": 224}, features_dir=tmp_path)


def test_features_of_images_that_were_cut_otherwise_than_the_study_cuts_them_are_refused(tmp_path: Path) -> None:
    made = {"image_size": 224, "crop_pct": 0.875, "interpolation": "bilinear"}
    features(encoder={"pooling": "own"}, transform=made).save(tmp_path / "imagenet" / "dino_vitb16" / "train")
    temi, zero_shot = ({"name": "dino_vitb16", "study": study} for study in ("temi", "zero_shot"))
    assert load_dataset("imagenet", encoder=temi, features_dir=tmp_path).encoder == "dino_vitb16"
    with pytest.raises(InputError, match=r"was made with crop_pct=0.875, not 1.0"):
        load_dataset("imagenet", encoder=zero_shot, features_dir=tmp_path)


def test_a_mapping_of_nothing_is_no_encoder() -> None:
    assert load_dataset("digits", encoder={"name": None, "image_size": None}).encoder is None


def test_the_environment_names_the_folder_of_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCLUST_FEATURES", str(tmp_path))
    features().save(tmp_path / "cifar10" / "dino_vitb16" / "train")
    assert load_dataset("cifar10").encoder == "dino_vitb16"


def test_missing_features_name_folder_shape_and_command(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_dataset("imagenet21k", features_dir=tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "imagenet21k" / "ibot_vitl16" / "train") in message
    assert "manifest.json and features-*.npy (11 060 223 × 1024 float16 rows)" in message
    assert "`deepclust extract data=imagenet21k encoder=ibot_vitl16 data.path=IMAGES`" in message
    assert "\n" not in message


def test_an_unfinished_extraction_is_no_split(tmp_path: Path) -> None:
    root = tmp_path / "cifar10" / "dino_vitb16"
    features().save(root / "train")
    (root / "test").mkdir()
    with pytest.raises(InputError, match=r"test is unfinished.*`deepclust extract data=cifar10 encoder=dino_vitb16`"):
        load_dataset("cifar10", features_dir=tmp_path)


@pytest.mark.parametrize(
    ("key", "ours", "theirs"),
    [
        ("encoder", {"name": "dino_vitb16"}, {"name": "mae_vitb16"}),
        ("weights", {"sha256": "aa"}, {"sha256": "bb"}),
        ("transform", {"image_size": 224}, {"image_size": 128}),
    ],
)
def test_a_test_split_of_another_encoder_is_refused(tmp_path: Path, key: str, ours: dict, theirs: dict) -> None:
    features(6, **{key: ours}).save(tmp_path / "a")
    features(4, **{key: theirs}).save(tmp_path / "b")
    with pytest.raises(InputError, match=f"made by another encoder than the train split: {key}"):
        load_dataset("features", train=tmp_path / "a", test=tmp_path / "b")
    assert load_dataset("features", train=tmp_path / "a", test=tmp_path / "a").test is not None


def test_a_test_split_of_another_width_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((6, 4), np.float32))
    np.save(tmp_path / "b.npy", np.ones((6, 5), np.float32))
    with pytest.raises(InputError, match="5 dimensions and the train split 4"):
        load_dataset("features", train=tmp_path / "a.npy", test=tmp_path / "b.npy")


def test_own_features_may_bring_their_splits_along(tmp_path: Path) -> None:
    features(6).save(tmp_path / "train")
    features(4).save(tmp_path / "test")
    dataset = load_dataset("features", train=tmp_path)
    assert (len(dataset.train), dataset.test and len(dataset.test)) == (6, 4)


def test_every_row_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "X.npy", np.eye(4, dtype=np.float32))
    looked: list[FeatureSet] = []
    check = FeatureSet.check
    monkeypatch.setattr(FeatureSet, "check", lambda self, *args: (looked.append(self), check(self, *args))[1])
    load_dataset("features", train=tmp_path / "X.npy").check().check()
    assert len(looked) == 1
    load_dataset("digits").check().check()
    assert len(looked) == 2


def test_own_features_are_checked(tmp_path: Path) -> None:
    rows = np.ones((5, 3), np.float32)
    rows[2] = np.nan
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(InputError, match="first: row 2"):
        load_dataset("features", train=tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("features", {}, "data=features needs data.train"),
        ("folder", {}, "data=folder needs data.path"),
        ("digits", {"encoder": "dino_vitb16"}, "make them with `deepclust extract data=digits encoder=dino_vitb16`"),
        ("digits", {"train": "x.npy"}, "are for data=features"),
        ("features", {"train": "x.npy", "path": "photos"}, "data.path is for images"),
        ("features", {"train": "x.npy", "labels": "folders"}, "data.labels is for images.*data.train_labels= is for"),
        ("features", {"train": "x.npy", "test_labels": "y.npy"}, "without data.test"),
        ("nothing", {}, "unknown data set 'nothing': one of .*cifar10"),
    ],
)
def test_refused_requests(name: str, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_dataset(name, **options)


def test_own_photos_are_embedded_on_demand(tmp_path: Path, photos: Path, tiny_options: dict) -> None:
    for _ in range(2):
        dataset = load_dataset("folder", encoder=tiny_options, features_dir=tmp_path / "f", path=photos)
        assert dataset.train.files is not None
        assert len(dataset.train.files) == 12
        assert dataset.train.labels is None
    assert len(list((tmp_path / "f" / "folder").glob("*/train"))) == 1
    labeled = load_dataset("folder", encoder=tiny_options, features_dir=tmp_path / "f", path=photos, labels="folders")
    assert labeled.train.class_names == ["cats", "dogs"]


def test_every_recipe_of_torchvision_is_a_data_set() -> None:
    assert RECIPES.keys() < DATASETS.keys()


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_says_in_one_line_how_to_get_it_and_whether_it_needs_a_path(name: str) -> None:
    facts = DATASETS[name]
    assert facts.about.endswith(".")
    assert "\n" not in facts.about
    assert not facts.needs_path or "data.path=" in facts.about
    if name in RECIPES:
        assert facts.needs_path != RECIPES[name].downloads
    if facts.needs_path:
        with pytest.raises(InputError, match=f"data={name} needs data.path"):
            open_sources(name)


def test_the_table_is_read_without_torch_and_timm() -> None:
    listed = (
        "import sys, deepclust.extraction.datasets; print(*{'torch', 'torchvision', 'timm', 'PIL'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.split() == []


def test_an_encoder_without_a_name_is_the_data_sets_own(tmp_path: Path) -> None:
    for name, encoder in (("cifar10", "dino_vitb16"), ("digits", "efficientnet_lite0")):
        with pytest.raises(InputError, match=f"no features of {name} by {encoder}"):
            load_dataset(name, encoder={"image_size": 128}, features_dir=tmp_path)


def test_the_manifest_of_a_saved_set_keeps_its_provenance(tmp_path: Path) -> None:
    features(6, encoder={"name": "x"}).save(tmp_path / "a")
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["encoder"] == {"name": "x"}
