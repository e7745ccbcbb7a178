"""The batched linear probe against torch's own layer and optimizer, one classifier at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from deepclust.features.feature_set import FeatureSet
from deepclust.metrics.linear_probe import LEARNING_RATES, WEIGHT_DECAYS, epoch_batches, held_out_split, linear_probe
from deepclust.runtime.errors import InputError
from tests.conftest import planted_clusters

SHORT = {"max_epochs": 3, "batch_size": 32, "precision": "32", "device": "cpu"}


def splits(n_classes=4, noise=0.25):
    rows, labels = planted_clusters(n_classes, 50, dim=12, noise=noise)
    return FeatureSet.from_arrays(rows[:150], labels[:150]), FeatureSet.from_arrays(rows[150:], labels[150:])


def plain_loop(train, learning_rate, weight_decay, *, seed=0):
    """The same classifier with torch.nn.Linear and torch.optim.SGD."""
    layer = torch.nn.Linear(train.dim, 4)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
    rows, labels = torch.from_numpy(train.features), torch.from_numpy(train.labels)
    for epoch in range(SHORT["max_epochs"]):
        for ids in epoch_batches(len(train), SHORT["batch_size"], seed, epoch):
            optimizer.zero_grad()
            functional.cross_entropy(layer(rows[ids]), labels[ids]).backward()
            optimizer.step()
    return layer


@pytest.mark.parametrize(("rate", "decay"), [(0.5, 0.0), (0.05, 0.1)])
def test_a_point_of_the_grid_is_torchs_sgd(rate, decay):
    train, val = splits()
    # The point sits in the middle of a grid; the others do not reach it.
    probe = linear_probe(train, val, learning_rates=(rate,), weight_decays=(decay,), **SHORT)
    layer = plain_loop(train, rate, decay)
    np.testing.assert_allclose(probe.weight_DC, layer.weight.detach().numpy().T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(probe.bias_C, layer.bias.detach().numpy(), rtol=1e-4, atol=1e-6)
    right = layer(torch.from_numpy(val.features)).argmax(1).numpy() == val.labels
    assert probe.accuracy == pytest.approx(right.mean())


def test_every_point_of_a_grid_is_what_it_is_alone():
    train, val = splits(noise=0.4)
    rates, decays = (1e-3, 0.3), (0.0, 0.1)
    together = linear_probe(train, val, learning_rates=rates, weight_decays=decays, **SHORT)
    in_groups = linear_probe(train, val, learning_rates=rates, weight_decays=decays, at_once=3, **SHORT)
    alone = [
        linear_probe(train, val, learning_rates=(rate,), weight_decays=(decay,), **SHORT).grid[0]
        for rate in rates
        for decay in decays
    ]
    assert together.grid == in_groups.grid == tuple(alone)
    assert len({point.accuracy for point in alone}) > 1
    np.testing.assert_allclose(together.weight_DC, in_groups.weight_DC, rtol=1e-5, atol=1e-7)
    assert together.accuracy == max(point.accuracy for point in alone)


def test_the_default_grid_is_the_papers():
    assert LEARNING_RATES == (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3)
    assert WEIGHT_DECAYS == (0, 1e-3, 1e-5)
    train, val = splits()
    probe = linear_probe(train, val, **SHORT)
    assert len(probe.grid) == 18
    assert probe.accuracy > 0.5


def test_class_accuracies_and_top_classes_belong_to_the_best_point():
    rows, labels = planted_clusters(4, 50, dim=12, noise=0.25)
    names = np.array([10, 20, 30, 40])[labels]
    train, val = FeatureSet.from_arrays(rows[:150], names[:150]), FeatureSet.from_arrays(rows[150:], names[150:])
    probe = linear_probe(train, val, learning_rates=(0.3,), **SHORT)
    assert probe.classes_C.tolist() == [10, 20, 30, 40]
    assert probe.top_ids_NT.shape == (50, 4)
    right = probe.top_ids_NT[:, 0] == val.labels
    assert right.mean() == probe.accuracy
    for index, name in enumerate(probe.classes_C):
        assert probe.class_accuracy_C[index] == pytest.approx(right[val.labels == name].mean())


def test_a_class_without_training_samples_is_wrong_and_one_without_validation_samples_unknown():
    rows, labels = planted_clusters(4, 50, dim=12, noise=0.05)
    train = FeatureSet.from_arrays(rows[labels < 3], labels[labels < 3])
    val = FeatureSet.from_arrays(rows[labels > 0], labels[labels > 0])
    probe = linear_probe(train, val, learning_rates=(0.3,), **SHORT)
    assert probe.accuracy == pytest.approx(2 / 3)
    assert np.isnan(probe.class_accuracy_C[0])
    assert probe.class_accuracy_C[1:].tolist() == [1, 1]


def test_mapped_rows_give_the_classifier_of_held_ones(tmp_path):
    train, val = splits()
    train.save(tmp_path / "train")
    from deepclust.features.feature_files import load_features

    mapped = load_features(tmp_path / "train")
    held = linear_probe(train, val, learning_rates=(0.3,), in_memory=True, **SHORT)
    staged = linear_probe(mapped, val, learning_rates=(0.3,), in_memory=False, **SHORT)
    np.testing.assert_array_equal(held.weight_DC, staged.weight_DC)


def test_bfloat16_products_change_little(digits):
    train, val = held_out_split(digits)
    options = {**SHORT, "learning_rates": (0.1,), "weight_decays": (0.0,), "max_epochs": 5}
    exact = linear_probe(train, val, **options)
    half = linear_probe(train, val, **{**options, "precision": "bf16"})
    assert exact.accuracy > 0.85
    assert half.accuracy == pytest.approx(exact.accuracy, abs=0.02)


def test_the_held_out_split_takes_a_fifth_of_each_class(digits):
    train, val = held_out_split(digits, seed=1)
    sizes = np.bincount(digits.labels)
    np.testing.assert_array_equal(np.bincount(val.labels), (0.2 * sizes).astype(int))
    np.testing.assert_array_equal(np.bincount(train.labels) + np.bincount(val.labels), sizes)


def test_what_cannot_be_trained_is_refused():
    train, val = splits()
    with pytest.raises(InputError, match="needs labels on both splits"):
        linear_probe(FeatureSet.from_arrays(train.features), val)
    with pytest.raises(InputError, match="12 dimensions, the other 7"):
        linear_probe(train, FeatureSet.from_arrays(np.ones((3, 7), np.float32), [0, 1, 2]))
    with pytest.raises(InputError, match="every classifier of the linear probe diverged"):
        linear_probe(train, val, learning_rates=(1e38,), weight_decays=(1.0,), **SHORT)
    with pytest.raises(InputError, match="precision is '64'"):
        linear_probe(train, val, precision="64")


def test_too_little_memory_is_told_before_training(monkeypatch):
    train, val = splits()
    monkeypatch.setattr("deepclust.metrics.linear_probe.free_bytes", lambda device: 1000)
    with pytest.raises(InputError, match=r"needs 0\.0 GB to train"):
        linear_probe(train, val, in_memory=False)
