"""How sure heads may be, without labels: what the other heads say, or the views that a single one started from.

A head is trained to be sure, so its own probabilities tell little of how often it is right. The other heads start from
other partitions, and a consensus was made of views that differ. The share of samples on which several of these agree
with the head is the estimate of how often it is right, and its probabilities are softened until they say as much in the
mean.

Shape suffixes: H other heads, V views, N samples, A samples that are looked at, K neighbors, C clusters of a head, G
clusters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deepclust.features.feature_set import FeatureSet
from deepclust.metrics.agreement import hungarian_map
from deepclust.metrics.multilabel import UNMAPPED, mapped_classes
from deepclust.neighbors.diffusion import DIFFUSED_CLUSTERS
from deepclust.training.trained import TrainedHeads

# The other heads that must agree, those with the lowest losses: of more heads some disagree on almost every sample.
JURY = 7
# Views of the graph that must agree. They are made of the same neighbors, so one or two let expect too much; three are
# right in the mean over label sets (docs/how_many.md). From 64 clusters on each view is of random signals and errs in
# its own way: one is enough.
VIEWS_ASKED = 3
# What a single head without views is held against: further neighbors are less likely of a sample's own class.
NEAREST = 5
# Of an average over so many samples the standard error is below half a percent.
SAMPLE = 20_000
# Their logits stay below 256 MB.
SAMPLE_LOGITS = 1 << 26
LOWEST, HIGHEST, HALVINGS = 1 / 4, 256.0, 40


def other_heads(trained: TrainedHeads) -> np.ndarray:
    """(H,) numbers of the finite heads but the best."""
    finite_H = np.isfinite(trained.losses_H)
    finite_H[trained.best_head] = False
    return np.flatnonzero(finite_H)


def matched_clusters(shown_N: np.ndarray, labels_HN: np.ndarray, n_clusters: int) -> np.ndarray:
    """(H, C) int64 for each cluster of each head, the shown cluster of most of its members, of equals the first.

    Several may be matched with one, so that heads of C clusters can be held against a cut into fewer.
    """
    matched_HC = np.empty((len(labels_HN), n_clusters), np.int64)
    n_shown = int(shown_N.max()) + 1
    for matched_C, labels_N in zip(matched_HC, labels_HN):  # one table each, C × G
        pairs, counts = np.unique(labels_N.astype(np.int64) * n_shown + shown_N, return_counts=True)
        order = np.lexsort((-(pairs % n_shown), counts))  # the last that is written is the most frequent
        matched_C[:] = -1  # without members: agrees with none
        matched_C[pairs[order] // n_shown] = pairs[order] % n_shown
    return matched_HC


def agreeing_views(
    trained: TrainedHeads, features: FeatureSet, shown_N: np.ndarray, views_VN: np.ndarray
) -> np.ndarray:
    """(N,) float32 share of the views that put a sample where `shown_N` does.

    The clusters of each view are matched one to one with those that the best head was trained with, and cut as these.

    Args:
        trained: the heads.
        features: N samples.
        shown_N: the clusters of the best head, after its cut.
        views_VN: what each view says of the same samples.
    """
    groups_C = trained.groups_C
    leaves_N = shown_N if groups_C is None else trained.assign(features, head=trained.best_head).labels
    share_N = np.zeros(len(shown_N), np.float32)
    for view_N in views_VN:
        said_N = mapped_classes(hungarian_map(leaves_N, view_N), view_N)
        if groups_C is not None:
            said_N = np.where(said_N == UNMAPPED, UNMAPPED, groups_C[said_N])
        share_N += (said_N == shown_N) / np.float32(len(views_VN))
    return share_N


@torch.no_grad()
def disagreement(
    trained: TrainedHeads, features: FeatureSet, shown_N: np.ndarray, views_VN: np.ndarray | None = None
) -> np.ndarray | None:
    """(N,) float32 share of the other heads that put a sample elsewhere than `shown_N` does; of a single head, of the
    views that it started from.

    The clusters of each head are matched with the shown ones on a sample first.

    Args:
        trained: the heads.
        features: N samples.
        shown_N: the clusters of the best head, after its cut.
        views_VN: what each view says of these samples, where they are those of the start.

    Returns:
        None where there is neither another finite head nor a view.
    """
    others = other_heads(trained)
    if len(others) == 0:
        return None if views_VN is None else 1 - agreeing_views(trained, features, shown_N, views_VN)
    rows_A = _drawn(len(features), SAMPLE)
    labels_HA = trained.labels_of_heads(features.select(rows_A))[others]
    matched = torch.from_numpy(matched_clusters(shown_N[rows_A], labels_HA, trained.recipe.n_clusters))
    out_N = np.empty(len(features), np.float32)
    for start, labels_HB in trained.labels_by_block(features):
        shown_B = torch.from_numpy(shown_N[start : start + labels_HB.shape[1]])
        as_shown_HB = matched.gather(1, labels_HB.cpu()[others])
        out_N[start : start + len(shown_B)] = (as_shown_HB != shown_B).float().mean(dim=0).numpy()
    return out_N


def expected_accuracy(
    trained: TrainedHeads, features: FeatureSet, neighbor_ids_NK: np.ndarray, views_VN: np.ndarray | None = None
) -> float:
    """The share of samples that all of the next best heads put where the best head does; of a single head, that three
    views drawn at random do, or one where there are many clusters.

    Args:
        trained: the heads; of more than 8 the best 8 count.
        features: the training split.
        neighbor_ids_NK: its mined neighbors, which a single head without views is asked about instead: how often it
            puts one of the `NEAREST` where it puts the sample.
        views_VN: what each view says whose consensus a single head started from, or None.

    Returns:
        In [0, 1].
    """
    anchors_A = _drawn(len(features), SAMPLE)
    others = other_heads(trained)
    if len(others):
        seen = features.select(anchors_A)
        shown_A = trained.assign(seen).labels
        jury = others[np.argsort(trained.losses_H[others], kind="stable")[:JURY]]
        labels_HA = trained.labels_of_heads(seen)[jury]
        matched_HC = matched_clusters(shown_A, labels_HA, trained.recipe.n_clusters)
        return float((np.take_along_axis(matched_HC, labels_HA, axis=1) == shown_A).all(axis=0).mean())
    if views_VN is not None:
        seen = features.select(anchors_A)
        share_A = agreeing_views(trained, seen, trained.assign(seen).labels, views_VN[:, anchors_A])
        asked = VIEWS_ASKED if trained.recipe.n_clusters < DIFFUSED_CLUSTERS else 1
        return float((share_A.astype(np.float64) ** asked).mean())
    ids_AK = neighbor_ids_NK[anchors_A, :NEAREST]
    rows, place = np.unique(np.concatenate([anchors_A, ids_AK.ravel()]), return_inverse=True)
    shown = trained.assign(features.select(rows)).labels[place.ravel()]
    return float((shown[len(anchors_A) :].reshape(ids_AK.shape) == shown[: len(anchors_A), None]).mean())


@torch.no_grad()
def confidence_temperature(trained: TrainedHeads, features: FeatureSet, expected: float) -> float:
    """The temperature at which the mean confidence of the best head is `expected`.

    Returns:
        Between 1/4, so that the surest samples are still told apart, and 256; 1 changes nothing.
    """
    if trained.n_clusters == 1:
        return 1.0
    rows_A = _drawn(len(features), max(1000, min(SAMPLE, SAMPLE_LOGITS // trained.recipe.n_clusters)))
    scores_AG = torch.from_numpy(trained.scores(features.select(rows_A)))
    scores_AG -= scores_AG.max(dim=1, keepdim=True).values
    low, high = np.log(LOWEST), np.log(HIGHEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if mean_confidence(scores_AG, float(np.exp(middle))) > expected:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))


def mean_confidence(scores_AG: Tensor, temperature: float) -> float:
    """Mean maximum softmax probability of scores whose maximum is 0."""
    return float((1 / (scores_AG / temperature).exp().sum(dim=1)).mean())


def _drawn(n_samples: int, most: int) -> np.ndarray:
    """Rows of a seeded sample, ascending; all where there are no more."""
    if n_samples <= most:
        return np.arange(n_samples)
    return np.sort(np.random.default_rng(0).choice(n_samples, most, replace=False))
