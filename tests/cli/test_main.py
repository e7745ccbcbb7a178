"""The entry point of all commands."""

from __future__ import annotations

import os
import sys

import pytest

from deepclust.cli.main import COMMANDS, main, unread_output


def test_a_reader_that_leaves_early_ends_a_command_without_a_word(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", output)
        with pytest.raises(SystemExit) as stop, unread_output():
            print("long", flush=True)
        assert stop.value.code == 141
    assert capsys.readouterr().err == ""


def test_another_broken_pipe_is_not_hidden(capfd):
    with pytest.raises(BrokenPipeError), unread_output():
        raise BrokenPipeError


def test_the_help_lists_every_command(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in COMMANDS)
