"""How every benchmark reports: a table on the terminal, the same rows as JSON.

The JSON goes to benchmarks/latest/, which git ignores; with --record to benchmarks/results/, which it tracks.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from deepclust.report.tables import report_console
from deepclust.runtime.files import write_json

RECORDED = Path(__file__).parent / "results"
LATEST = Path(__file__).parent / "latest"
REAL_FEATURES = Path(__file__).parents[2] / "shared" / "features" / "fashion_mnist_lite0"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a size that ends within a few minutes on two cores")
    parser.add_argument(
        "--record",
        action="store_true",
        help="write to benchmarks/results/, which is tracked, not to benchmarks/latest/",
    )
    return parser


def report(name: str, rows: Sequence[dict[str, Any]], notes: Sequence[str] = (), *, record: bool = False) -> None:
    """Print the rows as a table and write them."""
    table = Table(title=name, title_justify="left")
    for key in rows[0]:
        table.add_column(key, justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    console = report_console()
    console.print(table)
    for note in notes:
        console.print(note, style="dim", markup=False)
    write_rows(name, rows, notes, record=record)


def write_rows(name: str, rows: Sequence[dict[str, Any]], notes: Sequence[str] = (), *, record: bool = False) -> None:
    """Write rows as JSON, with the machine they were measured on and the command."""
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "processor": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    path = (RECORDED if record else LATEST) / f"{name}.json"
    write_json(path, {"command": command, "machine": machine, "notes": list(notes), "rows": list(rows)})


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "–" if value is None else str(value)
