"""What one GPU makes of the project, in one command of a few minutes.

    python benchmarks/gpu.py [--quick] [--record]

Steps: samples per second of the three losses inside a Lightning fit, loading and all; of TEMI beside the plain loop of
`benchmarks/reference.py` on the same device; the share of a plain bfloat16 product's speed, whose FLOPs count the
heads' products alone; memory. Parts: mining by faiss and by blocked products of torch, k-means, extraction.

Without a GPU everything is tiny and runs on the CPU, which shows that the script works and measures nothing.
`--quick`: fewer steps.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from reference import ReferenceTrainer, loader
from tables import arguments, report
from torch.nn import functional

from deepclust.extraction.encoders import load_encoder
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import silhouette_samples
from deepclust.neighbors import Neighbors
from deepclust.neighbors.mining import make_search
from deepclust.neighbors.search import ExactSearch
from deepclust.runtime.devices import fastest_device
from deepclust.spherical_kmeans import spherical_kmeans
from deepclust.training.fit import fit_heads
from deepclust.training.recipe import Recipe

ON_GPU = torch.cuda.is_available()
DEVICE = fastest_device()
# C, H, B, micro-batch: the shapes of benchmarks/step_speed.py, and ImageNet-21K's clusters.
SHAPES: list[tuple[int, int, int, int | None]] = (
    [
        (10, 16, 256, None),
        (10, 16, 1024, None),
        (100, 16, 512, None),
        (1000, 16, 512, None),
        (1000, 50, 512, None),
        (10_450, 32, 4096, 512),
    ]
    if ON_GPU
    else [(5, 2, 16, None), (20, 2, 32, 8)]
)
DIM, ROWS, K = (1280, 65_536, 50) if ON_GPU else (32, 128, 5)
MINED = (1_000_000, 1024) if ON_GPU else (256, 32)
KMEANS_CLUSTERS = 1000 if ON_GPU else 8
IMAGES = 8192 if ON_GPU else 4


class Done(Exception):
    """Enough steps have been taken."""


class Clock(pl.Callback):
    """Times so many steps after some that warm up, as a whole: single ones overlap on a GPU."""

    def __init__(self, steps: int, warm_up: int) -> None:
        self.steps, self.warm_up, self.seen = steps, warm_up, 0
        self.seconds = 0.0

    def on_train_batch_end(self, *_: object) -> None:
        self.seen += 1
        if self.seen == self.warm_up:
            self.seconds -= now()
        elif self.seen == self.warm_up + self.steps:
            self.seconds += now()
            raise Done


def now() -> float:
    """The time once the device has done what was asked of it."""
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(call: Callable[[], Any]) -> float:
    began = now()
    call()
    return now() - began


def main() -> None:
    options = arguments(__doc__).parse_args()
    steps = (5 if options.quick else 50) if ON_GPU else 2
    product, losses = product_rate(), ("temi", "scan", "tsp")
    rows = [step_row(loss, *shape, steps=steps, product=product) for shape in SHAPES for loss in losses]
    notes = [
        f"{torch.cuda.get_device_name() if ON_GPU else 'no GPU: tiny, on the CPU'}; {ROWS} × {DIM} features",
        f"share: of a plain bfloat16 product, {product / 1e12:.3g} TFLOP/s, measured in this run",
    ]
    report("gpu_steps", rows, notes, record=options.record)
    report("gpu_parts", parts(), [f"mining and k-means: {MINED[0]:,} × {MINED[1]} float16"], record=options.record)


def step_row(
    loss: str, n_clusters: int, n_heads: int, batch: int, micro: int | None, *, steps: int, product: float
) -> dict[str, Any]:
    recipe = Recipe.of(
        loss,
        head="mlp",
        n_clusters=n_clusters,
        n_heads=n_heads,
        batch_size=batch,
        micro_batch_size=micro,
        n_neighbors=K,
        init="random",
        preprocess="none",
        max_epochs=1000,
        freeze_prototypes_epochs=0,
    )
    rng = np.random.default_rng(0)
    features = rng.standard_normal((ROWS, DIM)).astype(np.float16)
    ids = rng.integers(0, ROWS, (ROWS, K)).astype(np.int32)
    neighbors = Neighbors(ids, np.ones((ROWS, K), np.float32), {"method": "random"})
    clock = Clock(steps, warm_up=3 if ON_GPU else 1)
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    with suppress(Done):
        fit_heads(FeatureSet.from_arrays(features), recipe, neighbors=neighbors, callbacks=[clock], in_memory=True)
    second = clock.seconds / steps
    # Student forward and backward, teacher forward; with micro-batches the network that is looked at once more.
    passes = 3 + recipe.loss.uses_teacher + (micro is not None)
    flops = 2 * batch * n_heads * (DIM * 512 + 512 * 256 + 256 * n_clusters) * 2 * passes
    reference = None
    if loss == "temi" and micro is None:
        trainer = ReferenceTrainer(DIM, n_clusters, n_heads, device=DEVICE)
        batches = itertools.cycle(loader(torch.from_numpy(features).float(), ids, batch))
        reference = steps * batch / reference_seconds(trainer, batches, steps)
    return {
        "loss": recipe.loss.title,
        "C": n_clusters,
        "H": n_heads,
        "B": batch,
        "micro-batches": batch // (micro or batch),
        "samples/s": batch / second,
        "reference samples/s": reference,
        "ratio": None if reference is None else batch / second / reference,
        "TFLOP/s": flops / second / 1e12,
        "share of a product": flops / second / product,
        "peak GB": torch.cuda.max_memory_allocated() / 1e9 if ON_GPU else None,
    }


def reference_seconds(trainer: ReferenceTrainer, batches: Any, steps: int) -> float:
    def some() -> None:
        for x, y in itertools.islice(batches, steps):
            trainer.step(x.to(DEVICE), y.to(DEVICE))

    some()
    return seconds_of(some)


def product_rate() -> float:
    """FLOP/s of a plain bfloat16 product, the best of some."""
    size = 8192 if ON_GPU else 128
    matrix = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    return 2 * size**3 / min(seconds_of(lambda: matrix @ matrix) for _ in range(6))


def parts() -> list[dict[str, Any]]:
    n_rows, dim = MINED
    rows_ND = np.random.default_rng(0).standard_normal((n_rows, dim), dtype=np.float32).astype(np.float16)
    queries = np.arange(min(n_rows, 16_384))
    faiss_search = make_search("exact", rows_ND, K, 1.0, on_gpu=ON_GPU)
    faiss_search.query(queries[:64], K)
    exact_search = ExactSearch(rows_ND)
    on_device_ND = functional.normalize(torch.from_numpy(rows_ND).to(DEVICE).float(), dim=1).half()
    encoder = load_encoder({"name": "efficientnet_lite0", "image_size": 128}, device=DEVICE, precision="auto")
    images = torch.randint(0, 256, (IMAGES, 128, 128, 3), dtype=torch.uint8)
    batches = images.split(512)
    encoder.encode(batches[0])
    timed = {
        "mining, faiss on a GPU, else products": (len(queries), lambda: faiss_search.query(queries, K)),
        "mining, torch's blocked products": (len(queries), lambda: products(on_device_ND, len(queries))),
        "mining, blocks in float32": (
            len(queries),
            lambda: [exact_search.query(queries[low : low + 1024], K) for low in range(0, len(queries), 1024)],
        ),
        f"silhouette, C = {KMEANS_CLUSTERS}": (
            n_rows,
            lambda: silhouette_samples(rows_ND, np.arange(n_rows) % KMEANS_CLUSTERS),
        ),
        f"k-means, C = {KMEANS_CLUSTERS}, 10 passes": (
            10 * n_rows,
            lambda: spherical_kmeans(rows_ND, KMEANS_CLUSTERS, n_init=1, max_iter=10, tol=0.0, init="random"),
        ),
        "extraction, EfficientNet-Lite0 at 128 px": (IMAGES, lambda: [encoder.encode(batch) for batch in batches]),
    }
    found = []
    for name, (n_items, call) in timed.items():
        seconds = seconds_of(call)
        found.append({"part": name, "rows": n_items, "s": seconds, "rows/s": n_items / seconds})
    return found


def products(unit_ND: torch.Tensor, n_queries: int) -> None:
    """The K nearest of the first rows, by products of blocks whose results stay below 1 GB."""
    for query_QD in unit_ND[:n_queries].split(1024):
        (query_QD @ unit_ND.T).topk(K + 1, dim=1)


if __name__ == "__main__":
    main()
