"""A run in Weights & Biases, read back from W&B's own file: metrics, pictures, artifacts, one run, sweeps.

One short run without network serves most of what is asked here.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import wandb
import yaml
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from wandb.wandb_agent import Agent

from deepclust.cli.configure import CONF
from deepclust.cli.main import main
from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import cached_neighbors
from deepclust.runs.watching import HeadWatch
from deepclust.runtime.errors import InputError
from deepclust.training.initialization import pair_information
from deepclust.training.loggers import LoggerSettings, log_final, make_logger

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from wandb_files import LoggedRun, read_run, wandb_files  # noqa: E402

sys.path.pop(0)  # other scripts there have names of modules

SHORT = ("max_epochs=2", "n_heads=2", "n_neighbors=8", "data.batch_size=128", "init=kmeans", "trainer.accelerator=cpu")
SETTINGS = ("loss=temi", "baselines=kmeans", "data=features", "data.train=table.parquet", "n_clusters=5", *SHORT)
OFFLINE = ("logger=wandb", "logger.mode=offline", "logger.group=tests", "logger.tags=[short]")


def quietly(patch: pytest.MonkeyPatch) -> None:
    """W&B as a user without an account and without network has it, PCA as the map, which takes no time."""
    for name in list(os.environ):
        if name.startswith("WANDB"):
            patch.delenv(name)
    patch.setenv("WANDB_SILENT", "true")
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        patch.setenv(variable, "http://127.0.0.1:9")  # nobody answers there
    patch.setattr("deepclust.report.map_layout.UMAP_SAMPLES", 0)
    wandb.teardown()  # what it has read of the environment before


@pytest.fixture
def quiet_wandb(monkeypatch) -> Iterator[None]:
    quietly(monkeypatch)
    yield
    wandb.teardown()


@pytest.fixture(scope="module")
def finished(planted: FeatureSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that a run was started in: table.parquet with labels and images, and the finished run `run`."""
    folder = tmp_path_factory.mktemp("wandb")
    rows, labels = np.asarray(planted.features), planted.labels
    assert labels is not None
    for label in range(5):
        Image.new("RGB", (24, 16), (40 * label, 80, 160)).save(folder / f"{label}.png")
    columns = {
        "embedding": pa.array(list(rows)),
        "label": pa.array([f"kind {label}" for label in labels]),
        "image": pa.array([str(folder / f"{label}.png") for label in labels]),
    }
    pq.write_table(pa.table(columns), folder / "table.parquet")
    with pytest.MonkeyPatch.context() as patch:
        quietly(patch)
        patch.setenv("HOME", str(folder / "home"))
        patch.chdir(folder)
        patch.delenv("DEEPCLUST_RUN_DIR", raising=False)
        patch.setattr(sys, "argv", ["deepclust"])
        GlobalHydra.instance().clear()
        main(["train", *SETTINGS, *OFFLINE, "run_dir=run"])
        wandb.teardown()
        yield folder


@pytest.fixture(scope="module")
def logged(finished: Path) -> LoggedRun:
    (file,) = wandb_files(finished / "run")
    return read_run(file)


# --- one run ----------------------------------------------------------------------------------------------------------


def test_the_last_epochs_measures_are_those_of_the_finished_clustering(finished, logged, planted):
    clustering = Clustering.load(finished / "run" / "clusterings" / "temi.npz")
    neighbors = cached_neighbors(planted, 8, cache_dir=finished / "mined")
    shares = np.bincount(clustering.labels) / len(clustering)
    wanted = {
        "pair_information": pair_information(clustering.labels, neighbors, 5),
        "entropy": -(shares * np.log(shares)).sum(),
        "clusters_in_use": 5,
    }
    best = clustering.settings["best_head"]
    for name, value in wanted.items():
        assert len(logged.column(f"train/{name}")) == 2
        assert logged.column(f"train/{name}")[-1] == pytest.approx(value, abs=0.02)
        assert [len(logged.column(f"heads/{name}_0{head}")) for head in (0, 1)] == [2, 2]
        assert logged.column(f"heads/{name}_0{best}")[-1] == logged.column(f"train/{name}")[-1]
    assert logged.column("train/agreement")[-1] == pytest.approx(1 - clustering.disagreement.mean(), abs=0.02)


