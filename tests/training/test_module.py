"""Training: exact over micro-batches, true to its settings, and right on data whose clusters are known.

Shape suffixes: H heads, N samples.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from sklearn.metrics import adjusted_rand_score

from deepclust.features.feature_set import FeatureSet
from deepclust.losses import LOSSES
from deepclust.runtime.errors import InputError
from deepclust.training.cosine import head_groups
from deepclust.training.fit import fit_heads
from deepclust.training.heads import make_heads
from deepclust.training.module import schedule_factor
from deepclust.training.recipe import Recipe
from deepclust.training.trained import TrainedHeads
from deepclust.training.trainer_settings import TrainerSettings

# These differ from temi and tsp in numbers alone.
VARIANTS = ("pmi", "wmi", "scan_original")
every_loss = pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in VARIANTS])


def recipe_of(loss: str, **settings: Any) -> Recipe:
    """Small and quick: 300 samples make 3 batches of 100."""
    small: dict[str, Any] = {
        "n_clusters": 5,
        "n_heads": 2,
        "hidden_dim": 16,
        "embedding_dim": 8,
        "n_neighbors": 10,
        "max_epochs": 3,
        "batch_size": 100,
        "learning_rate": 5e-3,
        "head": LOSSES[loss].trained_with.get("head", "mlp"),
        "temperature": 1.0 if loss == "dec" else 0.1,
        "pca_dim": None,
        "init": "kmeans",
        "preprocess": "standardize",
    }
    # The optimizer of every loss alike, so that the tests below differ in the loss alone.
    alike = {"optimizer": "adamw", "weight_decay": 1e-4, "freeze_prototypes_epochs": 1}
    every_sample = (
        {"threshold": 0.0} if loss == "self_label" else {}
    )  # else a head that starts at random learns nothing
    if LOSSES[loss].keeps_start and settings.get("init") == "random":
        settings["init"] = "kmeans"  # there is nothing to keep of a random start, which is refused
    return Recipe.of(loss, **{**small, **alike, **every_sample, **settings})


def fit(features: FeatureSet, recipe: Recipe, **options: Any) -> TrainedHeads:
    names = {member.name for member in dataclasses.fields(TrainerSettings)}
    settings = {name: options.pop(name) for name in list(options) if name in names}
    trainer = TrainerSettings(**{"accelerator": "cpu", "precision": "32", **settings})
    return fit_heads(features, recipe, trainer=trainer, **options).trained


def assert_same_heads(first: TrainedHeads, second: TrainedHeads, atol: float = 0.0) -> None:
    for (name, value), other in zip(first.heads.state_dict().items(), second.heads.state_dict().values()):
        np.testing.assert_allclose(value, other, atol=atol, rtol=0, err_msg=name)
    np.testing.assert_allclose(first.losses_H, second.losses_H, atol=atol, rtol=0)


@every_loss
@pytest.mark.parametrize("micro_batch_size", [100, 34, 41, 7], ids=["one", "three", "uneven", "many"])
def test_micro_batches_change_memory_and_nothing_else(loss, micro_batch_size, planted):
    whole = fit(planted, recipe_of(loss))
    parts = fit(planted, recipe_of(loss, micro_batch_size=micro_batch_size))
    assert_same_heads(parts, whole, atol=1e-4)


@every_loss
def test_equal_seeds_give_equal_heads(loss, planted):
    torch.manual_seed(1)
    first = fit(planted, recipe_of(loss, seed=4))
    torch.manual_seed(2)  # the global generator has no say
    second = fit(planted, recipe_of(loss, seed=4))
    assert_same_heads(first, second)
    assert not np.allclose(first.losses_H, fit(planted, recipe_of(loss, seed=5)).losses_H)


@pytest.mark.parametrize("loss", [one for one in LOSSES if one not in VARIANTS and not LOSSES[one].keeps_start])
def test_prototypes_stay_while_they_are_frozen(loss, planted):
    start = recipe_of(loss, init="random", max_epochs=1, freeze_prototypes_epochs=1, weight_decay=0.5)
    drawn = make_heads(start.head, 16, 5, 2, hidden_dim=16, embedding_dim=8, seed=start.seed)
    frozen = fit(planted, start).heads
    thawed = fit(planted, recipe_of(loss, init="random", max_epochs=2, freeze_prototypes_epochs=1)).heads
    free = fit(planted, recipe_of(loss, init="random", max_epochs=1, freeze_prototypes_epochs=0)).heads
    # The teacher's moving average of equal numbers may round.
    np.testing.assert_allclose(frozen.prototypes.detach(), drawn.prototypes.detach(), atol=1e-7)
    for moved in (thawed, free):
        assert (moved.prototypes - drawn.prototypes).abs().max() > 1e-5
    if start.head == "mlp":
        assert (frozen.hidden_weight - drawn.hidden_weight).abs().max() > 1e-5


def test_weight_decay_spares_biases_and_gains(planted):
    recorder = Recorder()
    fit(planted, recipe_of("temi", weight_decay=0.3, max_epochs=1), callbacks=[recorder])
    assert recorder.decay == {
        "hidden_weight": 0.3,
        "embedding_weight": 0.3,
        "prototypes": 0.3,
        "hidden_bias": 0.0,
        "embedding_bias": 0.0,
        "gain": 0.0,
    }


def test_gains_decay_where_the_recipe_says_so_as_in_the_temi_authors_code(planted):
    # Their gains are (C, 1), and `get_params_groups` spares biases and vectors alone.
    recorder = Recorder()
    fit(planted, recipe_of("temi", weight_decay=0.3, decay_gains=True, max_epochs=1), callbacks=[recorder])
    decaying = {name for name, decay in recorder.decay.items() if decay}
    assert decaying == {"hidden_weight", "embedding_weight", "prototypes", "gain"}


def test_the_schedule_warms_up_then_stays_or_falls_to_zero():
    constant = [schedule_factor(step, 10, 0.4, "constant") for step in range(10)]
    np.testing.assert_allclose(constant, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])
    cosine = [schedule_factor(step, 10, 0.4, "cosine") for step in range(10)]
    falling = [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    np.testing.assert_allclose(cosine, [0.25, 0.5, 0.75, 1, *falling])
    assert schedule_factor(10, 10, 0.4, "cosine") == pytest.approx(0)
    assert schedule_factor(0, 10, 0.0, "cosine") == 1


class Recorder(pl.Callback):
    """What happened at each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.decay: dict[str, float] = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        for group in optimizer.param_groups:
            for name, parameter in pl_module.student.named_parameters():
                if any(parameter is member for member in group["params"]):
                    self.decay[name] = group["weight_decay"]


