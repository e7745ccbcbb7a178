"""Mined neighbors are the true nearest ones, never the sample itself, and are mined once.

Shape suffixes: N samples, D feature dimensions, K neighbors.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from torch import distributed as dist

import deepclust.neighbors.cache as cache_module
import deepclust.neighbors.mining as mining_module
import deepclust.neighbors.search as search_module
import deepclust.neighbors.search_ivf as ivf_module
import deepclust.runtime.locks as locks_module
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import ShardedRows
from deepclust.neighbors import Neighbors, cached_neighbors, mine_neighbors, share_of_same
from deepclust.neighbors.row_lists import Lists, Probes
from deepclust.neighbors.search import ExactSearch
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import Ranks

METHODS = ("exact", "faiss")
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def rows() -> np.ndarray:
    """Lengths differ widely: only directions may count."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal((150, 12)) * rng.uniform(0.1, 10, (150, 1))).astype(np.float32)


def brute_force(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, -np.inf)
    ids = np.argsort(-similarities, axis=1)[:, :k]
    return ids, np.take_along_axis(similarities, ids, axis=1)


@every_method
@pytest.mark.parametrize("k", [1, 10, 149])
def test_neighbors_are_those_of_brute_force(method, k, rows):
    found = mine_neighbors(rows, k, method=method)
    ids, similarities = brute_force(rows, k)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.similarities, similarities, atol=1e-5)
    assert (found.ids.dtype, found.similarities.dtype) == (np.int32, np.float32)
    assert (len(found), found.k) == (150, k)


@every_method
def test_blocks_of_queries_and_of_the_database_change_nothing(method, rows, monkeypatch):
    expected = mine_neighbors(rows, 7, method=method)
    monkeypatch.setattr(mining_module, "QUERY_ROWS", 32)
    monkeypatch.setattr(search_module, "DATABASE_ROWS", 40)
    found = mine_neighbors(rows, 7, method=method)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)


@every_method
@pytest.mark.parametrize("copies", [2, 5, 20], ids=["a pair", "K + 1", "more than K + 1"])
def test_duplicates_are_legal_neighbors_and_the_sample_itself_is_not(method, copies, rows):
    k = 4
    duplicated = np.concatenate([np.repeat(rows[:1], copies, axis=0), rows[1:60]])
    found = mine_neighbors(duplicated, k, method=method)
    assert not (found.ids == np.arange(len(duplicated))[:, None]).any()
    assert all(len(set(row)) == k for row in found.ids.tolist())
    legal = min(k, copies - 1)
    assert (found.ids[:copies, :legal] < copies).all()
    np.testing.assert_allclose(found.similarities[:copies, :legal], 1, atol=1e-6)


@every_method
def test_opposite_features_stay_neighbors_of_last_resort(method):
    rows = np.array([[1, 0], [-1, 0], [1, 0.1]], dtype=np.float32)
    assert mine_neighbors(rows, 2, method=method).ids.tolist() == [[2, 1], [2, 0], [0, 1]]


@every_method
@pytest.mark.parametrize("kind", ["float16", "float64", "sharded", "mapped", "FeatureSet"])
def test_every_kind_of_matrix_gives_the_same_neighbors(method, kind, rows, tmp_path):
    half = rows.astype(np.float16)
    expected = mine_neighbors(half.astype(np.float32), 5, method=method)
    np.save(tmp_path / "X.npy", half)
    given = {
        "float16": lambda: half,
        "float64": lambda: half.astype(np.float64),
        "sharded": lambda: ShardedRows([half[:40], half[40:41], half[41:]]),
        "mapped": lambda: np.load(tmp_path / "X.npy", mmap_mode="r"),
        "FeatureSet": lambda: FeatureSet.from_arrays(half),
    }[kind]()
    np.testing.assert_array_equal(mine_neighbors(given, 5, method=method).ids, expected.ids)


@pytest.mark.parametrize("k", [0, -1, 150, 151])
def test_more_neighbors_than_other_samples_are_refused(k, rows):
    with pytest.raises(InputError, match=r"there are 150 samples.*between 1 and 149"):
        mine_neighbors(rows, k)
    with pytest.raises(InputError, match=r"between 1 and 149"):
        cached_neighbors(FeatureSet.from_arrays(rows), k)


