from __future__ import annotations

import json
import multiprocessing
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.distributed import run as torchrun

import deepclust.extraction.extract as extract_module
from deepclust.extraction.encoder_catalog import encoder_spec
from deepclust.extraction.encoders import Encoder, load_encoder
from deepclust.extraction.extract import cached_features, extract
from deepclust.extraction.image_source import ArraySource, folder_source
from deepclust.extraction.shard_plan import ShardPlan
from deepclust.features.dataset import Clustered
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError

ROOT = Path(__file__).parents[2]

# A server that has imported everything, from which each process to be killed is forked: importing takes seconds.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["deepclust.extraction.extract", "timm"])


def slow_extraction(out: Path, options: dict) -> None:
    """Make 12 shards of 64 images at a pace that leaves time to be killed."""

    class Slow(ArraySource):
        def image(self, index: int, **_: object) -> Image.Image:
            time.sleep(0.002)
            return super().image(index)

    extract(Slow(NOISE), options, out, device="cpu", images_per_shard=64, batch_size=8, workers=0, progress=False)


NOISE = np.random.default_rng(0).integers(0, 255, (750, 20, 20, 3), dtype=np.uint8)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def images(n: int = 150) -> ArraySource:
    rng = np.random.default_rng(0)
    return ArraySource(rng.integers(0, 255, (n, 20, 20, 3), dtype=np.uint8), rng.integers(0, 5, n), list("abcde"))


def slow_process(out: Path, options: dict) -> Any:
    process = SERVER.Process(target=slow_extraction, args=(out, options))
    process.start()
    return process


def test_features_labels_and_provenance_come_back(tmp_path: Path, tiny_encoder: Encoder) -> None:
    source = images()
    features = extract(source, tiny_encoder, tmp_path, images_per_shard=64, progress=False)
    assert isinstance(features, FeatureSet)
    assert features.features.shape == (150, tiny_encoder.dim)
    assert features.features.dtype == np.float16
    assert source.labels is not None
    assert (features.labels == source.labels).all()
    assert features.class_names == list("abcde")
    assert features.paths is not None
    assert features.paths[149] == "149"
    assert [shard["rows"] for shard in features.manifest["shards"]] == [64, 64, 22]
    for key in ("encoder", "weights", "transform", "versions", "source"):
        assert features.manifest[key]
    assert not (tmp_path / ".progress").exists()


def test_an_image_has_the_same_feature_wherever_it_stands(tmp_path: Path, tiny_encoder: Encoder) -> None:
    source = images()
    order = np.random.default_rng(1).permutation(len(source))
    straight = extract(source, tiny_encoder, tmp_path / "a", progress=False)
    permuted = extract(ArraySource(source.images[order]), tiny_encoder, tmp_path / "b", progress=False)
    assert np.array_equal(straight.features[:][order], permuted.features[:])


def test_bytes_do_not_depend_on_workers(tmp_path: Path, tiny_encoder: Encoder) -> None:
    for workers in (0, 1, 2):
        extract(images(), tiny_encoder, tmp_path / str(workers), workers=workers, images_per_shard=50, progress=False)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.slow
def test_killed_three_times_the_result_is_byte_identical(tmp_path: Path, tiny_options: dict) -> None:
    whole = ArraySource(NOISE)
    extract(whole, tiny_options, tmp_path / "whole", device="cpu", images_per_shard=64, batch_size=8, progress=False)
    chance = random.Random()
    out = tmp_path / "killed"
    for shards_before_kill in (1, 4, 7):
        process = slow_process(out, tiny_options)
        while len(list(out.glob(".progress/shard-*.json"))) < shards_before_kill:
            assert process.is_alive(), "finished before it could be killed"
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        assert not (out / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("features-*.npy")}
    last = slow_process(out, tiny_options)
    last.join()
    assert last.exitcode == 0
    assert contents(out) == contents(tmp_path / "whole")
    # Resumed, not done again: all shards but perhaps the one whose record was missing.
    assert sum(path.stat().st_mtime_ns == time for path, time in kept.items()) >= len(kept) - 1


