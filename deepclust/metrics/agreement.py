"""Agreement of a clustering with labels: ACC, NMI, AMI, ARI and the one-sided AMI.

Everything starts from the sparse contingency table, so that 10 450 classes × 10 450 clusters need megabytes. NMI and
ARI are scikit-learn's. The expected mutual information is our own: scikit-learn's walks over every pair of a class and
a cluster, which takes minutes at that size, though it depends on nothing but the distinct sizes.

Noise (cluster -1) is one more cluster for NMI, AMI and ARI; for ACC it is never mapped to a class and always wrong.

Shape suffixes: N samples, K classes, C clusters, A distinct class sizes, G distinct cluster sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.special import gammaln
from sklearn.metrics import adjusted_rand_score, mutual_info_score, normalized_mutual_info_score

from deepclust.clustering import NOISE
from deepclust.runtime.errors import InputError

# Pairs of sizes handled at once: a few float64 arrays of 8 MB.
PAIRS_AT_ONCE = 1 << 20


def contingency_table(
    labels_true: np.ndarray, labels_pred: np.ndarray
) -> tuple[sparse.csr_array, np.ndarray, np.ndarray]:
    """How many samples of each class fell into each cluster.

    Returns:
        (K, C) sparse int64 counts, the K class ids and the C cluster ids, both ascending. Noise is a cluster.

    Raises:
        InputError: if the labels are empty, not one-dimensional, of different lengths, or name no groups: fractions,
            NaN, None.
    """
    labels_true, labels_pred = _checked(labels_true, labels_pred)
    classes_K, class_N = np.unique(labels_true, return_inverse=True)
    clusters_C, cluster_N = np.unique(labels_pred, return_inverse=True)
    table = sparse.coo_array(
        (np.ones(len(class_N), np.int64), (class_N, cluster_N)), shape=(len(classes_K), len(clusters_C))
    )
    return table.tocsr(), classes_K, clusters_C


def _checked(labels_true: np.ndarray, labels_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays; raises InputError as `contingency_table`."""
    labels_true, labels_pred = _of_groups(labels_true, "labels"), _of_groups(labels_pred, "clusters")
    if labels_true.ndim != 1 or labels_true.shape != labels_pred.shape:
        raise InputError(
            f"labels have shape {labels_true.shape}, the clustering has {labels_pred.shape}: "
            "give one label and one cluster id per sample"
        )
    if len(labels_true) == 0:
        raise InputError("there are no labels to compare: give at least one sample")
    return labels_true, labels_pred


