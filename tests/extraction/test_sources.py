from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepclust.extraction.image_source import ArraySource, FileSource, PathList, as_source, folder_source
from deepclust.extraction.images import READS_AVIF, UnreadableImageError, read_image
from deepclust.extraction.sources import open_sources
from deepclust.extraction.tar_source import tar_sources
from deepclust.extraction.torchvision_source import RECIPES
from deepclust.features import idx
from deepclust.metrics.label_sets import real_label_sets
from deepclust.runtime.errors import InputError


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), value).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_idx(path: Path, array: np.ndarray) -> None:
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_folders_are_searched_in_sorted_order(photos: Path) -> None:
    (photos / "notes.txt").touch()
    (photos / ".hidden.png").touch()
    source = folder_source(photos)
    listed = [source.path(index) for index in range(len(source))]
    assert listed == sorted(listed)
    assert len(listed) == 12
    assert source.labels is None
    assert source.image(0).size == (50, 41)


def test_sub_folders_are_labels_only_when_asked(photos: Path) -> None:
    source = folder_source(photos, labels="folders")
    assert source.class_names == ["cats", "dogs"]
    assert source.labels is not None
    assert source.labels.tolist() == [0] * 6 + [1] * 6
    Image.new("L", (2, 2)).save(photos / "loose.png")
    with pytest.raises(InputError, match=r"loose\.png lies in no sub-folder"):
        folder_source(photos, labels="folders")
    with pytest.raises(InputError, match=r"data\.labels=names is unknown"):
        folder_source(photos, labels="names")


def test_a_folder_linked_into_itself_is_searched_once(photos: Path) -> None:
    (photos / "cats" / "loop").symlink_to(photos, target_is_directory=True)
    assert len(folder_source(photos)) == 12


def test_the_key_changes_with_the_images(photos: Path) -> None:
    key = folder_source(photos).key
    assert folder_source(photos).key == key
    os.utime(photos / "cats" / "01.png", ns=(0, 0))
    assert folder_source(photos).key != key


def test_refused_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, message in {"none": "no such folder", "empty": "no images in", "file": "is a file"}.items():
        with pytest.raises(InputError, match=message) as caught:
            folder_source(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)

    def denied(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match="no permission to list"):
        folder_source(tmp_path / "empty")


def test_path_lists_keep_any_name() -> None:
    names = ["a b.png", "naïve 空.jpg", os.fsdecode(b"latin-\xe9.png"), ""]
    paths = PathList(names)
    assert list(paths) == names
    assert paths[-1] == ""
    assert paths[1:3] == names[1:3]
    assert list(pickle.loads(pickle.dumps(paths))) == names
    with pytest.raises(IndexError):
        paths[4]


