"""How far the confidences of consensus heads are off, over the label sets of the leaderboard.

    python benchmarks/confidence.py FOLDER [--sets wine,letter] [--seeds 0,1]

FOLDER holds the sets that `leaderboard_sets.py` prepared; those that are not there are left out. Three more are made of
them, in which every second class keeps a tenth of its samples. Printed are the expected calibration errors, in percent,
of the heads as trained, as their neighbors let expect and as the views do: the mean over seeds.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from leaderboard_sets import SETS, load_set

from deepclust.cuts.settling import set_confidence
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics.calibration import calibration
from deepclust.neighbors.spectral import Partitions
from deepclust.runtime.errors import one_line_errors
from deepclust.training.fit import fit_heads
from deepclust.training.initialization import views_at_start
from deepclust.training.recipe import Recipe
from deepclust.training.trainer_settings import TrainerSettings

CUT = ("digits", "mnist", "fashion_lite0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", default=",".join(SETS), help="names, with commas between them")
    parser.add_argument("--seeds", default="0,1", help="likewise; default: 0,1")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| | ACC | as trained | neighbors | views |\n|---|---:|---:|---:|---:|")
    found = []
    for name in options.sets.split(","):
        if not (options.folder / f"{name}.npz").is_file():
            continue
        rows_ND, labels_N = load_set(name, options.folder)
        found.append(told(name, rows_ND, labels_N, options.seeds))
        if name in CUT:
            kept_N = (labels_N % 2 == 1) | (np.random.default_rng(0).random(len(labels_N)) < 0.1)
            told(f"{name}, every second class at a tenth", rows_ND[kept_N], labels_N[kept_N], options.seeds)
    if found:
        row = " | ".join(f"{value:.1f}" for value in np.mean(found, axis=0))
        print(f"| mean of {len(found)} sets, without those at a tenth | {row} |")


def told(name: str, rows_ND: np.ndarray, labels_N: np.ndarray, seeds: str) -> list[float]:
    """Print and return the mean scores over seeds, in percent."""
    scores = np.mean([scores_of(rows_ND, labels_N, int(seed)) for seed in seeds.split(",")], axis=0)
    print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in scores) + " |", flush=True)
    return scores.tolist()


def scores_of(rows_ND: np.ndarray, labels_N: np.ndarray, seed: int) -> list[float]:
    """ACC, and the three calibration errors, in percent."""
    features, partitions = FeatureSet.from_arrays(rows_ND), Partitions()
    recipe = Recipe.of("consensus_heads", n_clusters=int(labels_N.max()) + 1, seed=seed)
    result = fit_heads(features, recipe, TrainerSettings("cpu"), partitions=partitions)
    trained, neighbors = result.trained, result.neighbors
    measured = [calibration(trained.assign(features), labels_N)]
    for views_VN in (None, views_at_start(recipe, features, neighbors, partitions)):
        set_confidence(trained, features, neighbors, views_VN)
        measured.append(calibration(trained.assign(features), labels_N))
    return [100 * measured[0].accuracy, *(100 * one.ece for one in measured)]


if __name__ == "__main__":
    with one_line_errors():
        main()
