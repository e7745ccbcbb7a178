"""What is decided once heads are trained: into how many clusters, and how sure they may be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepclust.cuts.confidence import confidence_temperature, expected_accuracy
from deepclust.cuts.constraints import Constraints
from deepclust.cuts.exploration import Cut, Exploration, explore_heads, head_tree
from deepclust.cuts.voting import voted_exploration
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import Neighbors
from deepclust.training.trained import TrainedHeads


def settle(
    trained: TrainedHeads,
    features: FeatureSet,
    neighbors: Neighbors,
    bounds: tuple[int, int] | None = None,
    constraints: Constraints | None = None,
    views_VN: np.ndarray | None = None,
    voted: Sequence[Cut] | None = None,
) -> Exploration | None:
    """Cut the heads where `bounds` leave the number of clusters open, and set the temperature of their confidence.

    Args:
        trained: the heads, changed in place.
        features: the training split.
        neighbors: mined of it.
        bounds: of the number of clusters, or None where it is that of the heads.
        constraints: what decides the cut where there are some.
        views_VN: what each view says whose consensus the heads started from (`views_at_start`), or None.
        voted: what spoke for each number before the heads were trained with the chosen one (`voting`), or None.

    Returns:
        What speaks for each cut; None without bounds.
    """
    exploration = None
    if voted is not None:
        exploration = voted_exploration(head_tree(trained, features, neighbors)[1], voted)
    elif bounds is not None:
        exploration = explore_heads(trained, features, neighbors, bounds, constraints)
        trained.groups_C = exploration.tree.groups(exploration.chosen)
    set_confidence(trained, features, neighbors, views_VN)
    return exploration


def set_confidence(
    trained: TrainedHeads, features: FeatureSet, neighbors: Neighbors, views_VN: np.ndarray | None = None
) -> None:
    """Set the temperature at which the mean confidence is what the other heads, or the views, let expect."""
    expected = expected_accuracy(trained, features, neighbors.ids, views_VN)
    trained.confidence_temperature = confidence_temperature(trained, features, expected)
