"""The report of a zero-shot run: every table in three forms, every figure in two, and one page that shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepclust.report.delta_ami import delta_figure, delta_tables
from deepclust.report.figures import save_figure
from deepclust.report.matrix_table import MatrixTable
from deepclust.report.zero_shot_figures import level_figure, rank_figure, scatter_figure
from deepclust.report.zero_shot_tables import (
    ALL_TOGETHER,
    ami_table,
    clusterer_correlation_table,
    count_table,
    dataset_correlation_table,
    overview_table,
    probe_tables,
    published_table,
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
    backbones: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    overviews: Sequence[Row] = (),
    domains: Mapping[str, str] | None = None,
    training: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write the tables (.md, .tex, .csv), the figures (.png, .svg) and `report.md`.

    Where the encoders are of several backbones, every table and ranking is made within each, as in the paper: its
    tables 2 to 6 and figures 1 to 3 are of ResNet-50 and of ViT-B.

    Args:
        folder: where to.
        rows: the cells that `read_results` found.
        probes: its kNN probes.
        datasets, encoders: titles by name, in the order of columns and rows.
        clusterers: names, in order.
        tuned_on: the tuning sets; those among the data sets are marked in the tables.
        backbones: of each encoder; None: all are of one.
        overviews: the data sets that `read_overviews` found.
        sources: as in `published_table`; None compares with nothing published.
        domains, training: of each data set and encoder that has one, as in `delta_tables`; None: there is no ΔAMI.

    Returns:
        The files of tables and figures.
    """
    titles = {name: PROTOCOL_CLUSTERERS[name].title for name in clusterers}
    shown = {name: title + ("*" if name in tuned_on else "") for name, title in datasets.items()}
    tuned = " *: the settings were searched on this data set." if any(name in tuned_on for name in datasets) else ""
    families = families_of(encoders, backbones)
    written, sections = [], []
    for family, members in families.items():
        own = [row for row in rows if row["encoder"] in members]
        named = {name: encoders[name] for name in members}
        tables = [
            ami_table(own, shown, named, titles, tuned),
            silhouette_table(own, shown, named, titles, tuned),
            count_table(own, shown, named, titles),
            settings_table(own, named, titles),
        ]
        figures = {
            "rank_encoders": ("Average rank of the encoders, ± 1 standard deviation.",
                              rank_figure(own, "encoder", named)),
            "rank_clusterers": ("Average rank of the clusterers, ± 1 standard deviation.",
                                rank_figure(own, "clusterer", titles)),
            "ami_silhouette": ("AMI against silhouette, a point per cell.", scatter_figure(own, datasets, titles)),
            "ami_levels": ("One-sided AMI by level of the taxonomy: the share of the label's entropy that the clusters "
                           "explain, mean over encoders.", level_figure(own, datasets, titles)),
        }  # fmt: skip
        of_family = [replace(table, name=_named(table.name, family), caption=_said(table.caption, family))
                     for table in tables]  # fmt: skip
        written += [path for table in of_family for path in table.write(folder)]
        sections += [_section(table) for table in of_family]
        for name, (caption, figure) in figures.items():
            if figure is not None:
                written += save_figure(figure, folder / _named(name, family))
                sections.append(f"{_said(caption, family)}\n\n![{caption}]({_named(name, family)}.png)\n")
    groups = families if len(families) > 1 else ALL_TOGETHER
    over_all = [
        *overview_table(overviews, sources or {}, datasets),
        dataset_correlation_table(rows, shown, groups),
        clusterer_correlation_table(rows, titles, groups),
        *probe_tables(rows, probes, shown, encoders, titles, groups),
        *published_table(rows, sources or {}, shown, encoders, titles),
        *delta_tables(rows, domains or {}, encoders, training or {}, backbones or {}),
    ]
    written += [path for table in over_all for path in table.write(folder)]
    sections += [_section(table) for table in over_all]
    delta = delta_figure(rows, domains or {}, encoders, training or {}, backbones or {})
    if delta is not None:
        written += save_figure(delta, folder / "delta_ami")
        caption = "ΔAMI against the supervised encoders of the same backbone, by domain."
        sections.append(f"{caption}\n\n![{caption}](delta_ami.png)\n")
    with written_whole(folder / "report.md") as temporary:
        temporary.write_text("# Zero-shot clustering\n\n" + "\n".join(sections), encoding="utf-8")
    return written


def families_of(encoders: Iterable[str], backbones: Mapping[str, str] | None) -> dict[str, list[str]]:
    """The encoders by backbone, in order of appearance; a single backbone has no name."""
    found: dict[str, list[str]] = {}
    for encoder in encoders:
        found.setdefault((backbones or {}).get(encoder, ""), []).append(encoder)
    return found if len(found) > 1 else {"": [*encoders]}


def _named(name: str, family: str) -> str:
    """A file's name, with the backbone: `ami_vit_b`."""
    return name + (f"_{re.sub(r'[^a-z0-9]+', '_', family.lower())}" if family else "")


def _said(caption: str, family: str) -> str:
    return f"{family}: {caption}" if family else caption


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
