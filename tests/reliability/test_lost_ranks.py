"""A rank that dies or freezes in training: the others end at once, in one line that says which."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from torch import distributed as dist

from deepclust.runtime.errors import InputError
from deepclust.training import lost_ranks
from deepclust.training.lost_ranks import LOST, Heartbeats, described

TWO_RANKS = (
    *("train", "loss=tsp", "baselines=none", "init=kmeans", "n_heads=1", "n_neighbors=10", "max_epochs=100000"),
    *("data.batch_size=900", "trainer.accelerator=cpu", "trainer.checkpoint_seconds=0", "run_dir=run"),
    *("trainer.strategy=ddp", "trainer.devices=2"),
)


def child_of(process: int) -> int:
    """The rank that a process has started."""
    with open(f"/proc/{process}/task/{process}/children") as stream:
        return int(stream.read().split()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_freezes_ends_the_run_in_one_line(how, start_process, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPCLUST_SILENT_SECONDS", "10")
    run = start_process(*TWO_RANKS)
    started = time.monotonic()
    while not (tmp_path / "run" / "checkpoints" / "tsp.ckpt").exists():
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() - started < 120
        time.sleep(0.05)
    os.kill(child_of(run.pid), how)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1
    told = [line for line in err.splitlines() if not line.startswith("Initializing distributed")]
    assert len(told) == 1, err
    assert re.fullmatch(
        r"error: rank 1 (\(on .*\) )?has died or hangs, so this run ends: what it said stands above; resume the run",
        told[0],
    )


def test_lightning_does_not_kill_the_first_process_before_it_has_said_why():
    first, ended = subprocess.Popen(["sleep", "60"]), subprocess.Popen(["false"])
    observer = _ChildProcessObserver(main_pid=first.pid, child_processes=[ended], sleep_period=1)
    observer.start()
    lost_ranks.replace_lightnings_watch()
    observer.join(timeout=30)
    assert not observer.is_alive()
    assert first.poll() is None
    first.kill()
    first.wait()


def test_a_process_that_ended_with_an_error_ends_the_one_that_started_it(monkeypatch):
    monkeypatch.setattr(lost_ranks, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lost_ranks, "ENDED_SECONDS", 0.1)
    monkeypatch.setattr(lost_ranks, "CHILDREN", [subprocess.Popen(["true"]), subprocess.Popen(["false"])])
    beats, said = Heartbeats(dist.HashStore(), 0, 3), []
    monkeypatch.setattr(beats, "_end", lambda lost: (said.append(lost), beats.left.set()))
    beats.start()
    beats.join(timeout=30)
    assert said == [[2]]


@pytest.mark.parametrize("said", ["soon", "0", "nan"])
def test_a_time_that_is_none_is_refused(said, monkeypatch):
    monkeypatch.setenv("DEEPCLUST_SILENT_SECONDS", said)
    with pytest.raises(InputError, match=f"DEEPCLUST_SILENT_SECONDS={said} is no number of seconds above 0"):
        Heartbeats(dist.HashStore(), 0, 2)


def until(true: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < 30
        time.sleep(0.01)


def test_a_rank_that_says_nothing_is_silent_and_one_that_speaks_is_not(monkeypatch):
    monkeypatch.setattr(lost_ranks, "BEAT_SECONDS", 0.05)
    store = dist.HashStore()
    first, second = (Heartbeats(store, rank, 3) for rank in (0, 1))
    first.start()
    second.start()
    until(lambda: set(first.heard) == {1})  # rank 2 has never been there
    assert first.silent(30) == []
    second.left.set()
    second.join()
    until(lambda: first.silent(0.3) == [1])
    first.watch(True)  # both have the whole time from now on
    assert first.silent(30) == []
    until(lambda: first.silent(0.3) == [1, 2])  # also of one that froze before its first word
    assert described([1, 2], first.heard).startswith("rank 1 and 2 (on ")
    first.left.set()
    first.join()


def test_the_line_names_ranks_hosts_and_logs(monkeypatch, capsys):
    heard = {1: (b"7 node3", 0.0), 2: (b"9 node4", 0.0)}
    assert described([1, 2], heard).startswith("rank 1 and 2 (on node3, node4) has died or hangs")
    for name, value in {"RANK": 0, "WORLD_SIZE": 3, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    assert "torchrun's --log-dir" in described([1], heard)
    for rank in (0, 2):  # the first of those that are left speaks
        Heartbeats(dist.HashStore(), rank, 3).tell([1])
    assert capsys.readouterr().err.count("error: rank 1 has died") == 1


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:3", True),
        ("NCCL communicator was aborted on rank 0", True),
        ("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)", False),
    ],
)
def test_what_collectives_say_of_a_lost_rank_is_known(text, lost):
    assert bool(LOST.search(text)) == lost
