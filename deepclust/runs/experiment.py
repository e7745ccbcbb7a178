"""One experiment: train heads, run the baselines beside them, score everything the same way, keep it in a run folder.

run folder/
  config.yaml                 what was asked for (written by the entry point)
  reduction.json              what the features were reduced by, where they were
  checkpoints/<method>.ckpt   newest training state of each loss
  clusterings/<method>.npz    the training split; <method>_<split>.npz for the others
  results.json, results.md    one row per (method, split)
  clusters.csv                path, cluster and confidence by the first method, where features know their images
  contact_sheets/             the most confident images of each of its clusters
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_only

from deepclust.clusterers import Linkages, make_clusterer
from deepclust.clustering import Clustering
from deepclust.runtime.errors import InputError
from deepclust.extraction.datasets import Dataset
from deepclust.features.feature_set import FeatureSet
from deepclust.training.loggers import log_final
from deepclust.metrics import score
from deepclust.metrics.intrinsic import Metric
from deepclust.neighbors import Neighbors
from deepclust.neighbors.mining import check_request
from deepclust.features.transform import FeatureTransform
from deepclust.runtime.ranks import Ranks
from deepclust.reduction.reduction import Reduction
from deepclust.report.contact_sheet import write_clusters_csv, write_contact_sheets
from deepclust.report.tables import write_results
from deepclust.clustering import display_name
from deepclust.training.fit import fit_heads, n_processes
from deepclust.training.recipe import Recipe


def is_rank_zero() -> bool:
    """Whether this process writes: rank 0 of a distributed run, or the only process."""
    return getattr(rank_zero_only, "rank", 0) == 0


@dataclass(frozen=True)
class RunFolder:
    """Where the artefacts of one run lie."""

    path: Path

    def checkpoint(self, method: str) -> Path:
        return self.path / "checkpoints" / f"{method}.ckpt"

    def clustering(self, method: str, split: str = "train") -> Path:
        return self.path / "clusterings" / (f"{method}.npz" if split == "train" else f"{method}_{split}.npz")

    @property
    def reduction(self) -> Path:
        return self.path / "reduction.json"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    def trained_methods(self) -> list[str]:
        """The losses that left a checkpoint, in alphabetical order; dotted files are what a kill left half-written."""
        found = (self.path / "checkpoints").glob("*.ckpt")
        return sorted(path.stem for path in found if not path.name.startswith("."))

    def saved_methods(self) -> list[str]:
        """The methods that left a clustering of the training split, in alphabetical order."""
        found = [path for path in (self.path / "clusterings").glob("*.npz") if not path.name.startswith(".")]
        return sorted(path.stem for path in found if not path.stem.endswith("_test"))


@dataclass
class Results:
    """Rows of results, and the sentences that belong under their table."""

    rows: list[dict[str, Any]]
    notes: list[str]


def check_inputs(
    dataset: Dataset,
    recipes: Sequence[Recipe],
    *,
    baselines: Mapping[str, Mapping[str, Any]] | None = None,
    n_clusters: int | None = None,
    trainer: Mapping[str, Any] | None = None,
    mining: Mapping[str, Any] | None = None,
    reduction: Reduction | None = None,
) -> None:
    """Everything that can be refused before anything is written; the arguments are those of `run_experiment`.

    Raises:
        InputError: NaN, infinite or zero rows, too few samples for the clusters or neighbors, splits of different
            dimensions, labels on one split only being of another length, options that no baseline has, more samples
            than a baseline's memory reaches, a reduction that the features do not allow, or a device, strategy or
            precision that this machine does not have.
    """
    if recipes:
        n_processes(**(trainer or {}))
    for recipe in recipes:
        recipe.check_features(len(dataset.train))
        check_request(len(dataset.train), recipe.mined_neighbors(len(dataset.train)), **(mining or {}))
        FeatureTransform(dataset.train.dim, recipe.preprocess, recipe.pca_dim)
    if n_clusters is not None and not 2 <= n_clusters <= len(dataset.train):
        raise InputError(
            f"n_clusters={n_clusters}, but there are {len(dataset.train)} samples: choose between 2 and their number"
        )
    if reduction is not None and reduction.kind != "none":
        reduction.check(len(dataset.train), dataset.train.dim)
        for recipe in recipes:
            if recipe.pca_dim is not None:
                raise InputError(
                    f"pca_dim={recipe.pca_dim} would project again what reduction={reduction.kind} has reduced: leave "
                    "one of them out"
                )
    for name, options in (baselines or {}).items():
        make_clusterer(name, n_clusters=n_clusters, seed=0, **options).check(len(dataset.train))
    for name, split in dataset.splits().items():
        split.check(f"{dataset.name} ({name} split)")
        if split.dim != dataset.train.dim:
            raise InputError(
                f"the {name} split has {split.dim} dimensions, the train split {dataset.train.dim}: "
                "make both with the same encoder"
            )


def run_experiment(
    dataset: Dataset,
    recipes: Sequence[Recipe],
    run: RunFolder,
    *,
    baselines: Mapping[str, Mapping[str, Any]] | None = None,
    n_clusters: int | None = None,
    seed: int = 0,
    resume: bool = False,
    logger: Any = False,
    val_every_n_epochs: int = 0,
    silhouette: bool = True,
    linkages: Linkages | None = None,
    **fit_options: Any,
) -> Results | None:
    """Train, cluster, score and save; finished methods of a resumed run are read back, not run again.

    Args:
        dataset: features of the splits; `check_inputs` has looked at them. Where they were reduced (see
            `deepclust.reduction.splits`), baselines take the rows as they are, and silhouettes are Euclidean.
        recipes: one per loss, at most one of each.
        run: the run folder.
        baselines: options by name of baseline.
        n_clusters: C of the baselines.
        seed: of the baselines, and in the rows of results.
        resume: continue a killed run.
        logger: a Lightning logger, or False.
        val_every_n_epochs: log `val/…` metrics of the test split (the training split without one) so often; 0 never.
        silhouette: compute it; at thousands of clusters it costs more than all else that is scored.
        linkages: trees of the training split that runs share; by default the run's own.
        **fit_options: of `fit_heads`.

    Returns:
        The results on rank 0, None on the other ranks of a distributed run, which only take part in training.

    Raises:
        InputError: if a checkpoint to resume from does not fit.
    """
    several = len(recipes) > 1
    splits = dataset.splits()
    reduced = dataset.train.reduction
    notes: list[str] = [] if reduced is None else [reduced["note"]]
    finished: list[dict[str, Clustering]] = []
    neighbors = None
    for recipe in sorted(recipes, key=lambda recipe: -recipe.mined_neighbors(len(dataset.train))):
        # The largest neighborhood is mined first and serves the smaller ones.
        if _is_finished(run, recipe.loss, splits):
            continue
        found = _train(
            recipe, dataset, run, neighbors, resume, logger, f"{recipe.loss}/" if several else "",
            val_every_n_epochs, fit_options,
        )  # fmt: skip
        neighbors = found or neighbors
    ranks = Ranks.of_run()
    normalize = {} if reduced is None else {"normalize": "none"}
    linkages = Linkages() if linkages is None else linkages
    for name, options in (baselines or {}).items():
        # The first rank's folder decides for all.
        if ranks.from_first(np.array([_is_finished(run, name, splits)]))[0]:
            continue
        _run_baseline(name, {**normalize, **options}, n_clusters, seed, splits, run, ranks, linkages)
    if not is_rank_zero():
        return None
    for recipe in recipes:
        finished.append({split: Clustering.load(run.clustering(recipe.loss, split)) for split in splits})
    for name in baselines or ():
        finished.append({split: Clustering.load(run.clustering(name, split)) for split in splits})
    rows = []
    for clusterings in finished:
        for split, clustering in clusterings.items():
            rows.append(scored(clustering, splits[split], split, seed, notes, silhouette=silhouette))
            notes.extend(note for note in clustering.notes if note not in notes)
    write_results(run.path, rows, notes)
    if finished:
        _show_images(run, dataset.train, finished[0]["train"])
    log_final(rows, logger, several)
    return Results(rows, notes)


def scored(
    clustering: Clustering,
    features: FeatureSet,
    split: str,
    seed: int | None,
    notes: list[str],
    *,
    silhouette: bool = True,
) -> dict[str, Any]:
    """A row of results; where it has no silhouette though it was wanted the notes say why."""
    metric: Metric = "cosine" if features.reduction is None else "euclidean"
    rows_ND = features.features if silhouette else None
    row = score(clustering, rows_ND, features.labels, split=split, seed=seed, silhouette_metric=metric)
    if silhouette and row["silhouette"] is None:
        notes.append(
            f"{display_name(clustering.method)}, {split}: no silhouette, as {row['n_found']} clusters of "
            f"{len(clustering)} samples were found, and it compares at least 2 with members."
        )
    return row


def _show_images(run: RunFolder, features: FeatureSet, clustering: Clustering) -> None:
    """For features that know their images: `clusters.csv` and a contact sheet per cluster, of the first method."""
    if features.paths is not None:
        write_clusters_csv(run.path / "clusters.csv", features.files or features.paths, clustering)
    if features.files is not None and all(Path(file).is_file() for file in features.files[:1]):
        write_contact_sheets(run.path / "contact_sheets", features.files, clustering)


def _is_finished(run: RunFolder, method: str, splits: Mapping[str, FeatureSet]) -> bool:
    return all(run.clustering(method, split).is_file() for split in splits)


def _train(
    recipe: Recipe,
    dataset: Dataset,
    run: RunFolder,
    neighbors: Neighbors | None,
    resume: bool,
    logger: Any,
    log_prefix: str,
    val_every_n_epochs: int,
    fit_options: dict[str, Any],
) -> Neighbors | None:
    """Train one recipe and save its clusterings, the training split's last: it marks the method as finished."""
    result = fit_heads(
        dataset.train,
        recipe,
        neighbors=neighbors,
        checkpoint=run.checkpoint(recipe.loss),
        resume=resume,
        logger=logger,
        log_prefix=log_prefix,
        validation=(dataset.test or dataset.train) if val_every_n_epochs else None,
        val_every_n_epochs=val_every_n_epochs,
        **fit_options,
    )
    if not is_rank_zero():
        return result.neighbors
    notes = result.trained.warn_of_collapse(dataset.train)
    if recipe.pca_dim is not None:
        kept = 100 * float(result.trained.transform.explained_variance)
        notes.append(f"The heads see {recipe.pca_dim} principal directions, {kept:.1f} % of the variance.")
    for split, features in reversed(dataset.splits().items()):
        clustering = result.trained.assign(features)
        clustering = replace(clustering, seconds=result.seconds, notes=notes)
        clustering.save(run.clustering(recipe.loss, split))
    return result.neighbors


def _run_baseline(
    name: str,
    options: Mapping[str, Any],
    n_clusters: int | None,
    seed: int,
    splits: dict[str, FeatureSet],
    run: RunFolder,
    ranks: Ranks,
    linkages: Linkages,
) -> None:
    baseline = make_clusterer(name, linkages, n_clusters=n_clusters, seed=seed, **options)
    if baseline.over_ranks:
        fitted = baseline.fit(splits["train"].features, ranks)
    elif ranks.rank == 0:
        fitted = baseline.fit(splits["train"].features)
    if ranks.rank > 0:
        return
    for split in reversed(splits):
        clustering = fitted if split == "train" else baseline.predict(splits[split].features)
        replace(clustering, seconds=fitted.seconds).save(run.clustering(name, split))
