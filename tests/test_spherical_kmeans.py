"""Facts about spherical k-means: what it optimizes, what it recovers, what it refuses."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import distributed as dist

import deepclust.spherical_kmeans as kmeans_module
from deepclust.features import unit_rows
from deepclust.features.rows import ShardedRows
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import Ranks
from deepclust.spherical_kmeans import SphericalKMeans, kmeans_predict, largest_column, spherical_kmeans


def unit(features):
    features = np.asarray(features, dtype=np.float64)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def planted():
    """2000 samples around 8 directions, of very different lengths."""
    rng = np.random.default_rng(0)
    labels = rng.integers(8, size=2000)
    directions = rng.standard_normal((8, 32))
    features = directions[labels] + 0.2 * rng.standard_normal((2000, 32))
    return (features * rng.uniform(0.01, 100, (2000, 1))).astype(np.float32), labels


@pytest.fixture(scope="module")
def digits():
    return load_digits().data.astype(np.float32)


def test_recovers_planted_directions_whatever_the_lengths(planted):
    features, labels = planted
    result = spherical_kmeans(features, 8, seed=1)
    assert adjusted_rand_score(labels, result.labels_N) == 1.0
    assert result.labels_N.dtype == np.int32
    assert result.centroids_CD.dtype == np.float32


def test_centers_are_unit_member_means_and_labels_their_nearest(digits):
    result = spherical_kmeans(digits, 10, n_init=1, tol=0, max_iter=300)
    np.testing.assert_allclose(np.linalg.norm(result.centroids_CD, axis=1), 1, atol=1e-6)
    similarities = unit(digits) @ result.centroids_CD.T
    np.testing.assert_array_equal(similarities.argmax(axis=1), result.labels_N)
    assert result.similarity == pytest.approx(similarities.max(axis=1).mean(), abs=1e-6)
    # Converged on all samples: a subsample's centers would differ from the means over all members.
    means = np.stack([unit(digits)[result.labels_N == c].mean(axis=0) for c in range(10)])
    np.testing.assert_allclose(unit(means), result.centroids_CD, atol=1e-5)


def test_objective_is_not_worse_than_scikit_learns_on_normalized_data(digits):
    ours = spherical_kmeans(digits, 10, n_init=10).similarity
    features = unit(digits)
    labels = KMeans(10, n_init=10, random_state=0).fit_predict(features)
    theirs = sum(np.linalg.norm(features[labels == c].sum(axis=0)) for c in range(10)) / len(features)
    assert ours >= theirs - 1e-4


def test_more_runs_never_lower_the_objective(digits):
    one, many = (spherical_kmeans(digits, 20, n_init=n, seed=3).similarity for n in (1, 6))
    assert many >= one


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_same_seed_same_labels_and_another_seed_others(digits, init):
    first, again, other = (spherical_kmeans(digits, 30, n_init=2, init=init, seed=s) for s in (4, 4, 5))
    np.testing.assert_array_equal(first.labels_N, again.labels_N)
    assert (first.labels_N != other.labels_N).any()


def test_dtype_sharding_and_blocks_do_not_change_the_labels(digits, tmp_path, monkeypatch):
    half = digits.astype(np.float16)  # 0 … 16 are exact in float16
    np.save(tmp_path / "half.npy", half)
    expected = spherical_kmeans(digits, 10, n_init=2).labels_N
    for same in (np.load(tmp_path / "half.npy", mmap_mode="r"), ShardedRows([half[:700], half[700:]])):
        np.testing.assert_array_equal(spherical_kmeans(same, 10, n_init=2).labels_N, expected)
    monkeypatch.setattr(unit_rows, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(unit_rows, "BLOCK_ROWS", 100)
    assert adjusted_rand_score(spherical_kmeans(half, 10, n_init=2).labels_N, expected) > 0.99


def test_every_cluster_gets_members_where_there_are_enough_directions():
    rng = np.random.default_rng(0)
    crowd = np.array([1.0, 0, 0]) + 1e-3 * rng.standard_normal((500, 3))
    features = np.concatenate([crowd, -np.eye(3)])
    for seed in range(5):
        labels = spherical_kmeans(features, 20, n_init=1, init="random", seed=seed).labels_N
        assert len(np.unique(labels)) == 20


def test_fewer_distinct_directions_than_clusters_stays_finite():
    features = np.repeat(np.eye(3), 10, axis=0)
    result = spherical_kmeans(features, 5, n_init=2)
    assert len(np.unique(result.labels_N)) == 3
    assert np.isfinite(result.centroids_CD).all()
    assert result.similarity == pytest.approx(1)


def test_predict_gives_the_five_closest_centers_in_order(digits):
    result = spherical_kmeans(digits, 10, n_init=1)
    labels, top_ids = kmeans_predict(digits, result.centroids_CD)
    np.testing.assert_array_equal(labels, result.labels_N)
    expected = np.argsort(-(unit(digits).astype(np.float32) @ result.centroids_CD.T), axis=1, kind="stable")[:, :5]
    assert (top_ids == expected).mean() > 0.999
    assert kmeans_predict(digits, result.centroids_CD[:3])[1].shape == (len(digits), 3)


@pytest.mark.parametrize(
    ("features", "n_clusters", "message"),
    [
        (np.eye(4), 5, "n_clusters is 5, but n_samples=4"),
        (np.eye(4), 0, "n_clusters is 0: k-means needs a whole number of at least 1"),
        (np.eye(4), 2.5, "n_clusters is 2.5"),
        (np.eye(4), "2", "n_clusters is '2'"),
        (np.ones(4), 2, "needs a matrix"),
        (np.ones((4, 1)), 2, "n_features=1"),
        (np.array([[1.0, 2], [3, 4], [np.nan, 1]]), 2, r"NaN or infinite values \(first: row 2\)"),
        (np.array([[1.0, 2], [0, 0], [3, 1]]), 2, r"rows are all zero \(first: row 1\)"),
    ],
)
def test_bad_input_is_refused_in_one_line(features, n_clusters, message):
    with pytest.raises(InputError, match=message) as caught:
        spherical_kmeans(features, n_clusters)
    assert "\n" not in str(caught.value)


def test_predict_refuses_features_of_another_dimension():
    with pytest.raises(InputError, match="3 dimensions, the centers have 2"):
        kmeans_predict(np.eye(3), np.eye(2, dtype=np.float32))


def test_batches_are_assigned_as_the_whole(digits):
    centers = spherical_kmeans(digits, 10, n_init=1).centroids_CD
    parts = [kmeans_predict(digits[start : start + 7], centers)[0] for start in range(0, len(digits), 7)]
    np.testing.assert_array_equal(np.concatenate(parts), kmeans_predict(digits, centers)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shift", [0.0, -9.0, 9.0])
def test_the_largest_column_of_each_row_is_the_first_of_equals(dtype, shift):
    values = (torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)) + shift).to(dtype)
    values[0], values[1], values[2, ::2] = 0.0, -0.0, 0.0
    expected = values.double().argmax(dim=1)
    found = largest_column(values)
    torch.testing.assert_close(values.gather(1, found[:, None]), values.gather(1, expected[:, None]))
    torch.testing.assert_close(found[2:], torch.from_numpy(values[2:].double().numpy().argmax(axis=1)))


@pytest.mark.parametrize("n_clusters", [8, 60])
def test_bfloat16_ends_exact_and_as_good(n_clusters, planted):
    features, _ = planted
    exact, rounded = (
        spherical_kmeans(features, n_clusters, n_init=3, precision=precision) for precision in ("float32", "bfloat16")
    )
    # Other roundings may lead to another optimum: as good within what runs of other seeds differ by.
    assert rounded.similarity == pytest.approx(exact.similarity, rel=2e-3)
    similarities = unit(features) @ rounded.centroids_CD.T
    chosen = np.take_along_axis(similarities, rounded.labels_N[:, None].astype(np.int64), axis=1)[:, 0]
    np.testing.assert_allclose(chosen, similarities.max(axis=1), atol=1e-6)
    assert rounded.similarity == pytest.approx(chosen.mean(), abs=1e-6)


def test_runs_compete_on_a_sample_and_the_best_ends_on_all_rows(digits, monkeypatch):
    whole = spherical_kmeans(digits, 10, n_init=5)
    monkeypatch.setattr(kmeans_module, "COMPETING_ROWS", 600)
    monkeypatch.setattr(kmeans_module, "COMPETING_ROWS_PER_CENTER", 1)
    found = spherical_kmeans(digits, 10, n_init=5)
    assert found.similarity == pytest.approx(whole.similarity, rel=2e-3)
    # It has converged on all rows: centers are the directions of their members' sums, members are nearest to them.
    np.testing.assert_array_equal(found.labels_N, (unit(digits) @ found.centroids_CD.T).argmax(axis=1))
    sums = np.stack([unit(digits)[found.labels_N == one].sum(axis=0) for one in range(10)])
    assert (unit(sums) * found.centroids_CD).sum(axis=1).min() > 1 - 1e-3
    broken = np.array(digits)
    broken[1703] = 0
    with pytest.raises(InputError, match="row 1703"):
        spherical_kmeans(broken, 10)


def test_memory_stays_at_blocks_and_centers(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "mapped.npy", rng.standard_normal((20_000, 64)).astype(np.float16))
    mapped = np.load(tmp_path / "mapped.npy", mmap_mode="r")
    monkeypatch.setattr(unit_rows, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(unit_rows, "BLOCK_ROWS", 512)
    tracemalloc.start()
    spherical_kmeans(mapped, 500, n_init=1, max_iter=3, init="random")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # N x D in float32 would be 5.1 MB, N x C 40 MB; 500 centers in float64 are 0.26 MB.
    assert peak < 3e6


def _on_a_rank(rank: int, world_size: int, folder: str) -> None:
    """What each of the processes of `test_ranks_share_the_work_of_one_process` does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    ranks = Ranks.of_run()
    features = np.load(Path(folder) / "features.npy", mmap_mode="r")
    found = {}
    for name, init, n_clusters in (("plus", "k-means++", 10), ("random", "random", 10), ("refill", "random", 150)):
        result = spherical_kmeans(features, n_clusters, n_init=2, init=init, ranks=ranks)
        found |= {f"{name}_labels": result.labels_N, f"{name}_centers": result.centroids_CD}
        found[f"{name}_similarity"] = np.array(result.similarity)
    broken = np.array(features)
    broken[-1] = np.nan  # in the last rank's share
    with pytest.raises(InputError, match=f"first: row {len(features) - 1}"):
        spherical_kmeans(broken, 10, ranks=ranks)
    np.savez(Path(folder) / f"rank{rank}.npz", **found)
    dist.destroy_process_group()


