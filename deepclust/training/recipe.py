"""The recipe: everything that decides what training computes, as plain values.

Each setting is declared here, or with the loss whose own it is (`deepclust/losses/`), and nowhere else: the command
line, the estimators and the documentation take names, defaults and ranges from these declarations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from deepclust.features.transform import PREPROCESSINGS
from deepclust.losses import LOSSES, Loss, make_loss
from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import check_names, check_settings, seed_setting, setting
from deepclust.training.heads import EMBEDDING_DIM, HEADS, HIDDEN_DIM, Heads, make_heads

INITIALIZATIONS = ("random", "kmeans", "kmeans_l2", "spectral", "consensus")
# Those that start from clusters of the neighbor graph.
GRAPH_INITIALIZATIONS = ("spectral", "consensus")
SCHEDULES = ("constant", "cosine")
OPTIMIZERS = ("adamw", "adam")
DEFAULT_STEPS = 120
# The widest graph that `init="spectral"` and `init="consensus"` look at.
SPECTRAL_NEIGHBORS = 30


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How heads are trained. Two runs with equal recipes and features end with the same heads.

    Example:
        >>> Recipe.of("temi", n_clusters=10, n_heads=4, beta=0.7).loss.beta
        0.7
    """

    loss: Loss
    n_clusters: int = setting(about="C, the number of clusters", at_least=1, whole=True)
    head: str = setting(
        "mlp", "`mlp` (TEMI, SCANv2), `linear` (TSP), `normed_linear` (TURTLE) or `student_t` (DEC)", choices=HEADS
    )
    hidden_dim: int = setting(HIDDEN_DIM, "width of the `mlp` head's first layer", at_least=1, whole=True)
    embedding_dim: int = setting(EMBEDDING_DIM, "width of the `mlp` head's embedding", at_least=1, whole=True)
    n_heads: int = setting(
        8, "H heads trained at once; the one with the lowest training loss is kept", at_least=1, whole=True
    )
    temperature: float = setting(0.1, "softmax temperature of student and teacher", above=0)
    n_neighbors: int = setting(
        20, "K mined neighbors, from which each epoch draws one positive per sample", at_least=1, whole=True
    )
    init: str = setting(
        "spectral",
        "`random`; `kmeans`: each head's prototypes start from a spherical k-means run of its own; `kmeans_l2`: from "
        "one by Euclidean distance, as in TSP's paper; `spectral`: each head starts from a partition of the neighbor "
        "graph; `consensus`: from one that many of its partitions agree on",
        choices=INITIALIZATIONS,
    )
    warm_start_epochs: int | None = setting(
        1,
        "after `spectral` or `consensus`, epochs of cross-entropy on the partition before training; None, the default "
        "of `consensus_heads`: 4, and 16 where there are 500 clusters or more; of other losses 1",
        at_least=0,
        whole=True,
        optional=True,
    )
    preprocess: str = setting(
        "standardize", "`standardize`, `l2` or `none`, fitted on the training split", choices=PREPROCESSINGS
    )
    pca_dim: int | None = setting(
        None, "project the features to so many principal directions first; None keeps all", at_least=1, whole=True
    )
    max_epochs: int | None = setting(
        None,
        "passes over the samples; None: 10, or as many as make 120 steps where the data are small; of "
        "`consensus_heads` fewer above 60 000 samples, 3 from 200 000 on",
        at_least=1,
        whole=True,
    )
    patience: int | None = setting(
        None,
        "end training after so many epochs in which the lowest head's loss fell by less than 0.001 nats; None trains "
        "to the end. For `lr_schedule=constant`: the cosine needs to know its end",
        at_least=1,
        whole=True,
    )
    batch_size: int = setting(
        512, "B, the pairs that the loss sees at a time, over all devices", at_least=1, whole=True
    )
    micro_batch_size: int | None = setting(
        None,
        "the pairs that memory sees at a time on one device; None takes the batch whole. It changes memory and speed, "
        "never the result beyond float order",
        at_least=1,
        whole=True,
    )
    optimizer: str = setting("adamw", "`adamw` or `adam`", choices=OPTIMIZERS)
    learning_rate: float = setting(1e-3, "at a batch of 256; scaled by batch_size / 256", above=0)
    lr_schedule: str = setting(
        "cosine", "after the warm-up: `constant` (the papers) or `cosine` to zero", choices=SCHEDULES
    )
    warmup_fraction: float = setting(
        0.1, "share of all steps over which the learning rate rises linearly from 0", at_least=0, at_most=1
    )
    weight_decay: float = setting(1e-4, "on weights; biases are spared, and gains but for `decay_gains`", at_least=0)
    decay_gains: bool = setting(False, "weight decay on the gains too, as in the TEMI authors' code", flag=True)
    teacher_momentum: float = setting(0.99, "of the teacher's moving average over the student", at_least=0, at_most=1)
    freeze_prototypes_epochs: int = setting(
        1, "the prototypes stay as they are for so many epochs", at_least=0, whole=True
    )
    gradient_clip: float | None = setting(None, "maximal gradient norm over all heads, or None", above=0)
    seed: int = seed_setting(0, "of the heads, the pairs and the initialization")

    def __post_init__(self) -> None:
        check_settings(self)

    @classmethod
    def of(cls, loss: str, **settings: Any) -> Recipe:
        """The recipe of a loss by name: its defaults, and what is given.

        Args:
            loss: one of `deepclust.losses.LOSSES`.
            **settings: of the recipe, and of the loss itself (`beta`, `entropy_weight` …).

        Raises:
            InputError: if the loss or a setting is unknown, or a value is out of range.
        """
        own = loss_settings(loss)
        shared = {one.name for one in fields(cls)} - {"loss"}
        check_names(settings, sorted({*own, *shared}), f"loss={loss}")
        return cls(
            loss=make_loss(loss, **{name: value for name, value in settings.items() if name in own}),
            **{**LOSSES[loss].trained_with, **{name: value for name, value in settings.items() if name not in own}},
        )

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Recipe:
        """What `as_dict` made, now or in an earlier version."""
        rest = {name: value for name, value in saved.items() if name not in ("loss", "loss_options")}
        return cls(loss=make_loss(saved["loss"], **saved["loss_options"]), **rest)

    def as_dict(self) -> dict[str, Any]:
        """As plain values, whatever NumPy types they came as: a checkpoint holds nothing else."""
        rest = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "loss"}
        return plain({"loss": self.loss.name, "loss_options": asdict(self.loss), **rest})

    def epochs(self, n_rows: int) -> int:
        """How many epochs training takes over so many samples."""
        if self.max_epochs is not None:
            return self.max_epochs
        steps_per_epoch = -(-n_rows // self.batch_size)
        return max(self.loss.epochs(n_rows), -(-DEFAULT_STEPS // steps_per_epoch))

    def epochs_of_warm_start(self) -> int:
        """How many epochs heads learn the partition that they start from."""
        if self.warm_start_epochs is not None:
            return self.warm_start_epochs
        return self.loss.warm_start_epochs(self.n_clusters)

    def mined_neighbors(self, n_rows: int) -> int:
        """How many neighbors are mined: those that pairs are drawn from, and those that `init` needs."""
        wanted = max(self.n_neighbors, SPECTRAL_NEIGHBORS) if self.init in GRAPH_INITIALIZATIONS else self.n_neighbors
        return min(wanted, n_rows - 1)

    def new_heads(self, in_dim: int) -> Heads:
        """The heads as they are drawn from the recipe's seed, for inputs of so many dimensions."""
        return make_heads(
            self.head,
            in_dim,
            self.n_clusters,
            self.n_heads,
            hidden_dim=self.hidden_dim,
            embedding_dim=self.embedding_dim,
            seed=self.seed,
        )

    def check_features(self, n_rows: int) -> None:
        """Raises InputError where the features are too few for the clusters or the neighbors, or the loss's settings
        do not fit the clusters or the start."""
        self.loss.check(self.n_clusters)
        if self.loss.keeps_start and self.init == "random":
            raise InputError(
                f"init=random, but loss={self.loss.name} keeps what its heads start from: leave it out, or choose "
                "another start"
            )
        if self.n_clusters > n_rows:
            raise InputError(f"n_clusters={self.n_clusters}, but there are only {n_rows} samples: ask for fewer")
        if self.n_neighbors >= n_rows:
            raise InputError(
                f"n_neighbors={self.n_neighbors}, but there are only {n_rows} samples: a sample has at most "
                f"{n_rows - 1} neighbors"
            )


def loss_settings(loss: str) -> dict[str, Field]:
    """The settings of the loss itself, by name.

    Raises:
        InputError: if there is no such loss.
    """
    if loss not in LOSSES:
        raise InputError(f"unknown loss '{loss}': choose one of {', '.join(LOSSES)}")
    return {one.name: one for one in fields(LOSSES[loss])}


class RecipeSetting(NamedTuple):
    """A setting of a recipe, as those see it who offer it: its default for one loss, its type and its meaning."""

    default: Any
    type: str
    about: str


def recipe_settings(loss: str) -> dict[str, RecipeSetting]:
    """Everything that decides the training of a loss, but for C and the seed, by name."""
    trained_with = LOSSES[loss].trained_with
    shared = [one for one in fields(Recipe) if one.name not in ("loss", "n_clusters", "seed")]
    settings = {
        one.name: RecipeSetting(trained_with.get(one.name, one.default), str(one.type), one.metadata["about"])
        for one in (*loss_settings(loss).values(), *shared)
    }
    assert not any(setting.default is MISSING for setting in settings.values())
    return settings


def default_settings(loss: str) -> dict[str, Any]:
    """{setting: default}, as the command line's configuration holds them."""
    return {name: setting.default for name, setting in recipe_settings(loss).items()}


def plain(value: Any) -> Any:
    """NumPy scalars as Python numbers, in dicts, lists and tuples too."""
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value
