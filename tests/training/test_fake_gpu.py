"""What runs on a GPU keeps to it: tensors of a pretended accelerator, on which torch refuses operands of two devices.

Whole steps with their backward pass are in test_launches.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

import deepclust.neighbors.search as search_module
from deepclust.extraction.encoders import Encoder, _Normalized
from deepclust.features import unit_rows
from deepclust.features.bank import BankRows
from deepclust.features.unit_rows import UnitRows, unit_tensors
from deepclust.losses import LOSSES, BatchLook
from deepclust.metrics import intrinsic, linear_probe
from deepclust.neighbors.search import ExactSearch, ScreenedSearch
from deepclust.spherical_kmeans import assigned, closest, greedy_plus_plus
from deepclust.training import initialization
from deepclust.training.heads import Heads, make_heads
from deepclust.training.initialization import cluster_means, warm_start
from deepclust.training.recipe import Recipe
from deepclust.training.step import by_heads, look_at
from deepclust.training.trained import most_probable

H, C, D, N = 2, 5, 8, 64


class PretendedBank:
    """A bank whose rows lie on the GPU."""

    def __init__(self, device: torch.device) -> None:
        self.rows_ND = torch.randn(N, D, device=device)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        yield 0, self.rows_ND


@pytest.fixture
def pretended(launches, monkeypatch) -> Iterator[torch.device]:
    from_numpy, tensor = torch.from_numpy, torch.tensor
    with launches.pretended_accelerator() as device:
        # What makes tensors of values makes them on the host alone.
        monkeypatch.setattr(torch, "from_numpy", lambda array: launches.without_values(from_numpy(array)))

        def moved(values, *, device=None, **options) -> Tensor:
            return tensor(values, device="cpu", **options).to(device or torch.get_default_device())

        monkeypatch.setattr(torch, "tensor", moved)
        yield device


def heads_on(device: torch.device, recipe: Recipe) -> Heads:
    with device:
        return make_heads(recipe.head, D, C, H, hidden_dim=8, embedding_dim=4)


@pytest.mark.parametrize("loss", LOSSES)
def test_prototypes_start_and_a_loss_is_taken_where_the_heads_are(loss, pretended):
    recipe = Recipe.of(loss, n_clusters=C, n_heads=H, hidden_dim=8, embedding_dim=4)
    heads, bank = heads_on(pretended, recipe), PretendedBank(pretended)
    labels_HN = torch.zeros(H, N, dtype=torch.long, device=pretended)
    heads.set_prototypes(cluster_means(heads, bank, labels_HN, C))
    with torch.no_grad():
        logits_HBC = heads(bank.rows_ND)
    assert logits_HBC.device == pretended
    look = look_at(recipe.loss, logits_HBC, recipe.temperature)
    mean_VHC = recipe.loss.next_mean(recipe.loss.first_mean(H, C).to(pretended), look.mean_VHC)
    for group, student, teacher in by_heads(logits_HBC, logits_HBC, recipe.temperature):
        loss_H, gradients = recipe.loss.gradient(student, teacher, BatchLook(mean_VHC[:, group], look.weights_B))
        assert {tensor.device for tensor in (loss_H, *gradients)} == {pretended}
        assert {tensor.dtype for tensor in (loss_H, *gradients)} == {torch.float32}


def test_heads_on_the_cpu_with_rows_on_the_gpu_are_refused(pretended):
    """What this file would catch: the start before heads were moved to where their inputs are."""
    heads = make_heads("mlp", D, C, H, hidden_dim=8, embedding_dim=4)
    labels_HN = torch.zeros(H, N, dtype=torch.long, device=pretended)
    with pytest.raises(RuntimeError, match="device"):
        cluster_means(heads, PretendedBank(pretended), labels_HN, C)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_warm_start_trains_where_the_heads_are(loss, launches, pretended, monkeypatch):
    monkeypatch.setattr(initialization, "WARM_START_STEPS", 3)
    recipe = Recipe.of(loss, n_clusters=C, n_heads=H, hidden_dim=8, embedding_dim=4, warm_start_epochs=1)
    module = launches.pretended_module(recipe, pretended)
    module.bank._rows_NP, module.bank.dtype = module.bank._rows_NP.float(), torch.float32
    labels_HN = torch.zeros(H, len(module.bank), dtype=torch.long, device=pretended)
    with launches.Launches() as counted:
        warm_start(module.student, module.bank, labels_HN, recipe)
    assert counted.operations["_fused_adamw_"] == 3
    assert counted.host_copies.total() == 2 * 3  # the row numbers of a step, for the inputs and for the labels


def rows_of(dtype: type = np.float16) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, D)).astype(dtype)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_kmeans_keeps_rows_as_they_are_stored_and_adds_up_in_float64(stored, half, launches, pretended, monkeypatch):
    monkeypatch.setattr(unit_rows, "refuse_bad_lengths", lambda *_: None)  # it looks at values
    unit = UnitRows(rows_of(stored), slice(16, N), device=pretended)
    centers_CD = torch.randn(C, D, device=pretended)
    with launches.Launches() as counted:
        labels_S, sums_CD = assigned(unit, centers_CD, half)
    assert counted.host_copies == {}
    assert {labels_S.device, sums_CD.device} == {pretended}
    assert (labels_S.shape, labels_S.dtype) == ((N - 16,), torch.long)
    assert (sums_CD.shape, sums_CD.dtype) == ((C, D), torch.float64)
    assert unit._stored_SD.dtype == {np.float16: torch.float16, np.float32: torch.float32}[stored]
    start, block_BD = next(iter(unit.tensors()))
    assert (start, block_BD.dtype, block_BD.device) == (0, torch.float32, pretended)


def test_kmeans_takes_the_rows_of_a_bank_where_they_lie(pretended, monkeypatch):
    monkeypatch.setattr(unit_rows, "refuse_bad_lengths", lambda *_: None)
    held_NP = torch.randn(N, D, device=pretended, dtype=torch.bfloat16)
    rows = BankRows(SimpleNamespace(shape=(N, D), held_rows=held_NP))
    unit = UnitRows(rows, device=pretended)
    assert unit._stored_SD.untyped_storage() is held_NP.untyped_storage()
    assert [block_BD.dtype for _, block_BD in unit_tensors(rows, slice(0, N), pretended)] == [torch.float32]


@pytest.mark.parametrize("half", [False, True])
def test_seeds_are_chosen_without_waiting_for_the_device(half, launches, pretended):
    with launches.Launches() as counted:
        chosen_C = greedy_plus_plus(torch.randn(N, D, device=pretended), C, np.random.default_rng(0), half)
    assert (chosen_C.device, chosen_C.dtype, len(chosen_C)) == (pretended, torch.long, C)
    assert counted.host_copies.total() == 1  # what was drawn, for all of them


def test_the_closest_centers_are_found_where_the_rows_are(pretended):
    found_BT = closest(torch.randn(N, D, device=pretended), torch.randn(D, C, device=pretended), 3)
    assert (found_BT.device, found_BT.shape) == (pretended, (N, 3))


@pytest.mark.parametrize(("kind", "dtype"), [(ExactSearch, torch.float32), (ScreenedSearch, torch.bfloat16)])
@pytest.mark.parametrize("kept", [True, False])
def test_mining_compares_blocks_on_the_device(kind, dtype, kept, launches, pretended, monkeypatch):
    monkeypatch.setattr(search_module, "fastest_device", lambda: pretended)
    monkeypatch.setattr(search_module, "DATABASE_ROWS", 24)
    monkeypatch.setattr(search_module, "DATABASE_BYTES", 1 << 20 if kept else 0)
    search = kind(rows_of())
    query_QD = torch.randn(4, D, device=pretended, dtype=dtype)
    with launches.Launches() as counted:
        ids_QK, values_QK = search.candidates(query_QD, 7)
    assert (ids_QK.device, values_QK.device) == (pretended, pretended)
    assert (ids_QK.shape, ids_QK.dtype, values_QK.dtype) == ((4, 7), torch.long, dtype)
    assert counted.host_copies.total() == (0 if kept else 3)  # the rows of each block


def test_assignment_is_float32_whatever_the_logits_are(pretended):
    recipe = Recipe.of("temi", n_clusters=C, n_heads=H, hidden_dim=8, embedding_dim=4)
    heads = heads_on(pretended, recipe)
    logits_HBC = heads.logits(heads.weights(), torch.randn(N, D, device=pretended))
    for logits_BC in (logits_HBC[0], logits_HBC[0].bfloat16()):
        probs_BT, ids_BT = most_probable(logits_BC, recipe.temperature, 3)
        assert (probs_BT.device, probs_BT.dtype) == (pretended, torch.float32)
        assert (ids_BT.device, ids_BT.dtype) == (pretended, torch.long)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
def test_silhouettes_are_float32_and_their_sums_float64(metric, launches, pretended):
    own_N = torch.zeros(N, dtype=torch.long, device=pretended)
    sizes_C = torch.ones(C, dtype=torch.long, device=pretended)
    means_CD, spread_C = intrinsic._cluster_moments(rows_of(), own_N, sizes_C, metric)
    assert {(tensor.device, tensor.dtype) for tensor in (means_CD, spread_C)} == {(pretended, torch.float64)}
    _, block_BD = next(iter(intrinsic._blocks(rows_of(), metric, N, pretended)))
    with launches.Launches() as counted:
        values_B = intrinsic.silhouette_of_block(block_BD, own_N, sizes_C, means_CD.float().T, spread_C.float())
    assert (values_B.device, values_B.dtype, values_B.shape) == (pretended, torch.float32, (N,))
    assert counted.host_copies == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_linear_probe_keeps_its_weights_in_float32(dtype, launches, pretended):
    group = linear_probe._Classifiers([(0.1, 0.0), (0.01, 1e-3)], D, C, 0.9, pretended, dtype)
    labels_B = torch.zeros(N, dtype=torch.long, device=pretended)
    with launches.Launches() as counted:
        group.step(torch.randn(N, D, device=pretended, dtype=dtype), labels_B)
    assert counted.host_copies == {}
    assert {(tensor.device, tensor.dtype) for tensor in (group.weight, group.velocity)} == {(pretended, torch.float32)}


def test_extraction_normalizes_on_the_device_and_gives_float32_on_the_host(pretended):
    encoder = object.__new__(Encoder)
    encoder.device, encoder.precision = pretended, "bfloat16"
    with pretended:
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        normalized = _Normalized(network, SimpleNamespace(mean=(0.5,) * 3, std=(0.2,) * 3))
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0].device, inputs[0].shape)))
    features_BD = encoder._run(normalized, torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
    assert seen == [(pretended, (2, 3, 8, 8))]
    assert (features_BD.device.type, features_BD.dtype, features_BD.shape) == ("cpu", torch.float32, (2, 4))
