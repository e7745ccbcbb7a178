"""Peak memory of one training step at ImageNet-21K's number of clusters.

    python benchmarks/memory.py [--quick] [--record]

Each case runs in a process of its own, whose peak resident set is read from the operating system. The features are
synthetic and few, as a step only ever holds a micro-batch of them. `naive` is what autograd would hold for the whole
batch at once in float32: logits, log-probabilities, probabilities and their products of student and teacher, ten
tensors of (heads, 2 × batch, clusters).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytorch_lightning as pl
from tables import arguments, report

# loss, C, H, B, micro-batch, D
CASES = [("scan", 10_450, 32, 16_384, 256, 1024), ("temi", 10_450, 32, 4096, 256, 1024)]
QUICK = [("scan", 10_450, 32, 1024, 256, 1024), ("temi", 10_450, 32, 1024, 256, 1024)]
NAIVE_TENSORS = 10


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--case", help="internal: run one case in this process")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(one_step(*json.loads(options.case))))
        return
    rows = []
    for case in QUICK if options.quick else CASES:
        command = [sys.executable, __file__, "--case", json.dumps(case)]
        measured = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
        loss, n_clusters, n_heads, batch, micro, dim = case
        rows.append(
            {
                "loss": loss,
                "C": n_clusters,
                "H": n_heads,
                "B": batch,
                "micro-batch": micro,
                "D": dim,
                "parameters (M)": measured["parameters"] / 1e6,
                "peak GB": measured["peak_gb"],
                "naive GB": NAIVE_TENSORS * n_heads * 2 * batch * n_clusters * 4 / 1e9,
                "s in all": measured["seconds"],
            }
        )
    report(
        "memory", rows, ["peak: resident set of the whole process, optimizer states included"], record=options.record
    )


class Done(Exception):
    """The step that is measured has been taken."""


class OneStep(pl.Callback):
    def on_train_batch_end(self, *_: object) -> None:
        raise Done


def one_step(loss: str, n_clusters: int, n_heads: int, batch: int, micro: int, dim: int) -> dict[str, float]:
    """Train exactly one step through `fit_heads`; returns the process's peak."""
    import numpy as np

    from deepclust.features.feature_set import FeatureSet
    from deepclust.neighbors import Neighbors
    from deepclust.training.fit import fit_heads
    from deepclust.training.recipe import Recipe

    rng = np.random.default_rng(0)
    rows = max(batch, n_clusters)
    features = FeatureSet.from_arrays(rng.standard_normal((rows, dim)).astype(np.float16))
    ids = rng.integers(0, rows, (rows, 25)).astype(np.int32)
    recipe = Recipe.of(
        loss, n_clusters=n_clusters, n_heads=n_heads, batch_size=batch, micro_batch_size=micro, n_neighbors=25,
        init="random", preprocess="none", max_epochs=1, teacher_momentum=0.996,
    )  # fmt: skip
    began = time.perf_counter()
    neighbors = Neighbors(ids, np.ones(ids.shape, np.float32), {})
    with suppress(Done):
        fit_heads(features, recipe, neighbors=neighbors, callbacks=[OneStep()])
    seconds = time.perf_counter() - began
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parameters = sum(p.numel() for p in recipe.new_heads(dim).parameters())
    return {"peak_gb": peak_kb * 1024 / 1e9, "seconds": seconds, "parameters": parameters}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
