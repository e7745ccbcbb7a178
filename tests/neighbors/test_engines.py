"""Whichever library searches, the neighbors are those of all pairs; what it cannot do it refuses in one line.

cuVS is a stand-in with the signatures of its documentation, on the CPU: what is tested is how it is called.

Shape suffixes: N samples, D feature dimensions, Q queries, K neighbors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import deepclust.neighbors.cache as cache_module
import deepclust.neighbors.engines as engines_module
import deepclust.neighbors.mining as mining_module
import deepclust.neighbors.search_cuvs as cuvs_module
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import cached_neighbors, mine_neighbors, share_of_same
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import Ranks


@pytest.fixture
def rows() -> np.ndarray:
    """3000 rows around 30 directions, of differing lengths."""
    rng = np.random.default_rng(0)
    rows_ND = 0.3 * rng.standard_normal((3000, 12)) + rng.standard_normal((30, 12))[rng.integers(0, 30, 3000)]
    return (rows_ND * rng.uniform(0.1, 10, (3000, 1))).astype(np.float32)


class StandIn:
    """cuVS as far as it is used; `calls` says what it was asked for, `groups` by what rows are cut."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.brute_force = ModuleType("cuvs.neighbors.brute_force")
        self.brute_force.build, self.brute_force.search = self.build, self.search  # type: ignore[attr-defined]
        self.all_neighbors = ModuleType("cuvs.neighbors.all_neighbors")
        self.all_neighbors.AllNeighborsParams = self.params  # type: ignore[attr-defined]
        self.all_neighbors.build = self.graph  # type: ignore[attr-defined]

    def build(self, dataset: Any, metric: str = "sqeuclidean", metric_arg: float = 2.0, resources: Any = None) -> Any:
        assert (dataset.dtype, metric) in ((torch.float32, "inner_product"), (torch.float16, "inner_product"))
        self.calls.append({"brute_force": tuple(dataset.shape)})
        return dataset

    def search(
        self, index: Any, queries: Any, k: int, neighbors: Any = None, distances: Any = None, resources: Any = None
    ) -> Any:
        assert queries.dtype == index.dtype
        best = (queries.float() @ index.float().T).topk(k, dim=1)
        neighbors.copy_(best.indices)
        distances.copy_(best.values)
        return distances, neighbors

    def params(
        self,
        *,
        algo: str = "nn_descent",
        overlap_factor: int = 2,
        n_clusters: int = 1,
        metric: str = "sqeuclidean",
        ivf_pq_params: Any = None,
        nn_descent_params: Any = None,
    ) -> Any:
        assert (algo, metric) == ("brute_force", "inner_product")
        assert 1 < overlap_factor < n_clusters
        self.calls.append({"groups": n_clusters, "overlap": overlap_factor})
        return SimpleNamespace(overlap=overlap_factor, groups=n_clusters)

    def graph(
        self, dataset: Any, k: int, params: Any, *, indices: Any = None, distances: Any = None, resources: Any = None
    ) -> Any:
        """Each row is in the groups of its nearest centers, and compared with the rows of these."""
        assert isinstance(dataset, np.ndarray)  # on the host, as more groups than one ask for
        assert dataset.dtype == np.float32
        assert isinstance(resources, MultiGpuResources)
        centers = dataset[np.random.default_rng(0).choice(len(dataset), params.groups, replace=False)]
        member_NL = np.zeros((len(dataset), params.groups), bool)
        np.put_along_axis(member_NL, np.argsort(-dataset @ centers.T, axis=1)[:, : params.overlap], True, axis=1)
        together_NN = member_NL.astype(np.float32) @ member_NL.T.astype(np.float32) > 0
        best = torch.from_numpy(np.where(together_NN, dataset @ dataset.T, -np.inf)).topk(k, dim=1)
        indices.copy_(best.indices)
        distances.copy_(best.values)
        return indices, distances


class MultiGpuResources:
    def sync(self) -> None:
        pass