def test_a_shard_damaged_between_runs_is_made_again(tmp_path: Path, tiny_encoder: Encoder) -> None:
    class Failing(ArraySource):
        fails = True

        def image(self, index: int, **options: object) -> Image.Image:
            if self.fails and index == 120:
                raise KeyboardInterrupt
            return super().image(index)

    source = Failing(images().images)
    with pytest.raises(KeyboardInterrupt):
        extract(source, tiny_encoder, tmp_path / "a", images_per_shard=32, batch_size=4, workers=0, progress=False)
    shard = tmp_path / "a" / "features-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    source.fails = False
    extract(source, tiny_encoder, tmp_path / "a", images_per_shard=32, batch_size=4, workers=0, progress=False)
    extract(source, tiny_encoder, tmp_path / "b", images_per_shard=32, batch_size=4, workers=0, progress=False)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.slow
def test_two_ranks_of_torchrun_write_the_bytes_of_one(
    start_process: Any, tmp_path: Path, photos: Path, tiny_weights: Path
) -> None:
    (photos / "cats" / "broken.jpg").write_text("no image")
    arguments = [
        "extract", "data=folder", f"data.path={photos}", "data.labels=folders", "encoder=timm", "encoder.name=tiny",
        "encoder.model=test_resnet", f"encoder.checkpoint={tiny_weights}", "encoder.image_size=32",
        "images_per_shard=3", "device=cpu", "batch_size=4",
    ]  # fmt: skip
    launch = (torchrun.__file__, "--standalone", "--nproc-per-node=2", "-m", "deepclust")
    one = start_process(*arguments, "out=one")
    two = start_process(*launch, *arguments, "out=two")
    for process in (one, two):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert len(contents(tmp_path / "one" / "train")) == 8
    assert contents(tmp_path / "one" / "train") == contents(tmp_path / "two" / "train")


def slurm(rank: int) -> dict[str, str]:
    """What srun tells the second step's two tasks of one machine."""
    numbers = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_STEP_NUM_TASKS": 2, "SLURM_STEP_NUM_NODES": 1}
    return {name: str(value) for name, value in numbers.items()}


