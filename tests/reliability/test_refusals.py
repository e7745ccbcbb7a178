"""What the machine refuses, and SIGTERM: one line, an exit code that says so, and nothing half-made."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError, one_line_errors
from deepclust.runtime.files import TEMPORARY, remove_temporaries, written_whole
from tests.reliability.conftest import save_data
from tests.reliability.test_kills import TRAIN, ZERO_SHOT, extraction, left_over, moments


@pytest.mark.parametrize("reason", ["ENOSPC", "EROFS"])
def test_a_disk_that_is_full_or_read_only_ends_a_run_in_one_line(reason, ended, tmp_path):
    save_data(tmp_path)
    for number in moments(2, 5, 60):
        begun = (tmp_path / "run" / "config.yaml").is_file()
        run = "resume=run" if begun else "run_dir=run"
        outcome = ended(tmp_path, *TRAIN, run, refuse_at=number, reason=reason)
        if outcome.code == 0:  # it needed fewer changes than that
            continue
        assert outcome.code == 2, outcome.err
        assert str(os.strerror(28 if reason == "ENOSPC" else 30)).lower() in outcome.error_line.lower()
    begun = (tmp_path / "run" / "config.yaml").is_file()
    outcome = ended(tmp_path, *TRAIN, "resume=run" if begun else "run_dir=run")
    assert outcome.code == 0, outcome.err
    assert left_over(tmp_path) == []
    assert ended(tmp_path, "verify", "run").code == 0


def test_other_commands_say_one_line_on_a_full_disk_too(ended, tmp_path):
    words = extraction(tmp_path)
    for number in (1, 3, 6):
        for command in ((*words, "out=features"), ZERO_SHOT):
            outcome = ended(tmp_path, *command, refuse_at=number)
            assert outcome.code == 2, outcome.err
            assert "no space left on device" in outcome.error_line.lower()
    assert ended(tmp_path, *words, "out=features").code == 0
    assert ended(tmp_path, *ZERO_SHOT).code == 0


@pytest.mark.parametrize("number", [1, 4, 30])
def test_sigterm_ends_a_run_with_143_and_one_line(number, ended, tmp_path):
    save_data(tmp_path)
    outcome = ended(tmp_path, *TRAIN, "run_dir=run", kill_at=number, signal=15)
    assert outcome.code == 143
    assert outcome.err.startswith("stopped by SIGTERM: ")
    assert len(outcome.err.splitlines()) == 1
    assert list(tmp_path.rglob(".*.part*")) == []


def test_sigterm_ends_every_other_command_so(ended, tmp_path):
    words = extraction(tmp_path)
    for command in ((*words, "out=features"), ZERO_SHOT):
        outcome = ended(tmp_path, *command, kill_at=3, signal=15)
        assert outcome.code == 143
        assert outcome.err == "stopped by SIGTERM: what is finished is kept, give the same command again\n"
    assert left_over(tmp_path) == []


def test_sigterm_before_training_is_told_too(command, monkeypatch):
    def read(*arguments: object) -> None:
        os.kill(os.getpid(), 15)
        time.sleep(10)

    monkeypatch.setattr("deepclust.runs.config.read_experiment", read)
    outcome = command("train", "loss=tsp")
    assert outcome.code == 143
    assert outcome.err == "stopped by SIGTERM: what is finished is kept, give the same command again\n"


def test_a_run_dir_that_is_a_file_or_below_one_is_refused_in_one_line(ended, tmp_path):
    save_data(tmp_path)
    (tmp_path / "file").write_text("")
    for run_dir in ("file", "file/run", "/proc/run", "x" * 300):
        outcome = ended(tmp_path, *TRAIN, f"run_dir={run_dir}")
        assert outcome.code == 2
        assert run_dir[:200] in outcome.error_line
    for folder in ("file", "file/zs"):
        outcome = ended(tmp_path, *[word.replace("folder=zs", f"folder={folder}") for word in ZERO_SHOT])
        assert outcome.code == 2
        assert folder in outcome.error_line


def test_what_a_dead_process_left_half_written_is_removed_and_nothing_else(tmp_path):
    with written_whole(tmp_path / "own.npz") as own:
        pass
    assert TEMPORARY.fullmatch(own.name)
    dead = own.name.replace(f"-{os.getpid()}.", "-999999999.")
    elsewhere = dead.replace(own.name.split(".")[2][:4], "0000")
    (tmp_path / "own.npz").unlink()
    for name in (dead, own.name, elsewhere, ".hidden.part.npz", "results.npz"):
        (tmp_path / name).write_text("")
    remove_temporaries(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {own.name, elsewhere, ".hidden.part.npz", "results.npz"}


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.npz", Path("/proc/x.npz")):
        with pytest.raises(InputError, match=rf"^cannot write {path} \(.*\): [^\n]*$"), written_whole(path):
            raise AssertionError
    with pytest.raises(InputError, match="cannot write"):
        FeatureSet.from_arrays(np.eye(3)).save(tmp_path / "file" / "features")


@pytest.mark.parametrize(
    ("said", "told"),
    [  # torch, of a 1 MB tmpfs; torch; safetensors
        ("[enforce fail at inline_container.cc:672] . unexpected pos 141760 vs 141648", "the disk may be full"),
        ("PytorchStreamWriter failed writing file data/0: file write failed", "the disk may be full"),
        ("Error while serializing: I/O error: No space left on device (os error 28)", "No space left on device"),
    ],
)
def test_libraries_that_write_by_themselves_say_that_a_disk_is_full(said, told, tmp_path):
    with (
        pytest.raises(InputError, match=rf"heads\.pt \({told}\): free space"),
        written_whole(tmp_path / "heads.pt"),
    ):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="odd"), written_whole(tmp_path / "heads.pt"):
        raise RuntimeError("odd")
    assert list(tmp_path.iterdir()) == []


def test_what_the_disk_refuses_elsewhere_is_one_line_too(capsys):
    for error, told in (
        (OSError(28, "No space left on device"), "error: the disk: no space left on device: free space"),
        (PermissionError(13, "Permission denied", "x/y"), "error: x/y: permission denied: change its permissions"),
    ):
        with pytest.raises(SystemExit) as stop, one_line_errors():
            raise error
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith(told)
    with pytest.raises(OSError, match="odd"), one_line_errors():
        raise OSError("odd")
