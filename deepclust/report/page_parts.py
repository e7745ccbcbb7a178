"""From clusterings of some features to their page: names, findings, a sample of the rows where there are too many.

Shape suffixes: N samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import Neighbors
from deepclust.report.cluster_names import names_of
from deepclust.report.contact_sheet import Images
from deepclust.report.health import duplicate_groups, findings, outlier_scores
from deepclust.report.page import Page, Shown

# Rows that a page holds at most: a sample of them above.
MOST_ROWS = 200_000
# By which near duplicates and samples like no other are told.
NEIGHBORS = 10


@dataclass
class Found:
    """A clustering of all N samples, with what was measured of it.

    Attributes:
        clustering: the clustering; names that a person gave are in its settings.
        title: what readers call it.
        row: its row of results: `silhouette`, and where there are labels `acc`, `nmi`, `ari`.
        agreement_N: share of the other heads that agree on each sample; None for a method without heads.
        n_heads: how many heads there are.
    """

    clustering: Clustering
    title: str
    row: Mapping[str, Any]
    agreement_N: np.ndarray | None = None
    n_heads: int = 0


def assembled_page(
    features: FeatureSet,
    found: Sequence[Found],
    *,
    title: str,
    facts: Sequence[str],
    why: str,
    run: str | None,
    images: Images | None,
    texts: Sequence[str] | None,
    neighbors: Neighbors | None,
) -> Page:
    """The page of features and their clusterings, the one that is shown first coming first.

    Args:
        features: N samples.
        found: clusterings of them.
        title, why, run: of the page.
        facts: what else is to be told of what was clustered.
        images, texts: of the samples, or None.
        neighbors: of the samples, for near duplicates and samples like no other; None where nobody looked.
    """
    rows, noun = None, noun_of(images is not None, texts is not None)
    if len(features) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(len(features), MOST_ROWS, replace=False))
        facts = [
            *facts,
            f"This page holds {len(rows):,} of the {len(features):,} {noun}, drawn at random; counts are of these. "
            f"Clusters that you rename, merge or split change all {noun}.",
        ]
        neighbors = None
        texts = None if texts is None else [texts[row] for row in rows]
        images = None if images is None else [images[row] for row in rows]  # type: ignore[misc]
    duplicates = [] if neighbors is None else duplicate_groups(neighbors)
    n_duplicates = None if neighbors is None else sum(map(len, duplicates))
    return Page(
        title=title,
        facts=[meaning_of(features, noun), *facts],
        why=why,
        features=features if rows is None else features.select(rows),
        shown=[_shown(one, features, n_duplicates, rows, texts, noun) for one in found],
        run=run,
        noun=noun,
        images=images,
        texts=texts,
        duplicates=duplicates,
        outlier_N=None if neighbors is None else outlier_scores(neighbors),
        rows=rows,
    )


def _shown(
    one: Found,
    features: FeatureSet,
    n_duplicates: int | None,
    rows: np.ndarray | None,
    texts: Sequence[str] | None,
    noun: str,
) -> Shown:
    """A clustering with its names and what is to be said of it; of some rows alone where there are too many."""
    whole, agreement_N = one.clustering, one.agreement_N
    told = findings(whole, one.row, agreement_N=agreement_N, n_heads=one.n_heads, n_duplicates=n_duplicates, noun=noun)
    clustering = whole if rows is None else _rows_of_clustering(whole, rows)
    if rows is not None and agreement_N is not None:
        agreement_N = agreement_N[rows]
    names = names_of(features.labels, features.class_names, None, whole.labels)
    if features.labels is None:
        names = names_of(None, None, texts, clustering.labels)
    given = {int(cluster): str(given) for cluster, given in whole.settings.get("names", {}).items()}
    return Shown(clustering, one.title, told, {**names, **given}, agreement_N, whole)


def _rows_of_clustering(clustering: Clustering, rows: np.ndarray) -> Clustering:
    """The clustering of some of its samples."""
    probs = None if clustering.top_probs is None else clustering.top_probs[rows]
    return Clustering(clustering.labels[rows], clustering.method, clustering.n_clusters, top_probs=probs)


def noun_of(has_images: bool, has_texts: bool) -> str:
    """What samples are called, in the plural."""
    return "texts" if has_texts else "images" if has_images else "samples"


def meaning_of(features: FeatureSet, noun: str) -> str:
    """What clusters are of, in a sentence."""
    encoder = features.manifest.get("encoder", {})
    seen = f" as the encoder {encoder['name']} sees them" if isinstance(encoder, dict) and encoder.get("name") else ""
    one = noun.removesuffix("s")
    return f"Every {one} is {features.dim} numbers{seen}; clusters are {noun} that are alike in them."
