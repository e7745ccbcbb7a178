"""The number of clusters of a run that left it open, and other cuts of a finished run.

run folder/
  exploration/<method>.json, .png, .svg   the tree and what speaks for each of its cuts
  cuts/<n>/                               the run cut elsewhere, by `deepclust evaluate run=… n_clusters=…`
    evaluation.json, clusterings/, exploration/, samples.*, clusters.*, contact_sheets/
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.clustering import Clustering
from deepclust.cuts.confidence import disagreement
from deepclust.cuts.constraints import Constraints, read_constraints
from deepclust.cuts.exploration import Exploration, bounds_of, head_tree
from deepclust.cuts.settling import set_confidence, settle
from deepclust.cuts.tree import ClusterTree
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import Neighbors, cached_neighbors
from deepclust.neighbors.mining import MiningSettings
from deepclust.neighbors.spectral import Partitions
from deepclust.report.contact_sheet import image_thumbnail
from deepclust.report.neighbor_rows import images_of
from deepclust.report.tree_figure import NUMBERED_LEAVES, draw_tree
from deepclust.runs.folder import RunFolder
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_json, write_json
from deepclust.training.initialization import views_at_start
from deepclust.training.trained import TrainedHeads

EXAMPLE_PIXELS = 56


def answers_about(path: str | Path | None, features: FeatureSet) -> Constraints | None:
    """The constraints of a file, whose samples are rows or paths of the training split; None without a file."""
    if path is None:
        return None
    names = features.paths if features.files is None else features.files
    return read_constraints(path, len(features), None if names is None else [os.fspath(name) for name in names])


def keep_exploration(
    folder: RunFolder, method: str, exploration: Exploration, train: FeatureSet, clustering: Clustering
) -> None:
    """Write what was found of a method, and draw its tree, with the most confident image of each cluster if there are
    images."""
    images = images_of(train)
    examples = None
    if images is not None and clustering.n_found <= NUMBERED_LEAVES:
        assert clustering.top_probs is not None
        order = np.argsort(clustering.top_probs[:, 0], kind="stable")
        row_of = dict(zip(clustering.labels[order].tolist(), order.tolist()))  # the last, which is the surest, stays
        examples = {cluster: image_thumbnail(images[row], EXAMPLE_PIXELS) for cluster, row in row_of.items()}
    draw_tree(folder.exploration(method).with_suffix(""), exploration, examples)
    write_json(folder.exploration(method), exploration.as_dict())


def read_exploration(folder: RunFolder, method: str) -> Exploration | None:
    """What `keep_exploration` left of a method, or None.

    Raises:
        InputError: if the file is damaged.
    """
    place = folder.exploration(method)
    if not place.is_file():
        return None
    remedy = "remove it: it is made again"
    try:
        return Exploration.from_dict(read_json(place, remedy))
    except InputError:  # which names the place and the remedy already
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{place} holds no exploration ({str(error).splitlines()[0][:80]}): {remedy}") from None


@dataclass(frozen=True)
class Recut:
    """Another cut of finished heads, without training.

    Attributes:
        folder: of the run.
        train: its training split in the space that was clustered.
        n_clusters: a number, `auto` or bounds.
        constraints: what decides where it is no number; None: stability.
        neighbors_dir: where mined neighbors are kept.
        mining: how they are searched.
        partitions: what heads started from, made again where a cut needs it.
    """

    folder: RunFolder
    train: FeatureSet
    n_clusters: Any
    constraints: Constraints | None
    neighbors_dir: Path | None
    mining: MiningSettings
    partitions: Partitions = field(default_factory=Partitions)

    @property
    def out(self) -> RunFolder:
        """Where the cut is written."""
        asked = self.n_clusters
        name = "-".join(map(str, asked)) if isinstance(asked, (list, tuple)) else str(asked)
        return RunFolder(self.folder.path / "cuts" / (name if self.constraints is None else f"{name}_constraints"))

    def apply(self, trained: TrainedHeads, method: str) -> list[str]:
        """Cut heads elsewhere, in place; returns sentences for the table.

        Raises:
            InputError: if they were trained with fewer clusters.
        """
        most = trained.recipe.n_clusters
        neighbors = self.neighbors(trained)
        views_VN = views_at_start(trained.recipe, self.train, neighbors, self.partitions)
        bounds = bounds_of(self.n_clusters, len(self.train))
        if bounds is None:
            if self.n_clusters > most:
                raise InputError(
                    f"n_clusters={self.n_clusters}, but {method} was trained with {most} clusters, which can only be "
                    f"merged: train with n_clusters={self.n_clusters}"
                )
            trained.groups_C = self.tree(trained, method, neighbors).groups(self.n_clusters)
            set_confidence(trained, self.train, neighbors, views_VN)
            return []
        bounds = min(bounds[0], most), min(bounds[1], most)
        exploration = settle(trained, self.train, neighbors, bounds, self.constraints, views_VN)
        assert exploration is not None
        keep_exploration(self.out, method, exploration, self.train, trained.assign(self.train))
        return [exploration.note]

    def neighbors(self, trained: TrainedHeads) -> Neighbors:
        """Those that the heads were trained with."""
        return cached_neighbors(
            self.train,
            trained.recipe.mined_neighbors(len(self.train)),
            cache_dir=self.neighbors_dir,
            **vars(self.mining),
        )

    def tree(self, trained: TrainedHeads, method: str, neighbors: Neighbors) -> ClusterTree:
        """That of the run, or one made now, where the run was told its number of clusters."""
        found = read_exploration(self.folder, method)
        if found is not None and found.tree.n_leaves == trained.recipe.n_clusters:
            return found.tree
        return head_tree(trained, self.train, neighbors)[1]

    def keep(self, trained: TrainedHeads, method: str) -> None:
        """Save the clusters of the training split."""
        clustering = trained.assign(self.train)
        views_VN = views_at_start(trained.recipe, self.train, self.neighbors(trained), self.partitions)
        uncertain_N = disagreement(trained, self.train, clustering.labels, views_VN)
        replace(clustering, disagreement=uncertain_N).save(self.out.clustering(method))