@pytest.fixture
def cuvs(monkeypatch) -> StandIn:
    """A cuVS that is installed, beside a GPU that is the CPU."""
    made = StandIn()
    neighbors, common = ModuleType("cuvs.neighbors"), ModuleType("cuvs.common")
    neighbors.brute_force, neighbors.all_neighbors = made.brute_force, made.all_neighbors  # type: ignore[attr-defined]
    common.MultiGpuResources = MultiGpuResources  # type: ignore[attr-defined]
    for name, module in {"cuvs": ModuleType("cuvs"), "cuvs.neighbors": neighbors, "cuvs.common": common}.items():
        monkeypatch.setitem(sys.modules, name, module)

    @contextmanager
    def own_device() -> Iterator[torch.device]:
        yield torch.device("cpu")

    monkeypatch.setattr(engines_module, "find_spec", lambda name: name)
    monkeypatch.setattr(engines_module, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True)))
    monkeypatch.setattr(engines_module, "missing_gpu_bytes", lambda *shape: 0)
    monkeypatch.setattr(cuvs_module, "own_device", own_device)
    monkeypatch.setattr(mining_module, "faiss_gpu_works", lambda: False)
    monkeypatch.setattr("deepclust.neighbors.search.fastest_device", lambda: "cpu")
    return made


@pytest.mark.parametrize("engine", ["torch", "faiss", "cuvs"])
@pytest.mark.parametrize("method", ["exact", "ivf"])
def test_every_engine_finds_the_neighbors_of_all_pairs(engine, method, rows, cuvs):
    expected = mine_neighbors(rows, 10, method="exact")
    found = mine_neighbors(rows, 10, method=method, engine=engine)
    assert (found.ids.dtype, found.similarities.dtype, found.ids.shape) == (np.int32, np.float32, (3000, 10))
    assert not (found.ids == np.arange(3000)[:, None]).any()
    same = share_of_same(found.ids, expected.ids)
    assert same == 1 if method == "exact" else same >= 0.98
    unit_ND = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(found.similarities, np.einsum("nd,nkd->nk", unit_ND, unit_ND[found.ids]), atol=1e-5)
    assert (np.diff(found.similarities) <= 0).all()
    assert (found.settings["engine"], found.settings["method"]) == (engine, method)
    assert ("recall" in found.settings) == (method == "ivf")


def test_auto_is_torch_where_faiss_has_no_gpu(rows, cuvs):
    found, torchs = mine_neighbors(rows, 10), mine_neighbors(rows, 10, engine="torch")
    np.testing.assert_array_equal(found.ids, torchs.ids)
    assert "engine" not in found.settings


def test_the_method_faiss_is_exact_search_by_faiss(rows):
    old, new = mine_neighbors(rows, 10, method="faiss"), mine_neighbors(rows, 10, method="exact", engine="faiss")
    np.testing.assert_array_equal(old.ids, new.ids)
    assert old.settings["method"] == new.settings["method"] == "exact"
    with pytest.raises(
        InputError, match=r"neighbors\.method=faiss is not for engine=torch: set neighbors\.method=exact"
    ):
        mine_neighbors(rows, 10, method="faiss", engine="torch")


@pytest.mark.parametrize("engine", ["faiss", "cuvs"])
def test_auto_takes_lists_from_so_many_rows_on_as_on_a_gpu(engine, rows, cuvs, monkeypatch):
    assert mine_neighbors(rows, 10, engine=engine).settings["method"] == "exact"
    monkeypatch.setattr(mining_module, "IVF_ROWS", 2999)
    assert mine_neighbors(rows, 10, engine=engine).settings["method"] == "ivf"


def test_groups_overlap_more_until_the_recall_is_reached_and_else_all_pairs_are_compared(rows, cuvs, monkeypatch):
    monkeypatch.setattr(cuvs_module, "ROWS_PER_NEIGHBOR", 4)
    few = mine_neighbors(rows, 10, method="ivf", engine="cuvs", recall=0.5)
    assert cuvs.calls == [{"groups": 64, "overlap": 2}]
    assert few.settings["index"] == "64 groups"
    assert few.settings["recall"] == pytest.approx(few.settings["calibrated_recall"], abs=0.05)
    cuvs.calls.clear()
    scattered = np.random.default_rng(1).standard_normal((3000, 12)).astype(np.float32)
    every = mine_neighbors(scattered, 10, method="ivf", engine="cuvs", recall=1.0)
    assert cuvs.calls == [*({"groups": 64, "overlap": of} for of in (2, 4)), {"brute_force": (3000, 12)}]
    assert every.settings["index"] == "Flat"
    np.testing.assert_array_equal(every.ids, mine_neighbors(scattered, 10, method="exact").ids)


