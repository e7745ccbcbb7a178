"""The steps of a run: reduce, train heads, run the baselines beside them, score everything the same way."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepclust.clusterers import Clusterer, make_clusterer
from deepclust.clustering import Clustering, display_name
from deepclust.cuts.confidence import disagreement
from deepclust.cuts.exploration import Cut
from deepclust.cuts.settling import settle
from deepclust.cuts.voting import is_voted, voted_cuts, with_voted
from deepclust.features.dataset import Dataset
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import cluster_accuracy, distance_of, score
from deepclust.neighbors import Neighbors, cached_neighbors
from deepclust.neighbors.spectral import Partitions
from deepclust.report.cluster_names import names_of
from deepclust.report.contact_sheet import Thumbnails, write_contact_sheets
from deepclust.report.published import published_notes
from deepclust.report.sample_tables import write_clusters, write_samples
from deepclust.report.sweeps import Run
from deepclust.report.tables import write_results
from deepclust.runs.choosing import Selection, selected_of
from deepclust.runs.cutting import answers_about, keep_exploration
from deepclust.runs.folder import RunFolder
from deepclust.runs.identity import Identity
from deepclust.runs.watching import HeadWatch
from deepclust.runtime.errors import InputError
from deepclust.runtime.progress import Stage
from deepclust.runtime.ranks import Ranks
from deepclust.training.initialization import views_at_start
from deepclust.training.loggers import log_final
from deepclust.training.recipe import Recipe
from deepclust.training.trained import TrainedHeads

if TYPE_CHECKING:
    from deepclust.runs.experiment import Experiment

# Neighbors that say how far off a sample is. Runs without heads mine them for at most so many samples.
TOLD_BY, MINED_ROWS = 10, 20_000
VALIDATED = ("acc", "nmi", "ami", "ari", "silhouette", "n_found")


@dataclass
class Results:
    """Rows of results, the sentences that belong under their table, and what `select=` chose among."""

    rows: list[dict[str, Any]]
    notes: list[str]
    candidates: Sequence[Mapping[str, Any]] = ()


class Steps:
    """A run under way: its steps, and what they share. Every step is taken on every rank.

    Args:
        experiment: what is asked for.
        data: its data set in the space that is clustered.
        folder: where everything goes.
        ranks: the processes of the run.
        logger: a Lightning logger, or False.
        resume: continue a killed run.
        progress: show how far it is: bars where stdout is a terminal, else lines now and then.
        identity: of the run; None for one of a version without identities.

    Attributes:
        neighbors: of the training split, once they are mined.
        partitions: of these neighbors, shared by the losses that start from them.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: Dataset,
        folder: RunFolder,
        ranks: Ranks,
        *,
        logger: Any = False,
        resume: bool = False,
        progress: bool = False,
        identity: Identity | None = None,
    ) -> None:
        self.experiment = experiment
        self.data = data
        self.folder = folder
        self.ranks = ranks
        self.logger = logger
        self.resume = resume
        self.progress = progress
        self.neighbors: Neighbors | None = None
        self.identity = identity
        self.partitions = Partitions()

    def by_neighbors(self, recipes: Sequence[Recipe]) -> list[Recipe]:
        """The recipes, that of the largest neighborhood first: it is mined once and serves the smaller ones."""
        return sorted(recipes, key=lambda recipe: -recipe.mined_neighbors(len(self.data.train)))

    def is_finished(self, method: str) -> bool:
        """Whether the method has left its clusterings already, in the eyes of the first rank."""
        first = self.ranks.rank == 0  # the others need not read them
        return self.ranks.decide(first and self.folder.has_finished(method, self.data.splits(), self.digest(method)))

    def digest(self, method: str) -> str | None:
        """What the method's checkpoint and clusterings name as their identity."""
        return None if self.identity is None else self.identity.digest(method)

    def train(self, recipe: Recipe) -> None:
        """Train one recipe and save its clusterings, the training split's last: it marks the method as finished."""
        method, run = recipe.loss.name, self.experiment
        if self.is_finished(method):
            return
        # Imported here: Lightning takes seconds, and `--help` and a mistyped setting answer without it.
        from deepclust.training.checkpoint import keep_heads
        from deepclust.training.fit import fit_heads

        started, voted = time.perf_counter(), None
        if is_voted(recipe, run.bounds, run.constraints is not None):
            voted = self.voted(recipe)
            recipe = with_voted(recipe, voted)
        before = time.perf_counter() - started
        result = fit_heads(
            self.data.train,
            recipe,
            run.trainer,
            neighbors=self.neighbors,
            partitions=self.partitions,
            cache_dir=run.neighbors_dir,
            mining=run.mining,
            checkpoint=self.folder.checkpoint(method),
            resume=self.resume,
            logger=self.logger,
            log_prefix=f"{method}/" if len(run.recipes) > 1 else "",
            validate=validation(self.data.test or self.data.train, silhouette=run.silhouette),
            watch=HeadWatch(self.data.train, recipe.n_clusters),
            progress=self.progress,
            in_memory=run.in_memory,
            identity=self.digest(method),
        )
        self.neighbors = result.neighbors
        with self.stage(f"{recipe.loss.title}: assigning samples"), self.ranks.all_or_none():
            if self.ranks.rank == 0:
                self.save_assignments(result.trained, before + result.seconds, result.neighbors, voted)
                keep_heads(self.folder.checkpoint(recipe.loss.name))

    def voted(self, recipe: Recipe) -> Sequence[Cut]:
        """What speaks for each number of clusters, before one of them is trained, on every rank."""
        run, train = self.experiment, self.data.train
        if self.neighbors is None:
            wanted = recipe.mined_neighbors(len(train))
            self.neighbors = cached_neighbors(
                train,
                wanted,
                cache_dir=run.neighbors_dir,
                **asdict(run.mining),
                progress=self.progress,
                ranks=self.ranks,
            )
        found: Sequence[Cut] = ()
        with self.ranks.all_or_none():
            if self.ranks.rank == 0:
                assert run.bounds is not None
                found = voted_cuts(
                    train,
                    self.neighbors,
                    run.bounds,
                    seed=recipe.seed,
                    partitions=self.partitions,
                    progress=self.progress,
                )
        return self.ranks.gather_objects(found)[0]

    def save_assignments(
        self, trained: TrainedHeads, seconds: float, neighbors: Neighbors, voted: Sequence[Cut] | None = None
    ) -> None:
        """Settle the number of clusters and the confidence, assign every split, and save the clusterings with what is
        to be said of them.

        Raises:
            InputError: if options of Lightning's ended training before its first epoch did: no head is the best then.
        """
        if not np.isfinite(trained.losses_H).any():
            raise InputError(f"{trained.recipe.loss.name}: no epoch was trained to its end: leave out what shortens it")
        notes = trained.warn_of_collapse(self.data.train)
        if trained.recipe.pca_dim is not None:
            kept = 100 * float(trained.transform.explained_variance)
            notes.append(f"The heads see {trained.recipe.pca_dim} principal directions, {kept:.1f} % of the variance.")
        method, run, train = trained.recipe.loss.name, self.experiment, self.data.train
        views_VN = views_at_start(trained.recipe, train, neighbors, self.partitions)
        answers = answers_about(run.constraints, train)
        exploration = settle(trained, train, neighbors, run.bounds, answers, views_VN, voted)
        if exploration is not None:
            keep_exploration(self.folder, method, exploration, train, trained.assign(train))
            notes.append(f"{display_name(method)}: {exploration.note}")
        trained.save_settled(self.folder.checkpoint(method), self.digest(method))
        for split, features in reversed(self.data.splits().items()):
            found = trained.assign(features)
            uncertain_N = disagreement(trained, features, found.labels, views_VN if split == "train" else None)
            more: dict[str, Any] = {
                "seconds": seconds,
                "notes": notes,
                "identity": self.digest(method),
                "disagreement": uncertain_N,
            }
            replace(found, **more).save(self.folder.clustering(method, split))

    def stage(self, description: str, total: int | None = None, unit: str = "") -> Stage:
        """What is told of a step while it lasts, by the first rank."""
        return Stage(description, total, unit=unit, enabled=self.progress and self.ranks.rank == 0)

    def cluster(self, name: str, options: Mapping[str, Any]) -> None:
        """Run one baseline over the ranks, or on the first of them, and save its clusterings."""
        if self.is_finished(name):
            return
        run, train = self.experiment, self.data.train
        # Directions of features that were reduced have no meaning.
        normalize = {} if train.reduction is None else {"normalize": "none"}
        settings = {"n_clusters": self.found_number(), "seed": run.seed, **normalize, **options}
        clusterer = make_clusterer(name, run.linkages, **settings)
        with self.stage(f"{display_name(name)} of {len(train):,} samples"):
            fitted = clusterer.fit(train.features, self.ranks) if clusterer.over_ranks else None
            with self.ranks.all_or_none():
                if self.ranks.rank == 0:
                    self.save_clusterings(clusterer, clusterer.fit(train.features) if fitted is None else fitted)

    def found_number(self) -> int | None:
        """C of the baselines: that of the run, or what its first loss was cut into."""
        run = self.experiment
        if run.bounds is None:
            return run.n_clusters
        with self.ranks.all_or_none():
            found = None
            if self.ranks.rank == 0:
                found = Clustering.load(self.folder.clustering(run.recipes[0].loss.name)).n_clusters
        return self.ranks.gather_objects(found)[0]

    def save_clusterings(self, clusterer: Clusterer, fitted: Clustering) -> None:
        """Assign the other splits, and save all, the training split last."""
        for split, features in reversed(self.data.splits().items()):
            clustering = fitted if split == "train" else clusterer.predict(features.features)
            clustering = replace(clustering, seconds=fitted.seconds, identity=self.digest(clusterer.name))
            clustering.save(self.folder.clustering(clusterer.name, split))

    def score(self) -> Results | None:
        """Score what every method left; write the tables, the choice and the pictures. None but on the first rank."""
        with self.ranks.all_or_none():
            return self.scored_methods() if self.ranks.rank == 0 else None

    def scored_methods(self) -> Results:
        """The rows of every method, written and shown."""
        run, reduction = self.experiment, self.data.train.reduction
        notes = [*run.notes, *([] if reduction is None else [reduction["note"]])]
        rows = []
        splits = self.data.splits()
        found: dict[str, dict[str, Clustering]] = {split: {} for split in splits}
        with self.stage("scoring", len(run.methods()) * len(splits), "clusterings") as stage:
            for method, (split, features) in itertools.product(run.methods(), splits.items()):
                clustering = found[split][method] = Clustering.load(self.folder.clustering(method, split))
                rows.append(scored(clustering, features, split, run.seed, notes, silhouette=run.silhouette))
                notes.extend(note for note in clustering.notes if note not in notes)
                stage.advance()
        notes.extend(published_notes(Run(run.config, rows, self.folder.path.name)))
        candidates: Sequence[Mapping[str, Any]] = ()
        if run.choosing is not None:
            with self.stage("choosing without labels"):
                selection = self.choose()
            notes.append(selection.note)
            candidates = selection.as_dict()["candidates"]
        write_results(self.folder.path, rows, notes)
        if self.identity is not None:
            replace(self.identity, results_of=self.identity.asked).write(self.folder.identity)
        selected = selected_of(self.folder) if run.choosing is not None else None
        if selected is not None and selected.parent.name == "selection":
            found["train"] = {selected.stem: Clustering.load(selected), **found["train"]}
        write_tables(self.folder, splits, found, self.nearest())
        show_images(self.folder, self.data.train, found["train"])
        log_final(rows, self.logger, len(run.recipes) > 1)
        return Results(rows, notes, candidates)

    def nearest(self) -> Neighbors | None:
        """The nearest neighbors that outliers and near duplicates are told by; None where finding them takes long."""
        run, n_samples = self.experiment, len(self.data.train)
        k = min(TOLD_BY, n_samples - 1)
        if self.neighbors is not None and self.neighbors.k >= k:
            return self.neighbors.first(k)
        if n_samples > MINED_ROWS and not run.recipes:
            return None
        return cached_neighbors(self.data.train, k, cache_dir=run.neighbors_dir, **asdict(run.mining))

    def choose(self) -> Selection:
        """Choose among this run's clusterings and further ones."""
        run = self.experiment
        assert run.choosing is not None
        return run.choosing.choose(
            self.folder,
            self.data,
            run.dataset,
            reduction=run.reduction,
            methods=run.methods(),
            n_clusters=run.n_clusters,
            seed=run.seed,
            cache_dir=run.reductions_dir,
        )


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
    rows_ND = features.features if silhouette else None
    row = score(clustering, rows_ND, features.labels, split=split, seed=seed, silhouette_metric=distance_of(features))
    if clustering.repeats is not None and features.labels is not None:
        accuracies = ", ".join(f"{100 * cluster_accuracy(features.labels, run_N):.1f}" for run_N in clustering.runs)
        notes.append(
            f"{display_name(clustering.method)}, {split}: means over {len(clustering.runs)} runs, whose accuracies are "
            f"{accuracies} %."
        )
    if silhouette and row["silhouette"] is None:
        notes.append(
            f"{display_name(clustering.method)}, {split}: no silhouette, as {row['n_found']} clusters of "
            f"{len(clustering)} samples were found, and it compares at least 2 with members."
        )
    return row