def test_ranks_share_the_work_of_one_process(digits, tmp_path):
    crowd = np.repeat(digits[:1], 300, axis=0)  # random starts inside it leave centers empty
    features = np.concatenate([digits[:900], crowd + 0.01 * np.arange(300)[:, None]]).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    torch.multiprocessing.spawn(_on_a_rank, (2, str(tmp_path)), nprocs=2)
    first, second = (np.load(tmp_path / f"rank{rank}.npz") for rank in range(2))
    for key in first.files:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
    for name, init, n_clusters in (("plus", "k-means++", 10), ("random", "random", 10), ("refill", "random", 150)):
        alone = spherical_kmeans(features, n_clusters, n_init=2, init=init)
        assert adjusted_rand_score(alone.labels_N, first[f"{name}_labels"]) > 0.99
        np.testing.assert_allclose(first[f"{name}_similarity"], alone.similarity, rtol=1e-5)
        assert len(np.unique(first[f"{name}_labels"])) == n_clusters


EXPECTED_FAILURES = {
    "check_estimators_dtypes": "holds an all-zero row, which has no direction",
}


@parametrize_with_checks(
    [SphericalKMeans(n_clusters=3, n_init=2)], expected_failed_checks=lambda estimator: EXPECTED_FAILURES
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def test_estimator_agrees_with_the_function(digits):
    estimator = SphericalKMeans(10, random_state=7).fit(digits)
    result = spherical_kmeans(digits, 10, seed=7)
    np.testing.assert_array_equal(estimator.labels_, result.labels_N)
    np.testing.assert_array_equal(estimator.transform(digits).argmax(axis=1), estimator.predict(digits))
    squared = ((unit(digits) - result.centroids_CD[result.labels_N]) ** 2).sum()
    assert estimator.inertia_ == pytest.approx(squared, rel=1e-4)
