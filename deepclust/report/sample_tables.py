"""Every sample and every cluster of a run as tables that other programs read: Parquet, and the same as CSV.

samples.parquet, .csv     a row per sample: what is known of it, and for every method its cluster, name and confidence
clusters.parquet, .csv    a row per method and cluster: name, size, the most typical samples, the nearest cluster

In Parquet the most probable clusters are lists; in CSV numbers with a blank between them. Both are UTF-8: other bytes
of file names are written as `\\udcff`.

Shape suffixes: N samples, T most probable clusters, C clusters with members.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepclust.clustering import NOISE, Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import Neighbors
from deepclust.report.contact_sheet import confidences
from deepclust.report.health import duplicate_numbers, outlier_scores
from deepclust.report.member_scores import member_scores
from deepclust.runtime.files import written_whole

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 65536
TYPICAL = 5
# Products of typical samples: N × D × C. Above, the most confident samples stand for the typical ones.
MOST_PRODUCTS = 500_000_000_000
NOISE_NAME = "in no cluster"


def name_of(names: Mapping[int, str], cluster: int) -> str:
    """What a cluster is called in tables and folders."""
    return names.get(cluster, NOISE_NAME if cluster == NOISE else f"cluster {cluster}")


def write_samples(
    stem: Path,
    features: FeatureSet,
    clusterings: Mapping[str, Clustering],
    names: Mapping[str, Mapping[int, str]],
    neighbors: Neighbors | None = None,
) -> list[Path]:
    """Write a row per sample, 65 536 rows at a time.

    Args:
        stem: of the two files, without their suffixes.
        features: N samples, with what is known of them.
        clusterings: of these samples by method.
        names: of clusters by id, by method.
        neighbors: of the samples, for `outlier_score` and `duplicate_group`; None leaves these two out.

    Returns:
        The Parquet and the CSV file.
    """
    known = _known(features, clusterings, neighbors)
    groups = (
        _rows_of(slice(start, min(start + ROWS_PER_GROUP, len(features))), known, clusterings, names)
        for start in range(0, len(features), ROWS_PER_GROUP)
    )
    return _write(stem, groups)


COLUMNS = ("cluster", "name", "confidence", "top5", "top5_probs", "disagreement")


def samples_table(
    features: FeatureSet, clusterings: Mapping[str, Clustering], names: Mapping[str, Mapping[int, str]]
) -> pa.Table:
    """The rows that `write_samples` writes without neighbors, in memory; arguments as there."""
    return _rows_of(slice(0, len(features)), _known(features, clusterings, None), clusterings, names)


def _free(name: str, taken: Sequence[str]) -> str:
    return f"own_{name}" if name in taken else name


def _known(features: FeatureSet, clusterings: Mapping[str, Clustering], neighbors: Neighbors | None) -> dict[str, Any]:
    """Columns of what is known of the samples, whatever clustered them; then those that a table held beside."""
    known = dict(_told(features, neighbors))
    taken = [*known, *(f"{method}_{column}" for method in clusterings for column in COLUMNS)]
    if features.columns is not None:
        rest = [name for name in features.columns.names if name not in features.columns.roles.values()]
        beside = features.columns.read(rest)
        known |= {_free(name, taken): beside.column(name) for name in rest}
    return known


def _told(features: FeatureSet, neighbors: Neighbors | None) -> Iterator[tuple[str, Any]]:
    """Columns with names of ours."""
    import pyarrow as pa

    yield "row", pa.array(np.arange(len(features)))
    ids, files = features.ids, features.files
    if ids is not None:
        yield "id", _text(ids)
    if features.paths is not None and (files is not None or ids is None):
        yield "path", _text(features.paths)
    if features.texts is not None:
        yield "text", _text(features.texts)
    if features.labels is not None:
        named = features.class_names
        yield "label", pa.array(features.labels) if named is None else _named(features.labels, dict(enumerate(named)))
    if neighbors is not None:
        yield "outlier_score", pa.array(outlier_scores(neighbors).astype(np.float32))
        numbers_N = duplicate_numbers(neighbors)
        yield "duplicate_group", pa.array(numbers_N, mask=numbers_N < 0)


def _text(values: Sequence[str]) -> pa.Array:
    """Texts; bytes of file names that are no UTF-8 are written as `\\udcff`."""
    import pyarrow as pa

    try:
        return pa.array(list(values), pa.string())
    except UnicodeEncodeError:
        return pa.array([one.encode("utf-8", "backslashreplace") for one in values]).cast(pa.string())


def _named(ids_N: np.ndarray, names: Mapping[int, str]) -> pa.Array:
    """The name of each id, each kept once."""
    import pyarrow as pa

    found_C, place_N = np.unique(ids_N, return_inverse=True)
    told = [name_of(names, one) for one in found_C.tolist()]
    return pa.DictionaryArray.from_arrays(pa.array(place_N.astype(np.int32)), pa.array(told, pa.string()))


def _rows_of(
    rows: slice,
    known: Mapping[str, Any],
    clusterings: Mapping[str, Clustering],
    names: Mapping[str, Mapping[int, str]],
) -> pa.Table:
    """Some consecutive rows of the table of samples."""
    import pyarrow as pa

    columns = {name: column.slice(rows.start, rows.stop - rows.start) for name, column in known.items()}
    for method, clustering in clusterings.items():
        labels_B = clustering.labels[rows].astype(np.int32)
        columns[f"{method}_cluster"] = pa.array(labels_B)
        columns[f"{method}_name"] = _named(labels_B, names[method]).cast(pa.string())
        confidence = confidences(clustering)
        if confidence is not None:
            columns[f"{method}_confidence"] = pa.array(confidence[rows].astype(np.float32))
        if clustering.top_ids is not None and clustering.top_probs is not None:
            columns[f"{method}_top5"] = _lists(clustering.top_ids[rows].astype(np.int32))
            columns[f"{method}_top5_probs"] = _lists(clustering.top_probs[rows].astype(np.float32))
        if clustering.disagreement is not None:
            columns[f"{method}_disagreement"] = pa.array(clustering.disagreement[rows].astype(np.float32))
    is_category = pa.types.is_dictionary  # CSV takes none
    plain = {name: one.cast(pa.string()) if is_category(one.type) else one for name, one in columns.items()}
    return pa.table(plain)


def _lists(values_BT: np.ndarray) -> pa.Array:
    import pyarrow as pa

    offsets = np.arange(0, values_BT.size + 1, max(1, values_BT.shape[1]), dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values_BT).ravel()))


def write_clusters(
    stem: Path,
    features: FeatureSet,
    clusterings: Mapping[str, Clustering],
    names: Mapping[str, Mapping[int, str]],
) -> list[Path]:
    """Write a row per method and cluster with members, noise among them; arguments as of `write_samples`."""
    import pyarrow as pa

    shown = features.ids or features.paths
    tables = []
    for method, clustering in clusterings.items():
        labels_N, confidence = clustering.labels, confidences(clustering)
        clusters_C, sizes_C = np.unique(labels_N, return_counts=True)
        nearest_C, best_N = clusters_C, confidence
        if len(features) * features.dim * len(clusters_C) <= MOST_PRODUCTS:
            scores = member_scores(features, labels_N)
            best_N = scores.typical_N
            nearest = dict(zip(scores.ids_C.tolist(), scores.nearest_C.tolist()))
            nearest_C = np.array([nearest.get(one, one) for one in clusters_C.tolist()], np.int32)
        order = np.lexsort((np.zeros(len(labels_N)) if best_N is None else -best_N, labels_N))
        starts_C = np.cumsum([0, *sizes_C[:-1]])
        typical = [order[start : start + min(TYPICAL, size)].tolist() for start, size in zip(starts_C, sizes_C)]
        if shown is not None:
            typical = [[shown[row] for row in rows] for rows in typical]
        told = [[str(one).encode("utf-8", "backslashreplace").decode() for one in rows] for rows in typical]
        columns = {
            "method": pa.array([method] * len(clusters_C)),
            "cluster": pa.array(clusters_C.astype(np.int32)),
            "name": pa.array([name_of(names[method], one) for one in clusters_C.tolist()]),
            "size": pa.array(sizes_C),
            "share": pa.array((sizes_C / len(labels_N)).astype(np.float32)),
            "mean_confidence": _means(confidence, labels_N, clusters_C),
            "nearest": pa.array(nearest_C, mask=nearest_C == clusters_C),
            "typical": pa.array(told),
        }
        tables.append(pa.table(columns))
    return _write(stem, iter([pa.concat_tables(tables)]))


def _means(confidence: np.ndarray | None, labels_N: np.ndarray, clusters_C: np.ndarray) -> pa.Array:
    import pyarrow as pa

    if confidence is None:
        return pa.nulls(len(clusters_C), pa.float32())
    place_N = np.searchsorted(clusters_C, labels_N)
    return pa.array((np.bincount(place_N, confidence) / np.bincount(place_N)).astype(np.float32))


def _write(stem: Path, groups: Iterator[pa.Table]) -> list[Path]:
    """Tables of one schema into a Parquet and a CSV file, a group of rows at a time."""
    import pyarrow.parquet as parquet
    from pyarrow import csv

    places = [stem.with_name(f"{stem.name}.{kind}") for kind in ("parquet", "csv")]
    with ExitStack() as stack:
        temporaries = [stack.enter_context(written_whole(place)) for place in places]
        writers: list[Any] = []
        for group in groups:
            flat = _flat(group)
            if not writers:
                writers.append(stack.enter_context(parquet.ParquetWriter(temporaries[0], group.schema)))
                writers.append(stack.enter_context(csv.CSVWriter(temporaries[1], flat.schema)))
            writers[0].write_table(group)
            writers[1].write_table(flat)
    return places


def _flat(table: pa.Table) -> pa.Table:
    """The same with lists as texts, as CSV has no lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, one in enumerate(table.schema):
        if pa.types.is_list(one.type):
            column = table.column(place).combine_chunks()
            values = column.flatten()
            if pa.types.is_floating(values.type):
                values = pc.round(values.cast(pa.float64()), 6)
            between = "; " if pa.types.is_string(values.type) else " "
            joined = pc.binary_join(pa.ListArray.from_arrays(column.offsets, values.cast(pa.string())), between)
            table = table.set_column(place, one.name, joined)
    return table
