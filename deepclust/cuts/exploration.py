"""How many clusters: what speaks for each cut of the tree, the range that is recommended, and the cut that is taken.

Nobody knows the number from the data alone, so this is a tool and no oracle. C clusters are trained once and merged
into a tree (`deepclust.cuts.tree`). A cut is stable where it comes out again: in the trees of the other heads, and in
trees of half the pairs. Pair information, silhouette and sizes stand beside it. Answers that somebody gave about a few
samples (`deepclust.cuts.constraints`) decide instead where there are any. Of a single head that starts from a
consensus the number is found before training (`deepclust.cuts.voting`).

Shape suffixes: N samples, K neighbors, C leaves of the tree, G clusters of a cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse

from deepclust.clustering import Clustering
from deepclust.cuts.constraints import Constraints
from deepclust.cuts.tree import MOST_LEAVES, ClusterTree, information_tree, pair_joint
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics.intrinsic import silhouette
from deepclust.neighbors import Neighbors
from deepclust.runtime.errors import InputError
from deepclust.training.trained import TrainedHeads, cut_scores

WANTED = "a whole number of 2 or more, auto, or bounds such as [5,50]"
AUTO_LEAST, AUTO_MOST = 3, 50
# Members that a leaf has on average, at least, where the bounds are left open.
MEMBERS = 20
PAIR_NEIGHBORS = 20
# Heads that are compared, the best one included, and times that the pairs are halved.
COMPARED_HEADS, HALVINGS = 8, 4
# Cuts that are scored: all numbers within the bounds, or so many of them at equal ratios.
MOST_CUTS = 64
SILHOUETTE_SAMPLE = 10_000
# Cuts next to the chosen one are recommended with it if they reach this share of its score.
ENOUGH = 0.95
# The highest score below which a choice says little.
UNSTABLE = 0.5
BLOCK_ROWS = 8192
# What a table shows of a cut, where it is known, and what it is called there.
COLUMNS = {
    "stability": "stability",
    "heads": "heads",
    "halves": "halves",
    "information": "nats",
    "modularity": "modularity",
    "silhouette": "silhouette",
    "votes": "votes",
    "pair_f1": "pair F1",
}


@dataclass(frozen=True)
class Cut:
    """What speaks for a cut.

    Attributes:
        n_clusters: G.
        heads: adjusted Rand index with the same cut of the other heads' trees, in the mean; None for a single head.
        halves: of the cuts of two trees, each from the pairs of one half of the samples, in the mean over halvings.
        information: pair information in nats.
        silhouette: by direction, of the features as they came; None where it is not defined.
        smallest, largest: samples in the smallest and in the largest cluster.
        pair_f1: by the constraints, or None.
        views, modularity, votes: of a consensus, which has no halves and no pair information (`deepclust.cuts.voting`).
    """

    n_clusters: int
    heads: float | None
    halves: float | None
    information: float | None
    silhouette: float | None
    smallest: int
    largest: int
    pair_f1: float | None = None
    views: float | None = None
    modularity: float | None = None
    votes: float | None = None

    @property
    def stability(self) -> float:
        """The lower of both agreements: halves agree near the leaves, where few merges are left to differ in, and
        heads near the root. Of a consensus the agreement of its views."""
        return min(one for one in (self.heads, self.halves, self.views) if one is not None)

    @property
    def score(self) -> float:
        """What decides: pair F1 where there are constraints, votes where measures voted, else stability."""
        return next(one for one in (self.pair_f1, self.votes, self.stability) if one is not None)


@dataclass(frozen=True)
class Exploration:
    """The tree, its cuts and the choice among them.

    Attributes:
        tree: of the best head's clusters.
        cuts: those that were scored, by number of clusters.
        chosen: the number of clusters of the cut with the highest score, the first of equals.
        recommended: the lowest and the highest number around it whose cuts score almost as high.
    """

    tree: ClusterTree
    cuts: Sequence[Cut]
    chosen: int
    recommended: tuple[int, int]

    @property
    def note(self) -> str:
        """Sentences to stand under a table."""
        best = next(cut for cut in self.cuts if cut.n_clusters == self.chosen)
        sure = best.score if best.votes is None else best.stability
        low, high = self.recommended
        if len(self.cuts) == 1:
            return f"{low} is the only number of clusters that was looked at."
        span = f"{low}" if low == high else f"{low} to {high}"
        said = f"{span} clusters are recommended by {self.decides}; "
        said += f"{self.chosen} are taken, which score {best.score:.2f} of 1."
        if high == self.cuts[-1].n_clusters:
            said += f" {high} is the highest number that was looked at."
        if sure < UNSTABLE:
            said += " That is little: take the number for a guess."
        return said

    @property
    def decides(self) -> str:
        """By what the cut was chosen."""
        first = self.cuts[0]
        if first.pair_f1 is not None:
            return "the pair F1 of the constraints"
        return "stability" if first.votes is None else "votes of views, modularity and silhouette"

    def __str__(self) -> str:
        shown = [name for name in COLUMNS if any(getattr(cut, name) is not None for cut in self.cuts)]
        lines = [" ".join([f"{'C':>5}", *(f"{COLUMNS[name]:>10}" for name in shown), f"{'sizes':>13}"])]
        for cut in self.cuts:
            mark = "*" if cut.n_clusters == self.chosen else " "
            values = (_shown(getattr(cut, name)) for name in shown)
            sizes = f"{cut.smallest}-{cut.largest}"
            lines.append(
                " ".join([f"{mark}{cut.n_clusters:>4}", *(f"{value:>10}" for value in values), f"{sizes:>13}"])
            )
        return "\n".join([*lines, self.note])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as exploration.json and saved estimators hold them."""
        return {
            "chosen": self.chosen,
            "recommended": list(self.recommended),
            "note": self.note,
            "cuts": [{**asdict(cut), "stability": cut.stability} for cut in self.cuts],
            "tree": self.tree.as_dict(),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Exploration:
        cuts = [Cut(**{key: value for key, value in cut.items() if key != "stability"}) for cut in saved["cuts"]]
        return cls(ClusterTree.from_dict(saved["tree"]), cuts, saved["chosen"], tuple(saved["recommended"]))


def what_n_clusters_is(value: Any) -> str | None:
    """What `n_clusters` must be, or None where it is a number, `auto`, or bounds."""
    if value == "auto" or _is_count(value):
        return None
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_count, value)) and value[0] < value[1]:
        return None
    return WANTED


