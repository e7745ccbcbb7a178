"""From a finished run to its page: which clusterings it shows, by what names, and what is to be said of them.

Shape suffixes: N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.clustering import Clustering, display_name, method_order
from deepclust.cuts.confidence import disagreement
from deepclust.features.dataset import Dataset
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import Neighbors, cached_neighbors
from deepclust.report.map_layout import map_layout
from deepclust.report.neighbor_rows import images_of
from deepclust.report.page import Page, write_page
from deepclust.report.page_parts import MOST_ROWS, NEIGHBORS, Found, assembled_page, noun_of
from deepclust.report.tables import read_rows
from deepclust.runs.choosing import selected_of
from deepclust.runs.config import cache_folders, reduced_as_trained
from deepclust.runs.folder import RunFolder
from deepclust.runs.identity import Identity
from deepclust.runs.source import DataSource
from deepclust.runs.steps import scored
from deepclust.runtime.devices import fastest_device
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_json
from deepclust.training.trained import TrainedHeads

# More clusterings than this make the page large and its menus long.
MOST_METHODS = 8


@dataclass
class FinishedRun:
    """What a report reads of a run.

    Attributes:
        folder: of the run.
        dataset: its data as they came.
        reduced: its data in the space that was clustered.
        clusterings: of the training split by name; those that people made of them first.
        config: what the run was asked for.
    """

    folder: RunFolder
    dataset: Dataset
    reduced: Dataset
    clusterings: dict[str, Clustering]
    config: dict[str, Any]

    @classmethod
    def read(cls, path: str, most: int | None = MOST_METHODS) -> FinishedRun:
        """Read a run folder of `deepclust train`.

        Args:
            path: of the folder.
            most: clusterings that are read; None reads all.

        Raises:
            InputError: if no finished run is there, its data are gone, or a clustering is of another run.
        """
        folder = RunFolder(Path(path).expanduser())
        if not folder.path.is_dir():
            raise InputError(f"run={path}: no such folder")
        config = folder.read_config()
        names = sorted(folder.saved_methods(), key=method_order)
        places = {name: folder.clustering(name) for name in names}
        edited = {f"edited:{place.parent.name}": place for place in sorted(folder.path.glob("*/clustering.npz"))}
        selected = selected_of(folder)
        if selected is not None and not (selected.stem in names and selected.parent.name == "clusterings"):
            places = {selected.stem: selected, **places}
        places = {**edited, **places}
        if not places:
            raise InputError(f"run={path} holds no clustering yet: let the run end, or continue it with resume={path}")
        dataset = DataSource.of(config).load_of(folder)
        reduced = reduced_as_trained(dataset, config, record=folder.reduction, own=True)
        clusterings = {name: Clustering.load(place) for name, place in list(places.items())[:most]}
        identity = Identity.read(folder.identity)
        for name, clustering in clusterings.items():
            if identity is not None and name in names:
                identity.check_own(places[name], name, clustering.identity)
            if len(clustering) != len(dataset.train):
                raise InputError(
                    f"{places[name]} has {len(clustering)} samples, the data {len(dataset.train)}: the data have "
                    "changed since; run again"
                )
        return cls(folder, dataset, reduced, clusterings, config)


def write_report(
    run: FinishedRun,
    out: Path | None = None,
    *,
    method: str | None = None,
    texts: Sequence[str] | None = None,
    map_kind: str = "auto",
) -> Path:
    """Write the page of a run.

    Args:
        run: the run.
        out: the file; default: `report.html` in the run folder.
        method: the clustering that is shown first; None: the newest that somebody edited, else the one of the trained
            heads with the highest silhouette, else of all.
        texts: of the samples, one each; None takes those that came with the features.
        map_kind: of `map_layout`.

    Returns:
        The file.

    Raises:
        InputError: if the run has no such method, or there is not one text per sample.
    """
    return write_page(out or run.folder.path / "report.html", page_of(run, method, texts, map_kind))


def page_of(
    run: FinishedRun, method: str | None = None, texts: Sequence[str] | None = None, map_kind: str = "auto"
) -> Page:
    """What the page of a run tells, its map laid out; arguments and what is raised as for `write_report`."""
    features = run.dataset.train
    texts = features.texts if texts is None else texts
    if texts is not None and len(texts) != len(features):
        raise InputError(f"{len(texts)} texts for {len(features)} samples: give one line per sample")
    if method is not None and method not in run.clusterings:
        raise InputError(f"method={method} is not in {run.folder.path}: choose from {', '.join(run.clusterings)}")
    results = results_of(run)
    first, why = first_shown(run, results) if method is None else (method, "You chose it.")
    if first.startswith("edited:"):
        why = "They hold the changes that you made."
    images = images_of(features)
    order = [first, *(name for name in run.clusterings if name != first)]
    found = [found_clustering(name, run, results[name]) for name in order]
    page = assembled_page(
        features,
        found,
        title=title_of(run, images is not None, texts is not None),
        facts=facts_of(run),
        why=f"The clusters are those of {found[0].title}. {why}",
        run=str(run.folder.path.resolve()),
        images=images,
        texts=texts,
        neighbors=neighbors_of(features, run.config) if len(features) <= MOST_ROWS else None,
    )
    return replace(page, layout=map_layout(page.features, map_kind, run.config.get("seed", 0)))


def results_of(run: FinishedRun) -> dict[str, dict[str, Any]]:
    """The row of results of every clustering, by its name."""
    rows_of = {row["method"]: row for row in read_rows(run.folder.results) if row["split"] == "train"}
    return {name: rows_of.get(name) or row_of(one, run) for name, one in run.clusterings.items()}


def first_shown_of(run: FinishedRun) -> str:
    """The name of the clustering that a page of the run shows first."""
    return first_shown(run, results_of(run))[0]


def row_of(clustering: Clustering, run: FinishedRun) -> dict[str, Any]:
    """The row of results of a clustering that results.json does not hold."""
    wanted = run.config.get("silhouette", True)
    return scored(clustering, run.reduced.train, "train", None, [], silhouette=wanted)


def first_shown(run: FinishedRun, results: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """The clustering that is shown first, and the sentence that says why."""
    edited = [name for name in run.clusterings if name.startswith("edited:")]
    if edited:
        newest = max(edited, key=lambda name: (run.folder.path / name[7:] / "clustering.npz").stat().st_mtime)
        return newest, "They hold the changes that you made."
    selected = selected_of(run.folder)
    if selected is not None:
        return selected.stem, read_json(run.folder.path / "selection.json")["note"]
    trained = [name for name in run.clusterings if name in run.folder.trained_methods()]
    among = trained or list(run.clusterings)
    judged = {name: results[name]["silhouette"] for name in among if results[name]["silhouette"] is not None}
    if not judged or len(run.clusterings) == 1:
        return among[0], "" if len(run.clusterings) == 1 else "It is the first method of the run."
    best = max(judged, key=lambda name: judged[name])
    kind = "the trained heads" if trained else "all methods"
    why = f"Of {kind} it separates clusters best, by silhouette. " if len(judged) > 1 else ""
    return best, f"{why}Those of other methods are in the menu “Clusters by”."


def found_clustering(name: str, run: FinishedRun, row: dict[str, Any]) -> Found:
    """A clustering with its title, its row of results, and on which samples its heads agree."""
    clustering, agreement_N, n_heads = run.clusterings[name], None, 0
    if name in run.folder.trained_methods():
        agreement_N, n_heads = head_agreement(run, name)
    title = display_name(clustering.method)
    if name.startswith("edited:"):
        title += ", edited"
    elif name not in run.folder.saved_methods():
        title += ", chosen"
    return Found(clustering, title, row, agreement_N, n_heads)


def head_agreement(run: FinishedRun, method: str) -> tuple[np.ndarray | None, int]:
    """(N,) share of the other heads that put a sample where the clustering does, None where there is no other.

    Beside it the number of heads that count.
    """
    clustering = run.clusterings[method]
    disagreement_N = clustering.disagreement
    if disagreement_N is None:  # of a single head, or of an earlier version
        trained = TrainedHeads.load(run.folder.checkpoint(method)).to(fastest_device())
        disagreement_N = disagreement(trained, run.reduced.train, clustering.labels)
    if disagreement_N is None:
        return None, 1
    return 1 - disagreement_N, int(np.isfinite(clustering.settings["head_losses"]).sum())


def neighbors_of(features: FeatureSet, config: dict[str, Any]) -> Neighbors | None:
    """The nearest neighbors of every sample: those that the run mined, where they are kept."""
    if len(features) <= NEIGHBORS:
        return None
    return cached_neighbors(features, NEIGHBORS, cache_dir=cache_folders(config)[0])


def title_of(run: FinishedRun, has_images: bool, has_texts: bool) -> str:
    """`756 images from photos`."""
    source = run.config["data"]
    place = source.get("path") or source.get("train")
    name = Path(place).expanduser().resolve().name if isinstance(place, str) else DataSource.of(run.config).name
    return f"{len(run.dataset.train):,} {noun_of(has_images, has_texts)} from {name}"


def facts_of(run: FinishedRun) -> list[str]:
    """What was done to the features before they were clustered."""
    reduction = run.reduced.train.reduction
    return [] if reduction is None else [reduction["note"]]
