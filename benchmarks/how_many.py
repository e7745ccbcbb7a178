"""How many clusters are found, what the cuts of one tree are worth beside ward's and beside training, and how far
confidences are off.

python benchmarks/how_many.py digits                                   1797 images in 10 classes
python benchmarks/how_many.py NAME --features X.npy --labels y.npy     N × D features of a set of your own

TEMI is trained with 50 clusters and cut where its heads agree most, then with 10 (`--classes`) for the confidences,
also of a set in which every second class keeps a tenth of its samples. Heads are kept in `--folder` and not trained
twice.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from deepclust.clusterers.dendrogram import build_dendrogram
from deepclust.cuts.exploration import bounds_of, explore_heads
from deepclust.cuts.settling import set_confidence
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import ami
from deepclust.metrics.calibration import calibration
from deepclust.neighbors import Neighbors, cached_neighbors
from deepclust.training.fit import fit_heads
from deepclust.training.initialization import views_at_start
from deepclust.training.recipe import Recipe
from deepclust.training.trained import TrainedHeads
from deepclust.training.trainer_settings import TrainerSettings

MOST = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--features", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--counts", type=int, nargs="*", default=[5, 10, 20, 40])
    parser.add_argument("--trained", type=int, nargs="*", help="those to train at, too; default: all of --counts")
    parser.add_argument("--loss", default="temi")
    parser.add_argument("--folder", type=Path, default=Path("runs/how_many"))
    options = parser.parse_args()
    if options.features is None:
        rows, labels = load_digits(return_X_y=True)
    else:
        rows, labels = np.load(options.features), np.load(options.labels)
    features = FeatureSet.from_arrays(rows.astype(np.float32), labels.astype(np.int64), name=options.name)
    options.folder.mkdir(parents=True, exist_ok=True)
    result = {"cuts": cuts(features, options), "confidence": [confidence(features, options, options.name)]}
    kept = (labels % 2 == 1) | (np.random.default_rng(0).random(len(labels)) < 0.1)
    result["confidence"].append(confidence(features.select(np.flatnonzero(kept)), options, f"{options.name}_odd"))
    (options.folder / f"{options.name}_{options.loss}.json").write_text(json.dumps(result, indent=2))


def heads(features: FeatureSet, count: int, options: argparse.Namespace, name: str) -> tuple[TrainedHeads, Neighbors]:
    """Heads of so many clusters, trained or read back, and the neighbors of the samples."""
    place = options.folder / f"{options.loss}_{name}_{count}.pt"
    recipe = Recipe.of(options.loss, n_clusters=count)
    neighbors = cached_neighbors(features, recipe.mined_neighbors(len(features)), cache_dir=options.folder)
    if not place.is_file():
        fit_heads(features, recipe, TrainerSettings("cpu"), neighbors=neighbors).trained.save(place)
    return TrainedHeads.load(place), neighbors


def cuts(features: FeatureSet, options: argparse.Namespace) -> dict:
    """The number that is found, and the AMI of cuts beside ward's tree and heads that were trained at that number."""
    trained, neighbors = heads(features, MOST, options, options.name)
    started = time.perf_counter()
    found = explore_heads(trained, features, neighbors, bounds_of("auto", len(features)))
    seconds = time.perf_counter() - started
    rows_ND = np.asarray(features.features)
    ward = build_dendrogram(rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True))
    told = [*options.counts] if options.trained is None else options.trained
    print(f"{options.name}: {found.note} ({seconds:.1f} s for tree and scores)")
    print("| C | cut | ward's tree | trained at C |\n|---|---|---|---|")
    table = []
    for count in sorted({found.chosen, *options.counts}):
        trained.groups_C = found.tree.groups(count)
        scores = [ami(features.labels, trained.assign(features).labels), ami(features.labels, ward.cut(count))]
        if count in told:
            own, _ = heads(features, count, options, options.name)
            scores.append(ami(features.labels, own.assign(features).labels))
        mark = " (found)" if count == found.chosen else ""
        print(f"| {count}{mark} | " + " | ".join(f"{100 * score:.1f}" for score in scores) + " |", flush=True)
        table.append([count, *scores])
    return {"found": found.chosen, "recommended": found.recommended, "seconds": seconds, "ami": table}


def confidence(features: FeatureSet, options: argparse.Namespace, name: str) -> dict:
    """Accuracy, mean confidence and ECE before and after the temperature is fitted."""
    trained, neighbors = heads(features, options.classes, options, name)
    before = calibration(trained.assign(features), features.labels)
    set_confidence(trained, features, neighbors, views_at_start(trained.recipe, features, neighbors))
    after = calibration(trained.assign(features), features.labels)
    print(
        f"{name}: accuracy {100 * before.accuracy:.1f}, mean confidence {100 * before.mean_confidence:.1f} -> "
        f"{100 * after.mean_confidence:.1f}, ECE {100 * before.ece:.1f} -> {100 * after.ece:.1f} "
        f"(temperature {trained.confidence_temperature:.2f})",
        flush=True,
    )
    return {"name": name, "accuracy": before.accuracy, "ece_raw": before.ece, "ece": after.ece}


if __name__ == "__main__":
    main()