def test_an_unknown_method_is_refused(rows):
    with pytest.raises(InputError, match="method 'lsh': choose one of auto, exact, screened, ivf, faiss"):
        mine_neighbors(rows, 3, method="lsh")


def test_the_first_k_are_the_nearest(rows):
    found = mine_neighbors(rows, 9)
    np.testing.assert_array_equal(found.first(4).ids, mine_neighbors(rows, 4).ids)
    with pytest.raises(InputError, match="10 neighbors asked for, but only 9 were mined"):
        found.first(10)


def test_saved_neighbors_come_back(rows, tmp_path):
    found = mine_neighbors(rows, 3)
    found.save(tmp_path / "n.npz")
    loaded = Neighbors.load(tmp_path / "n.npz")
    np.testing.assert_array_equal(loaded.ids, found.ids)
    np.testing.assert_array_equal(loaded.similarities, found.similarities)
    assert loaded.settings == found.settings
    assert loaded.settings["method"] == "exact"


# --- the cache -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mined(monkeypatch) -> list[int]:
    """How many neighbors each call that really mined was asked for."""
    calls: list[int] = []
    original = cache_module.mine_neighbors

    def spy(features, k, **options):
        calls.append(k)
        return original(features, k, **options)

    monkeypatch.setattr(cache_module, "mine_neighbors", spy)
    return calls


@pytest.fixture(params=["file", "folder", "cache_dir"])
def reopened(request, rows, tmp_path):
    """Opens the same features anew, as a second run would; gives the options of `cached_neighbors` too."""
    if request.param == "folder":
        FeatureSet.from_arrays(rows).save(tmp_path / "X")
        return lambda: (load_features(tmp_path / "X"), {})
    np.save(tmp_path / "X.npy", rows)
    if request.param == "file":
        return lambda: (load_features(tmp_path / "X.npy"), {})
    return lambda: (FeatureSet.from_arrays(rows), {"cache_dir": tmp_path / "cache"})


def test_a_second_run_does_not_mine_again(reopened, mined):
    for k in (6, 6, 3):  # a cache of more neighbors serves fewer
        features, options = reopened()
        found = cached_neighbors(features, k, **options)
        np.testing.assert_array_equal(found.ids, mine_neighbors(features, k).ids)
    assert mined == [6]
    features, options = reopened()
    assert cached_neighbors(features, 8, **options).k == 8
    assert mined == [6, 8]


def test_another_method_does_not_meet_the_cache(reopened, mined):
    for method in ("exact", "faiss", "exact", "faiss"):
        features, options = reopened()
        cached_neighbors(features, 4, method=method, **options)
    assert len(mined) == 2


def test_the_default_recall_meets_the_cache_whether_it_is_named_or_not(reopened, mined):
    for options in ({}, {"recall": 0.99}):  # `deepclust evaluate` names none, `deepclust train` the one of its config
        features, place = reopened()
        cached_neighbors(features, 4, **options, **place)
    assert mined == [4]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_changed_content_never_meets_an_old_cache(kind, rows, tmp_path, mined):
    path = tmp_path / ("X.npy" if kind == "file" else "X")

    def write(content):
        if kind == "file":
            np.save(path, content)
        else:
            FeatureSet.from_arrays(content).save(path)

    write(rows)
    cached_neighbors(load_features(path), 5)
    changed = rows.copy()
    changed[3] = -changed[3]  # same shape, one row different
    write(changed)
    found = cached_neighbors(load_features(path), 5)
    np.testing.assert_array_equal(found.ids, brute_force(changed, 5)[0])
    assert mined == [5, 5]


def test_features_in_memory_are_mined_anew(rows, mined):
    features = FeatureSet.from_arrays(rows)
    cached_neighbors(features, 4)
    cached_neighbors(features, 4)
    assert mined == [4, 4]


def test_a_place_that_cannot_be_written_is_no_obstacle(rows, tmp_path, mined):
    np.save(tmp_path / "X.npy", rows)
    (tmp_path / "X.npy.neighbors").write_text("a file stands where the cache would be")
    for _ in range(2):
        found = cached_neighbors(load_features(tmp_path / "X.npy"), 4)
        np.testing.assert_array_equal(found.ids, brute_force(rows, 4)[0])
    assert mined == [4, 4]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_no_obstacle(rows, tmp_path):
    FeatureSet.from_arrays(rows).save(tmp_path / "X")
    (tmp_path / "X").chmod(0o500)
    try:
        found = cached_neighbors(load_features(tmp_path / "X"), 4)
    finally:
        (tmp_path / "X").chmod(0o700)
    np.testing.assert_array_equal(found.ids, brute_force(rows, 4)[0])


