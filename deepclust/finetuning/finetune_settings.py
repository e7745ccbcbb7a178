"""What fine-tuning computes, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import check_names, check_settings, seed_setting, setting
from deepclust.training.recipe import OPTIMIZERS, SCHEDULES

OBJECTIVES = ("labels", "tsp")
# Where TSP's clustering phase differs from fine-tuning with labels (Zhou & Zhang 2022, section 4.1): Adam with a
# constant 1e-4 on the images as they are, for every parameter alike.
TSP_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "batch_size": 256,
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "lr_schedule": "constant",
        "warmup_epochs": 0.0,
        "weight_decay": 0.0,
        "layer_decay": 1.0,
        "drop_path": 0.0,
        "augment": None,
        "random_erase": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing": 0.0,
    }
)


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """How an encoder is fine-tuned.

    The defaults are those of MAE's ViT-B (He et al. 2022, table 9; where the authors' FINETUNE.md has other values for
    the released weights, these: learning rate 5e-4, layer decay 0.65, random erasing 0.25). With `objective="tsp"` they
    are TSP's: see `of`.

    Raises:
        InputError: if a value is out of range, or is of labels with `objective="tsp"`.

    Example:
        >>> FinetuneSettings.of("tsp", max_epochs=5).learning_rate
        0.0001
    """

    objective: str = setting(
        "labels", "`labels`, or `tsp`: with TSP's loss and head, without labels", choices=OBJECTIVES
    )
    max_epochs: int = setting(100, "passes over the images", at_least=1, whole=True)
    batch_size: int = setting(1024, "images that a step sees; pairs of images with tsp", at_least=2, whole=True)
    optimizer: str = setting("adamw", "`adamw` or `adam`", choices=OPTIMIZERS)
    learning_rate: float = setting(5e-4, "of the head, at a batch of 256; scaled by batch_size / 256", above=0)
    lr_schedule: str = setting("cosine", "after the warm-up: `cosine` to 1e-6, or `constant`", choices=SCHEDULES)
    warmup_epochs: float = setting(5.0, "epochs over which the learning rate rises linearly from 0", at_least=0)
    weight_decay: float = setting(0.05, "on weights; biases and gains are spared", at_least=0)
    layer_decay: float = setting(
        0.65, "each layer below the head learns so many times as fast as the one above it", above=0, at_most=1
    )
    drop_path: float = setting(0.1, "rate of stochastic depth in the last block", at_least=0, below=1)
    augment: str | None = setting(
        "rand-m9-mstd0.5-inc1",
        "timm's name of an augmentation, after a random crop and flip; null: images as extraction cuts them",
        text=True,
        optional=True,
    )
    random_erase: float = setting(0.25, "probability of erasing a rectangle", at_least=0, at_most=1)
    mixup: float = setting(0.8, "α of mixup; 0: none", at_least=0)
    cutmix: float = setting(1.0, "α of CutMix; 0: none", at_least=0)
    label_smoothing: float = setting(0.1, "share of a label that all classes have", at_least=0, below=1)
    n_neighbors: int = setting(20, "neighbors that TSP's pairs are drawn from", at_least=1, whole=True)
    n_clusters: int | None = setting(None, "C, for TSP; null: that of the data", at_least=2, whole=True)
    seed: int = seed_setting(0, "of the head, the batches and the augmentation")

    def __post_init__(self) -> None:
        check_settings(self)
        of_labels = ("augment", "random_erase", "mixup", "cutmix", "label_smoothing")
        for name in of_labels if self.objective == "tsp" else ():
            if getattr(self, name):
                raise InputError(f"{name}={getattr(self, name)} is for labels: leave it out with objective=tsp")
        if self.warmup_epochs >= self.max_epochs:
            raise InputError(
                f"warmup_epochs={self.warmup_epochs:g} leaves nothing of max_epochs={self.max_epochs}: lower it, or "
                "train longer"
            )
        if self.augment is None and self.random_erase:
            raise InputError(
                f"random_erase={self.random_erase} is a part of the augmentation: set it to 0, or augment="
            )

    @classmethod
    def of(cls, objective: str = "labels", **settings: Any) -> FinetuneSettings:
        """The defaults of an objective, and what is given.

        Raises:
            InputError: as the class, and for a name that is no setting.
        """
        check_names(settings, [one.name for one in fields(cls)], "fine-tuning")
        return cls(**{**default_settings(objective), **settings})


def default_settings(objective: str) -> dict[str, Any]:
    """Every setting of an objective with its default."""
    declared = {one.name: one.default for one in fields(FinetuneSettings)}
    return {**declared, **(TSP_DEFAULTS if objective == "tsp" else {}), "objective": objective}