@pytest.mark.slow
def test_two_tasks_of_srun_see_each_other_and_write_the_bytes_of_one(
    start_process: Any, tmp_path: Path, photos: Path, tiny_weights: Path, tiny_encoder: Encoder
) -> None:
    arguments = [
        "extract", "data=folder", f"data.path={photos}", "encoder=timm", "encoder.name=tiny",
        "encoder.model=test_resnet",
        f"encoder.checkpoint={tiny_weights}", "encoder.image_size=32", "images_per_shard=3", "device=cpu", "out=two",
    ]  # fmt: skip
    tasks = [start_process(*arguments, **slurm(rank)) for rank in (0, 1)]
    said = [task.communicate(timeout=120) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert [out.count("12 × ") for out, _ in said] == [1, 0]  # the first speaks
    alone = extract(photos, tiny_encoder, tmp_path / "one", images_per_shard=3, progress=False)
    together = load_features(tmp_path / "two" / "train")
    assert np.array_equal(together.features[:], alone.features[:])
    assert together.paths == alone.paths


def test_a_task_makes_its_share_and_does_not_wait_for_ever_for_one_that_has_ended(
    tmp_path: Path, photos: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in slurm(1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(extract_module, "STALLED_SECONDS", 0.1)
    with pytest.raises(InputError, match=r"has 2 of 4 shards, and none has come for .*: another rank has ended"):
        extract(photos, tiny_encoder, tmp_path / "two", images_per_shard=3, progress=False)
    assert sorted(path.name for path in (tmp_path / "two").glob("features-*")) == [
        "features-00001.npy",
        "features-00003.npy",
    ]


def test_unreadable_images_are_left_out_and_listed(
    tmp_path: Path, photos: Path, tiny_encoder: Encoder, capsys: pytest.CaptureFixture
) -> None:
    whole = extract(photos, tiny_encoder, tmp_path / "whole", progress=False)
    first = photos / "cats" / "01.png"
    (photos / "cats" / "00 cut.png").write_bytes(first.read_bytes()[:200])
    (photos / "dogs" / "naïve 空.jpg").touch()
    (photos / os.fsdecode(b"latin-\xe9.png")).symlink_to("nowhere")
    features = extract(photos, tiny_encoder, tmp_path / "some", progress=False)
    assert features.paths == whole.paths
    assert np.array_equal(features.features[:], whole.features[:])
    skipped = features.manifest["skipped"]
    assert skipped["count"] == 3
    reasons = {entry["path"]: entry["reason"] for entry in skipped["images"]}
    assert "truncated" in reasons["cats/00 cut.png"]
    assert reasons["dogs/naïve 空.jpg"] == "empty file (0 bytes)"
    assert reasons["latin-\\xe9.png"] == "broken symbolic link"
    error = capsys.readouterr().err
    assert error.count("warning:") == 1
    assert "3 of 15 images cannot be read" in error


def test_on_error_raise_names_the_image(tmp_path: Path, photos: Path, tiny_encoder: Encoder) -> None:
    (photos / "cats" / "empty.jpg").touch()
    with pytest.raises(InputError, match=r"cats/empty\.jpg of .* cannot be read \(empty file \(0 bytes\)\)"):
        extract(photos, tiny_encoder, tmp_path / "out", on_error="raise", progress=False)


def test_nothing_readable_is_refused(tmp_path: Path, tiny_encoder: Encoder) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(InputError, match="none of the 1 images"):
        extract(tmp_path / "photos", tiny_encoder, tmp_path / "out", progress=False)


def test_a_shard_without_a_readable_image_leaves_no_file(tmp_path: Path, photos: Path, tiny_encoder: Encoder) -> None:
    for path in (photos / "cats").iterdir():
        path.write_bytes(b"")
    features = extract(photos, tiny_encoder, tmp_path / "out", images_per_shard=3, progress=False)
    assert [shard["file"] for shard in features.manifest["shards"]] == ["features-00002.npy", "features-00003.npy"]
    assert len(features) == 6


def test_features_made_otherwise_are_not_mixed(tmp_path: Path, tiny_encoder: Encoder, tiny_options: dict) -> None:
    extract(images(), tiny_encoder, tmp_path, progress=False)
    other = load_encoder({**tiny_options, "image_size": 64}, device="cpu")
    with pytest.raises(InputError, match=r"transform\.image_size is 32, now 64; give out=FOLDER elsewhere, or over"):
        extract(images(), other, tmp_path, progress=False)
    with pytest.raises(InputError, match=r"source\.key"):
        extract(images(10), tiny_encoder, tmp_path, progress=False)
    assert len(extract(images(10), tiny_encoder, tmp_path, overwrite=True, progress=False)) == 10


def test_a_finished_folder_is_not_made_again(tmp_path: Path, tiny_encoder: Encoder) -> None:
    extract(images(), tiny_encoder, tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    extract(images(), tiny_encoder, tmp_path, images_per_shard=10, progress=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_the_cache_follows_the_images(tmp_path: Path, photos: Path, tiny_options: dict) -> None:
    spec = encoder_spec(tiny_options)
    first = cached_features(folder_source(photos), spec, tmp_path / "cache")
    again = cached_features(folder_source(photos, labels="folders"), spec, tmp_path / "cache")
    assert again.root == first.root
    assert first.labels is None
    assert again.class_names == ["cats", "dogs"]
    assert again.labels is not None
    assert again.labels.tolist() == [0] * 6 + [1] * 6
    assert first.files is not None
    assert all(file.is_file() for file in first.files)
    Image.new("RGB", (9, 9)).save(photos / "new.png")
    assert len(cached_features(folder_source(photos), spec, tmp_path / "cache")) == 13


def test_of_a_folder_that_has_changed_a_run_has_its_own_images(
    tmp_path: Path,
    photos: Path,
    tiny_options: dict,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    spec, cache = encoder_spec(tiny_options), tmp_path / "cache"
    first = cached_features(folder_source(photos), spec, cache)
    clustered = Clustered(first.fingerprint(times=False), 12)
    assert cached_features(folder_source(photos), spec, cache, clustered=clustered).root == first.root
    Image.new("RGB", (9, 9)).save(photos / "cats" / "new.png")
    with monkeypatch.context() as never:
        never.setattr("deepclust.extraction.extract.extract", None)
        never.setattr("deepclust.extraction.extract.load_encoder", None)
        again = cached_features(folder_source(photos, labels="folders"), spec, cache, clustered=clustered)
        assert "(13 images now): what follows is of the 12 of that time" in capsys.readouterr().err
        assert (again.root, again.labels.tolist()) == (first.root, [0] * 6 + [1] * 6)
        with pytest.raises(InputError, match="13 images, 12 were clustered, and their features are no longer in"):
            cached_features(folder_source(photos), spec, cache, clustered=Clustered("of others", 12))
    # The new ones have features as well by now: the run's own are still meant.
    assert len(cached_features(folder_source(photos), spec, cache)) == 13
    assert len(cached_features(folder_source(photos), spec, cache, clustered=clustered)) == 12
    (photos / "cats" / "new.png").unlink()
    (photos / again.paths[0]).unlink()
    with pytest.raises(InputError, match="any more, so its label is not known"):
        cached_features(folder_source(photos, labels="folders"), spec, cache, clustered=clustered)


def test_two_that_want_the_same_features_at_once_extract_once(
    tmp_path: Path, photos: Path, tiny_options: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made: list[int] = []
    real, go_on = ShardPlan.finish_shard, threading.Event()

    def waits(self: ShardPlan, shard: int, *arguments: Any) -> None:
        made.append(shard)
        assert go_on.wait(30)
        real(self, shard, *arguments)

    monkeypatch.setattr(ShardPlan, "finish_shard", waits)
    spec, out, deadline = encoder_spec(tiny_options), "", time.monotonic() + 30
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(cached_features, folder_source(photos), spec, tmp_path / "cache") for _ in range(2)]
        while "extracting features: another process is doing this already" not in out and time.monotonic() < deadline:
            time.sleep(0.01)
            out += capsys.readouterr().out
        go_on.set()
        found = [future.result(60) for future in running]
    assert made == [0]
    assert out.count("waiting for its result") == 1
    np.testing.assert_array_equal(np.asarray(found[0].features), np.asarray(found[1].features))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, photos: Path, tiny_options: dict) -> None:
    (tmp_path / "cache").write_text("a file stands where the cache would be")
    with pytest.raises(InputError, match=r"cannot write to .*cache \(File exists\): give features_dir=FOLDER"):
        cached_features(folder_source(photos), encoder_spec(tiny_options), tmp_path / "cache")


def test_float32_is_kept_when_asked_for(tmp_path: Path, tiny_encoder: Encoder) -> None:
    half = extract(images(8), tiny_encoder, tmp_path / "a", progress=False)
    full = extract(images(8), tiny_encoder, tmp_path / "b", dtype="float32", progress=False)
    assert full.features.dtype == np.float32
    assert np.array_equal(full.features[:].astype(np.float16), half.features[:])


def test_the_manifest_is_plain_json(tmp_path: Path, tiny_encoder: Encoder) -> None:
    extract(images(8), tiny_encoder, tmp_path, progress=False)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"]["kind"] == "array"
    assert load_features(tmp_path).manifest == manifest


def test_of_two_calls_for_one_folder_one_extracts_and_the_other_waits(tmp_path, tiny_encoder, locked_elsewhere, capsys):
    expected = extract(images(40), tiny_encoder, tmp_path / "made", progress=False).features[:]
    other = locked_elsewhere(tmp_path / ".made.lock")
    found: list[FeatureSet] = []
    waiting = threading.Thread(
        target=lambda: found.append(extract(images(40), tiny_encoder, tmp_path / "made", progress=False))
    )
    waiting.start()
    time.sleep(0.3)
    assert found == []
    other.kill()
    waiting.join(30)
    np.testing.assert_array_equal(found[0].features[:], expected)
    assert capsys.readouterr().out.count("another process is doing this already, waiting for its result") == 1


def test_files_of_features_are_no_images_to_extract(command):
    outcome = command("extract", "data=folder", "data.path=photos", "data.train=X.npy")
    assert outcome.code == 2
    assert outcome.error_line == "error: data.train is for data=features: images lie in data.path"
