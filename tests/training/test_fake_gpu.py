"""What runs on a GPU keeps to it: tensors of a pretended accelerator, on which torch refuses operands of two devices.

Whole steps with their backward pass are in test_launches.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from deepclust.losses import LOSSES, BatchLook
from deepclust.training import initialization
from deepclust.training.heads import Heads, make_heads
from deepclust.training.initialization import cluster_means, warm_start
from deepclust.training.recipe import Recipe
from deepclust.training.step import by_heads, look_at

H, C, D, N = 2, 5, 8, 64


class PretendedBank:
    """A bank whose rows lie on the GPU."""

    def __init__(self, device: torch.device) -> None:
        self.rows_ND = torch.randn(N, D, device=device)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        yield 0, self.rows_ND


@pytest.fixture
def pretended(launches) -> Iterator[torch.device]:
    with launches.pretended_accelerator() as device:
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
