"""The clustering heads: H independent heads in one tensor per layer, and the EMA teacher.

Shape suffixes: H heads, B samples, D feature dimensions, F and E hidden and embedding widths, C clusters.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepclust.runtime.errors import InputError
from deepclust.training.cosine import CosineLogits, Directions, UnitColumns, pull_back_

# Layer widths and initial scale of the TEMI authors' published head.
HIDDEN_DIM = 512
EMBEDDING_DIM = 256
INIT_STD = 0.02
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