def test_every_epoch_tells_its_speed_and_the_learning_rate_after_it(logged):
    rates = logged.column("train/learning_rate")
    assert len(rates) == 2
    assert rates[-1] < rates[0]  # a cosine's end
    assert all(speed > 0 for speed in logged.column("train/samples_per_second"))
    assert logged.column("train/gpu_memory_gib") == []  # of a CPU there is none


def test_the_settings_are_flat_and_named_without_dots(logged):
    assert (logged.config["loss"], logged.config["baselines"], logged.config["data"]) == ("temi", "kmeans", "features")
    assert (logged.config["n_heads"], logged.config["n_clusters"], logged.config["n_samples"]) == (2, 5, 300)
    own = {name: value for name, value in logged.config.items() if not name.startswith("_")}
    assert [name for name, value in own.items() if "." in name or isinstance(value, (dict, list))] == []
    assert (logged.project, logged.name, logged.group, logged.tags) == ("deepclust", "run", "tests", ["short"])
    assert logged.exit_code == 0


def test_the_results_are_a_table(finished, logged):
    rows = json.loads((finished / "run" / "results.json").read_text())
    (place,) = logged.column("results/path")
    (file,) = (finished / "run").glob(f"wandb/*run-*/files/{place}")
    table = json.loads(file.read_text())
    assert [dict(zip(table["columns"], values)) for values in table["data"]] == rows
    assert logged.column("train/acc") == [rows[0]["acc"]]
    assert logged.column("kmeans/train/acc") == [rows[1]["acc"]]


def test_map_confusions_and_contact_sheets_are_pictures(finished, logged):
    (folder,) = (finished / "run").glob("wandb/*run-*/files")
    for panel, count in {"map": 1, "confusion/temi": 1, "confusion/kmeans": 1, "contact_sheets/temi": 5}.items():
        (files,) = logged.column(f"{panel}/filenames")
        assert len(files) == count
        assert all(Image.open(folder / file).size[0] > 100 for file in files)
    (captions,) = logged.column("contact_sheets/temi/captions")
    assert sorted(captions) == [f"cluster {cluster}, 60 images" for cluster in range(5)]


def test_the_artifact_of_the_heads_is_a_run_folder_that_can_be_evaluated(finished, logged, command, monkeypatch):
    assert logged.types["heads-features"] == "model"
    assert logged.artifacts["report-features"] == ["report.html"]
    taken = finished / "taken"
    for name in logged.artifacts["heads-features"]:
        (taken / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished / "run" / name, taken / name)
    monkeypatch.chdir(finished)
    outcome = command("evaluate", "run=taken")
    assert outcome.code == 0, outcome.err
    (again,) = json.loads((taken / "evaluation.json").read_text())
    of_run = json.loads((finished / "run" / "results.json").read_text())[0]
    assert {**again, "seconds": 0} == {**of_run, "seconds": 0}


