"""Clusters that keep their ids as data grow: those of a later run are matched to those of an earlier one.

A cluster keeps the id of the earlier cluster with which it shares most samples, one to one, where that is half or more
of the samples of either. All others get ids that were never used. Samples are the same by id or path, or where these
are missing by their place in equal features; else every sample of the later run counts for the earlier cluster whose
center is nearest to it.

Shape suffixes: N samples of the later run, S of them that count, C clusters, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.clustering import NOISE, Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics.agreement import contingency_table, hungarian_map
from deepclust.report.member_scores import nearest_clusters
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_json, write_json

STABLE = "stable_ids.json"
# Of the samples of one of the two: a cluster that shares fewer is another one.
SAME = 0.5


@dataclass(frozen=True)
class IdMap:
    """Which ids the clusters of a later run have.

    Attributes:
        ids: {cluster of the later run: its stable id}.
        clusters: for each of them `cluster`, `id`, `what` it is (`kept`, `merged`, `split`, `new`), and `of`: the
            earlier ids of which it has half, or that are half of it.
        gone: for each earlier id that nobody keeps `id`, `what` (`merged`, `dissolved`), and `into`: the id that has
            most of it.
        next_id: that no cluster has had.
    """

    ids: dict[int, int]
    clusters: list[dict[str, Any]]
    gone: list[dict[str, Any]]
    next_id: int

    def as_dict(self) -> dict[str, Any]:
        """What `id_map.json` holds of a method."""
        return {"clusters": self.clusters, "gone": self.gone}

    @property
    def summary(self) -> str:
        """Such as `4 kept, 1 split, 2 merged away`."""
        counts = [
            (what, sum(one["what"] == what for one in self.clusters)) for what in ("kept", "merged", "split", "new")
        ]
        counts += [(f"{what} away", sum(one["what"] == what for one in self.gone)) for what in ("merged", "dissolved")]
        return ", ".join(f"{count} {what}" for what, count in counts if count)


def match_clusters(earlier_S: np.ndarray, later_S: np.ndarray, *, later: Sequence[int], next_id: int) -> IdMap:
    """Match clusters by the samples that two clusterings share.

    Args:
        earlier_S, later_S: cluster ids of the same samples; noise takes no part.
        later: all clusters of the later clustering, also those without shared samples.
        next_id: the first id that is free.

    Example:
        >>> match_clusters(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3]), later=[3, 5], next_id=2).ids
        {3: 1, 5: 0}
    """
    both = (earlier_S != NOISE) & (later_S != NOISE)
    earlier_S, later_S = earlier_S[both], later_S[both]
    kept: dict[int, int] = {}
    sources: dict[int, list[tuple[int, int]]] = {}  # later cluster: (samples, earlier id), most first
    halves: dict[int, list[int]] = {}
    goes_to: dict[int, int] = {}
    of_earlier: dict[int, int] = {}
    of_later: dict[int, int] = {}
    if len(earlier_S):
        table_EC, earlier_E, later_C = contingency_table(earlier_S, later_S)
        of_earlier = dict(zip(earlier_E.tolist(), table_EC.sum(axis=1).tolist()))
        of_later = dict(zip(later_C.tolist(), table_EC.sum(axis=0).tolist()))
        pairs = table_EC.tocoo()
        shared = {
            (int(earlier_E[row]), int(later_C[column])): int(count)
            for row, column, count in zip(pairs.row, pairs.col, pairs.data)
        }
        for (old, new), count in sorted(shared.items(), key=lambda pair: (-pair[1], pair[0])):
            sources.setdefault(new, []).append((count, old))
            goes_to.setdefault(old, new)
            if count >= SAME * of_earlier[old] or count >= SAME * of_later[new]:
                halves.setdefault(new, []).append(old)
        for new, old in hungarian_map(earlier_S, later_S).items():
            if old in halves.get(new, []):
                kept[new] = old
    ids = dict(kept)
    for cluster in sorted(map(int, later)):
        if cluster not in ids:
            ids[cluster], next_id = next_id, next_id + 1
    holders = set(kept.values())
    clusters = []
    for cluster in sorted(ids):
        of = halves.get(cluster, [])
        others = [old for old in of if old != kept.get(cluster)]
        swallowed = [old for old in others if old not in holders and goes_to[old] == cluster]
        what = "kept" if cluster in kept else "split" if others else "new"
        clusters.append(
            {
                "cluster": cluster,
                "id": ids[cluster],
                "what": "merged" if swallowed and cluster in kept else what,
                "of": of,
            }
        )
    gone = []
    for old in sorted(of_earlier):
        if old not in holders:
            new = goes_to[old]
            most = {source: count for count, source in sources[new]}[old]
            what = "merged" if most >= SAME * of_earlier[old] else "dissolved"
            gone.append({"id": old, "what": what, "into": ids[new]})
    return IdMap({cluster: ids[cluster] for cluster in sorted(ids)}, clusters, gone, next_id)


def shared_samples(earlier: FeatureSet, later: FeatureSet) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows of the earlier and of the later features that are the same samples; None where nothing tells."""
    names_K, names_L = (one.ids if one.ids is not None else one.paths for one in (earlier, later))
    if names_K is not None and names_L is not None:
        first_K, rows_K = np.unique(np.array(list(names_K)), return_index=True)
        first_L, rows_L = np.unique(np.array(list(names_L)), return_index=True)
        _, in_earlier, in_later = np.intersect1d(first_K, first_L, assume_unique=True, return_indices=True)
        if len(in_earlier):
            return rows_K[in_earlier], rows_L[in_later]
    elif len(earlier) == len(later) and earlier.fingerprint(times=False) == later.fingerprint(times=False):
        return np.arange(len(earlier)), np.arange(len(later))
    return None


