"""How many clusters, before anything is trained: the consensus of each number is made, and three measures vote.

The consensus (`deepclust.neighbors.consensus`) is not merged but made anew for each number: a cut of a tree of its
clusters is worse than the consensus of so many. What is asked of each:

- agreement: do the views of the graph say the same? Normalized mutual information of the consensus with a view.
- modularity: are there fewer edges between the clusters than chance would draw (Newman & Girvan 2004)?
- silhouette: are they apart in the features?

Each has a bias of its own: agreement grows with the number where the data have no clusters, modularity sees some ten
clusters where there are hundreds, the silhouette likes few. Their scales differ, so each one ranks the numbers and the
mean rank counts. Where numbers far apart have nearly as many votes chance would choose between them, so the lowest of
those with nearly the most is taken. What else was tried is in docs/how_many.md.

Shape suffixes: N samples, S samples that are looked at, V views, C clusters, M measures, G numbers of clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from deepclust.cuts.exploration import ENOUGH, Cut, Exploration
from deepclust.cuts.tree import ClusterTree
from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import Rows, RowView
from deepclust.metrics import nmi
from deepclust.metrics.intrinsic import silhouette
from deepclust.neighbors import Neighbors, mine_neighbors
from deepclust.neighbors.consensus import consensus_of_rows
from deepclust.neighbors.neighbor_graph import neighbor_graph
from deepclust.neighbors.spectral import Partitions
from deepclust.runtime.progress import tracked
from deepclust.training.initialization import VIEWS
from deepclust.training.recipe import Recipe

# Numbers that are tried, at equal ratios: a consensus takes seconds to minutes.
TRIED = 13
# So many samples are looked at, drawn at random where there are more, or so many for each cluster.
SAMPLE, SAMPLE_PER_CLUSTER = 10_000, 20


def is_voted(recipe: Recipe, bounds: tuple[int, int] | None, constrained: bool) -> bool:
    """Whether the number of clusters is found before training: of a single head that starts from a consensus.

    Several heads are compared, and constraints choose among the cuts of a tree.
    """
    return bounds is not None and not constrained and recipe.init == "consensus" and recipe.n_heads == 1


def with_voted(recipe: Recipe, cuts: Sequence[Cut]) -> Recipe:
    """The recipe with the number of clusters that is taken."""
    return replace(recipe, n_clusters=nearly_most(cuts)[0])


def voted_exploration(tree: ClusterTree, cuts: Sequence[Cut]) -> Exploration:
    """What was voted, and the tree of the clusters that were trained."""
    low, high = nearly_most(cuts)
    return Exploration(tree, cuts, low, (low, high))


def nearly_most(cuts: Sequence[Cut]) -> tuple[int, int]:
    """The lowest and the highest number of clusters with nearly as many votes as any; the lowest is taken."""
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
        bounds: the lowest and the highest number that are tried.
        seed: of the consensus.
        partitions: where heads find the consensus that they start from, if it is of all samples; None keeps none.
        progress: show how far it is.
    """
    rows, neighbors = looked_at(features.features, neighbors, bounds[1], seed)
    graph = neighbor_graph(neighbors)
    cuts = []
    for count in tracked(numbers_within(*bounds), "numbers of clusters", TRIED, enabled=progress):
        found = consensus_of_rows(rows, count, k=neighbors.k, neighbors=neighbors, seed=seed)
        if partitions is not None and len(rows) == len(features):
            partitions.keep(("consensus", count, seed), found.partitions_HN)
            partitions.keep((VIEWS, count, seed), found.views_VN)
        labels_S = found.partitions_HN[0]
        sizes = np.bincount(labels_S, minlength=count)
        cuts.append(
            Cut(
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
        )
    return with_votes(cuts)


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