@pytest.fixture(scope="module")
def crowd() -> np.ndarray:
    """2000 × 32 float16 features around 40 directions: many candidates are nearly as similar as the true neighbors."""
    rng = np.random.default_rng(5)
    centers = rng.standard_normal((40, 32))
    return (centers[rng.integers(0, 40, 2000)] + 0.5 * rng.standard_normal((2000, 32))).astype(np.float16)


def test_screening_finds_the_exact_neighbors_and_similarities(crowd):
    exact = mine_neighbors(crowd, 10, method="exact")
    screened = mine_neighbors(crowd, 10, method="screened")
    assert share_of_same(screened.ids, exact.ids) >= 0.9999
    np.testing.assert_allclose(screened.similarities, exact.similarities, atol=1e-5)
    assert screened.settings["recall"] >= 0.9999


@pytest.mark.parametrize("recall", [0.9, 0.99])
def test_the_inverted_file_reaches_the_recall_it_is_asked_for(crowd, recall):
    exact = mine_neighbors(crowd, 10, method="exact")
    found = mine_neighbors(crowd, 10, method="ivf", recall=recall)
    assert not (found.ids == np.arange(len(crowd))[:, None]).any()
    assert share_of_same(found.ids, exact.ids) >= recall - 0.02
    # What is written down is what an independent count over all rows gives, up to the sample's error.
    assert found.settings["recall"] == pytest.approx(share_of_same(found.ids, exact.ids), abs=0.02)


def test_a_killed_search_continues_from_its_finished_blocks(crowd, tmp_path, monkeypatch):
    monkeypatch.setattr(mining_module, "QUERY_ROWS", 500)
    whole = mine_neighbors(crowd, 5, method="exact")
    original = ExactSearch.query
    searched: list[int] = []

    def dies_at_the_third_block(self, ids, k):
        if len(searched) == 2:
            raise KeyboardInterrupt
        searched.append(int(ids[0]))
        return original(self, ids, k)

    monkeypatch.setattr(ExactSearch, "query", dies_at_the_third_block)
    with pytest.raises(KeyboardInterrupt):
        mine_neighbors(crowd, 5, method="exact", block_dir=tmp_path)

    def counts(self, ids, k):
        searched.append(int(ids[0]))
        return original(self, ids, k)

    monkeypatch.setattr(ExactSearch, "query", counts)
    continued = mine_neighbors(crowd, 5, method="exact", block_dir=tmp_path)
    assert searched == [0, 500, 1000, 1500]
    np.testing.assert_array_equal(continued.ids, whole.ids)


def test_blocks_of_other_rows_are_not_taken_for_these(crowd, tmp_path, monkeypatch):
    """`auto` may search in another order where a killed search is continued on another machine."""
    monkeypatch.setattr(mining_module, "QUERY_ROWS", 500)
    whole = mine_neighbors(crowd, 5, method="exact")
    mine_neighbors(crowd, 5, method="ivf", block_dir=tmp_path)  # list by list: its blocks are of other rows
    np.testing.assert_array_equal(mine_neighbors(crowd, 5, method="exact", block_dir=tmp_path).ids, whole.ids)


class Background:
    """A call in a thread of its own: two of them lock each other out as two processes do."""

    def __init__(self, call) -> None:
        self.call, self.result, self.error = call, None, None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error

    def finish(self):
        self.thread.join(30)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


def read_until(words: str, times: int, capsys) -> str:
    """What was printed until it held the words so many times."""
    out, deadline = "", time.monotonic() + 30
    while out.count(words) < times:
        assert time.monotonic() < deadline, out
        time.sleep(0.01)
        out += capsys.readouterr().out
    return out


