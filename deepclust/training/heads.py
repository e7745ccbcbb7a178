"""The clustering heads: H independent heads in one tensor per layer, and the EMA teacher.

Shape suffixes: H heads, B samples, D feature dimensions, F and E hidden and embedding widths, C clusters.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepclust.runtime.errors import InputError

# Layer widths and initial scale of the TEMI authors' published head.
HIDDEN_DIM = 512
EMBEDDING_DIM = 256
INIT_STD = 0.02
# Elements of a block of heads on a CPU: a few MB in float32.
CACHED_ELEMENTS = 1 << 20
# Elements of a block of heads on an accelerator: 2 GB in float32.
LAUNCHED_ELEMENTS = 1 << 29
# The prototypes' directions among the weights.
DIRECTIONS = "directions"


class Heads(nn.Module):
    """H clustering heads over the same features, every layer one tensor with a leading head dimension."""

    n_heads: int
    in_dim: int
    n_clusters: int
    # The weights that are made of `prototype_parameters`.
    prototype_weights: ClassVar[tuple[str, ...]]
    # Whether a prototype is the place of its cluster, else the direction to it.
    places: ClassVar[bool] = False

    @abstractmethod
    def embed(self, features_BD: Tensor) -> Tensor:
        """What the prototypes are compared with: (B, D) -> (H, B, E)."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """What the products of `logits` take, by name: the parameters, or what is made of them once for all samples."""

    @abstractmethod
    def logits(self, weights: Mapping[str, Tensor], features_BD: Tensor) -> Tensor:
        """Logits, before any temperature, in the precision of the features, which is that of the weights, too:
        (B, D) -> (H, B, C)."""

    def forward(self, features_BD: Tensor) -> Tensor:
        """Logits of the parameters as they are: (B, D) -> (H, B, C)."""
        return self.logits(self.weights(), features_BD)

    @torch.no_grad()
    def gradients(self, of_weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The gradients of all parameters by name, from those of `weights`, which may be changed in place."""
        return of_weights

    @abstractmethod
    def prototype_parameters(self) -> list[nn.Parameter]:
        """The parameters that are frozen while `freeze_prototypes_epochs` lasts."""

    @abstractmethod
    def set_prototypes(self, directions_HCE: Tensor) -> None:
        """Point each cluster's prototype along a direction in embedding space, or put it there."""

    @abstractmethod
    def like(self, n_heads: int) -> Heads:
        """So many fresh heads of the same shape."""

    def some(self, which: slice) -> Heads:
        """A copy of some of the heads."""
        value_of = {name: value[which] for name, value in self.state_dict().items()}
        copied = self.like(len(next(iter(value_of.values()))))
        copied.load_state_dict(value_of)
        return copied

    def single(self, head: int) -> Heads:
        """A copy of one head, as Heads with H = 1."""
        return self.some(slice(head, head + 1))

    def no_decay(self, *, decay_gains: bool = False) -> set[str]:
        """Names of parameters that weight decay spares: biases, and gains unless they decay too."""
        spared = ("bias",) if decay_gains else ("bias", "gain")
        return {name for name, _ in self.named_parameters() if name.endswith(spared)}


