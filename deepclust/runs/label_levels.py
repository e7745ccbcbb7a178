"""How much of the labels the clusters explain at each level of a class hierarchy.

At depth d each class is replaced by its ancestor at depth d at most, as in the coarse benchmarks. The one-sided AMI,
which does not punish clusters for being finer than the labels, is then comparable from level to level: ACC and AMI are
not, as they expect as many clusters as there are labels.

Shape suffixes: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepclust.clustering import method_order
from deepclust.metrics import one_sided_ami
from deepclust.report.sweeps import Sweep, Value
from deepclust.runs.evaluation import LEVEL, Evaluation, labels_of
from deepclust.runtime.errors import InputError
from deepclust.subsets.hierarchy import Hierarchy


def add_levels(evaluation: Evaluation, hierarchy: Hierarchy, class_names: Sequence[str]) -> Sweep:
    """The one-sided AMI at every depth, down to the classes themselves: columns `one_sided_ami_d1`, `…_d2` … of rows.

    Args:
        evaluation: is added to; `levels.json` holds how many classes each depth has.
        hierarchy: of the classes.
        class_names: of the labels.

    Returns:
        The judged split's values over the depth. A level whose samples are all of one class has none: there is nothing
        to explain.

    Raises:
        InputError: if a class is no node of the hierarchy, a split has no labels, or all samples are of one class.
    """
    nodes_K = hierarchy.nodes_of(class_names)
    depths = range(1, int(hierarchy.depths_M[nodes_K].max()) + 1)
    coarse = {depth: hierarchy.coarse(depth)[nodes_K] for depth in depths}
    for row in evaluation.rows:
        labels_N = labels_of(evaluation.dataset.splits()[row["split"]], "metrics=[levels]")
        clusters_N = evaluation.clusterings[row["method"], row["split"]].labels
        for depth, class_K in coarse.items():
            coarse_N = class_K[labels_N]
            several = (coarse_N != coarse_N[0]).any()
            row[f"{LEVEL}{depth}"] = one_sided_ami(coarse_N, clusters_N) if several else None
    evaluation.write_json(
        "levels", {"classes": {str(depth): len(np.unique(class_K)) for depth, class_K in coarse.items()}}
    )
    judged = [row for row in evaluation.rows if row["split"] == evaluation.judged[0]]
    cells: dict[tuple[Value, str], tuple[float, float | None, int]] = {
        (depth, row["method"]): (row[f"{LEVEL}{depth}"], None, 1)
        for depth in depths
        for row in judged
        if row[f"{LEVEL}{depth}"] is not None
    }
    values: list[Value] = [depth for depth in depths if any(place[0] == depth for place in cells)]
    if not values:
        raise InputError(
            "metrics=[levels] compares classes, but all samples are of one: give data with several classes"
        )
    methods = sorted({row["method"] for row in judged}, key=method_order)
    return Sweep("depth", "one_sided_ami", evaluation.judged[0], values, methods, cells)
