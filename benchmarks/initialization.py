"""Does pair information tell good partitions from bad ones? And which start suits many clusters?

    python benchmarks/initialization.py [--quick] [--record]

The first table has its correlation with accuracy over spectral candidates, the second, of synthetic classes of unequal
size below parents of their own, k-means beside one candidate of eigenvectors, one of diffused features, and what
`init=spectral` chooses for one head. Labels are used to judge only.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
from large import long_tailed
from sklearn.datasets import load_digits
from tables import REAL_FEATURES, arguments, report

from deepclust.features.feature_files import load_features
from deepclust.metrics import ami, cluster_accuracy
from deepclust.neighbors import mine_neighbors
from deepclust.neighbors.diffusion import diffused_rows, principal_rows
from deepclust.neighbors.neighbor_graph import neighbor_graph
from deepclust.neighbors.spectral import spectral_embedding, spectral_labels
from deepclust.spherical_kmeans import spherical_kmeans
from deepclust.training.initialization import (
    COMPONENTS_PER_CLUSTER,
    GRAPH_NEIGHBORS,
    pair_information,
    spectral_partitions,
)


def main() -> None:
    options = arguments(__doc__).parse_args()
    digits = load_digits()
    sets = {"digits": ((digits.data / 16).astype(np.float32), digits.target)}
    if (REAL_FEATURES / "train_features.npy").is_file() and not options.quick:
        real = load_features(REAL_FEATURES / "train_features.npy", REAL_FEATURES / "train_labels.npy")
        sets["Fashion-MNIST, Lite0"] = (np.asarray(real.features), real.labels)
    try:
        pixels = load_pixels()
        sets["Fashion-MNIST, pixels"] = pixels if not options.quick else (pixels[0][:10_000], pixels[1][:10_000])
    except ValueError:
        pass  # the data set's package is not installed
    rows = [judged(name, features, labels) for name, (features, labels) in sets.items()]
    report(
        "initialization",
        rows,
        ["64 candidates each: 4 graphs × 8 numbers of eigenvectors × 2 seeds"],
        record=options.record,
    )
    sizes = ((100, 10_000),) if options.quick else ((100, 10_000), (500, 20_000), (1000, 40_000))
    report(
        "initialization_many",
        [row for n_clusters, n_rows in sizes for row in many(n_clusters, n_rows)],
        ["seconds of the processor, all threads together, without mining"],
        record=options.record,
    )


def many(n_clusters: int, n_rows: int) -> list[dict[str, object]]:
    labels, blocks = long_tailed(n_rows, 64, n_clusters)
    features = np.concatenate([block for _, block in blocks])
    neighbors = mine_neighbors(features, max(GRAPH_NEIGHBORS))
    k = 15

    def by_eigenvectors() -> np.ndarray:
        embedding = spectral_embedding(neighbors, min(192, round(1.5 * n_clusters)), k=k)
        return spectral_labels(embedding, n_clusters, n_init=1)

    def by_diffusion() -> np.ndarray:
        graph = neighbor_graph(neighbors, symmetric="mutual")
        diffused = next(diffused_rows(principal_rows(features), graph, (2,)))
        return spectral_labels(diffused, n_clusters, n_init=1)

    starts: dict[str, Callable[[], np.ndarray]] = {
        "k-means, one run": lambda: spherical_kmeans(features, n_clusters, n_init=1).labels_N,
        "eigenvectors, one candidate": by_eigenvectors,
        "diffused features, one candidate": by_diffusion,
        "init=spectral, the chosen": lambda: spectral_partitions(features, neighbors, n_clusters, 1)[0],
    }
    rows: list[dict[str, object]] = []
    for name, start in starts.items():
        began = time.process_time()
        found = start()
        seconds = time.process_time() - began
        rows.append(
            {
                "C": n_clusters,
                "N": n_rows,
                "start": name,
                "CPU seconds": seconds,
                "pair information": pair_information(found, neighbors, n_clusters),
                "ACC": cluster_accuracy(labels, found),
                "AMI": ami(labels, found),
            }
        )
        print(rows[-1], flush=True)
    return rows


def load_pixels() -> tuple[np.ndarray, np.ndarray]:
    from deepclust.extraction.datasets import load_dataset

    train = load_dataset("fashion_mnist").train
    assert train.labels is not None
    return np.asarray(train.features), train.labels


def judged(name: str, features: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    n_clusters = len(np.unique(labels))
    neighbors = mine_neighbors(features, max(GRAPH_NEIGHBORS))
    scores = []
    for k in GRAPH_NEIGHBORS:
        embedding = spectral_embedding(neighbors, round(max(COMPONENTS_PER_CLUSTER) * n_clusters), k=k)
        for factor, seed in itertools.product(COMPONENTS_PER_CLUSTER, (0, 1)):
            found = spectral_labels(embedding, n_clusters, n_components=round(factor * n_clusters), n_init=1, seed=seed)
            information = pair_information(found, neighbors, n_clusters)
            scores.append((information, cluster_accuracy(labels, found), ami(labels, found)))
    table = np.array(sorted(scores, reverse=True))
    correlation = np.corrcoef(table.T)
    plain = spherical_kmeans(features, n_clusters, seed=0).labels_N
    return {
        "data": name,
        "k-means ACC": cluster_accuracy(labels, plain),
        "mean ACC": table[:, 1].mean(),
        "worst ACC": table[:, 1].min(),
        "best ACC": table[:, 1].max(),
        "ACC of the chosen": table[0, 1],
        "ACC of the 8 chosen": table[:8, 1].mean(),
        "corr. with ACC": correlation[0, 1],
        "corr. with AMI": correlation[0, 2],
    }


if __name__ == "__main__":
    main()
