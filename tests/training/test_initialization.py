"""How heads start: k-means of their own, the papers' formulas, and partitions of the neighbor graph.

Shape suffixes: H heads, N samples, C clusters, E embedding dimensions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, mutual_info_score

from deepclust.features.bank import FeatureBank
from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.neighbors import Neighbors, mine_neighbors
from deepclust.neighbors.spectral import Partitions
from deepclust.runtime.errors import InputError
from deepclust.spherical_kmeans import spherical_kmeans
from deepclust.training import initialization
from deepclust.training.fit import fit_heads
from deepclust.training.heads import make_heads
from deepclust.training.initialization import (
    SAMPLE_ITERATIONS,
    HeadStart,
    cluster_means,
    go_on_with,
    pair_information,
    spectral_partitions,
    warm_start,
)
from deepclust.training.recipe import Recipe
from deepclust.training.trainer_settings import TrainerSettings

H, C = 3, 5
HERE = TrainerSettings(accelerator="cpu", precision="32")


@pytest.fixture(scope="module")
def rings() -> FeatureSet:
    """Two circles of latitude about one axis: their mean directions coincide, so k-means mixes them."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1], 150))
    around, noise = rng.uniform(0, 2 * np.pi, 300), 0.02 * rng.standard_normal(300)
    polar = np.where(labels == 0, 0.3, 1.1) + noise
    rows = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], axis=1)
    return FeatureSet.from_arrays(rows.astype(np.float32), labels)


def started(features: FeatureSet, kind: str, init: str, n_clusters: int = C, seed: int = 0, **settings):
    """Heads as `init` leaves them, and the same heads as they were drawn."""
    settings = {"head": kind, "hidden_dim": 32, "embedding_dim": 16, "preprocess": "none", **settings}
    recipe = Recipe.of("temi", n_clusters=n_clusters, n_heads=H, init=init, seed=seed, **settings)
    bank = FeatureBank(features, FeatureTransform(features.dim, "none"))
    heads, drawn = (
        make_heads(kind, features.dim, n_clusters, H, hidden_dim=32, embedding_dim=16, seed=seed) for _ in range(2)
    )
    HeadStart(recipe, features, mine_neighbors(features, recipe.mined_neighbors(len(features)))).set(heads, bank)
    return heads, drawn, bank


def assigned(heads, bank) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([heads(block).argmax(dim=2) for _, block in bank.blocks()], dim=1).numpy()


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_random_leaves_the_heads_as_they_were_drawn(kind, planted):
    heads, drawn, _ = started(planted, kind, "random")
    for found, expected in zip(heads.parameters(), drawn.parameters()):
        assert torch.equal(found, expected)


def test_kmeans_on_a_linear_head_is_tsps_formula(planted):
    heads, _, _ = started(planted, "linear", "kmeans", seed=4)
    # The first head's run has the recipe's own seed.
    centers = spherical_kmeans(planted.features, C, n_init=1, seed=4).centroids_CD
    expected = centers / (np.linalg.norm(centers, axis=1, keepdims=True) * np.sqrt(planted.dim))
    np.testing.assert_allclose(heads.prototypes[0].detach(), expected, atol=1e-6)


def test_kmeans_l2_on_a_linear_head_is_tsps_formula_with_centers_by_euclidean_distance(digits):
    heads, _, _ = started(digits, "linear", "kmeans_l2", n_clusters=10, seed=4)
    centers = KMeans(10, n_init=1, random_state=4).fit(np.asarray(digits.features)).cluster_centers_
    expected = centers / (np.linalg.norm(centers, axis=1, keepdims=True) * np.sqrt(digits.dim))
    np.testing.assert_allclose(heads.prototypes[0].detach(), expected, atol=1e-6)
    # On rows of different lengths that is another start than the spherical one.
    spherical, _, _ = started(digits, "linear", "kmeans", n_clusters=10, seed=4)
    assert not torch.allclose(heads.prototypes[0], spherical.prototypes[0], atol=1e-3)


def test_kmeans_l2_takes_no_more_rows_than_its_memory(planted, monkeypatch):
    looked_at = []

    class Recorded(KMeans):
        def fit(self, X, *rest):
            looked_at.append(X.shape)
            return super().fit(X, *rest)

    monkeypatch.setattr(initialization, "KMeans", Recorded)
    monkeypatch.setattr(initialization, "EUCLIDEAN_BYTES", 100 * 4 * planted.dim)
    heads, _, bank = started(planted, "mlp", "kmeans_l2")
    assert looked_at == [(100, planted.dim)] * H
    assert min(adjusted_rand_score(planted.labels, labels_N) for labels_N in assigned(heads, bank)) > 0.9


