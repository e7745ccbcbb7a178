"""Names for clusters: of the labels that prevail in them, or of the words that their texts have and others have not.

Shape suffixes: N samples, C clusters, W words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from deepclust.clustering import NOISE

# Of a cluster's samples must have a label for it to name the cluster.
PREVAILS = 0.5
KEYWORDS = 3
# Of more texts, so many drawn at random name the clusters.
MOST_TEXTS = 200_000


def names_of(
    labels_N: np.ndarray | None,
    class_names: Sequence[str] | None,
    texts: Sequence[str] | None,
    clusters_N: np.ndarray,
) -> dict[int, str]:
    """{cluster: name} by the labels where there are some, else by the words of the texts, else none."""
    if labels_N is not None:
        return names_by_label(labels_N, clusters_N, class_names)
    if texts is None:
        return {}
    if len(texts) > MOST_TEXTS:
        rows = np.sort(np.random.default_rng(0).choice(len(texts), MOST_TEXTS, replace=False))
        texts, clusters_N = [texts[row] for row in rows.tolist()], clusters_N[rows]
    return names_by_words(texts, clusters_N)


def names_by_label(labels_N: np.ndarray, clusters_N: np.ndarray, class_names: Sequence[str] | None) -> dict[int, str]:
    """{cluster: the class that at least half of its samples have}."""
    named = {}
    for cluster in np.unique(clusters_N[clusters_N != NOISE]):
        classes, counts = np.unique(labels_N[clusters_N == cluster], return_counts=True)
        most = int(counts.argmax())
        if counts[most] >= PREVAILS * counts.sum():
            label = int(classes[most])
            named[int(cluster)] = class_names[label] if class_names and label < len(class_names) else f"label {label}"
    return told_apart(named)


def names_by_words(texts: Sequence[str], clusters_N: np.ndarray) -> dict[int, str]:
    """{cluster: its three highest words by c-TF-IDF}: tf · log(1 + A / f), a cluster's texts taken for one document.

    After Grootendorst 2022 (BERTopic), equation 2: tf is the word's count in the cluster, f that in all clusters, A the
    mean number of words per cluster.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    ids_C, place_N = np.unique(clusters_N, return_inverse=True)
    try:
        counter = CountVectorizer(stop_words="english", max_features=50_000, token_pattern=r"(?u)\b[^\W\d_]{2,}\b")
        counts_NW = counter.fit_transform(texts)
    except ValueError:  # no text has a word
        return {}
    n_samples = len(texts)
    cluster_CN = sparse.csr_array((np.ones(n_samples), (place_N, np.arange(n_samples))), (len(ids_C), n_samples))
    counts_CW = (cluster_CN @ counts_NW).tocsr()
    words = counter.get_feature_names_out()
    totals_C = np.maximum(counts_CW.sum(axis=1), 1)
    rarity_W = np.log1p(totals_C.mean() / np.maximum(counts_CW.sum(axis=0), 1))
    named = {}
    for place, cluster in enumerate(ids_C.tolist()):
        start, end = counts_CW.indptr[place], counts_CW.indptr[place + 1]
        own, weights = counts_CW.indices[start:end], counts_CW.data[start:end]
        best = own[np.argsort(-weights * rarity_W[own], kind="stable")[:KEYWORDS]]
        if cluster != NOISE and len(best):
            named[cluster] = ", ".join(words[best])
    return told_apart(named)


def told_apart(named: Mapping[int, str]) -> dict[int, str]:
    """The same names; of several clusters with one name, all but the first have a number: `shoes`, `shoes 2`."""
    seen: dict[str, int] = {}
    apart = {}
    for cluster, name in named.items():
        seen[name] = seen.get(name, 0) + 1
        apart[cluster] = name if seen[name] == 1 else f"{name} {seen[name]}"
    return apart
