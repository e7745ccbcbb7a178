"""ΔAMI by domain: how much better or worse one encoder's clusters are than another's, on data near to and far from what
it was trained on (Lowe et al. 2024): self-supervised encoders against supervised ones, fine-tuned ones against both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deepclust.extraction.encoder_catalog import FINE_TUNED, SELF_SUPERVISED, SUPERVISED
from deepclust.report.figures import PALETTE, TWO_COLUMNS, new_figure
from deepclust.report.matrix_table import MatrixTable
from deepclust.report.tables import ABSENT
from deepclust.zero_shot.data import DOMAINS

Row = Mapping[str, Any]
Names = Mapping[str, str]
# Of each (encoder, domain) the mean difference and over how many pairs of data set and clusterer.
Differences = Mapping[tuple[str, str], tuple[float, int]]


def differences(rows: Sequence[Row], domains: Names, against: Mapping[str, Sequence[str]]) -> Differences:
    """Mean over the data sets of a domain and all clusterers of AMI minus the mean AMI of those it is held against.

    Args:
        rows: the cells; a pair of data set and clusterer counts where both sides have an AMI.
        domains: of each data set, a key of `DOMAINS`; others take no part.
        against: of each encoder those that it is held against.

    Example:
        >>> cell = {"dataset": "x", "clusterer": "kmeans"}
        >>> rows = [{**cell, "encoder": "a", "ami": 0.5}, {**cell, "encoder": "b", "ami": 0.4}]
        >>> differences(rows, {"x": "far_ood"}, {"a": ["b"]})[("a", "far_ood")]
        (0.1, 1)
    """
    amis = {(row["dataset"], row["clusterer"], row["encoder"]): row["ami"] for row in rows if row["ami"] is not None}
    found: dict[tuple[str, str], list[float]] = {}
    for (dataset, clusterer, encoder), own in amis.items():
        others = [amis[key] for other in against.get(encoder, ()) if (key := (dataset, clusterer, other)) in amis]
        if others and dataset in domains:
            found.setdefault((encoder, domains[dataset]), []).append(own - float(np.mean(others)))
    return {key: (round(float(np.mean(values)), 12), len(values)) for key, values in found.items()}


def against_supervised(training: Names, backbones: Names) -> dict[str, list[str]]:
    """Of each encoder that learned without labels at first the supervised ones of its backbone."""
    return {
        encoder: [
            one for one, how in training.items() if how == SUPERVISED and backbones.get(one) == backbones.get(encoder)
        ]
        for encoder, how in training.items()
        if how in (SELF_SUPERVISED, FINE_TUNED)
    }


def against_raw(training: Names) -> dict[str, list[str]]:
    """Of each fine-tuned encoder the one that it comes from."""
    return {encoder: [encoder.removeprefix("ft_")] for encoder, how in training.items() if how == FINE_TUNED}


def delta_tables(
    rows: Sequence[Row], domains: Names, encoders: Names, training: Names, backbones: Names
) -> list[MatrixTable]:
    """ΔAMI against the supervised encoders of the same backbone, and of fine-tuned encoders against themselves before;
    those that have a difference to show.

    Args:
        rows: the cells.
        domains: of each data set that has one.
        encoders: titles by name.
        training: of each encoder how it was trained, as `encoder_training` says.
        backbones: of each encoder.
    """
    made = [
        _table(
            "delta_supervised",
            "ΔAMI (points) against the supervised encoders of the same backbone, by domain: mean over data sets and "
            "clusterers.",
            differences(rows, domains, against_supervised(training, backbones)), encoders, training,
        ),
        _table(
            "delta_finetuned",
            "ΔAMI (points) of fine-tuned encoders against the same ones as they were, by domain: mean over data sets "
            "and clusterers.",
            differences(rows, domains, against_raw(training)), encoders, training,
        ),
    ]  # fmt: skip
    return [table for table in made if table is not None]


def _table(name: str, caption: str, found: Differences, encoders: Names, training: Names) -> MatrixTable | None:
    if not found:
        return None
    shown = [domain for domain in DOMAINS if any(where == domain for _, where in found)]
    lines: list[list[str]] = []
    starts = set()
    for how in (SELF_SUPERVISED, FINE_TUNED):
        members = [one for one in encoders if training.get(one) == how and any(encoder == one for encoder, _ in found)]
        if not members:
            continue
        starts.add(len(lines))
        for place, encoder in enumerate(members):
            values = [found.get((encoder, domain)) for domain in shown]
            lines.append(["" if place else how, encoders[encoder], *map(_points, values)])
        if len(members) > 1:
            means = [[found[one, domain] for one in members if (one, domain) in found] for domain in shown]
            lines.append(["", "mean", *(_points((float(np.mean([v for v, _ in m])), 0) if m else None) for m in means)])
    counts = {domain: [n for (_, where), (_, n) in found.items() if where == domain] for domain in shown}
    said = ", ".join(f"{DOMAINS[domain]} {_range(ns)}" for domain, ns in counts.items())
    header = ["Training", "Encoder", *(DOMAINS[domain] for domain in shown)]
    return MatrixTable(name, caption, header, lines, frozenset(starts), notes=[f"Pairs per figure: {said}."])


def _points(value: tuple[float, int] | None) -> str:
    return ABSENT if value is None else f"{100 * value[0]:+.1f}"


def _range(counts: Sequence[int]) -> str:
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def delta_figure(
    rows: Sequence[Row], domains: Names, encoders: Names, training: Names, backbones: Names
) -> Figure | None:
    """Bars of ΔAMI against the supervised encoders, grouped by domain; a panel for each kind of training.

    Returns:
        The figure, or None where nothing can be compared.
    """
    found = differences(rows, domains, against_supervised(training, backbones))
    if not found:
        return None
    shown = [domain for domain in DOMAINS if any(where == domain for _, where in found)]
    panels = [how for how in (SELF_SUPERVISED, FINE_TUNED) if any(training.get(one) == how for one, _ in found)]
    figure, all_axes = new_figure(TWO_COLUMNS, 2.8 * len(panels), n_rows=len(panels))
    for axes, how in zip(all_axes, panels, strict=True):
        members = [one for one in encoders if training.get(one) == how and any(encoder == one for encoder, _ in found)]
        width = 0.8 / len(members)
        for place, encoder in enumerate(members):
            values = [100 * found.get((encoder, domain), (np.nan, 0))[0] for domain in shown]
            places = np.arange(len(shown)) + width * (place - (len(members) - 1) / 2)
            axes.bar(places, values, width, color=PALETTE[place % len(PALETTE)], label=encoders[encoder])
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks(range(len(shown)), [DOMAINS[domain] for domain in shown])
        axes.set_ylabel("ΔAMI (points)")
        axes.set_title(how, loc="left", fontsize=8)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=7, frameon=False)
    return figure