def test_the_learning_rate_is_that_of_a_batch_of_256_scaled(planted):
    recorder = Recorder()
    recipe = recipe_of("temi", learning_rate=0.01, warmup_fraction=0.5, lr_schedule="constant", max_epochs=2)
    fit(planted, recipe, callbacks=[recorder])
    expected = 0.01 * 100 / 256 * np.array([1 / 3, 2 / 3, 1, 1, 1, 1])
    np.testing.assert_allclose(recorder.rates, expected)


@pytest.mark.parametrize("of_old", [False, True], ids=["", "from before the scheduler was saved"])
def test_a_resumed_run_keeps_to_the_learning_rates(of_old, planted, tmp_path):
    recipe, checkpoint = recipe_of("temi", warmup_fraction=0.4), tmp_path / "one.ckpt"
    whole, first, second = Recorder(), Recorder(), Recorder()
    fit(planted, recipe, callbacks=[whole])
    with pytest.raises(Stop):
        fit(planted, recipe, checkpoint=checkpoint, checkpoint_seconds=0, callbacks=[first, StopAt(4)])
    if of_old:
        as_of_old(checkpoint)
    fit(planted, recipe, checkpoint=checkpoint, resume=True, callbacks=[second])
    assert [*first.rates[:3], *second.rates] == whole.rates


