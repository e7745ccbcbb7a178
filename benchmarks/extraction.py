"""Images per second of EfficientNet-Lite0 on this machine's CPU, from a plain loop to what extraction does.

    python benchmarks/extraction.py [--quick] [--record] [--images N]

The same noise images at 128 px throughout, decoding left out; the best of three
rounds, the variants taking turns. 512 images; `--quick`: 128.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from tables import arguments, report

from deepclust.extraction.backbones import build
from deepclust.extraction.encoders import encoder_spec, load_encoder
from deepclust.extraction.shard_maker import encoded


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, metavar="N")
    given = parser.parse_args()
    n_images = given.images or (128 if given.quick else 512)
    options = {"name": "efficientnet_lite0", "image_size": 128}
    squares = torch.randint(0, 256, (n_images, 128, 128, 3), dtype=torch.uint8)
    plain = build(encoder_spec(options)).network
    exact = load_encoder(options, device="cpu", precision="float32")
    fast = load_encoder(options, device="cpu", precision="auto")
    cpus = len(os.sched_getaffinity(0))

    def plain_loop() -> None:
        with torch.inference_mode():
            for batch in squares.split(256):
                plain((batch.permute(0, 3, 1, 2).contiguous().float() / 255 - 0.5) / 0.5)

    def one_after_another(encoder: object, size: int) -> Callable[[], None]:
        return lambda: [encoder.encode(batch) for batch in squares.split(size)] and None  # type: ignore[attr-defined]

    def one_per_core() -> None:
        batches = iter([(0, range(len(batch)), batch, []) for batch in squares.split(32)])
        for _ in encoded(batches, fast, cpus):
            pass

    variants = {
        "plain loop: float32, batch 256": plain_loop,
        "+ channels_last, BatchNorm folded": one_after_another(exact, 256),
        "+ batch 32": one_after_another(exact, 32),
        f"+ {fast.precision}": one_after_another(fast, 32),
        "+ a batch per core (what extraction does)": one_per_core,
    }
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(3):
        for name, variant in variants.items():
            began = time.perf_counter()
            variant()
            best[name] = min(best[name], time.perf_counter() - began)
    base = best[next(iter(variants))]
    rows = [
        {"variant": name, "images/s": n_images / seconds, "ratio": base / seconds} for name, seconds in best.items()
    ]
    report("extraction", rows, [f"{n_images} images, {cpus} CPU cores"], record=given.record)


if __name__ == "__main__":
    main()