class MLPHeads(Heads):
    """Linear(D→512) · GELU · Linear(512→256) · L2-normalize · weight-normalized Linear(256→C) without bias.

    The TEMI authors' head. Weights start truncated-normal with std 0.02, biases 0, the gain of each prototype 1.
    Every head starts from its own random draw.

    Args:
        in_dim: D.
        n_clusters: C.
        n_heads: H.
        hidden_dim: F, 512.
        embedding_dim: E, 256.
        generator: source of the initial weights; equal generators give equal heads.
    """

    prototype_weights = (DIRECTIONS,)

    def __init__(
        self,
        in_dim: int,
        n_clusters: int,
        n_heads: int,
        *,
        hidden_dim: int = HIDDEN_DIM,
        embedding_dim: int = EMBEDDING_DIM,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_dim, self.n_clusters, self.n_heads = in_dim, n_clusters, n_heads
        self.hidden_dim, self.embedding_dim = hidden_dim, embedding_dim
        self.hidden_weight = nn.Parameter(torch.empty(n_heads, hidden_dim, in_dim))
        self.hidden_bias = nn.Parameter(torch.zeros(n_heads, hidden_dim))
        self.embedding_weight = nn.Parameter(torch.empty(n_heads, embedding_dim, hidden_dim))
        self.embedding_bias = nn.Parameter(torch.zeros(n_heads, embedding_dim))
        self.prototypes = nn.Parameter(torch.empty(n_heads, n_clusters, embedding_dim))
        self.gain = nn.Parameter(torch.ones(n_heads, n_clusters))
        for weight in (self.hidden_weight, self.embedding_weight, self.prototypes):
            nn.init.trunc_normal_(weight, std=INIT_STD, generator=generator)

    def embed(self, features_BD: Tensor) -> Tensor:
        layers = dict(self.named_parameters())
        return functional.normalize(self._embed_transposed(layers, features_BD), dim=1).transpose(1, 2)

    def weights(self) -> dict[str, Tensor]:
        layers = {name: value for name, value in self.named_parameters() if name not in ("prototypes", "gain")}
        return {**layers, DIRECTIONS: Directions.apply(self.prototypes, self.gain)}

    @torch.no_grad()
    def gradients(self, of_weights: dict[str, Tensor]) -> dict[str, Tensor]:
        layers = {name: value for name, value in of_weights.items() if name != DIRECTIONS}
        if DIRECTIONS not in of_weights:
            return layers
        prototypes_HCE = of_weights[DIRECTIONS]
        return {**layers, "prototypes": prototypes_HCE, "gain": pull_back_(prototypes_HCE, self.prototypes, self.gain)}

    def logits(self, weights: Mapping[str, Tensor], features_BD: Tensor) -> Tensor:
        embedding_HEB = self._embed_transposed(weights, features_BD)
        directions_HCE = weights[DIRECTIONS].to(embedding_HEB.dtype)
        # The lengths are divided out where there is less to divide: in the logits, or in the embedding.
        if self.n_clusters <= self.embedding_dim:
            return CosineLogits.apply(embedding_HEB, directions_HCE)
        return torch.bmm(UnitColumns.apply(embedding_HEB).transpose(1, 2), directions_HCE.transpose(1, 2))

    def _embed_transposed(self, weights: Mapping[str, Tensor], features_BD: Tensor) -> Tensor:
        """(H, E, B), not normalized. With the samples last, every product of the forward and backward pass reads and
        writes whole contiguous blocks per head; with the samples first, each would copy its operands into that order.
        """
        # One product for the first layer of all heads: the features are read once, not once per head.
        bias_h1 = weights["hidden_bias"].flatten()[:, None]
        hidden_hFB = torch.addmm(bias_h1, weights["hidden_weight"].flatten(0, 1), features_BD.T)
        hidden_HFB = functional.gelu(hidden_hFB).unflatten(0, (self.n_heads, -1))
        return torch.baddbmm(weights["embedding_bias"][:, :, None], weights["embedding_weight"], hidden_HFB)

    def prototype_parameters(self) -> list[nn.Parameter]:
        return [self.prototypes, self.gain]

    def set_prototypes(self, directions_HCE: Tensor) -> None:
        with torch.no_grad():
            # The prototypes are weight-normalized: their length only sets how fast they turn. Keep it as drawn.
            length = self.prototypes.norm(dim=2, keepdim=True).mean()
            self.prototypes.copy_(functional.normalize(directions_HCE, dim=2) * length)

    def like(self, n_heads: int) -> MLPHeads:
        widths = {"hidden_dim": self.hidden_dim, "embedding_dim": self.embedding_dim}
        # From a generator of their own, not the caller's.
        return MLPHeads(self.in_dim, self.n_clusters, n_heads, **widths, generator=torch.Generator())


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


class LinearHeads(Heads):
    """One linear map φ ∈ R^{C×D} per head, no bias (TSP).

    Args:
        in_dim: D.
        n_clusters: C.
        n_heads: H; TSP trains one.
        generator: source of the initial weights.
    """

    prototype_weights = ("prototypes",)

    def __init__(
        self, in_dim: int, n_clusters: int, n_heads: int = 1, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.in_dim, self.n_clusters, self.n_heads = in_dim, n_clusters, n_heads
        self.prototypes = nn.Parameter(torch.empty(n_heads, n_clusters, in_dim))
        nn.init.trunc_normal_(self.prototypes, std=INIT_STD, generator=generator)

    def embed(self, features_BD: Tensor) -> Tensor:
        return features_BD.expand(self.n_heads, -1, -1)

    def weights(self) -> dict[str, Tensor]:
        return {"prototypes": self.prototypes}

    def logits(self, weights: Mapping[str, Tensor], features_BD: Tensor) -> Tensor:
        logits_BhC = functional.linear(features_BD, weights["prototypes"].flatten(0, 1))
        return logits_BhC.unflatten(1, (self.n_heads, -1)).transpose(0, 1)

    def prototype_parameters(self) -> list[nn.Parameter]:
        return [self.prototypes]

    def set_prototypes(self, directions_HCE: Tensor) -> None:
        with torch.no_grad():
            # φ_i = c_i / (‖c_i‖ √D), TSP appendix A.
            self.prototypes.copy_(functional.normalize(directions_HCE, dim=2) / self.in_dim**0.5)

    def like(self, n_heads: int) -> LinearHeads:
        # From a generator of their own, not the caller's.
        return LinearHeads(self.in_dim, self.n_clusters, n_heads, generator=torch.Generator())


class NormedLinearHeads(LinearHeads):
    """One weight-normalized linear map per head, g_c · φ_c / ‖φ_c‖, no bias (TURTLE).

    Args:
        in_dim: D.
        n_clusters: C.
        n_heads: H.
        generator: source of the initial weights.
    """

    prototype_weights = (DIRECTIONS,)

    def __init__(
        self, in_dim: int, n_clusters: int, n_heads: int = 1, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(in_dim, n_clusters, n_heads, generator=generator)
        # Of standardized features the logits then have a standard deviation of about 1.
        self.gain = nn.Parameter(torch.ones(n_heads, n_clusters))

    def weights(self) -> dict[str, Tensor]:
        return {DIRECTIONS: Directions.apply(self.prototypes, self.gain)}

    @torch.no_grad()
    def gradients(self, of_weights: dict[str, Tensor]) -> dict[str, Tensor]:
        if DIRECTIONS not in of_weights:
            return {}
        prototypes_HCD = of_weights[DIRECTIONS]
        return {"prototypes": prototypes_HCD, "gain": pull_back_(prototypes_HCD, self.prototypes, self.gain)}

    def logits(self, weights: Mapping[str, Tensor], features_BD: Tensor) -> Tensor:
        return super().logits({"prototypes": weights[DIRECTIONS]}, features_BD)

    def prototype_parameters(self) -> list[nn.Parameter]:
        return [self.prototypes, self.gain]

    def like(self, n_heads: int) -> NormedLinearHeads:
        # From a generator of their own, not the caller's.
        return NormedLinearHeads(self.in_dim, self.n_clusters, n_heads, generator=torch.Generator())


class StudentTHeads(Heads):
    """-log(1 + ‖W z - μ_c‖²): logits whose softmax is Student's t with one degree of freedom around C centers (DEC).

    W is a linear encoder that starts as the identity.

    Args:
        in_dim: D, which is the dimension of the code, too.
        n_clusters: C.
        n_heads: H.
        generator: source of the first centers.
    """

    prototype_weights = ("prototypes",)
    places = True

    def __init__(
        self, in_dim: int, n_clusters: int, n_heads: int = 1, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.in_dim, self.n_clusters, self.n_heads = in_dim, n_clusters, n_heads
        self.encoder = nn.Parameter(torch.eye(in_dim).repeat(n_heads, 1, 1))
        self.prototypes = nn.Parameter(torch.empty(n_heads, n_clusters, in_dim))
        nn.init.trunc_normal_(self.prototypes, generator=generator)

    def embed(self, features_BD: Tensor) -> Tensor:
        return self._embed(self.encoder, features_BD)

    def weights(self) -> dict[str, Tensor]:
        return {"encoder": self.encoder, "prototypes": self.prototypes}

    def logits(self, weights: Mapping[str, Tensor], features_BD: Tensor) -> Tensor:
        # In float32 whatever is asked for: distances are differences of large products.
        embedding_HBD = self._embed(weights["encoder"].float(), features_BD.float())
        centers_HCD = weights["prototypes"].float()
        squared_HBC = torch.baddbmm(
            centers_HCD.square().sum(dim=2)[:, None, :], embedding_HBD, centers_HCD.transpose(1, 2), alpha=-2
        )
        squared_HBC = squared_HBC + embedding_HBD.square().sum(dim=2, keepdim=True)
        return -torch.log1p(squared_HBC.clamp_min(0)).to(features_BD.dtype)

    def _embed(self, encoder_HDD: Tensor, features_BD: Tensor) -> Tensor:
        embedding_BhD = functional.linear(features_BD, encoder_HDD.flatten(0, 1))
        return embedding_BhD.unflatten(1, (self.n_heads, -1)).transpose(0, 1)

    def prototype_parameters(self) -> list[nn.Parameter]:
        return [self.prototypes]

    def set_prototypes(self, directions_HCE: Tensor) -> None:
        with torch.no_grad():
            self.prototypes.copy_(directions_HCE)

    def like(self, n_heads: int) -> StudentTHeads:
        # From a generator of their own, not the caller's.
        return StudentTHeads(self.in_dim, self.n_clusters, n_heads, generator=torch.Generator())


HEADS = ("mlp", "linear", "normed_linear", "student_t")


def make_heads(
    kind: str,
    in_dim: int,
    n_clusters: int,
    n_heads: int,
    *,
    hidden_dim: int = HIDDEN_DIM,
    embedding_dim: int = EMBEDDING_DIM,
    seed: int = 0,
) -> Heads:
    """Heads by name, from a seed of their own.

    Raises:
        InputError: if the kind is unknown.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "mlp":
        return MLPHeads(
            in_dim, n_clusters, n_heads, hidden_dim=hidden_dim, embedding_dim=embedding_dim, generator=generator
        )
    if kind == "linear":
        return LinearHeads(in_dim, n_clusters, n_heads, generator=generator)
    if kind == "normed_linear":
        return NormedLinearHeads(in_dim, n_clusters, n_heads, generator=generator)
    if kind == "student_t":
        return StudentTHeads(in_dim, n_clusters, n_heads, generator=generator)
    raise InputError(f"unknown head '{kind}': choose one of {', '.join(HEADS)}")


def make_teacher(student: Heads) -> Heads:
    """A copy of the student that starts equal to it and receives no gradient."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: Heads, student: Heads, momentum: float = 0.996) -> None:
    """teacher ← momentum · teacher + (1 - momentum) · student, every parameter in one fused call."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)
