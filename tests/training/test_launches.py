"""A step on an accelerator: few, large operations, and nothing for which the host waits. Counted on a pretended one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch._subclasses.fake_tensor import DataDependentOutputException

from deepclust.losses import LOSSES
from deepclust.runtime.ranks import Ranks
from deepclust.training.head_share import HeadShare
from deepclust.training.pairs import PairBatch
from deepclust.training.recipe import Recipe
from deepclust.training.step_memory import training_bytes
from deepclust.training.termination import ACCELERATOR_BATCHES, EndTogether

# Cosines of columns take more operations than what is said of a loss.
OPERATIONS = {"pica": 70, "nnm": 80}
# Of a step in which a teacher is fitted: a dozen more for each of its ten steps.
STEP_OPERATIONS = {"turtle": 270}
# Above the peak, by so much at most; the three losses closely, those that they are compared with for certain.
CLOSELY = {"temi": 1.7, "scan": 1.7, "tsp": 1.7}
# PMI, WMI and SCAN as published are TEMI's and TSP's operations.
every_loss = pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in ("pmi", "wmi", "scan_original")])


def recipe_of(loss: str, **settings: Any) -> Recipe:
    batch_size = 512 // (2 if LOSSES[loss].local_pairs else 1)  # as many pairs
    sizes = {"n_clusters": 10, "n_heads": 8, "batch_size": batch_size, "freeze_prototypes_epochs": 0, "head": "mlp"}
    return Recipe.of(loss, **{**sizes, **settings})


@every_loss
@pytest.mark.parametrize(("clusters", "heads"), [(10, 8), (1000, 50), (10_450, 50)])
def test_a_loss_launches_60_operations_at_most_and_a_step_150(loss, clusters, heads, launches):
    recipe = recipe_of(loss, n_clusters=clusters, n_heads=heads)
    assert launches.launches_of_a_loss(recipe).operations.total() <= OPERATIONS.get(loss, 60)
    assert launches.launches_of_a_step(recipe).operations.total() <= STEP_OPERATIONS.get(loss, 150)


@every_loss
@pytest.mark.parametrize("held", [True, False], ids=["held", "staged"])
def test_a_step_copies_nothing_from_or_to_the_host(loss, held, launches):
    """What reads a value would fail: there are none. Clipping and micro-batches are steps, too."""
    recipe = recipe_of(loss, micro_batch_size=256, gradient_clip=1.0)
    assert launches.launches_of_a_step(recipe, held=held).host_copies == {}


def test_reading_a_value_and_copying_it_are_noticed(launches):
    with launches.pretended_accelerator() as device, launches.Launches() as counted:
        loss = torch.ones(3, device=device).sum()
        with pytest.raises(DataDependentOutputException):
            float(loss)
        loss.cpu()
        torch.zeros(3).to(device)
    assert counted.host_copies.total() == 2


@every_loss
@pytest.mark.parametrize("shared", [False, True], ids=["batch", "heads"])
def test_over_ranks_a_step_waits_for_nothing_and_the_question_of_sigterm_is_sent_on_its_way(
    loss, shared, launches, monkeypatch
):
    """Every eighth batch the answer is sent to the host, and it is read when the next question is asked: reading one
    fails here, as there are no values."""
    monkeypatch.setattr(dist, "all_reduce", lambda *_, **__: None)
    monkeypatch.setattr(dist, "broadcast", lambda *_, **__: None)
    recipe, watcher = recipe_of(loss, micro_batch_size=256), EndTogether()
    if shared:  # a module without values cannot be moved to a device
        monkeypatch.setattr(HeadShare, "of", lambda *_: replace(recipe, n_heads=4).new_heads(64))
    with launches.pretended_accelerator() as device:
        shares = HeadShare(8, Ranks(0, 2)) if shared else None
        module = launches.pretended_module(recipe, device, share=shares)
        module.trainer.world_size = 2
        module.trainer.strategy.root_device = device
        module.on_train_start()
        assert module.shares_batches != shared
        ids_B = torch.empty(256, dtype=torch.long, device=device)
        with launches.Launches() as counted:
            for _ in range(2 * ACCELERATOR_BATCHES - 1):
                with torch.autocast(device.type, torch.bfloat16):
                    module.training_step(PairBatch(ids_B, ids_B, 512), 0)
                watcher.on_train_batch_end(module.trainer)
        assert counted.host_copies.total() == 1
        with pytest.raises(DataDependentOutputException):
            watcher.on_train_batch_end(module.trainer)


@every_loss
def test_micro_batches_take_the_prototypes_directions_once(loss, launches):
    """A step with twice as many micro-batches launches as many casts and normalizations of weights."""
    two, four = (launches.launches_of_a_step(recipe_of(loss, micro_batch_size=size)).operations for size in (256, 128))
    # Of each network once, and once in the gradient; the rest are of the embeddings of each micro-batch.
    per_part = (four["linalg_vector_norm"] - two["linalg_vector_norm"]) / 2
    networks = 2 if LOSSES[loss].uses_teacher and loss != "turtle" else 1  # whose teacher is linear
    assert two["linalg_vector_norm"] - 2 * per_part == networks + 1


@every_loss
@pytest.mark.parametrize("head", ["mlp", "linear"])
@pytest.mark.parametrize(
    ("clusters", "batch", "micro"), [(10, 512, None), (1000, 512, None), (10_450, 1024, 256), (10_450, 512, None)]
)
def test_what_training_takes_of_memory_is_known_before(loss, head, clusters, batch, micro, launches):
    recipe = recipe_of(loss, head=head, n_clusters=clusters, n_heads=32, batch_size=batch, micro_batch_size=micro)
    peak = launches.peak_of_training(recipe, 1024)
    assert peak <= training_bytes(recipe, 1024, dtype=torch.bfloat16, device="cuda") <= CLOSELY.get(loss, 2.1) * peak
