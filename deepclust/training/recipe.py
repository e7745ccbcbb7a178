"""The recipe: everything that decides what training computes, as plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from deepclust.features.transform import PREPROCESSINGS
from deepclust.losses import make_objective
from deepclust.runtime.errors import InputError
from deepclust.training.heads import EMBEDDING_DIM, HEADS, HIDDEN_DIM

INITIALIZATIONS = ("random", "kmeans", "spectral")
SCHEDULES = ("constant", "cosine")
OPTIMIZERS = ("adamw", "adam")
DEFAULT_EPOCHS, DEFAULT_STEPS = 10, 120
# The widest graph that `init="spectral"` looks at.
SPECTRAL_NEIGHBORS = 30


@dataclass(frozen=True)
class Recipe:
    """How heads are trained. Two runs with equal recipes and features end with the same heads.

    Attributes:
        loss: `temi`, `scan` or `tsp`.
        loss_options: the loss's own: `beta` and `marginal_momentum`, or `entropy_weight`.
        n_clusters: C.
        head: `mlp` (TEMI, SCANv2) or `linear` (TSP).
        n_heads: H; the head with the lowest training loss over the last epoch is kept.
        hidden_dim: width of the `mlp` head's first layer.
        embedding_dim: width of the `mlp` head's embedding.
        temperature: softmax temperature of student and teacher.
        n_neighbors: K, from which each epoch draws one positive per sample.
        init: `random`; `kmeans`: each head's prototypes start from a k-means run of its own; `spectral`: each head
            starts from a partition of the neighbor graph.
        warm_start_epochs: after `spectral`, epochs of cross-entropy on the partition before training begins.
        preprocess: `standardize`, `l2` or `none`, fitted on the training split.
        pca_dim: project the features to so many principal directions first; None keeps all.
        max_epochs: passes over the samples; None: 10, or as many as make 120 steps where the data are small.
        patience: end training after so many epochs in which the lowest head's loss fell by less than 0.001 nats; None
            trains to the end. For `lr_schedule=constant`: the cosine needs to know its end.
        batch_size: B, the batch that the loss sees, over all devices.
        micro_batch_size: the pairs that memory sees at a time on one device; None takes the batch whole. It changes
            memory and speed, never the result beyond float order.
        optimizer: `adamw` or `adam`.
        learning_rate: at a batch of 256; scaled by batch_size / 256.
        lr_schedule: after the warm-up: `constant` (the papers) or `cosine` to zero.
        warmup_fraction: share of all steps over which the learning rate rises linearly from 0.
        weight_decay: on weights; biases and gains are spared.
        teacher_momentum: of the teacher's moving average over the student.
        freeze_prototypes_epochs: the prototypes stay as they are for so many epochs.
        gradient_clip: maximal gradient norm over all heads, or None.
        seed: of the heads, the pairs and the initialization.
    """

    n_clusters: int
    loss: str = "temi"
    loss_options: dict[str, Any] = field(default_factory=dict)
    head: str = "mlp"
    n_heads: int = 8
    hidden_dim: int = HIDDEN_DIM
    embedding_dim: int = EMBEDDING_DIM
    temperature: float = 0.1
    n_neighbors: int = 20
    init: str = "spectral"
    warm_start_epochs: int = 1
    preprocess: str = "standardize"
    pca_dim: int | None = None
    max_epochs: int | None = None
    patience: int | None = None
    batch_size: int = 512
    micro_batch_size: int | None = None
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    lr_schedule: str = "cosine"
    warmup_fraction: float = 0.1
    weight_decay: float = 1e-4
    teacher_momentum: float = 0.99
    freeze_prototypes_epochs: int = 1
    gradient_clip: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        make_objective(self.loss, **self.loss_options)
        for name, value, choices in (
            ("head", self.head, HEADS),
            ("init", self.init, INITIALIZATIONS),
            ("preprocess", self.preprocess, PREPROCESSINGS),
            ("lr_schedule", self.lr_schedule, SCHEDULES),
            ("optimizer", self.optimizer, OPTIMIZERS),
        ):
            if value not in choices:
                raise InputError(f"unknown {name} '{value}': choose one of {', '.join(choices)}")
        for name in ("n_heads", "n_neighbors", "max_epochs", "patience", "batch_size", "hidden_dim", "embedding_dim"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | np.integer) or value < 1):
                raise InputError(f"{name} is {value}: it must be 1 or more")
        if not isinstance(self.n_clusters, int | np.integer):
            raise InputError(f"n_clusters is {self.n_clusters!r}: it must be a whole number")
        if self.n_clusters < 2:
            raise InputError(f"n_clusters is {self.n_clusters}: it must be 2 or more")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise InputError(f"micro_batch_size is {self.micro_batch_size}: it must be 1 or more, or none")
        for name, low, high in (("warmup_fraction", 0.0, 1.0), ("teacher_momentum", 0.0, 1.0)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)}: it must be between {low:g} and {high:g}")
        for name in ("learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}: it must be above 0")

    def epochs(self, n_rows: int) -> int:
        """How many epochs training takes over so many samples."""
        if self.max_epochs is not None:
            return self.max_epochs
        steps_per_epoch = -(-n_rows // self.batch_size)
        return max(DEFAULT_EPOCHS, -(-DEFAULT_STEPS // steps_per_epoch))

    def mined_neighbors(self, n_rows: int) -> int:
        """How many neighbors are mined: those that pairs are drawn from, and those that `init` needs."""
        wanted = max(self.n_neighbors, SPECTRAL_NEIGHBORS) if self.init == "spectral" else self.n_neighbors
        return min(wanted, n_rows - 1)

    def check_features(self, n_rows: int) -> None:
        """Raises InputError where the features are too few for the clusters or the neighbors."""
        if self.n_clusters > n_rows:
            raise InputError(f"n_clusters={self.n_clusters}, but there are only {n_rows} samples: ask for fewer")
        if self.n_neighbors >= n_rows:
            raise InputError(
                f"n_neighbors={self.n_neighbors}, but there are only {n_rows} samples: a sample has at most "
                f"{n_rows - 1} neighbors"
            )

    def as_dict(self) -> dict[str, Any]:
        """As plain values, whatever NumPy types they came as: a checkpoint holds nothing else."""
        return plain(asdict(self))


def plain(value: Any) -> Any:
    """NumPy scalars as Python numbers, in dicts too."""
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items()}
    return value.item() if isinstance(value, np.generic) else value
