"""The clusters of a finished run for other samples, and under the ids that an earlier run gave.

assigned/ in the run folder, or elsewhere:
  samples.parquet, .csv, clusters.parquet, .csv, clusterings/<method>.npz       as in a run folder
  id_map.json                                                                   where ids were matched
stable_ids.json in the run folder keeps matched ids for what is assigned later, and for runs that are matched to it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepclust.clustering import Clustering, display_name, method_order
from deepclust.features.dataset import check_same_encoder
from deepclust.features.feature_set import FeatureSet
from deepclust.report.sample_tables import write_clusters, write_samples
from deepclust.runs.config import reduced_as_trained
from deepclust.runs.folder import RunFolder
from deepclust.runs.matching import IdMap, matched, read_stable, with_ids, write_stable
from deepclust.runs.relearning import assigned_by_relearned
from deepclust.runs.reporting import FinishedRun
from deepclust.runs.source import DataSource
from deepclust.runtime.devices import fastest_device
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import write_json
from deepclust.training.trained import TrainedHeads

Settings = Mapping[str, Any]


@dataclass
class Assigned:
    """Clusters of some samples.

    Attributes:
        features: of the samples, as they came.
        clusterings: by method, with stable ids where the run has them.
        maps: by method, where ids were matched now.
        notes: sentences to print.
    """

    features: FeatureSet
    clusterings: dict[str, Clustering]
    maps: dict[str, IdMap] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def assign(folder: RunFolder, other: Settings | None, match: Path | None) -> Assigned:
    """The clusters of other samples by the heads of a run, or of its own samples as they are.

    Args:
        folder: of the run.
        other: settings of the other data; None takes the run's own.
        match: the folder of an earlier run whose ids are kept; None keeps those of `stable_ids.json`, if there is one.

    Raises:
        InputError: if there is no finished run, it has no heads for other samples, they are of another encoder, or the
            runs cannot be matched.
    """
    run = FinishedRun.read(str(folder.path), most=None)
    own = {name: one for name, one in run.clusterings.items() if name in folder.saved_methods()}
    found = Assigned(run.dataset.train, own)
    if match is not None:
        earlier = FinishedRun.read(str(match), most=None)
        saved = earlier.folder.saved_methods()
        earlier_found = {name: one for name, one in earlier.clusterings.items() if name in saved}
        found.maps, by = matched(earlier.dataset.train, earlier_found, run.dataset.train, own, read_stable(match))
        write_stable(folder.path, found.maps, str(match))
        found.notes.append(f"ids are those of {match}, samples were known by their {by}")
        found.notes += [f"{display_name(name)}: {one.summary}" for name, one in found.maps.items()]
    if other is not None:
        found.features, found.clusterings = assigned_by_heads(run, other)
        left = [display_name(name) for name in own if name not in found.clusterings]
        if left:
            found.notes.append(f"{', '.join(left)}: left out, as only heads know what to do with other samples")
    stable = read_stable(folder.path)
    for name, one in stable.items():
        if name in found.clusterings:
            ids = {int(cluster): id_ for cluster, id_ in one["ids"].items()}
            found.clusterings[name] = with_ids(found.clusterings[name], ids)
    return found


def assigned_by_heads(run: FinishedRun, other: Settings) -> tuple[FeatureSet, dict[str, Clustering]]:
    """Other features, and the clusters that the trained heads of a run give them, by method; those that were trained
    again on a person's clusters are called by their folder."""
    methods = sorted(run.folder.trained_methods(), key=method_order)
    if not methods:
        raise InputError(f"{run.folder.path} holds no heads: train with loss=NAME to have clusters for other samples")
    if other["data"]["name"] != "features":  # which come without an encoder
        other = {**other, "encoder": other.get("encoder") or run.config.get("encoder")}
    dataset = DataSource.of(other).load()
    check_same_encoder(run.dataset.train, dataset.train, ("the data of the run", "the other data"))
    reduced = reduced_as_trained(dataset, run.config, record=run.folder.reduction, own=False).train
    heads = {method: TrainedHeads.load(run.folder.checkpoint(method)) for method in methods}
    for trained in heads.values():
        trained.check_features(reduced)
    found = {name: trained.to(fastest_device()).assign(reduced) for name, trained in heads.items()}
    return dataset.train, {**found, **assigned_by_relearned(run.folder, reduced)}


def names_in(folder: RunFolder, methods: Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """What the clusters of a run are called, by method and by the run's own ids; those without a name are left out."""
    import pyarrow.parquet as parquet

    names: dict[str, dict[int, str]] = {method: {} for method in methods}
    place = folder.path / "clusters.parquet"
    if place.is_file():
        for row in parquet.read_table(place, columns=["method", "cluster", "name"]).to_pylist():
            if row["method"] in names and row["cluster"] >= 0 and row["name"] != f"cluster {row['cluster']}":
                names[row["method"]][row["cluster"]] = row["name"]
    return names


def hand_out(found: Assigned, folder: RunFolder, out: Path) -> list[Path]:
    """Write the tables, the clusterings and the id map; returns what was written."""
    names = names_in(folder, found.clusterings)
    for method, clustering in found.clusterings.items():
        given = clustering.settings.get("names", {})
        names[method].update({int(cluster): str(name) for cluster, name in given.items()})
    for method, one in read_stable(folder.path).items():
        if method in names:
            names[method] = {one["ids"].get(str(old), old): name for old, name in names[method].items()}
    written = write_samples(out / "samples", found.features, found.clusterings, names)
    written += write_clusters(out / "clusters", found.features, found.clusterings, names)
    for method, clustering in found.clusterings.items():
        clustering.save(out / "clusterings" / f"{method}.npz")
    if found.maps:
        write_json(out / "id_map.json", {method: one.as_dict() for method, one in found.maps.items()})
        written.append(out / "id_map.json")
    return written
