"""The pairs of an epoch: every sample once, with one of its neighbors, the same whoever asks.

Shape suffixes: N samples, K neighbors.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepclust.features.feature_set import FeatureSet
from deepclust.features.row_distances import RowDistances
from deepclust.losses import gaussian_neighbor_weights
from deepclust.neighbors import mine_neighbors
from deepclust.runtime.ranks import Ranks
from deepclust.training.pairs import (
    PairBatches,
    batch_bounds,
    nearest_in_batch,
    pair_batches,
)
from deepclust.training.recipe import Recipe

N, K = 103, 6


@pytest.fixture
def ids() -> np.ndarray:
    """Neighbors of row i are drawn from the other rows."""
    rng = np.random.default_rng(0)
    return np.stack([rng.choice(np.delete(np.arange(N), row), K, replace=False) for row in range(N)]).astype(np.int32)


def epoch_of(ids, **options):
    return list(PairBatches(ids, **{"batch_size": 20, "seed": 0, **options}))


def flat(batches, part):
    return torch.cat([getattr(batch, part) for batch in batches]).numpy()


@pytest.mark.parametrize("batch_size", [1, 20, 103, 1000])
def test_an_epoch_holds_each_sample_once_with_a_neighbor_of_its_own(batch_size, ids):
    batches = epoch_of(ids, batch_size=batch_size)
    anchors, partners = flat(batches, "anchors_B"), flat(batches, "neighbors_B")
    np.testing.assert_array_equal(np.sort(anchors), np.arange(N))
    assert (ids[anchors] == partners[:, None]).any(axis=1).all()
    assert [len(batch.anchors_B) for batch in batches] == [batch.global_size for batch in batches]
    assert len(PairBatches(ids, batch_size, 0)) == len(batches)


@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize("weighted", [False, True])
def test_ranks_share_out_the_batches_of_one_device(world_size, weighted, ids):
    weights = np.random.default_rng(1).dirichlet(np.ones(K), N).astype(np.float32) if weighted else None
    alone = epoch_of(ids, weights_NK=weights)
    ranks = [epoch_of(ids, weights_NK=weights, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(alone):
        shares = [rank[step] for rank in ranks]
        pairs = [pair for share in shares for pair in zip(share.anchors_B.tolist(), share.neighbors_B.tolist())]
        assert sorted(pairs) == sorted(zip(batch.anchors_B.tolist(), batch.neighbors_B.tolist()))
        assert {share.global_size for share in shares} == {batch.global_size}
        sizes = [len(share.anchors_B) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_batches_are_a_function_of_seed_and_epoch(ids):
    def anchors_of(seed, epoch):
        return flat(epoch_of(ids, seed=seed, epoch=lambda: epoch), "anchors_B").tolist()

    torch.manual_seed(1)
    first = anchors_of(3, 5)
    torch.manual_seed(2)  # the global generator has no say
    assert anchors_of(3, 5) == first
    seen = [anchors_of(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in seen}) == 9


def test_a_new_epoch_draws_new_neighbors(ids):
    epoch = [0]
    batches = PairBatches(ids, 20, 0, epoch=lambda: epoch[0])
    partners = []
    for epoch[0] in range(300):
        drawn = list(batches)
        partners.append(flat(drawn, "neighbors_B")[np.argsort(flat(drawn, "anchors_B"))])
    columns = np.argmax(ids[None] == np.stack(partners)[..., None], axis=2)
    counts = np.stack([(columns == column).sum(axis=0) for column in range(K)], axis=1)
    # 300 draws of 6 equally likely neighbors: 50 each, give or take 6 standard deviations.
    assert (abs(counts - 50) < 6 * np.sqrt(300 / 6 * 5 / 6)).all()


def test_gaussian_draws_follow_the_weights(ids):
    weights = np.tile(np.array([0.5, 0.3, 0.15, 0.05, 0, 0], np.float32), (N, 1))
    draws = [epoch_of(ids, weights_NK=weights, epoch=lambda epoch=epoch: epoch) for epoch in range(100)]
    anchors = np.concatenate([flat(batches, "anchors_B") for batches in draws])
    partners = np.concatenate([flat(batches, "neighbors_B") for batches in draws])
    columns = np.argmax(ids[anchors] == partners[:, None], axis=1)
    shares = np.bincount(columns, minlength=K) / len(columns)
    np.testing.assert_allclose(shares, weights[0], atol=0.02)
    assert shares[4] == shares[5] == 0


@pytest.mark.parametrize(
    ("n_samples", "batch_size", "expected"),
    [(10, 5, [0, 5, 10]), (11, 5, [0, 4, 7, 11]), (3, 10, [0, 3]), (4, 1, [0, 1, 2, 3, 4]), (1797, 512, None)],
)
def test_batches_are_nearly_equal_and_none_is_left_over(n_samples, batch_size, expected):
    bounds = batch_bounds(n_samples, batch_size)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, n_samples)
    assert sizes.max() <= batch_size
    assert sizes.max() - sizes.min() <= 1
    assert expected is None or bounds == expected


def test_squared_distances_come_from_cosines_and_norms():
    rows = np.random.default_rng(3).standard_normal((50, 7)).astype(np.float32)
    neighbors = mine_neighbors(rows, 5)
    expected = np.square(rows[:, None] - rows[neighbors.ids]).sum(axis=2)
    squared = RowDistances(FeatureSet.from_arrays(rows)).squared(neighbors.ids, neighbors.similarities)
    np.testing.assert_allclose(squared, expected, atol=1e-4)


@pytest.mark.parametrize(("loss", "weighted"), [("temi", False), ("scan", False), ("tsp", True)])
def test_only_tsp_weighs_its_neighbors(loss, weighted, planted):
    recipe = Recipe.of(loss, n_clusters=5, n_neighbors=8, batch_size=64)
    batches = pair_batches(planted, mine_neighbors(planted, 8), recipe)
    assert (batches.weights_NK is not None) == weighted
    if weighted:
        mined = mine_neighbors(planted, 8)
        squared = RowDistances(planted).squared(mined.ids, mined.similarities)
        expected = gaussian_neighbor_weights(squared)
        np.testing.assert_allclose(batches.weights_NK, expected, atol=1e-6)


def test_nnm_pairs_each_sample_with_the_nearest_of_its_batch_too(planted):
    recipe = Recipe.of("nnm", n_clusters=5, n_neighbors=3, batch_size=64)
    cosines = np.asarray(planted.features) @ np.asarray(planted.features).T
    np.fill_diagonal(cosines, -np.inf)
    plain = Recipe.of("scan", n_clusters=5, n_neighbors=3, batch_size=64)
    mined = mine_neighbors(planted, 3)
    for batch, drawn in zip(pair_batches(planted, mined, recipe), pair_batches(planted, mined, plain)):
        size = len(drawn.anchors_B)
        assert batch.global_size == 2 * size == len(batch.anchors_B)
        for half in (batch.anchors_B[:size], batch.anchors_B[size:]):
            assert torch.equal(half, drawn.anchors_B)
        assert torch.equal(batch.neighbors_B[:size], drawn.neighbors_B)
        members = drawn.anchors_B.numpy()
        nearest = members[cosines[np.ix_(members, members)].argmax(axis=1)]
        np.testing.assert_array_equal(batch.neighbors_B[size:], nearest)


@pytest.mark.parametrize("walk", [0, 1, 2])
def test_walks_end_where_powers_of_the_neighbor_matrix_say(walk, ids):
    """And a share of the pairs ends anywhere: both are the distribution that I-Con is to learn."""
    step = np.zeros((N, N))
    np.put_along_axis(step, ids, 1 / K, axis=1)
    walks = np.mean([np.linalg.matrix_power(step, 1 + further) for further in range(walk + 1)], axis=0)
    expected = 0.75 * walks + 0.25 / N
    found = np.zeros((N, N))
    for epoch in range(400):
        batches = epoch_of(ids, epoch=lambda epoch=epoch: epoch, walk_steps=walk, random_share=0.25)
        np.add.at(found, (flat(batches, "anchors_B"), flat(batches, "neighbors_B")), 1 / 400)
    # Every entry within 6 standard deviations of a mean of 400 draws.
    assert (abs(found - expected) <= 6 * np.sqrt(np.maximum(expected, 1 / N) / 400)).all()


def test_walks_of_ranks_are_those_of_one_process(ids):
    wandering = {"walk_steps": 2, "random_share": 0.5}
    alone = epoch_of(ids, **wandering)
    ranks = [epoch_of(ids, **wandering, rank=rank, world_size=3) for rank in range(3)]
    for step, batch in enumerate(alone):
        shares = [rank[step] for rank in ranks]
        pairs = [pair for share in shares for pair in zip(share.anchors_B.tolist(), share.neighbors_B.tolist())]
        assert sorted(pairs) == sorted(zip(batch.anchors_B.tolist(), batch.neighbors_B.tolist()))


def test_local_pairs_of_ranks_are_those_of_one_process(planted):
    recipe = Recipe.of("nnm", n_clusters=5, n_neighbors=3, batch_size=50)
    mined = mine_neighbors(planted, 3)

    def pairs(batch):
        return list(zip(batch.anchors_B.tolist(), batch.neighbors_B.tolist()))

    shares = [pair_batches(planted, mined, recipe, ranks=Ranks(rank, 3)) for rank in range(3)]
    for whole, *parts in zip(pair_batches(planted, mined, recipe), *shares):
        assert sorted(pairs(whole)) == sorted(pair for part in parts for pair in pairs(part))
        assert {part.global_size for part in parts} == {whole.global_size}


def test_a_sample_that_is_alone_in_its_batch_has_itself(planted):
    assert nearest_in_batch(planted, torch.tensor([4]), torch.tensor([4])).tolist() == [4]


def test_more_neighbors_than_needed_are_cut_to_the_nearest(planted):
    recipe = Recipe.of("temi", n_clusters=5, n_neighbors=3, batch_size=64)
    nearest = mine_neighbors(planted, 3).ids
    for batch in pair_batches(planted, mine_neighbors(planted, 9), recipe):
        assert (nearest[batch.anchors_B] == batch.neighbors_B.numpy()[:, None]).any(axis=1).all()
