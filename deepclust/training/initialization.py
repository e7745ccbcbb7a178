"""How heads start: at random, at clusters of k-means of either kind, or at clusters of the neighbor graph.

Shape suffixes: H heads, N samples, C clusters, E embedding dimensions, K neighbors, B a block of samples.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from torch import Tensor
from torch.nn import functional

from deepclust.features.bank import BankRows, FeatureBank
from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import Rows, RowView
from deepclust.losses import SelfLabel
from deepclust.neighbors import Neighbors
from deepclust.neighbors.consensus import consensus_of_rows, views_of_rows
from deepclust.neighbors.diffusion import DIFFUSED_CLUSTERS, diffused_rows, principal_rows
from deepclust.neighbors.neighbor_graph import neighbor_graph
from deepclust.neighbors.spectral import Partitions, spectral_embedding, spectral_labels
from deepclust.runtime.errors import InputError
from deepclust.runtime.progress import tracked
from deepclust.runtime.threads import one_thread_for_few
from deepclust.spherical_kmeans import kmeans_predict, spherical_kmeans
from deepclust.training.heads import Heads, LinearHeads, MLPHeads, NormedLinearHeads, StudentTHeads
from deepclust.training.pairs import shuffled
from deepclust.training.recipe import GRAPH_INITIALIZATIONS, SPECTRAL_NEIGHBORS, Recipe
from deepclust.training.trained import TrainedHeads

# Steps of seed between the heads' k-means runs: far enough that the runs of neighboring recipe seeds do not coincide.
SEED_STRIDE = 1009
# Candidate partitions of `spectral`: graphs of so many neighbors, times so many eigenvectors per cluster. Which of
# them suits a data set differs; the pairs' mutual information tells without labels (docs/initialization.md).
GRAPH_NEIGHBORS = (10, 15, 20, SPECTRAL_NEIGHBORS)
COMPONENTS_PER_CLUSTER = (1.0, 1.1, 1.2, 1.3, 1.5, 1.8, 2.0, 2.5)
# Graphs of so many mutual neighbors and steps of diffusion, the best choices of trials first, one graph's together.
DIFFUSIONS = ((30, (2, 4)), (20, (2, 4)), (15, (2, 4)))
# So many samples times clusters are compared for all candidates together, but one candidate is made in any case.
DIFFUSED_PAIRS = 2_500_000_000
# Pairs per sample over which the mutual information is measured.
PAIR_NEIGHBORS = 20
# From so many clusters on, seeding k-means center by center and running it to its end over all samples costs more than
# the training it prepares: a few rounds from random rows, over so many rows per cluster, are a start all the same.
SAMPLED_CLUSTERS = 2000
SAMPLE_ROWS_PER_CLUSTER = 16
SAMPLE_ITERATIONS = 6
# scikit-learn's k-means wants its rows as one matrix in memory.
EUCLIDEAN_BYTES = 1 << 31
BLOCK_ROWS = 16384
# What `Partitions` keeps the views of a consensus as.
VIEWS = "views"
# One map has to turn further than three layers together.
WARM_START_LEARNING_RATE = {MLPHeads: 1e-3, LinearHeads: 1e-2, NormedLinearHeads: 1e-2, StudentTHeads: 1e-2}
WARM_START_BATCH = 512
WARM_START_STEPS = 100

Start = tuple[np.ndarray, np.ndarray | None]


class HeadStart:
    """How heads start: `random` leaves them as they were drawn.

    `kmeans_l2` on a linear head is TSP's formula with the k-means centers of the head's inputs (appendix A), `kmeans`
    the same with spherical k-means; on an mlp head each prototype is the normalized mean of its cluster's members under
    the head's own, still random, embedding. Every head has a k-means run of its own; from 2000 clusters on it is a
    short one over a sample, and `kmeans_l2` looks at no more rows than 2 GB hold.

    `spectral` clusters the neighbor graph in many ways, gives each head one of the best by `pair_information`, sets
    the prototypes to its clusters' means, and trains the whole head to tell the clusters for `warm_start_epochs`.
    `consensus` does the same with what many partitions agree on (`neighbors/consensus.py`).

    A loss that goes on with trained heads starts from these, whatever `init` says.

    Args:
        recipe: its `init`, seed and what `init` needs.
        features: that the neighbors were mined of.
        neighbors: mined neighbors.
        partitions: where the losses of a run share what they start from; None shares nothing.
        progress: show how far it is.
    """

    def __init__(
        self,
        recipe: Recipe,
        features: FeatureSet,
        neighbors: Neighbors,
        partitions: Partitions | None = None,
        *,
        progress: bool = False,
    ) -> None:
        self.recipe = recipe
        self.features = features
        self.neighbors = neighbors
        self.partitions = partitions
        self.progress = progress

    def set(self, heads: Heads, bank: FeatureBank) -> None:
        """Set heads, in place.

        Args:
            heads: as they were drawn, on the bank's device.
            bank: of the training split.
        """
        recipe = self.recipe
        if isinstance(recipe.loss, SelfLabel) and recipe.loss.start is not None:
            go_on_with(recipe.loss.start, heads, recipe)
            return
        if recipe.init == "random" or recipe.n_clusters == 1:
            return
        if recipe.init in KMEANS and isinstance(heads, LinearHeads):
            centroids_HCP = np.stack([centroids_CP for centroids_CP, _ in self.kmeans_runs(heads, bank)])
            heads.set_prototypes(torch.from_numpy(centroids_HCP).to(bank.device))
            return
        labels_HN = self.kmeans_labels(heads, bank) if recipe.init in KMEANS else self.graph_labels(heads)
        labels = torch.from_numpy(labels_HN).long().to(bank.device)
        heads.set_prototypes(cluster_means(heads, bank, labels, recipe.n_clusters))
        if recipe.init in GRAPH_INITIALIZATIONS:
            warm_start(heads, bank, labels, recipe, progress=self.progress)

    def kmeans_runs(self, heads: Heads, bank: FeatureBank) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Of each head: (C, P) centers, and every sample's label unless the centers come from a sample."""
        start, _ = KMEANS[self.recipe.init]
        return [
            start(BankRows(bank), self.recipe.n_clusters, self.recipe.seed + SEED_STRIDE * head)
            for head in tracked(range(heads.n_heads), "k-means", heads.n_heads, unit="runs", enabled=self.progress)
        ]

    def kmeans_labels(self, heads: Heads, bank: FeatureBank) -> np.ndarray:
        """(H, N) each head's clusters of k-means."""
        _, nearest = KMEANS[self.recipe.init]
        return np.stack(
            [
                nearest(BankRows(bank), centroids_CP) if labels_N is None else labels_N
                for centroids_CP, labels_N in self.kmeans_runs(heads, bank)
            ]
        )

    def graph_labels(self, heads: Heads) -> np.ndarray:
        """(H, N) each head's clusters of the neighbor graph."""
        recipe, n_heads = self.recipe, heads.n_heads
        shared = Partitions() if self.partitions is None else self.partitions
        rows = self.features.features

        def make() -> np.ndarray:
            asked: dict[str, Any] = {"seed": recipe.seed, "progress": self.progress}
            if recipe.init == "spectral":
                with one_thread_for_few(len(rows)):
                    return spectral_partitions(rows, self.neighbors, recipe.n_clusters, n_heads, **asked)
            found = consensus_of_rows(
                rows, recipe.n_clusters, n_heads, k=self.neighbors.k, neighbors=self.neighbors, **asked
            )
            shared.keep((VIEWS, recipe.n_clusters, recipe.seed), found.views_VN)
            return found.partitions_HN

        return shared.get((recipe.init, recipe.n_clusters, recipe.seed), n_heads, make)