@pytest.mark.parametrize("wanted", [[5, 5, 5], [5, 3, 5], [3, 5, 5]], ids=["as many", "fewer", "more"])
def test_who_wants_what_is_being_mined_waits_and_reads_it(wanted, crowd, tmp_path, monkeypatch, mined, capsys):
    monkeypatch.setattr(mining_module, "QUERY_ROWS", 500)
    monkeypatch.setattr(locks_module, "POLL_SECONDS", 0.01)
    np.save(tmp_path / "X.npy", crowd)
    original, at_work, go_on = ExactSearch.query, threading.Event(), threading.Event()

    def waits_in_the_middle(self, ids, k):
        if ids[0] == 1000 and not at_work.is_set():
            at_work.set()
            assert go_on.wait(30)
        return original(self, ids, k)

    monkeypatch.setattr(ExactSearch, "query", waits_in_the_middle)
    calls = [lambda k=k: cached_neighbors(load_features(tmp_path / "X.npy"), k, method="exact") for k in wanted]
    first = Background(calls[0])
    assert at_work.wait(30)
    others = [Background(call) for call in calls[1:]]
    out = read_until("waiting for its result", 2, capsys)
    go_on.set()
    for k, running in zip(wanted, [first, *others]):
        np.testing.assert_array_equal(running.finish().ids, mine_neighbors(crowd, k, method="exact").ids)
    assert sorted(mined) == sorted({wanted[0], max(wanted)})
    assert out.count("mining neighbors: another process is doing this already, waiting for its result") == 2
    assert not list(tmp_path.rglob("*.blocks"))


