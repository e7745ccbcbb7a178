"""The zero-shot protocol's clusterers, candidates and stages (Lowe et al. 2023, appendix C.2).

The order of the search, each stage with what the earlier ones chose, per encoder:

1. reduction: per clusterer, with the clusterer at its defaults; where a UMAP wins, the consistent one is taken
2. agglomerative: metric and linkage, with C given
3. agglomerative without C: the distance threshold
4. affinity propagation: damping
5. HDBSCAN: the largest cluster
6. spectral: neighbors (Lowe et al. 2024 add the clusterer; no candidates by default)
7. OPTICS: neighbors that make a sample dense
8. Louvain and Leiden: resolution

The last two are ours: the authors' code offers OPTICS and Louvain, neither paper nor slides report them. Trained heads
(TEMI, SCANv2, TSP) take part as they come: their settings are those of `Recipe.of`, and nothing is searched for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepclust.clusterers import clusterer_class
from deepclust.clusterers.base import MAX_SAMPLES
from deepclust.clusterers.dendrogram import LINKAGES, METRICS
from deepclust.losses import LOSSES
from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import check_settings, setting

Settings = Mapping[str, Any]

NO_REDUCTION: Settings = {"kind": "none"}
CLASSES = "classes"
HEADS = "heads"


@dataclass(frozen=True)
class ProtocolClusterer:
    """One row group of the tables: a method and what the protocol starts from.

    Attributes:
        name: what configs and files call it.
        title: what tables call it.
        method: the name in `deepclust.clusterers.CLUSTERERS`, or `HEADS`.
        given_n_clusters: whether it is told C.
        defaults: its options in the first stage; the paper takes scikit-learn's. Rows are clustered as the reduction
            leaves them unless `normalize` is among these, and all of them unless `max_samples` says otherwise.
        follows: the clusterer whose reduction and options it takes over, or None for a search of its own.
        searched: whether there is anything to search. Trained heads have their settings, and see the features as they
            come.
    """

    name: str
    title: str
    method: str
    given_n_clusters: bool
    defaults: Settings = field(default_factory=dict)
    follows: str | None = None
    searched: bool = True


# The losses of the papers that this project trains; `classes` and the other losses are comparators of theirs.
IN_PROTOCOL = ("temi", "scan", "tsp")
# All samples take part, as in the paper; what does not fit the memory is refused.
_TREE: Settings = {"linkage": "ward", "metric": "euclidean", "max_samples": None}
_IN_ORDER = (
    ProtocolClusterer("kmeans", "k-means", "kmeans_l2", True),
    ProtocolClusterer("spherical_kmeans", "Spherical k-means", "kmeans", True, {"normalize": "l2"}),
    # The assignment and the number of neighbors of the authors' published settings.
    ProtocolClusterer("spectral", "Spectral", "spectral", True, {"n_neighbors": 10, "assign_labels": "cluster_qr"}),
    ProtocolClusterer("agglomerative", "AC w/ C", "agglomerative", True, _TREE),
    ProtocolClusterer("agglomerative_threshold", "AC w/o C", "agglomerative", False, follows="agglomerative"),
    # The authors' published code allows 1000 rounds.
    ProtocolClusterer(
        "affinity_propagation", "Affinity prop.", "affinity_propagation", False,
        {"damping": 0.5, "max_iter": 1000, "max_samples": None},
    ),
    ProtocolClusterer("hdbscan", "HDBSCAN", "hdbscan", False, {"max_cluster_size": None, "max_samples": None}),
    # 5 is the default of scikit-learn and of the authors' code. It walks from sample to sample, in N² time.
    ProtocolClusterer("optics", "OPTICS", "optics", False, {"min_samples": 5, "max_samples": MAX_SAMPLES}),
    ProtocolClusterer("louvain", "Louvain", "louvain", False, {"resolution": 1.0}),
    ProtocolClusterer("leiden", "Leiden", "leiden", False, {"resolution": 1.0}),
    *(ProtocolClusterer(name, LOSSES[name].title, HEADS, True, {"loss": name}, searched=False) for name in IN_PROTOCOL),
)  # fmt: skip
PROTOCOL_CLUSTERERS: Mapping[str, ProtocolClusterer] = {clusterer.name: clusterer for clusterer in _IN_ORDER}


def dims_setting(*default: int) -> Any:
    """A `setting` of dimensions to reduce to."""
    return setting(default, "dimensions", each=True, at_least=1, whole=True)


@dataclass(frozen=True)
class Candidates:
    """What each stage of the search tries; the defaults are the paper's lists, where it gives one.

    Attributes:
        unreduced: whether the features as they are take part.
        pca_dims, pca_variances, umap_dims: the first stage's reductions.
        pacmap_dims: likewise; a reduction of Lowe et al. 2024.
        consistent_umap_dims: where a UMAP is the best, this one is taken, as the choice among them made no difference;
            None keeps the best.
        metrics, linkages: of agglomerative clustering; ward goes with `euclidean` alone, which leaves 13 pairs.
        thresholds: 21 in the paper, "sampled logarithmically from 0.001 to 5000": the series 1, 2, 5 of each decade.
        dampings: of affinity propagation; the paper names none. 0.5 is scikit-learn's default, 0.9 the authors'
            published setting.
        max_cluster_shares: of HDBSCAN; the paper's is set, not searched: 20 % of N.
        spectral_neighbors: of spectral clustering; the paper has no such stage.
        optics_min_samples: of OPTICS; ours, from scikit-learn's default upwards.
        resolutions: of Louvain and Leiden; ours, around 1, the plain modularity.
    """

    unreduced: bool = setting(True, "features as they are", flag=True)
    pca_dims: Sequence[int] = dims_setting(2, 5, 10, 20, 50, 100, 200, 500)
    pca_variances: Sequence[float] = setting(
        (0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99), "shares", each=True, above=0, below=1
    )
    umap_dims: Sequence[int] = dims_setting(2, 5, 10, 20, 50, 100, 200, 500)
    pacmap_dims: Sequence[int] = dims_setting()
    consistent_umap_dims: int | None = setting(50, "dimensions", at_least=1, whole=True, optional=True)
    metrics: Sequence[str] = setting(("l1", "euclidean", "linf", "cosine"), "names", each=True, choices=METRICS)
    linkages: Sequence[str] = setting(("ward", "complete", "average", "single"), "names", each=True, choices=LINKAGES)
    thresholds: Sequence[float] = setting(
        tuple(round(step * 10.0**decade, 3) for decade in range(-3, 4) for step in (1, 2, 5)),  # 0.001 … 5000
        "distances",
        each=True,
        above=0,
    )
    dampings: Sequence[float] = setting((0.5, 0.7, 0.9), "dampings", each=True, at_least=0.5, below=1)
    max_cluster_shares: Sequence[float] = setting((0.2,), "shares of N", each=True, above=0, at_most=1)
    spectral_neighbors: Sequence[int] = setting((), "neighbors", each=True, at_least=2, whole=True)
    optics_min_samples: Sequence[int] = setting((5, 10, 20, 50), "samples", each=True, at_least=2, whole=True)
    resolutions: Sequence[float] = setting((0.1, 0.2, 0.5, 1.0, 2.0, 5.0), "of the modularity", each=True, above=0)

    def __post_init__(self) -> None:
        check_settings(self)

    def reductions(self) -> list[Settings]:
        """The first stage's candidates, in the paper's order."""
        candidates: list[Settings] = [NO_REDUCTION] if self.unreduced else []
        candidates += [{"kind": "pca", "dims": dims} for dims in self.pca_dims]
        candidates += [{"kind": "pca", "variance": share} for share in self.pca_variances]
        candidates += [{"kind": "umap", "dims": dims} for dims in self.umap_dims]
        candidates += [{"kind": "pacmap", "dims": dims} for dims in self.pacmap_dims]
        if not candidates:
            raise InputError("search: there is no reduction to try: give candidates, or unreduced=true")
        return candidates

    def linkages_and_metrics(self) -> list[Settings]:
        """The second stage's candidates."""
        return [
            {"linkage": linkage, "metric": metric}
            for linkage in self.linkages
            for metric in (("euclidean",) if linkage == "ward" else self.metrics)
        ]


