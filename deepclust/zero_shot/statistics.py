"""Statistics of a whole matrix: average ranks, and how AMI correlates with the silhouette and the kNN probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import pearsonr, rankdata

from deepclust.metrics.knn_probe import rank_correlation

Row = Mapping[str, Any]


@dataclass(frozen=True)
class AverageRank:
    """The rank of one encoder or clusterer over its comparisons; 1 is best.

    Attributes:
        name: whose.
        mean: of its ranks.
        std: their standard deviation (n - 1), None for a single one.
        n: comparisons.
    """

    name: str
    mean: float
    std: float | None
    n: int


def average_ranks(rows: Sequence[Row], of: str) -> list[AverageRank]:
    """Rank by AMI within each combination of the other two axes, and average (Lowe et al. 2023, figures 1 and 2).

    Args:
        rows: the cells; those without an AMI take no part, and neither does a combination with a single one.
        of: `encoder`, ranked within data set and clusterer, or `clusterer`, within data set and encoder.

    Returns:
        One entry per name, in order of first appearance; ties share the mean of their ranks.
    """
    others = [axis for axis in ("dataset", "encoder", "clusterer") if axis != of]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["ami"] is not None:
            groups.setdefault(tuple(row[axis] for axis in others), []).append(row)
    ranks: dict[str, list[float]] = {}
    for members in groups.values():
        if len(members) > 1:
            for row, rank in zip(members, rankdata([-row["ami"] for row in members]), strict=True):
                ranks.setdefault(row[of], []).append(float(rank))
    names = [name for name in dict.fromkeys(row[of] for row in rows) if name in ranks]
    return [
        AverageRank(
            name,
            float(np.mean(ranks[name])),
            float(np.std(ranks[name], ddof=1)) if len(ranks[name]) > 1 else None,
            len(ranks[name]),
        )
        for name in names
    ]


def ami_silhouette_correlation(rows: Sequence[Row]) -> tuple[float | None, int]:
    """Pearson's r between AMI and silhouette over the cells that have both, and how many these are.

    r is None for fewer than 3 cells, or where one side is constant.
    """
    pairs = np.array(
        [(row["ami"], row["silhouette"]) for row in rows if None not in (row["ami"], row["silhouette"])], float
    )
    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return None, len(pairs)
    return float(pearsonr(pairs[:, 0], pairs[:, 1]).statistic), len(pairs)


def probe_correlation(rows: Sequence[Row], probes: Sequence[Row]) -> dict[str, float | None]:
    """Spearman's ρ between AMI and the kNN probe's accuracy over (data set, encoder), by k (Lowe et al. 2024).

    Args:
        rows: the cells of one clusterer.
        probes: what `apply_choices` leaves for each data set and encoder.

    Returns:
        {k: ρ}; None for fewer than 3 pairs.
    """
    by_place = {(probe["dataset"], probe["encoder"]): probe["accuracy"] for probe in probes}
    ks = dict.fromkeys(k for probe in probes for k in probe["accuracy"])
    met = [row for row in rows if (row["dataset"], row["encoder"]) in by_place]
    amis = [row["ami"] for row in met]
    return {k: rank_correlation(amis, [by_place[row["dataset"], row["encoder"]].get(k) for row in met]) for k in ks}
