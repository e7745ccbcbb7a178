"""The feature bank: the same rows whether they are held or staged from the file, and a shuffle that mixes.

Shape suffixes: N samples, D dimensions.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from deepclust.features import bank as bank_module
from deepclust.features.bank import BankRows, FeatureBank, fits_in_memory
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.runtime import devices
from deepclust.runtime.devices import free_bytes
from deepclust.training import pairs as pairs_module
from deepclust.training.fit import fit_heads
from deepclust.training.pairs import PairBatches, shuffled
from deepclust.training.recipe import Recipe
from deepclust.training.step_memory import training_bytes
from deepclust.training.trained import TrainedHeads
from deepclust.training.trainer_settings import TrainerSettings

HERE = TrainerSettings(accelerator="cpu", precision="32")


@pytest.fixture
def mapped(planted: FeatureSet, tmp_path: Path) -> FeatureSet:
    """The planted clusters as a memory-mapped folder of float16 shards."""
    half = FeatureSet.from_arrays(np.asarray(planted.features).astype(np.float16), planted.labels)
    half.save(tmp_path / "features", shard_bytes=100 * 16 * 2)
    return load_features(tmp_path / "features")


def bank_of(features: FeatureSet, in_memory: bool, **options) -> FeatureBank:
    return FeatureBank(features, FeatureTransform.fitted_to(features), in_memory=in_memory, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_staged_rows_are_the_held_rows(dtype, mapped):
    held, staged = (bank_of(mapped, in_memory, dtype=dtype) for in_memory in (True, False))
    ids = torch.tensor([7, 299, 0, 7, 150, 100])
    torch.testing.assert_close(staged.gather(ids), held.gather(ids), rtol=0, atol=0)
    for (start, block), (expected_start, expected) in zip(staged.blocks(70), held.blocks(70), strict=True):
        assert start == expected_start
        torch.testing.assert_close(block, expected, rtol=0, atol=0)
    rows = BankRows(staged)
    np.testing.assert_array_equal(rows[10:20], held.gather(torch.arange(10, 20)).float())
    np.testing.assert_array_equal(rows[np.array([5, 3])], held.gather(torch.tensor([5, 3])).float())


def test_batches_come_with_their_rows_staged_ahead(mapped, monkeypatch):
    monkeypatch.setattr(bank_module, "STAGE_ROWS", 60)
    staged, held = bank_of(mapped, False), bank_of(mapped, True)
    readers, stages = set(), []
    read = FeatureBank._read

    def watched(self, ids, pool=None):
        readers.add(threading.current_thread())
        stages.append(len(ids))
        return read(self, ids, pool)

    monkeypatch.setattr(FeatureBank, "_read", watched)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    seen = []
    for ids in staged.prefetched(order.split(25), lambda ids: ids):
        torch.testing.assert_close(staged.gather(ids), held.gather(ids), rtol=0, atol=0)
        torch.testing.assert_close(staged.gather(ids[:9]), held.gather(ids[:9]), rtol=0, atol=0)  # a micro-batch
        seen.append(ids)
    assert torch.equal(torch.cat(seen), order)
    # Three batches of 25 make a stage; nothing was read outside it, and nothing on the thread that trains.
    assert stages == [75, 75, 75, 75]
    assert threading.current_thread() not in readers


def test_a_reader_that_fails_stops_the_training(mapped, monkeypatch):
    staged = bank_of(mapped, False)
    monkeypatch.setattr(FeatureBank, "_read", lambda *_: (_ for _ in ()).throw(OSError("disk gone")))
    with pytest.raises(OSError, match="disk gone"):
        list(staged.prefetched(torch.arange(300).split(50), lambda ids: ids))


@pytest.mark.parametrize("loss", ["temi", "scan", "tsp"])
@pytest.mark.parametrize("init", ["random", "kmeans", "spectral"])
def test_training_from_the_file_is_training_from_memory(loss, init, mapped, monkeypatch):
    monkeypatch.setattr(bank_module, "STAGE_ROWS", 100)
    head = "linear" if loss == "tsp" else "mlp"
    sizes = {"n_heads": 2, "hidden_dim": 16, "embedding_dim": 8, "n_neighbors": 10, "max_epochs": 2, "batch_size": 70}
    recipe = Recipe.of(loss, n_clusters=5, head=head, init=init, micro_batch_size=40, **sizes)
    held, staged = (fit_heads(mapped, recipe, trainer=HERE, in_memory=in_memory).trained for in_memory in (True, False))
    for name, value in held.heads.state_dict().items():
        torch.testing.assert_close(staged.heads.state_dict()[name], value, rtol=0, atol=1e-6)


def test_up_to_a_window_the_order_is_that_of_memory(monkeypatch):
    monkeypatch.setattr(pairs_module, "WINDOW_ROWS", 1000)
    for n_samples, same in ((1000, True), (1001, False)):
        inside, outside = (
            shuffled(n_samples, torch.Generator().manual_seed(3), windowed=windowed) for windowed in (False, True)
        )
        assert torch.equal(inside, outside) == same
        assert torch.equal(outside.sort().values, torch.arange(n_samples))


def test_the_windows_of_a_sorted_file_are_mixed(monkeypatch):
    # 100 classes one after another, windows of a tenth of the samples: a batch should look like a random one.
    monkeypatch.setattr(pairs_module, "WINDOW_ROWS", 10_000)
    labels = np.repeat(np.arange(100), 1000)
    order = shuffled(len(labels), torch.Generator().manual_seed(0), windowed=True).numpy()
    found = [len(np.unique(labels[batch])) for batch in order.reshape(-1, 100)]
    random = [len(np.unique(labels[batch])) for batch in np.random.default_rng(0).permutation(order).reshape(-1, 100)]
    assert np.mean(found) > 0.95 * np.mean(random)
    # ... and its rows lie in runs of the file: each window touches little more blocks than it has rows / 16.
    for window in order.reshape(-1, 10_000):
        assert len(np.unique(window // 16)) <= 10_000 // 16 + 1


def test_windowed_pairs_are_shared_out_and_repeatable(monkeypatch):
    monkeypatch.setattr(pairs_module, "WINDOW_ROWS", 64)
    ids = (np.arange(500)[:, None] + np.arange(1, 5)).astype(np.int32) % 500

    def epoch(**options):
        batches = PairBatches(ids, 48, 7, epoch=lambda: 2, **options).of_epoch(windowed=True)
        return [(batch.anchors_B.tolist(), batch.neighbors_B.tolist()) for batch in batches]

    alone = epoch()
    assert alone == epoch()
    assert sorted(anchor for anchors, _ in alone for anchor in anchors) == list(range(500))
    for step, parts in enumerate(zip(*(epoch(rank=rank, world_size=3) for rank in range(3)))):
        pairs = [pair for anchors, neighbors in parts for pair in zip(anchors, neighbors)]
        assert sorted(pairs) == sorted(zip(*alone[step]))


class Killed(Exception):
    pass


class KillAt(pl.Callback):
    """Dies after so many steps, in the second epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == 5:
            raise Killed


