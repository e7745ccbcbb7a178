"""Result tables: for the terminal, for Markdown, and as files of a run folder.

A row is a dict with the keys of `deepclust.metrics.ROW_KEYS`; metrics are fractions, shown in percent.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deepclust.clustering import display_name
from deepclust.metrics import ROW_KEYS
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_json, write_json, written_whole

Row = Mapping[str, Any]

METRIC_NAMES = {"acc": "ACC", "nmi": "NMI", "ami": "AMI", "ari": "ARI", "silhouette": "Silhouette"}
ABSENT = "–"
CAPTION_WIDTH = 84


def report_console() -> Console:
    """A console that is wide enough for every table here where stdout is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=100)


def results_table(rows: Sequence[Row], notes: Iterable[str] = (), title: str | None = None) -> Table:
    """Methods × metrics for the terminal: percent with one decimal, the best of each split in bold, notes below."""
    rows = _by_split(rows)
    return _rich(_header(rows), _cells(rows), _best(rows), [row["split"] for row in rows], notes, title)


def results_markdown(rows: Sequence[Row], notes: Iterable[str] = ()) -> str:
    """The same table in Markdown."""
    rows = _by_split(rows)
    return _markdown(_header(rows), _cells(rows), _best(rows), notes)


def write_results(run_dir: str | os.PathLike, rows: Sequence[Row], notes: Iterable[str] = ()) -> None:
    """Write `results.json` (a list of rows, absent values null) and `results.md`, each whole or not at all."""
    run_dir = Path(run_dir)
    write_json(run_dir / "results.json", [{key: row.get(key) for key in ROW_KEYS} for row in rows])
    with written_whole(run_dir / "results.md") as temporary:
        temporary.write_text(results_markdown(rows, notes), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that earlier commands left, none where there is no file.

    Raises:
        InputError: if the file holds no rows.
    """
    if not path.is_file():
        return []
    try:
        rows = read_json(path, "remove it", "list of rows")
        return [{"method": row["method"], "split": row["split"], **row} for row in rows]
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} is no list of rows ({str(error).splitlines()[0]}): remove it") from None


def mean_std(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row per method and split over its seeds, in order of first appearance.

    Args:
        rows: of several runs; rows of equal `same_run` are of one run and count once.

    Returns:
        Dicts with `method`, `split`, `n_clusters`, `n_seeds`, and for `n_found`, `seconds` and each metric a pair
        (mean, standard deviation). The deviation is the sample's (n - 1), None for one seed; the pair is None where no
        seed has a value.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in once(rows):
        groups.setdefault((row["method"], row["split"]), []).append(row)
    aggregated = []
    for (method, split), members in groups.items():
        entry: dict[str, Any] = {
            "method": method,
            "split": split,
            "n_clusters": members[0].get("n_clusters"),
            "n_seeds": len(members),
        }
        for key in ("n_found", *METRIC_NAMES, "seconds"):
            values = [row[key] for row in members if row.get(key) is not None]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            entry[key] = (float(np.mean(values)), spread) if values else None
        aggregated.append(entry)
    return aggregated


def once(rows: Sequence[Row]) -> list[Row]:
    """Rows without those that repeat a method's run: a baseline stands in every job of a sweep over losses."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for row in rows:
        key = (row["method"], row["split"], row.get("same_run", ""))
        if not row.get("same_run") or key not in seen:
            kept.append(row)
        seen.add(key)
    return kept


def mean_std_table(rows: Sequence[Row], notes: Iterable[str] = (), title: str | None = None) -> Table:
    """Mean ± standard deviation over seeds per method and split, for the terminal."""
    groups = _by_split(mean_std(rows))
    splits = [group["split"] for group in groups]
    # Without spaces, so that five such columns fit a terminal of 100.
    cells = [[cell.replace(" ± ", "±") for cell in line] for line in _spread_cells(groups)]
    return _rich(_header(groups), cells, _best(_means(groups)), splits, _with_seeds(groups, notes), title)


def mean_std_markdown(rows: Sequence[Row], notes: Iterable[str] = ()) -> str:
    """Mean ± standard deviation over seeds per method and split, in Markdown."""
    groups = _by_split(mean_std(rows))
    return _markdown(_header(groups), _spread_cells(groups), _best(_means(groups)), _with_seeds(groups, notes))


def candidates_table(candidates: Sequence[Row], notes: Iterable[str] = ()) -> Table:
    """The clusterings that `select=` chose among, the highest silhouette first, as `selection.json` has them."""
    order = sorted(
        candidates, key=lambda one: -math.inf if one["silhouette"] is None else one["silhouette"], reverse=True
    )
    has_labels = any(one["ami"] is not None for one in order)
    cells = [
        [
            display_name(one["method"]),
            "–" if one["reduction"] == "none" else one["reduction"],
            _clusters_found(_shown(one["n_found"], str), one["n_clusters"]),
            _shown(one["silhouette"], _percent),
            *([_shown(one["ami"], _percent)] if has_labels else []),
        ]
        for one in order
    ]
    reasons = [f"{display_name(one['method'])}: {one['reason']}." for one in order if one["reason"]]
    header = ["Method", "Reduction", "Clusters", "Silhouette", *(["AMI"] if has_labels else [])]
    return plain_table(header, cells, notes=[*dict.fromkeys(reasons), *notes], title="Candidates")


def plain_table(
    header: Sequence[str], cells: Sequence[Sequence[str]], *, notes: Iterable[str] = (), title: str | None = None
) -> Table:
    """Any cells in the look of the results table; columns named Method or Split are aligned left."""
    return _rich(header, cells, set(), [""] * len(cells), notes, title)


def plain_markdown(header: Sequence[str], cells: Sequence[Sequence[str]], notes: Iterable[str] = ()) -> str:
    """The same cells in Markdown."""
    return _markdown(header, cells, set(), notes)


def _by_split(rows: Sequence[Row]) -> list[Row]:
    """The rows of one split together, splits and rows in order of appearance."""
    splits = list(dict.fromkeys(row["split"] for row in rows))
    return sorted(rows, key=lambda row: splits.index(row["split"]))


def _known(rows: Sequence[Row]) -> list[str]:
    """The metrics that at least one row has: without labels there is nothing to say in the columns of label metrics."""
    return [key for key in METRIC_NAMES if any(row.get(key) is not None for row in rows)]


def _header(rows: Sequence[Row]) -> list[str]:
    return ["Method", "Split", *(METRIC_NAMES[key] for key in _known(rows)), "Clusters", "Seconds"]


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    return [
        [
            display_name(row["method"]),
            row["split"],
            *(_shown(row.get(key), _percent) for key in _known(rows)),
            _clusters_found(_shown(row.get("n_found"), str), row.get("n_clusters")),
            _shown(row.get("seconds"), _seconds),
        ]
        for row in rows
    ]


def _spread_cells(groups: Sequence[Row]) -> list[list[str]]:
    return [
        [
            display_name(group["method"]),
            group["split"],
            *(_shown(group[key], lambda pair: _pair(pair, _percent)) for key in _known(groups)),
            _clusters_found(_shown(group["n_found"], lambda pair: f"{pair[0]:.4g}"), group["n_clusters"]),
            _shown(group["seconds"], lambda pair: _seconds(pair[0])),
        ]
        for group in groups
    ]


def _shown(value: Any, form: Callable[[Any], str]) -> str:
    return ABSENT if value is None else form(value)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _pair(pair: tuple[float, float | None], form: Callable[[float], str]) -> str:
    mean, spread = pair
    return form(mean) if spread is None else f"{form(mean)} ± {form(spread)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:,.0f}"


def _clusters_found(found: str, asked: int | None) -> str:
    """Clusters found, and out of how many where some are unused."""
    return found if asked is None or found == str(asked) else f"{found}/{asked}"


def _means(groups: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {"split": group["split"], **{key: group[key] and group[key][0] for key in METRIC_NAMES}} for group in groups
    ]


def _with_seeds(groups: Sequence[Row], notes: Iterable[str]) -> list[str]:
    counts = sorted({group["n_seeds"] for group in groups})
    if counts in ([], [1]):
        return list(notes)
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return [f"Mean ± standard deviation (n − 1) over {seeds} seeds; mean seconds.", *notes]


def _best(rows: Sequence[Row]) -> set[tuple[int, int]]:
    """(row, column) of the highest value of each metric within each split, as printed: equal figures are all best."""
    best = set()
    for column, key in enumerate(_known(rows), start=2):
        for split in {row["split"] for row in rows}:
            shown = {
                index: round(100 * row[key], 1)
                for index, row in enumerate(rows)
                if row["split"] == split and row.get(key) is not None
            }
            if len(shown) > 1:
                best |= {(index, column) for index, value in shown.items() if value == max(shown.values())}
    return best


def _rich(
    header: Sequence[str],
    cells: Sequence[Sequence[str]],
    best: set[tuple[int, int]],
    splits: Sequence[str],
    notes: Iterable[str],
    title: str | None,
) -> Table:
    caption = "\n".join(dict.fromkeys(notes))
    # No vertical rules: mean ± deviation of five metrics must fit 100 columns.
    table = Table(
        title=title,
        caption=escape(caption) or None,
        title_justify="left",
        caption_justify="left",
        # A caption is as wide as its table: that of a table with few columns would have few words a line.
        min_width=min(CAPTION_WIDTH, max(map(len, caption.splitlines()), default=0)),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in header:
        table.add_column(name, justify="left" if name in ("Method", "Split") else "right", no_wrap=True)
    for index, line in enumerate(cells):
        shown = [
            f"[bold]{escape(cell)}[/bold]" if (index, column) in best else escape(cell)
            for column, cell in enumerate(line)
        ]
        table.add_row(*shown, end_section=index + 1 < len(cells) and splits[index] != splits[index + 1])
    return table


def _markdown(
    header: Sequence[str], cells: Sequence[Sequence[str]], best: set[tuple[int, int]], notes: Iterable[str]
) -> str:
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join("---" if name in ("Method", "Split") else "---:" for name in header) + "|",
    ]
    for index, line in enumerate(cells):
        shown = [
            f"**{cell}**" if (index, column) in best else cell.replace("|", r"\|") for column, cell in enumerate(line)
        ]
        lines.append("| " + " | ".join(shown) + " |")
    unique = list(dict.fromkeys(notes))
    if unique:
        lines += ["", *(f"- {note}" for note in unique)]
    return "\n".join(lines) + "\n"
