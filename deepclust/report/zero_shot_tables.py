"""The zero-shot protocol's tables, as `MatrixTable`s."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepclust.report.matrix_table import MatrixTable
from deepclust.report.published import protocol_figures, published_overview, published_rows
from deepclust.report.tables import ABSENT
from deepclust.zero_shot.protocol import CLASSES, PROTOCOL_CLUSTERERS
from deepclust.zero_shot.statistics import ami_silhouette_correlation, probe_correlation

Row = Mapping[str, Any]
Names = Mapping[str, str]
# Encoders by backbone; one group without a name holds all.
Families = Mapping[str, Sequence[str]]
ALL_TOGETHER: Families = {"": ()}
# Of the cells that are what their name says with a reservation.
SAMPLED, UNSETTLED = "†", "‡"


def overview_table(overviews: Sequence[Row], sources: Names, datasets: Names) -> list[MatrixTable]:
    """Samples, classes and imbalance ρ of the data sets (Lowe et al. 2023, table 1), beside the published figures.

    Args:
        overviews: of each data set `n_samples`, `n_classes` and `imbalance`, None without labels.
        sources: as in `published_table`.
        datasets: titles by name.
    """
    lines = []
    for row in overviews:
        published = published_overview(sources.get(row["dataset"], ""))
        line = [datasets[row["dataset"]]]
        for key, form in (("n_samples", str), ("n_classes", str), ("imbalance", lambda value: f"{value:.2f}")):
            count = published.get(key)
            told = "" if count is None else f" ({form(int(count) if form is str else count)})"
            line.append(_shown(row[key], form) + told)
        lines.append(line)
    caption = "The data sets. ρ: largest class over smallest. In brackets: Lowe et al."
    return [MatrixTable("datasets", caption, ["Data set", "Samples", "Classes", "ρ"], lines, n_labels=1)] * bool(lines)


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
    marks: dict[tuple[int, int], str] = {}
    for clusterer, title in blind.items():
        starts.add(len(lines))
        for place, (encoder, encoder_title) in enumerate(encoders.items()):
            cells = [by_place.get((name, encoder, clusterer), {}) for name in datasets]
            marks |= {(len(lines), 2 + column): _mark(cell) for column, cell in enumerate(cells) if _mark(cell)}
            lines.append(["" if place else title, encoder_title, *(_shown(cell.get("n_found"), str) for cell in cells)])
    noise = "" if "hdbscan" not in blind and "optics" not in blind else " Noise is no cluster."
    return MatrixTable(
        "n_clusters",
        "Predicted number of clusters." + noise,
        ["Clusterer", "Encoder", *datasets.values()],
        lines,
        frozenset(starts),
        notes=_explained(marks),
        marks=marks,
    )


def dataset_correlation_table(rows: Sequence[Row], datasets: Names, families: Families = ALL_TOGETHER) -> MatrixTable:
    """Pearson's r between AMI and silhouette for each data set, by backbone (table 6a)."""
    return _correlation_table(
        rows, "dataset", datasets, families, "correlation_datasets", "data set, over encoders × clusterers"
    )


def clusterer_correlation_table(
    rows: Sequence[Row], clusterers: Names, families: Families = ALL_TOGETHER
) -> MatrixTable:
    """Pearson's r between AMI and silhouette for each clusterer, by backbone (table 6b)."""
    return _correlation_table(
        rows, "clusterer", clusterers, families, "correlation_clusterers", "clusterer, over data sets × encoders"
    )


def probe_tables(
    rows: Sequence[Row],
    probes: Sequence[Row],
    datasets: Names,
    encoders: Names,
    clusterers: Names,
    families: Families = ALL_TOGETHER,
) -> list[MatrixTable]:
    """The kNN probe's accuracy, and its rank correlation with AMI per backbone and clusterer (Lowe et al. 2024)."""
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
    correlated: list[list[str]] = []
    starts = set()
    for family, members in families.items():
        own = [probe for probe in probes if not members or probe["encoder"] in members]
        starts.add(len(correlated))
        for place, (name, title) in enumerate(clusterers.items()):
            found = probe_correlation([row for row in rows if row["clusterer"] == name], own)
            shown = [_shown(found.get(k), lambda value: f"{100 * value:.0f}") for k in ks]
            correlated.append([*([] if family == "" else ["" if place else family]), title, *shown])
    grouped = list(families) != [""]
    correlation = MatrixTable(
        "knn_correlation",
        f"Spearman's ρ (× 100) between AMI and the kNN probe's accuracy over {len(probes)} pairs of data set and "
        f"encoder{', by backbone' if grouped else ''}.",
        [*(["Backbone"] if grouped else []), "Clusterer", *(f"k={k}" for k in ks)],
        correlated,
        frozenset(starts),
        n_labels=2 if grouped else 1,
    )
    return [accuracy, correlation]


