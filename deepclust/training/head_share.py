"""Heads shared out over ranks: each rank trains some of them on the whole batch.

Shape suffixes: H heads of all ranks, B pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import Ranks
from deepclust.training.heads import Heads


class HeadShare:
    """The heads that this rank has.

    What is kept outside a process, checkpoints and trained heads, holds the heads of all ranks.

    Args:
        n_heads: H.
        ranks: the processes that share them; a process alone has all.

    Raises:
        InputError: if there are fewer heads than processes.

    Attributes:
        mine: which of all heads are this rank's.
        shared: whether others have the rest.
    """

    def __init__(self, n_heads: int, ranks: Ranks) -> None:
        if n_heads < ranks.world_size:
            raise InputError(
                f"trainer.shard=heads over {ranks.world_size} processes with n_heads={n_heads}: each needs one head at "
                "least: set trainer.shard=batch, or more heads"
            )
        self.n_heads, self.ranks = n_heads, ranks
        self.mine = ranks.share(n_heads)
        self.shared = ranks.world_size > 1

    def of(self, heads: Heads) -> Heads:
        """This rank's of all heads."""
        if not self.shared:
            return heads
        return heads.some(self.mine).to(next(heads.parameters()).device)

    def all_of(self, heads: Heads) -> Heads:
        """All heads, on every rank, each of which calls this."""
        if not self.shared:
            return heads
        one = heads.like(self.n_heads).to(next(heads.parameters()).device)
        one.load_state_dict({name: self.whole(value) for name, value in heads.state_dict().items()})
        return one

    def whole(self, part: Tensor, dim: int = 0) -> Tensor:
        """Every rank's part of a tensor, one after another along the dimension of the heads."""
        if not self.shared:
            return part
        parts = []
        for rank in range(self.ranks.world_size):
            share = Ranks(rank, self.ranks.world_size).share(self.n_heads)
            shape = list(part.shape)
            shape[dim] = share.stop - share.start
            one = part.contiguous() if rank == self.ranks.rank else part.new_empty(shape)
            dist.broadcast(one, rank)
            parts.append(one)
        return torch.cat(parts, dim=dim)

    def cut(self, whole: Tensor, dim: int = 0) -> Tensor:
        """This rank's part of a tensor of all heads."""
        return whole.narrow(dim, self.mine.start, self.mine.stop - self.mine.start).clone() if self.shared else whole

    def summed(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.shared:
            dist.all_reduce(values)
        return values

    def losses(self, part_H: Tensor) -> Tensor:
        """(H,) the losses of all heads, of this rank's."""
        if not self.shared:
            return part_H
        losses_H = part_H.new_zeros(self.n_heads)
        losses_H[self.mine] = part_H
        return self.summed(losses_H)

    def in_checkpoint(self, checkpoint: dict[str, Any], change: Callable[[Tensor, int], Tensor]) -> None:
        """Apply `whole` or `cut` to all of a checkpoint that has a dimension of heads: networks, means, moments."""
        if not self.shared:
            return
        weights = checkpoint["state_dict"]
        for name, value in weights.items():
            if name.startswith(("student.", "teacher.")):
                weights[name] = change(value, 0)
        weights["mean_VHC"] = change(weights["mean_VHC"], 1)
        for optimizer in checkpoint["optimizer_states"]:
            # A new one: torch puts the optimizer's own dictionaries into its state.
            optimizer["state"] = {
                number: {name: change(value, 0) if value.ndim > 0 else value for name, value in state.items()}
                for number, state in optimizer["state"].items()
            }
