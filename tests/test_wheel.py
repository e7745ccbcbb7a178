"""What `pip install` brings works without the clone: a wheel in an environment of its own, run from an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepclust import __version__

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `deepclust` command of a fresh environment; the dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy of what git tracks: the build leaves nothing in the clone.
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in (name for name in files if name.startswith(("deepclust/", "conf/")) or "/" not in name):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, folder / "source"], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    (wheel,) = folder.glob("deepclust-*.whl")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, *pip[1:], "install", "--no-deps", "--no-index", wheel], check=True)
    return folder / "venv" / "bin" / "deepclust"


def run(command: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DEEPCLUST")}
    # On this path .pth files do nothing, so the clone that is installed in this environment is not found.
    environment |= {"PYTHONPATH": sysconfig.get_paths()["purelib"], "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([command, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_installed_command_clusters_digits_and_photos_from_an_empty_folder(installed, tmp_path):
    where = run(installed.with_name("python"), tmp_path, "-c", "import deepclust; print(deepclust.__file__)")
    assert str(installed.parents[1]) in where.stdout, where
    assert run(installed, tmp_path, "--version").stdout == f"deepclust {__version__}\n"
    short = ("loss=tsp", "baselines=kmeans", "max_epochs=1", "n_heads=1", "init=kmeans")
    digits = run(installed, tmp_path, "train", *short, "run_dir=digits")
    assert digits.returncode == 0, digits.stderr
    assert (tmp_path / "digits" / "results.json").is_file()
    # The papers' figures and the recipes by data set are in the wheel.
    compared = run(installed, tmp_path, "summarize", "digits", "--published")
    assert (compared.returncode, "is in no table" in compared.stderr) == (2, True), compared.stderr
    recipe = run(installed, tmp_path, "train", "experiment=temi_paper", "data=imagenet", "--cfg", "job")
    assert "max_epochs: 50" in recipe.stdout, recipe.stderr
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for index in range(24):
        colors = rng.integers(0, 60, (32, 32, 3)) + np.array([180, 0, 0] if index % 2 else [0, 0, 180])
        Image.fromarray(colors.astype(np.uint8)).save(tmp_path / "photos" / f"{index:02d}.png")
    encoder = ("encoder=efficientnet_lite0", "encoder.image_size=64", "data.path=photos")
    extracted = run(installed, tmp_path, "extract", "data=folder", *encoder, "workers=0", "out=features/photos")
    assert extracted.returncode == 0, extracted.stderr
    assert (tmp_path / "features" / "photos" / "train" / "manifest.json").is_file()
    photos = run(
        *(installed, tmp_path, "train", "data=folder", *encoder, *short),
        *("n_clusters=2", "n_neighbors=5", "run_dir=photos_run"),
    )
    assert photos.returncode == 0, photos.stderr
    assert list((tmp_path / "photos_run" / "contact_sheets").iterdir())


@pytest.mark.slow
def test_a_users_own_configurations_are_choices_of_the_installed_command(installed, tmp_path):
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "mine.yaml").write_text("defaults: [features, _self_]\ntrain: X.npy\nn_clusters: 3\n")
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    words = ("--config-dir", "mine", "data=mine", "loss=none", "baselines=kmeans", "run_dir=run")
    ended = run(installed, tmp_path, "train", *words)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run" / "results.json").is_file()
