"""A pretended accelerator, for the tests of what runs on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def launches(monkeypatch) -> Any:
    """benchmarks/launches.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import launches

    return launches
