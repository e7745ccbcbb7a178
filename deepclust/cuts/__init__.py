"""Cutting trained heads elsewhere: the tree of their clusters, what speaks for each cut, how sure they may be."""