def matched(
    earlier: FeatureSet,
    earlier_found: Mapping[str, Clustering],
    later: FeatureSet,
    later_found: Mapping[str, Clustering],
    before: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, IdMap], str]:
    """Match every method that both runs have.

    Args:
        earlier, later: the features of the two runs.
        earlier_found, later_found: their clusterings by method.
        before: what `read_stable` gives of the earlier run.

    Returns:
        The map of each method, and what the samples were known by: `ids`, `places` or `centers`.

    Raises:
        InputError: if the runs have no method in common, or neither samples nor a feature space.
    """
    methods = [method for method in later_found if method in earlier_found]
    if not methods:
        raise InputError(f"the runs have no method in common: {', '.join(earlier_found)}, and {', '.join(later_found)}")
    rows = shared_samples(earlier, later)
    known_by = "centers" if rows is None else "places" if earlier.ids is None and earlier.paths is None else "ids"
    if rows is None and earlier.dim != later.dim:
        raise InputError(
            f"the runs share no sample by id or path, and have features of {earlier.dim} and {later.dim} dimensions: "
            "give both runs the ids of their samples, or features of the same encoder"
        )
    maps = {}
    for method in methods:
        old, new = earlier_found[method], later_found[method]
        stable = before.get(method, {})
        old_N = relabeled(old.labels, {int(one): id_ for one, id_ in stable.get("ids", {}).items()})
        if rows is None:
            old_S, new_S = nearest_clusters(earlier, old_N, later), new.labels
        else:
            old_S, new_S = old_N[rows[0]], new.labels[rows[1]]
        found = np.unique(new.labels[new.labels != NOISE])
        named = range(new.n_clusters) if new.n_clusters is not None and new.top_ids is not None else found
        # Also ids that clusters without members may get later.
        highest = max(old_N.max(initial=-1), (old.n_clusters or 0) - 1) + 1
        maps[method] = match_clusters(
            old_S, new_S, later=sorted({*found.tolist(), *named}), next_id=int(stable.get("next_id", highest))
        )
    return maps, known_by


def relabeled(labels: np.ndarray, ids: Mapping[int, int]) -> np.ndarray:
    """Cluster ids of any shape by their stable ids; those that the map does not know, and noise, stay."""
    found, place = np.unique(labels, return_inverse=True)
    told = np.array([ids.get(one, one) for one in found.tolist()], np.int32)
    return told[place].reshape(labels.shape)


def with_ids(clustering: Clustering, ids: Mapping[int, int]) -> Clustering:
    """A clustering by its stable ids."""
    tops = None if clustering.top_ids is None else relabeled(clustering.top_ids, ids)
    repeats = None  # whose ids are their own
    return replace(clustering, labels=relabeled(clustering.labels, ids), top_ids=tops, repeats=repeats)


def write_stable(folder: Path, maps: Mapping[str, IdMap], matched_to: str) -> None:
    """Keep the ids in the folder of the later run, for the runs that are matched to it."""
    content = {
        "matched_to": matched_to,
        "methods": {method: {"ids": one.ids, "next_id": one.next_id} for method, one in maps.items()},
    }
    write_json(folder / STABLE, content)


def read_stable(folder: Path) -> dict[str, dict[str, Any]]:
    """{method: ids and next_id} that `write_stable` left; empty for a run that was matched to none.

    Raises:
        InputError: if the file is damaged.
    """
    place = folder / STABLE
    if not place.is_file():
        return {}
    try:
        methods = read_json(place, "match the run again")["methods"]
        return {name: {"ids": dict(one["ids"]), "next_id": int(one["next_id"])} for name, one in methods.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{place} holds no ids ({str(error)[:80]}): match the run again") from None
