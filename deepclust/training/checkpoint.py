"""The training state on disk: read once, written whole or not at all, resumed only by the run it belongs to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO

from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import written_whole
from deepclust.training.recipe import Recipe
from deepclust.training.trained import check_dimension, read_saved, weights_that_assign

Content = dict[str, Any]


def read_checkpoint(path: Path, recipe: Recipe, features: FeatureSet, identity: str | None = None) -> Content:
    """The training state of a run that goes on with this recipe and these features.

    Args:
        identity: the digest of data and settings that it must name; None takes any.

    Raises:
        InputError: if the file is no training state, was trained with other settings or on features of another
            dimension, or is of a loss that has been mended since.
    """
    content = read_saved(path)
    if "deepclust" not in content:
        raise InputError(f"{path} is no training state to resume from")
    check_dimension(features, content["deepclust"]["in_dim"])
    before, now = Recipe.from_dict(content["deepclust"]["recipe"]).as_dict(), recipe.as_dict()
    changed = [name for name, value in now.items() if before.get(name) != value]
    if changed:
        raise InputError(
            f"{path} was trained with other settings ({', '.join(changed)}): "
            "resume with the run's own, or start a new run"
        )
    if identity is not None and content["deepclust"].get("identity") != identity:
        raise InputError(f"{path} is of other data or another run than its folder: remove it, or start a new run")
    if recipe.loss.name == "scan" and "state_HC" in content["state_dict"]:
        raise InputError(f"{path} was trained with the entropy of both views pooled: start a new run")
    return content


def is_finished(content: Content) -> bool:
    """Whether `keep_heads` has left this: there is nothing to train on with, and nothing left to train."""
    return bool(content["deepclust"].get("finished"))


def keep_heads(path: Path) -> None:
    """Keep of a training state what assigns samples: no optimizer's state, of student and teacher only one.

    For a method that is finished, which nobody trains on: a run with more epochs is refused as another one.

    Raises:
        InputError: if there is no training state, or the file cannot be written.
    """
    content = read_saved(path)
    if "deepclust" not in content or is_finished(content):
        return
    kept = weights_that_assign(content)
    with written_whole(path) as temporary:
        torch.save({"deepclust": {**content["deepclust"], "finished": True}, "state_dict": kept}, temporary)


def transform_of(content: Content, recipe: Recipe) -> FeatureTransform:
    """The transform of a checkpoint, as it was fitted."""
    transform = FeatureTransform(content["deepclust"]["in_dim"], recipe.preprocess, recipe.pca_dim)
    prefix = "transform."
    weights = content["state_dict"].items()
    transform.load_state_dict({name.removeprefix(prefix): value for name, value in weights if name.startswith(prefix)})
    return transform


def in_memory_of(content: Content) -> bool | None:
    """Whether the run held its features in memory: the order of the samples follows from it."""
    of_old = content.get("PairDataModule", {}).get("in_memory")
    return content["deepclust"].get("in_memory", of_old)


class CheckpointFile(CheckpointIO):
    """Lightning's reads and writes of the checkpoint: what was read already is not read again, and a kill at any moment
    leaves a whole file.

    Args:
        content: what `read_checkpoint` read; None for a fresh run.
    """

    def __init__(self, content: Content | None = None) -> None:
        self._content = content

    def load_checkpoint(self, path: str | os.PathLike, map_location: Any = None, weights_only: Any = None) -> Content:
        content, self._content = self._content, None  # Lightning frees it once all is restored
        # A file that nobody read here is Lightning's own: it saves one where SLURM requeues the job.
        return read_saved(path) if content is None else content

    def save_checkpoint(self, checkpoint: Content, path: str | os.PathLike, storage_options: Any = None) -> None:
        with written_whole(path) as temporary:
            torch.save(checkpoint, temporary)

    def remove_checkpoint(self, path: str | os.PathLike) -> None:
        Path(path).unlink(missing_ok=True)
