"""Heads of a run trained again on the clusters of a person, so that new samples are assigned to these.

run folder/edited/
  clustering.npz      the Clustering that a person made
  heads.pt            heads for it: their c-th cluster is the c-th of its ids
"""

from __future__ import annotations

import numpy as np

from deepclust.clustering import NOISE, Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.runs.folder import RunFolder
from deepclust.runs.matching import with_ids
from deepclust.runs.reporting import FinishedRun
from deepclust.runtime.devices import fastest_device
from deepclust.runtime.errors import InputError
from deepclust.training.relabeled import relearned
from deepclust.training.trained import TrainedHeads

HEADS = "heads.pt"


def relearned_heads(run: FinishedRun, clustering: Clustering) -> TrainedHeads:
    """A head that puts samples into the clusters of a person, of the kind that found them.

    Args:
        run: of which the clusters are; those of a method without heads are learned by heads of the run's first loss.
        clustering: of its training split, with the changes.

    Raises:
        InputError: if the run has no heads, or there are fewer than two clusters.
    """
    methods = run.folder.trained_methods()
    if not methods:
        raise InputError(f"retrain=true: {run.folder.path} holds no heads: train with loss=NAME")
    method = clustering.method if clustering.method in methods else methods[0]
    trained = TrainedHeads.load(run.folder.checkpoint(method))
    return relearned(trained, run.reduced.train, clustering.labels)


def assigned_by_relearned(folder: RunFolder, reduced: FeatureSet) -> dict[str, Clustering]:
    """The clusters of other samples by every head that was trained again, by the name of its folder.

    Args:
        folder: of the run.
        reduced: the samples in the space that was clustered.

    Raises:
        InputError: if heads and the clustering beside them do not belong together.
    """
    found = {}
    for place in sorted(folder.path.glob(f"*/{HEADS}")):
        trained, edited = TrainedHeads.load(place), Clustering.load(place.with_name("clustering.npz"))
        ids_C = np.unique(edited.labels[edited.labels != NOISE])
        if trained.n_clusters != len(ids_C):
            raise InputError(
                f"{place} has {trained.n_clusters} clusters, clustering.npz beside it {len(ids_C)}: make the changes "
                "again"
            )
        trained.check_features(reduced)
        clustering = with_ids(trained.to(fastest_device()).assign(reduced), dict(enumerate(ids_C.tolist())))
        clustering.settings["names"] = edited.settings.get("names", {})
        found[place.parent.name] = clustering
    return found
