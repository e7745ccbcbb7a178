"""Frozen features: where they come from and how they are kept. The only room that sees an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deepclust.features.feature_set import FeatureSet
from deepclust.features.store import load_features

if TYPE_CHECKING:
    from deepclust.features.encoders import load_encoder
    from deepclust.features.extraction import extract

__all__ = ["FeatureSet", "extract", "load_encoder", "load_features"]


def __getattr__(name: str) -> Any:
    # Ready features need neither torch's data loading nor an encoder, which take seconds to import.
    if name == "extract":
        from deepclust.features.extraction import extract

        return extract
    if name == "load_encoder":
        from deepclust.features.encoders import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__} has no attribute {name}")