def test_anything_that_holds_images_is_a_source(photos: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    listed = as_source([str(file) for file in files])
    assert isinstance(listed, FileSource)
    assert listed.image(0).size == folder_source(photos / "cats").image(0).size
    assert len(as_source(np.zeros((3, 8, 8), np.uint8))) == 3
    assert as_source(np.full((3, 8, 8, 1), 7, np.uint8)).image(2).getpixel((0, 0)) == 7
    for wrong in (np.zeros((3, 8, 8)), np.zeros((8, 8), np.uint8), 5):
        with pytest.raises(InputError):
            as_source(wrong)
    with pytest.raises(InputError, match="3 images but 2 labels"):
        ArraySource(np.zeros((3, 8, 8), np.uint8), np.zeros(2))


def test_splits_share_class_ids(tmp_path: Path) -> None:
    for place in ("train/ant", "train/bee", "train/cat", "val/bee", "val/cat"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("L", (2, 2)).save(tmp_path / place / "1.png")
    for name in ("imagenet21k", "imagenet", "class_folders"):
        splits = open_sources(name, tmp_path)
        assert list(splits) == ["train", "test"]
        assert splits["test"].labels is not None
        assert splits["test"].labels.tolist() == [1, 2]
        assert splits["test"].class_names == ["ant", "bee", "cat"]
    (tmp_path / "val" / "dog").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "val" / "dog" / "1.png")
    with pytest.raises(InputError, match="has a class 'dog'"):
        open_sources("imagenet21k", tmp_path)
    with pytest.raises(InputError, match="has no folder train"):
        open_sources("class_folders", tmp_path / "val")
    with pytest.raises(InputError, match=r"data=imagenet21k needs data\.path"):
        open_sources("imagenet21k")


def test_tar_shards_are_read_in_place(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0000.tar", {"a.png": png(1), "a.cls": b"3", "b.cls": b"4", "b.png": png(2)})
    write_tar(tmp_path / "train-0001.tar", {"c.png": png(3), "c.json": b'{"label": 5}', "readme.txt": b"no image"})
    write_tar(tmp_path / "val-0000.tar", {"d.png": png(9)})
    splits = tar_sources(tmp_path)
    train = splits["train"]
    assert [train.image(i).getpixel((0, 0)) for i in range(len(train))] == [1, 2, 3]
    assert train.labels is not None
    assert train.labels.tolist() == [3, 4, 5]
    assert train.path(2) == "train-0001.tar/c.png"
    assert splits["test"].labels is None
    braces = tar_sources(str(tmp_path / "train-{0000..0001}.tar"))
    assert len(braces["train"]) == 3
    assert len(tar_sources(str(tmp_path / "train-*.tar"))["train"]) == 3


def test_refused_tar_shards(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w:gz"):
        pass
    with pytest.raises(InputError, match="must be uncompressed"):
        tar_sources(tmp_path)
    with pytest.raises(InputError, match=r"no such tar file: .*x-0002\.tar"):
        tar_sources(str(tmp_path / "x-{0002..0003}.tar"))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"stands for 100000000 tar files, 100000 are the most"):
        tar_sources(str(tmp_path / "x-{00000000..99999999}.tar"))
    with pytest.raises(InputError, match=r"no \.tar files"):
        tar_sources(tmp_path / "none")


def test_a_tar_cut_after_it_was_indexed_loses_single_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.png": png(1), "b.png": png(2)})
    source = tar_sources(str(tmp_path / "a.tar"))["train"]
    os.truncate(tmp_path / "a.tar", 1600)
    assert source.image(0).getpixel((0, 0)) == 1
    with pytest.raises(UnreadableImageError, match="the tar file ends inside it"):
        source.image(1)


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    rows = {"img": [{"bytes": png(1), "path": None}, {"bytes": png(2), "path": None}], "label": [1, 0]}
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(str(tmp_path / "set"))
    splits = open_sources("huggingface", tmp_path / "set")
    assert list(splits) == ["train", "test"]
    assert splits["train"].image(1).getpixel((0, 0)) == 2
    assert splits["train"].labels is not None
    assert splits["train"].labels.tolist() == [1, 0]


def test_torchvision_sets_name_classes_that_exist() -> None:
    from torchvision import datasets

    for recipe in RECIPES.values():
        assert hasattr(datasets, recipe.cls)


def test_cifar_is_read_from_torchvisions_files(tmp_path: Path) -> None:
    # What torchvision checks is a digest of the real archive, so its reader is replaced, and nothing of ours.
    import torchvision.datasets as tv

    class Fake(tv.VisionDataset):
        classes = ("plane", "car")

        def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
            super().__init__(root)
            self.targets = [0, 1, 1] if train else [1]

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.new("RGB", (2, 2), (index, 0, 0)), self.targets[index]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tv, "CIFAR10", Fake)
        splits = open_sources("cifar10", tmp_path)
    train = splits["train"]
    assert train.labels is not None
    assert (train.labels.tolist(), train.class_names) == ([0, 1, 1], ["plane", "car"])
    assert train.image(2).getpixel((0, 0)) == (2, 0, 0)
    assert len(splits["test"]) == 1


def served_by(monkeypatch: pytest.MonkeyPatch, name: str, labels: list[int], **more: object) -> None:
    """Put a data set of one-pixel images in the place of torchvision's."""
    import torchvision.datasets as tv

    class Fake(tv.VisionDataset):
        def __init__(self, root: str, **options: object) -> None:
            super().__init__(root)
            self.targets = labels
            self.__dict__.update(more)

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.new("RGB", (1, 1), (index % 256, index // 256, 0)), self.targets[index]

    monkeypatch.setattr(tv, name, Fake)


def test_cifar20_is_cifar100_by_its_superclasses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = [f"class {number}" for number in range(100)]
    served_by(monkeypatch, "CIFAR100", list(range(100)), classes=classes)
    fine, coarse = open_sources("cifar100", tmp_path)["test"], open_sources("cifar20", tmp_path)["test"]
    assert fine.labels is not None
    assert coarse.labels is not None
    assert coarse.class_names is not None
    assert (len(fine.class_names or ()), len(coarse.class_names)) == (100, 20)
    assert np.bincount(coarse.labels).tolist() == [5] * 20
    # Krizhevsky's table: apples are fruit, beavers aquatic mammals, wolves large carnivores, worms invertebrates.
    named = {fine_id: coarse.class_names[coarse.labels[fine_id]] for fine_id in (0, 4, 97, 99)}
    assert named == {
        0: "fruit and vegetables", 4: "aquatic mammals", 97: "large carnivores", 99: "non-insect invertebrates",
    }  # fmt: skip


def test_eurosat_has_the_test_split_of_the_zero_shot_papers_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.model_selection import train_test_split

    labels = np.repeat(np.arange(10), [300, 300, 300, 250, 250, 200, 250, 300, 250, 300])
    served_by(monkeypatch, "EuroSAT", labels.tolist())
    splits = open_sources("eurosat", tmp_path)
    train, test = splits["train"], splits["test"]
    _, expected = train_test_split(np.arange(2700), test_size=0.15, random_state=0, stratify=labels)
    seen = [(red + 256 * green) for red, green, _ in (test.image(i).getpixel((0, 0)) for i in range(len(test)))]
    assert seen == sorted(expected)
    assert train.labels is not None
    assert test.labels is not None
    assert (len(train), len(test)) == (2295, 405)
    np.testing.assert_array_equal(test.labels, labels[seen])
    assert np.bincount(test.labels).max() / np.bincount(test.labels).min() == 1.5  # ρ of the talk's table


def test_imagenets_own_archives_name_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [(str(tmp_path / "val" / "n01440764" / f"ILSVRC2012_val_0000029{n}.JPEG"), 0) for n in (3, 4)]
    served_by(monkeypatch, "ImageNet", [0, 0], samples=files, classes=[("tench", "Tinca tinca")])
    test = open_sources("imagenet", tmp_path)["test"]
    assert test.path(1) == "val/n01440764/ILSVRC2012_val_00000294.JPEG"
    assert real_label_sets([test.path(0)]).ids.tolist() == [0]
    assert test.class_names == ["tench, Tinca tinca"]


def test_missing_sets_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown data set 'cifar11'"):
        open_sources("cifar11")
    with pytest.raises(InputError, match=r"data=lsun needs data\.path"):
        open_sources("lsun")
    with pytest.raises(InputError, match="no such folder"):
        open_sources("stl10", tmp_path / "nowhere")
    with pytest.raises(InputError, match="stanford_cars cannot be read from"):
        open_sources("stanford_cars", tmp_path)


def test_fashion_mnist_files(tmp_path: Path) -> None:
    images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", np.array([9, 0], dtype=np.uint8))
    splits = open_sources("fashion_mnist", tmp_path)
    assert np.array_equal(np.asarray(splits["test"].image(1)), images[1])
    assert splits["train"].labels is not None
    assert splits["train"].labels.tolist() == [9, 0]
    (tmp_path / "cut.gz").write_bytes((tmp_path / "t10k-images-idx3-ubyte.gz").read_bytes()[:-20])
    with pytest.raises(InputError, match="fetch it again"):
        idx.read_idx(tmp_path / "cut.gz")


def test_images_of_formats_that_are_not_read_are_counted_and_named(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the plugin that reads HEIC is missing.
    monkeypatch.setattr("deepclust.extraction.image_source.UNREAD", frozenset({".heic", ".dng"}))
    monkeypatch.setattr("deepclust.extraction.image_source.SUFFIXES", frozenset({".png", ".jpg", ".jpeg"}))
    before = len(folder_source(photos))
    for name in ("a.HEIC", "b.heic", "c.dng", "notes.txt"):
        (photos / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"left out 2 \.heic, 1 \.dng \(such as a\.HEIC"):
        assert len(folder_source(photos)) == before
    (photos.parent / "heic").mkdir()
    (photos.parent / "heic" / "a.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no images in .*left out 1 \.heic .*deepclust\[photos\]"):
        folder_source(photos.parent / "heic")


@pytest.mark.parametrize(
    "suffix", [".gif", ".tiff", pytest.param(".avif", marks=pytest.mark.skipif(not READS_AVIF, reason="no AVIF"))]
)
def test_images_of_phones_and_of_the_web_are_read(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (32, 24), (200, 30, 30)).save(tmp_path / f"a{suffix}")
    source = folder_source(tmp_path)
    assert len(source) == 1
    red, green, _ = np.asarray(read_image(tmp_path / f"a{suffix}").convert("RGB"))[12, 16]
    assert red > 150 > 90 > green
