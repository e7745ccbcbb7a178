"""The same run with other numbers of clusters: what knowing C is worth (Adaloglou et al. 2024, figure 6).

    run folder/overclustering/20/   a run folder like any other, with C = 20

The trained heads' own recipes and the run's own baselines are run again at each C; finished ones are not run twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from deepclust.clusterers import Linkages
from deepclust.runtime.errors import InputError
from deepclust.runs.experiment import Results, RunFolder, check_inputs, run_experiment
from deepclust.features.dataset import Dataset
from deepclust.clustering import method_order
from deepclust.training.trained import TrainedHeads

# Multiples of the number of classes where none are asked for; the paper goes from 1000 to 10 000 on ImageNet-1K.
FACTORS = (0.5, 1, 2, 4)


def default_counts(n_clusters: int, n_samples: int) -> list[int]:
    """`FACTORS` times C, as far as there are 10 samples or more per cluster."""
    counts = {int(factor * n_clusters) for factor in FACTORS}
    return sorted(count for count in counts if 2 <= count <= n_samples // 10)


def overcluster(
    run: RunFolder,
    dataset: Dataset,
    counts: Sequence[int],
    *,
    baselines: Mapping[str, Mapping[str, Any]],
    seed: int,
    prepare: Callable[[RunFolder, int], None],
    **fit_options: Any,
) -> dict[int, Results]:
    """Train and score everything at each number of clusters.

    Args:
        run: a finished run, whose checkpoints hold the recipes.
        dataset: its data.
        counts: numbers of clusters.
        baselines: options by name, as in `run_experiment`.
        seed: of the baselines.
        prepare: called with each run folder and its number of clusters before anything is run there.
        **fit_options: of `fit_heads`.

    Returns:
        The results by number of clusters, ascending.

    Raises:
        InputError: if a number is below 2 or above that of the samples.
    """
    if not counts:
        raise InputError("overclustering needs numbers of clusters: counts=[10,20,40]")
    recipes = [
        TrainedHeads.load(run.checkpoint(method)).recipe for method in sorted(run.trained_methods(), key=method_order)
    ]
    planned = {count: [replace(recipe, n_clusters=count) for recipe in recipes] for count in sorted(set(counts))}
    for count, again in planned.items():
        check_inputs(dataset, again, baselines=baselines, n_clusters=count)
    found = {}
    linkages = Linkages()
    for count, again in planned.items():
        folder = RunFolder(run.path / "overclustering" / str(count))
        resume = folder.path.is_dir()
        folder.path.mkdir(parents=True, exist_ok=True)
        prepare(folder, count)
        results = run_experiment(
            dataset, again, folder, baselines=baselines, n_clusters=count, seed=seed, resume=resume, linkages=linkages,
            **fit_options,
        )  # fmt: skip
        assert results is not None  # one process: `evaluate.py` is not distributed
        found[count] = results
    return found
