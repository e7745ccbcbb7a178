"""Published data sets, each in a miniature of its real layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepclust.extraction import layouts
from deepclust.extraction.dataset_facts import BACKGROUNDS, DATASETS
from deepclust.extraction.image_source import ImageSource
from deepclust.extraction.layouts import LAYOUTS, TUMORS
from deepclust.extraction.sources import open_sources
from deepclust.report.published import published
from deepclust.runtime.errors import InputError


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(path, "PNG" if path.suffix == ".png" else "JPEG")
    return root


def write(root: Path, **files: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / f"{name}.txt").write_text(content)


def seen(source: ImageSource) -> dict[str, str]:
    """Class name by path."""
    assert source.labels is not None
    assert source.class_names is not None
    return {source.path(i): source.class_names[source.labels[i]] for i in range(len(source))}


def of_two_classes(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    facts = {name: replace(DATASETS[name], n_classes=2, n_train=2, n_test=2) for name in names}
    monkeypatch.setattr(layouts, "DATASETS", facts)


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_o", "imagenet_r", "imagenet_sketch"])
def test_folders_of_classes_are_one_split(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_two_classes(monkeypatch, name)
    put(tmp_path, "n01443537/a.jpg", "n01484850/b.jpg", "n01484850/c.jpg")
    (tmp_path / "README.txt").touch()  # ImageNet-R has one
    splits = open_sources(name, tmp_path)
    assert list(splits) == ["train"]
    assert seen(splits["train"]) == {
        "n01443537/a.jpg": "n01443537", "n01484850/b.jpg": "n01484850", "n01484850/c.jpg": "n01484850",
    }  # fmt: skip


@pytest.mark.parametrize("variant", BACKGROUNDS)
def test_every_background_of_imagenet_9_is_a_data_set(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_two_classes(monkeypatch, f"imagenet9_{variant}")
    put(tmp_path, f"{variant}/val/00_dog/fg_n02085936_1.jpg", f"{variant}/val/01_bird/fg_n01514668_2.jpg")
    source = open_sources(f"imagenet9_{variant}", tmp_path)["train"]
    assert [*seen(source).values()] == ["00_dog", "01_bird"]
    with pytest.raises(InputError, match=r"no such folder: .*/val"):
        open_sources(f"imagenet9_{variant}", tmp_path / variant)


@pytest.mark.parametrize("name", ["imagenette", "imagewoof"])
def test_imagenette_and_imagewoof_have_train_and_val(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_two_classes(monkeypatch, name)
    put(tmp_path, *(f"{split}/{synset}/1.JPEG" for split in ("train", "val") for synset in ("n01440764", "n02102040")))
    splits = open_sources(name, tmp_path)
    assert {split: len(source) for split, source in splits.items()} == {"train": 2, "test": 2}


def test_nabirds_is_read_from_its_tables(tmp_path: Path) -> None:
    put(tmp_path, "images/0817/aa.jpg", "images/0817/bb.jpg", "images/0295/cc.jpg")
    write(
        tmp_path,
        images="id-a 0817/aa.jpg\nid-b 0817/bb.jpg\nid-c 0295/cc.jpg\n",
        image_class_labels="id-a 817\nid-b 817\nid-c 295\n",
        train_test_split="id-a 1\nid-b 0\nid-c 0\n",
        classes="0 Birds\n295 Common Eider (Adult male)\n817 Oak Titmouse\n",
    )
    splits = LAYOUTS["nabirds"](tmp_path)
    assert seen(splits["train"]) == {"0817/aa.jpg": "Oak Titmouse 817"}
    assert seen(splits["test"]) == {"0817/bb.jpg": "Oak Titmouse 817", "0295/cc.jpg": "Common Eider (Adult male) 295"}
    assert splits["train"].image(0).size == (2, 2)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"classes\.txt cannot be read: data\.path should be the folder"):
        LAYOUTS["nabirds"](tmp_path)


COLUMNS = ("sampleid", "order", "family", "subfamily", "tribe", "genus", "species", "image_file", "chunk_number")
NONE = "not_classified"
INSECTS = (
    ("S1", "Diptera", "Sciaridae", NONE, NONE, NONE, "Bradysia fenestralis", "1.jpg", "1"),
    ("S2", "Diptera", "Tachinidae", "Exoristinae", NONE, "Nemorilla", "Nemorilla floralis", "2.jpg", "1"),
    ("S3", "Diptera", "Tachinidae", "Exoristinae", "Winthemiini", "Nemorilla", "Nemorilla floralis", "3.jpg", "113"),
    ("S4", "Diptera", NONE, NONE, NONE, NONE, NONE, "4.jpg", "1"),
)


def test_bioscans_species_have_their_ranks_in_their_names(tmp_path: Path) -> None:
    table = ["\t".join(row) for row in (COLUMNS, *INSECTS)]
    (tmp_path / "BIOSCAN_Insect_Dataset_metadata.tsv").write_text("\n".join(table) + "\n")
    write(tmp_path, train_seen="S1\nS2\n", seen_keys="S3\n", test_seen="S4\n", test_unseen="", test_unseen_keys="")
    put(tmp_path / "bioscan" / "images" / "cropped_256", "part1/1.jpg", "part1/2.jpg", "part113/3.jpg")
    splits = LAYOUTS["bioscan1m"](tmp_path)
    fly = "Diptera_Tachinidae_Exoristinae_Winthemiini_Nemorilla_Nemorilla floralis"
    gnat = "Diptera_Sciaridae_unassigned Sciaridae_unassigned Sciaridae_Bradysia_Bradysia fenestralis"
    assert seen(splits["train"]) == {"part1/1.jpg": gnat, "part1/2.jpg": fly}
    assert seen(splits["test"]) == {"part113/3.jpg": fly}
    (tmp_path / "BIOSCAN_Insect_Dataset_metadata.tsv").write_text("sampleid\tspecies\nS1\tx\n")
    with pytest.raises(InputError, match="is not BIOSCAN-1M's table"):
        LAYOUTS["bioscan1m"](tmp_path)


def test_utkfaces_split_is_drawn_by_age(tmp_path: Path) -> None:
    names = [f"{age}_0_{race}_2016121914062{race}001.jpg.chip.jpg" for age in (1, 9, 30) for race in range(4)]
    put(tmp_path, *names, "100_1_2_20170112222336458.jpg.chip.jpg", "39_1_20170116174525125.jpg.chip.jpg")
    splits = LAYOUTS["utkface"](tmp_path)
    ages = [name.split("_")[0] for name in seen(splits["test"])]
    assert ages == ["1", "9", "30"]  # rows 2, 6 and 10 of 13
    assert {*seen(splits["train"]).values()} == {"1", "9", "30", "100"}
    assert len(splits["train"]) == 10
    assert seen(splits["train"])["100_1_2_20170112222336458.jpg.chip.jpg"] == "100"


def test_breakhis_classes_are_tumor_and_magnification(tmp_path: Path) -> None:
    for tumor in TUMORS:
        kind, of = ("benign", "B") if tumor in ("A", "F", "PT", "TA") else ("malignant", "M")
        slide = tmp_path / "histology_slides" / "breast" / kind / "SOB" / f"SOB_{of}_{tumor}_14-22549AB"
        for zoom in (40, 100, 200, 400):
            folder = slide / f"{zoom}X"
            folder.mkdir(parents=True)
            for number in range(5):
                (folder / f"SOB_{of}_{tumor}-14-22549AB-{zoom}-00{number}.png").touch()
    splits = LAYOUTS["breakhis"](tmp_path)
    assert {split: np.bincount(source.labels).tolist() for split, source in splits.items()} == {
        "train": [3] * 32, "test": [2] * 32,
    }  # fmt: skip
    assert all(
        f"_{name.split()[0]}-" in path and f"-{name.split()[1]}-" in path for path, name in seen(splits["test"]).items()
    )
    assert not {*seen(splits["train"])} & {*seen(splits["test"])}
    with pytest.raises(InputError, match="no such folder"):
        LAYOUTS["breakhis"](tmp_path / "histology_slides")


def test_images_that_a_table_lists_must_be_there(tmp_path: Path) -> None:
    write(tmp_path, images="a 1/a.jpg\n", image_class_labels="a 1\n", train_test_split="a 1\n", classes="1 Eider\n")
    with pytest.raises(InputError, match=r"images/1/a\.jpg is not there, though the data set's tables list it"):
        LAYOUTS["nabirds"](tmp_path)


def test_other_classes_are_refused_and_other_numbers_of_images_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    put(tmp_path, "imagenet-o/n01443537/a.jpg")
    with pytest.raises(InputError, match=r"has 1 classes of imagenet_o, published are 200") as caught:
        open_sources("imagenet_o", tmp_path)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(layouts, "DATASETS", {"imagenet_o": replace(DATASETS["imagenet_o"], n_classes=1)})
    open_sources("imagenet_o", tmp_path)
    assert capsys.readouterr().err == "warning: imagenet_o train has 1 images here, published are 2000: is it whole?\n"


@pytest.mark.parametrize("paper", ["lowe2023", "lowe2024"])
def test_every_data_set_of_the_papers_has_an_entry_with_their_counts(paper: str) -> None:
    counts: dict[str, dict[str, float]] = {}
    for one in published(paper):
        if one.metric in ("n_samples", "n_classes"):
            counts.setdefault(one.data, {})[one.metric] = one.value
    assert len(counts) == {"lowe2023": 10, "lowe2024": 26}[paper]
    for name, count in counts.items():
        facts = DATASETS[name]
        here = facts.n_test or facts.n_train
        # The public split that LSUN is judged on has 3000 images; nobody has labels of its test split.
        assert here == (3_000 if name == "lsun" else count["n_samples"])
        assert (facts.n_test_classes or facts.n_classes) == count["n_classes"]