def test_a_clipped_gradient_moves_the_heads_otherwise(planted):
    free = fit(planted, recipe_of("scan", optimizer="adam", init="random"))
    clipped = fit(planted, recipe_of("scan", optimizer="adam", init="random", gradient_clip=1e-6))
    assert not np.allclose(free.losses_H, clipped.losses_H, atol=1e-5)


@every_loss
def test_the_best_head_has_the_lowest_loss_of_the_last_epoch(loss, planted, tmp_path):
    logger = CSVLogger(tmp_path, name="logs", version="")
    recipe = recipe_of(loss, n_heads=4, init="random")
    trained = fit(planted, recipe, logger=logger, log_every_n_steps=1)
    logger.save()
    lines = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()
    columns = lines[0].split(",")
    last = [line.split(",") for line in lines[1:] if line.split(",")[columns.index("train/loss_head_00")]][-1]
    logged_H = [float(last[columns.index(f"train/loss_head_{head:02d}")]) for head in range(4)]
    np.testing.assert_allclose(trained.losses_H, logged_H, rtol=1e-4)
    assert trained.best_head == int(np.argmin(logged_H))
    np.testing.assert_array_equal(
        trained.assign(planted).labels, trained.logits(planted, head=trained.best_head).argmax(axis=1)
    )


@every_loss
def test_a_checkpoint_holds_plain_values_and_assigns_as_the_trained_heads_do(loss, planted, tmp_path):
    checkpoint = tmp_path / "one.ckpt"
    trained = fit(planted, recipe_of(loss, n_heads=3, init="random"), checkpoint=checkpoint, checkpoint_seconds=0)
    torch.load(checkpoint, weights_only=True)
    loaded = TrainedHeads.load(checkpoint)
    assert_same_heads(loaded, trained)
    assert (loaded.best_head, loaded.recipe) == (trained.best_head, trained.recipe)
    np.testing.assert_array_equal(loaded.assign(planted).top_ids, trained.assign(planted).top_ids)
    exported = TrainedHeads.load(trained.save(tmp_path / "export.pt"))
    assert_same_heads(exported, trained)


class Stop(Exception):
    pass


