"""The leaderboard's tables: ranks, tests, and the page that they are written into."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import leaderboard_page as page

from deepclust.runtime.errors import InputError

TITLES = {"a": "A", "b": "B", "c": "C", "part": "Part"}


def cell(method: str, name: str, seed: int, **found: object) -> dict:
    key = f"{name}/{method}/1/{seed}"
    return {
        "key": key,
        "set": name,
        "method": method,
        "factor": 1.0,
        "seed": seed,
        "n_samples": 9,
        "n_classes": 2,
        **found,
    }


def scored(method: str, name: str, *scores: float) -> list[dict]:
    return [
        cell(method, name, seed, AMI=score, ACC=score, ARI=score, cpu_seconds=1.0, peak_MB=5.0, found=2, noise=0.0)
        for seed, score in enumerate(scores)
    ]


CELLS = [
    *scored("a", "one", 0.8, 0.6), *scored("b", "one", 0.7, 0.7), *scored("c", "one", 0.9, 0.9),
    *scored("a", "two", 0.5, 0.5), *scored("b", "two", 0.4, 0.4), *[cell("c", "two", 0, error="not finished")],
    *scored("a", "three", 0.2), *scored("b", "three", 0.3), *scored("c", "three", 0.3),
    *scored("part", "one", 1.0, 1.0),
]  # fmt: skip


def test_equals_share_a_rank_failures_are_last_and_who_lacks_a_set_has_none():
    board = page.Board.of(CELLS, 1.0)
    assert board.ranked() == ("a", "b", "c")
    # one: a and b have the same mean; two: c failed; three: b and c are equal.
    assert board.ranks("AMI", board.ranked()).T.tolist() == [[2.5, 2.5, 1.0], [1.0, 2.0, 3.0], [3.0, 1.5, 1.5]]
    header, lines = page.summary_cells(board, TITLES, ["one", "two"])
    table = {line[0]: dict(zip(header, line)) for line in lines}
    assert list(table) == ["C", "B", "A", "Part"]
    assert [table[one]["rank by AMI"] for one in "ABC"] == ["2.17", "2.00", "1.83"]
    assert [table[one]["rank, unseen sets"] for one in "ABC"] == ["1.75", "2.25", "2.00"]
    assert (table["C"]["AMI"], table["C"]["sets"]) == ("0.400", "3")
    assert (table["Part"]["AMI"], table["Part"]["rank by AMI"], table["Part"]["sets"]) == ("1.000", page.ABSENT, "1")
    assert table["A"]["worst ±"] == f"{0.2 / np.sqrt(2):.3f}"


def test_a_set_on_which_most_methods_are_still_to_come_is_left_out_of_means_and_ranks():
    started = page.Board.of([*CELLS, *scored("a", "four", 0.9), *scored("part", "four", 0.9)], 1.0)
    assert started.sets == ("one", "two", "three", "four")
    whole = started.whole()
    assert (whole.sets, whole.ranked()) == (("one", "two", "three"), ("a", "b", "c"))
    assert page.to_come(started, started.sets) == ["Over 3 sets. Still to come: four."]
    assert page.summary_cells(started, TITLES, []) == page.summary_cells(page.Board.of(CELLS, 1.0), TITLES, [])


def test_the_tests_agree_with_published_values():
    # Demšar 2006, section 3.2.2: four classifiers on 14 sets; table 5's q for ten.
    assert page.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert page.critical_difference(10, 10) == pytest.approx(3.164 * np.sqrt(110 / 60), abs=0.005)
    # Holm 1979: the k-th smallest times what is left, never below the one before.
    assert page.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    scores = np.vstack([np.arange(8) / 10, np.arange(8) / 10, np.arange(8) / 10 + 0.1])
    assert page.against(scores, 0) == [None, 1.0, pytest.approx(2 * 2 / 2**8)]
    assert page.cliques([1.0, 1.5, 2.2, 2.4, 5.0], 1.0) == [(0, 1), (1, 3)]


def test_only_what_lies_between_markers_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", tmp_path / "leaderboard.md")
    monkeypatch.setattr(page, "FIGURE", tmp_path / "images" / "leaderboard")
    one = SimpleNamespace(kind="table", about="x", tuned_on=False, unequal=False)
    sets = {"one": one, "two": one, "three": SimpleNamespace(kind="text", about="y", tuned_on=True, unequal=True)}
    text = (page.DOCS / "leaderboard.md").read_text(encoding="utf-8")
    page.PAGE.write_text(text.replace("# Leaderboard", "# Leaderboard\n\nProse of a person.\n"), encoding="utf-8")
    for _ in range(2):  # the second time it replaces what it wrote
        page.write_page(CELLS, TITLES, dict.fromkeys(TITLES, "settings"), sets)
    written = page.PAGE.read_text(encoding="utf-8")
    assert "Prose of a person." in written
    assert written.count("| one | A") == 0
    assert written.count("- C on two, seed 0, C × 1: not finished") == 1
    assert "| one | 0.700 ± 0.141 | 0.700 ± 0.000 | 0.900 ± 0.000 | **1.000** ± 0.000 |" in written
    drawn = (tmp_path / "images" / "leaderboard.svg").read_text(encoding="utf-8")
    assert all(label in drawn for label in ("C  1.83", "B  2.00", "A  2.17", f"{page.critical_difference(3, 3):.2f}"))
    assert (tmp_path / "images" / "leaderboard.png").stat().st_size > 5000

    page.PAGE.write_text(written.replace("<!-- leaderboard: factors -->", ""), encoding="utf-8")
    with pytest.raises(InputError, match="leaderboard: factors"):
        page.write_page(CELLS, TITLES, dict.fromkeys(TITLES, "settings"), sets)


def test_a_cell_that_was_run_again_replaces_its_line_and_a_line_cut_off_is_left_out(tmp_path):
    path = tmp_path / "cells.jsonl"
    lines = [json.dumps(one) for one in (*scored("a", "one", 0.1, 0.2), *scored("a", "one", 0.5))]
    path.write_text("\n".join([*lines, '{"key": "one/a']), encoding="utf-8")
    assert [one["AMI"] for one in page.newest(page.read_cells(path))] == [0.5, 0.2]
    assert page.read_cells(tmp_path / "none.jsonl") == []
