"""Clusters of unequal sizes: what a prior on sizes and a weaker balance do, and which start is best.

    python benchmarks/imbalance.py [--quick] [--record]

Digits with a long tail (class sizes fall to a tenth), digits with every other class halved, and a Gaussian mixture of
20 components whose sizes follow Zipf's law; three seeds of data and heads alike. Labels are used to judge only.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from tables import arguments, report

from deepclust.features.feature_set import FeatureSet
from deepclust.losses.prior import prior_shares
from deepclust.metrics import ami, cluster_accuracy
from deepclust.neighbors import Neighbors, mine_neighbors
from deepclust.neighbors.spectral import Partitions, spectral_embedding, spectral_labels
from deepclust.spherical_kmeans import spherical_kmeans
from deepclust.training.fit import fit_heads
from deepclust.training.initialization import COMPONENTS_PER_CLUSTER, GRAPH_NEIGHBORS, pair_information
from deepclust.training.recipe import Recipe
from deepclust.training.trainer_settings import TrainerSettings

Data = tuple[np.ndarray, np.ndarray, int]
SPREAD = 1.5
METHODS = {
    "TEMI": ("temi", {}),
    "TEMI, balance=0.25": ("temi", {"balance": 0.25}),
    "TEMI, prior=zipf(1)": ("temi", {"prior": "zipf(1)"}),
    "SCANv2": ("scan", {}),
    "SCANv2, prior=zipf(1)": ("scan", {"prior": "zipf(1)"}),
    "TSP": ("tsp", {}),
    "TSP, entropy_weight=1": ("tsp", {"entropy_weight": 1.0}),
    "TSP, prior=zipf(1)": ("tsp", {"prior": "zipf(1)"}),
}


def main() -> None:
    options = arguments(__doc__).parse_args()
    seeds = (0,) if options.quick else (0, 1, 2)
    sets = {"digits, long tail": long_tail, "digits, every other halved": halved, "mixture, zipf(1)": mixture}
    heads, starts = [], []
    for name, of_seed in sets.items():
        found = [judged(*of_seed(seed), seed) for seed in seeds]
        for method in found[0][0]:
            scores = np.array([of_heads[method] for of_heads, _ in found])
            heads.append({"data": name, "method": method, **named(scores.mean(axis=0))})
        for criterion in found[0][1]:
            scores = np.array([of_starts[criterion] for _, of_starts in found])
            starts.append({"data": name, "start": criterion, "ACC": scores[:, 0].mean(), "AMI": scores[:, 1].mean()})
    notes = ["off zipf(1): half the sum of differences between the sorted sizes and the prior's"]
    report("imbalance", heads, notes, record=options.record)
    notes = ["32 spectral partitions; I is pair information, H the entropy of the sizes"]
    report("imbalance_starts", starts, notes, record=options.record)


def named(scores: np.ndarray) -> dict[str, float]:
    return dict(zip(("ACC", "AMI", "off zipf(1)"), scores.tolist()))


def digits_of_sizes(seed: int, share: np.ndarray) -> Data:
    """Of each class, in random order, a share of its samples."""
    digits, rng = load_digits(), np.random.default_rng(100 + seed)
    kept = []
    for label, part in zip(rng.permutation(10), share):
        ids = rng.permutation(np.flatnonzero(digits.target == label))
        kept.append(ids[: int(part * len(ids))])
    rows = np.sort(np.concatenate(kept))
    return digits.data[rows].astype(np.float32), digits.target[rows], 10


def long_tail(seed: int) -> Data:
    return digits_of_sizes(seed, 0.1 ** (np.arange(10) / 9))


def halved(seed: int) -> Data:
    return digits_of_sizes(seed, np.where(np.arange(10) % 2, 0.5, 1.0))


def mixture(seed: int) -> Data:
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(20, 32))
    labels = rng.choice(20, 3000, p=prior_shares("zipf(1)", 20))
    scale = rng.uniform(0.7, 1.4, size=20)[labels, None]
    return (means[labels] + SPREAD * scale * rng.normal(size=(3000, 32))).astype(np.float32), labels, 20


def judged(
    rows: np.ndarray, labels: np.ndarray, n_clusters: int, seed: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Scores of each method, and of the partition that each criterion would start heads from."""

    def scores(found: np.ndarray) -> list[float]:
        sizes = np.sort(np.bincount(found, minlength=n_clusters))[::-1] / len(found)
        off = float(abs(sizes - prior_shares("zipf(1)", n_clusters)).sum() / 2)
        return [cluster_accuracy(labels, found), ami(labels, found), off]

    features = FeatureSet.from_arrays(rows)
    neighbors, partitions = mine_neighbors(features, max(GRAPH_NEIGHBORS)), Partitions()
    heads = {"k-means": scores(spherical_kmeans(rows, n_clusters, n_init=5, seed=seed).labels_N)}
    for method, (loss, settings) in METHODS.items():
        recipe = Recipe.of(loss, n_clusters=n_clusters, n_heads=4, seed=seed, **settings)
        trainer = TrainerSettings("cpu")
        trained = fit_heads(features, recipe, trainer, neighbors=neighbors, partitions=partitions).trained
        heads[method] = scores(trained.assign(features).labels)
    candidates = spectral_candidates(neighbors, n_clusters, seed)
    information = np.array([pair_information(one, neighbors, n_clusters) for one in candidates])
    entropy = np.array([entropy_of_sizes(one) for one in candidates])
    criteria = {"I": information, "I - H/2": information - entropy / 2, "I / H": information / entropy}
    return heads, {name: scores(candidates[values.argmax()]) for name, values in criteria.items()}


def spectral_candidates(neighbors: Neighbors, n_clusters: int, seed: int) -> list[np.ndarray]:
    sizes = sorted({round(n_clusters * factor) for factor in COMPONENTS_PER_CLUSTER})
    found = []
    for k in GRAPH_NEIGHBORS:
        embedding = spectral_embedding(neighbors, sizes[-1], k=k, seed=seed)
        found += [
            spectral_labels(embedding, n_clusters, n_components=size, n_init=1, seed=1009 * seed + number)
            for number, size in enumerate(sizes)
        ]
    return found


def entropy_of_sizes(labels: np.ndarray) -> float:
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


if __name__ == "__main__":
    main()
