"""Nearest neighbors by inner product of L2-normalized features: the positive pairs of every head.

A sample is never its own neighbor: it is removed by its row number, so an exact duplicate remains a legal neighbor.
"""

from deepclust.neighbors.mining import METHODS, mine_neighbors, share_of_same
from deepclust.neighbors.store import Neighbors, cached_neighbors, label_consistency

__all__ = ["METHODS", "Neighbors", "cached_neighbors", "label_consistency", "mine_neighbors", "share_of_same"]