# --- one run per job --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_resumed_over_two_ranks_continues_its_wandb_run(finished, in_process_of_its_own, tmp_path, monkeypatch):
    quietly(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    for name in ("clusterings/temi.npz", "checkpoints/temi.ckpt", "results.json"):  # as if it had been killed
        (tmp_path / "run" / name).unlink()
    ranks = ("trainer.strategy=ddp", "trainer.devices=2", "logger.pictures=false")
    outcome = in_process_of_its_own("train.py", *SETTINGS, *OFFLINE, *ranks, "resume=run")
    assert outcome.code == 0, outcome.err
    first, second = map(read_run, wandb_files(tmp_path / "run"))
    assert second.run_id == first.run_id == (tmp_path / "run" / "wandb_id.txt").read_text().strip()
    assert len(second.column("train/learning_rate")) == len(second.column("train/loss_head_00")) == 2  # by one rank
    assert (second.exit_code, list(second.types.values())) == (0, ["run_table", "model"])


# --- sweeps -----------------------------------------------------------------------------------------------------------


def line_of_the_agent(name: str, values: dict[str, Any], run_id: str, monkeypatch, folder: Path) -> list[str]:
    """The command line that `wandb agent` makes of a sweep file for one job."""
    sweep = yaml.safe_load((CONF / "wandb" / f"{name}.yaml").read_text())
    assert set(values) <= set(sweep["parameters"])
    started: list[list[str]] = []
    monkeypatch.setattr(
        "wandb.wandb_agent.AgentProcess", lambda command, **_: started.append(command) or SimpleNamespace()
    )
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    agent = Agent(None, None, sweep_id="sweep1")
    agent._sweep_command = sweep["command"]
    args = {key: {"value": value} for key, value in values.items()}
    agent._command_run({"run_id": run_id, "program": sweep["program"], "args": args})
    return started[0]


@pytest.mark.usefixtures("quiet_wandb")
def test_a_job_of_a_sweep_that_failed_is_continued_as_the_same_run(command, monkeypatch, tmp_path):
    values = {"loss": "tsp", "n_clusters": 10, "n_neighbors": 8}
    line = line_of_the_agent("grid", values, "job1", monkeypatch, tmp_path)
    assert line[:5] == ["/usr/bin/env", "python", "-m", "deepclust", "train"]
    assert line[-3:] == ["loss=tsp", "n_clusters=10", "n_neighbors=8"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(HeadWatch, "__call__", lambda *_: 1 / 0)
    short = ("max_epochs=2", "init=kmeans", "trainer.accelerator=cpu", "logger.pictures=false")
    with pytest.raises(ZeroDivisionError):
        command("train", *line[5:], *short)
    wandb.teardown()  # the agent starts every job in a process of its own
    monkeypatch.setattr(HeadWatch, "__call__", lambda *_: {})
    outcome = command("train", *line[5:], *short)
    assert (outcome.code, outcome.out.strip().splitlines()[-1]) == (0, "run folder: runs/wandb-job1_digits_tsp")
    wandb.teardown()
    failed, ended = map(read_run, wandb_files(Path("runs/wandb-job1_digits_tsp")))
    assert (failed.run_id, ended.run_id) == ("job1", "job1")
    assert (failed.exit_code, ended.exit_code) == (1, 0)
    assert "sweep" not in outcome.err  # W&B has nothing to warn of


def test_the_search_of_a_learning_rate_is_a_command_line(command, monkeypatch, tmp_path):
    values = {"learning_rate": 0.00034, "loss.temi.beta": 0.71}
    line = line_of_the_agent("bayes", values, "job2", monkeypatch, tmp_path)
    outcome = command("train", *line[5:], "--cfg", "job")
    assert outcome.code == 0, outcome.err
    asked = yaml.safe_load(outcome.out)
    assert (asked["learning_rate"], asked["loss"]["temi"]["beta"], asked["logger"]["name"]) == (0.00034, 0.71, "wandb")


# --- what fails, and what is refused ----------------------------------------------------------------------------------


def test_a_dashboard_that_fails_at_the_end_does_not_undo_the_run(capsys):
    def fail(*_, **__):
        raise wandb.Error("no answer\nfrom the server")

    told = []
    logger = SimpleNamespace(log_metrics=told.append, log_table=fail)
    log_final([{"method": "temi", "split": "train", "acc": 0.5}], logger, several=False)
    assert told == [{"train/acc": 0.5}]
    assert capsys.readouterr().out == "the dashboard lacks the results: Error: no answer\n"


@pytest.mark.usefixtures("quiet_wandb")
def test_without_an_account_a_run_online_is_refused_in_one_line_and_its_folder_is_free(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    outcome = command("train", "loss=tsp", "logger=wandb", "run_dir=run")
    assert outcome.code == 2
    assert outcome.error_line.startswith("error: logger=wandb: ")
    assert outcome.error_line.endswith("run `wandb login`, or set logger.mode=offline")
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.usefixtures("quiet_wandb")
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"project": "a/b"}, "Invalid project name 'a/b'.*found '/'"),
        ({"tags": ["t" * 65]}, "Tag .* 1 and 64 characters"),
    ],
)
def test_what_wandb_refuses_is_told_in_its_words(option, said, tmp_path):
    with pytest.raises(InputError, match=rf"^logger=wandb: {said}$"):
        make_logger("wandb", tmp_path, mode="offline", **option)


def test_what_a_dashboard_shows_is_asked_of_those_that_can():
    assert LoggerSettings("wandb").shows("heads")
    assert not LoggerSettings("wandb", {"heads": False}).shows("heads")
    assert LoggerSettings("tensorboard").shows("pictures")
    assert not LoggerSettings("tensorboard").shows("heads")
    assert not LoggerSettings("csv").shows("pictures")
