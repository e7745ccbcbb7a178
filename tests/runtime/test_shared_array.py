"""One array for the ranks of a machine: what one writes all read, and nothing stays behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist

from deepclust.features.dataset import Dataset
from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.neighbors import mine_neighbors
from deepclust.neighbors.row_lists import Probes, group_rows
from deepclust.neighbors.search_lists import ListSearch
from deepclust.runtime import shared_array
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import Ranks
from deepclust.runtime.shared_array import SharedArray
from deepclust.spherical_kmeans import kmeans_predict
from deepclust.training.pairs import pair_weights


def files_behind(values: np.ndarray) -> int:
    """The number of the file that an array is mapped from."""
    start = values.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, inode, *_ = line.split()
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= start < high:
            return int(inode)
    return 0


def rows_of_the_test() -> np.ndarray:
    """Each direction with a variance of its own, so that PCA has but one answer."""
    return (np.random.default_rng(0).standard_normal((600, 8)) * 2.0 ** -np.arange(8)).astype(np.float16)


def _on_a_rank(rank: int, folder: str) -> None:
    """What each of the two processes of the tests does, first as on one machine, then as on two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    ranks, rows, told = Ranks.of_run(), rows_of_the_test(), {}
    features = FeatureSet.from_arrays(rows)
    for machines in (1, 2):
        os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"] = str(rank if machines == 1 else 0), "2"
        shared_array.socket.gethostname = lambda machines=machines: f"node{rank if machines == 2 else 0}"
        shared = SharedArray((5, 3), np.int32, ranks)
        shared.values[rank::2] = rank + 1
        told[f"array on {machines}"] = shared.written().tolist()
        told[f"file on {machines}"] = files_behind(shared.values)
        found = mine_neighbors(features, 4, method="ivf", ranks=ranks)
        told[f"neighbors on {machines}"] = [found.ids.tolist(), found.similarities.tolist()]
        told[f"recall on {machines}"] = [found.settings["recall"], found.settings["n_probe"]]
        told[f"weights on {machines}"] = pair_weights(features, found, ranks).tolist()
    lists = group_rows(rows, ranks=ranks)
    told["order"] = lists.order_N.tolist()
    told["copy"] = files_behind(ListSearch(rows, lists, Probes(2.0, 0.9, 0.1, 2.0), ranks=ranks).sorted_ND)
    told["labels"] = kmeans_predict(rows, lists.centers_LD, top=3, ranks=ranks)[1].tolist()
    transform = FeatureTransform.fitted_to(features, "none", 3, ranks)
    scale = FeatureTransform.fitted_to(features, "standardize", ranks=ranks).scale
    told["transform"] = [transform.mean.tolist(), scale.tolist(), transform.components.tolist()]
    broken = np.array(rows)
    broken[[17, 599]] = np.nan  # one in the share of each rank
    told["refused"] = []
    for bad, good in ((broken, rows), (rows, rows)):
        try:
            Dataset("mine", FeatureSet.from_arrays(bad), FeatureSet.from_arrays(good), None).check(ranks)
        except InputError as error:
            told["refused"].append(str(error))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shared_array, "MEMORY", Path("/nowhere"))
            patch.setattr(os, "posix_fallocate", _full)
            SharedArray((5,), np.int32, ranks)
    except InputError as error:
        told["refused"].append(str(error))
    Path(folder, f"{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def _full(*_: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.slow
def test_two_ranks_share_arrays_and_the_work_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = sorted(Path("/dev/shm").glob("deepclust-*"))
    torch.multiprocessing.spawn(_on_a_rank, (str(tmp_path),), nprocs=2)
    assert list((tmp_path / "temporary").iterdir()) == []
    assert sorted(Path("/dev/shm").glob("deepclust-*")) == before
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    rows = rows_of_the_test()
    features = FeatureSet.from_arrays(rows)
    for machines in (1, 2):
        assert first[f"array on {machines}"] == [[1] * 3, [2] * 3] * 2 + [[1] * 3]
        assert (first[f"file on {machines}"] == second[f"file on {machines}"]) == (machines == 1)
    assert first["copy"] != 0
    same = [key for key in first if not key.startswith(("file", "copy"))]
    assert {key: first[key] for key in same} == {key: second[key] for key in same}

    alone = mine_neighbors(features, 4, method="ivf")
    for machines in (1, 2):
        ids, similarities = first[f"neighbors on {machines}"]
        np.testing.assert_array_equal(ids, alone.ids)
        np.testing.assert_allclose(similarities, alone.similarities, atol=1e-6)
        np.testing.assert_allclose(first[f"weights on {machines}"], pair_weights(features, alone), atol=1e-5)
        assert first[f"recall on {machines}"] == [alone.settings["recall"], alone.settings["n_probe"]]
    lists = group_rows(rows)
    np.testing.assert_array_equal(first["order"], lists.order_N)
    np.testing.assert_array_equal(first["labels"], kmeans_predict(rows, lists.centers_LD, top=3)[1])
    transform = FeatureTransform.fitted_to(features, "none", 3)
    scale = FeatureTransform.fitted_to(features, "standardize").scale
    for found, expected in zip(first["transform"], (transform.mean, scale, transform.components)):
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert first["refused"][0] == (
        "mine (train split): 2 of 600 rows hold NaN or infinite values (first: row 17): remove or repair them"
    )
    assert (
        "has no room for 2e-08 GB that the ranks of node0 share (No space left on device): set TMPDIR"
        in (first["refused"][1])
    )


def test_a_process_alone_has_its_array_in_memory():
    shared = SharedArray((3, 2), np.float32)
    shared.values[1] = 5
    assert shared.written().tolist() == [[0, 0], [5, 5], [0, 0]]
    assert files_behind(shared.values) == 0
