"""What the result tables show and what the files hold."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from deepclust.metrics import ROW_KEYS
from deepclust.report import tables
from deepclust.report.tables import mean_std, mean_std_markdown, mean_std_table, results_markdown, results_table


def row(method, split="test", acc=None, seed=0, **more):
    values = {"method": method, "split": split, "acc": acc, "seed": seed, "n_clusters": 10, "n_found": 10}
    return {**dict.fromkeys(ROW_KEYS), **values, "silhouette": 0.1234, "seconds": 1.5, **more}


ROWS = [
    row("temi", acc=0.7, n_found=8),
    row("kmeans", acc=0.6, seconds=1234.5),
    row("temi", "train", acc=0.5),
    row("kmeans", "train", acc=0.61),
]


def printed(table, width=100):
    console = Console(width=width, record=True, force_terminal=True, file=io.StringIO())
    console.print(table)
    return console.export_text(styles=True)


def test_best_of_each_split_is_bold_in_markdown():
    lines = results_markdown(ROWS, ["A note."]).splitlines()
    assert lines[2].startswith("| TEMI | test | **70.0** | **12.3** | 8/10 | 1.50 |")
    # Metrics that no row has have no column.
    assert lines[0] == "| Method | Split | ACC | Silhouette | Clusters | Seconds |"
    assert lines[3].startswith("| k-means | test | 60.0 |")
    assert "1,23" in lines[3]
    assert "| 50.0 |" in lines[4]
    assert "| **61.0** |" in lines[5]
    assert lines[-1] == "- A note."


def test_terminal_table_shows_the_same_figures_with_the_best_in_bold():
    text = printed(results_table(ROWS, ["A note [with brackets]."]))
    for shown in ("TEMI", "k-means", "8/10", "A note [with brackets]."):
        assert shown in text
    assert "\x1b[1m70.0" in text
    assert "\x1b[1m60.0" not in text


def test_rows_of_one_split_stand_together():
    mixed = [row("temi", "train"), row("temi", "test"), row("tsp", "train"), row("tsp", "test")]
    splits = [line.split("|")[2].strip() for line in results_markdown(mixed).splitlines()[2:]]
    assert splits == ["train", "train", "test", "test"]


def test_mean_and_sample_deviation_over_seeds():
    rows = [row("tsp", acc=acc, seed=seed) for seed, acc in enumerate((0.5, 0.6, 0.7))] + [row("scan", acc=0.4)]
    tsp, scan = mean_std(rows)
    assert (tsp["n_seeds"], tsp["acc"]) == (3, (pytest.approx(0.6), pytest.approx(0.1)))
    assert scan["acc"] == (0.4, None)
    assert tsp["nmi"] is None
    markdown = mean_std_markdown(rows)
    assert "| TSP | test | **60.0 ± 10.0** | **12.3" in markdown
    assert "| SCANv2 | test | 40.0 |" in markdown
    assert "over 1–3 seeds" in markdown


def test_tables_of_full_rows_fit_a_hundred_columns():
    full = [
        row(method, split, 0.5 + seed / 9, seed, nmi=0.5 + seed / 9, ami=0.5 + seed / 9, ari=0.5 + seed / 9)
        for method in ("temi", "agglomerative")
        for split in ("train", "test")
        for seed in range(3)
    ]
    for table in (results_table(full), mean_std_table(full)):
        text = printed(table)
        assert "…" not in text
        assert "Agglomerative" in text


def test_files_hold_every_row_with_null_for_absent(tmp_path):
    tables.write_results(tmp_path / "run", ROWS, ["A note."])
    rows = json.loads((tmp_path / "run" / "results.json").read_text())
    assert rows == ROWS
    assert all(tuple(r) == ROW_KEYS for r in rows)
    assert (tmp_path / "run" / "results.md").read_text() == results_markdown(ROWS, ["A note."])


def test_a_failed_write_leaves_the_old_files(tmp_path):
    tables.write_results(tmp_path, ROWS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        tables.write_results(tmp_path, [row("temi", acc=object())])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
