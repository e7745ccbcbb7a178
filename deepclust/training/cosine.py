"""Lengths divided out, for every head at once; gradients by hand, in fewer passes over memory than autograd takes.

Shape suffixes: H heads, B samples, E embedding width, C clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Elements of a block of heads on a CPU: a few MB in float32.
CACHED_ELEMENTS = 1 << 20
# Elements of a block of heads on an accelerator: 2 GB in float32.
LAUNCHED_ELEMENTS = 1 << 29


class Directions(torch.autograd.Function):
    """g · v / ‖v‖ of every prototype v and its gain g, in fewer passes over memory than the formula as it stands."""

    @staticmethod
    def forward(ctx: Any, prototypes_HCE: Tensor, gain_HC: Tensor) -> Tensor:
        ctx.save_for_backward(prototypes_HCE, gain_HC)
        return prototypes_HCE * (gain_HC * inverse_lengths(prototypes_HCE))[..., None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gradient_HCE = gradients[0].clone()
        return gradient_HCE, pull_back_(gradient_HCE, *ctx.saved_tensors)


def inverse_lengths(prototypes_HCE: Tensor) -> Tensor:
    """(H, C) 1 / ‖v‖."""
    return torch.linalg.vector_norm(prototypes_HCE, dim=2).clamp_min_(_shortest(prototypes_HCE)).reciprocal_()


def pull_back_(gradient_HCE: Tensor, prototypes_HCE: Tensor, gain_HC: Tensor) -> Tensor:
    """From the gradient in the directions, in place, the gradient in the prototypes; returns that in the gains, (H, C).

    With r = 1 / ‖v‖ and a = r ⟨gradient, v⟩, the gradient in the gain is a, and that in v is g r (gradient - a r v).
    """
    gain_grad_HC = torch.empty_like(gain_HC)
    for heads in head_groups(gradient_HCE.shape, gradient_HCE.device):
        part_HCE, along_HC, prototypes = gradient_HCE[heads], gain_grad_HC[heads], prototypes_HCE[heads]
        inverse_HC = inverse_lengths(prototypes)
        torch.sum(part_HCE * prototypes, dim=2, out=along_HC).mul_(inverse_HC)
        turn_HC = gain_HC[heads] * inverse_HC
        part_HCE.mul_(turn_HC[..., None])
        part_HCE.addcmul_(prototypes, (along_HC * inverse_HC).mul_(turn_HC)[..., None], value=-1)
    return gain_grad_HC


def head_groups(shape: Sequence[int], device: torch.device) -> list[slice]:
    """Slices of heads that are taken at a time where tensors of (heads, rows, columns) are worked on elementwise.

    A CPU works on blocks of at most `CACHED_ELEMENTS`, one head at least, as the temporaries of a few operations
    then stay in its cache. An accelerator takes all heads in one launch, unless that needs very much memory.
    """
    limit = CACHED_ELEMENTS if device.type == "cpu" else LAUNCHED_ELEMENTS
    n_heads, n_rows, n_columns = shape
    size = max(1, limit // max(1, n_rows * n_columns))
    return [slice(low, min(low + size, n_heads)) for low in range(0, n_heads, size)]


class CosineLogits(torch.autograd.Function):
    """⟨e / ‖e‖, d⟩ of every embedding e and direction d: the product first, the length after.

    Same value and gradient as normalizing e before the product, in fewer passes over memory: with z the logits, g their
    gradient and r = 1 / ‖e‖, the gradient in e is Σ_c r g_c d_c - r² (Σ_c g_c z_c) e.
    """

    @staticmethod
    def forward(ctx: Any, embedding_HEB: Tensor, directions_HCE: Tensor) -> Tensor:
        inverse_HB1 = (
            torch.linalg.vector_norm(embedding_HEB, dim=1).clamp_min(_shortest(embedding_HEB)).reciprocal()[:, :, None]
        )
        logits_HBC = torch.bmm(embedding_HEB.transpose(1, 2), directions_HCE.transpose(1, 2)).mul_(inverse_HB1)
        ctx.save_for_backward(embedding_HEB, directions_HCE, inverse_HB1, logits_HBC)
        return logits_HBC

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        embedding_HEB, directions_HCE, inverse_HB1, logits_HBC = ctx.saved_tensors
        gradient_HBC = gradients[0] * inverse_HB1
        along_HB1 = (gradient_HBC * logits_HBC).sum(dim=2, keepdim=True) * inverse_HB1
        embedding_grad_HEB = torch.bmm(directions_HCE.transpose(1, 2), gradient_HBC.transpose(1, 2))
        embedding_grad_HEB.addcmul_(embedding_HEB, along_HB1.transpose(1, 2), value=-1)
        if not ctx.needs_input_grad[1]:  # frozen prototypes
            return embedding_grad_HEB, None
        return embedding_grad_HEB, torch.bmm(gradient_HBC.transpose(1, 2), embedding_HEB.transpose(1, 2))


class UnitColumns(torch.autograd.Function):
    """u = e / ‖e‖ over E, in fewer passes than `normalize`: the gradient in e is (g - ⟨g, u⟩ u) / ‖e‖."""

    @staticmethod
    def forward(ctx: Any, embedding_HEB: Tensor) -> Tensor:
        inverse_H1B = (
            torch.linalg.vector_norm(embedding_HEB, dim=1, keepdim=True)
            .clamp_min(_shortest(embedding_HEB))
            .reciprocal()
        )
        unit_HEB = embedding_HEB * inverse_H1B
        ctx.save_for_backward(unit_HEB, inverse_H1B)
        return unit_HEB

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        unit_HEB, inverse_H1B = ctx.saved_tensors
        along_H1B = (gradients[0] * unit_HEB).sum(dim=1, keepdim=True)
        return torch.addcmul(gradients[0], unit_HEB, along_H1B, value=-1).mul_(inverse_H1B)


def _shortest(embedding: Tensor) -> float:
    """What a length is divided out as, at least: as in `functional.normalize`, where the type can hold it."""
    return max(1e-12, torch.finfo(embedding.dtype).tiny)
