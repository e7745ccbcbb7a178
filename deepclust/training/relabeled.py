"""Heads trained again, on clusters that a person has corrected.

Shape suffixes: N samples, C clusters.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from deepclust.clustering import NOISE
from deepclust.features.bank import FeatureBank
from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.devices import fastest_device
from deepclust.runtime.errors import InputError
from deepclust.training.initialization import cluster_means, warm_start
from deepclust.training.trained import TrainedHeads

# Of cross-entropy: what a partition's warm start takes is enough to start from, and too little to end with.
EPOCHS = 16


def relearned(trained: TrainedHeads, features: FeatureSet, labels_N: np.ndarray) -> TrainedHeads:
    """One head of the same kind, trained by cross-entropy to put samples into these clusters.

    Args:
        trained: whose kind of head and transform are taken.
        features: N samples in the space that they were trained in.
        labels_N: cluster ids; noise is left out.

    Returns:
        A head whose cluster c is the c-th of the ids in ascending order; its loss is the share of these same samples
        that it puts elsewhere, which says little of others.

    Raises:
        InputError: if there are fewer than two clusters.
    """
    ids_C, place_N = np.unique(labels_N[labels_N != NOISE], return_inverse=True)
    if len(ids_C) < 2:
        raise InputError(f"heads cannot learn {len(ids_C)} clusters: two or more are needed")
    learned = features
    if len(place_N) < len(labels_N):
        learned = features.view(labels_N != NOISE, place_N.astype(np.int32), list(map(str, ids_C)))
    epochs = max(EPOCHS, trained.recipe.warm_start_epochs or 0)
    recipe = replace(trained.recipe, n_heads=1, n_clusters=len(ids_C), warm_start_epochs=epochs)
    device = torch.device(fastest_device())
    bank = FeatureBank(learned, trained.transform.to(device), device)
    heads = recipe.new_heads(bank.shape[1]).to(device)
    labels_1N = torch.from_numpy(place_N.astype(np.int64))[None].to(device)
    heads.set_prototypes(cluster_means(heads, bank, labels_1N, recipe.n_clusters))
    warm_start(heads, bank, labels_1N, recipe)
    again = TrainedHeads(recipe, trained.transform, heads, np.zeros(1))
    again.losses_H[0] = (again.assign(learned).labels != place_N).mean()
    return again
