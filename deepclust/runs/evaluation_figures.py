"""The figures of a finished run: calibration, and what TSP's paper shows of features and clusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from deepclust.features.feature_set import FeatureSet
from deepclust.metrics.calibration import Calibration
from deepclust.neighbors import Neighbors, cached_neighbors
from deepclust.report.calibration_figures import confidence_figure, reliability_figure
from deepclust.report.cluster_figures import (
    confusion_figure,
    consistency_curve,
    consistency_figure,
    embedding_figure,
    umap_layout,
)
from deepclust.report.figures import save_figure
from deepclust.report.neighbor_rows import images_of, neighbor_rows, one_of_each
from deepclust.runs.evaluation import Evaluation, labels_of
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import written_whole

# Neighbors behind the figure of label consistency.
CONSISTENCY_K = 50


def draw_calibration(evaluation: Evaluation, calibrations: Mapping[str, Calibration]) -> None:
    """The reliability diagrams and the histogram of confidences; nothing where no method has probabilities."""
    if calibrations:
        _save(evaluation, "reliability", reliability_figure(calibrations))
        _save(evaluation, "confidence", confidence_figure(calibrations))


def draw_figures(evaluation: Evaluation, figures: Sequence[str], *, cache_dir: Path | None, seed: int) -> None:
    """TSP's figures of the judged split.

    Args:
        evaluation: is added to.
        figures: of `FIGURES`.
        cache_dir: where mined neighbors are kept; None: beside the features.
        seed: of UMAP and of the samples shown.

    Raises:
        InputError: if a figure needs labels or images that are not there.
    """
    split, features = evaluation.judged
    neighbors = None
    if {"consistency", "neighbors"} & set(figures):
        k = min(CONSISTENCY_K, len(features) - 1)
        neighbors = cached_neighbors(features, k, cache_dir=cache_dir)
    draw: dict[str, Callable[[], None]] = {
        "consistency": lambda: _draw_consistency(evaluation, split, features, neighbors),
        "neighbors": lambda: _draw_neighbors(evaluation, features, neighbors, seed),
        "confusion": lambda: _draw_confusion(evaluation, split, features),
        "umap": lambda: _draw_umap(evaluation, split, features, seed),
    }
    for name in figures:
        draw[name]()


def _draw_consistency(evaluation: Evaluation, split: str, features: FeatureSet, neighbors: Neighbors | None) -> None:
    assert neighbors is not None
    curve = consistency_curve(neighbors, labels_of(features, "figures=[consistency]"))
    evaluation.write_json("consistency", {split: curve})
    _save(evaluation, "consistency", consistency_figure({f"{evaluation.dataset.name}, {split}": curve}))


def _draw_neighbors(evaluation: Evaluation, features: FeatureSet, neighbors: Neighbors | None, seed: int) -> None:
    assert neighbors is not None
    images = images_of(features)
    if images is None:
        raise InputError("figures=[neighbors] needs images: these features know no image files, and are no gray pixels")
    rows = one_of_each(features.labels, len(features), seed=seed)
    path = evaluation.folder / "evaluation" / "neighbors.png"
    with written_whole(path) as temporary:
        neighbor_rows(images, neighbors, rows, labels=features.labels).save(temporary)
    evaluation.written.append(path)


def _draw_confusion(evaluation: Evaluation, split: str, features: FeatureSet) -> None:
    labels_N = labels_of(features, "figures=[confusion]")
    for (method, of_split), clustering in evaluation.clusterings.items():
        if of_split == split:
            _save(evaluation, f"confusion_{method}", confusion_figure(labels_N, clustering, features.class_names))


def _draw_umap(evaluation: Evaluation, split: str, features: FeatureSet, seed: int) -> None:
    rows, places_N2 = umap_layout(features, seed=seed)
    labels_N = None if features.labels is None else features.labels[rows]
    for (method, of_split), clustering in evaluation.clusterings.items():
        if of_split == split:
            shown = replace(clustering, labels=clustering.labels[rows])
            _save(evaluation, f"umap_{method}", embedding_figure(places_N2, shown, labels_N, features.class_names))


def _save(evaluation: Evaluation, name: str, figure: Figure) -> None:
    evaluation.written.extend(save_figure(figure, evaluation.folder / "evaluation" / name))
