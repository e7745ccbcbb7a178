"""Names for clusters: of the labels that prevail in them, of the words that their texts have and others have not, or of
words that a CLIP model finds nearest to their images.

Shape suffixes: N samples, C clusters, W words, D dimensions of CLIP's features, B samples of a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from deepclust.clustering import NOISE
from deepclust.features.rows import Rows
from deepclust.features.unit_rows import unit_blocks
from deepclust.subsets.clip_labels import check_dims

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


def names_by_features(
    features_ND: Rows, clusters_N: np.ndarray, words: Sequence[str], text_WD: np.ndarray
) -> dict[int, str]:
    """{cluster: the word that its mean image is nearer to than those of the other clusters are, by cosine}.

    What all clusters have in common is taken away: of photographs everything is near to "photograph".

    Args:
        features_ND: image features of a CLIP model, of any length.
        clusters_N: the cluster of each.
        words: W of them.
        text_WD: their features by the same model, of length 1.

    Raises:
        InputError: if image and text features do not have the same dimensions.
    """
    check_dims(features_ND, text_WD)
    ids_C, place_N = np.unique(clusters_N, return_inverse=True)
    sums_CD = np.zeros((len(ids_C), text_WD.shape[1]))
    for start, block_BD in unit_blocks(features_ND):
        own_B = place_N[start : start + len(block_BD)]
        members_BC = sparse.csr_array(
            (np.ones(len(own_B), np.float32), own_B, np.arange(len(own_B) + 1)), (len(own_B), len(ids_C))
        )
        sums_CD += members_BC.T @ block_BD
    means_CD = sums_CD / np.maximum(np.linalg.norm(sums_CD, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    if len(ids_C) > 1:
        means_CD -= means_CD.mean(axis=0)
    nearest_C = (means_CD @ text_WD.T).argmax(axis=1)
    found = {int(one): words[nearest] for one, nearest in zip(ids_C, nearest_C) if one != NOISE}
    return told_apart(found)


def told_apart(named: Mapping[int, str]) -> dict[int, str]:
    """The same names; of several clusters with one name, all but the first have a number: `shoes`, `shoes 2`."""
    seen: dict[str, int] = {}
    apart = {}
    for cluster, name in named.items():
        seen[name] = seen.get(name, 0) + 1
        apart[cluster] = name if seen[name] == 1 else f"{name} {seen[name]}"
    return apart
