"""Classical clusterers to hold the trained heads against: one file each, one signature, one registry."""

from __future__ import annotations

import inspect
from typing import Any

from deepclust.baselines.agglomerative import AgglomerativeBaseline
from deepclust.baselines.base import Baseline
from deepclust.baselines.kmeans import KMeansBaseline
from deepclust.errors import InputError

BASELINES: dict[str, type[Baseline]] = {baseline.name: baseline for baseline in (KMeansBaseline, AgglomerativeBaseline)}


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


__all__ = ["BASELINES", "AgglomerativeBaseline", "Baseline", "KMeansBaseline", "make_baseline"]
