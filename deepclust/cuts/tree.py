"""The tree of clusters: the two that lose least pair information merge, until one is left.

Pair information is the mutual information between the cluster of a sample and that of its neighbor, which TEMI's
objective estimates. Merging two clusters can only lower it. The rule is the agglomerative information bottleneck
(Slonim & Tishby 1999) with both sides of the joint distribution merged at once.

Shape suffixes: N samples, K neighbors, C clusters at the leaves, M clusters left while merging.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from deepclust.runtime.errors import InputError

# Rows of the neighbor graph at a time: at most 5 clusters of each of 20 neighbors make 100 entries a row.
BLOCK_ROWS = 1 << 16
# The merges take some C³ operations: about 20 s at 1000 leaves, and 20 minutes at 4000.
MOST_LEAVES = 4000
# Its logarithm is finite, times 0 it is 0.
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class ClusterTree:
    """The merges of C clusters.

    Attributes:
        merges: (C - 1, 2) int64 the two nodes that merge; nodes below C are leaves, C + k is what merge k made.
        lost: (C - 1,) pair information in nats that each merge loses.
    """

    merges: np.ndarray
    lost: np.ndarray

    @property
    def n_leaves(self) -> int:
        """C."""
        return len(self.merges) + 1

    @property
    def information(self) -> np.ndarray:
        """(C,) pair information in nats that is left at 1, 2, … C clusters."""
        return np.concatenate([[0.0], np.cumsum(self.lost[::-1])])

    def groups(self, n_clusters: int) -> np.ndarray:
        """(C,) int32 the number, from 0, of the cluster that each leaf belongs to in the cut into `n_clusters`.

        Clusters are numbered by their first leaf.

        Raises:
            InputError: if there are fewer leaves, or less than one cluster is asked for.

        Example:
            >>> ClusterTree(np.array([[0, 2], [1, 3]]), np.array([0.1, 0.5])).groups(2)
            array([0, 1, 0], dtype=int32)
        """
        if not isinstance(n_clusters, (int, np.integer)) or not 1 <= n_clusters <= self.n_leaves:
            raise InputError(
                f"n_clusters is {n_clusters}: a tree of {self.n_leaves} clusters is cut into 1 to {self.n_leaves}"
            )
        top = np.arange(2 * self.n_leaves - 1)
        for made in range(self.n_leaves - n_clusters - 1, -1, -1):  # from the last merge down to the leaves
            top[self.merges[made]] = top[self.n_leaves + made]
        _, first, number_C = np.unique(top[: self.n_leaves], return_index=True, return_inverse=True)
        return first.argsort().argsort()[number_C].astype(np.int32)

    def as_dict(self) -> dict[str, Any]:
        """Plain lists."""
        return {"merges": self.merges.tolist(), "lost": self.lost.tolist()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> ClusterTree:
        return cls(np.array(saved["merges"], np.int64).reshape(-1, 2), np.array(saved["lost"], np.float64))


def pair_joint(
    neighbor_ids_AK: np.ndarray, probs_NC: sparse.csr_matrix, anchors_N: np.ndarray | None = None
) -> np.ndarray:
    """(C, C) how often a sample of one cluster has a neighbor of another; symmetric, sums to 1.

    Args:
        neighbor_ids_AK: rows of the neighbors of each anchor.
        probs_NC: each sample's probabilities of the clusters, sparse: a few per row are enough.
        anchors_N: which samples are anchors; None: all.
    """
    n_anchors, n_neighbors = neighbor_ids_AK.shape
    anchors_AC = probs_NC if anchors_N is None else probs_NC[anchors_N]
    joint_CC = np.zeros((probs_NC.shape[1],) * 2)
    for start in range(0, n_anchors, BLOCK_ROWS):
        ids_BK = neighbor_ids_AK[start : start + BLOCK_ROWS]
        indptr = np.arange(0, ids_BK.size + 1, n_neighbors)
        shape = len(ids_BK), probs_NC.shape[0]
        graph_BN = sparse.csr_matrix((np.ones(ids_BK.size), ids_BK.ravel(), indptr), shape=shape)
        joint_CC += (anchors_AC[start : start + BLOCK_ROWS].T @ (graph_BN @ probs_NC)).toarray()
    joint_CC += joint_CC.T
    return joint_CC / joint_CC.sum()


def pair_information_of(joint_CC: np.ndarray) -> float:
    """Mutual information of a symmetric joint distribution, in nats."""
    p_CC, p_C = torch.from_numpy(joint_CC), torch.from_numpy(joint_CC.sum(axis=0))
    return float(torch.xlogy(p_CC, p_CC).sum() - 2 * torch.xlogy(p_C, p_C).sum())


def information_tree(joint_CC: np.ndarray) -> ClusterTree:
    """Merge the two clusters whose merging loses least pair information, until one is left.

    A merge changes what the others lose in two columns only, so it costs O(C²) and the tree O(C³).

    Args:
        joint_CC: of `pair_joint`.

    Raises:
        InputError: if there are more than `MOST_LEAVES` clusters.
    """
    n_leaves = len(joint_CC)
    if n_leaves > MOST_LEAVES:
        raise InputError(f"a tree of {n_leaves} clusters would take hours: it has at most {MOST_LEAVES}")
    p_MM = torch.from_numpy(np.array(joint_CC, np.float64))
    nodes = np.arange(n_leaves)
    lost_MM = torch.stack([lost_by_merging(p_MM, leaf) for leaf in range(n_leaves)])
    merges = np.empty((n_leaves - 1, 2), np.int64)
    lost = np.empty(n_leaves - 1)
    for merge in range(n_leaves - 1):
        last = n_leaves - merge - 1
        kept, gone = sorted(divmod(int(lost_MM.argmin()), last + 1))
        merges[merge] = sorted((nodes[kept], nodes[gone]))
        lost[merge] = max(0.0, float(lost_MM[kept, gone]))
        # Of all other pairs two columns become one.
        _add_pairs_(lost_MM, p_MM[:, kept], -2)
        _add_pairs_(lost_MM, p_MM[:, gone], -2)
        p_MM[:, kept] += p_MM[:, gone]
        p_MM[kept] += p_MM[gone]
        _add_pairs_(lost_MM, p_MM[:, kept], 2)
        # The last cluster takes the place of the one that is gone.
        for one_MM in (p_MM, lost_MM):
            one_MM[gone] = one_MM[last]
            one_MM[:, gone] = one_MM[:, last]
        lost_MM[gone, gone] = torch.inf
        nodes[kept], nodes[gone] = n_leaves + merge, nodes[last]
        p_MM, lost_MM = p_MM[:last, :last], lost_MM[:last, :last]
        lost_MM[kept] = lost_MM[:, kept] = lost_by_merging(p_MM, kept)
    return ClusterTree(merges, lost)


def lost_by_merging(p_MM: Tensor, one: int) -> Tensor:
    """(M,) nats of pair information that merging a cluster with each other one loses; infinite with itself."""
    row_M, own_M, p_M = p_MM[one], p_MM.diagonal(), p_MM.sum(dim=0)
    # Of rows a and b, in the columns of the others; columns a and b themselves become one.
    met = row_M.nonzero()[:, 0]
    beside_M = _gain(row_M[met], p_MM[:, met]).sum(dim=1) - _gain(own_M[one], row_M) - _gain(row_M, own_M)
    corner_M = _f(own_M[one]) + 2 * _f(row_M) + _f(own_M) - _f(own_M[one] + 2 * row_M + own_M)
    lost_M = 2 * beside_M + corner_M - 2 * _gain(p_M[one], p_M)
    lost_M[one] = torch.inf
    return lost_M


def _add_pairs_(lost_MM: Tensor, column_M: Tensor, factor: float) -> None:
    """Add what a column says of every pair of rows, which is nothing where one of them is 0."""
    met = column_M.nonzero()[:, 0]
    lost_MM[met[:, None], met] += factor * _gain(column_M[met, None], column_M[met])


def _f(p: Tensor) -> Tensor:
    """p log p; several times faster than `torch.xlogy`, which is not vectorized."""
    return p.clamp_min(TINY).log_().mul_(p)


def _gain(p: Tensor, q: Tensor) -> Tensor:
    """What f(p) + f(q), f(p) = p log p, has above f(p + q): never more than 0."""
    return (_f(p) + _f(q)).sub_(_f(p + q))