def test_a_resumed_run_keeps_to_its_order(mapped, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs_module, "WINDOW_ROWS", 64)
    sizes = {"n_heads": 1, "hidden_dim": 8, "embedding_dim": 4, "n_neighbors": 5, "max_epochs": 2, "batch_size": 100}
    recipe = Recipe.of("temi", n_clusters=5, init="random", **sizes)
    held, expected = (
        fit_heads(mapped, recipe, trainer=HERE, in_memory=in_memory).trained.losses_H for in_memory in (True, False)
    )
    assert abs(held - expected).max() > 1e-6
    kept = {"checkpoint": tmp_path / "one.ckpt", "trainer": replace(HERE, checkpoint_seconds=0)}
    with pytest.raises(Killed):
        fit_heads(mapped, recipe, in_memory=False, callbacks=[KillAt()], **kept)
    resumed = fit_heads(mapped, recipe, resume=True, **kept)  # by free memory it would be held
    np.testing.assert_allclose(resumed.trained.losses_H, expected, rtol=1e-6)


def test_free_memory_decides(mapped, monkeypatch):
    size = 300 * 16 * 4
    monkeypatch.setattr(bank_module, "free_bytes", lambda device: size / 0.9)
    assert fits_in_memory(300, 16, torch.float32)
    assert not fits_in_memory(301, 16, torch.float32)
    assert not fits_in_memory(300, 16, torch.float32, sharers=2)
    assert fits_in_memory(300, 16, torch.bfloat16, sharers=2)
    assert fits_in_memory(300, 16, torch.bfloat16, beside=size // 2)
    assert not fits_in_memory(300, 16, torch.bfloat16, beside=size // 2 + 1)
    assert not fits_in_memory(300, 16, torch.bfloat16, sharers=2, beside=1)
    assert FeatureBank(mapped, FeatureTransform(16)).in_memory
    monkeypatch.setattr(bank_module, "free_bytes", lambda device: size / 0.9 - 1)
    assert not FeatureBank(mapped, FeatureTransform(16)).in_memory


def test_what_pytorch_keeps_for_later_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 400)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 150)
    assert free_bytes("cuda") == 1250


