"""What clustering ImageNet-21K takes: FLOPs, bytes, memory and hours of each stage, from first principles.

    python benchmarks/plan.py [--quick] [--record]

11.06 M × 1024 float16 features, C = 10 450, H = 32, K = 25, 25 epochs, B = 16 384 in micro-batches of 256. Hours are
operations ÷ rate + bytes ÷ bandwidth, nothing overlapped. The rates of this machine are measured now; those of GPUs are
the vendor's dense bfloat16 peak and bandwidth times the efficiencies below, which are assumptions. A training step of
the real shape with fewer heads is timed too, as a check of the arithmetic (`--quick` leaves it out).

Symbols: N samples, D dimensions, F = 512 and E = 256 widths of the head, C clusters, H heads, K neighbors.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from tables import arguments, report

N, D, F, E, C, H, K = 11_060_000, 1024, 512, 256, 10_450, 32, 25
EPOCHS, BATCH, MICRO = 25, 16_384, 256
KMEANS_ITERATIONS = 100
LISTS, PROBES = 16_384, 64  # of an inverted file: about 4 √N lists; probes as calibrated for recall 0.99 on easy data
# Passes over each logit. Student: written and read in bfloat16, log-softmax in float32 written, read by the loss, its
# gradient written, read and passed on. Teacher: the forward part of it. What a fused kernel spares is not counted.
STUDENT_BYTES, TEACHER_BYTES = 32, 16
PRODUCT_EFFICIENCY, BANDWIDTH_EFFICIENCY, SCALING = 0.4, 0.7, 0.9


@dataclass(frozen=True)
class Machine:
    """FLOP/s of bfloat16 products and bytes/s of memory, as they are reached."""

    name: str
    flops: float
    bandwidth: float

    def hours(self, stage: Stage) -> float:
        return (stage.flops / self.flops + stage.bytes / self.bandwidth) / 3600


@dataclass(frozen=True)
class Stage:
    """Operations and memory traffic of a stage, and the arithmetic behind them."""

    name: str
    flops: float
    bytes: float
    arithmetic: str


def stages() -> list[Stage]:
    view = 2 * (D * F + F * E + E * C)  # FLOPs of one view through one head
    backward = 2 * view - 2 * D * F  # twice the forward pass, but nothing flows back into the features
    logits = N * 2 * H * C * EPOCHS
    step = "N · 2 views · H · "
    one_pass = N * 2 * H * EPOCHS * (2 * view + backward)
    statistic = N * 2 * H * EPOCHS * 2 * view
    kmeans = 2 * N * D * C * KMEANS_ITERATIONS
    return [
        Stage("mining, exact", 2 * N * N * D, N * D * 2 * N / 65_536, "2 N² D"),
        Stage(
            f"mining, IVF ({LISTS} lists, {PROBES} probes)",
            2 * N * D * (LISTS + PROBES * N / LISTS),
            N * PROBES * N / LISTS * D * 2 / 64,
            "2 N D (lists + probes · N / lists)",
        ),
        Stage("initialization", 0, 0, "random at this size (conf/data/imagenet21k.yaml)"),
        Stage(
            "training, one pass",
            one_pass,
            logits * (STUDENT_BYTES + TEACHER_BYTES),
            step + "25 · (student 3 + teacher 1) · 2 (DF + FE + EC)",
        ),
        Stage(
            "training, two passes (micro-batches)",
            one_pass + statistic,
            logits * (STUDENT_BYTES + 3 * TEACHER_BYTES),
            "the same, and student and teacher once more without gradient",
        ),
        Stage("assignment", N * view, N * C * 8 + N * D * 2, "N · 2 (DF + FE + EC), best head"),
        Stage("k-means, one start", kmeans, KMEANS_ITERATIONS * N * (D * 4 + C * 4), "100 · 2 N D C"),
    ]


def memory() -> list[tuple[str, float, str]]:
    parameters = H * (D * F + F + F * E + E + C * E + C)
    return [
        ("features on disk, or held", N * D * 2, "N D · 2 bytes"),
        ("neighbors", N * K * 8, "N K · (id 4 + cosine 4)"),
        ("heads in training", parameters * 5 * 4, "H (DF + FE + CE + …) · (student, teacher, gradient, 2 moments) · 4"),
        ("one tensor of logits", H * 2 * MICRO * C * 4, "H · 2 · 256 · C · 4; a step holds a handful"),
        ("… the batch whole", H * 2 * BATCH * C * 4, "H · 2 · 16 384 · C · 4: each of the naive form's tensors"),
        ("gradients between ranks, a step", parameters * 4, "one all-reduce of H (DF + FE + CE + …) · 4"),
        ("k-means sums between ranks", C * D * 8, "one all-reduce of C D · 8 an iteration"),
    ]


def this_machine() -> tuple[Machine, float]:
    """Rates of products and of copies here, and the float32 rate."""
    size = 2048
    rates = {}
    for dtype in (torch.bfloat16, torch.float32):
        matrix = torch.randn(size, size).to(dtype)
        rates[dtype] = 2 * size**3 / best(lambda matrix=matrix: matrix @ matrix)
    source = torch.randn(1 << 26)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / best(lambda: target.copy_(source))
    return Machine("here", max(rates.values()), bandwidth), rates[torch.float32]


def best(call, repeats: int = 5) -> float:
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def timed_step(heads: int = 2, batch: int = 512) -> float:
    """Seconds per pair and head of a TEMI step at C = 10 450, D = 1024."""
    import pytorch_lightning as pl

    from deepclust.features.feature_set import FeatureSet
    from deepclust.neighbors import Neighbors
    from deepclust.training.fit import fit_heads
    from deepclust.training.recipe import Recipe

    class Clock(pl.Callback):
        marks: list[float]

        def __init__(self) -> None:
            self.marks = []

        def on_train_batch_end(self, *_) -> None:
            self.marks.append(time.perf_counter())
            if len(self.marks) == 6:
                raise Done

    class Done(Exception):
        pass

    rng = np.random.default_rng(0)
    n_rows = max(C + 1, 4 * batch)
    features = FeatureSet.from_arrays(rng.standard_normal((n_rows, D)).astype(np.float16))
    ids = rng.integers(0, n_rows, (n_rows, K)).astype(np.int32)
    neighbors = Neighbors(ids, np.ones(ids.shape, np.float32), {})
    clock = Clock()
    recipe = Recipe.of(
        "temi",
        n_clusters=C,
        n_heads=heads,
        batch_size=batch,
        n_neighbors=K,
        init="random",
        preprocess="none",
        max_epochs=1,
    )
    with suppress(Done):
        fit_heads(features, recipe, neighbors=neighbors, callbacks=[clock])
    return float(np.diff(clock.marks)[1:].min()) / (heads * batch)


def main() -> None:
    options = arguments(__doc__).parse_args()
    here, float32_rate = this_machine()
    gpus = [("A100", 312e12, 2.0e12), ("H100", 989e12, 3.35e12)]
    machines = [here]
    for name, flops, bandwidth in gpus:
        for count in (1, 8):
            factor = count * (SCALING if count > 1 else 1)
            machines.append(
                Machine(
                    f"{count} × {name}",
                    factor * flops * PRODUCT_EFFICIENCY,
                    factor * bandwidth * BANDWIDTH_EFFICIENCY,
                )
            )
    rows = [
        {"stage": stage.name, "TFLOP": stage.flops / 1e12, "TB moved": stage.bytes / 1e12}
        | {f"h, {machine.name}": machine.hours(stage) for machine in machines}
        for stage in stages()
    ]
    notes = [f"{stage.name}: {stage.arithmetic}" for stage in stages()]
    notes += [f"{name}: {size / 1e9:.2f} GB = {arithmetic}" for name, size, arithmetic in memory()]
    notes.append(
        f"here: {here.flops / 1e9:.0f} GFLOP/s bfloat16, {float32_rate / 1e9:.0f} float32, "
        f"{here.bandwidth / 1e9:.1f} GB/s, measured with {torch.get_num_threads()} threads"
    )
    notes.append(
        f"GPUs, assumed: {PRODUCT_EFFICIENCY:.0%} of the dense bfloat16 peak (A100 312, H100 989 TFLOP/s), "
        f"{BANDWIDTH_EFFICIENCY:.0%} of the bandwidth (2.0, 3.35 TB/s), 8 GPUs {SCALING:.0%} of 8 times one"
    )
    if not options.quick:
        seconds = timed_step()
        hours = seconds * N * H * EPOCHS / 3600
        predicted = next(row["h, here"] for row in rows if row["stage"] == "training, one pass")
        notes.append(
            f"a TEMI step at this C timed here: {seconds * 1e6:.0f} µs a pair and head, {hours:,.0f} h for the "
            f"whole training; the table says {predicted:,.0f} h, {hours / predicted:.1f} times less"
        )
    report("plan", rows, notes, record=options.record)


if __name__ == "__main__":
    main()
