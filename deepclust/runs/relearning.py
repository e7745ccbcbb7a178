"""Heads of a run trained again on the clusters of a person, so that new samples are assigned to these.

run folder/edited/
  clustering.npz      the Clustering that a person made
  heads.pt            heads for it: their c-th cluster is the c-th of its ids

Shape suffixes: N samples, C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from deepclust.clustering import NOISE, Clustering
from deepclust.cuts.confidence import confidence_temperature
from deepclust.features.feature_set import FeatureSet
from deepclust.runs.folder import RunFolder
from deepclust.runs.matching import with_ids
from deepclust.runs.reporting import FinishedRun
from deepclust.runtime.devices import fastest_device
from deepclust.runtime.errors import InputError
from deepclust.training.relabeled import relearned
from deepclust.training.trained import TrainedHeads

HEADS = "heads.pt"


# Of the samples, so many parts; one is held out, to see how well the heads learn from the others.
PARTS = 10


@dataclass(frozen=True)
class Relearned:
    """Heads that learned all samples, and how the same heads did on samples that they had not learned.

    Attributes:
        heads: their loss is the share of the held-out samples that came elsewhere, and as sure as that share allows.
        n_held_out: samples that were held out; 0 where every cluster has one alone.
        n_agreed: those of them that came to where the person has them.
        noun: what samples are called, in the plural.
    """

    heads: TrainedHeads
    n_held_out: int
    n_agreed: int
    noun: str = "samples"

    def __str__(self) -> str:
        if not self.n_held_out:
            return f"Heads trained again. How well is not known: no cluster has one of the {self.noun} to spare."
        return (
            f"Heads trained again: of {self.n_held_out:,} {self.noun} that were held out, "
            f"{self.n_agreed / self.n_held_out:.1%} came to where you have them; then the heads learned these, too."
        )


def relearned_heads(run: FinishedRun, clustering: Clustering, noun: str = "samples") -> Relearned:
    """A head that puts samples into the clusters of a person, of the kind that found them.

    Args:
        run: of which the clusters are; those of a method without heads are learned by heads of the run's first loss.
        clustering: of its training split, with the changes.
        noun: what its samples are called, in the plural.

    Raises:
        InputError: if the run has no heads, or there are fewer than two clusters.
    """
    methods = run.folder.trained_methods()
    if not methods:
        raise InputError(f"retrain=true: {run.folder.path} holds no heads: train with loss=NAME")
    method = clustering.method if clustering.method in methods else methods[0]
    trained = TrainedHeads.load(run.folder.checkpoint(method))
    found = relearned_and_tested(trained, run.reduced.train, clustering.labels)
    return replace(found, noun=noun)


def relearned_and_tested(trained: TrainedHeads, features: FeatureSet, labels_N: np.ndarray) -> Relearned:
    """Heads for the clusters, first of nine tenths of the samples, which tell how sure they may be, then of all.

    Args:
        trained: whose kind of head and transform are taken.
        features: N samples in the space that they were trained in.
        labels_N: cluster ids; noise is left out.

    Raises:
        InputError: if there are fewer than two clusters.
    """
    held = held_out(labels_N)
    n_agreed, temperature = 0, trained.confidence_temperature
    if len(held):
        known_N = labels_N.copy()
        known_N[held] = NOISE
        tested = relearned(trained, features, known_N)
        others = features.select(held)
        places = np.searchsorted(np.unique(labels_N[labels_N != NOISE]), labels_N[held])
        n_agreed = int((tested.assign(others).labels == places).sum())
        # The rule of succession: three of three that came right do not say that all will.
        temperature = confidence_temperature(tested, others, (n_agreed + 1) / (len(held) + 2))
    heads = relearned(trained, features, labels_N)
    heads.confidence_temperature = temperature
    if len(held):
        heads.losses_H[0] = 1 - n_agreed / len(held)
    return Relearned(heads, len(held), n_agreed)


def held_out(labels_N: np.ndarray) -> np.ndarray:
    """Rows to test on, ascending: a tenth of those in clusters, drawn from a seed; each cluster keeps a sample."""
    order = np.random.default_rng(0).permutation(np.flatnonzero(labels_N != NOISE))
    first_of_each = np.unique(labels_N[order], return_index=True)[1]
    spare = np.delete(order, first_of_each)
    return np.sort(spare[: -(-len(order) // PARTS)])


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
