"""What is written of 60 000 rows once heads are trained: tables, the page, what `deepclust edit` and `export` make.

    python benchmarks/outputs.py [--quick] [--record]

Rows are drawn from 100 Gaussians in 64 and in 1280 dimensions. Neighbors, for outliers and near duplicates, are mined
before anything is timed, as training mines them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tables import arguments, report

from deepclust import TSP
from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import Neighbors, mine_neighbors
from deepclust.report.page import write_page
from deepclust.report.page_parts import Found, assembled_page
from deepclust.report.sample_tables import write_clusters, write_samples
from deepclust.runs.editing import export, replayed
from deepclust.runs.relearning import relearned_and_tested
from deepclust.training.onnx_export import export_onnx
from deepclust.training.trained import TrainedHeads

CLUSTERS, SIDE = 100, 28
DIMS, ROWS, QUICK_ROWS = (64, 1280), 60_000, 6000
RETRAIN = "edit retrain=true"  # which is training
MERGE = {"step": "merge", "ids": [0, 1], "into": 0}


def drawn(n_rows: int, dim: int) -> FeatureSet:
    rng = np.random.default_rng(0)
    centers = 2 * rng.standard_normal((CLUSTERS, dim), dtype=np.float32) / np.sqrt(dim / 64)
    rows = centers[rng.integers(0, CLUSTERS, n_rows)] + rng.standard_normal((n_rows, dim), dtype=np.float32)
    return FeatureSet.from_arrays(rows.astype(np.float16), paths=[f"{row:06}.png" for row in range(n_rows)])


def outputs(
    features: FeatureSet, trained: TrainedHeads, found: Clustering, neighbors: Neighbors, folder: Path
) -> dict[str, Callable[[], Any]]:
    """What each output is called, and how it is made."""
    method, merged = found.method, replayed(found, [MERGE])
    images = np.random.default_rng(0).integers(0, 256, (len(features), SIDE, SIDE), dtype=np.uint8)

    def page() -> None:
        content = assembled_page(
            features, [Found(found, "TSP", {})], title="", facts=[], why="", run=None, images=images, texts=None,
            neighbors=neighbors,
        )  # fmt: skip
        write_page(folder / "report.html", content, map_kind="pca")

    return {
        "samples.parquet, .csv": lambda: write_samples(
            folder / "samples", features, {method: found}, {method: {}}, neighbors
        ),
        "clusters.parquet, .csv": lambda: write_clusters(folder / "clusters", features, {method: found}, {method: {}}),
        "report.html, 8000 thumbnails": page,
        "edit: tables after a merge": lambda: export(merged, features, folder / "edited"),
        RETRAIN: lambda: relearned_and_tested(trained, features, merged.clustering.labels),
        "export to=onnx, checked": lambda: export_onnx(trained, folder / "tsp.onnx"),
    }


def main() -> None:
    options = arguments(__doc__).parse_args()
    n_rows = QUICK_ROWS if options.quick else ROWS
    rows: list[dict[str, Any]] = []
    for dim in DIMS[:1] if options.quick else DIMS:
        features = drawn(n_rows, dim)
        model = TSP(CLUSTERS, n_heads=2, max_epochs=1, init="kmeans", random_state=0).fit(features)
        trained = model.trained_
        found, neighbors = trained.assign(features), mine_neighbors(features, 10)
        with tempfile.TemporaryDirectory() as folder:
            for name, make in outputs(features, trained, found, neighbors, Path(folder)).items():
                started, cpu = time.perf_counter(), time.process_time()
                make()
                took = {"s": time.perf_counter() - started, "CPU s": time.process_time() - cpu}
                rows.append({"output": name, "D": dim, **took})
        own = [row for row in rows if row["D"] == dim and row["output"] != RETRAIN]
        whole = {kind: sum(row[kind] for row in own) for kind in ("s", "CPU s")}
        rows.append({"output": f"all but {RETRAIN}", "D": dim, **whole})
    notes = [f"{n_rows:,} × D float16, synthetic, {CLUSTERS} clusters, TSP, once"]
    report("outputs", rows, notes, record=options.record)


if __name__ == "__main__":
    main()
