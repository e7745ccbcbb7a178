"""The scripts of benchmarks/: trying one out changes no tracked file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = re.search(r"for script in ([\w\s\\]+);", (ROOT / "Makefile").read_text())[1].replace("\\", "").split()  # type: ignore[index]


@pytest.fixture
def tables(monkeypatch, tmp_path) -> Any:
    """benchmarks/tables.py, its two folders in an empty one."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tables

    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "speed.py"), "--quick"])
    monkeypatch.setattr(tables, "LATEST", tmp_path / "latest")
    monkeypatch.setattr(tables, "RECORDED", tmp_path / "results")
    return tables


@pytest.mark.parametrize(("record", "folder"), [(False, "latest"), (True, "results")])
def test_rows_are_recorded_only_where_that_was_asked_for(record, folder, tables, tmp_path, capsys):
    tables.report("speed", [{"C": 10, "seconds": 1.5}], ["a note"], record=record)
    (written,) = tmp_path.rglob("*.json")
    assert written == tmp_path / folder / "speed.json"
    content = json.loads(written.read_text())
    assert (content["rows"], content["notes"]) == ([{"C": 10, "seconds": 1.5}], ["a note"])
    assert content["command"] == "python benchmarks/speed.py --quick"
    assert "1.5" in capsys.readouterr().out


def test_git_ignores_what_was_not_recorded():
    def ignored(name: str) -> bool:
        return subprocess.run(["git", "check-ignore", "-q", f"benchmarks/{name}/speed.json"], cwd=ROOT).returncode == 0

    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("no git checkout")
    assert (ignored("latest"), ignored("results")) == (True, False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_takes_quick_and_record(script, command, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    outcome = command(f"benchmarks/{script}.py", "--help")
    assert outcome.code == 0, outcome.err
    assert "--quick" in outcome.out
    assert "--record" in outcome.out


def test_what_measures_a_gpu_runs_on_a_cpu(tables, command, tmp_path):
    """So that it works where a GPU is at hand."""
    outcome = command("benchmarks/gpu.py", "--quick")
    assert outcome.code == 0, outcome.err
    steps, parts = (
        json.loads((tmp_path / "latest" / f"gpu_{name}.json").read_text())["rows"] for name in ("steps", "parts")
    )
    assert {row["loss"] for row in steps} == {"TEMI", "SCANv2", "TSP"}
    assert all(row["samples/s"] > 0 for row in steps)
    names = [row["part"].split(",")[0] for row in parts]
    assert names == [*3 * ["mining"], "silhouette", "k-means", "extraction"]
