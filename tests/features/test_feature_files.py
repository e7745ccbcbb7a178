"""FeatureSet folders and bare files with missing or odd parts: one line that names the part."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import deepclust.features.paths as paths_module
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError

ROWS = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
CLASSES = np.arange(30) % 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder without checksums, as others write it and earlier versions did: it is all in what the parts hold."""
    paths = [f"{row}.png" for row in range(30)]
    own = FeatureSet.from_arrays(ROWS, CLASSES, class_names=list("abc"), paths=paths).save(tmp_path / "own")
    manifest = json.loads((own / "manifest.json").read_text())
    for name in ("checksum", "checksums"):
        del manifest[name]
    manifest["shards"] = [{"file": shard["file"], "rows": shard["rows"]} for shard in manifest["shards"]]
    (own / "manifest.json").write_text(json.dumps(manifest))
    return own


def entry(name: str, value: object) -> Callable[[Path], None]:
    """Another value of an entry of the manifest."""

    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, name: value}))

    return change


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content, errors="surrogateescape") and None


def rows(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


def pipe(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


ONE = {"file": "features-00000.npy", "rows": 30}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (text("manifest.json", "[" * 100_000), "manifest.json is no valid JSON"),
        (text("manifest.json", "null"), "manifest.json: *is None"),
        (text("manifest.json", "\udcff"), "manifest.json is no valid JSON"),
        (entry("format", True), "format is True"),
        (entry("checksums", {}), "manifest.json is not as it was written \\(its own checksum is missing\\)"),
        (entry("n_rows", 29), "says 29 rows, its shards hold 30"),
        (entry("n_rows", "x"), "n_rows is 'x'"),
        (entry("shards", None), "shards is None"),
        (entry("shards", [{}]), "shards is"),
        (entry("shards", []), "holds no features"),
        (entry("shards", [{**ONE, "file": "../X.npy"}]), "a name in this folder"),
        (entry("shards", [{**ONE, "rows": 29}]), "says 30 rows, its shards hold 29"),
        (entry("shards", [{"file": "labels.npy", "rows": 30}]), "labels.npy holds int64"),
        (entry("class_names", "abc"), "class_names is 'abc': it must be a list"),
        (entry("class_names", ["a"]), "go up to 2, but there are 1 class names"),
        (entry("has_labels", "yes"), "has_labels is 'yes'"),
        (entry("encoder", "tiny"), "encoder is 'tiny'"),
        (entry("encoder", {"name": 5}), "encoder.name is 5"),
        (entry("source", {"kind": "files"}), "source is"),
        (entry("reduction", {}), "reduction.note"),
        (text("paths.txt", "[" * 100_000), "paths.txt is no list of paths"),
        (text("paths.txt", "5\n" * 30), "paths.txt is no list of paths"),
        (text("paths.txt", '"a"\n'), "30 rows but 1 paths"),
        (pipe("paths.txt"), "no such file: .*paths.txt"),
        (pipe("labels.npy"), "no such file: .*labels.npy"),
        (rows("labels.npy", CLASSES + 0.5), "labels of .* hold 0.5"),
        (rows("features-00000.npy", ROWS[:, 0]), "holds float32 of shape"),
        (rows("features-00000.npy", ROWS.astype(int)), "holds int64 of shape"),
        (lambda folder: os.truncate(folder / "features-00000.npy", 300), "no readable .npy file, or is truncated"),
    ],
)
def test_a_folder_with_an_odd_part_is_refused_in_one_line(change, message, folder):
    change(folder)
    with pytest.raises(InputError, match=message) as refused:
        load_features(folder)
    assert len(str(refused.value).splitlines()) == 1


