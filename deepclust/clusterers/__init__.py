"""Classical clusterers to hold the trained heads against: one file each, one signature, one registry.

The registry names classes without importing them, so that names are listed at once: scikit-learn, faiss and torch take
seconds.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepclust.runtime.errors import InputError

if TYPE_CHECKING:
    from deepclust.clusterers.affinity_propagation import AffinityPropagationClusterer
    from deepclust.clusterers.agglomerative import AgglomerativeClusterer, AgglomerativeThresholdClusterer
    from deepclust.clusterers.base import Clusterer
    from deepclust.clusterers.dendrogram import Dendrogram, Linkages, build_dendrogram
    from deepclust.clusterers.density import HDBSCANClusterer, OPTICSClusterer
    from deepclust.clusterers.graph import ConsensusClusterer, LeidenClusterer, LouvainClusterer, SpectralClusterer
    from deepclust.clusterers.kmeans import KMeansClusterer, KMeansL2Clusterer, KMeansPaperClusterer

# The class of each method; its module is in _HOMES.
CLUSTERERS: Mapping[str, str] = {
    "kmeans": "KMeansClusterer",
    "kmeans_l2": "KMeansL2Clusterer",
    "kmeans_paper": "KMeansPaperClusterer",
    "agglomerative": "AgglomerativeClusterer",
    "agglomerative_threshold": "AgglomerativeThresholdClusterer",
    "affinity_propagation": "AffinityPropagationClusterer",
    "spectral": "SpectralClusterer",
    "consensus": "ConsensusClusterer",
    "hdbscan": "HDBSCANClusterer",
    "optics": "OPTICSClusterer",
    "louvain": "LouvainClusterer",
    "leiden": "LeidenClusterer",
}
_HOMES = {
    "AffinityPropagationClusterer": "affinity_propagation",
    "AgglomerativeClusterer": "agglomerative",
    "AgglomerativeThresholdClusterer": "agglomerative",
    "Clusterer": "base",
    "ConsensusClusterer": "graph",
    "Dendrogram": "dendrogram",
    "HDBSCANClusterer": "density",
    "KMeansClusterer": "kmeans",
    "KMeansL2Clusterer": "kmeans",
    "KMeansPaperClusterer": "kmeans",
    "LeidenClusterer": "graph",
    "Linkages": "dendrogram",
    "LouvainClusterer": "graph",
    "OPTICSClusterer": "density",
    "SpectralClusterer": "graph",
    "build_dendrogram": "dendrogram",
}

__all__ = [
    "CLUSTERERS",
    "AffinityPropagationClusterer",
    "AgglomerativeClusterer",
    "AgglomerativeThresholdClusterer",
    "Clusterer",
    "ConsensusClusterer",
    "Dendrogram",
    "HDBSCANClusterer",
    "KMeansClusterer",
    "KMeansL2Clusterer",
    "KMeansPaperClusterer",
    "LeidenClusterer",
    "Linkages",
    "LouvainClusterer",
    "OPTICSClusterer",
    "SpectralClusterer",
    "build_dendrogram",
    "clusterer_class",
    "make_clusterer",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"deepclust.clusterers.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'deepclust.clusterers' has no attribute '{name}'")


def clusterer_class(name: str) -> type[Clusterer]:
    """The class of a clusterer by its registered name: `clusterer_class("hdbscan").needs_n_clusters` is False.

    Raises:
        InputError: if the name is unknown.
    """
    if name not in CLUSTERERS:
        raise InputError(f"no baseline is called '{name}': choose from {', '.join(CLUSTERERS)}")
    return __getattr__(CLUSTERERS[name])


def make_clusterer(name: str, linkages: Linkages | None = None, /, **options: Any) -> Clusterer:
    """A clusterer by its registered name, not fitted yet.

    Args:
        name: a key of `CLUSTERERS`.
        linkages: where agglomerative methods look for their tree and leave it for each other; others build none.
        **options: of the method.

    Raises:
        InputError: if the name is unknown, or the clusterer has no such option or lacks one.
    """
    kind = clusterer_class(name)
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        known = ", ".join(inspect.signature(kind).parameters)
        raise InputError(f"baseline {name}: {error}; its options are {known}") from None
    clusterer = kind(**options)
    if linkages is not None:
        from deepclust.clusterers.agglomerative import AgglomerativeClusterer

        if isinstance(clusterer, AgglomerativeClusterer):
            clusterer.linkages = linkages
    return clusterer
