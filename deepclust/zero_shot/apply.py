"""The chosen settings on every test set: the matrix of data sets × encoders × clusterers, and the kNN probe.

folder/results/<data set>/<encoder>/<clusterer>.json   the row of the cell, as `report` reads it
folder/results/<data set>/<encoder>/knn_probe.json     accuracy by k
folder/results/<data set>/<encoder>/overview.json      samples, classes, imbalance ρ

A sweep over encoders, data sets or clusterers writes other files in each of its jobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deepclust.metrics.knn_probe import PROBE_KS, TEMPERATURE, knn_probe
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint, read_json, write_json
from deepclust.zero_shot.cells import Cell, Row
from deepclust.zero_shot.data import LoadedData
from deepclust.zero_shot.protocol import CLASSES, check_clusterers, check_installed, check_name
from deepclust.zero_shot.runner import Runner
from deepclust.zero_shot.tuning import Choice, read_choices

PROBE = "knn_probe"
OVERVIEW = "overview"


def apply_choices(
    runner: Runner,
    chosen_dir: Path,
    *,
    test: Sequence[str],
    encoders: Sequence[str],
    clusterers: Sequence[str],
    seed: int = 0,
    silhouette: str | None = "euclidean",
) -> list[Row]:
    """Run every cell of the matrix that is missing, and the probes.

    Args:
        runner: makes the cells.
        chosen_dir: the folder of chosen settings, one file per encoder.
        test: keys of the data sets.
        encoders: names; a data set that does not come with one lacks those cells.
        clusterers: names.
        seed: of reductions and clusterers.
        silhouette: its distance.

    Returns:
        The rows of all cells; those without a result hold the reason.

    Raises:
        InputError: if settings, features or a clusterer's library are missing, C is unknown where a clusterer is told
            it, or not one cell has a result.
    """
    wanted = check_clusterers(clusterers)
    check_installed(wanted)
    if not test:
        raise InputError("test is empty: name the data sets to apply the settings to")
    chosen = {encoder: read_choices(chosen_dir, encoder, clusterers) for encoder in encoders}
    pairs = [(name, encoder) for name in test for encoder in encoders if runner.available(name, encoder)]
    for name, encoder in pairs:
        told = [clusterer.title for clusterer in wanted if clusterer.given_n_clusters]
        if told and runner.load(name, encoder).n_clusters is None:
            raise InputError(f"data set {name} has no known number of clusters, which {told[0]} needs: set n_clusters")
    cells = [
        Cell(name, encoder, clusterer, choice.reduction, choice.options, seed, silhouette)
        for name, encoder in pairs
        for clusterer, choice in _with_classes(chosen[encoder], runner, name, encoder).items()
    ]
    rows = runner.run(cells)
    for row in rows:
        write_json(result_path(runner.folder, row["dataset"], row["encoder"], row["clusterer"]), row)
    for name, encoder in pairs:
        _probe(runner, name, encoder)
        overview = _overview(runner.load(name, encoder))
        write_json(result_path(runner.folder, name, encoder, OVERVIEW), {"dataset": name, **overview})
    if rows and all(row["reason"] for row in rows):
        raise InputError(f"not one of {len(rows)} cells has a result; the first: {rows[0]['reason']}")
    return rows


def result_path(folder: Path, dataset: str, encoder: str, name: str) -> Path:
    return folder / "results" / check_name(dataset, "test") / check_name(encoder, "encoders") / f"{name}.json"


def read_results(
    folder: Path, *, test: Sequence[str], encoders: Sequence[str], clusterers: Sequence[str]
) -> tuple[list[Row], list[Row]]:
    """The rows of the matrix's cells that are there, and its probes.

    Raises:
        InputError: if there is none.
    """
    rows: list[Row] = []
    probes: list[Row] = []
    for dataset in test:
        for encoder in encoders:
            for name in (*clusterers, CLASSES, PROBE):
                path = result_path(folder, dataset, encoder, name)
                if path.is_file():
                    (probes if name == PROBE else rows).append(read_json(path, "make it again with stage=apply"))
    if not rows:
        raise InputError(f"{folder / 'results'} holds no cell of this matrix: make them with stage=apply")
    return rows, probes


def read_overviews(folder: Path, *, test: Sequence[str], encoders: Sequence[str]) -> list[Row]:
    """Samples, classes and imbalance of the data sets that settings were applied to, in the order given."""
    found: list[Row] = []
    for dataset in test:
        paths = (result_path(folder, dataset, encoder, OVERVIEW) for encoder in encoders)
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            found.append(read_json(path, "make it again with stage=apply"))
    return found


def _overview(data: LoadedData) -> Row:
    """Of the rows that are clustered. ρ is the size of the largest class over that of the smallest (Lowe et al. 2023,
    table 1)."""
    labels = data.labels
    sizes = None if labels is None else np.unique(labels, return_counts=True)[1]
    return {
        "n_samples": len(data.features),
        "n_classes": None if sizes is None else len(sizes),
        "imbalance": None if sizes is None else float(sizes.max() / sizes.min()),
    }


def _with_classes(chosen: Mapping[str, Choice], runner: Runner, dataset: str, encoder: str) -> dict[str, Choice]:
    """The choices, and the labels themselves in the space of the first: the silhouette's upper row in the paper."""
    if runner.load(dataset, encoder).labels is None:
        return dict(chosen)
    first = next(iter(chosen.values()))
    return {**chosen, CLASSES: Choice(first.reduction, {})}


def _probe(runner: Runner, dataset: str, encoder: str) -> None:
    memory_name = runner.data[dataset].probe
    if memory_name is None or not runner.available(memory_name, encoder):
        return
    data, memory = runner.load(dataset, encoder), runner.load(memory_name, encoder)
    if data.labels is None or memory.labels is None:
        raise InputError(f"data.{dataset}.probe: the kNN probe needs the labels of {dataset} and of {memory_name}")
    path = result_path(runner.folder, dataset, encoder, PROBE)
    key = fingerprint(data.key, memory.key, list(PROBE_KS), TEMPERATURE)
    if path.is_file():
        try:
            if read_json(path)["key"] == key:
                return
        except InputError as error:
            print(f"{error.cause}: made again", flush=True)
    accuracy = knn_probe(memory.features.features, memory.labels, data.features.features, data.labels)
    write_json(
        path,
        {
            "dataset": dataset,
            "encoder": encoder,
            "memory": memory_name,
            "memory_samples": len(memory.features),
            "accuracy": {str(k): value for k, value in accuracy.items()},
            "key": key,
        },
    )