def test_many_rows_are_in_half_precision_on_the_gpu(rows, cuvs, monkeypatch):
    monkeypatch.setattr("deepclust.neighbors.search.HALF_BYTES", 1000)
    found = mine_neighbors(rows, 10, method="exact", engine="cuvs")
    assert share_of_same(found.ids, mine_neighbors(rows, 10, method="exact").ids) > 0.98


def test_an_engine_does_not_meet_the_cache_of_another(rows, cuvs, tmp_path, monkeypatch):
    mined: list[str] = []
    real = cache_module.mine_neighbors

    def spy(features: Any, k: int, *, engine: str, **options: Any) -> Any:
        mined.append(engine)
        return real(features, k, engine=engine, **options)

    monkeypatch.setattr(cache_module, "mine_neighbors", spy)
    for engine in ("auto", "torch", "faiss", "cuvs", "auto", "torch", "faiss", "cuvs"):
        cached_neighbors(FeatureSet.from_arrays(rows), 5, method="exact", engine=engine, cache_dir=tmp_path)
    assert mined == ["auto", "torch", "faiss", "cuvs"]


def refused(line: str, rows: np.ndarray, **options: Any) -> None:
    with pytest.raises(InputError, match=line) as refusal:
        mine_neighbors(rows, 5, **options)
    assert "\n" not in str(refusal.value)


def test_what_an_engine_cannot_do_is_refused(rows, cuvs, monkeypatch):
    refused(r"unknown neighbors\.engine 'annoy': choose one of auto, torch, faiss, cuvs", rows, engine="annoy")
    refused(r"by euclidean distance are searched by torch alone", rows, metric="euclidean", engine="faiss")
    refused(
        r"method=screened is torch's, not cuvs's: set neighbors\.method=exact", rows, method="screened", engine="cuvs"
    )
    monkeypatch.setattr(engines_module, "missing_gpu_bytes", lambda *shape: 3 << 30)
    refused(
        r"the GPU lacks 3\.2 GB .* 3000 × 12 rows by neighbors\.engine=cuvs: set neighbors\.method=ivf",
        rows,
        engine="cuvs",
    )
    monkeypatch.setattr(cuvs_module, "free_bytes", lambda: 1000)
    refused(r"wants 0\.0 GB of memory .* not free: set neighbors\.engine=auto", rows, method="ivf", engine="cuvs")


def test_all_gpus_are_used_from_one_process_alone(cuvs):
    two = SimpleNamespace(world_size=2)
    with pytest.raises(InputError, match=r"from one process, and this run has 2: mine by a run of one process before"):
        engines_module.check_cuvs_fits("ivf", (3000, 12), two)  # type: ignore[arg-type]
    engines_module.check_cuvs_fits("exact", (3000, 12), Ranks())


def test_an_engine_that_is_not_there_is_refused_with_the_remedy(rows, monkeypatch):
    monkeypatch.setattr(engines_module, "find_spec", lambda name: None)
    refused(r"needs cuVS: pip install 'deepclust\[cuvs\]', or leave it out", rows, engine="cuvs")
    monkeypatch.setattr(engines_module, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(r"needs an NVIDIA GPU, and torch sees none: set neighbors\.engine=torch", rows, engine="cuvs")
    monkeypatch.setattr(engines_module, "version", lambda package: {"faiss-gpu": "1", "faiss-cpu": "1"}[package])
    monkeypatch.setattr(engines_module, "PackageNotFoundError", KeyError)
    refused(
        r"faiss-cpu and faiss-gpu overwrite each other's files: pip uninstall faiss-cpu faiss-gpu", rows, engine="faiss"
    )