def test_who_waited_for_a_killed_run_continues_from_its_blocks(crowd, tmp_path, locked_elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(mining_module, "QUERY_ROWS", 500)
    monkeypatch.setattr(locks_module, "POLL_SECONDS", 0.01)
    np.save(tmp_path / "X.npy", crowd)
    original, searched = ExactSearch.query, []

    def dies_at_the_third_block(self, ids, k):
        if len(searched) == 2:
            raise KeyboardInterrupt
        searched.append(int(ids[0]))
        return original(self, ids, k)

    monkeypatch.setattr(ExactSearch, "query", dies_at_the_third_block)
    with pytest.raises(KeyboardInterrupt):
        cached_neighbors(load_features(tmp_path / "X.npy"), 5, method="exact")
    monkeypatch.setattr(
        ExactSearch, "query", lambda self, ids, k: (searched.append(int(ids[0])), original(self, ids, k))[1]
    )
    # The rest of a killed run: its blocks, and its lock until the process is gone.
    (lock,) = tmp_path.rglob("*.lock")
    other = locked_elsewhere(lock)
    next_run = Background(lambda: cached_neighbors(load_features(tmp_path / "X.npy"), 5, method="exact"))
    read_until("waiting for its result", 1, capsys)
    other.kill()
    found = next_run.finish()
    assert searched == [0, 500, 1000, 1500]
    np.testing.assert_array_equal(found.ids, mine_neighbors(crowd, 5, method="exact").ids)


def test_without_locks_neighbors_are_mined_and_kept_but_no_blocks(rows, tmp_path, monkeypatch, mined, capsys):
    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    kept: list[object] = []
    original = cache_module.mine_neighbors
    monkeypatch.setattr(
        cache_module, "mine_neighbors", lambda *a, **o: (kept.append(o["block_dir"]), original(*a, **o))[1]
    )
    np.save(tmp_path / "X.npy", rows)
    for _ in range(2):
        found = cached_neighbors(load_features(tmp_path / "X.npy"), 4)
        np.testing.assert_array_equal(found.ids, brute_force(rows, 4)[0])
    assert mined == [4]
    assert kept == [None]
    assert capsys.readouterr().out.count("cannot be locked (no locks available)") == 1


def test_recall_out_of_range_is_refused(rows):
    with pytest.raises(InputError, match=r"recall is 1\.5"):
        mine_neighbors(rows, 3, method="ivf", recall=1.5)


def _mine_on_a_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    rows = np.random.default_rng(0).standard_normal((2500, 8)).astype(np.float32)
    features = FeatureSet.from_arrays(rows)
    # The other rank sees no cache: the first one's is enough.
    mined = [cached_neighbors(features, 4, cache_dir=f"{folder}/{rank}", ranks=Ranks.of_run()) for _ in range(2)]
    assert sorted(path.name[16:] for path in Path(folder, "0").iterdir()) == ["-k4.npz", ".lock"]
    np.savez(
        f"{folder}/rank{rank}.npz", ids=[part.ids for part in mined], cosines=[part.similarities for part in mined]
    )
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_mine_what_one_mines_and_share_one_cache(tmp_path):
    torch.multiprocessing.spawn(_mine_on_a_rank, (str(tmp_path),), nprocs=2)
    rows = np.random.default_rng(0).standard_normal((2500, 8)).astype(np.float32)
    expected = mine_neighbors(rows, 4)
    for rank in range(2):
        found = np.load(tmp_path / f"rank{rank}.npz")
        for ids, cosines in zip(found["ids"], found["cosines"]):
            np.testing.assert_array_equal(ids, expected.ids)
            np.testing.assert_allclose(cosines, expected.similarities, atol=1e-6)


def _mine_with_a_rank_that_differs(rank: int, folder: str) -> None:
    dist.init_process_group(*("gloo", f"file://{folder}/store"), timeout=timedelta(seconds=20), rank=rank, world_size=2)
    rows = np.random.default_rng(0).standard_normal((2500, 8)).astype(np.float32)
    said = []

    def mined(method: str = "auto", **patched: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in patched.items():
                patch.setattr(mining_module, name, value)
            try:
                said.append(mine_neighbors(rows, 4, method=method, ranks=Ranks.of_run()).settings["method"])
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no memory")

    spare = {"MOST_PAIRS": 1.0, "MOST_PAIRS_BFLOAT16": 1.0}
    mined(choose_method=lambda *_, **__: ("exact", "ivf")[rank], **spare)
    mined(choose_method=lambda *_, **__: ("ivf", "exact")[rank], **spare)
    mined(faiss_gpu_works=lambda: rank == 1)
    mined(faiss_gpu_works=lambda: rank == 0)
    mined(make_search=broken if rank == 1 else mining_module.make_search)
    with pytest.MonkeyPatch.context() as patch:
        if rank == 0:
            patch.setattr("deepclust.neighbors.row_lists._list_centers", broken)
        mined("ivf")
    Path(folder, f"{rank}.json").write_text(json.dumps(said))
    dist.destroy_process_group()


@pytest.mark.slow
def test_the_first_rank_chooses_the_search_and_what_one_rank_cannot_do_all_refuse(tmp_path):
    torch.multiprocessing.spawn(_mine_with_a_rank_that_differs, (str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first[:3] == second[:3] == ["exact", "ivf", "exact"]
    assert first[3] == second[3]
    assert "works on the GPU of the first rank, but not on that of rank 1: set neighbors.method=screened" in first[3]
    assert first[4] == "InputError: rank 1 failed: RuntimeError: no memory"
    assert second[4] == "RuntimeError: no memory"
    assert first[5] == "RuntimeError: no memory"
    assert second[5] == "InputError: rank 0 failed: RuntimeError: no memory"


class OneGPU:
    """An index as it answers on a GPU: with so many lists and neighbors at most, and no parameters of a search."""

    def __init__(self, index: Any, limit: int) -> None:
        self.__dict__.update(index=index, limit=limit)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.index, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.index, name, value)

    def search(self, queries: np.ndarray, k: int) -> Any:
        assert k <= self.limit
        assert getattr(self.index, "nprobe", 1) <= self.limit
        return self.index.search(queries, k)


@pytest.fixture
def four_gpus(monkeypatch):
    """faiss sees four GPUs that can probe 16 lists; what is put on which of them is noted."""
    placed: list[tuple[int, str]] = []

    def put(resources: Any, device: int, index: Any, options: faiss.GpuClonerOptions) -> OneGPU:
        placed.append((device, type(index).__name__ + (" half" if options.useFloat16 else "")))
        return OneGPU(index, 16)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 4)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", put, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", None, raising=False)
    for module in (mining_module, ivf_module):
        monkeypatch.setattr(module, "GPU_LIMIT", 16)
    monkeypatch.setattr(search_module, "fastest_device", lambda: "cpu")  # torch's own products have no pretended one
    search_module._gpu_works.cache_clear()
    yield placed
    search_module._gpu_works.cache_clear()


@pytest.mark.parametrize(("method", "kind"), [("exact", "IndexFlatIP"), ("faiss", "IndexFlatIP"), ("ivf", "IndexIVF")])
def test_a_rank_searches_on_its_own_gpu_alone(method, kind, four_gpus, monkeypatch):
    rows = np.random.default_rng(1).standard_normal((1500, 6)).astype(np.float32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(search_module, "free_bytes", lambda device: 8 << 30)
    found = mine_neighbors(rows, 5, method=method, recall=0.5)
    assert {device for device, _ in four_gpus} == {2}
    assert four_gpus[-1][1].startswith(kind)
    assert share_of_same(found.ids, brute_force(rows, 5)[0]) >= (0.4 if method == "ivf" else 0.999)
    # Where torch knows no GPU it is the number on this machine.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.delenv("RANK", raising=False)
    mine_neighbors(rows, 5, method=method, recall=0.5)
    assert four_gpus[-1][0] == 3


def test_an_index_takes_half_precision_where_it_is_large_and_none_is_made_where_the_gpu_is_too_small(
    four_gpus, monkeypatch
):
    rows = np.random.default_rng(1).standard_normal((1500, 6)).astype(np.float32)
    expected = brute_force(rows, 5)[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(search_module, "HALF_BYTES", rows.nbytes - 1)
    monkeypatch.setattr(search_module, "GPU_SCRATCH_BYTES", 100)
    free = {"cuda:1": rows.nbytes // 2 + 100}
    monkeypatch.setattr(search_module, "free_bytes", free.get)
    mine_neighbors(rows, 5, method="exact")
    assert four_gpus[-1] == (1, "IndexFlatIP half")
    four_gpus.clear()
    free["cuda:1"] -= 1
    with pytest.warns(UserWarning, match=r"the GPU lacks 0\.0 GB .* mined without one"):
        np.testing.assert_array_equal(mine_neighbors(rows, 5, method="exact").ids, expected)
    assert four_gpus == []


def test_more_lists_than_a_gpu_can_probe_are_answered_exactly(four_gpus):
    # 37 lists, of which 16 are not enough in so many dimensions.
    rows = np.random.default_rng(1).standard_normal((1500, 24)).astype(np.float32)
    found = mine_neighbors(rows, 5, method="ivf", recall=1.0)
    np.testing.assert_array_equal(found.ids, brute_force(rows, 5)[0])
    assert found.settings["index"] == "Flat"
    assert found.settings["n_probe"] == 16
    # The lists that reach the recall hold too few rows for some queries: these see all rows.
    few = ivf_module.IVFSearch(rows, 2, 0.1, on_gpu=True)
    assert few.flat is None
    few.n_probe = 1
    ids, _ = few.query(np.arange(300), 15)
    assert (ids >= 0).all()
    # No more neighbors than a GPU can sort: the products are made on the CPU.
    four_gpus.clear()
    many = mine_neighbors(rows, 20, method="exact")
    np.testing.assert_array_equal(many.ids, brute_force(rows, 20)[0])
    assert {kind for _, kind in four_gpus} <= {"IndexFlatIP"}


def test_lists_that_are_all_looked_into_give_the_exact_neighbors(rows):
    found, expected = mine_neighbors(rows, 7, method="ivf", recall=1.0), mine_neighbors(rows, 7)
    assert share_of_same(found.ids, expected.ids) >= 0.99
    assert found.settings["recall"] >= 0.99
    lists = mining_module.group_rows(rows)
    kept = mining_module.ListSearch(rows, lists, Probes(len(lists.centers_LD), 1.0, 1.0, len(lists.centers_LD)))
    ids, similarities = mining_module.nearest_others(kept, np.arange(len(rows)), 7)
    np.testing.assert_array_equal(ids, expected.ids)
    np.testing.assert_allclose(similarities, expected.similarities, atol=1e-6)


@pytest.mark.parametrize("recall", [0.8, 0.95, 0.99])
def test_lists_reach_the_recall_that_was_asked_for(recall):
    rows = np.random.default_rng(1).standard_normal((4000, 6)).astype(np.float32)
    found, expected = mine_neighbors(rows, 20, method="ivf", recall=recall), mine_neighbors(rows, 20)
    reached = share_of_same(found.ids, expected.ids)
    assert reached >= recall - 0.02
    assert found.settings["recall"] == pytest.approx(reached, abs=0.02)  # measured on 512 samples
    assert found.settings["n_probe"] < 63  # of 63 lists


def test_fewer_rows_in_the_lists_than_neighbors_are_looked_for_further_on(rows):
    search = mining_module.ListSearch(rows, mining_module.group_rows(rows), Probes(1.0, 0.1, 0.1, 1.0))
    ids, _ = mining_module.nearest_others(search, np.arange(len(rows)), 140)
    assert all(len(set(row)) == 140 for row in ids.tolist())


@pytest.mark.parametrize("kind", ["clustered", "scattered"])
def test_auto_looks_into_lists_only_where_few_of_them_hold_the_neighbors(kind, monkeypatch):
    monkeypatch.setattr(mining_module, "LISTS_ROWS", 2000)
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((2000, 24))
    if kind == "clustered":
        rows = 0.3 * rows + rng.standard_normal((20, 24))[rng.integers(0, 20, 2000)]
    found, exact = mine_neighbors(rows, 10), mine_neighbors(rows, 10, method="exact")
    assert (found.settings["method"] == "ivf") == (kind == "clustered")
    assert share_of_same(found.ids, exact.ids) >= 0.98
    lists = mining_module.group_rows(rows)
    probes = mining_module.calibrated(rows, lists, 11, 0.99)
    # What decides, share and recall, is what an independent count says about the sample's rows.
    owner_N, unit = lists.of_rows(np.arange(2000)), rows / np.linalg.norm(rows, axis=1, keepdims=True)
    sample = np.sort(np.random.default_rng(0).choice(2000, 512, replace=False))
    looked, held = [], []
    for row, similarities in zip(sample, unit[sample] @ lists.centers_LD.T):
        wanted = max(1, int(probes.effort / max(similarities.max(), 0.05) ** 2))
        own = np.isin(owner_N, np.argsort(-similarities)[:wanted])
        looked.append(own.mean())
        held.append(own[np.argsort(-(unit @ unit[row]))[:11]].mean())
    assert probes.share == pytest.approx(np.mean(looked), rel=1e-3)
    assert probes.recall == pytest.approx(np.mean(held), abs=1e-3)
    assert probes.recall >= 0.99


def test_a_row_far_from_all_centers_looks_into_more_lists():
    assert Probes(4.0, 1.0, 1.0, 1.0).of(np.array([1.0, 0.5, 0.25, 0.01, -0.5]), 100).tolist() == [4, 16, 64, 100, 100]


@pytest.mark.parametrize("sizes", [[3, 0, 5, 4, 90, 1, 2, 7], [0, 0, 112], [1] * 112])
def test_blocks_of_queries_are_cut_between_lists(sizes):
    bounds = np.cumsum([0, *sizes])
    blocks = Lists(np.eye(len(sizes), dtype=np.float32), np.arange(112), bounds).blocks(10)
    assert (blocks[0], blocks[-1]) == (0, 112)
    assert (np.diff(blocks) > 0).all()
    assert np.diff(blocks).max() <= 20
    for cut in set(blocks.tolist()) - set(bounds.tolist()):  # inside a list: only where it alone is longer than a block
        assert sizes[int(np.searchsorted(bounds, cut)) - 1] > 10


def test_the_memory_decides_how_the_lists_are_kept_and_changes_nothing(crowd, monkeypatch):
    whole = mine_neighbors(crowd, 10, method="ivf")
    monkeypatch.setattr("deepclust.neighbors.search_lists.free_bytes", lambda: 2 * crowd.nbytes)
    halves = mine_neighbors(crowd, 10, method="ivf")
    monkeypatch.setattr("deepclust.neighbors.search_lists.free_bytes", lambda: 0)
    monkeypatch.setattr("deepclust.neighbors.search_lists.CANDIDATE_ROWS", 64)
    on_disk = mine_neighbors(crowd, 10, method="ivf")
    for found in (halves, on_disk):
        assert share_of_same(found.ids, whole.ids) > 0.9999
        np.testing.assert_allclose(found.similarities, whole.similarities, atol=1e-6)


def test_a_bad_row_is_named_by_its_own_number(crowd):
    broken = crowd.copy()
    broken[1234] = 0
    with pytest.raises(InputError, match=r"first: row 1234\)"):
        mine_neighbors(broken, 5, method="ivf")