def test_paths_are_read_when_one_is_asked_for(tmp_path, monkeypatch):
    paths = [f"{row} \n空.png" for row in range(30)]
    manifest = {"source": {"kind": "files", "root": "/photos"}}
    features = FeatureSet.from_arrays(ROWS, CLASSES, class_names=list("abc"), paths=paths, manifest=manifest)
    features.save(tmp_path / "own")
    monkeypatch.setattr(paths_module, "read_paths", lambda *_: pytest.fail("read"))
    found = load_features(tmp_path / "own")
    some = found.view(CLASSES == 1, CLASSES[CLASSES == 1], list("abc"))
    files = some.files
    assert (len(found.paths), len(some.paths), len(files)) == (30, 10, 10)
    monkeypatch.undo()
    assert found.paths == paths
    assert list(some.paths) == paths[1::3]
    assert (files[2], files[-1]) == (Path("/photos", paths[7]), Path("/photos", paths[28]))
    assert found.select(np.array([3, 1])).paths == [paths[3], paths[1]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:20],
        lambda whole: whole[:10] + b"(" * 118 + whole[128:],
        lambda whole: whole.replace(b"{'descr'", b"__import"),
        lambda whole: whole.replace(b"(30, 4)", b"(-3, 4)"),
        lambda whole: whole.replace(b"(30, 4)", b"(3., 4)"),
        lambda whole: whole.replace(b"'<f4'", b"'|O' "),
        lambda whole: whole[:8] + b"\xff\xff" + whole[10:],
        lambda whole: whole + b"more",
        lambda whole: b"1,2,3\n",
    ],
)
def test_a_damaged_npy_file_is_refused_in_one_line(damage, tmp_path):
    path = tmp_path / "X.npy"
    np.save(path, ROWS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"X\.npy is no readable \.npy file") as refused:
        load_features(path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.from_numpy(ROWS).to_sparse(), "no array of numbers"),
        ({1: torch.from_numpy(ROWS), "b": 2}, "none of them named features or X"),
        ((torch.from_numpy(ROWS), torch.ones(30)), "no array of numbers"),
        ({"features": [torch.ones(3), torch.ones(2)]}, "no array of numbers"),
        ({"features": "abc"}, "has shape"),
        (None, "has shape"),
    ],
)
def test_a_tensor_file_without_a_matrix_is_refused_in_one_line(content, message, tmp_path, recwarn):
    torch.save(content, tmp_path / "X.pt")
    with pytest.raises(InputError, match=message):
        load_features(tmp_path / "X.pt")
    assert not recwarn


def test_a_file_of_labels_without_any_is_refused(folder, tmp_path):
    torch.save(None, tmp_path / "y.pt")
    with pytest.raises(InputError, match=r"labels of .* have shape"):
        load_features(folder, tmp_path / "y.pt")


def test_labels_are_lines_of_a_text_file(tmp_path):
    np.save(tmp_path / "X.npy", np.eye(4, dtype=np.float32))
    (tmp_path / "y.txt").write_bytes(b"cat\r\ndog\r\ncat\r\nowl\r\n")
    found = load_features(tmp_path / "X.npy", tmp_path / "y.txt")
    assert [found.class_names[label] for label in found.labels] == ["cat", "dog", "cat", "owl"]
    (tmp_path / "y.txt").write_text("cat\n\ncat\nowl\n")
    with pytest.raises(InputError, match=r"missing in 1 of 4 rows \(first: row 1\)"):
        load_features(tmp_path / "X.npy", tmp_path / "y.txt")
    (tmp_path / "y.txt").write_text("cat\n")
    with pytest.raises(InputError, match="give one label per row"):
        load_features(tmp_path / "X.npy", tmp_path / "y.txt")


def test_labels_in_a_table_of_their_own_are_refused_in_words_that_help(tmp_path):
    np.save(tmp_path / "X.npy", np.eye(4, dtype=np.float32))
    (tmp_path / "y.csv").write_text("label\ncat\n")
    with pytest.raises(InputError, match=r"data\.columns\.label=NAME"):
        load_features(tmp_path / "X.npy", tmp_path / "y.csv")
