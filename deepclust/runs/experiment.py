"""The experiment: everything that one run is asked for, checked and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepclust.clusterers import Linkages, make_clusterer
from deepclust.cuts.exploration import check_can_choose
from deepclust.cuts.voting import is_voted
from deepclust.features.dataset import Dataset
from deepclust.features.transform import FeatureTransform
from deepclust.neighbors.mining import MiningSettings
from deepclust.reduction.reduction import Reduction
from deepclust.reduction.splits import reduced_dataset
from deepclust.runs.choosing import Choosing
from deepclust.runs.cutting import answers_about
from deepclust.runs.folder import RunFolder
from deepclust.runs.identity import Identity
from deepclust.runs.steps import Results, Steps
from deepclust.runtime.errors import InputError
from deepclust.runtime.progress import Stage, begin_run
from deepclust.runtime.ranks import ALONE, Launch, Ranks, is_first_process
from deepclust.runtime.settings import check_settings, seed_setting, setting
from deepclust.training.loggers import LoggerSettings, logging_to
from deepclust.training.recipe import Recipe
from deepclust.training.step_memory import check_heads_fit
from deepclust.training.trainer_settings import TrainerSettings

Show = Callable[[Any, LoggerSettings, RunFolder], None]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that one run is asked for.

    Attributes:
        config: the settings that it was read from, to be noted down; empty for one that was made otherwise.
        dataset: features of the splits, as they came.
        recipes: one per loss, at most one of each.
        baselines: options by name of clusterer.
        notes: sentences for the table that are known before the run.
        n_clusters: C of the baselines; None where nobody knows it.
        bounds: where the number is to be found, by merging clusters of the heads; None where it is known. Baselines
            take the number of the first loss.
        constraints: a file of answers about samples, which choose among the bounds.
        seed: of the baselines, and in the rows of results.
        reduction: what the features are reduced by before anything is clustered.
        choosing: what else to try and to choose from without labels; None chooses nothing.
        trainer: where and how the heads are trained.
        mining: how neighbors are searched.
        logger: where metrics go along the way.
        neighbors_dir, reductions_dir: where they are kept; None keeps them beside the features.
        in_memory: of `fit_heads`.
        silhouette: compute it; at thousands of clusters it costs more than all else that is scored.
        linkages: those of the training split, which runs on the same data may share.
    """

    dataset: Dataset
    config: Mapping[str, Any] = field(default_factory=dict)
    recipes: Sequence[Recipe] = ()
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    n_clusters: int | None = None
    bounds: tuple[int, int] | None = None
    constraints: str | None = None
    seed: int = seed_setting(0, "of the baselines, and in the rows of results")
    reduction: Reduction = field(default_factory=lambda: Reduction("none"))
    choosing: Choosing | None = None
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    mining: MiningSettings = field(default_factory=MiningSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings)
    neighbors_dir: Path | None = None
    reductions_dir: Path | None = None
    in_memory: bool | None = setting(None, "of `fit_heads`", flag=True)
    silhouette: bool = setting(True, "whether it is computed", flag=True)
    linkages: Linkages = field(default_factory=Linkages, compare=False)

    def check(self, *, alone: bool = False) -> None:
        """Refuse everything that can be refused before anything is written.

        Args:
            alone: refuse to train over several processes, too: every rank of a job of a sweep would start the sweep
                again.

        Raises:
            InputError: NaN, infinite or zero rows, too few samples for the clusters or neighbors, splits of different
                dimensions, options that no baseline has, more samples than a baseline's memory reaches, a reduction
                that the features do not allow, or a device, strategy or precision that this machine does not have.
        """
        # Imported here: Lightning takes seconds, and `--help` and a mistyped setting answer without it.
        from deepclust.training.trainer import check_launch, joined_ranks, n_processes, trains_on_a_cpu

        check_settings(self)
        train = self.dataset.train
        trainer = self.trainer
        if self.recipes:
            check_launch(trainer)
        several = bool(self.recipes) and (n_processes(trainer) > 1 or trainer.strategy == "ddp")
        if several and alone:
            raise InputError(
                f"a sweep (-m) cannot train with strategy={trainer.strategy} on devices={trainer.devices}, as every "
                "rank would start the sweep again: run the sweep on one device per job, or start the runs one by one"
            )
        for recipe in self.recipes:
            recipe.check_features(len(train))
            self.mining.check(len(train), recipe.mined_neighbors(len(train)))
            seen = FeatureTransform(train.dim, recipe.preprocess, recipe.pca_dim).out_dim
            if self.reduction.kind == "none" and trainer.shard == "batch" and trains_on_a_cpu(trainer):
                check_heads_fit(recipe, seen)
            if self.reduction.kind != "none" and recipe.pca_dim is not None:
                raise InputError(
                    f"pca_dim={recipe.pca_dim} would project again what reduction={self.reduction.kind} has reduced: "
                    "leave one of them out"
                )
        if self.n_clusters is not None and not 2 <= self.n_clusters <= len(train):
            raise InputError(
                f"n_clusters={self.n_clusters}, but there are {len(train)} samples: choose between 2 and their number"
            )
        constrained = self.constraints is not None
        for recipe in self.recipes:
            voted = is_voted(recipe, self.bounds, constrained)
            check_can_choose(self.bounds, constrained or voted, recipe.n_heads)
        if not self.recipes:
            check_can_choose(self.bounds, constrained, 0)
        answers_about(self.constraints, train)
        self.reduction.check(len(train), train.dim)
        most = self.n_clusters if self.bounds is None else self.bounds[1]
        for name, options in self.baselines.items():
            make_clusterer(name, **{"n_clusters": most, "seed": self.seed, **options}).check(len(train))
        if self.choosing is not None:
            self.choosing.check(len(train))
        launch = Launch.from_environment()
        # Where the ranks are there already, they share the rows; Lightning starts its own once the first has checked.
        ranks = joined_ranks(trainer, trains=bool(self.recipes)) if launch.starts_every_rank else ALONE
        checked_before = launch.started_by == "lightning" and launch.rank > 0
        if not checked_before:
            self.dataset.check(ranks)
        for name, split in self.dataset.splits().items():
            if split.dim != train.dim:
                raise InputError(
                    f"the {name} split has {split.dim} dimensions, the train split {train.dim}: "
                    "make both with the same encoder"
                )

    def run(
        self, folder: RunFolder, *, resume: bool = False, progress: bool = False, show: Show | None = None
    ) -> Results | None:
        """Reduce, train, cluster, score and save; finished methods of a resumed run are read back, not run again.

        Args:
            folder: the run folder.
            resume: continue a killed run.
            progress: show how far it is: bars where stdout is a terminal, else lines now and then.
            show: called on rank 0 with the logger, its settings and the folder once all is written, where there is a
                logger: what it shows beside the numbers.

        Returns:
            The results on rank 0, None on the other ranks of a distributed run, which only take part in training.

        Raises:
            InputError: if another run writes to the folder, it is a run on other data or with other settings, or a
                checkpoint does not fit.
        """
        begin_run()
        with folder.claimed(resume=resume) if is_first_process() else nullcontext():
            identity = None
            with Ranks.of_run().all_or_none():  # features of a bare file are read for it: once is enough
                if is_first_process():
                    identity = self.identity(folder, resume=resume)
            return self._run(folder, identity, resume, progress, show)

    def _run(
        self, folder: RunFolder, identity: Identity | None, resume: bool, progress: bool, show: Show | None
    ) -> Results | None:
        from deepclust.training.trainer import joined_ranks

        ranks = joined_ranks(self.trainer, trains=bool(self.recipes))
        identity = ranks.gather_objects(identity)[0]
        train = self.dataset.train
        facts = {"n_samples": len(train), "n_dimensions": train.dim}
        if self.n_clusters is not None:
            facts["n_clusters"] = self.n_clusters
        with logging_to(self.logger, folder.path, self.config, facts, ranks) as logger:
            if ranks.rank == 0:
                if identity is not None:
                    identity.write(folder.identity)
                if self.config and not folder.config.exists():  # last, as it makes the folder one that can be resumed
                    folder.write_config(self.config)
            data = self.reduced(folder, ranks, progress)
            steps = Steps(self, data, folder, ranks, logger=logger, resume=resume, progress=progress, identity=identity)
            for recipe in steps.by_neighbors(self.recipes):
                steps.train(recipe)
            for name, options in self.baselines.items():
                steps.cluster(name, options)
            results = steps.score()
            if logger and show is not None:
                with ranks.all_or_none(), steps.stage("pictures for the dashboard"):
                    if ranks.rank == 0:
                        show(logger, self.logger, folder)
            return results

    def reduced(self, folder: RunFolder, ranks: Ranks, progress: bool) -> Dataset:
        """The data set in the space that is clustered."""
        shown = progress and ranks.rank == 0 and self.reduction.kind != "none"
        with Stage(f"reducing by {self.reduction.kind}", enabled=shown):
            return reduced_dataset(
                self.reduction,
                self.dataset,
                mining=self.mining,
                cache_dir=self.reductions_dir,
                neighbors_dir=self.neighbors_dir,
                record=folder.reduction if ranks.rank == 0 else None,
            )

    def identity(self, folder: RunFolder, *, resume: bool) -> Identity | None:
        """What this run is, with the methods that the folder of a resumed run holds beside its own.

        Returns:
            None for the folder of a version that noted down no identities: only its checkpoints are checked.

        Raises:
            InputError: if the folder is a run on other data or with other settings.
        """
        before = Identity.read(folder.identity) if resume else None
        if before is not None:
            return Identity.of(self).continued(before, folder.path)
        of_old = resume and (folder.trained_methods() or folder.saved_methods())
        return None if of_old else Identity.of(self)

    def is_finished(self, folder: RunFolder) -> bool:
        """Whether the folder holds the results of this very run.

        Raises:
            InputError: if it is a run on other data or with other settings.
        """
        identity = self.identity(folder, resume=True)
        return folder.results.is_file() and (identity is None or identity.results_of == identity.asked)

    def methods(self) -> list[str]:
        """The names of the losses, then of the baselines."""
        return [*(recipe.loss.name for recipe in self.recipes), *self.baselines]