def _of_groups(values: Any, name: str) -> np.ndarray:
    """Labels whose values name groups: whole numbers, truth values or text."""
    labels = np.asarray(values)
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.ravel()):
        labels = labels.astype(str)
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.floor(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "biuU" and labels.size:
        raise InputError(f"{name} hold values that name no groups ({labels.dtype}): give whole numbers, or text")
    return labels


def hungarian_map(labels_true: np.ndarray, labels_pred: np.ndarray) -> dict[Any, Any]:
    """The one-to-one map from clusters to classes that makes the most samples right, also for C ≠ K.

    Returns:
        {cluster: class}, each as it was given. Clusters left over, clusters that could only get a class they share no
        sample with, and noise are absent.

    Raises:
        InputError: as `contingency_table`.
    """
    table_KC, classes_K, clusters_C = contingency_table(labels_true, labels_pred)
    counts = table_KC.tocoo()
    is_noise_C = clusters_C == NOISE if clusters_C.dtype.kind != "U" else np.zeros(len(clusters_C), bool)
    wanted = ~is_noise_C[counts.col]
    rows, columns, overlap = counts.row[wanted], counts.col[wanted], counts.data[wanted]
    if len(overlap) == 0:
        return {}
    # The sparse solver wants a partner for every class: each gets a stand-in of its own that makes no sample right.
    # Counts become positive costs, as it takes a stored zero for a missing edge.
    worst = int(overlap.max()) + 1
    n_classes, n_clusters = table_KC.shape
    everyone = np.arange(n_classes)
    costs = sparse.coo_array(
        (
            np.concatenate([worst - overlap, np.full(n_classes, worst)]).astype(np.float64),
            (np.concatenate([rows, everyone]), np.concatenate([columns, n_clusters + everyone])),
        ),
        shape=(n_classes, n_clusters + n_classes),
    )
    matched_rows, matched_columns = min_weight_full_bipartite_matching(sparse.csr_matrix(costs))
    return {
        clusters_C[column].item(): classes_K[row].item()
        for row, column in zip(matched_rows, matched_columns)
        if column < n_clusters
    }


def cluster_accuracy(labels_true: np.ndarray, labels_pred: np.ndarray) -> float:
    """ACC: the share of samples that `hungarian_map` gets right. Noise and unmapped clusters count as wrong.

    Raises:
        InputError: as `contingency_table`.
    """
    table_KC, classes_K, clusters_C = contingency_table(labels_true, labels_pred)
    mapping = hungarian_map(labels_true, labels_pred)
    columns = np.searchsorted(clusters_C, np.array(list(mapping.keys()), clusters_C.dtype)).astype(np.intp)
    rows = np.searchsorted(classes_K, np.array(list(mapping.values()), classes_K.dtype)).astype(np.intp)
    n_right = table_KC[rows, columns].sum() if mapping else 0
    return float(n_right) / len(labels_true)


def nmi(labels_true: np.ndarray, labels_pred: np.ndarray) -> float:
    """Normalized mutual information, arithmetic mean of the entropies.

    Raises:
        InputError: as `contingency_table`.
    """
    return float(normalized_mutual_info_score(*_checked(labels_true, labels_pred), average_method="arithmetic"))


def ari(labels_true: np.ndarray, labels_pred: np.ndarray) -> float:
    """Adjusted Rand index.

    Raises:
        InputError: as `contingency_table`.
    """
    return float(adjusted_rand_score(*_checked(labels_true, labels_pred)))


def ami(labels_true: np.ndarray, labels_pred: np.ndarray) -> float:
    """Adjusted mutual information, arithmetic mean of the entropies.

    Raises:
        InputError: as `contingency_table`.
    """
    table_KC, _, _ = contingency_table(labels_true, labels_pred)
    normalizer = (_entropy(table_KC.sum(axis=1)) + _entropy(table_KC.sum(axis=0))) / 2
    return _adjusted(table_KC, normalizer)


def one_sided_ami(labels_true: np.ndarray, labels_pred: np.ndarray) -> float:
    """How much of the labels' entropy the clusters explain beyond chance: (MI - E[MI]) / (H(true) - E[MI]).

    Unlike AMI it does not punish clusters for being finer than the labels, so it can be read per taxonomy level.

    Raises:
        InputError: as `contingency_table`.
    """
    table_KC, _, _ = contingency_table(labels_true, labels_pred)
    return _adjusted(table_KC, _entropy(table_KC.sum(axis=1)))


def expected_mutual_information(class_sizes_K: np.ndarray, cluster_sizes_C: np.ndarray) -> float:
    """E[MI] in nats of two random partitions with these sizes (Vinh et al. 2010, eq. 24a).

    Pairs of equal sizes contribute equally, so each pair of distinct sizes is summed once; and the hypergeometric
    terms of all pairs are stepped together from their recurrence, over the range where they are not negligible.
    """
    n_samples = int(np.sum(class_sizes_K))
    sizes_A, times_A = np.unique(class_sizes_K, return_counts=True)
    sizes_G, times_G = np.unique(cluster_sizes_C, return_counts=True)
    at_once = max(1, PAIRS_AT_ONCE // len(sizes_G))
    total = 0.0
    for start in range(0, len(sizes_A), at_once):
        rows = slice(start, start + at_once)
        terms_AG = _expected_terms(sizes_A[rows, None].astype(float), sizes_G[None, :].astype(float), n_samples)
        total += float(times_A[rows] @ terms_AG @ times_G)
    return total


def _expected_terms(a_A1: np.ndarray, b_1G: np.ndarray, n_samples: int) -> np.ndarray:
    """Σ_n (n/N) log(N n / ab) P(n) for each pair of sizes, with P hypergeometric. Shape (A, G)."""
    mean_AG = a_A1 * b_1G / n_samples
    # A hypergeometric tail lies below the Poisson one, which is < 1e-16 beyond 12 deviations and 40 counts.
    reach_AG = 12 * np.sqrt(mean_AG) + 40
    n_AG = np.maximum(np.maximum(1, a_A1 + b_1G - n_samples), np.floor(mean_AG - reach_AG))
    last_AG = np.minimum(np.minimum(a_A1, b_1G), np.ceil(mean_AG + reach_AG))
    probability_AG = np.exp(_log_hypergeometric(n_AG, a_A1, b_1G, n_samples))
    log_scale_AG = np.log(n_samples) - np.log(a_A1) - np.log(b_1G)
    terms_AG = np.zeros_like(mean_AG)
    for _ in range(int((last_AG - n_AG).max()) + 1):
        terms_AG += np.where(n_AG <= last_AG, n_AG / n_samples * (log_scale_AG + np.log(n_AG)) * probability_AG, 0)
        # P(n+1) / P(n); past the end of the support the factor (a - n)(b - n) is zero or masked above.
        probability_AG *= (a_A1 - n_AG) * (b_1G - n_AG) / ((n_AG + 1) * (n_samples - a_A1 - b_1G + n_AG + 1))
        n_AG += 1
    return terms_AG


def _log_hypergeometric(n_AG: np.ndarray, a_A1: np.ndarray, b_1G: np.ndarray, n_samples: int) -> np.ndarray:
    """log of a! b! (N-a)! (N-b)! / (N! n! (a-n)! (b-n)! (N-a-b+n)!)."""
    numerator = gammaln(a_A1 + 1) + gammaln(b_1G + 1) + gammaln(n_samples - a_A1 + 1) + gammaln(n_samples - b_1G + 1)
    denominator = gammaln(n_AG + 1) + gammaln(a_A1 - n_AG + 1) + gammaln(b_1G - n_AG + 1)
    return numerator - denominator - gammaln(n_samples - a_A1 - b_1G + n_AG + 1) - gammaln(n_samples + 1)


def _adjusted(table_KC: sparse.csr_array, normalizer: float) -> float:
    if table_KC.shape == (1, 1):
        return 1.0
    mutual = mutual_info_score(None, None, contingency=table_KC)
    expected = expected_mutual_information(table_KC.sum(axis=1), table_KC.sum(axis=0))
    gap = normalizer - expected
    # E[MI] is a sum of differences of log-factorials, which bring the rounding of log N! with them.
    rounding = max(1e-12, 8 * np.finfo(np.float64).eps * float(gammaln(table_KC.sum() + 1)))
    if abs(gap) <= rounding:
        # Chance explains everything, for example where every sample is its own cluster: 0 / 0 up to rounding.
        return float(table_KC.shape[0] == table_KC.shape[1] == table_KC.nnz)
    return float((mutual - expected) / gap)


def _entropy(sizes: np.ndarray) -> float:
    shares = sizes / sizes.sum()
    return float(-(shares * np.log(shares)).sum())
