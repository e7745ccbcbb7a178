"""Frozen features, as arrays: how they are kept, viewed, transformed and gathered. Nothing here sees an image."""
