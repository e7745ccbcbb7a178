"""A file that was cut off or of which bits flipped is refused in one line, or made again; never used.

Every artefact is damaged at many places, and what it says afterwards is compared with what it said before.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deepclust.cli.main import run_command
from deepclust.clustering import Clustering
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors.cache import cached_neighbors
from deepclust.neighbors.neighbors import Neighbors
from deepclust.reduction.reduction import Reduction
from deepclust.reduction.splits import reduced_splits
from deepclust.report.tables import read_rows
from deepclust.runs.folder import RunFolder
from deepclust.runs.identity import Identity
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import CHECKSUMS, keep_checksums, read_json, write_json
from deepclust.training.trained import read_saved
from deepclust.zero_shot.cells import CellStore

DATA = ("data=features", "data.train=X.npy", "data.train_labels=y.npy", "n_clusters=3")
SMALL = ("loss=tsp", "n_heads=1", "max_epochs=1", "init=kmeans", "n_neighbors=4", "trainer.accelerator=cpu")
RUN = (*DATA, *SMALL, "baselines=[kmeans]", "reduction=pca", "reduction.dims=4", "silhouette=false")
CUTS, FLIPS = 12, 36


def rows(n: int = 90, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)


def save_data() -> None:
    np.save("X.npy", rows())
    np.save("y.npy", np.arange(90) % 3)


def damaged(content: bytes, seed: int = 0) -> Iterator[bytes]:
    """The content cut off, and with one bit turned, at seeded places; the ends among them."""
    rng = np.random.default_rng(seed)
    for length in {0, 1, len(content) - 1, *rng.integers(1, len(content), CUTS).tolist()}:
        yield content[:length]
    for place in {0, len(content) - 1, *rng.integers(0, len(content), FLIPS).tolist()}:
        turned = bytearray(content)
        turned[place] ^= 1 << int(rng.integers(8))
        yield bytes(turned)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray | torch.Tensor):
        return type(first) is type(second) and np.array_equal(np.asarray(first), np.asarray(second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything that is kept on disk."""
    place = tmp_path_factory.mktemp("artefacts")
    before = Path.cwd()
    os.chdir(place)
    try:
        save_data()
        run_command("train", [*RUN, "run_dir=run"])
        run_command("evaluate", ["run=run", "metrics=[separability]"])
    finally:
        os.chdir(before)
    FeatureSet.from_arrays(rows(), np.arange(90) % 3, paths=[f"{i}.png" for i in range(90)]).save(
        place / "features", shard_bytes=1000
    )
    return place


def features_of(folder: Path) -> Any:
    found = load_features(folder).check()
    return np.asarray(found.features[:]), found.labels, found.paths, found.manifest


READ: dict[str, Callable[[Path], Any]] = {
    "run/config.yaml": lambda path: RunFolder(path.parent).read_config(),
    "run/identity.json": lambda path: vars(Identity.read(path)),
    "run/reduction.json": read_json,
    "run/results.json": read_rows,
    "run/evaluation.json": read_rows,
    "run/evaluation/separability.json": read_json,
    "run/deepclust.sha256": lambda path: read_rows(path.parent / "results.json"),
    "run/checkpoints/tsp.ckpt": read_saved,
    "run/clusterings/tsp.npz": lambda path: vars(Clustering.load(path)),
    "run/clusterings/kmeans.npz": lambda path: vars(Clustering.load(path)),
    "features/manifest.json": lambda path: features_of(path.parent),
    "features/features-00001.npy": lambda path: features_of(path.parent),
    "features/labels.npy": lambda path: features_of(path.parent),
    "features/paths.txt": lambda path: features_of(path.parent),
}


@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_is_refused_in_one_line(name, artefacts):
    path, read = artefacts / name, READ[name]
    content, before = path.read_bytes(), read(artefacts / name)
    refusals = []
    try:
        for number, spoiled in enumerate(damaged(content)):
            path.write_bytes(spoiled)
            try:
                assert same(read(path), before), f"case {number} was read as something else"
            except InputError as error:
                refusals.append(str(error))
    finally:
        path.write_bytes(content)
    # What is left are bits that nobody reads: dates in an archive, checksums of other files, padding.
    assert len(refusals) >= (0 if name.endswith("sha256") else CUTS)
    assert all("\n" not in line and str(artefacts) in line for line in refusals)
    assert same(read(path), before)


def test_damaged_neighbors_and_reductions_are_made_again(tmp_path, capsys):
    features = FeatureSet.from_arrays(rows())

    def neighbors() -> Any:
        found = cached_neighbors(features, 5, cache_dir=tmp_path / "neighbors")
        return found.ids, found.similarities

    def reduced() -> Any:
        found = reduced_splits(Reduction("pca", dims=3), {"train": features}, cache_dir=tmp_path / "reduced")["train"]
        return np.array(found.features[:])  # a copy: its file is written over

    for make, pattern, told in (
        (neighbors, "neighbors/*.npz", "mined again"),
        (reduced, "reduced/*/*/features-*.npy", "reduced again"),
        (reduced, "reduced/*/*/manifest.json", "reduced again"),
    ):
        before = make()
        (path,) = tmp_path.glob(pattern)
        repaired = 0
        for spoiled in damaged(path.read_bytes()):
            path.write_bytes(spoiled)
            capsys.readouterr()
            assert same(make(), before)
            lines = capsys.readouterr().out.splitlines()
            assert len(lines) <= 1
            repaired += [line.endswith(told) for line in lines] == [True]
        assert repaired >= CUTS


