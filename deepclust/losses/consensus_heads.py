"""Heads that learn a consensus and keep it: our own objective, of no paper.

    L = - ½ Σ_c t_c (log q_s(c|x) + log q_s(c|x')),    t = (q_0(c|x) + q_0(c|x')) / 2

q_0 is the network as training began, which has learned the partition that many views of the neighbor graph agree on
(`init=consensus`). It stays as it is, so the targets cannot drift. Over the epochs a sample meets all its neighbors:
half of what it learns is its own cluster, half is the share that each cluster has of its neighbors. So a border is as
unsure as its neighbors disagree. No term asks for clusters of equal size. The gradient in the student's log-odds is
(q_s - t) / 2B.

Shape suffixes: H heads, B pairs, C clusters, V = 1: the student's mean, which is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from deepclust.losses.base import BatchLook, Gradients, LogProbs, Loss, Probs, both_ways, check_pairs

MANY_CLUSTERS = 500
ENOUGH_PAIRS = 600_000


def vote_loss(student_log_probs_HBC: Tensor, votes_HBC: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy with votes for every head at once.

    Args:
        student_log_probs_HBC: log q_s of one member of each pair.
        votes_HBC: t, rows sum to 1, no gradient flows into them.

    Returns:
        Loss per head, shape (H,), in nats; its gradient in the student's log-odds, (H, B, C).

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import torch
        >>> loss_H, gradient_HBC = vote_loss(torch.full((1, 1, 2), 0.5).log(), torch.tensor([[[1.0, 0.0]]]))
        >>> loss_H, gradient_HBC
        (tensor([0.6931]), tensor([[[-0.5000,  0.5000]]]))
    """
    check_pairs(student_log_probs_HBC, votes_HBC)
    loss_H = -(votes_HBC * student_log_probs_HBC).sum(dim=2).mean(dim=1)
    return loss_H, student_log_probs_HBC.exp().sub_(votes_HBC).div_(votes_HBC.shape[1])


@dataclass(frozen=True)
class ConsensusHeads(Loss):
    """`vote_loss` of both members of a pair, with the votes of the network as training began.

    One head is the default: which partition is best was decided before training, and the head with the lowest training
    loss is not the one of the best partition.

    Example:
        >>> import torch
        >>> student, start = (LogProbs(*torch.randn(2, 1, 8, 4).log_softmax(dim=3)) for _ in range(2))
        >>> loss = ConsensusHeads()
        >>> loss_H, gradients = loss.gradient(student, start, loss.look(student.exp()))
        >>> loss_H.shape, gradients.neighbors.shape
        (torch.Size([1]), torch.Size([1, 8, 4]))
    """

    name = "consensus_heads"
    title = "Consensus heads"
    trained_with = MappingProxyType(
        {"n_heads": 1, "init": "consensus", "warm_start_epochs": None, "freeze_prototypes_epochs": 0}
    )
    # The teacher is then left as training began.
    student_assigns = True
    keeps_start = True

    def warm_start_epochs(self, n_clusters: int) -> int:
        """4, and 16 of many clusters, as a head that has seen little of a cluster leaves it unused (docs/scale.md)."""
        return 16 if n_clusters >= MANY_CLUSTERS else 4

    def epochs(self, n_rows: int) -> int:
        """10; where there are many rows as many as show it so many pairs, 3 at least (docs/scale.md)."""
        return max(3, min(super().epochs(n_rows), -(-ENOUGH_PAIRS // n_rows)))

    def look(self, probs: Probs) -> BatchLook:
        return BatchLook.of_one_view(probs.anchors)

    def gradient(
        self, student: LogProbs, teacher: LogProbs, batch: BatchLook, scale: float = 1.0
    ) -> tuple[Tensor, Gradients]:
        votes_HBC = teacher.anchors.exp().add_(teacher.neighbors.exp()).div_(2)
        return both_ways(vote_loss(student.anchors, votes_HBC), vote_loss(student.neighbors, votes_HBC), scale)
