"""What happens to a feature before a head sees it: nothing, standardization, L2-normalization, or PCA.

The transform is fitted on the training split, travels with the heads, and is applied once per split where the
features fit in memory, block by block where they do not.

Shape suffixes: D feature dimensions in, P dimensions out, B samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import ALONE, Ranks

PREPROCESSINGS = ("none", "standardize", "l2")


class FeatureTransform(nn.Module):
    """An affine map, then optional L2-normalization.

    Args:
        in_dim: D.
        kind: `none`, `standardize` (zero mean and unit variance per dimension of the training split) or `l2`.
        pca_dim: P, or None for no projection. Principal directions of the (standardized) training features; the
            projected features are scaled by one number to unit mean variance, so that directions keep their weight.
    """

    mean: Tensor
    scale: Tensor
    components: Tensor
    explained_variance: Tensor

    def __init__(self, in_dim: int, kind: str = "standardize", pca_dim: int | None = None) -> None:
        super().__init__()
        if kind not in PREPROCESSINGS:
            raise InputError(f"unknown preprocessing '{kind}': choose one of {', '.join(PREPROCESSINGS)}")
        if pca_dim is not None and not 1 <= pca_dim <= in_dim:
            raise InputError(f"PCA to {pca_dim} dimensions, but the features have {in_dim}: choose 1 to {in_dim}")
        self.kind = kind
        self.in_dim = in_dim
        self.pca_dim = pca_dim
        self.register_buffer("mean", torch.zeros(in_dim))
        self.register_buffer("scale", torch.ones(in_dim))
        self.register_buffer("components", torch.zeros(in_dim, pca_dim or 0))
        self.register_buffer("explained_variance", torch.ones(()))

    @property
    def out_dim(self) -> int:
        return self.pca_dim or self.in_dim

    @classmethod
    def fitted_to(
        cls, features: FeatureSet, kind: str = "standardize", pca_dim: int | None = None, ranks: Ranks = ALONE
    ) -> FeatureTransform:
        """The transform of a training split, made in up to three passes over blocks that accumulate in float64.

        Args:
            features: the training split.
            kind, pca_dim: as of the class.
            ranks: the processes that share the rows, each of which gets the same transform.
        """
        transform = cls(features.dim, kind, pca_dim)
        transform._fit_to(features, ranks)
        return transform

    def _fit_to(self, features: FeatureSet, ranks: Ranks) -> None:
        if self.kind != "standardize" and self.pca_dim is None:
            return

        def mean_over_rows(part_of: Callable[[np.ndarray], np.ndarray], *shape: int) -> np.ndarray:
            return features.mean_over_rows(part_of, np.zeros(shape), ranks)

        mean = mean_over_rows(lambda block: block.sum(axis=0, dtype=np.float64), self.in_dim)
        near = mean.astype(np.float32)
        variance = mean_over_rows(lambda block: np.square(block - near).sum(axis=0, dtype=np.float64), self.in_dim)
        self.mean.copy_(torch.from_numpy(mean))
        if self.kind == "standardize":
            # A constant dimension becomes zero; nothing is divided by zero or by rounding.
            varies = variance > 1e-10 * variance.max()
            scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
            self.scale.copy_(torch.from_numpy(scale))
        if self.pca_dim is not None:

            def products(block: np.ndarray) -> np.ndarray:
                centered = (torch.from_numpy(block) - self.mean) * self.scale
                return (centered.T @ centered).numpy()

            self._set_components(mean_over_rows(products, self.in_dim, self.in_dim), self.pca_dim)

    def _set_components(self, covariance: np.ndarray, pca_dim: int) -> None:
        values, vectors = torch.linalg.eigh(torch.from_numpy(covariance))
        values, vectors = values.flip(0), vectors.flip(1)
        # eigh leaves each direction's sign open; fixing it makes a refit give the same projection.
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        kept = values[:pca_dim]
        self.components.copy_(vectors[:, :pca_dim] / kept.mean().clamp_min(1e-12).sqrt())
        self.explained_variance.copy_(kept.sum() / values.sum().clamp_min(1e-12))

    def forward(self, features_BD: Tensor) -> Tensor:
        """(B, D) -> (B, P)."""
        out = features_BD
        if self.kind == "standardize" or self.pca_dim is not None:
            out = (out - self.mean) * self.scale
        if self.pca_dim is not None:
            out = out @ self.components
        if self.kind == "l2":
            out = functional.normalize(out, dim=1)
        return out

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.in_dim} -> {self.out_dim}"
