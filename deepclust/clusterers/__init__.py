"""Classical clusterers to hold the trained heads against: one file each, one signature, one registry."""

from __future__ import annotations

import inspect
from typing import Any

from deepclust.clusterers.affinity_propagation import AffinityPropagationBaseline
from deepclust.clusterers.agglomerative import AgglomerativeBaseline, AgglomerativeThresholdBaseline
from deepclust.clusterers.base import Baseline
from deepclust.clusterers.dendrogram import Dendrogram, Trees, build_dendrogram
from deepclust.clusterers.density import HDBSCANBaseline, OPTICSBaseline
from deepclust.clusterers.graph import LeidenBaseline, LouvainBaseline, SpectralBaseline
from deepclust.clusterers.kmeans import KMeansBaseline, KMeansL2Baseline
from deepclust.runtime.errors import InputError

BASELINES: dict[str, type[Baseline]] = {
    baseline.name: baseline
    for baseline in (
        KMeansBaseline,
        KMeansL2Baseline,
        AgglomerativeBaseline,
        AgglomerativeThresholdBaseline,
        AffinityPropagationBaseline,
        SpectralBaseline,
        HDBSCANBaseline,
        OPTICSBaseline,
        LouvainBaseline,
        LeidenBaseline,
    )
}


def make_baseline(name: str, **options: Any) -> Baseline:
    """A baseline by its registered name, not fitted yet.

    Raises:
        InputError: if the name is unknown, or the baseline has no such option or lacks one.
    """
    if name not in BASELINES:
        raise InputError(f"no baseline is called '{name}': choose from {', '.join(BASELINES)}")
    kind = BASELINES[name]
    try:
        inspect.signature(kind).bind(**options)
    except TypeError as error:
        known = ", ".join(inspect.signature(kind).parameters)
        raise InputError(f"baseline {name}: {error}; its options are {known}") from None
    return kind(**options)


__all__ = [
    "BASELINES",
    "AffinityPropagationBaseline",
    "AgglomerativeBaseline",
    "AgglomerativeThresholdBaseline",
    "Baseline",
    "Dendrogram",
    "HDBSCANBaseline",
    "KMeansBaseline",
    "KMeansL2Baseline",
    "LeidenBaseline",
    "LouvainBaseline",
    "OPTICSBaseline",
    "SpectralBaseline",
    "Trees",
    "build_dendrogram",
    "make_baseline",
]
