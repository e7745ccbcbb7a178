"""Samples per second of TEMI training beside a plain reference, and the share of a matrix product's speed.

    python benchmarks/step_speed.py [--quick] [--record]

Both train on the same 8192 × 1280 synthetic features; they take turns, so that a slow moment of the machine hits both.
The figure of each is its median step. FLOPs count the heads' products alone: forward of student and teacher, backward
of the student, both views. A second table says where our step's time goes, by torch's profiler.
"""

from __future__ import annotations

import itertools
import statistics
import time

import numpy as np
import pytorch_lightning as pl
import torch
from reference import ReferenceTrainer, loader
from tables import arguments, report
from torch.nn import functional
from torch.utils.data import DataLoader

from deepclust.features.bank import FeatureBank, stored_dtype
from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.neighbors import Neighbors
from deepclust.runtime.devices import freed_memory_kept
from deepclust.training.module import ClusteringModule
from deepclust.training.pairs import pair_batches
from deepclust.training.recipe import Recipe
from deepclust.training.trainer import resolve_precision

SHAPES = [(10, 16, 256), (10, 16, 1024), (100, 16, 512), (1000, 16, 512), (1000, 50, 512)]
DIM, ROWS, K = 1280, 8192, 50
# aten operators by what they do in a step.
KINDS = {
    "products": ["aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"],
    "rounding, copying": ["aten::copy_"],
    "softmax, exp": ["aten::_softmax", "aten::_log_softmax", "aten::exp", "aten::exp_"],
    "GELU": ["aten::gelu", "aten::gelu_backward"],
    "optimizer, teacher": ["aten::_fused_adamw_", "aten::lerp_", "aten::_foreach_lerp_"],
}


class StepTimes(pl.Callback):
    """Hands control back after each step of a real Lightning fit, by running the fit in steps of one."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.stamps.append(time.perf_counter())


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((ROWS, DIM)).astype(np.float32)
    neighbors = Neighbors(
        rng.integers(0, ROWS, (ROWS, K)).astype(np.int32), np.ones((ROWS, K), np.float32), {"method": "random"}
    )
    rows = []
    for n_clusters, n_heads, batch_size in SHAPES:
        rounds = 2 if options.quick else 4
        ours, reference, product = [], [], []
        trainer = ReferenceTrainer(DIM, n_clusters, n_heads)
        batches = iter(itertools.cycle(loader(torch.from_numpy(features), neighbors.ids, batch_size)))
        trainer.step(*next(batches))
        for _ in range(rounds):
            product.append(product_rate(batch_size, n_heads))
            ours += fit_step_times(features, neighbors, n_clusters, n_heads, batch_size, steps=8)
            for _ in range(2):
                began = time.perf_counter()
                trainer.step(*next(batches))
                reference.append(time.perf_counter() - began)
        step, plain = statistics.median(ours), statistics.median(reference)
        flops = 2 * batch_size * n_heads * (DIM * 512 + 512 * 256 + 256 * n_clusters) * 2 * 4
        rate = flops / step / 1e9
        rows.append(
            {
                "C": n_clusters,
                "H": n_heads,
                "B": batch_size,
                "reference samples/s": batch_size / plain,
                "deepclust samples/s": batch_size / step,
                "ratio": plain / step,
                "GFLOP/s": rate,
                "product GFLOP/s": statistics.median(product),
                "share": rate / statistics.median(product),
            }
        )
    precision = resolve_precision("auto")
    notes = [
        f"precision {precision}, {torch.get_num_threads()} threads; reference in float32",
        "product: a plain matrix product in the same precision, of the shape of the first layer of all heads",
    ]
    report("step_speed", rows, notes, record=options.record)
    kinds = [
        {
            "C": n_clusters,
            "H": n_heads,
            "B": batch_size,
            **time_by_kind(features, neighbors, n_clusters, n_heads, batch_size),
        }
        for n_clusters, n_heads, batch_size in SHAPES
    ]
    report("step_speed_kinds", kinds, ["share of the time of all operators in the steps"], record=options.record)


def time_by_kind(
    features: np.ndarray, neighbors: Neighbors, n_clusters: int, n_heads: int, batch_size: int
) -> dict[str, float]:
    """Share of the operators' own time by what they do."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        fit_step_times(features, neighbors, n_clusters, n_heads, batch_size, steps=6)
    own = {event.key: event.self_cpu_time_total for event in profile.key_averages() if event.key.startswith("aten::")}
    spent = {kind: sum(own.pop(name, 0.0) for name in names) for kind, names in KINDS.items()}
    spent["all else"] = sum(own.values())
    return {kind: seconds / sum(spent.values()) for kind, seconds in spent.items()}


def fit_step_times(
    features: np.ndarray, neighbors: Neighbors, n_clusters: int, n_heads: int, batch_size: int, steps: int
) -> list[float]:
    """Seconds of single steps inside a Lightning fit, loading and all, the first two left out."""
    recipe = Recipe.of(
        "temi", n_clusters=n_clusters, n_heads=n_heads, batch_size=batch_size, init="random", preprocess="none",
        max_epochs=1, n_neighbors=K,
    )  # fmt: skip
    split = FeatureSet.from_arrays(features)
    bank = FeatureBank(
        split, FeatureTransform(DIM, "none"), dtype=stored_dtype(resolve_precision("auto")), in_memory=True
    )
    pairs = DataLoader(bank.staging(pair_batches(split, neighbors, recipe)), batch_size=None)
    times = StepTimes()
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[times], precision=resolve_precision("auto"), num_sanity_val_steps=0,
    )  # fmt: skip
    with freed_memory_kept():  # as fit_heads does
        trainer.fit(ClusteringModule(recipe, recipe.new_heads(DIM), bank), pairs)
    return np.diff(times.stamps)[1:].tolist()


def product_rate(batch_size: int, n_heads: int) -> float:
    """GFLOP/s of a plain product in the precision that training uses, the best of some."""
    dtype = torch.bfloat16 if resolve_precision("auto") == "bf16-mixed" else torch.float32
    inputs = torch.randn(2 * batch_size, DIM, dtype=dtype)
    weight = torch.randn(512 * n_heads, DIM, dtype=dtype)
    functional.linear(inputs, weight)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        functional.linear(inputs, weight)
        times.append(time.perf_counter() - began)
    return 2 * 2 * batch_size * DIM * 512 * n_heads / statistics.median(times) / 1e9


if __name__ == "__main__":
    main()
