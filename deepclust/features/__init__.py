"""Frozen features: where they come from and how they are kept. The only room that sees an image."""

from deepclust.features.store import FeatureSet, load_features

__all__ = ["FeatureSet", "load_features"]
