"""The losses by name. A new one is a file here with its formula and its class, and a line in `LOSSES`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from deepclust.losses.base import BatchLook, Gradients, LogProbs, Loss, Probs
from deepclust.losses.consensus_heads import ConsensusHeads
from deepclust.losses.dec import DEC
from deepclust.losses.icon import ICon
from deepclust.losses.iic import IIC
from deepclust.losses.nnm import NNM
from deepclust.losses.pica import PICA
from deepclust.losses.scan import SCAN, scan_loss
from deepclust.losses.scan_original import ScanOriginal
from deepclust.losses.sela import SeLa
from deepclust.losses.self_classifier import SelfClassifier
from deepclust.losses.self_label import SelfLabel
from deepclust.losses.temi import TEMI, next_marginal, temi_loss, temi_weights
from deepclust.losses.temi_ablations import PMI, WMI
from deepclust.losses.tsp import TSP, gaussian_neighbor_weights, tsp_loss
from deepclust.losses.turtle import TURTLE
from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import check_names

__all__ = [
    "COMPARATORS",
    "LOSSES",
    "SCAN",
    "TEMI",
    "TSP",
    "BatchLook",
    "Gradients",
    "LogProbs",
    "Loss",
    "Probs",
    "SelfLabel",
    "gaussian_neighbor_weights",
    "make_loss",
    "next_marginal",
    "scan_loss",
    "temi_loss",
    "temi_weights",
    "tsp_loss",
]

# What the papers compare these three with, and TEMI without its parts.
COMPARATORS: tuple[type[Loss], ...] = (ScanOriginal, SelfLabel, NNM, IIC, PICA, SeLa, SelfClassifier, DEC, PMI, WMI)
# Objectives that came after the three.
NEWER: tuple[type[Loss], ...] = (ICon, TURTLE)
# This project's own.
OWN: tuple[type[Loss], ...] = (ConsensusHeads,)
_ALL: tuple[type[Loss], ...] = (TEMI, SCAN, TSP, *COMPARATORS, *NEWER, *OWN)
LOSSES: dict[str, type[Loss]] = {loss.name: loss for loss in _ALL}


def make_loss(name: str, **options: Any) -> Loss:
    """A loss by name.

    Args:
        name: one of `LOSSES`.
        **options: fields of its class.

    Raises:
        InputError: if the name or an option is unknown, or an option is out of range.

    Example:
        >>> make_loss("scan", entropy_weight=2.0)
        SCAN(entropy_weight=2.0)
    """
    if name not in LOSSES:
        raise InputError(f"unknown loss '{name}': choose one of {', '.join(LOSSES)}")
    check_names(options, [option.name for option in fields(LOSSES[name])], f"loss={name}")
    return LOSSES[name](**options)
