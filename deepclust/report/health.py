"""How far a clustering is to be trusted, in words that need no statistics.

Shape suffixes: N samples, K neighbors, G samples of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import sparse

from deepclust.clustering import NOISE, Clustering
from deepclust.neighbors import Neighbors

Level = Literal["good", "fair", "poor", "info"]
# Cosine above which two samples are near duplicates.
DUPLICATE = 0.99
# Shares of samples that heads agree on, and silhouettes: at least the first is good, at least the second fair.
AGREEMENT = (0.9, 0.75)
SILHOUETTE = (0.25, 0.05)
# Times its even share that the largest cluster may hold: at most the first is good, at most the second fair.
LARGEST = (3.0, 10.0)


@dataclass(frozen=True)
class Finding:
    """One thing to know about a clustering.

    Attributes:
        level: how good the news are; `info` is neither good nor bad.
        title: two or three words.
        text: a sentence or two.
    """

    level: Level
    title: str
    text: str


def findings(
    clustering: Clustering,
    row: Mapping[str, Any],
    *,
    agreement_N: np.ndarray | None = None,
    n_heads: int = 0,
    n_duplicates: int | None = None,
    noun: str = "samples",
) -> list[Finding]:
    """What is to be said of a clustering, the most telling first.

    Args:
        clustering: N cluster ids.
        row: its row of results: `silhouette`, and where there are labels `acc`, `nmi`, `ari`.
        agreement_N: share of the heads, or of the views that a single one started from, that put each sample where the
            clustering does; None for a method without heads.
        n_heads: how many heads there are.
        n_duplicates: samples that have a near duplicate; None where nobody looked.
        noun: what samples are called, in the plural.
    """
    found = [_agreement(agreement_N, n_heads, noun), _silhouette(row, noun), _labels(row, noun), _collapse(clustering)]
    found += [_balance(clustering), _noise(clustering, noun), _duplicates(n_duplicates, len(clustering), noun)]
    told = [one for one in found if one is not None]
    return [*told, *(Finding("info", "Note", note) for note in clustering.notes)]


def _graded(value: float, marks: tuple[float, float]) -> Level:
    return "good" if value >= marks[0] else "fair" if value >= marks[1] else "poor"


def _agreement(agreement_N: np.ndarray | None, n_heads: int, noun: str) -> Finding | None:
    if agreement_N is None:
        return None
    share = float(agreement_N.mean())
    level = _graded(share, AGREEMENT)
    advice = {
        "good": "Trained again, it would give much the same clusters.",
        "fair": f"Most clusters are firm; look at the doubtful members before you rely on single {noun}.",
        "poor": "Trained again, it may draw other borders: try another number of clusters.",
    }[level]
    several = f"{n_heads} heads (small classifiers, trained each on its own)"
    who = "Clusterings of other neighbor graphs" if n_heads == 1 else several
    text = f"{who} agree on {100 * share:.0f} % of the assignments. {advice}"
    return Finding(level, "Stability", text)


def _silhouette(row: Mapping[str, Any], noun: str) -> Finding | None:
    value = row.get("silhouette")
    if value is None:
        return None
    level = _graded(value, SILHOUETTE)
    said = {
        "good": f"{noun} are clearly closer to their own cluster than to any other",
        "fair": "clusters touch each other, as is usual for photos and texts",
        "poor": "clusters overlap much: take their borders for rough",
    }[level]
    return Finding(level, "Separation", f"Silhouette {value:.2f} (1 is best, 0 is none): {said}.")


def _labels(row: Mapping[str, Any], noun: str) -> Finding | None:
    if row.get("acc") is None:
        return None
    scores = ", ".join(f"{name} {100 * row[key]:.1f}" for key, name in (("nmi", "NMI"), ("ari", "ARI")) if row.get(key))
    text = f"{100 * row['acc']:.1f} % of the {noun} lie in the cluster that matches their label ({scores})."
    return Finding(
        _graded(row["acc"], (0.8, 0.5)), "Against your labels", text + " The labels were not used to cluster."
    )


def _collapse(clustering: Clustering) -> Finding | None:
    found, asked = clustering.n_found, clustering.n_clusters
    if asked is None or asked == found:
        return Finding("good" if found > 1 else "poor", "Clusters", f"{found} clusters, each with members.")
    if found > asked:
        return Finding("info", "Clusters", f"{found} clusters; {asked} were asked for.")
    level = _graded(found / asked, (0.9, 0.5))
    return Finding(level, "Clusters", f"{found} of the {asked} clusters that were asked for have members.")


def _balance(clustering: Clustering) -> Finding | None:
    sizes = np.unique(clustering.labels[clustering.labels != NOISE], return_counts=True)[1]
    if len(sizes) < 2:
        return None
    share = sizes.max() / sizes.sum()
    times = float(share * len(sizes))
    level: Level = "good" if times <= LARGEST[0] else "fair" if times <= LARGEST[1] else "poor"
    text = f"Clusters have {sizes.min():,} to {sizes.max():,} members; the largest holds {100 * share:.0f} % of all."
    return Finding(level, "Balance", text if level == "good" else text + " Look whether it mixes several things.")


def _noise(clustering: Clustering, noun: str) -> Finding | None:
    n_noise = int((clustering.labels == NOISE).sum())
    if n_noise == 0:
        return None
    share = n_noise / len(clustering)
    text = f"{n_noise:,} {noun} ({100 * share:.0f} %) are in no cluster: the method found them too far from the others."
    return Finding(_graded(1 - share, (0.9, 0.6)), "Noise", text)


def _duplicates(n_duplicates: int | None, n_samples: int, noun: str) -> Finding | None:
    if not n_duplicates:
        return None
    share = n_duplicates / n_samples
    text = f"{n_duplicates:,} {noun} ({100 * share:.1f} %) have a near duplicate (cosine above {DUPLICATE}); see Lists."
    return Finding(_graded(1 - share, (0.9, 0.0)), "Near duplicates", text)


def duplicate_numbers(neighbors: Neighbors) -> np.ndarray:
    """(N,) int32 number of each sample's group of near duplicates, the largest is 0; -1 for a sample without any."""
    group_N = _joined(neighbors)
    sizes_G = np.bincount(group_N)
    rank_G = np.empty(len(sizes_G), np.int32)
    rank_G[np.argsort(-sizes_G, kind="stable")] = np.arange(len(sizes_G))
    return np.where(sizes_G[group_N] > 1, rank_G[group_N], -1).astype(np.int32)


def duplicate_groups(neighbors: Neighbors) -> list[np.ndarray]:
    """Row numbers of each group of near duplicates, the largest group first."""
    group_N = _joined(neighbors)
    order = np.argsort(group_N, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group_N[order])) + 1)
    return sorted((group_G for group_G in groups if len(group_G) > 1), key=len, reverse=True)


def _joined(neighbors: Neighbors) -> np.ndarray:
    """(N,) number of each sample's group: a chain of pairs with a cosine above `DUPLICATE` joins two samples."""
    n_samples, k = neighbors.ids.shape
    near_NK = neighbors.similarities >= DUPLICATE
    rows = np.repeat(np.arange(n_samples), k)[near_NK.ravel()]
    pairs = sparse.coo_array((np.ones(len(rows)), (rows, neighbors.ids[near_NK])), (n_samples, n_samples))
    return np.asarray(sparse.csgraph.connected_components(pairs, directed=False)[1])


def outlier_scores(neighbors: Neighbors) -> np.ndarray:
    """(N,) one minus the mean cosine with the nearest neighbors: high for a sample that is like no other."""
    return 1 - neighbors.similarities.mean(axis=1)
