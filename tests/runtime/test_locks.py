"""A lock is held by one, waited for by the others, and gone with its process."""

from __future__ import annotations

import errno
import fcntl
import signal
import threading
from pathlib import Path

import pytest

import deepclust.runtime.locks as locks_module
from deepclust.runtime.locks import one_at_a_time


@pytest.fixture(autouse=True)
def asked_often(monkeypatch):
    monkeypatch.setattr(locks_module, "POLL_SECONDS", 0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work.lock"


def test_a_free_lock_is_held_without_a_word_and_given_back(path, capsys):
    for _ in range(2):
        with one_at_a_time(path, "mining") as held:
            assert held
    assert capsys.readouterr() == ("", "")


def test_a_lock_that_an_exception_leaves_is_free_again(path, capsys):
    with pytest.raises(KeyboardInterrupt), one_at_a_time(path, "mining"):
        raise KeyboardInterrupt
    with one_at_a_time(path, "mining") as held:
        assert held
    assert capsys.readouterr().out == ""


def test_two_never_hold_it_at_once(path, capsys):
    inside, most, lock = [0], [0], threading.Lock()

    def work():
        with one_at_a_time(path, "mining") as held:
            assert held
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            threading.Event().wait(0.03)
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (inside, most) == ([0], [1])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 3
    assert set(lines) == {f"mining: another process is doing this already, waiting for its result ({path})"}


def test_a_lock_ends_with_a_killed_process(path, locked_elsewhere, capsys):
    other = locked_elsewhere(path)
    threading.Timer(0.2, other.kill).start()
    with one_at_a_time(path, "mining") as held:
        assert held
        assert other.wait(10) == -signal.SIGKILL
    assert capsys.readouterr().out.count("waiting for its result") == 1


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSYS, "no locks on this file system"), (errno.ENOLCK, "no locks available")],
    ids=["unknown to the file system", "no lock server"],
)
def test_without_locks_nobody_waits_and_the_line_says_what_is_lost(number, reason, path, capsys, monkeypatch):
    def refused(*_):
        raise OSError(number, errno.errorcode[number] if number == errno.ENOSYS else "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    for _ in range(2):
        with one_at_a_time(path, "mining") as held:
            assert not held
        expected = f"mining: {path} cannot be locked ({reason}), so unfinished work is not kept there\n"
        assert capsys.readouterr() == (expected, "")
