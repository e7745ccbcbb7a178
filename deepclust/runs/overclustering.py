"""The same run with other numbers of clusters: what knowing C is worth (Adaloglou et al. 2024, figure 6).

    run folder/overclustering/20/   a run folder like any other, with C = 20

The trained heads' own recipes and the run's own baselines are run again at each C; finished ones are not run twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from deepclust.clustering import method_order
from deepclust.runs.experiment import Experiment
from deepclust.runs.folder import RunFolder
from deepclust.runs.steps import Results
from deepclust.runtime.errors import InputError
from deepclust.training.trained import TrainedHeads

# Multiples of the number of classes where none are asked for; the paper goes from 1000 to 10 000 on ImageNet-1K.
FACTORS = (0.5, 1, 2, 4)


def default_counts(n_clusters: int, n_samples: int) -> list[int]:
    """`FACTORS` times C, as far as there are 10 samples or more per cluster."""
    counts = {int(factor * n_clusters) for factor in FACTORS}
    return sorted(count for count in counts if 2 <= count <= n_samples // 10)


def overcluster(
    run: RunFolder, as_run: Experiment, counts: Sequence[int], config: Mapping[str, Any]
) -> dict[int, Results]:
    """Train and score everything at each number of clusters.

    Args:
        run: a finished run, whose checkpoints hold the recipes.
        as_run: the run's experiment; its losses and C are replaced.
        counts: numbers of clusters.
        config: what the run was asked for, to be noted down with each C.

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
    planned = {
        count: replace(
            as_run,
            config={**config, "n_clusters": count},
            n_clusters=count,
            recipes=[replace(recipe, n_clusters=count) for recipe in recipes],
            choosing=None,
        )
        for count in sorted(set(counts))
    }
    for experiment in planned.values():
        experiment.check()
    results = {}
    for count, experiment in planned.items():
        folder = RunFolder(run.path / "overclustering" / str(count))
        made = experiment.run(folder, resume=folder.path.is_dir(), progress=True)
        assert made is not None  # one process: `deepclust evaluate` is not distributed
        results[count] = made
    return results
