"""The report of a zero-shot run: every table in three forms, every figure in two, and one page that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepclust.report.figures import save_figure
from deepclust.report.zero_shot_figures import level_figure, rank_figure, scatter_figure
from deepclust.report.zero_shot_tables import (
    MatrixTable,
    ami_table,
    clusterer_correlation_table,
    count_table,
    dataset_correlation_table,
    probe_tables,
    silhouette_table,
)
from deepclust.runtime.files import written_whole
from deepclust.zero_shot.protocol import PROTOCOL_CLUSTERERS, describe_reduction

Row = Mapping[str, Any]


def write_report(
    folder: Path,
    rows: Sequence[Row],
    probes: Sequence[Row],
    *,
    datasets: Mapping[str, str],
    encoders: Mapping[str, str],
    clusterers: Sequence[str],
    tuned_on: Sequence[str] = (),
) -> list[Path]:
    """Write the tables (.md, .tex, .csv), the figures (.png, .svg) and `report.md`.

    Args:
        folder: where to.
        rows: the cells that `read_results` found.
        probes: its kNN probes.
        datasets, encoders: titles by name, in the order of columns and rows.
        clusterers: names, in order.
        tuned_on: the tuning sets; those among the data sets are marked in the tables.

    Returns:
        The files of tables and figures.
    """
    titles = {name: PROTOCOL_CLUSTERERS[name].title for name in clusterers}
    shown = {name: title + ("*" if name in tuned_on else "") for name, title in datasets.items()}
    tuned = " *: the settings were searched on this data set." if any(name in tuned_on for name in datasets) else ""
    tables = [
        ami_table(rows, shown, encoders, titles, tuned),
        silhouette_table(rows, shown, encoders, titles, tuned),
        count_table(rows, shown, encoders, titles),
        settings_table(rows, encoders, titles),
        dataset_correlation_table(rows, shown),
        clusterer_correlation_table(rows, titles),
        *probe_tables(rows, probes, shown, encoders, titles),
    ]
    figures = {
        "rank_encoders": ("Average rank of the encoders, ± 1 standard deviation.",
                          rank_figure(rows, "encoder", encoders)),
        "rank_clusterers": ("Average rank of the clusterers, ± 1 standard deviation.",
                            rank_figure(rows, "clusterer", titles)),
        "ami_silhouette": ("AMI against silhouette, a point per cell.", scatter_figure(rows, datasets, titles)),
        "ami_levels": ("One-sided AMI by level of the taxonomy: the share of the label's entropy that the clusters "
                       "explain, mean over encoders.", level_figure(rows, datasets, titles)),
    }  # fmt: skip
    written = [path for table in tables for path in table.write(folder)]
    sections = [_section(table) for table in tables]
    for name, (caption, figure) in figures.items():
        if figure is not None:
            written += save_figure(figure, folder / name)
            sections.append(f"{caption}\n\n![{caption}]({name}.png)\n")
    with written_whole(folder / "report.md") as temporary:
        temporary.write_text("# Zero-shot clustering\n\n" + "\n".join(sections), encoding="utf-8")
    return written


def settings_table(rows: Sequence[Row], encoders: Mapping[str, str], clusterers: Mapping[str, str]) -> MatrixTable:
    """Which settings the cells were made with: encoders × clusterers."""
    by_place = {(row["encoder"], row["clusterer"]): row for row in rows}
    lines: list[list[str]] = []
    starts = set()
    for clusterer, title in clusterers.items():
        starts.add(len(lines))
        for place, (encoder, encoder_title) in enumerate(encoders.items()):
            row = by_place.get((encoder, clusterer))
            options = "" if row is None else _options(row["options"])
            reduction = "" if row is None else describe_reduction(row["reduction"])
            lines.append(["" if place else title, encoder_title, reduction, options])
    return MatrixTable(
        "settings",
        "The settings that the search chose for each clusterer and encoder.",
        ["Clusterer", "Encoder", "Reduction", "Options"],
        lines,
        frozenset(starts),
        n_labels=4,
    )


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items() if value is not None) or "defaults"


def _section(table: MatrixTable) -> str:
    return f"{table.caption}\n\n{table.markdown()}"
