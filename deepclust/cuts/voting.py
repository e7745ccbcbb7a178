"""How many clusters, before anything is trained: the consensus of each number is made, and three measures vote.

The consensus (`deepclust.neighbors.consensus`) is not merged but made anew for each number: a cut of a tree of its
clusters is worse than the consensus of so many. What is asked of each:

- agreement: do the views of the graph say the same? Normalized mutual information of the consensus with a view.
- modularity: are there fewer edges between the clusters than chance would draw (Newman & Girvan 2004)?
- silhouette: are they apart in the features?

Each has a bias of its own: agreement grows with the number where the data have no clusters, modularity sees some ten
clusters where there are hundreds, the silhouette likes few. Their scales differ, so each one ranks the numbers and the
mean rank counts. There are two rounds. The first tries numbers at equal ratios; where some far apart have nearly as
many votes chance would choose between them, so the lowest of those with nearly the most is gone on with. The second
tries the numbers around it, and of all of both rounds the one with the most votes is taken. What else was tried is in
docs/how_many.md.

Shape suffixes: N samples, S samples that are looked at, V views, C clusters, M measures, G numbers of clusters.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from deepclust.cuts.exploration import ENOUGH, Cut, Exploration
from deepclust.cuts.tree import ClusterTree
from deepclust.features.distinct_rows import distinct_rows
from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import Rows, RowView
from deepclust.metrics import nmi
from deepclust.metrics.intrinsic import silhouette
from deepclust.neighbors import Neighbors, mine_neighbors
from deepclust.neighbors.consensus import Consensus, consensus_of_rows
from deepclust.neighbors.neighbor_graph import neighbor_graph
from deepclust.neighbors.spectral import Partitions
from deepclust.runtime.progress import tracked
from deepclust.runtime.threads import one_thread_for_few
from deepclust.training.initialization import VIEWS
from deepclust.training.recipe import Recipe

# Numbers that are tried first, at equal ratios: a consensus takes seconds to minutes.
TRIED = 13
# Numbers that are tried then, between those on both sides of the best one.
MOST_BETWEEN = 6
# So many samples are looked at, drawn at random where there are more, or so many for each cluster.
SAMPLE, SAMPLE_PER_CLUSTER = 10_000, 20


def is_voted(recipe: Recipe, bounds: tuple[int, int] | None, constrained: bool) -> bool:
    """Whether the number of clusters is found before training: of a single head that starts from a consensus.

    Several heads are compared, and constraints choose among the cuts of a tree.
    """
    return bounds is not None and not constrained and recipe.init == "consensus" and recipe.n_heads == 1


def with_voted(recipe: Recipe, cuts: Sequence[Cut]) -> Recipe:
    """The recipe with the number of clusters that is taken."""
    return replace(recipe, n_clusters=most_voted(cuts))


def voted_exploration(tree: ClusterTree, cuts: Sequence[Cut]) -> Exploration:
    """What was voted, and the tree of the clusters that were trained."""
    return Exploration(tree, cuts, most_voted(cuts), nearly_most(cuts))


def most_voted(cuts: Sequence[Cut]) -> int:
    """The number of clusters that is taken: that of the most votes, the lowest of equals."""
    return max(cuts, key=lambda cut: cut.score).n_clusters


def nearly_most(cuts: Sequence[Cut]) -> tuple[int, int]:
    """The lowest and the highest number of clusters with nearly as many votes as any."""
    enough = ENOUGH * max(cut.score for cut in cuts)
    numbers = [cut.n_clusters for cut in cuts if cut.score >= enough]
    return numbers[0], numbers[-1]


def voted_cuts(
    features: FeatureSet,
    neighbors: Neighbors,
    bounds: tuple[int, int],
    *,
    seed: int = 0,
    partitions: Partitions | None = None,
    progress: bool = False,
) -> list[Cut]:
    """What speaks for each number of clusters, with its share of the votes.

    Args:
        features: the training split.
        neighbors: mined of it.
        bounds: the lowest and the highest number that are tried; none is above the number of distinct rows.
        seed: of the consensus.
        partitions: where heads find the consensus that they start from, if it is of all samples; None keeps none.
        progress: show how far it is.
    """
    rows, neighbors = looked_at(features.features, neighbors, bounds[1], seed)
    graph = neighbor_graph(neighbors)
    n_distinct = len(distinct_rows(rows)[0])
    low, high = (min(bound, n_distinct) for bound in bounds)
    if high < bounds[1]:
        warnings.warn(
            f"of {len(rows)} rows {n_distinct} are distinct: no number of clusters above {n_distinct} is looked at",
            stacklevel=2,
        )

    def looked(numbers: Sequence[int], title: str) -> list[Cut]:
        cuts = []
        for count in tracked(numbers, title, len(numbers), enabled=progress):
            found = consensus_of_rows(rows, count, k=neighbors.k, neighbors=neighbors, seed=seed)
            if partitions is not None and len(rows) == len(features):
                partitions.keep(("consensus", count, seed), found.partitions_HN)
                partitions.keep((VIEWS, count, seed), found.views_VN)
            cuts.append(cut_of(found, count, rows, graph))
        return cuts

    with one_thread_for_few(len(rows)):
        first = with_votes(looked(numbers_within(low, high), "numbers of clusters"))
        between = numbers_between([cut.n_clusters for cut in first], nearly_most(first)[0])
        second = looked(between, "numbers between them") if between else []
    return with_votes(sorted([*first, *second], key=lambda cut: cut.n_clusters))


def cut_of(found: Consensus, count: int, rows: Rows, graph: sparse.csr_matrix) -> Cut:
    """What speaks for the consensus of so many clusters."""
    labels_S = found.partitions_HN[0]
    sizes = np.bincount(labels_S, minlength=count)
    return Cut(
        n_clusters=count,
        heads=None,
        halves=None,
        information=None,
        silhouette=silhouette(rows, labels_S).value,
        smallest=int(sizes.min()),
        largest=int(sizes.max()),
        views=float(np.mean([nmi(labels_S, view_S) for view_S in found.views_VN])),
        modularity=modularity(labels_S, graph),
    )


def with_votes(cuts: Sequence[Cut]) -> list[Cut]:
    """The cuts with `votes`: the share of the others that each one is ahead of, in the mean over three measures."""
    measures_GM = np.array([(cut.views, cut.modularity, cut.silhouette) for cut in cuts], dtype=float)
    # A silhouette that is not defined is the lowest.
    ranks_GM = rankdata(np.nan_to_num(measures_GM, nan=-np.inf), axis=0)
    votes_G = (ranks_GM.mean(axis=1) - 1) / (len(cuts) - 1) if len(cuts) > 1 else np.ones(1)
    return [replace(cut, votes=float(votes)) for cut, votes in zip(cuts, votes_G)]


def numbers_within(low: int, high: int) -> list[int]:
    """Numbers of clusters to try, both bounds among them."""
    return sorted({round(count) for count in np.geomspace(low, high, TRIED)})


def numbers_between(tried: Sequence[int], taken: int) -> list[int]:
    """Numbers to try next: those between the neighbors, among the tried ones, of the one that would be taken.

    Example:
        >>> numbers_between([3, 8, 10, 12, 31], 10), numbers_between([3, 8, 10, 12, 31], 31)
        ([9, 11], [14, 16, 18, 21, 24, 27])
    """
    place = tried.index(taken)
    low, high = tried[max(place - 1, 0)], tried[min(place + 1, len(tried) - 1)]
    between = [count for count in range(low + 1, high) if count != taken]
    if len(between) <= MOST_BETWEEN:
        return between
    return sorted({round(count) for count in np.geomspace(low, high, MOST_BETWEEN + 2)} - set(tried))


def looked_at(rows: Rows, neighbors: Neighbors, most: int, seed: int) -> tuple[Rows, Neighbors]:
    """The rows and their neighbors, or those of a sample."""
    wanted = max(SAMPLE, SAMPLE_PER_CLUSTER * most)
    if len(rows) <= wanted:
        return rows, neighbors
    drawn_S = np.sort(np.random.default_rng(seed).choice(len(rows), wanted, replace=False))
    sample = RowView(rows, drawn_S)
    return sample, mine_neighbors(sample, neighbors.k)


def modularity(labels_N: np.ndarray, graph: sparse.csr_matrix) -> float:
    """The share of the edges' weight that lies within clusters, less what it would be if edges were drawn by chance.

    Args:
        labels_N: cluster ids from 0.
        graph: N × N, symmetric, with weights of 0 or more.

    Example:
        >>> pairs = sparse.csr_matrix(np.kron(np.eye(2), [[0.0, 1.0], [1.0, 0.0]]))  # two edges apart from each other
        >>> modularity(np.array([0, 0, 1, 1]), pairs)
        0.5
    """
    edges = graph.tocoo()
    within = edges.data[labels_N[edges.row] == labels_N[edges.col]].sum()
    degree_C = np.bincount(labels_N, np.asarray(graph.sum(axis=1)).ravel())
    total = degree_C.sum()
    return float(within / total - ((degree_C / total) ** 2).sum())
