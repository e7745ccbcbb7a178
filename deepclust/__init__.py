"""deepclust: cluster large image collections without labels, on frozen features, measured honestly.

The names below are imported when first used: `import deepclust` alone stays quick.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Idle OpenMP threads sleep instead of spinning. On a machine with other work the spinning of two processes slows both
# several times over; on a quiet one it gains little. Read by OpenMP when torch is first imported, so set here.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.2.0"

if TYPE_CHECKING:
    from deepclust.clusterers.estimator import BaselineClusterer
    from deepclust.clustering import Clustering
    from deepclust.estimators import SCAN, TEMI, TSP, ConsensusHeads, explore
    from deepclust.features.feature_files import load_features
    from deepclust.features.feature_set import FeatureSet
    from deepclust.reduction.reduction import Reduction
    from deepclust.spherical_kmeans import SphericalKMeans

_HOMES = {
    "TEMI": "deepclust.estimators",
    "SCAN": "deepclust.estimators",
    "TSP": "deepclust.estimators",
    "ConsensusHeads": "deepclust.estimators",
    "explore": "deepclust.estimators",
    "SphericalKMeans": "deepclust.spherical_kmeans",
    "BaselineClusterer": "deepclust.clusterers.estimator",
    "Reduction": "deepclust.reduction.reduction",
    "FeatureSet": "deepclust.features.feature_set",
    "load_features": "deepclust.features.feature_files",
    "Clustering": "deepclust.clustering",
}

__all__ = [
    "SCAN",
    "TEMI",
    "TSP",
    "BaselineClusterer",
    "Clustering",
    "ConsensusHeads",
    "FeatureSet",
    "Reduction",
    "SphericalKMeans",
    "explore",
    "load_features",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'deepclust' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