def validation(features: FeatureSet, *, silhouette: bool = True) -> Callable[[TrainedHeads], dict[str, float]]:
    """What is logged of a split along the way: without labels the silhouette, where it is wanted, and the number of
    clusters found.

    Training never looks at these numbers.
    """

    def validate(trained: TrainedHeads) -> dict[str, float]:
        clustering = trained.assign(features)
        rows_ND = features.features if silhouette else None
        row = score(clustering, rows_ND, features.labels, silhouette_metric=distance_of(features))
        return {key: float(row[key]) for key in VALIDATED if row[key] is not None}

    return validate


def write_tables(
    folder: RunFolder,
    splits: Mapping[str, FeatureSet],
    found: Mapping[str, Mapping[str, Clustering]],
    neighbors: Neighbors | None,
) -> None:
    """Every sample and every cluster of every method as Parquet and CSV.

    Args:
        folder: where they are written.
        splits: the features by split.
        found: clusterings by split and method.
        neighbors: of the training split, by which outliers and near duplicates are told; None tells none.
    """
    train = splits["train"]
    # Clusters are named by what is in them of the training split, in every split alike.
    names = {
        method: names_of(train.labels, train.class_names, train.texts, clustering.labels)
        for method, clustering in found["train"].items()
    }
    for split, clusterings in found.items():
        if not clusterings:
            continue
        stem = folder.path / ("samples" if split == "train" else f"samples_{split}")
        write_samples(stem, splits[split], clusterings, names, neighbors if split == "train" else None)
    if found["train"]:
        write_clusters(folder.path / "clusters", train, found["train"], names)


def show_images(folder: RunFolder, features: FeatureSet, clusterings: Mapping[str, Clustering]) -> None:
    """For features that know their images: a contact sheet per cluster of every method."""
    files = features.files
    if files is None or not all(Path(file).is_file() for file in files[:1]):
        return
    thumbnails = Thumbnails(files)
    for method, clustering in clusterings.items():
        write_contact_sheets(folder.path / "contact_sheets" / method, thumbnails, clustering)
