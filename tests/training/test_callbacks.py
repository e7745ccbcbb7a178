"""What is logged of an epoch beside the losses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger

from deepclust.features.feature_set import FeatureSet
from deepclust.training.callbacks import LogEpoch
from deepclust.training.fit import fit_heads
from deepclust.training.module import ClusteringModule
from deepclust.training.recipe import Recipe
from deepclust.training.trainer import TrainerSettings


class Heard(CSVLogger):
    """Keeps what it is told."""

    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.told: list[dict[str, float]] = []

    def log_metrics(self, metrics, step=None) -> None:
        self.told.append(dict(metrics))


@pytest.mark.parametrize("several", [False, True])
def test_what_is_watched_is_called_after_every_epoch_with_its_heads_and_the_mined_neighbors(several, tmp_path):
    features = FeatureSet.from_arrays(np.random.default_rng(0).standard_normal((120, 8)).astype(np.float32))
    recipe = Recipe.of(
        "temi",
        n_clusters=3,
        n_heads=2,
        max_epochs=3,
        n_neighbors=5,
        init="random",
        batch_size=40,
        lr_schedule="constant",
    )
    seen = []

    def watch(neighbors, trained):
        seen.append((neighbors.ids.shape, trained.losses_H.tolist()))
        return {"train/seen": len(seen)}

    logger = Heard(tmp_path)
    fitted = fit_heads(
        features, recipe, TrainerSettings("cpu"), logger=logger, log_prefix="temi/" if several else "", watch=watch
    )
    prefix = "temi/" if several else ""
    epochs = [told for told in logger.told if f"{prefix}train/seen" in told]
    assert [told[f"{prefix}train/seen"] for told in epochs] == [1, 2, 3]
    assert [told["epoch"] for told in epochs] == [0, 1, 2]
    assert [shape for shape, _ in seen] == [(120, 5)] * 3
    assert seen[-1][1] == fitted.trained.losses_H.tolist()  # of this epoch, not of the one before
    rate = epochs[-1][f"{prefix}train/learning_rate"]
    assert rate == pytest.approx(recipe.learning_rate * 40 / 256)  # after the warm-up, at this batch size


def test_the_memory_of_a_gpu_is_logged_in_gib_and_samples_by_the_second(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 30)
    clock = iter([10.0, 12.0])
    monkeypatch.setattr("deepclust.training.callbacks.time.perf_counter", lambda: next(clock))
    told = {}
    trainer = SimpleNamespace(
        is_global_zero=True,
        logger=SimpleNamespace(log_metrics=lambda metrics, step: told.update(metrics)),
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.5}])],
        strategy=SimpleNamespace(root_device=torch.device("cuda", 0)),
        current_epoch=0,
        global_step=2,
    )
    module = object.__new__(ClusteringModule)
    object.__setattr__(module, "log_prefix", "")
    monkeypatch.setattr(ClusteringModule, "trained", lambda self: None)
    callback = LogEpoch(lambda trained: {})
    callback.on_train_epoch_start(trainer, module)
    for _ in range(2):
        callback.on_train_batch_end(trainer, module, None, SimpleNamespace(global_size=100), 0)
    callback.on_train_epoch_end(trainer, module)
    assert (told["train/gpu_memory_gib"], told["train/samples_per_second"]) == (3.0, 100.0)
