"""What is logged of the heads after every epoch, without labels: what they know of pairs, their sizes, their agreement.

All of it is of the same samples in every epoch, so that epochs, heads and runs can be compared.

Shape suffixes: H finite heads, A samples that are looked at, R rows that are read for them, C clusters.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from deepclust.cuts.confidence import matched_clusters
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import Neighbors
from deepclust.runtime.devices import native_bfloat16
from deepclust.training.initialization import PAIR_NEIGHBORS
from deepclust.training.trained import TrainedHeads

# Of more samples than this, or than this many per cluster, a drawn part is looked at.
WATCHED, PER_CLUSTER = 10_000, 20


class HeadWatch:
    """Looks at heads while they are trained.

    - `train/pair_information`: mutual information, in nats, between the cluster of a sample and that of its neighbor,
      of the head with the lowest loss so far. Up to `WATCHED` samples it is `pair_information` of all of them; of a
      drawn part each sample has one of its 20 nearest neighbors, drawn once.
    - `train/entropy`: of the shares of the clusters, in nats; log C where all are equal.
    - `train/clusters_in_use`: how many have members among the samples that are looked at.
    - `train/agreement`: the share of samples that the other heads put where this one does, in the mean over them.
    - `heads/<the first three>_00`, `…_01`: the same of every head whose loss is finite.

    Args:
        features: the training split.
        n_clusters: C.

    Example:
        >>> from deepclust.training.recipe import Recipe
        >>> from deepclust.training.fit import fit_heads
        >>> rows = np.random.default_rng(0).standard_normal((90, 8)).astype(np.float32)
        >>> features = FeatureSet.from_arrays(rows)
        >>> recipe = Recipe.of("tsp", n_clusters=3, n_heads=1, max_epochs=1, n_neighbors=5, init="kmeans")
        >>> fitted = fit_heads(features, recipe)
        >>> sorted(HeadWatch(features, 3)(fitted.neighbors, fitted.trained))[-1]
        'train/pair_information'
    """

    def __init__(self, features: FeatureSet, n_clusters: int) -> None:
        self.features, self.n_clusters = features, n_clusters
        self.most = max(WATCHED, PER_CLUSTER * n_clusters)
        self._pairs: tuple[FeatureSet, np.ndarray, np.ndarray] | None = None

    def __call__(self, neighbors: Neighbors, trained: TrainedHeads) -> dict[str, float]:
        """Numbers by name; none where no head is finite.

        Args:
            neighbors: of the training split.
            trained: the heads so far.
        """
        heads = np.flatnonzero(np.isfinite(trained.losses_H))
        if len(heads) == 0:
            return {}
        if len(self.features) <= self.most:
            labels_HA = quick_labels(trained, self.features)[heads]
            ids_NK = neighbors.ids[:, :PAIR_NEIGHBORS]
            information_H = [
                information_of(np.repeat(labels_A, ids_NK.shape[1]), labels_A[ids_NK].ravel(), self.n_clusters)
                for labels_A in labels_HA
            ]
        else:
            rows, anchors_A, others_A = self.drawn_pairs(neighbors)
            labels_HR = quick_labels(trained, rows)[heads]
            labels_HA = labels_HR[:, anchors_A]
            information_H = [
                information_of(labels_R[anchors_A], labels_R[others_A], self.n_clusters) for labels_R in labels_HR
            ]
        shares_HC = (
            np.stack([np.bincount(one_A, minlength=self.n_clusters) for one_A in labels_HA]) / labels_HA.shape[1]
        )
        entropy_H = -(shares_HC * np.log(np.maximum(shares_HC, np.finfo(float).tiny))).sum(axis=1)
        measures = {
            "pair_information": np.array(information_H),
            "entropy": entropy_H,
            "clusters_in_use": (shares_HC > 0).sum(axis=1),
        }
        best = int(np.searchsorted(heads, trained.best_head))
        told = {f"train/{name}": float(values_H[best]) for name, values_H in measures.items()}
        if len(heads) > 1:
            told["train/agreement"] = agreement(labels_HA, best, self.n_clusters)
        for name, values_H in measures.items():
            told |= {f"heads/{name}_{head:02d}": float(value) for head, value in zip(heads, values_H)}
        return told

    def drawn_pairs(self, neighbors: Neighbors) -> tuple[FeatureSet, np.ndarray, np.ndarray]:
        """The R rows that are read, and where in them each of A samples and its neighbor are; drawn once."""
        if self._pairs is None:
            generator = np.random.default_rng(0)
            drawn_A = np.sort(generator.choice(len(self.features), self.most, replace=False))
            places_A = generator.integers(min(PAIR_NEIGHBORS, neighbors.k), size=len(drawn_A))
            pairs = np.stack([drawn_A, neighbors.ids[drawn_A, places_A]])
            rows, place = np.unique(pairs, return_inverse=True)
            anchors_A, others_A = place.reshape(pairs.shape)
            self._pairs = self.features.select(rows), anchors_A, others_A
        return self._pairs


def quick_labels(trained: TrainedHeads, features: FeatureSet) -> np.ndarray:
    """(H, N) clusters of every head, in bfloat16 where the device multiplies it: a few in a thousand then differ."""
    device = next(trained.heads.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=native_bfloat16(device)):
        return trained.labels_of_heads(features)


def information_of(first_A: np.ndarray, second_A: np.ndarray, n_clusters: int) -> float:
    """Mutual information, in nats, between the clusters of the two members of each pair.

    Example:
        >>> clusters = np.array([0, 1, 0, 1])
        >>> round(information_of(clusters, clusters, 2), 4)
        0.6931
    """
    ones = np.ones(len(first_A))
    joint = sparse.coo_matrix((ones, (first_A, second_A)), shape=(n_clusters, n_clusters)).tocsr().tocoo()
    share = joint.data / len(first_A)
    p_first, p_second = (np.bincount(one_A, minlength=n_clusters) / len(one_A) for one_A in (first_A, second_A))
    return float((share * np.log(share / (p_first[joint.row] * p_second[joint.col]))).sum())


def agreement(labels_HA: np.ndarray, shown: int, n_clusters: int) -> float:
    """The share of samples that the other heads put where one does, in the mean over the others.

    A cluster of another head counts as that of the shown head which most of its members are in.

    Args:
        labels_HA: clusters by each head, of two or more.
        shown: which head.
        n_clusters: C.

    Example:
        >>> agreement(np.array([[0, 0, 1, 1], [1, 1, 0, 0]]), 0, 2)
        1.0
    """
    others_HA = np.delete(labels_HA, shown, axis=0)
    matched_HC = matched_clusters(labels_HA[shown], others_HA, n_clusters)
    return float((np.take_along_axis(matched_HC, others_HA.astype(np.int64), axis=1) == labels_HA[shown]).mean())
