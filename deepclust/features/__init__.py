"""Frozen features, as arrays: how they are kept, viewed, transformed and gathered. No room here sees an image."""
