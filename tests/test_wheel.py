"""What `pip install` brings works without the clone: a wheel in an environment of its own, run from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepclust import __version__

ROOT = Path(__file__).resolve().parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy of what git tracks, so that the build leaves nothing in the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*PIP, "wheel", "--no-deps", "--wheel-dir", folder, folder / "source"], check=True)
    (built,) = folder.glob("deepclust-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The `deepclust` command of a fresh environment; the dependencies are those of this one."""
    folder = wheel.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    return folder / "bin" / "deepclust"


def tracked() -> list[str]:
    """What git tracks of the package and what is needed to build it."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in files.splitlines() if name.startswith(("deepclust/", "conf/")) or "/" not in name]


def run(command: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DEEPCLUST")}
    # On this path .pth files do nothing, so the clone that is installed in this environment is not found.
    environment |= {"PYTHONPATH": sysconfig.get_paths()["purelib"], "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([command, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_wheel_holds_every_file_of_the_package_and_every_configuration(wheel):
    """The papers' figures, the page's scripts, the recipes by data set: what code reads is there."""
    of_package = {name for name in tracked() if name.startswith("deepclust/") and (ROOT / name).is_file()}
    of_conf = {f"deepclust/{name}" for name in tracked() if name.startswith("conf/") and (ROOT / name).is_file()}
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert sorted((of_package | of_conf) - held) == []


@pytest.mark.slow
def test_the_installed_command_clusters_photos_from_an_empty_folder(installed, tmp_path):
    where = run(installed.with_name("python"), tmp_path, "-c", "import deepclust; print(deepclust.__file__)")
    assert str(installed.parents[1]) in where.stdout, where
    assert run(installed, tmp_path, "--version").stdout == f"deepclust {__version__}\n"
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(24):
        colors = rng.integers(0, 60, (32, 32, 3)) + np.array([180, 0, 0] if index % 2 else [0, 0, 180])
        Image.fromarray(colors.astype(np.uint8)).save(tmp_path / "photos" / f"{index:02d}.png")
    photos = run(
        *(installed, tmp_path, "train", "data=folder", "data.path=photos", "n_clusters=2", "n_neighbors=5"),
        *("encoder=efficientnet_lite0", "encoder.image_size=64", "loss=tsp", "baselines=kmeans", "max_epochs=1"),
        *("n_heads=1", "init=kmeans", "run_dir=run", "features_dir=features"),
    )
    assert photos.returncode == 0, photos.stderr
    assert list((tmp_path / "run" / "contact_sheets").iterdir())
    assert list((tmp_path / "features").rglob("manifest.json"))


@pytest.mark.slow
def test_a_users_own_configurations_are_choices_of_the_installed_command(installed, tmp_path):
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "mine.yaml").write_text("defaults: [features, _self_]\ntrain: X.npy\nn_clusters: 3\n")
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    words = ("--config-dir", "mine", "data=mine", "loss=none", "baselines=kmeans", "run_dir=run")
    ended = run(installed, tmp_path, "train", *words)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run" / "results.json").is_file()