class StopAt(pl.Callback):
    """Dies after so many steps, as a killed process does: nothing is said to anybody."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise Stop


@every_loss
@pytest.mark.parametrize("step", [4, 6, 8], ids=["in an epoch", "after the last step of an epoch", "in the last epoch"])
def test_a_run_that_died_resumes_to_the_same_heads(loss, step, planted, tmp_path):
    recipe = recipe_of(loss, n_heads=3, init="random")
    expected = fit(planted, recipe)
    checkpoint = tmp_path / "one.ckpt"
    with pytest.raises(Stop):
        fit(planted, recipe, checkpoint=checkpoint, checkpoint_seconds=0, callbacks=[StopAt(step)])
    resumed = fit(planted, recipe, checkpoint=checkpoint, resume=True)
    assert_same_heads(resumed, expected)
    again = fit(planted, recipe, checkpoint=checkpoint, resume=True)  # nothing is left to do
    assert_same_heads(again, expected)


def test_resuming_with_other_settings_or_features_is_refused(planted, tmp_path):
    checkpoint = tmp_path / "one.ckpt"
    fit(planted, recipe_of("temi", max_epochs=1), checkpoint=checkpoint)
    with pytest.raises(InputError, match=r"trained with other settings \(max_epochs\)"):
        fit(planted, recipe_of("temi", max_epochs=2), checkpoint=checkpoint, resume=True)
    narrow = FeatureSet.from_arrays(np.asarray(planted.features)[:, :9])
    with pytest.raises(InputError, match="the features have 9 dimensions, but the heads were trained on 16"):
        fit(narrow, recipe_of("temi", max_epochs=1), checkpoint=checkpoint, resume=True)


def as_of_old(checkpoint: Path) -> None:
    """Rewrite a checkpoint as those were that held one mean of the batch per head and the number of steps, no more."""
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["state_HC"] = content["state_dict"].pop("mean_VHC")[0]
    content["deepclust"]["steps_done"] = content["lr_schedulers"][0]["last_epoch"]
    content["lr_schedulers"] = []
    content["PairDataModule"] = {"in_memory": content["deepclust"].pop("in_memory")}
    for group in content["optimizer_states"][0]["param_groups"]:
        del group["initial_lr"]
        group["lr"] = math.nan  # it held the rate of the step before
    torch.save(content, checkpoint)


@pytest.mark.parametrize("loss", ["temi", "scan", "tsp"])
def test_older_checkpoints_resume_but_for_scan(loss, planted, tmp_path):
    recipe, checkpoint = recipe_of(loss), tmp_path / "one.ckpt"
    expected = fit(planted, recipe)
    with pytest.raises(Stop):
        fit(planted, recipe, checkpoint=checkpoint, checkpoint_seconds=0, callbacks=[StopAt(5)])
    as_of_old(checkpoint)
    assert TrainedHeads.load(checkpoint).assign(planted).n_clusters == 5
    if loss == "scan":
        with pytest.raises(InputError, match="trained with the entropy of both views pooled: start a new run"):
            fit(planted, recipe, checkpoint=checkpoint, resume=True)
    else:
        assert_same_heads(fit(planted, recipe, checkpoint=checkpoint, resume=True), expected)


@every_loss
@pytest.mark.parametrize("preprocess", ["standardize", "none"])
def test_planted_clusters_are_recovered(loss, preprocess, planted):
    recipe = recipe_of(loss, n_heads=4, init="kmeans", max_epochs=15, preprocess=preprocess)
    clustering = fit(planted, recipe).assign(planted)
    assert adjusted_rand_score(planted.labels, clustering.labels) > 0.99
    assert (clustering.method, clustering.n_clusters, clustering.n_found) == (loss, 5, 5)


@every_loss
def test_clusterings_hold_the_five_most_probable_clusters(loss, planted):
    clustering = fit(planted, recipe_of(loss, n_clusters=8)).assign(planted)
    assert clustering.top_ids.shape == clustering.top_probs.shape == (300, 5)
    np.testing.assert_array_equal(clustering.labels, clustering.top_ids[:, 0])
    assert (np.diff(clustering.top_probs, axis=1) <= 0).all()
    assert fit(planted, recipe_of(loss, n_clusters=2)).assign(planted).top_ids.shape == (300, 2)


@pytest.mark.parametrize(
    ("loss", "loss_options", "remedy"),
    [
        ("temi", {"beta": 1.0}, "init=kmeans, a smaller beta, a batch above 160, more epochs"),
        ("scan", {"entropy_weight": 0.0}, "init=kmeans, a larger entropy_weight, a batch above 160, more epochs"),
        ("tsp", {"entropy_weight": 0.0}, "init=kmeans, a larger entropy_weight, a batch above 160, more epochs"),
    ],
)
def test_a_collapse_is_named_with_head_number_and_remedy(loss, loss_options, remedy, planted):
    # More clusters than the data has, at random, and nothing that spreads them: most stay empty.
    recipe = recipe_of(loss, **loss_options, n_clusters=40, init="random", n_heads=2, max_epochs=20)
    trained = fit(planted, recipe)
    with pytest.warns(UserWarning, match="of its 40 clusters") as caught:
        messages = trained.warn_of_collapse(planted)
    assert messages == [str(warning.message) for warning in caught]
    for message in messages:
        head = int(message.split("head ")[1].split()[0])
        used = len(np.unique(trained.logits(planted, head=head).argmax(axis=1)))
        best = " (the best)" if head == trained.best_head else ""
        assert message == f"{loss} head {head}{best} uses {used} of its 40 clusters: try {remedy}"
        assert used < 20


def test_fewer_distinct_rows_than_clusters_are_named_as_the_reason(planted):
    trained = fit(planted, recipe_of("temi", n_clusters=40, init="random", max_epochs=1))
    few = FeatureSet.from_arrays(planted.features[np.arange(300) % 3])
    with pytest.warns(UserWarning, match="only 3 of the rows differ from each other, so ask for at most 3 clusters"):
        trained.warn_of_collapse(few)


def test_heads_that_use_their_clusters_raise_no_warning(planted):
    trained = fit(planted, recipe_of("temi", init="kmeans"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trained.warn_of_collapse(planted) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_clusters": 301}, "n_clusters=301, but there are only 300 samples"),
        ({"n_neighbors": 300}, "n_neighbors=300, but there are only 300 samples.* at most 299 neighbors"),
        ({"n_clusters": 0}, "n_clusters is 0: it must be 1 or more"),
        ({"batch_size": 0}, "batch_size is 0: it must be 1 or more"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"init": "magic"}, "unknown init 'magic': choose one of random, kmeans"),
        ({"head": "deep"}, "unknown head 'deep'"),
        ({"preprocess": "pca"}, "unknown preprocess 'pca'"),
        ({"lr_schedule": "step"}, "unknown lr_schedule 'step'"),
        ({"optimizer": "sgd"}, "unknown optimizer 'sgd'"),
        ({"learning_rate": 0}, "learning_rate is 0: it must be above 0"),
        ({"temperature": -1}, "temperature is -1: it must be above 0"),
        ({"warmup_fraction": 1.5}, "warmup_fraction is 1.5: it must be between 0 and 1"),
        ({"teacher_momentum": -0.1}, "teacher_momentum is -0.1"),
        ({"pca_dim": 17}, "PCA to 17 dimensions, but the features have 16"),
        ({"beta": 2}, "beta is 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message, planted):
    with pytest.raises(InputError, match=message):
        fit(planted, recipe_of("temi", **settings))


def test_an_unknown_precision_is_refused(planted):
    with pytest.raises(InputError, match="precision 16 is not supported: choose one of "):
        fit(planted, recipe_of("temi"), precision=16)


@every_loss
def test_bfloat16_finds_the_same_clusters(loss, planted):
    recipe = recipe_of(loss, init="kmeans", max_epochs=10)
    clustering = fit(planted, recipe, precision="bf16-mixed").assign(planted)
    assert adjusted_rand_score(planted.labels, clustering.labels) > 0.99


def test_patience_ends_training_once_the_loss_is_flat(planted, tmp_path):
    recipe = recipe_of(
        "temi", max_epochs=40, patience=2, lr_schedule="constant", learning_rate=1e-9, warmup_fraction=0.0
    )
    recorder = Recorder()
    stopped = fit(planted, recipe, callbacks=[recorder], checkpoint=tmp_path / "x.ckpt")
    steps_per_epoch = -(-len(planted) // recipe.batch_size)
    # TEMI's running marginal settles within a few epochs; nothing else moves.
    assert 3 * steps_per_epoch <= len(recorder.rates) < 40 * steps_per_epoch
    saved = TrainedHeads.load(tmp_path / "x.ckpt")
    np.testing.assert_allclose(saved.losses_H, stopped.losses_H)


def test_training_that_makes_progress_is_not_ended(planted):
    recorder = Recorder()
    recipe = recipe_of("temi", init="random", max_epochs=6, patience=1, lr_schedule="constant")
    fit(planted, recipe, callbacks=[recorder])
    assert len(recorder.rates) == 6 * -(-len(planted) // recipe.batch_size)


def test_what_validates_is_asked_every_few_epochs_and_logged(planted, tmp_path):
    logger, seen = CSVLogger(tmp_path, name="logs", version=""), []

    def validate(trained: TrainedHeads) -> dict[str, float]:
        seen.append(trained.losses_H)
        return {"acc": float(len(seen))}

    recipe = recipe_of("temi", max_epochs=4)
    fit(planted, recipe, logger=logger, log_prefix="temi/", validate=validate, val_every_n_epochs=2)
    logger.save()
    lines = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("temi/val/acc")
    assert [line.split(",")[column] for line in lines[1:] if line.split(",")[column]] == ["1.0", "2.0"]
    fit(planted, recipe, validate=lambda trained: pytest.fail("asked without a logger"), val_every_n_epochs=1)


def test_a_run_resumes_by_one_read_of_its_checkpoint(planted, tmp_path, monkeypatch):
    recipe, checkpoint = recipe_of("temi"), tmp_path / "one.ckpt"
    expected = fit(planted, recipe)
    with pytest.raises(Stop):
        fit(planted, recipe, checkpoint=checkpoint, checkpoint_seconds=0, callbacks=[StopAt(4)])
    reads, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: (reads.append(options), load(*args, **options))[1])
    resumed = fit(planted, recipe, checkpoint=checkpoint, resume=True)
    assert [options["weights_only"] for options in reads] == [True]
    assert_same_heads(resumed, expected)


class AtEpochStart(pl.Callback):
    """What a loss that looks at all samples has found as each epoch begins."""

    def __init__(self, features: FeatureSet) -> None:
        self.inputs = torch.from_numpy(np.asarray(features.features))
        self.found: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.behind: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        pairs = zip(pl_module.teacher.parameters(), pl_module.student.parameters())
        self.behind.append(max(float((first - second).abs().max().detach()) for first, second in pairs))
        if batch_idx == 0:
            with torch.no_grad():
                logits_HNC = pl_module.student(pl_module.transform(self.inputs))
            probs_HNC = torch.softmax(logits_HNC / pl_module.recipe.temperature, dim=2)
            self.found.append((pl_module.mean_VHC[0].clone(), probs_HNC))


@pytest.mark.parametrize("loss", ["dec", "sela"])
@pytest.mark.parametrize("micro_batch_size", [None, 70])
def test_targets_are_of_all_samples_and_of_the_network_as_the_epoch_began(loss, micro_batch_size, planted):
    watched = AtEpochStart(planted)
    recipe = recipe_of(loss, init="kmeans", max_epochs=3, micro_batch_size=micro_batch_size)
    trained = fit(planted, recipe, callbacks=[watched])
    assert [behind == 0 for behind in watched.behind] == [True, False, False] * 3
    for found_HC, probs_HNC in watched.found:
        if loss == "dec":
            np.testing.assert_allclose(found_HC, probs_HNC.mean(dim=1), atol=1e-5)
        else:
            even = torch.softmax(25 * probs_HNC.log() + found_HC[:, None], dim=2).mean(dim=1)
            np.testing.assert_allclose(even, 1 / 5, atol=1e-3)
    # The network that is kept is the one that was trained to the end, not that of the last epoch's beginning.
    with torch.no_grad():
        kept_HNC = torch.softmax(trained.heads(trained.transform(watched.inputs)) / recipe.temperature, dim=2)
    assert not torch.allclose(kept_HNC, watched.found[-1][1], atol=1e-6)


def test_an_export_is_nothing_to_resume_from(planted, tmp_path):
    recipe = recipe_of("temi", max_epochs=1)
    exported = fit(planted, recipe).save(tmp_path / "export.pt")
    with pytest.raises(InputError, match="no training state to resume from"):
        fit(planted, recipe, checkpoint=exported, resume=True)


@pytest.mark.parametrize("n_heads", [1, 5, 16])
@pytest.mark.parametrize(("rows", "clusters"), [(4, 3), (1024, 10_450), (1 << 12, 1 << 7)])
def test_groups_take_every_head_once_and_stay_small(n_heads, rows, clusters):
    groups = head_groups((n_heads, rows, clusters), torch.device("cpu"))
    assert [head for group in groups for head in range(n_heads)[group]] == list(range(n_heads))
    sizes = [group.stop - group.start for group in groups]
    assert all(size == 1 or size * rows * clusters <= 1 << 20 for size in sizes)