def test_neighbors_of_other_samples_are_mined_again(tmp_path, capsys):
    features = FeatureSet.from_arrays(rows())
    before = cached_neighbors(features, 5, cache_dir=tmp_path)
    (path,) = tmp_path.glob("*.npz")
    outside = before.ids.copy()
    outside[3, 2] = 1_000_000
    for ids in (outside, -before.ids - 1, before.ids[:50] % 50, before.ids[0], before.ids.astype(float)):
        Neighbors(ids, np.zeros(ids.shape, np.float32)).save(path)
        np.testing.assert_array_equal(cached_neighbors(features, 5, cache_dir=tmp_path).ids, before.ids)
        assert capsys.readouterr().out.count("mined again") == 1


def test_damaged_cells_of_the_protocol_are_made_again(tmp_path, capsys):
    keep_checksums(tmp_path)
    store, row = CellStore(tmp_path), {"reason": "", "ami": 0.734, "n_found": 10}
    cell: Any = SimpleNamespace(dataset="a", encoder="b", clusterer="c", key=lambda data: "d")
    data: Any = None
    write_json(store.path(cell, data), row)
    assert store.read(cell, data) == row
    content = store.path(cell, data).read_bytes()
    for spoiled in damaged(content):
        store.path(cell, data).write_bytes(spoiled)
        assert store.read(cell, data) is None
        assert capsys.readouterr().out.count("made again") == 1


def test_swapped_shards_are_refused(artefacts, tmp_path):
    folder = tmp_path / "features"
    shutil.copytree(artefacts / "features", folder)
    first, second = folder / "features-00000.npy", folder / "features-00001.npy"
    first.rename(folder / "other")
    second.rename(first)
    (folder / "other").rename(second)
    with pytest.raises(InputError, match=r"features-00000\.npy is not the shard that its manifest tells of"):
        load_features(folder)


def test_a_damaged_clustering_is_made_again_by_the_run_that_is_resumed(artefacts, tmp_path, command):
    shutil.copytree(artefacts / "run", "run")
    save_data()
    before = Clustering.load("run/clusterings/kmeans.npz").labels
    Path("run/clusterings/kmeans.npz").write_bytes(b"PK\x03\x04 cut off")
    outcome = command("train", *RUN, "resume=run")
    assert outcome.code == 0, outcome.err
    assert "kmeans.npz is no readable .npz file" in outcome.out
    np.testing.assert_array_equal(Clustering.load("run/clusterings/kmeans.npz").labels, before)


def test_a_config_that_was_cut_off_is_not_evaluated_with_defaults(artefacts, command):
    shutil.copytree(artefacts / "run", "run")
    config = Path("run/config.yaml")
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(lines[: len(lines) // 2]))
    outcome = command("evaluate", "run=run")
    assert outcome.code == 2
    assert "config.yaml is not as it was written" in outcome.error_line


def test_verify_names_what_is_damaged(artefacts, tmp_path, command):
    shutil.copytree(artefacts, tmp_path / "all")
    whole = command("verify", "all", "all/features")
    assert (whole.code, whole.err) == (0, "")
    assert whole.out.splitlines()[-1] == "all/features: 6 files compared with their checksums"
    for name in ("run/results.md", "run/clusterings/tsp.npz", "features/features-00002.npy"):
        path = tmp_path / "all" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    (tmp_path / "all" / "run" / "results.json").unlink()
    outcome = command("verify", "all")
    assert outcome.code == 2
    assert outcome.error_line == "error: 3 files are damaged: restore from a copy, or remove and make again"
    for told in ("features-00002.npy ", "results.md is not", "tsp.npz is not", "results.json was removed"):
        assert told in outcome.out
    for wrong, told in ((".", "holds nothing of deepclust"), ("nowhere", "no such folder")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        outcome = command("verify", "empty" if wrong == "." else wrong)
        assert outcome.code == 2
        assert told in outcome.error_line


def test_a_copy_of_a_run_is_whole_and_old_runs_have_no_checksums(tmp_path, command):
    shutil.copytree(Path(__file__).parents[1] / "cli" / "run_of_0_1_0", tmp_path / "old")
    outcome = command("verify", "old")
    assert (outcome.code, outcome.err) == (0, "")
    assert "old: 0 files compared with their checksums, 6 without one can be read" in outcome.out
    assert json.loads((tmp_path / "old" / "results.json").read_text())


def test_verify_wants_a_folder_and_says_so_in_one_line(command):
    for words in ((), ("",), ("--fast", "run")):
        outcome = command("verify", *words)
        assert outcome.code == 2
        assert outcome.error_line.startswith("error: ")


def test_a_pipe_in_the_place_of_the_checksums_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / CHECKSUMS)
    signal.alarm(20)  # ends the tests, if it is opened after all
    try:
        with pytest.raises(InputError, match="is no file: remove it"):
            keep_checksums(tmp_path)
    finally:
        signal.alarm(0)
