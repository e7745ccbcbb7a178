"""The table of benchmarks holds options of its rules and needs no library to be read."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deepclust.subsets.benchmarks import ABOUT, BENCHMARKS
from deepclust.subsets.select import RULES, select_benchmark

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_settings_are_options_of_their_rule(name):
    settings = {key: value for key, value in BENCHMARKS[name].items() if key not in ("name", "rule")}
    of_select = {key for key in inspect.signature(select_benchmark).parameters if key != "options"}
    of_rule = set(inspect.signature(RULES[BENCHMARKS[name]["rule"]]).parameters)
    for key in settings.keys() - of_select:
        assert key in of_rule or f"{key}_K" in of_rule, key


def test_each_benchmark_says_what_it_is_and_where_the_paper_defines_it():
    assert list(ABOUT) == list(BENCHMARKS)
    for name, about in ABOUT.items():
        assert name == "all" or re.search(r"\(section [34](\.\d)?\)\.$", about), about


def test_the_table_is_read_without_torch_and_numpy():
    listed = "import sys, deepclust.subsets.benchmarks; print(*{'torch', 'numpy', 'yaml'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.split() == []