def views_at_start(
    recipe: Recipe, features: FeatureSet, neighbors: Neighbors, partitions: Partitions | None = None
) -> np.ndarray | None:
    """(V, N) what the views of the graph say whose consensus a single head started from; None of other heads.

    Args:
        recipe: of the heads.
        features: that the neighbors were mined of.
        neighbors: mined neighbors.
        partitions: where the start has left them; else they are made again, the same.
    """
    if recipe.init != "consensus" or recipe.n_clusters == 1 or recipe.n_heads > 1:
        return None

    def make() -> np.ndarray:
        return views_of_rows(features.features, recipe.n_clusters, k=neighbors.k, neighbors=neighbors, seed=recipe.seed)

    shared = Partitions() if partitions is None else partitions
    return shared.get((VIEWS, recipe.n_clusters, recipe.seed), None, make)


def go_on_with(path: str, heads: Heads, recipe: Recipe) -> None:
    """Set one head, in place, to the best of those in a checkpoint or an export.

    Raises:
        InputError: if there are several heads to set, or those of the file are others or saw other inputs.
    """
    trained = TrainedHeads.load(path)
    if heads.n_heads != 1:
        raise InputError(f"{recipe.loss.name} goes on with one head, the best of {path}: set n_heads=1")
    before = {**trained.recipe.as_dict(), "dimensions": trained.heads.in_dim}
    now = {**recipe.as_dict(), "dimensions": heads.in_dim}
    widths = ("hidden_dim", "embedding_dim") if recipe.head == "mlp" else ()
    for name in ("head", "n_clusters", *widths, "temperature", "preprocess", "pca_dim", "dimensions"):
        if before[name] != now[name]:
            raise InputError(f"{path} has heads of {name}={before[name]}, not {now[name]}: go on with the same {name}")
    heads.load_state_dict(trained.heads.single(trained.best_head).state_dict())


