"""Nearest neighbors by inner product of L2-normalized features: the positive pairs of every head.

A sample is never its own neighbor: it is removed by its row number, so an exact duplicate remains a legal neighbor.
"""

from deepclust.neighbors.cache import cached_neighbors
from deepclust.neighbors.mining import METHODS, mine_neighbors
from deepclust.neighbors.neighbors import Neighbors
from deepclust.neighbors.search import share_of_same

__all__ = ["METHODS", "Neighbors", "cached_neighbors", "mine_neighbors", "share_of_same"]
