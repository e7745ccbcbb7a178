"""The zero-shot protocol's tables in Markdown, LaTeX (booktabs) and CSV.

One `MatrixTable` holds the figures as they are printed; the three forms differ in nothing but syntax.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepclust.report.tables import ABSENT
from deepclust.runtime.files import written_whole
from deepclust.zero_shot.protocol import CLASSES, PROTOCOL_CLUSTERERS
from deepclust.zero_shot.statistics import ami_silhouette_correlation, probe_correlation

Row = Mapping[str, Any]
Names = Mapping[str, str]


@dataclass(frozen=True)
class MatrixTable:
    """A table of printed figures.

    Attributes:
        name: of its files.
        caption: one sentence.
        header: the columns; the first `n_labels` are text.
        lines: the body.
        starts: the lines that open a group: a rule stands above them.
        bold, underlined: (line, column) places.
        notes: sentences below it.
        n_labels: columns of text on the left.
    """

    name: str
    caption: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    starts: frozenset[int] = frozenset()
    bold: frozenset[tuple[int, int]] = frozenset()
    underlined: frozenset[tuple[int, int]] = frozenset()
    notes: Sequence[str] = field(default=())
    n_labels: int = 2

    def markdown(self) -> str:
        """`**best**` and `<u>best of its group</u>`."""
        lines = [
            "| " + " | ".join(self.header) + " |",
            "|" + "|".join("---" if column < self.n_labels else "---:" for column in range(len(self.header))) + "|",
        ]
        for place, line in enumerate(self.lines):
            cells = [self._marked(place, column, cell, "**{}**", "<u>{}</u>") for column, cell in enumerate(line)]
            lines.append("| " + " | ".join(cells) + " |")
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """A `table` environment for `\\usepackage{booktabs}`."""
        columns = "l" * self.n_labels + "r" * (len(self.header) - self.n_labels)
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(' '.join([self.caption, *self.notes]))}}}",
            rf"\label{{tab:{self.name.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(_tex, self.header)) + r" \\",
            r"\midrule",
        ]
        for place, line in enumerate(self.lines):
            if place and place in self.starts:
                lines.append(r"\midrule")
            cells = [
                self._marked(place, column, _tex(cell), r"\textbf{{{}}}", r"\underline{{{}}}")
                for column, cell in enumerate(line)
            ]
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])

    def csv(self) -> str:
        """Every group's name on every line, absent figures empty."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.header)
        group = ""
        for line in self.lines:
            group = line[0] or group
            writer.writerow([group, *("" if cell == ABSENT else cell for cell in line[1:])])
        return stream.getvalue()

    def write(self, folder: Path) -> list[Path]:
        """Write `.md`, `.tex` and `.csv`, each whole or not at all."""
        written = []
        for suffix, text in ((".md", self.markdown()), (".tex", self.latex()), (".csv", self.csv())):
            path = folder / f"{self.name}{suffix}"
            with written_whole(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            written.append(path)
        return written

    def _marked(self, line: int, column: int, cell: str, bold: str, underlined: str) -> str:
        if (line, column) in self.underlined:
            cell = underlined.format(cell)
        return bold.format(cell) if (line, column) in self.bold else cell


def ami_table(rows: Sequence[Row], datasets: Names, encoders: Names, clusterers: Names, tuned: str = "") -> MatrixTable:
    """AMI in percent: data sets × encoders grouped by clusterer (Lowe et al. 2023, table 2)."""
    return _scores_table(
        "ami",
        "AMI (%). The best of each data set is bold, the best encoder of each clusterer underlined.",
        rows, "ami", datasets, encoders, clusterers, lambda value: f"{100 * value:.1f}", tuned,
    )  # fmt: skip


def silhouette_table(
    rows: Sequence[Row], datasets: Names, encoders: Names, clusterers: Names, tuned: str = ""
) -> MatrixTable:
    """Silhouette in the clustered space; the classes themselves, G.T., come first (tables 4 and 5)."""
    distances = sorted({str(row["silhouette_metric"]) for row in rows if row["silhouette_metric"]})
    with_classes = {CLASSES: "G.T.", **clusterers} if any(row["clusterer"] == CLASSES for row in rows) else clusterers
    return _scores_table(
        "silhouette",
        f"Silhouette ({', '.join(distances)} distance) in the space that was clustered, noise as one more cluster. The "
        "best clustering of each data set is bold, the best encoder of each clusterer underlined; G.T.: the classes "
        f"themselves in the space of {next(iter(clusterers.values()))}.",
        rows, "silhouette", datasets, encoders, with_classes, lambda value: f"{value:.2f}", tuned,
    )  # fmt: skip


def count_table(rows: Sequence[Row], datasets: Names, encoders: Names, clusterers: Names) -> MatrixTable:
    """Number of clusters found by the clusterers that are not told it (table 3)."""
    blind = {name: title for name, title in clusterers.items() if not PROTOCOL_CLUSTERERS[name].given_n_clusters}
    by_place = _by_place(rows)
    classes = {row["dataset"]: row["n_classes"] for row in rows}
    lines = [["", "Classes", *(_shown(classes.get(name), str) for name in datasets)]]
    starts = set()
    for clusterer, title in blind.items():
        starts.add(len(lines))
        for place, (encoder, encoder_title) in enumerate(encoders.items()):
            found = [by_place.get((name, encoder, clusterer), {}).get("n_found") for name in datasets]
            lines.append(["" if place else title, encoder_title, *(_shown(value, str) for value in found)])
    noise = "" if "hdbscan" not in blind and "optics" not in blind else " Noise is no cluster."
    return MatrixTable(
        "n_clusters",
        "Predicted number of clusters." + noise,
        ["Clusterer", "Encoder", *datasets.values()],
        lines,
        frozenset(starts),
    )


def dataset_correlation_table(rows: Sequence[Row], datasets: Names) -> MatrixTable:
    """Pearson's r between AMI and silhouette for each data set (table 6a)."""
    return _correlation_table(rows, "dataset", datasets, "correlation_datasets", "data set, over encoders × clusterers")


def clusterer_correlation_table(rows: Sequence[Row], clusterers: Names) -> MatrixTable:
    """Pearson's r between AMI and silhouette for each clusterer (table 6b)."""
    return _correlation_table(
        rows, "clusterer", clusterers, "correlation_clusterers", "clusterer, over data sets × encoders"
    )


def probe_tables(
    rows: Sequence[Row], probes: Sequence[Row], datasets: Names, encoders: Names, clusterers: Names
) -> list[MatrixTable]:
    """The kNN probe's accuracy, and its rank correlation with AMI per clusterer (Lowe et al. 2024)."""
    if not probes:
        return []
    ks = list(dict.fromkeys(k for probe in probes for k in probe["accuracy"]))
    lines = [
        [datasets[probe["dataset"]], encoders[probe["encoder"]], *(
            _shown(probe["accuracy"].get(k), lambda value: f"{100 * value:.1f}") for k in ks
        )]
        for probe in probes
    ]  # fmt: skip
    accuracy = MatrixTable(
        "knn_probe",
        "Accuracy (%) of the kNN probe by k: cosine similarity s, votes weighted with exp(s / 0.07).",
        ["Data set", "Encoder", *(f"k={k}" for k in ks)],
        lines,
    )
    correlated = []
    for name, title in clusterers.items():
        found = probe_correlation([row for row in rows if row["clusterer"] == name], probes)
        correlated.append([title, *(_shown(found.get(k), lambda value: f"{100 * value:.0f}") for k in ks)])
    correlation = MatrixTable(
        "knn_correlation",
        f"Spearman's ρ (× 100) between AMI and the kNN probe's accuracy over {len(probes)} pairs of data set and "
        "encoder.",
        ["Clusterer", *(f"k={k}" for k in ks)],
        correlated,
        n_labels=1,
    )
    return [accuracy, correlation]


def _scores_table(
    name: str,
    caption: str,
    rows: Sequence[Row],
    key: str,
    datasets: Names,
    encoders: Names,
    clusterers: Names,
    form: Callable[[float], str],
    tuned: str,
) -> MatrixTable:
    by_place = _by_place(rows)
    lines: list[list[str]] = []
    starts, underlined = set(), set()
    competing: list[int] = []
    for clusterer, title in clusterers.items():
        first = len(lines)
        starts.add(first)
        for place, (encoder, encoder_title) in enumerate(encoders.items()):
            values = [by_place.get((dataset, encoder, clusterer), {}).get(key) for dataset in datasets]
            lines.append(["" if place else title, encoder_title, *(_shown(value, form) for value in values)])
        group = range(first, len(lines))
        underlined |= _best(lines, group)
        if clusterer != CLASSES:
            competing += group
    missing = [
        f"{clusterers[clusterer]}, {encoders[encoder]}, {datasets[dataset]}: "
        + str(by_place.get((dataset, encoder, clusterer), {}).get("reason") or "no cell yet")
        for clusterer in clusterers if clusterer != CLASSES
        for encoder in encoders
        for dataset in datasets
        if by_place.get((dataset, encoder, clusterer), {"reason": "no cell yet"})["reason"]
    ]  # fmt: skip
    return MatrixTable(
        name,
        caption + tuned,
        ["Clusterer", "Encoder", *datasets.values()],
        lines,
        frozenset(starts),
        frozenset(_best(lines, competing)),
        frozenset(underlined),
        missing,
    )


def _best(lines: Sequence[Sequence[str]], places: Sequence[int] | range) -> set[tuple[int, int]]:
    """(line, column) of the highest figure of each column as printed: equal figures are all best; one alone is none."""
    best = set()
    for column in range(2, len(lines[0]) if lines else 0):
        shown = {place: float(lines[place][column]) for place in places if lines[place][column] != ABSENT}
        if len(shown) > 1:
            best |= {(place, column) for place, value in shown.items() if value == max(shown.values())}
    return best


def _correlation_table(rows: Sequence[Row], axis: str, names: Names, name: str, over: str) -> MatrixTable:
    scored = [row for row in rows if row["clusterer"] != CLASSES]
    found = {
        title: ami_silhouette_correlation([row for row in scored if row[axis] == key]) for key, title in names.items()
    }
    overall, n_cells = ami_silhouette_correlation(scored)
    return MatrixTable(
        name,
        f"Pearson's r between AMI and silhouette per {over}; all {n_cells} cells: "
        f"{_shown(overall, lambda value: f'{value:.2f}')}.",
        ["", *found],
        [
            ["r", *(_shown(r, lambda value: f"{value:.2f}") for r, _ in found.values())],
            ["cells", *(str(count) for _, count in found.values())],
        ],
        n_labels=1,
    )


def _by_place(rows: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row["dataset"], row["encoder"], row["clusterer"]): row for row in rows}


def _shown(value: Any, form: Callable[[Any], str]) -> str:
    return ABSENT if value is None else form(value)


def _tex(text: str) -> str:
    for plain, written in (
        ("\\", r"\textbackslash "), ("&", r"\&"), ("%", r"\%"), ("#", r"\#"), ("_", r"\_"), ("$", r"\$"),
        ("{", r"\{"), ("}", r"\}"), ("–", "--"), ("×", r"$\times$"), ("ρ", r"$\rho$"), ("ℓ", r"$\ell$"),
        ("~", r"\textasciitilde "), ("^", r"\textasciicircum "),
    ):  # fmt: skip
        text = text.replace(plain, written)
    return text