def test_imagenet21k_is_held_on_a_gpu_of_40_gb(monkeypatch):
    recipe = Recipe.of("temi", n_clusters=10_450, n_heads=32, batch_size=16_384, micro_batch_size=256)
    beside = training_bytes(recipe, 1024, 8, torch.bfloat16, "cuda")
    for free, held in ((39e9, True), (32e9, False)):
        monkeypatch.setattr(bank_module, "free_bytes", lambda device, free=free: free)
        assert fits_in_memory(11_060_000, 1024, torch.bfloat16, "cuda", beside=beside) is held


def test_after_training_the_rows_are_given_back(mapped, monkeypatch):
    banks = []
    release = FeatureBank.release
    monkeypatch.setattr(FeatureBank, "release", lambda bank: (banks.append(bank), release(bank)))
    recipe = Recipe.of("temi", n_clusters=5, n_heads=1, hidden_dim=8, embedding_dim=4, n_neighbors=5, max_epochs=1)
    fit_heads(mapped, recipe, trainer=HERE, in_memory=True)
    assert [bank.in_memory for bank in banks] == [False]


def test_a_control_group_limits_free_memory(tmp_path, monkeypatch):
    unlimited = free_bytes()
    assert 1 << 20 < unlimited < 1 << 50
    monkeypatch.setattr(devices, "CGROUPS", tmp_path)
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        path = line.split(":", 2)[2]
        for root, limit, used, cached in (
            (tmp_path, "memory.max", "memory.current", "file"),
            (tmp_path / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
        ):
            folder = root / path.lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / limit).write_text("1000000\n")
            (folder / used).write_text("700000\n")
            (folder / "memory.stat").write_text(f"{cached} 500000\n")
    assert free_bytes() == 1_000_000 - (700_000 - 500_000)


def test_assigning_holds_no_copy_of_the_features(mapped, monkeypatch):
    recipe = Recipe.of("temi", n_clusters=5, n_heads=1, hidden_dim=8, embedding_dim=4, n_neighbors=5, max_epochs=1)
    trained: TrainedHeads = fit_heads(mapped, recipe, trainer=HERE).trained
    expected = trained.assign(mapped).labels
    monkeypatch.setattr(bank_module, "fits_in_memory", lambda *_: pytest.fail("asked whether a copy would fit"))
    np.testing.assert_array_equal(trained.assign(mapped).labels, expected)
    assert trained.logits(mapped).shape == (300, 5)
