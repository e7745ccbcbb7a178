"""The notebooks in examples/ run from top to bottom, and what is stored of them is what such a run showed.

`make test` executes one of them, on digits and without its cells tagged `slow`, in about 20 seconds of one core; of all
it checks that code compiles, that cells were executed in order and that no output is an error.
`DEEPCLUST_NOTEBOOKS=all` executes all of them with all cells, half a minute to a minute each; `make notebooks` stores
their outputs anew.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from deepclust.features.idx import DEBIAN_FOLDER

nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[dev]' brings nbclient and ipykernel")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
NEEDS = {
    "photos": DEBIAN_FOLDER,
    "texts": Path("/usr/share/wordnet/data.noun"),
    "paper_table": DEBIAN_FOLDER,
}
ALL = os.environ.get("DEEPCLUST_NOTEBOOKS") == "all"


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def execute(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, leave_out: str | None = None) -> None:
    """Run a notebook in a kernel of this Python, in an empty folder; fails where a cell does."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = read(path)
    notebook.cells = [cell for cell in notebook.cells if leave_out not in cell.metadata.get("tags", [])]
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_was_run_from_top_to_bottom_without_an_error(path):
    assert path.stat().st_size < 1_000_000
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    for cell in cells:
        if not cell.source.startswith("%%"):
            ast.parse(cell.source)
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
            shown = output.get("text") or "".join(map(str, output.get("data", {}).get("text/plain", "")))
            assert not re.search(r"Traceback|/home/|/tmp/|site-packages", shown)


def test_every_notebook_is_named_in_the_documentation():
    pages = "".join(page.read_text() for page in (EXAMPLES.parent / "docs").glob("*.md"))
    assert [path.name for path in NOTEBOOKS if f"examples/{path.name}" not in pages] == []


@pytest.mark.slow
def test_the_notebook_on_digits_runs(tmp_path, monkeypatch):
    execute(EXAMPLES / "paper_table.ipynb", tmp_path, monkeypatch, leave_out="slow")


@pytest.mark.skipif(not ALL, reason="takes minutes; DEEPCLUST_NOTEBOOKS=all runs it")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_runs(path, tmp_path, monkeypatch):
    if not NEEDS[path.stem].exists():
        pytest.skip(f"{NEEDS[path.stem]} is not on this machine")
    execute(path, tmp_path, monkeypatch)