def _spherical_start(rows: Rows, n_clusters: int, seed: int) -> Start:
    if n_clusters < SAMPLED_CLUSTERS:
        run = spherical_kmeans(rows, n_clusters, n_init=1, seed=seed)
        return run.centroids_CD, run.labels_N
    run = spherical_kmeans(
        _sample(rows, SAMPLE_ROWS_PER_CLUSTER * n_clusters, seed),
        n_clusters,
        n_init=1,
        max_iter=SAMPLE_ITERATIONS,
        init="random",
        seed=seed,
    )
    return run.centroids_CD, None


def _euclidean_start(rows: Rows, n_clusters: int, seed: int) -> Start:
    sampled = n_clusters >= SAMPLED_CLUSTERS
    fits = EUCLIDEAN_BYTES // (4 * rows.shape[1])
    n_rows = min(fits, SAMPLE_ROWS_PER_CLUSTER * n_clusters) if sampled else max(fits, n_clusters)
    run = KMeans(
        n_clusters,
        init="random" if sampled else "k-means++",
        n_init=1,
        max_iter=SAMPLE_ITERATIONS if sampled else 300,  # scikit-learn's own
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        run.fit(np.asarray(_sample(rows, n_rows, seed)[:]))
    return run.cluster_centers_, run.labels_.astype(np.int32) if n_rows >= len(rows) else None


def _sample(rows: Rows, n_rows: int, seed: int) -> Rows:
    """So many of the rows at random, or all where there are no more."""
    if n_rows >= len(rows):
        return rows
    return RowView(rows, np.sort(np.random.default_rng(seed).choice(len(rows), n_rows, replace=False)))


def _nearest_by_direction(rows: Rows, centroids_CP: np.ndarray) -> np.ndarray:
    return kmeans_predict(rows, centroids_CP, top=1)[0]


def _nearest_by_distance(rows: Rows, centroids_CP: np.ndarray) -> np.ndarray:
    blocks = (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))
    return np.concatenate([pairwise_distances_argmin(block_BP, centroids_CP) for block_BP in blocks])


# Of each k-means start: the run, which gives (C, P) centers, and every sample's label unless the centers come from a
# sample; and the rule by which a sample belongs to a center.
KMEANS: Mapping[str, tuple[Callable[[Rows, int, int], Start], Callable[[Rows, np.ndarray], np.ndarray]]] = {
    "kmeans": (_spherical_start, _nearest_by_direction),
    "kmeans_l2": (_euclidean_start, _nearest_by_distance),
}