def published_table(
    rows: Sequence[Row], sources: Names, datasets: Names, encoders: Names, clusterers: Names
) -> list[MatrixTable]:
    """AMI beside Lowe et al. 2023's table 2, where it has the data set, the encoder and the clusterer.

    Args:
        rows: the cells.
        sources: of each data set that is a whole test split its name in `deepclust.extraction.datasets`.
        datasets, encoders, clusterers: titles by name.
    """
    figures = protocol_figures()
    lines, notes = [], []
    for row in rows:
        source = sources.get(row["dataset"], "")
        method = PROTOCOL_CLUSTERERS[row["clusterer"]].method if row["clusterer"] in clusterers else ""
        figure = figures.get((source, row["encoder"], method))
        if figure is None or row["ami"] is None:
            continue
        here = 100 * row["ami"]
        title = datasets[row["dataset"]]
        names = [title, encoders[row["encoder"]], clusterers[row["clusterer"]]]
        lines.append([*names, f"{here:.1f}", f"{figure.value:.0f}", f"{here - figure.value:+.1f}"])
        if row["n_samples"] != published_rows(source):
            notes.append(f"{title}: {row['n_samples']} of the {published_rows(source)} images that the paper clusters.")
    if not lines:
        return []
    caption = "AMI (%) beside that of Lowe et al. 2023, table 2."
    header = ["Data set", "Encoder", "Clusterer", "Here", "Published", "Difference"]
    return [MatrixTable("published", caption, header, lines, notes=list(dict.fromkeys(notes)), n_labels=3)]


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
    marks: dict[tuple[int, int], str] = {}
    competing: list[int] = []
    for clusterer, title in clusterers.items():
        first = len(lines)
        starts.add(first)
        for place, (encoder, encoder_title) in enumerate(encoders.items()):
            cells = [by_place.get((dataset, encoder, clusterer), {}) for dataset in datasets]
            marks |= {(len(lines), 2 + column): _mark(cell) for column, cell in enumerate(cells) if _mark(cell)}
            lines.append(["" if place else title, encoder_title, *(_shown(cell.get(key), form) for cell in cells)])
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
        [*_explained(marks), *missing],
        marks=marks,
    )


SIGNS = {
    SAMPLED: f"{SAMPLED}: clustered on a sample of the rows; the others joined the nearest cluster.",
    UNSETTLED: f"{UNSETTLED}: did not converge within the rounds that it was given.",
}


def _explained(marks: Mapping[tuple[int, int], str]) -> list[str]:
    """A sentence for every sign that is there."""
    return [note for sign, note in SIGNS.items() if any(sign in mark for mark in marks.values())]


def _mark(cell: Row) -> str:
    """What must be known of a cell with a result: that it saw a sample of the rows alone, or did not settle."""
    if cell.get("ami") is None and cell.get("silhouette") is None:
        return ""
    sampled = cell.get("n_fitted") is not None and cell["n_fitted"] < cell["n_samples"]
    return (SAMPLED if sampled else "") + (UNSETTLED if cell.get("converged") is False else "")


def _best(lines: Sequence[Sequence[str]], places: Sequence[int] | range) -> set[tuple[int, int]]:
    """(line, column) of the highest figure of each column as printed: equal figures are all best; one alone is none."""
    best = set()
    for column in range(2, len(lines[0]) if lines else 0):
        shown = {place: float(lines[place][column]) for place in places if lines[place][column] != ABSENT}
        if len(shown) > 1:
            best |= {(place, column) for place, value in shown.items() if value == max(shown.values())}
    return best


def _correlation_table(
    rows: Sequence[Row], axis: str, names: Names, families: Families, name: str, over: str
) -> MatrixTable:
    scored = [row for row in rows if row["clusterer"] != CLASSES]
    lines: list[list[str]] = []
    starts = set()
    for family, members in families.items():
        own = [row for row in scored if not members or row["encoder"] in members]
        found = [ami_silhouette_correlation([row for row in own if row[axis] == key]) for key in names]
        starts.add(len(lines))
        lines.append(
            [", ".join(filter(None, ["r", family])), *(_shown(r, lambda value: f"{value:.2f}") for r, _ in found)]
        )
        lines.append(["cells", *(str(count) for _, count in found)])
    overall, n_cells = ami_silhouette_correlation(scored)
    return MatrixTable(
        name,
        f"Pearson's r between AMI and silhouette per {over}{'' if list(families) == [''] else ', by backbone'}; all "
        f"{n_cells} cells: {_shown(overall, lambda value: f'{value:.2f}')}.",
        ["", *names.values()],
        lines,
        frozenset(starts),
        n_labels=1,
    )


def _by_place(rows: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row["dataset"], row["encoder"], row["clusterer"]): row for row in rows}


def _shown(value: Any, form: Callable[[Any], str]) -> str:
    return ABSENT if value is None else form(value)
