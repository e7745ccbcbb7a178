"""Ids that stay as data grow: kept, split, merged and new clusters are told apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.runs.assigning import assign
from deepclust.runs.folder import RunFolder
from deepclust.runs.matching import match_clusters, matched, read_stable, relabeled, with_ids, write_stable
from deepclust.runtime.errors import InputError
from tests.conftest import planted_clusters


def told(found):
    return [(one["cluster"], one["id"], one["what"], one["of"]) for one in found.clusters]


def test_a_permutation_is_undone_whatever_it_is():
    rng = np.random.default_rng(0)
    earlier = rng.integers(0, 30, 4000)
    order = rng.permutation(30)
    found = match_clusters(earlier, order[earlier], later=range(30), next_id=30)
    np.testing.assert_array_equal(relabeled(order[earlier], found.ids), earlier)
    assert found.summary == "30 kept"


def test_what_splits_merges_goes_and_comes():
    earlier = np.repeat([0, 1, 2, 3, 4, -1], [100, 40, 60, 50, 30, 10])
    later = np.concatenate([
        np.repeat([9, 8], [70, 30]),  # 0 splits
        np.repeat(7, 40 + 60),  # 1 and 2 merge
        np.repeat(6, 50),  # 3 stays
        np.repeat([9, 7, 6], [10, 10, 10]),  # 4 falls apart
        np.repeat(5, 10),  # noise before
    ])  # fmt: skip
    found = match_clusters(earlier, later, later=[4, 5, 6, 7, 8, 9], next_id=5)
    assert told(found) == [
        (4, 5, "new", []),
        (5, 6, "new", []),
        (6, 3, "kept", [3]),
        (7, 2, "merged", [2, 1]),
        (8, 7, "split", [0]),
        (9, 0, "kept", [0]),
    ]
    assert found.gone == [{"id": 1, "what": "merged", "into": 2}, {"id": 4, "what": "dissolved", "into": 3}]
    assert found.next_id == 8
    assert found.summary == "2 kept, 1 merged, 1 split, 2 new, 1 merged away, 1 dissolved away"
    # Nobody gets an id that another cluster has, and none that was ever used.
    assert len(set(found.ids.values())) == 6
    assert match_clusters(np.zeros(0, int), np.zeros(0, int), later=[0, 1], next_id=3).ids == {0: 3, 1: 4}


def test_ids_are_handed_on_from_run_to_run(tmp_path):
    rows, labels = planted_clusters()
    names = [f"s{row}" for row in range(300)]
    first = FeatureSet.from_arrays(rows[:250], paths=names[:250])
    grown = FeatureSet.from_arrays(rows[::-1].copy(), paths=names[::-1])  # in another order, with 50 more
    one = {"kmeans": Clustering(labels[:250].astype(np.int32), "kmeans", 5)}
    other = (labels[::-1] + 2) % 5
    two = {"kmeans": Clustering(other.astype(np.int32), "kmeans", 5)}
    maps, by = matched(first, one, grown, two, {})
    assert by == "ids"
    np.testing.assert_array_equal(with_ids(two["kmeans"], maps["kmeans"].ids).labels, labels[::-1])
    # Without names the centers tell; where nothing is shared and the features are of another width it is refused.
    bare = [FeatureSet.from_arrays(np.asarray(one.features)) for one in (first, grown)]
    maps, by = matched(bare[0], one, bare[1], two, {})
    assert by == "centers"
    np.testing.assert_array_equal(with_ids(two["kmeans"], maps["kmeans"].ids).labels, labels[::-1])
    with pytest.raises(InputError, match="of 16 and 8 dimensions"):
        matched(bare[0], one, FeatureSet.from_arrays(rows[:, :8] + 1), two, {})
    with pytest.raises(InputError, match="no method in common"):
        matched(first, one, grown, {"temi": two["kmeans"]}, {})
    # A third run is matched to the ids that the second one got.
    write_stable(tmp_path, maps, "first")
    before = read_stable(tmp_path)
    third = {"kmeans": Clustering(((other + 1) % 5).astype(np.int32), "kmeans", 5)}
    maps, by = matched(grown, two, grown, third, before)
    np.testing.assert_array_equal(with_ids(third["kmeans"], maps["kmeans"].ids).labels, labels[::-1])


def test_new_samples_and_growing_data_from_the_command_line(command):
    rows = planted_clusters(n_clusters=4)[0]

    def write(name, some):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows[some].ravel()), rows.shape[1])
        ids = [f"s{row}" for row in np.arange(len(rows))[some]]
        parquet.write_table(pa.table({"id": ids, "emb": lists}), name)

    write("may.parquet", slice(0, 150))
    write("june.parquet", slice(50, None))
    few = (
        "loss=tsp",
        "init=kmeans",
        "baselines=kmeans",
        "n_clusters=4",
        "max_epochs=3",
        "n_heads=2",
        "trainer.accelerator=cpu",
    )
    for month, seed in (("may", 0), ("june", 1)):
        ran = command("train", "data=features", f"data.train={month}.parquet", *few, f"seed={seed}", f"run_dir={month}")
        assert ran.code == 0, ran.err
    new = command("assign", "run=may", "data=features", "data.train=june.parquet", "out=new")
    assert new.code == 0, new.err
    assert "k-means: left out" in new.out
    table = parquet.read_table("new/samples.parquet").to_pydict()
    before = parquet.read_table("may/samples.parquet").to_pydict()
    may = dict(zip(before["id"], before["tsp_cluster"]))
    assert table["id"] == [f"s{row}" for row in range(50, 240)]
    assert all(may[name] == found for name, found in zip(table["id"], table["tsp_cluster"]) if name in may)
    matched_now = command("assign", "run=june", "match=may")
    assert matched_now.code == 0, matched_now.err
    assert "TSP: 4 kept" in matched_now.out
    after = parquet.read_table("june/assigned/samples.parquet").to_pydict()
    for method in ("tsp", "kmeans"):
        known = dict(zip(before["id"], before[f"{method}_cluster"]))
        shared = [(known[name], one) for name, one in zip(after["id"], after[f"{method}_cluster"]) if name in known]
        assert len(shared) == 100
        assert all(old == new for old, new in shared)
    assert set(json.loads(Path("june/assigned/id_map.json").read_text())) == {"tsp", "kmeans"}
    # From then on new samples of this run have those ids, too.
    again = command("assign", "run=june", "data=features", "data.train=may.parquet", "out=again")
    assert again.code == 0, again.err
    assert parquet.read_table("again/samples.parquet").to_pydict()["tsp_cluster"] == before["tsp_cluster"]
    june = RunFolder(Path("june"))
    with pytest.raises(InputError, match="no such folder"):
        assign(june, None, Path("nowhere"))
    with pytest.raises(InputError, match="the other data has 64 dimensions and the data of the run 16"):
        assign(june, {"data": {"name": "digits"}, "features_dir": None}, None)
    refused = command("assign", "run=june")
    assert (refused.code, "name the new samples" in refused.error_line) == (2, True)
