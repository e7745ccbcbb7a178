"""Processes of a Ray cluster make the bytes of one process, also where they die or the command is killed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepclust.extraction import over_ray
from deepclust.extraction.extract import extract
from deepclust.extraction.image_source import ArraySource
from deepclust.extraction.images import UnreadableImageError
from deepclust.features.feature_files import load_features
from deepclust.runtime.errors import InputError

NOISE = np.random.default_rng(0).integers(0, 255, (96, 20, 20, 3), dtype=np.uint8)
SMALL: dict[str, Any] = {"device": "cpu", "images_per_shard": 8, "batch_size": 8, "progress": False}


class Noted(ArraySource):
    """Leaves a file named after each process that reads it, of which the first waits for others to come.

    The one that comes to the fatal image dies, once or always; image 5 is damaged.
    """

    def __init__(self, notes: Path, *, together: int = 1, fatal: int | None = None, always: bool = False) -> None:
        super().__init__(NOISE, np.arange(len(NOISE)) % 3, list("abc"))
        self.notes, self.together, self.fatal, self.always = notes, together, fatal, always

    def image(self, index: int, **options: Any) -> Image.Image:
        (self.notes / f"read by {os.getpid()}").touch()
        while len(list(self.notes.glob("read by *"))) < self.together:
            time.sleep(0.01)
        if index == self.fatal and (self.always or not (self.notes / "died").exists()):
            (self.notes / "died").touch()
            os._exit(1)
        if index == 5:
            raise UnreadableImageError("damaged")
        return super().image(index, **options)


class OnlyHere(ArraySource):
    """Can be read by the process that made it alone, as a folder that other machines do not have."""

    def __init__(self) -> None:
        super().__init__(NOISE)
        self.pid = os.getpid()

    def image(self, index: int, **options: Any) -> Image.Image:
        if os.getpid() != self.pid:
            raise UnreadableImageError("no such file")
        return super().image(index, **options)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Room for two processes of eight cores, whatever this machine has. Its address is in RAY_ADDRESS."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'deepclust[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        context = ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        patch.setenv("RAY_ADDRESS", context.address_info["address"])
        yield ray
        ray.shutdown()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one_and_make_the_shard_of_one_that_died(cluster, tmp_path, tiny_options):
    source = Noted(tmp_path, together=2, fatal=50)
    extract(source, tiny_options, tmp_path / "ray", engine="ray", **SMALL)
    assert (tmp_path / "died").exists()
    extract(source, tiny_options, tmp_path / "local", **SMALL)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert load_features(tmp_path / "ray").manifest["skipped"]["count"] == 1


@pytest.mark.slow
def test_a_shard_that_kills_whoever_makes_it_ends_the_command(cluster, tmp_path, tiny_options):
    with pytest.raises(
        InputError, match=r"3 processes of the Ray cluster died while they made shard 11 \(.*: give them m"
    ):
        extract(Noted(tmp_path, fatal=90, always=True), tiny_options, tmp_path / "out", engine="ray", **SMALL)
    assert len(list((tmp_path / "out").glob("features-*.npy"))) >= 4  # which a later command does not make again


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on(cluster, start_process, tmp_path, photos, tiny_options, tiny_weights):
    words = [
        "extract", "engine=ray", "data=folder", f"data.path={photos}", "encoder=timm", "encoder.name=tiny",
        "encoder.model=test_resnet", f"encoder.checkpoint={tiny_weights}", "encoder.image_size=32",
        "images_per_shard=1", "device=cpu", "batch_size=4", "workers=1", "out=killed",
    ]  # fmt: skip
    out = tmp_path / "killed" / "train"
    first = start_process(*words)
    while len(list(out.glob(".progress/shard-*.json"))) < 3:
        assert first.poll() is None, first.communicate()
        time.sleep(0.001)
    first.kill()
    first.wait()
    assert not (out / "manifest.json").exists()
    made = {path: path.stat().st_mtime_ns for path in out.glob("features-*.npy")}
    said, error = (second := start_process(*words)).communicate(timeout=120)
    assert (second.returncode, said.count("12 × ")) == (0, 1), error
    assert sum(path.stat().st_mtime_ns == when for path, when in made.items()) >= len(made) - 1
    extract(photos, tiny_options, tmp_path / "whole", **{**SMALL, "images_per_shard": 1, "batch_size": 4})
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_images_that_other_machines_do_not_see_are_not_left_out(cluster, tmp_path, tiny_options):
    with pytest.raises(
        InputError, match=r"cannot be read on .* \(no such file\), but it can here: put the images where"
    ):
        extract(OnlyHere(), tiny_options, tmp_path / "out", engine="ray", **SMALL)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
def test_what_is_refused_there_is_refused_here_in_one_line(cluster, tmp_path, tiny_options, photos):
    with pytest.raises(InputError, match=r"^on .*, .*absent\.pth"):
        extract(photos, {**tiny_options, "checkpoint": "absent.pth"}, tmp_path / "a", engine="ray", **SMALL)
    (photos / "cats" / "empty.jpg").touch()
    with pytest.raises(InputError, match=r"cats/empty\.jpg of .* cannot be read \(empty file"):
        extract(photos, tiny_options, tmp_path / "b", engine="ray", on_error="raise", **SMALL)


@pytest.mark.slow
def test_machines_that_would_make_other_features_are_refused(cluster, tmp_path, tiny_options, monkeypatch):
    real = over_ray.RayWorkers.describe

    def other(self: over_ray.RayWorkers) -> dict[str, Any]:
        described = real(self)
        described["encoder"]["precision"] = "bfloat16"
        return described

    monkeypatch.setattr(over_ray.RayWorkers, "describe", other)
    options = {**SMALL, "precision": "float32", "engine": "ray"}
    with pytest.raises(InputError, match=r"encoder\.precision is float32, there bfloat16: make them equal"):
        extract(Noted(tmp_path, together=2), tiny_options, tmp_path / "out", **options)


def test_without_ray_the_remedy_is_named(tmp_path, photos, tiny_options, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        InputError, match=r"engine=ray needs Ray: pip install 'deepclust\[ray\]', or leave engine=local"
    ):
        extract(photos, tiny_options, tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()


def test_what_does_not_go_with_ray_is_refused(tmp_path, photos, tiny_options, tiny_encoder, monkeypatch):
    with pytest.raises(InputError, match=r"device=cuda:1, but engine=ray gives each process its GPU"):
        extract(photos, tiny_options, tmp_path, engine="ray", device="cuda:1")
    with pytest.raises(InputError, match="give a name or a spec, not a loaded one"):
        extract(photos, tiny_encoder, tmp_path, engine="ray")
    with pytest.raises(InputError, match="engine=dask is unknown: one of local, ray"):
        extract(photos, tiny_encoder, tmp_path, engine="dask")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(InputError, match="give the command once, without torchrun or srun"):
        extract(photos, tiny_options, tmp_path, engine="ray")
