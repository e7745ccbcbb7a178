"""Tables of an evaluation beside the results: multi-label accuracy, calibration, the data's separability, a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from deepclust.clustering import display_name
from deepclust.metrics.multilabel import SCORE_NAMES
from deepclust.report.sweeps import sweep_cells
from deepclust.report.tables import ABSENT, Row, plain_table

_COLUMNS = {
    "top1_to_1": "top1→1",
    "top1_to_L": "top1→L",
    "top5_to_1": "top5→1",
    "top5_to_L": "top5→L",
    "ece": "ECE",
    "mean_msp": "mean MSP",
}


def evaluation_tables(rows: Sequence[Row], results: Mapping[str, Any]) -> list[Table | str]:
    """The tables of what was measured, with a sentence after those that need one.

    Args:
        rows: of evaluation.json.
        results: `levels` (a `Sweep`), `separability` (scores by split), `probe`, `overclustering` (a `Sweep`), as far
            as they were measured.
    """
    tables: list[Table | str] = []
    columns = [name for name in _COLUMNS if any(name in row for row in rows)]
    if columns:
        cells = [
            [display_name(row["method"]), row["split"], *(_percent(row, name) for name in columns)] for row in rows
        ]
        tables.append(plain_table(["Method", "Split", *(_COLUMNS[name] for name in columns)], cells))
    if "levels" in results:
        header, cells = sweep_cells(results["levels"])
        split = results["levels"].split
        sentence = f"One-sided AMI, {split} split: how much of the labels at depth d at most the clusters explain."
        tables += [plain_table(["Depth d", *header[1:]], cells), sentence]
    if "separability" in results:
        header = ["Split", "Alignment", "Davies–Bouldin", "Silhouette"]
        cells = [
            [split, *(ABSENT if value is None else f"{value:.3f}" for value in scores.values())]
            for split, scores in results["separability"].items()
        ]
        tables += [plain_table(header, cells), "Separability of the classes, on rows of length 1."]
    if "probe" in results:
        probe = results["probe"]
        header = ["Linear probe", "Learning rate", "Weight decay", "Seconds"]
        cells = [[f"{100 * probe['accuracy']:.1f}", *(f"{probe[key]:g}" for key in _PROBE_KEYS)]]
        sentence = f"Best of {len(probe['grid'])} linear classifiers, judged on {probe['judged_on']}."
        tables += [plain_table(header, cells), sentence]
        shares = {k: share for k, share in probe["knn"].items() if share is not None}
        if shares:
            header = ["kNN probe", *(f"k = {k}" for k in shares)]
            tables.append(plain_table(header, [["", *(f"{100 * share:.1f}" for share in shares.values())]]))
    if "overclustering" in results:
        header, cells = sweep_cells(results["overclustering"])
        tables.append(plain_table(["NMI at C", *header[1:]], cells))
    return tables


_PROBE_KEYS = ("learning_rate", "weight_decay", "seconds")


def _percent(row: Row, name: str) -> str:
    if row.get(name) is None:
        return ABSENT
    shown = f"{100 * row[name]:.1f}"
    spread = row.get(f"{name}_std") if name in SCORE_NAMES else None
    return shown if spread is None else f"{shown} ± {100 * spread:.2f}"