@pytest.mark.parametrize("init", ["kmeans", "kmeans_l2", "spectral"])
@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_heads_start_at_the_planted_clusters(kind, init, planted):
    heads, _, bank = started(planted, kind, init)
    for labels_N in assigned(heads, bank):
        assert adjusted_rand_score(planted.labels, labels_N) > 0.9


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_every_head_has_a_kmeans_run_of_its_own(kind, digits):
    heads, _, bank = started(digits, kind, "kmeans", n_clusters=10)
    labels_HN = assigned(heads, bank)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert adjusted_rand_score(labels_HN[first], labels_HN[second]) < 0.99


def test_kmeans_sets_the_prototypes_of_an_mlp_head_and_nothing_else(planted):
    heads, drawn, _ = started(planted, "mlp", "kmeans")
    for (name, found), expected in zip(heads.named_parameters(), drawn.parameters()):
        assert torch.equal(found, expected) == (name != "prototypes"), name


def test_prototypes_are_the_centered_means_of_the_members_embeddings(planted):
    heads = make_heads("mlp", planted.dim, C, H, hidden_dim=32, embedding_dim=16, seed=1)
    bank = FeatureBank(planted, FeatureTransform(planted.dim, "none"))
    labels_HN = torch.from_numpy(np.random.default_rng(0).integers(0, C, (H, len(planted))))
    found_HCE = cluster_means(heads, bank, labels_HN, C)
    with torch.no_grad():
        embedding_HNE = heads.embed(torch.from_numpy(np.asarray(planted.features))).double().numpy()
    for head in range(H):
        for c in range(C):
            members = embedding_HNE[head][labels_HN[head].numpy() == c]
            direction = members.mean(axis=0) - embedding_HNE[head].mean(axis=0)
            np.testing.assert_allclose(found_HCE[head, c], direction / np.linalg.norm(direction), atol=1e-3)


def test_pair_information_is_the_mutual_information_over_all_pairs():
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 80, (80, 6)).astype(np.int32)
    neighbors = Neighbors(ids, np.ones(ids.shape, np.float32))
    labels = rng.integers(0, 4, 80)
    expected = mutual_info_score(np.repeat(labels, 6), labels[ids].ravel())
    assert pair_information(labels, neighbors, 4) == pytest.approx(expected, abs=1e-9)
    assert pair_information(labels, neighbors, 7) == pytest.approx(expected, abs=1e-9)  # empty clusters
    assert pair_information(np.zeros(80, int), neighbors, 4) == pytest.approx(0, abs=1e-12)


def test_pair_information_prefers_the_planted_clusters(planted):
    neighbors = mine_neighbors(planted, 20)
    right = pair_information(planted.labels, neighbors, C)
    assert right == pytest.approx(np.log(C), abs=1e-6)
    merged = np.minimum(planted.labels, C - 2)
    shuffled = np.random.default_rng(0).permutation(planted.labels)
    assert right > pair_information(merged, neighbors, C) > pair_information(shuffled, neighbors, C)


def test_spectral_partitions_come_best_first_one_per_head(digits):
    some = digits.select(np.arange(400))
    neighbors = mine_neighbors(some, 25)
    labels_HN = spectral_partitions(some.features, neighbors, 10, 4)
    assert labels_HN.shape == (4, 400)
    informations = [pair_information(labels_N, neighbors, 10) for labels_N in labels_HN]
    assert informations == sorted(informations, reverse=True)
    np.testing.assert_array_equal(labels_HN, spectral_partitions(some.features, neighbors, 10, 4))


@pytest.mark.parametrize("n_heads", [1, 40], ids=["one head", "more heads than candidates"])
def test_spectral_partitions_for_any_number_of_heads(n_heads, planted):
    labels_HN = spectral_partitions(planted.features, mine_neighbors(planted, 20), C, n_heads)
    assert labels_HN.shape == (n_heads, 300)
    assert adjusted_rand_score(planted.labels, labels_HN[0]) == 1


def test_spectral_sees_rings_where_kmeans_does_not(rings):
    spectral, _, bank = started(rings, "mlp", "spectral", n_clusters=2, warm_start_epochs=60)
    kmeans, _, _ = started(rings, "mlp", "kmeans", n_clusters=2)
    assert min(adjusted_rand_score(rings.labels, labels_N) for labels_N in assigned(spectral, bank)) > 0.9
    assert max(adjusted_rand_score(rings.labels, labels_N) for labels_N in assigned(kmeans, bank)) < 0.5


