"""How heads start: at random, or with prototypes at the clusters of a k-means run of their own.

Shape suffixes: H heads, N samples, C clusters, E embedding dimensions, B a block of samples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deepclust.heads import Heads, LinearHeads
from deepclust.kmeans import spherical_kmeans
from deepclust.neighbors import Neighbors
from deepclust.training.bank import FeatureBank
from deepclust.training.recipe import Recipe

# Steps of seed between the heads' k-means runs: far enough that the runs of neighbouring recipe seeds do not coincide.
SEED_STRIDE = 1009


def initialize_heads(heads: Heads, bank: FeatureBank, recipe: Recipe, neighbors: Neighbors | None = None) -> None:
    """Set the prototypes as the recipe asks; `random` leaves the heads as they were drawn.

    `kmeans` on a linear head is TSP's formula with the spherical k-means centres of the head's inputs; on an mlp head
    each prototype is the normalised mean of its cluster's members under the head's own, still random, embedding.
    """
    if recipe.init == "random":
        return
    runs = [
        spherical_kmeans(_rows(bank), recipe.n_clusters, n_init=1, seed=recipe.seed + SEED_STRIDE * head)
        for head in range(heads.n_heads)
    ]
    if isinstance(heads, LinearHeads):
        heads.set_prototypes(torch.from_numpy(np.stack([run.centroids_CD for run in runs])).to(bank.device))
    else:
        labels_HN = torch.from_numpy(np.stack([run.labels_N for run in runs])).long().to(bank.device)
        heads.set_prototypes(cluster_means(heads, bank, labels_HN, recipe.n_clusters))


@torch.no_grad()
def cluster_means(heads: Heads, bank: FeatureBank, labels_HN: Tensor, n_clusters: int) -> Tensor:
    """(H, C, E) normalised means of the members of each head's clusters in the head's own embedding.

    The part that all samples share is taken out first: an untrained head maps everything into a narrow cone, in which
    the raw means would hardly differ.
    """
    sums_HCE: Tensor | None = None
    for start, block_BP in bank.blocks():
        embedding_HBE = heads.embed(block_BP.float())
        labels_HB = labels_HN[:, start : start + len(block_BP)]
        if sums_HCE is None:
            sums_HCE = embedding_HBE.new_zeros(len(labels_HN), n_clusters, embedding_HBE.shape[2])
        sums_HCE.scatter_add_(1, labels_HB[..., None].expand_as(embedding_HBE), embedding_HBE)
    assert sums_HCE is not None
    counts_HC = torch.zeros(sums_HCE.shape[:2], device=sums_HCE.device)
    counts_HC.scatter_add_(1, labels_HN, torch.ones_like(labels_HN, dtype=counts_HC.dtype))
    means_HCE = sums_HCE / counts_HC.clamp_min(1)[..., None]
    center_H1E = sums_HCE.sum(dim=1, keepdim=True) / labels_HN.shape[1]
    return functional.normalize(means_HCE - center_H1E, dim=2)


def _rows(bank: FeatureBank) -> np.ndarray:
    """The heads' inputs as one float32 matrix."""
    return torch.cat([block.float().cpu() for _, block in bank.blocks()]).numpy()
