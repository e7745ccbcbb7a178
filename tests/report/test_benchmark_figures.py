"""Tables and figures over benchmarks."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from deepclust.report.benchmark_figures import (
    WHOLE,
    accuracy_figure,
    benchmark_markdown,
    benchmark_rows,
    benchmark_tables,
    means_by_benchmark,
)
from deepclust.runtime.errors import InputError


def row(benchmark, method, acc, split="test", n_clusters=10):
    return {"benchmark": benchmark, "method": method, "split": split, "acc": acc, "ami": None, "n_clusters": n_clusters}


def test_seeds_are_averaged_per_benchmark_and_method():
    rows = [row("odd", "temi", 0.5), row("odd", "temi", 0.7), row("odd", "kmeans", 0.4), row("odd", "temi", 0, "train")]
    means = means_by_benchmark(rows, "test", "acc")["odd"]
    assert means["temi"] == (pytest.approx(0.6), pytest.approx(0.1414, abs=1e-4), 2)
    assert means["kmeans"] == (0.4, 0.0, 1)
    with pytest.raises(InputError, match="no results of split test hold ami"):
        means_by_benchmark(rows, "test", "ami")


def test_the_table_has_the_papers_order_and_marks_the_best():
    rows = [row(WHOLE, "temi", 0.2), row("coarse_2", "temi", 0.3), row("tiny", "temi", 0.4), row("tiny", "kmeans", 0.5)]
    lines = benchmark_markdown(rows, "test", ["acc"]).splitlines()
    assert lines[0] == "| Benchmark | Clusters | ACC TEMI | ACC k-means |"
    assert lines[2] == "| tiny | 10 | 40.0 | **50.0** |"
    assert lines[3] == "| coarse_2 | 10 | **30.0** | – |"
    assert lines[-1].startswith(f"| {WHOLE} ")


def test_every_method_of_a_wide_table_is_named_in_full_on_the_terminal():
    methods = ("temi", "scan", "tsp", "kmeans", "agglomerative")
    rows = [{**row("imbalanced_2k", method, 0.5), "ami": 0.25} for method in methods for _ in range(2)]
    console = Console(width=100, record=True, file=io.StringIO())
    for table in benchmark_tables(rows, "test"):
        console.print(table)
    text = console.export_text()
    assert "…" not in text
    assert [line.split(",")[0] for line in text.splitlines() if "test split" in line] == ["ACC", "AMI"]
    assert text.count("50.0 ± 0.0") == text.count("25.0 ± 0.0") == len(methods)


def test_rows_are_those_of_the_run_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps([{"method": "temi", "split": "test", "acc": 0.5}]))
    rows = benchmark_rows([tmp_path / "a", tmp_path / "b"], {tmp_path / "a": "odd", tmp_path / "b": None})
    assert [found["benchmark"] for found in rows] == ["odd", WHOLE]


def test_the_figure_draws_what_was_run_and_refuses_where_nothing_was(tmp_path):
    rows = [row(f"coarse_{d}", method, 0.1 * d) for d in (1, 2, 4) for method in ("temi", "kmeans")]
    written = accuracy_figure(rows, tmp_path / "accuracy")
    assert [path.suffix for path in written] == [".png", ".svg"]
    assert "maximal depth" in written[1].read_text()
    with pytest.raises(InputError, match="no benchmark of figure 2"):
        accuracy_figure([row("odd", "temi", 0.5)], tmp_path / "none")