def test_without_a_warm_start_only_the_prototypes_are_set(planted):
    heads, drawn, _ = started(planted, "mlp", "spectral", warm_start_epochs=0)
    for (name, found), expected in zip(heads.named_parameters(), drawn.parameters()):
        assert torch.equal(found, expected) == (name != "prototypes"), name
    warm, _, _ = started(planted, "mlp", "spectral", warm_start_epochs=1)
    assert not torch.equal(warm.hidden_weight, drawn.hidden_weight)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_the_warm_start_trains_each_head_as_if_it_were_alone(kind, planted):
    recipe = Recipe.of("temi", n_clusters=C, n_heads=H, head=kind, hidden_dim=32, embedding_dim=16, warm_start_epochs=2)
    bank = FeatureBank(planted, FeatureTransform(planted.dim, "none"))
    together = make_heads(kind, planted.dim, C, H, hidden_dim=32, embedding_dim=16, seed=3)
    alone = together.single(1)
    labels_HN = torch.from_numpy(np.random.default_rng(0).integers(0, C, (H, len(planted))))
    labels_HN[1] = torch.from_numpy(planted.labels)
    warm_start(together, bank, labels_HN, recipe)
    warm_start(alone, bank, labels_HN[1:2], recipe)
    for (name, found), expected in zip(together.named_parameters(), alone.parameters()):
        np.testing.assert_allclose(found[1].detach(), expected[0].detach(), atol=1e-4, err_msg=name)
    assert adjusted_rand_score(planted.labels, assigned(alone, bank)[0]) > 0.9


@pytest.mark.parametrize("init", ["spectral", "consensus"])
def test_partitions_of_one_graph_are_made_once_for_each_way_to_make_them(init, planted, monkeypatch):
    recipe = Recipe.of("temi", n_clusters=C, n_heads=2, hidden_dim=32, embedding_dim=16, init=init, seed=3)
    heads, neighbors, shared = recipe.new_heads(planted.dim), mine_neighbors(planted, 20), Partitions()
    first = HeadStart(recipe, planted, neighbors, shared).graph_labels(heads)
    fresh = HeadStart(recipe, planted, neighbors).graph_labels(heads)
    other = replace(recipe, init={"spectral": "consensus", "consensus": "spectral"}[init])
    HeadStart(other, planted, neighbors, shared).graph_labels(heads)
    for made_by in ("spectral_partitions", "consensus_of_rows"):
        monkeypatch.setattr(initialization, made_by, None)  # a second computation would fail
    again = HeadStart(recipe, planted, neighbors, shared).graph_labels(heads)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(fresh, first)


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_at_thousands_of_clusters_kmeans_starts_from_a_few_rounds_over_a_sample(kind, planted, monkeypatch):
    looked_at = []

    def recorded(rows, n_clusters, **settings):
        looked_at.append((len(rows), settings["max_iter"]))
        return spherical_kmeans(rows, n_clusters, **settings)

    monkeypatch.setattr("deepclust.training.initialization.SAMPLED_CLUSTERS", C)
    monkeypatch.setattr("deepclust.training.initialization.spherical_kmeans", recorded)
    heads, drawn, bank = started(planted, kind, "kmeans")
    assert looked_at == [(16 * C, SAMPLE_ITERATIONS)] * H
    found = assigned(heads, bank)
    # Rough starts, but starts: better than the heads as drawn, and each head its own.
    for head in range(H):
        ours, theirs = (adjusted_rand_score(planted.labels, labels[head]) for labels in (found, assigned(drawn, bank)))
        assert ours > theirs
    again, _, _ = started(planted, kind, "kmeans")
    np.testing.assert_array_equal(assigned(again, bank), found)


def test_self_labelling_goes_on_with_the_best_head(planted, tmp_path):
    sizes = {"n_clusters": 5, "n_neighbors": 10, "batch_size": 100, "init": "kmeans"}
    first = fit_heads(planted, Recipe.of("scan_original", n_heads=3, max_epochs=2, **sizes), HERE).trained
    path = str(first.save(tmp_path / "first.pt"))
    recipe = Recipe.of("self_label", start=path, max_epochs=1, **sizes)
    heads = recipe.new_heads(16)
    go_on_with(path, heads, recipe)
    torch.testing.assert_close(heads.prototypes[0], first.heads.prototypes[first.best_head])
    second = fit_heads(planted, Recipe.of("self_label", start=path, max_epochs=5, threshold=0.3, **sizes), HERE).trained
    assert (second.assign(planted).labels == first.assign(planted).labels).mean() > 0.99
    assert second.assign(planted).top_probs[:, 0].mean() > first.assign(planted).top_probs[:, 0].mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_heads": 2}, "self_label goes on with one head, the best of .*first.pt: set n_heads=1"),
        ({"n_clusters": 4}, "has heads of n_clusters=5, not 4: go on with the same n_clusters"),
        ({"preprocess": "l2"}, "has heads of preprocess=standardize, not l2"),
        ({"head": "mlp"}, "has heads of head=linear, not mlp"),
    ],
)
def test_heads_that_cannot_be_gone_on_with_are_refused(settings, message, planted, tmp_path):
    sizes = {"n_clusters": 5, "n_neighbors": 10, "init": "random", "max_epochs": 1}
    path = str(fit_heads(planted, Recipe.of("scan_original", **sizes), HERE).trained.save(tmp_path / "first.pt"))
    with pytest.raises(InputError, match=message):
        fit_heads(planted, Recipe.of("self_label", start=path, **{**sizes, **settings}), HERE)
    with pytest.raises(InputError, match="no checkpoint at"):
        fit_heads(planted, Recipe.of("self_label", start=str(tmp_path / "none.pt"), **sizes), HERE)
