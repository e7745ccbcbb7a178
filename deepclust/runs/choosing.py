"""Choosing among clusterings without labels: clusterer, reduction and number of clusters by the silhouette.

Lowe et al. 2023 close with this advice: in a UMAP-reduced space the silhouette goes with AMI. It does so less in other
spaces and for fine-grained classes, and k-means optimizes much the same thing: where labels exist the choice is held
against the best, so that its price is known.

run folder/
  selection.json        every candidate, the chosen one, and how far it is from the best by AMI
  selection/<name>.npz  the Clusterings that the run itself did not make
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deepclust.clusterers import CLUSTERERS, Linkages, clusterer_class, make_clusterer
from deepclust.clustering import Clustering, display_name
from deepclust.features.dataset import Dataset
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import ami, silhouette
from deepclust.metrics.intrinsic import Metric
from deepclust.reduction.reduction import Reduction
from deepclust.reduction.splits import reduced_dataset
from deepclust.runs.folder import RunFolder
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_json, write_json


@dataclass(frozen=True)
class Candidate:
    """One clustering that may be chosen.

    Attributes:
        method: its name.
        reduction: the space it was made and is judged in, `none` for the features as they are.
        n_clusters: C that the method was told, or None.
        n_found: clusters found.
        silhouette: in that space; None where it is not defined.
        ami: agreement with labels, None without; it has no part in the choice.
        reason: why there is no clustering, or empty.
    """

    method: str
    reduction: str
    n_clusters: int | None
    n_found: int | None
    silhouette: float | None
    ami: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        told = "" if self.n_clusters is None else f" with C = {self.n_clusters}"
        where = "" if self.reduction == "none" else f" after {self.reduction}"
        return f"{display_name(self.method)}{told}{where}"


@dataclass(frozen=True)
class Selection:
    """The candidates, and which of them is taken.

    Attributes:
        candidates: all of them.
        chosen: the one with the highest silhouette, the first of equals; None where no silhouette is defined.
        best: the one with the highest AMI, None without labels.
    """

    candidates: Sequence[Candidate]
    chosen: Candidate | None
    best: Candidate | None

    @property
    def gap(self) -> float | None:
        """AMI that the choice gives away against the best candidate; None without labels."""
        if self.chosen is None or self.chosen.ami is None or self.best is None or self.best.ami is None:
            return None
        return self.best.ami - self.chosen.ami

    @property
    def note(self) -> str:
        """A sentence to stand under a table."""
        if self.chosen is None:
            return f"select=silhouette: none of {len(self.candidates)} candidates has a silhouette."
        said = f"By silhouette ({100 * (self.chosen.silhouette or 0):.1f}) the choice is {self.chosen}"
        if self.chosen.n_clusters is None:
            said += f", {self.chosen.n_found} clusters"
        if self.gap is None or self.chosen.ami is None:
            return f"{said}, of {len(self.candidates)} candidates."
        if self.gap == 0:
            return f"{said}: also the best by AMI ({100 * self.chosen.ami:.1f}), of {len(self.candidates)} candidates."
        assert self.best is not None
        return (
            f"{said}: its AMI is {100 * self.chosen.ami:.1f}, {100 * self.gap:.1f} below the best of "
            f"{len(self.candidates)} candidates, {self.best} at {100 * (self.best.ami or 0):.1f}."
        )

    def as_dict(self) -> dict[str, Any]:
        """What `selection.json` holds."""
        return {
            "by": "silhouette",
            "chosen": None if self.chosen is None else asdict(self.chosen),
            "best_by_ami": None if self.best is None else asdict(self.best),
            "ami_below_best": self.gap,
            "note": self.note,
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }


def space_name(reduction: Reduction) -> str:
    """A space as candidates name it: `none`, `UMAP 50`, `PCA 90 %`."""
    if reduction.kind == "none":
        return "none"
    kind = {"pca": "PCA", "umap": "UMAP", "pacmap": "PaCMAP"}.get(reduction.kind, reduction.kind)
    if reduction.variance is not None:
        return f"{kind} {100 * reduction.variance:g} %"
    return f"{kind} {reduction.dims}"


def select_by_silhouette(candidates: Iterable[Candidate]) -> Selection:
    """Choose the candidate with the highest silhouette.

    Candidates of one cluster, of as many clusters as samples, and refused ones have no silhouette and are not chosen.
    """
    everyone = list(candidates)
    judged = [candidate for candidate in everyone if candidate.silhouette is not None]
    labeled = [candidate for candidate in everyone if candidate.ami is not None]
    return Selection(
        everyone,
        max(judged, key=lambda candidate: candidate.silhouette or 0.0, default=None),
        max(labeled, key=lambda candidate: candidate.ami or 0.0, default=None),
    )


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """What `select=silhouette` asks for: which further clusterings are tried, to choose among all of them.

    Attributes:
        baselines: options by name of clusterer.
        reductions: spaces to try beside the run's.
        n_clusters: numbers of clusters to try; empty: the run's.
    """

    baselines: Mapping[str, Mapping[str, Any]]
    reductions: Sequence[Reduction] = ()
    n_clusters: Sequence[int] = ()

    def check(self, n_samples: int) -> None:
        """Raises InputError unless every number of clusters to try lies between 2 and the samples."""
        for count in self.n_clusters:
            if not isinstance(count, int) or not 2 <= count <= n_samples:
                raise InputError(
                    f"select.n_clusters holds {count}, but there are {n_samples} samples: choose between 2 and their "
                    "number"
                )

    def choose(
        self,
        run: RunFolder,
        reduced: Dataset,
        unreduced: Dataset,
        *,
        reduction: Reduction,
        methods: Iterable[str],
        n_clusters: int | None,
        seed: int = 0,
        cache_dir: Path | None = None,
    ) -> Selection:
        """Choose among a run's clusterings of the training split and further ones; writes `selection.json`.

        Args:
            run: the run folder.
            reduced, unreduced: its data set in the space that it clustered, and as it came.
            reduction: of the run.
            methods: those whose Clusterings the run left.
            n_clusters: C of the run.
            seed: of the baselines.
            cache_dir: where reduced features are kept.

        Raises:
            InputError: as `more_candidates`.
        """
        spaces: dict[str, Callable[[], FeatureSet]] = {space_name(reduction): lambda: reduced.train}
        for other in self.reductions:
            spaces.setdefault(space_name(other), partial(_train_split, other, unreduced, cache_dir))
        made = [judge(Clustering.load(run.clustering(name)), space_name(reduction), reduced.train) for name in methods]
        counts: list[int | None] = [*self.n_clusters] or [n_clusters]
        made += more_candidates(spaces, self.baselines, counts, known=made, seed=seed, folder=run.path / "selection")
        selection = select_by_silhouette(made)
        write_json(run.path / "selection.json", selection.as_dict())
        return selection


def judge(clustering: Clustering, space: str, features: FeatureSet) -> Candidate:
    """A clustering as a candidate: cosine silhouette of features as they are, the Euclidean one of reduced ones."""
    metric: Metric = "cosine" if space == "none" else "euclidean"
    return Candidate(
        clustering.method,
        space,
        clustering.n_clusters,
        clustering.n_found,
        silhouette(features.features, clustering.labels, metric=metric).value,
        None if features.labels is None else ami(features.labels, clustering.labels),
    )


def more_candidates(
    spaces: Mapping[str, Callable[[], FeatureSet]],
    baselines: Mapping[str, Mapping[str, Any]],
    n_clusters: Sequence[int | None],
    *,
    known: Iterable[Candidate] = (),
    seed: int = 0,
    folder: Path | None = None,
) -> list[Candidate]:
    """Every baseline in every space with every number of clusters that the run has not made yet.

    Args:
        spaces: what gives the training split in each space, by name; `none` are the features as they are.
        baselines: options by name.
        n_clusters: numbers to try where a baseline is told one.
        known: candidates that are there already.
        seed: of the baselines.
        folder: where their Clusterings are kept, and found again by a resumed run.

    Returns:
        The new candidates; one that is refused holds the reason.

    Raises:
        InputError: if a baseline is unknown, or one needs C and there is none to try.
    """
    there = {(item.method, item.reduction, item.n_clusters) for item in known}
    found = []
    for space, features_of in spaces.items():
        features: FeatureSet | None = None
        linkages = Linkages()
        for name, options in baselines.items():
            if name not in CLUSTERERS:
                raise InputError(f"no baseline is called '{name}': choose from {', '.join(CLUSTERERS)}")
            told = list(n_clusters) if clusterer_class(name).needs_n_clusters else [None]
            for count in told:
                if (name, space, count) in there:
                    continue
                if count is None and clusterer_class(name).needs_n_clusters:
                    raise InputError(f"{name} needs the number of clusters: set n_clusters=, or select.n_clusters=[…]")
                try:
                    features = features if features is not None else features_of()
                    found.append(_candidate(name, options, count, space, features, seed, folder, linkages))
                except InputError as error:
                    found.append(Candidate(name, space, count, None, None, reason=str(error)))
    return found


def kept_at(folder: Path, method: str, n_clusters: int | None, space: str) -> Path:
    """Where the Clustering of a candidate lies in the folder of those that the run itself did not make."""
    return folder / f"{method}{'' if n_clusters is None else f'_{n_clusters}'}_{space.replace(' ', '_')}.npz"


def selected_of(folder: RunFolder) -> Path | None:
    """The clustering that `select=silhouette` chose in a run, or None."""
    place = folder.path / "selection.json"
    chosen = read_json(place)["chosen"] if place.is_file() else None
    if chosen is None:
        return None
    told = (chosen["method"], chosen["n_clusters"], chosen["reduction"])
    kept = kept_at(folder.path / "selection", *told)
    return kept if kept.is_file() else folder.clustering(chosen["method"])


def _train_split(reduction: Reduction, dataset: Dataset, cache_dir: Path | None) -> FeatureSet:
    return reduced_dataset(reduction, dataset, cache_dir=cache_dir).train


def _candidate(
    name: str,
    options: Mapping[str, Any],
    n_clusters: int | None,
    space: str,
    features: FeatureSet,
    seed: int,
    folder: Path | None,
    linkages: Linkages,
) -> Candidate:
    path = None
    if folder is not None:
        path = kept_at(folder, name, n_clusters, space)
    if path is not None and path.is_file():
        clustering = Clustering.load(path)
    else:
        normalize = {} if space == "none" else {"normalize": "none"}
        options = {**normalize, **options}
        clusterer = make_clusterer(name, linkages, **{"n_clusters": n_clusters, "seed": seed, **options})
        clustering = clusterer.fit(features.features)
        if path is not None:
            clustering.save(path)
    return judge(clustering, space, features)