def bounds_of(n_clusters: Any, n_samples: int | None) -> tuple[int, int] | None:
    """The lowest and the highest number of clusters that are looked at; None where `n_clusters` is a number.

    Args:
        n_clusters: a number, `auto` or bounds.
        n_samples: N, or None where it is not known yet. `auto` looks at 3 to 50 clusters, or fewer where they would
            have less than 20 members. The halves of a set are often its most stable cut, and rarely what is wanted.

    Raises:
        InputError: if it is none of them, or the bounds exceed the samples.
    """
    wanted = what_n_clusters_is(n_clusters)
    if wanted is not None:
        raise InputError(f"n_clusters is {n_clusters!r}: it must be {wanted}")
    if n_clusters == "auto":
        most = AUTO_MOST if n_samples is None else max(2, min(AUTO_MOST, n_samples // MEMBERS))
        return min(AUTO_LEAST, most), most
    if not isinstance(n_clusters, (list, tuple)):
        return None
    low, high = map(int, n_clusters)
    if n_samples is not None and high > n_samples:
        raise InputError(f"n_clusters is [{low},{high}], but there are only {n_samples} samples: ask for fewer")
    return low, high


def check_can_choose(bounds: tuple[int, int] | None, constrained: bool, n_heads: int) -> None:
    """Raises InputError where nothing could choose among the bounds, or there is nothing to choose."""
    if bounds is None and constrained:
        raise InputError("constraints choose a number of clusters: set n_clusters=auto, or bounds such as [5,50]")
    if bounds is not None and not constrained and n_heads < 2:
        raise InputError(
            "heads are compared to choose n_clusters, and n_heads=1: set n_heads=2 or more, init=consensus, or "
            "constraints="
        )
    if bounds is not None and bounds[1] > MOST_LEAVES:
        raise InputError(f"the tree of {bounds[1]} clusters would take hours: set bounds up to {MOST_LEAVES}")


def explore_heads(
    trained: TrainedHeads,
    features: FeatureSet,
    neighbors: Neighbors,
    bounds: tuple[int, int],
    constraints: Constraints | None = None,
) -> Exploration:
    """Build the tree of the best head's clusters, and score its cuts.

    Args:
        trained: heads of C clusters.
        features: the training split.
        neighbors: mined of it; the 20 nearest count.
        bounds: the lowest and the highest number of clusters that are scored; C at most.
        constraints: what decides where there are some.
    """
    ids_NK = neighbors.ids[:, :PAIR_NEIGHBORS]
    n_leaves = trained.recipe.n_clusters
    leaves, tree = head_tree(trained, features, neighbors)
    losses_H = np.where(np.isfinite(trained.losses_H), trained.losses_H, np.inf)
    compared = [head for head in np.argsort(losses_H, kind="stable")[:COMPARED_HEADS] if np.isfinite(losses_H[head])]
    others = []
    for head in compared:
        if head == trained.best_head:
            continue
        theirs, its_tree = head_tree(trained, features, neighbors, int(head))
        both_CC = sparse.coo_array((np.ones(len(leaves)), (leaves.labels, theirs.labels)), shape=(n_leaves, n_leaves))
        others.append((its_tree, both_CC.tocsr()))
    halves = halved_trees(ids_NK, sparse_probabilities(leaves, n_leaves))
    sizes_CC = sparse.diags_array(np.bincount(leaves.labels, minlength=n_leaves).astype(float)).tocsr()
    drawn = np.arange(len(features))
    if len(drawn) > SILHOUETTE_SAMPLE:
        drawn = np.sort(np.random.default_rng(0).choice(len(drawn), SILHOUETTE_SAMPLE, replace=False))
    rows_ND = features.select(drawn).features
    cuts = []
    for count in counts_within(*bounds):
        labels_N = cut_labels(leaves, tree.groups(count))
        agreements = [agreement_of_cuts(both, tree, other, count) for other, both in others]
        repeated = [agreement_of_cuts(sizes_CC, one, other, count) for one, other in halves]
        sizes = np.bincount(labels_N, minlength=count)
        cuts.append(
            Cut(
                n_clusters=count,
                heads=float(np.mean(agreements)) if agreements else None,
                halves=float(np.mean(repeated)),
                information=float(tree.information[count - 1]),
                silhouette=silhouette(rows_ND, labels_N[drawn]).value,
                smallest=int(sizes.min()),
                largest=int(sizes.max()),
                pair_f1=None if constraints is None else constraints.pair_f1(labels_N),
            )
        )
    return chosen_among(tree, cuts)


def head_tree(
    trained: TrainedHeads, features: FeatureSet, neighbors: Neighbors, head: int | None = None
) -> tuple[Clustering, ClusterTree]:
    """The clusters of a head, the best by default, as the leaves of a tree, and their tree."""
    leaves = trained.assign(features, head=trained.best_head if head is None else head)
    probs_NC = sparse_probabilities(leaves, trained.recipe.n_clusters)
    return leaves, information_tree(pair_joint(neighbors.ids[:, :PAIR_NEIGHBORS], probs_NC))


def chosen_among(tree: ClusterTree, cuts: Sequence[Cut]) -> Exploration:
    """Take the cut with the highest score, and recommend those around it that score almost as high."""
    best = max(range(len(cuts)), key=lambda index: cuts[index].score)
    enough = ENOUGH * cuts[best].score
    low = high = best
    while low > 0 and cuts[low - 1].score >= enough:
        low -= 1
    while high + 1 < len(cuts) and cuts[high + 1].score >= enough:
        high += 1
    return Exploration(tree, cuts, cuts[best].n_clusters, (cuts[low].n_clusters, cuts[high].n_clusters))


def counts_within(low: int, high: int) -> list[int]:
    """Numbers of clusters to score, both bounds among them."""
    if high - low < MOST_CUTS:
        return list(range(low, high + 1))
    return sorted({round(count) for count in np.geomspace(low, high, MOST_CUTS)})


def sparse_probabilities(clustering: Clustering, n_clusters: int) -> sparse.csr_matrix:
    """(N, C) the most probable clusters of each sample."""
    assert clustering.top_ids is not None
    assert clustering.top_probs is not None
    n_samples, top = clustering.top_ids.shape
    indptr = np.arange(0, n_samples * top + 1, top)
    probs = clustering.top_probs.astype(np.float64).ravel()
    return sparse.csr_matrix((probs, clustering.top_ids.ravel(), indptr), shape=(n_samples, n_clusters))


def halved_trees(ids_NK: np.ndarray, probs_NC: sparse.csr_matrix) -> list[tuple[ClusterTree, ClusterTree]]:
    """Trees of the pairs of either half of the samples, for each of `HALVINGS` random halvings."""
    generator = np.random.default_rng(0)
    trees = []
    for _ in range(HALVINGS):
        first_N = generator.permutation(len(ids_NK)) < len(ids_NK) // 2
        one, other = (information_tree(pair_joint(ids_NK[half_N], probs_NC, half_N)) for half_N in (first_N, ~first_N))
        trees.append((one, other))
    return trees


def agreement_of_cuts(both_CC: sparse.csr_array, one: ClusterTree, other: ClusterTree, n_clusters: int) -> float:
    """Adjusted Rand index of the same cut of two trees.

    Args:
        both_CC: samples in each pair of leaves, of the one tree and of the other.
        one, other: the trees.
        n_clusters: of the cut.
    """
    both_GG = _indicator(one.groups(n_clusters)).T @ both_CC @ _indicator(other.groups(n_clusters))
    total = _pairs(both_GG.sum())
    shared = _pairs(both_GG.data).sum()
    first, second = (_pairs(np.asarray(both_GG.sum(axis=axis))).sum() for axis in (0, 1))
    expected = first * second / total
    most = (first + second) / 2
    return float((shared - expected) / (most - expected)) if most > expected else 1.0


def cut_labels(leaves: Clustering, groups_C: np.ndarray) -> np.ndarray:
    """(N,) int32 clusters of a cut, as `TrainedHeads.assign` gives them."""
    assert leaves.top_ids is not None
    assert leaves.top_probs is not None
    blocks = (slice(start, start + BLOCK_ROWS) for start in range(0, len(leaves), BLOCK_ROWS))
    tops = ((leaves.top_ids[block], leaves.top_probs[block]) for block in blocks)
    scored = (cut_scores(torch.from_numpy(ids), torch.from_numpy(probs), groups_C) for ids, probs in tops)
    return np.concatenate([scores_BG.argmax(dim=1).numpy() for scores_BG in scored]).astype(np.int32)


def _indicator(groups_C: np.ndarray) -> sparse.csr_array:
    n_leaves = len(groups_C)
    return sparse.csr_array((np.ones(n_leaves), groups_C, np.arange(n_leaves + 1)))


def _pairs(counts: Any) -> Any:
    return counts * (counts - 1) / 2


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 2 <= int(value) < 2**31


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
