"""Seconds to a test accuracy: default recipes beside the time that the published recipe takes for its 100 epochs.

    python benchmarks/time_to_accuracy.py [--features FOLDER] [--seeds 0 1 2] [--losses consensus_heads temi]
        [--published-epochs 0]

Ours is timed from raw features: mining, the start, the warm start, training; evaluation is left out. The
published recipe (16 heads, batch 512, 50 neighbors, 100 epochs) is timed on the plain reference trainer for a few
steps and scaled to 100 epochs, its mining left out. `--published-epochs` also trains it for real, with this project's
trainer, to see its accuracy after so many epochs.
"""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from reference import ReferenceTrainer, loader
from tables import REAL_FEATURES, arguments, report

from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import ami, cluster_accuracy
from deepclust.neighbors import mine_neighbors
from deepclust.training.fit import fit_heads
from deepclust.training.module import ClusteringModule
from deepclust.training.recipe import Recipe

TARGET = 0.74


class Clock(pl.Callback):
    """Test accuracy of the best head so far at the start and after each epoch, on a clock that stops meanwhile."""

    def __init__(self, test: FeatureSet) -> None:
        self.test = test
        self.began, self.paused = time.perf_counter(), 0.0
        self.curve: list[tuple[float, float, float]] = []

    def _measure(self, module: pl.LightningModule) -> None:
        assert isinstance(module, ClusteringModule)
        now = time.perf_counter()
        labels = module.trained().assign(self.test).labels
        assert self.test.labels is not None
        seconds = now - self.began - self.paused
        self.curve.append((seconds, cluster_accuracy(self.test.labels, labels), ami(self.test.labels, labels)))
        self.paused += time.perf_counter() - now

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._measure(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._measure(pl_module)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--features", type=Path, default=REAL_FEATURES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--published-epochs", type=int, default=0)
    parser.add_argument("--losses", nargs="+", default=["consensus_heads", "temi"])
    options = parser.parse_args()
    train = load_features(options.features / "train_features.npy", options.features / "train_labels.npy")
    test = load_features(options.features / "test_features.npy", options.features / "test_labels.npy")
    n_clusters = train.n_classes or 10
    published = published_seconds(train, n_clusters, steps=3 if options.quick else 8)
    rows = []
    seeds = options.seeds[:1] if options.quick else options.seeds
    for loss, seed in itertools.product(options.losses, seeds):
        clock = Clock(test)
        in_memory = FeatureSet.from_arrays(np.asarray(train.features), train.labels)  # no cache: mining is timed, too
        fit_heads(in_memory, Recipe.of(loss, n_clusters=n_clusters, seed=seed), callbacks=[clock])
        rows.append(row(f"{loss}, default, seed {seed}", clock, published))
    if options.published_epochs:
        clock = Clock(test)
        paper = Recipe.of(
            "temi", n_clusters=n_clusters, n_heads=16, n_neighbors=50, init="random", learning_rate=1e-4,
            warmup_fraction=0.2, lr_schedule="constant", teacher_momentum=0.996, max_epochs=options.published_epochs,
        )  # fmt: skip
        fit_heads(train, paper, callbacks=[clock], neighbors=mine_neighbors(train, 50))
        rows.append(row(f"published, {options.published_epochs} epochs, this trainer", clock, published))
    notes = [f"published recipe on the reference trainer: {published:,.0f} s for 100 epochs (scaled from steps)"]
    report("time_to_accuracy", rows, notes, record=options.record)


def row(name: str, clock: Clock, published: float) -> dict[str, object]:
    reached = next((seconds for seconds, acc, _ in clock.curve if acc >= TARGET), None)
    seconds, acc, mutual = clock.curve[-1]
    return {
        "run": name,
        f"s to {TARGET}": reached,
        "published / ours": None if reached is None else published / reached,
        "ACC at start": clock.curve[0][1],
        "ACC at end": acc,
        "AMI at end": mutual,
        "s at end": seconds,
    }


def published_seconds(train: FeatureSet, n_clusters: int, steps: int) -> float:
    """Median step of the reference trainer, times the steps of 100 epochs."""
    features = torch.from_numpy(np.asarray(train.features, dtype=np.float32))
    neighbors = np.random.default_rng(0).integers(0, len(features), (len(features), 50))
    trainer = ReferenceTrainer(train.dim, n_clusters, 16)
    times = []
    for batch in itertools.islice(loader(features, neighbors, 512), steps + 1):
        began = time.perf_counter()
        trainer.step(*batch)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:]) * 100 * (len(features) // 512)


if __name__ == "__main__":
    main()
