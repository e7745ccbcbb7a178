"""Every sample and every cluster, handed on as tables that come back as they were."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from deepclust.clustering import Clustering
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors.neighbors import Neighbors
from deepclust.report import sample_tables
from deepclust.report.health import duplicate_groups, duplicate_numbers
from deepclust.report.sample_tables import write_clusters, write_samples

NAMES = ["plain.png", 'with "quotes", and\nbreaks.png', "naïve 空.jpg", os.fsdecode(b"latin-\xe9.png"), "e", "f"]
ROWS = np.array([[1, 0], [1, 0], [0.9, 0.1], [0, 1], [0.1, 1], [-1, -1]], np.float32)
HEADS = Clustering(
    np.array([0, 0, 0, 7, 7, 7], np.int32),
    "temi",
    8,
    top_ids=np.array([[0, 7], [0, 7], [0, 7], [7, 0], [7, 0], [7, 0]], np.int32),
    top_probs=np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [1, 0], [0.6, 0.4], [0.5, 0.5]], np.float32),
    disagreement=np.array([0, 0, 0.25, 0, 0.5, 1], np.float32),
)
OTHER = Clustering(np.array([3, 3, -1, 3, -1, 3], np.int32), "hdbscan")
FOUND = {"temi": HEADS, "hdbscan": OTHER}
CALLED = {"temi": {0: "right, mostly"}, "hdbscan": {}}


def read_csv(place: Path) -> list[dict[str, str]]:
    with open(place, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_samples_come_back_from_parquet_and_csv_group_by_group(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_tables, "ROWS_PER_GROUP", 4)
    features = FeatureSet.from_arrays(ROWS, [0, 0, 0, 1, 1, 1], class_names=["a", "b"], paths=NAMES)
    neighbors = Neighbors(
        np.array([[1], [0], [0], [4], [3], [4]], np.int32),
        np.array([[1], [1], [0.995], [0.9], [0.9], [0]], np.float32),
        {},
    )
    places = write_samples(tmp_path / "samples", features, FOUND, CALLED, neighbors)
    table, lines = parquet.read_table(places[0]), read_csv(places[1])
    assert parquet.read_metadata(places[0]).num_row_groups == 2
    columns = table.to_pydict()
    assert list(lines[0]) == table.column_names
    assert columns["row"] == list(range(6))
    assert columns["path"] == [*NAMES[:3], "latin-\\udce9.png", "e", "f"] == [line["path"] for line in lines]
    assert columns["label"] == list("aaabbb")
    assert columns["temi_cluster"] == HEADS.labels.tolist() == [int(line["temi_cluster"]) for line in lines]
    assert columns["temi_name"] == ["right, mostly"] * 3 + ["cluster 7"] * 3 == [line["temi_name"] for line in lines]
    assert columns["hdbscan_name"] == ["in no cluster" if label < 0 else "cluster 3" for label in OTHER.labels]
    np.testing.assert_array_equal(np.float32(columns["temi_confidence"]), HEADS.top_probs[:, 0])
    np.testing.assert_array_equal(columns["temi_top5"], HEADS.top_ids)
    np.testing.assert_array_equal(np.float32(columns["temi_top5_probs"]), HEADS.top_probs)
    assert [line["temi_top5"] for line in lines] == ["0 7"] * 3 + ["7 0"] * 3
    assert [float(line["temi_top5_probs"].split()[0]) for line in lines] == pytest.approx(
        HEADS.top_probs[:, 0], abs=1e-6
    )
    assert columns["temi_disagreement"] == [0, 0, 0.25, 0, 0.5, 1]
    assert [float(line["temi_disagreement"]) for line in lines] == columns["temi_disagreement"]
    assert not {"hdbscan_confidence", "hdbscan_disagreement"} & set(columns)
    np.testing.assert_allclose(columns["outlier_score"], 1 - neighbors.similarities[:, 0], atol=1e-6)
    assert columns["duplicate_group"] == [0, 0, 0, None, None, None]


def test_clusters_of_every_method_have_a_row(tmp_path):
    features = FeatureSet.from_arrays(ROWS, paths=NAMES)
    places = write_clusters(tmp_path / "clusters", features, FOUND, CALLED)
    rows = parquet.read_table(places[0]).to_pylist()
    assert [(row["method"], row["cluster"], row["size"]) for row in rows] == [
        ("temi", 0, 3), ("temi", 7, 3), ("hdbscan", -1, 2), ("hdbscan", 3, 4),
    ]  # fmt: skip
    assert rows[0]["name"] == "right, mostly"
    assert rows[0]["mean_confidence"] == pytest.approx(0.8)
    assert (rows[0]["nearest"], rows[2]["mean_confidence"], rows[2]["nearest"]) == (7, None, None)
    assert set(rows[0]["typical"]) == set(NAMES[:3])
    assert sum(row["share"] for row in rows[:2]) == pytest.approx(1)
    assert [line["size"] for line in read_csv(places[1])] == ["3", "3", "2", "4"]


def test_what_a_table_said_of_its_rows_is_handed_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = {"id": [f"s{row}" for row in range(6)], "text": list("uvwxyz"), "row": [9.5] * 6, "when": [2020] * 6}
    lists = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 2)
    parquet.write_table(pa.table({**table, "emb": lists}), "t.parquet")
    places = write_samples(tmp_path / "samples", load_features("t.parquet"), FOUND, CALLED)
    back = parquet.read_table(places[0]).to_pydict()
    assert (back["id"], back["text"], back["own_row"], back["when"]) == tuple(table.values())
    assert "path" not in back
    # What was handed on is data again.
    assert list(load_features("t.parquet").ids) == back["id"]


def test_numbers_of_duplicate_groups_are_those_of_the_groups():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 200, (200, 3)).astype(np.int32)
    neighbors = Neighbors(ids, np.where(rng.random((200, 3)) < 0.15, 1, 0).astype(np.float32), {})
    numbers = duplicate_numbers(neighbors)
    groups = duplicate_groups(neighbors)
    assert (numbers >= 0).sum() == sum(map(len, groups))
    for group in groups:
        assert len(set(numbers[group])) == 1
    assert [int((numbers == rank).sum()) for rank in range(len(groups))] == [len(group) for group in groups]


def test_sixty_thousand_rows_take_seconds(tmp_path):
    n_rows, n_clusters = 60_000, 100
    rng = np.random.default_rng(0)
    features = FeatureSet.from_arrays(rng.standard_normal((n_rows, 16)).astype(np.float32))
    probs = np.sort(rng.random((n_rows, 5)).astype(np.float32))[:, ::-1]
    ids = rng.integers(0, n_clusters, (n_rows, 5)).astype(np.int32)
    found = {name: Clustering(ids[:, 0], name, n_clusters, top_ids=ids, top_probs=probs) for name in ("temi", "tsp")}
    started = time.perf_counter()
    write_samples(tmp_path / "samples", features, found, {"temi": {}, "tsp": {}})
    write_clusters(tmp_path / "clusters", features, found, {"temi": {}, "tsp": {}})
    assert time.perf_counter() - started < 20