@dataclass(frozen=True)
class Stage:
    """One stage of the search of one clusterer: the options to vary."""

    name: str
    clusterer: str
    options: list[Settings]


def option_stages(candidates: Candidates) -> list[Stage]:
    """The stages after the first, in the paper's order."""
    return [
        Stage("linkage", "agglomerative", candidates.linkages_and_metrics()),
        Stage(
            "threshold", "agglomerative_threshold", [{"distance_threshold": value} for value in candidates.thresholds]
        ),
        Stage("damping", "affinity_propagation", [{"damping": value} for value in candidates.dampings]),
        Stage("max_cluster_size", "hdbscan", [{"max_cluster_size": value} for value in candidates.max_cluster_shares]),
        Stage("neighbors", "spectral", [{"n_neighbors": value} for value in candidates.spectral_neighbors]),
        Stage("min_samples", "optics", [{"min_samples": value} for value in candidates.optics_min_samples]),
        *(
            Stage("resolution", name, [{"resolution": value} for value in candidates.resolutions])
            for name in ("louvain", "leiden")
        ),
    ]


def check_clusterers(names: Sequence[str]) -> list[ProtocolClusterer]:
    """The clusterers of these names, in the order given.

    Raises:
        InputError: if a name is unknown or twice there, there is none, or one follows another that is not among them.
    """
    if not names:
        raise InputError(f"clusterers is empty: choose from {', '.join(PROTOCOL_CLUSTERERS)}")
    for name in names:
        if name not in PROTOCOL_CLUSTERERS:
            raise InputError(f"clusterers: '{name}' is unknown: choose from {', '.join(PROTOCOL_CLUSTERERS)}")
        if list(names).count(name) > 1:
            raise InputError(f"clusterers: '{name}' is there twice")
    return [PROTOCOL_CLUSTERERS[name] for name in names]


def check_installed(clusterers: Sequence[ProtocolClusterer]) -> None:
    """Raise InputError where a clusterer's library is missing, before its cells are refused one by one."""
    for clusterer in clusterers:
        if clusterer.method != HEADS:
            clusterer_class(clusterer.method).check_installed()


def check_name(name: str, setting: str) -> str:
    """A name that becomes part of a file's name.

    Raises:
        InputError: if it holds anything but letters, digits, `_`, `-` and `.`, or starts with a dot.
    """
    if not re.fullmatch(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*", name):
        raise InputError(f"{setting}: '{name}' names files, use letters, digits, '_', '-' and '.' only")
    return name


def describe_reduction(settings: Settings) -> str:
    """A reduction as readers know it: `UMAP 50`, `PCA 90 %`, `none`."""
    kind = {"pca": "PCA", "umap": "UMAP", "pacmap": "PaCMAP"}.get(settings["kind"], str(settings["kind"]))
    if settings.get("variance") is not None:
        return f"{kind} {100 * settings['variance']:g} %"
    return f"{kind} {settings['dims']}" if settings.get("dims") is not None else kind
