"""Where and how training runs, as settings: read and checked before Lightning is there."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import check_settings, setting

SHARDS = ("batch", "heads")
PRECISIONS = ("auto", "32", "32-true", "bf16-mixed")
# Options of Lightning's Trainer that training sets itself.
OURS: Mapping[str, Any] = MappingProxyType(
    {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
    }
)
SET_BY_TRAINING = (*OURS, "max_epochs", "callbacks", "logger", "plugins")


@dataclass(frozen=True)
class TrainerSettings:
    """Where and how training runs. What it computes is the recipe's.

    Attributes:
        accelerator: `auto`, `cpu` or `gpu`, as in `pytorch_lightning.Trainer`.
        devices: how many on each node, which, or `auto` for all.
        num_nodes: machines.
        strategy: `auto`, or `ddp` for several processes.
        shard: what ranks share out: `batch`, each has all heads and a part of every batch; `heads`, each has a part of
            the heads and every batch. The result is the same up to float order.
        precision: `32`, `bf16-mixed`, or `auto`: bf16-mixed where the device multiplies bfloat16 natively.
        checkpoint_seconds: at most one checkpoint per so many seconds, at the end of an epoch.
        log_every_n_steps: how often `train/loss` is logged, with a logger.
        val_every_n_epochs: how often `val/…` is logged, with a logger; 0 never.
        more: further options of `pytorch_lightning.Trainer`.

    Raises:
        InputError: for a precision that training does not support, and for names in `more` that the Trainer does not
            know or that training sets itself.

    Example:
        >>> TrainerSettings.of({"devices": 2, "strategy": "ddp", "max_steps": 10}).more
        {'max_steps': 10}
    """

    accelerator: str = setting("auto", "as in `pytorch_lightning.Trainer`", text=True)
    devices: int | str | Sequence[int] = setting(1, "how many, which, or `auto`", such=lambda value: _devices(value))
    num_nodes: int = setting(1, "machines", at_least=1, whole=True)
    strategy: str = setting("auto", "`auto`, or `ddp` for several processes", text=True)
    shard: str = setting("batch", "what ranks share out: every `batch`, or the `heads`", choices=SHARDS)
    precision: str | int = "auto"
    checkpoint_seconds: float = setting(60.0, "at most one checkpoint per so many seconds", at_least=0)
    log_every_n_steps: int = setting(10, "how often `train/loss` is logged", at_least=1, whole=True)
    val_every_n_epochs: int = setting(5, "how often `val/…` is logged; 0 never", at_least=0, whole=True)
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_settings(self)
        if str(self.precision) not in PRECISIONS:
            raise InputError(f"precision {self.precision} is not supported: choose one of {', '.join(PRECISIONS)}")
        if not self.more:
            return
        import pytorch_lightning as pl  # imported here: `--help` and a mistyped setting answer without it

        own = [member.name for member in fields(self) if member.name != "more"]
        known = [name for name in inspect.signature(pl.Trainer).parameters if name not in (*own, *SET_BY_TRAINING)]
        for name in self.more:
            if name in own:
                raise InputError(f"trainer option '{name}' has a field of its own: give it there, not in more")
            if name in SET_BY_TRAINING:
                raise InputError(f"trainer option '{name}' is set by training itself: leave it out")
            if name not in known:
                near = difflib.get_close_matches(name, [*own, *known], n=1, cutoff=0.0)
                raise InputError(f"unknown trainer option '{name}': did you mean '{near[0]}'?")
        kinds = get_type_hints(pl.Trainer.__init__)
        for name, value in self.more.items():
            if not _is_of(value, kinds[name]):
                raise InputError(f"trainer.{name} is {value!r}: pytorch_lightning.Trainer takes {kinds[name]}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TrainerSettings:
        """The settings of a flat mapping: names that are no field go to `more`."""
        own = {member.name for member in fields(cls)} - {"more"}
        return cls(
            **{name: value for name, value in options.items() if name in own},
            more={name: value for name, value in options.items() if name not in own},
        )


def _devices(value: Any) -> str | None:
    numbers = value if isinstance(value, (list, tuple)) else [value]
    good = isinstance(value, str) or (bool(numbers) and all(type(number) is int for number in numbers))
    return None if good else "a number of devices, a list of their numbers, or auto"


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a plain value is of a type; what is no plain type is left to those who take it."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (list, dict):
        return isinstance(value, get_origin(kind))
    if get_args(kind):
        return any(_is_of(value, one) for one in get_args(kind))
    if kind is float:
        return isinstance(value, float) and math.isfinite(value)
    return type(value) is kind if kind is int else isinstance(value, kind)


DEFAULT_TRAINER = TrainerSettings()
