"""What a dashboard shows of a finished run beside its numbers: pictures, the page of the run, the trained heads.

All of it comes from the run folder, so that it is the same whichever dashboard shows it. W&B takes everything;
TensorBoard takes the pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from deepclust.clustering import NOISE, Clustering, display_name
from deepclust.report.cluster_figures import confusion_figure, embedding_figure
from deepclust.report.page import Page, write_page
from deepclust.report.tables import read_rows, results_markdown
from deepclust.runs.folder import RunFolder
from deepclust.runs.reporting import FinishedRun, page_of
from deepclust.training.loggers import LoggerSettings, told_where_it_fails

# A confusion matrix of more classes is a gray square; a dashboard with more sheets is not looked through.
MOST_CLASSES, MOST_SHEETS = 300, 24
# Points that are drawn of a map, at most.
MAP_POINTS = 20_000
DPI = 160

# Pictures by the name of their panel, each with its caption.
Pictures = dict[str, list[tuple[Image.Image, str]]]


def show_run(logger: Any, settings: LoggerSettings, folder: RunFolder) -> None:
    """Give a dashboard what it can show of a finished run; what cannot be made is named in one line.

    Args:
        logger: the Lightning logger of the run, which is still open.
        settings: of the logger, which say what is wanted.
        folder: of the run, whose results are written.
    """
    if settings.shows("pictures"):
        with told_where_it_fails("pictures"):
            run = FinishedRun.read(str(folder.path))
            page = page_of(run)
            pictures = {"map": [map_picture(page)], **confusions(run), **contact_sheets(folder, run.clusterings)}
            if settings.name == "wandb":
                show_in_wandb(logger, pictures)
                log_files(logger, "report", [write_page(folder.path / "report.html", page)], folder)
            else:
                show_in_tensorboard(logger, pictures, read_rows(folder.results))
    if settings.shows("heads") and folder.trained_methods():
        with told_where_it_fails("the heads"):
            log_files(logger, "heads", files_of_heads(folder), folder)


# --- pictures ---------------------------------------------------------------------------------------------------------


def map_picture(page: Page) -> tuple[Image.Image, str]:
    """The page's map by the clusters that it shows first, beside it by label where there are labels."""
    assert page.layout is not None, "the page of a run has one"
    places_N2, name = page.layout
    shown, features = page.shown[0], page.features
    rows = np.arange(len(features))
    if len(rows) > MAP_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), MAP_POINTS, replace=False))
    clustering = Clustering(shown.clustering.labels[rows], shown.clustering.method, shown.clustering.n_clusters)
    labels_N = None if features.labels is None else features.labels[rows]
    figure = embedding_figure(places_N2[rows], clustering, labels_N, features.class_names)
    return drawn(figure), f"{name} of the features, {len(rows):,} samples; clusters of {shown.title}"


def confusions(run: FinishedRun) -> Pictures:
    """The confusion matrix of every method, of the test split where it has labels, else of the training split."""
    pictures: Pictures = {}
    split, features = "test", run.dataset.test
    if features is None or features.labels is None:
        split, features = "train", run.dataset.train
    if features.labels is None or not 2 <= len(np.unique(features.labels)) <= MOST_CLASSES:
        return pictures
    for method in run.clusterings:
        place = run.folder.clustering(method, split)
        if place.is_file():
            figure = confusion_figure(features.labels, Clustering.load(place), features.class_names)
            pictures[f"confusion/{method}"] = [(drawn(figure), f"{display_name(method)}, {split}")]
    return pictures


def contact_sheets(folder: RunFolder, clusterings: Mapping[str, Clustering]) -> Pictures:
    """The contact sheets that the run wrote, those of the largest clusters of each method."""
    pictures: Pictures = {}
    for method, clustering in clusterings.items():
        ids, sizes = np.unique(clustering.labels, return_counts=True)
        sheets: list[tuple[Image.Image, str]] = []
        for place in np.argsort(-sizes, kind="stable"):
            name = "noise" if ids[place] == NOISE else f"cluster {ids[place]}"
            file = "noise.jpg" if ids[place] == NOISE else f"cluster-{ids[place]:05d}.jpg"
            path = folder.path / "contact_sheets" / method / file
            if path.is_file() and len(sheets) < MOST_SHEETS:
                with Image.open(path) as sheet:
                    sheets.append((sheet.convert("RGB"), f"{name}, {sizes[place]:,} images"))
        if sheets:
            pictures[f"contact_sheets/{method}"] = sheets
    return pictures


def drawn(figure: Figure) -> Image.Image:
    """A figure's pixels."""
    figure.set_dpi(DPI)
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")  # type: ignore[attr-defined]


def show_in_wandb(logger: Any, pictures: Pictures) -> None:
    for panel, shown in pictures.items():
        images, captions = zip(*shown)
        logger.log_image(panel, list(images), caption=list(captions))


def show_in_tensorboard(logger: Any, pictures: Pictures, rows: Sequence[Mapping[str, Any]]) -> None:
    board = logger.experiment
    for panel, shown in pictures.items():
        for image, caption in shown:
            tag = panel if len(shown) == 1 else f"{panel}/{caption.split(',')[0]}"
            board.add_image(tag, np.asarray(image), dataformats="HWC")
    board.add_text("results", results_markdown(rows))
    logger.save()


# --- files, W&B's artifacts -------------------------------------------------------------------------------------------


def files_of_heads(folder: RunFolder) -> Iterator[Path]:
    """What `deepclust evaluate` and `deepclust export` need of a run folder: trained heads and what was asked for."""
    for method in folder.trained_methods():
        yield folder.checkpoint(method)
        yield folder.checkpoint(method).with_suffix(".json")
    yield from (folder.config, folder.identity, folder.reduction)


def log_files(logger: Any, kind: str, files: Sequence[Path] | Iterator[Path], folder: RunFolder) -> None:
    """Files of the run folder as an artifact, at the same places in it.

    Versions of one name are of runs on one data set. The results are its metadata.

    Args:
        logger: W&B's.
        kind: `report` or `heads`.
        files: those that are not there are left out.
        folder: of the run.
    """
    import wandb

    data = re.sub(r"[^\w.-]", "_", str(folder.read_config()["data"]["name"]))
    artifact = wandb.Artifact(
        f"{kind}-{data}",
        type="model" if kind == "heads" else kind,
        metadata={"run": folder.path.name, "results": read_rows(folder.results)},
    )
    for file in files:
        if file.is_file():
            # The files stay as they are, so W&B need not keep copies until they are sent.
            name = str(file.relative_to(folder.path))
            artifact.add_file(str(file.resolve()), name=name, policy="immutable", skip_cache=True)
    logger.experiment.log_artifact(artifact)
