"""The pairs a head learns from: every epoch each sample once, with one neighbor drawn anew.

A batch is two index tensors. Which rows and neighbors it holds is a function of the seed, the epoch and the step
alone, so a resumed run and a run split over ranks see the same global batches as an uninterrupted one on one device.

Shape suffixes: N samples, K neighbors, B pairs of this rank, M blocks of the file, W rows of a shuffling window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deepclust.features.feature_set import FeatureSet
from deepclust.features.row_distances import RowDistances
from deepclust.losses import gaussian_neighbor_weights
from deepclust.neighbors import Neighbors
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.runtime.shared_array import SharedArray
from deepclust.training.recipe import Recipe

# How features that stay in their file are shuffled: blocks of so many rows, mixed within windows of so many.
SHUFFLE_BLOCK_ROWS = 16
WINDOW_ROWS = 1 << 17
# Rows whose pairs are weighed at a time, in float64.
WEIGHED_ROWS = 1 << 16


class PairBatch(NamedTuple):
    """This rank's share of one global batch."""

    anchors_B: Tensor
    neighbors_B: Tensor
    global_size: int


def batch_bounds(n_samples: int, batch_size: int) -> list[int]:
    """Boundaries that cut an epoch into batches of nearly equal size, none above `batch_size` and none left over.

    A short last batch would give SCAN's entropy and TEMI's marginal a noisy estimate once an epoch.
    """
    n_batches = -(-n_samples // batch_size)
    return [round(n_samples * i / n_batches) for i in range(n_batches + 1)]


def shuffled(n_samples: int, generator: torch.Generator, *, windowed: bool) -> Tensor:
    """(N,) the order of an epoch.

    Args:
        n_samples: N.
        generator: decides.
        windowed: shuffle for a memory map: blocks of 16 consecutive rows are put in random order, then the rows are
            shuffled within windows of 131 072. A window holds 8192 places of the file, so that batches are mixed even
            where the file is sorted by class, and its rows are read in runs; up to that many samples the order is the
            same as without.
    """
    if not windowed or n_samples <= WINDOW_ROWS:
        return torch.randperm(n_samples, generator=generator)
    n_blocks = -(-n_samples // SHUFFLE_BLOCK_ROWS)
    blocks_M = torch.randperm(n_blocks, generator=generator)
    order_N = (blocks_M[:, None] * SHUFFLE_BLOCK_ROWS + torch.arange(SHUFFLE_BLOCK_ROWS)).flatten()
    order_N = order_N[order_N < n_samples]  # the last block of the file may be a short one
    for window_W in order_N.split(WINDOW_ROWS):
        window_W.copy_(window_W[torch.randperm(len(window_W), generator=generator)])
    return order_N


class PairBatches:
    """One epoch of `PairBatch`es for one rank.

    Args:
        neighbor_ids_NK: mined neighbors.
        batch_size: over all ranks.
        seed: of the shuffle and of the draws.
        epoch: called at the start of an epoch, gives its number.
        rank: which share of each batch is this process's.
        world_size: number of processes.
        weights_NK: probabilities with which a sample's neighbors are drawn; None draws uniformly.
        local: features, where each sample makes a second pair, with the nearest of its batch by cosine; None: no such
            pairs.
        walk_steps: a drawn neighbor is left for one of its own neighbors 0 to so many times, each number equally often.
        random_share: of the samples, whose partner is then replaced by any sample at all.
    """

    def __init__(
        self,
        neighbor_ids_NK: np.ndarray,
        batch_size: int,
        seed: int,
        epoch: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
        weights_NK: np.ndarray | None = None,
        local: FeatureSet | None = None,
        walk_steps: int = 0,
        random_share: float = 0.0,
    ) -> None:
        self.neighbor_ids_NK = neighbor_ids_NK  # no copy of its own: 1 GB for each rank at ImageNet-21K's size
        self.weights_NK = weights_NK
        self.bounds = batch_bounds(len(neighbor_ids_NK), batch_size)
        self.seed, self.epoch = seed, epoch
        self.rank, self.world_size = rank, world_size
        self.local = local
        self.walk_steps, self.random_share = walk_steps, random_share

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[PairBatch]:
        return self.of_epoch()

    def of_epoch(self, *, windowed: bool = False) -> Iterator[PairBatch]:
        """The batches of one epoch; `windowed` for features that stay in their file, see `shuffled`."""
        n_samples, k = self.neighbor_ids_NK.shape
        # A large odd stride keeps the streams of neighboring seeds and epochs apart.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())
        order_N = shuffled(n_samples, generator, windowed=windowed)
        draws_N = torch.rand(n_samples, generator=generator)
        further_NS = torch.rand(n_samples, self.walk_steps + 3 if self.wanders else 0, generator=generator)
        for low, high in zip(self.bounds[:-1], self.bounds[1:]):
            mine = slice(low + self.rank, high, self.world_size)
            anchors_B, draws_B = order_N[mine], draws_N[mine]
            if self.weights_NK is None:
                columns_B = (draws_B * k).long().clamp_max(k - 1)
            else:
                cumulative_BK = torch.from_numpy(self.weights_NK[anchors_B.numpy()]).cumsum(dim=1)
                # Scaling by the last sum keeps a draw of 1 - ε inside the row despite rounding.
                scaled_B1 = (draws_B * cumulative_BK[:, -1])[:, None]
                columns_B = torch.searchsorted(cumulative_BK, scaled_B1).squeeze(1).clamp_max(k - 1)
            neighbors_B = torch.from_numpy(self.neighbor_ids_NK[anchors_B.numpy(), columns_B.numpy()]).long()
            if self.wanders:
                neighbors_B = self.wandered(neighbors_B, further_NS[mine])
            if self.local is None:
                yield PairBatch(anchors_B, neighbors_B, high - low)
            else:
                nearest_B = nearest_in_batch(self.local, anchors_B, order_N[low:high])
                both_B = torch.cat([neighbors_B, nearest_B])
                yield PairBatch(anchors_B.repeat(2), both_B, 2 * (high - low))

    @property
    def wanders(self) -> bool:
        """Whether a sample's partner may be another than one of its neighbors."""
        return self.walk_steps > 0 or self.random_share > 0

    def wandered(self, neighbors_B: Tensor, draws_BS: Tensor) -> Tensor:
        """(B,) where walks from these neighbors end, some of them anywhere.

        Args:
            neighbors_B: row numbers.
            draws_BS: of each pair, even in [0, 1): how many steps, the steps, whether it ends anywhere, and where.
        """
        n_samples, k = self.neighbor_ids_NK.shape
        steps_B = draws_BS[:, 0] * (self.walk_steps + 1)
        for step in range(1, self.walk_steps + 1):
            columns_B = (draws_BS[:, step] * k).long().clamp_max(k - 1)
            next_B = torch.from_numpy(self.neighbor_ids_NK[neighbors_B.numpy(), columns_B.numpy()]).long()
            neighbors_B = torch.where(steps_B >= step, next_B, neighbors_B)
        # In float64, as float32 has too few numbers for tens of millions of rows.
        anywhere_B = (draws_BS[:, -1].double() * n_samples).long().clamp_max(n_samples - 1)
        return torch.where(draws_BS[:, -2] < self.random_share, anywhere_B, neighbors_B)

    @staticmethod
    def rows_of(batch: PairBatch) -> Tensor:
        """The row numbers that a batch gathers."""
        return torch.cat([batch.anchors_B, batch.neighbors_B])


def nearest_in_batch(features: FeatureSet, anchors_B: Tensor, batch_A: Tensor) -> Tensor:
    """(B,) of each row number the one of the batch whose row is nearest by cosine; one that is alone has itself.

    Args:
        features: the rows.
        anchors_B: row numbers in the batch.
        batch_A: those of the whole batch, of all ranks.
    """

    def unit_rows(ids: Tensor) -> Tensor:
        # In ascending order, in which a file is read best.
        ordered, places = torch.unique(ids, return_inverse=True)
        rows = torch.from_numpy(np.asarray(features.features[ordered.numpy()], dtype=np.float32))
        return functional.normalize(rows, dim=1)[places]

    cosines_BA = unit_rows(anchors_B) @ unit_rows(batch_A).T
    cosines_BA.masked_fill_(anchors_B[:, None] == batch_A, -torch.inf)
    return batch_A[cosines_BA.argmax(dim=1)]


def pair_batches(
    features: FeatureSet,
    neighbors: Neighbors,
    recipe: Recipe,
    epoch: Callable[[], int] = lambda: 0,
    ranks: Ranks = ALONE,
    read_by: Ranks = ALONE,
) -> PairBatches:
    """The pairs that a recipe learns from: those of its nearest neighbors, drawn as its loss asks.

    Args:
        features: of the training split.
        neighbors: mined neighbors, as many as the recipe's or more.
        recipe: its loss, number of neighbors, batch size and seed.
        epoch: called at the start of an epoch, gives its number.
        ranks: the processes that share out each batch.
        read_by: those that share the reading of the features, each of which calls.
    """
    nearest = neighbors.first(recipe.n_neighbors)
    return PairBatches(
        nearest.ids,
        recipe.batch_size,
        recipe.seed,
        epoch=epoch,
        rank=ranks.rank,
        world_size=ranks.world_size,
        weights_NK=pair_weights(features, nearest, read_by) if recipe.loss.gaussian_pairs else None,
        local=features if recipe.loss.local_pairs else None,
        walk_steps=recipe.loss.walk_steps,
        random_share=recipe.loss.random_share,
    )


def pair_weights(features: FeatureSet, neighbors: Neighbors, ranks: Ranks = ALONE) -> np.ndarray:
    """(N, K) TSP's probabilities of drawing each neighbor, a Gaussian of its distance; the ranks of a machine have one
    array of them."""
    distances = RowDistances(features, ranks)
    weights = SharedArray(neighbors.ids.shape, np.float32, ranks)
    share = weights.machine.share(len(features))
    with ranks.all_or_none():
        for low in range(share.start, share.stop, WEIGHED_ROWS):
            rows = slice(low, min(low + WEIGHED_ROWS, share.stop))
            weights.values[rows] = gaussian_neighbor_weights(
                distances.squared(neighbors.ids, neighbors.similarities, rows)
            )
    return weights.values