def spectral_partitions(
    rows: Rows, neighbors: Neighbors, n_clusters: int, n_partitions: int, *, seed: int = 0, progress: bool = False
) -> np.ndarray:
    """(H, N) the partitions of the neighbor graph with the highest `pair_information`, best first.

    Args:
        rows: N × D, which are diffused over the graph where there are many clusters.
        neighbors: mined of them.
        n_clusters: C.
        n_partitions: H; where it exceeds the candidates they are drawn again with other seeds.
        seed: of Lanczos and k-means.
        progress: show how far it is.
    """
    if n_clusters >= DIFFUSED_CLUSTERS:
        return _best_diffusions(rows, neighbors, n_clusters, n_partitions, seed, progress)
    n_samples = len(neighbors)
    limit = max(1, n_samples - 1)
    sizes = sorted({min(limit, round(n_clusters * factor)) for factor in COMPONENTS_PER_CLUSTER})
    graphs = sorted({min(k, neighbors.k) for k in GRAPH_NEIGHBORS})
    rounds = -(-n_partitions // (len(graphs) * len(sizes)))
    kept: list[tuple[float, np.ndarray]] = []
    for index, k in enumerate(tracked(graphs, "partitions of the graph", len(graphs), unit="graphs", enabled=progress)):
        embedding_NM = spectral_embedding(neighbors, sizes[-1], k=k, seed=seed)
        for draw, (_, size) in enumerate(itertools.product(range(rounds), sizes)):
            run_seed = seed * SEED_STRIDE + 101 * index + draw
            labels_N = spectral_labels(embedding_NM, n_clusters, n_components=size, n_init=1, seed=run_seed)
            kept.append((pair_information(labels_N, neighbors, n_clusters), labels_N))
            kept = sorted(kept, key=lambda candidate: -candidate[0])[:n_partitions]
    return np.stack([labels_N for _, labels_N in kept])


def _best_diffusions(
    rows: Rows, neighbors: Neighbors, n_clusters: int, n_partitions: int, seed: int, progress: bool
) -> np.ndarray:
    """As `spectral_partitions`, of diffused features; where few candidates can be afforded several heads share one."""
    most = max(n_partitions, sum(len(steps) for _, steps in DIFFUSIONS))
    wanted = max(1, min(most, DIFFUSED_PAIRS // (len(neighbors) * n_clusters)))
    kept: list[tuple[float, np.ndarray]] = []
    principal_NM = principal_rows(rows, metric=neighbors.metric)

    def candidates() -> Iterator[np.ndarray]:
        for draw, (k, steps) in enumerate(itertools.cycle(DIFFUSIONS)):
            run_seed = seed * SEED_STRIDE + draw
            graph = neighbor_graph(neighbors, k=k, symmetric="mutual")
            for diffused_NM in diffused_rows(principal_NM, graph, steps):
                yield spectral_labels(diffused_NM, n_clusters, n_init=1, seed=run_seed, sampled=True)

    taken = itertools.islice(candidates(), wanted)
    for labels_N in tracked(taken, "partitions of the graph", wanted, enabled=progress):
        kept.append((pair_information(labels_N, neighbors, n_clusters), labels_N))
        kept = sorted(kept, key=lambda candidate: -candidate[0])[:n_partitions]
    return np.stack([kept[head % len(kept)][1] for head in range(n_partitions)])


def pair_information(labels_N: np.ndarray, neighbors: Neighbors, n_clusters: int) -> float:
    """Mutual information, in nats, between the cluster of a sample and that of its neighbor.

    It is what TEMI's objective estimates, here exactly, for hard clusters: large when neighbors share their cluster
    (low conditional entropy) and clusters are many and even (high entropy). It needs no labels, so it can choose among
    partitions.

    Args:
        labels_N: cluster ids in [0, C).
        neighbors: mined neighbors; the 20 nearest count.
        n_clusters: C.
    """
    one_hot_NC = _one_hot(labels_N, n_clusters)
    # One neighbor column at a time: the joint counts stay sparse (at most N entries a column), never N × K × C.
    joint_CC = sparse.csr_matrix((n_clusters, n_clusters))
    for column in neighbors.ids[:, :PAIR_NEIGHBORS].T:
        joint_CC = joint_CC + one_hot_NC.T @ _one_hot(labels_N[column], n_clusters)
    joint = joint_CC.tocoo()
    share = joint.data / joint.data.sum()
    p_first = np.bincount(joint.row, share, n_clusters)
    p_second = np.bincount(joint.col, share, n_clusters)
    return float((share * np.log(share / (p_first[joint.row] * p_second[joint.col]))).sum())


def _one_hot(labels_N: np.ndarray, n_clusters: int) -> sparse.csr_matrix:
    n_samples = len(labels_N)
    return sparse.csr_matrix((np.ones(n_samples), labels_N, np.arange(n_samples + 1)), shape=(n_samples, n_clusters))


def warm_start(heads: Heads, bank: FeatureBank, labels_HN: Tensor, recipe: Recipe, *, progress: bool = False) -> None:
    """Train each head by cross-entropy to tell its own clusters apart, so that training starts from them.

    Runs where the heads are initialized, on one device; the batch is small and the epochs are few, but no fewer than
    100 steps unless `warm_start_epochs` is 0.
    """
    learning_rate = WARM_START_LEARNING_RATE[type(heads)]
    optimizer = torch.optim.AdamW(heads.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    device_type = bank.device.type
    half = bank.dtype == torch.bfloat16
    generator = torch.Generator().manual_seed(recipe.seed)
    steps_per_epoch = -(-len(bank) // WARM_START_BATCH)
    asked = recipe.epochs_of_warm_start()
    epochs = max(asked, -(-WARM_START_STEPS // steps_per_epoch)) if asked else 0

    def batches() -> Iterator[Tensor]:
        for _ in range(epochs):
            order_N = shuffled(len(bank), generator, windowed=not bank.in_memory)
            yield from bank.prefetched(order_N.split(WARM_START_BATCH), lambda ids_B: ids_B)

    for ids_B in tracked(batches(), "warm start", epochs * steps_per_epoch, unit="steps", enabled=progress):
        with torch.autocast(device_type, torch.bfloat16, enabled=half):
            logits_HBC = heads(bank.gather(ids_B))
        log_odds_HBC = logits_HBC.float() / recipe.temperature
        targets_HB = labels_HN[:, ids_B.to(labels_HN.device)]
        # Summed over heads, so that each learns as if it were alone.
        loss = functional.cross_entropy(log_odds_HBC.flatten(0, 1), targets_HB.flatten()) * heads.n_heads
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def cluster_means(heads: Heads, bank: FeatureBank, labels_HN: Tensor, n_clusters: int) -> Tensor:
    """(H, C, E) normalized means of the members of each head's clusters in the head's own embedding.

    The part that all samples share is taken out first: an untrained head maps everything into a narrow cone, in which
    the raw means would hardly differ. Of heads whose prototypes are places, the means as they are.
    """
    sums_HCE: Tensor | None = None
    for start, block_BP in bank.blocks():
        embedding_HBE = heads.embed(block_BP.float())
        labels_HB = labels_HN[:, start : start + len(block_BP)]
        if sums_HCE is None:
            sums_HCE = embedding_HBE.new_zeros(len(labels_HN), n_clusters, embedding_HBE.shape[2])
        sums_HCE.scatter_add_(1, labels_HB[..., None].expand_as(embedding_HBE), embedding_HBE)
    assert sums_HCE is not None
    counts_HC = torch.zeros(sums_HCE.shape[:2], device=sums_HCE.device)
    counts_HC.scatter_add_(1, labels_HN, torch.ones_like(labels_HN, dtype=counts_HC.dtype))
    means_HCE = sums_HCE / counts_HC.clamp_min(1)[..., None]
    if heads.places:
        return means_HCE
    center_H1E = sums_HCE.sum(dim=1, keepdim=True) / labels_HN.shape[1]
    return functional.normalize(means_HCE - center_H1E, dim=2)
