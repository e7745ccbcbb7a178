"""Fine-tuning learns, remembers, goes on, and gives an encoder that extraction reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepclust.extraction.encoder_catalog import EncoderSpec
from deepclust.extraction.encoders import load_encoder
from deepclust.extraction.image_source import ArraySource
from deepclust.extraction.images import UnreadableImageError
from deepclust.finetuning.encoder_module import EncoderModule, layered_optimizer, rate_factor
from deepclust.finetuning.encoder_with_tsp import ALONE, START, TOGETHER, train_with_tsp
from deepclust.finetuning.finetune_settings import FinetuneSettings
from deepclust.finetuning.objectives import Pairs
from deepclust.finetuning.run_finetuning import ENCODER, REPORT, STATE, FinetuneRun
from deepclust.finetuning.training_images import TrainingImages
from deepclust.losses import tsp_loss
from deepclust.runtime.errors import InputError
from deepclust.training.trainer_settings import TrainerSettings

# No augmentation: sixty images are to be learned by heart.
PLAIN = {"augment": None, "random_erase": 0.0, "mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0, "drop_path": 0.0}
ON_CPU = TrainerSettings("cpu", precision="32", checkpoint_seconds=0)


@pytest.fixture(scope="module", params=["test_resnet", "test_vit"])
def any_spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EncoderSpec:
    return tiny_spec(request.param, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EncoderSpec:
    return tiny_spec("test_vit", tmp_path_factory.mktemp("weights"))


def tiny_spec(model: str, folder: Path) -> EncoderSpec:
    import timm

    torch.manual_seed(0)
    size = {"img_size": 32} if model == "test_vit" else {}
    torch.save(timm.create_model(model, num_classes=0, **size).state_dict(), folder / "tiny.pth")
    return EncoderSpec(model, model, "timm", model, image_size=32, checkpoint=str(folder / "tiny.pth"))


def colored(n_images: int = 60, n_classes: int = 3, seed: int = 0) -> ArraySource:
    """Images of one color with noise, each class a color of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_images) % n_classes
    pixels = rng.integers(0, 60, (n_images, 32, 32, 3))
    pixels[np.arange(n_images), :, :, labels] += 150
    return ArraySource(pixels.astype(np.uint8), labels, [f"class {k}" for k in range(n_classes)])


def run_of(spec: EncoderSpec, out: Path, **settings: Any) -> FinetuneRun:
    given = {**PLAIN, "max_epochs": 4, "batch_size": 20, "warmup_epochs": 0.5, "learning_rate": 5e-2, **settings}
    return FinetuneRun(spec, colored(), FinetuneSettings(**given), out, ON_CPU)


def features_of(spec: EncoderSpec) -> np.ndarray:
    encoder = load_encoder(spec, device="cpu", precision="float32")
    squares = np.stack([encoder.transform(colored().image(i)) for i in range(8)])
    return encoder.encode(torch.from_numpy(squares)).numpy()


def test_the_loss_falls_and_labels_of_separable_images_are_recovered(any_spec, tmp_path):
    report = run_of(any_spec, tmp_path / "out", max_epochs=8).with_labels(colored(seed=1))
    assert report["losses"][-1] < report["losses"][0] / 2
    assert report["test_accuracy"] == 1.0


def test_the_recipe_with_all_augmentation_learns_too(spec, tmp_path):
    settings = FinetuneSettings(max_epochs=6, batch_size=20, warmup_epochs=1, learning_rate=1e-2)
    report = FinetuneRun(spec, colored(), settings, tmp_path / "out", ON_CPU).with_labels(colored(seed=1))
    assert report["losses"][-1] < report["losses"][0]
    assert report["test_accuracy"] > 0.6


def test_extraction_reads_the_encoder_and_gives_what_the_trained_network_gives(any_spec, tmp_path, capsys):
    run = run_of(any_spec, tmp_path / "out", max_epochs=2)
    report = run.with_labels()
    read = replace(any_spec, checkpoint=str(tmp_path / "out" / ENCODER))
    encoder = load_encoder(read, device="cpu")
    assert encoder.weights_sha256 == report["sha256"]
    assert "missing" not in capsys.readouterr().err  # all tensors, and no head
    assert not np.allclose(features_of(read), features_of(any_spec), atol=1e-3)


def test_the_head_learns_at_the_full_rate_and_each_layer_below_by_the_decay_less():
    import timm

    network = timm.create_model("test_vit", num_classes=3)
    settings = FinetuneSettings(layer_decay=0.5, learning_rate=1e-3, batch_size=512, weight_decay=0.1)
    optimizer = layered_optimizer(network, settings)
    rate = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    decay = {id(one): group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}
    depth = len(network.blocks)
    assert rate[id(network.head.weight)] == pytest.approx(2e-3)
    for block in range(depth):
        assert rate[id(network.blocks[block].mlp.fc1.weight)] == pytest.approx(2e-3 * 0.5 ** (depth - block))
    assert rate[id(network.patch_embed.proj.weight)] == pytest.approx(2e-3 * 0.5 ** (depth + 1))
    assert decay[id(network.head.weight)] == 0.1
    assert decay[id(network.head.bias)] == decay[id(network.pos_embed)] == 0
    assert {id(one) for one in network.parameters()} == set(rate)


def test_the_rate_rises_to_the_warm_ups_end_and_falls_to_one_millionth():
    settings = FinetuneSettings(max_epochs=100)
    rates = [rate_factor(step / 10, settings) for step in range(1001)]
    assert rates[0] == 0
    assert int(np.argmax(rates)) == 50
    assert rates[-1] * settings.learning_rate * 4 == pytest.approx(1e-6)
    assert rates[50:] == sorted(rates[50:], reverse=True)


def test_the_defaults_are_those_of_maes_public_recipe():
    """He et al. 2022, FINETUNE.md and main_finetune.py, ViT-B."""
    published = {
        "max_epochs": 100, "batch_size": 1024, "learning_rate": 5e-4, "layer_decay": 0.65, "weight_decay": 0.05,
        "drop_path": 0.1, "random_erase": 0.25, "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "warmup_epochs": 5,
        "augment": "rand-m9-mstd0.5-inc1", "optimizer": "adamw",
    }  # fmt: skip
    assert {name: getattr(FinetuneSettings(), name) for name in published} == published


def test_a_killed_run_goes_on_to_the_same_encoder(spec, tmp_path, monkeypatch):
    augmented = {"augment": "rand-m9-mstd0.5-inc1", "mixup": 0.8, "drop_path": 0.3, "label_smoothing": 0.1}
    whole = run_of(spec, tmp_path / "whole", **augmented)
    expected = whole.with_labels()

    class Killed(BaseException):
        pass

    def kill(self: EncoderModule, *_: Any) -> None:
        if self.current_epoch == 2:
            raise Killed

    broken = run_of(spec, tmp_path / "broken", **augmented)
    with monkeypatch.context() as patched:
        patched.setattr(EncoderModule, "on_train_batch_start", kill)
        with pytest.raises(Killed):
            broken.with_labels()
    assert (tmp_path / "broken" / STATE).is_file()
    found = broken.with_labels()
    assert found["losses"] == expected["losses"]
    assert found["sha256"] == expected["sha256"]
    assert not (tmp_path / "broken" / STATE).exists()


def test_workers_do_not_change_an_augmented_image(spec):
    settings = FinetuneSettings()
    images = TrainingImages(colored(), load_encoder(spec, device="cpu").transform, settings)
    torch.manual_seed(1)
    first = images[3, 7][0]
    torch.manual_seed(2)
    assert torch.equal(images[3, 7][0], first)
    assert not torch.equal(images[4, 7][0], first)


def test_without_augmentation_an_image_is_what_extraction_sees(spec):
    encoder = load_encoder(spec, device="cpu", precision="float32")
    seen = TrainingImages(colored(), encoder.transform)[0, 0][0]
    square = torch.from_numpy(np.array(encoder.transform(colored().image(0))))
    assert torch.allclose(encoder._eager.network(seen[None]), encoder._eager(square[None]), atol=1e-5)


def test_the_gradient_of_pairs_is_that_of_tsps_loss():
    torch.manual_seed(0)
    logits = torch.randn(12, 5, dtype=torch.float64)
    network = torch.nn.Linear(5, 4).double()
    step = Pairs(4).step(network, logits, torch.zeros(12))
    assert not step.loss.requires_grad
    step.backward.backward()
    found = network.weight.grad.clone()

    anchors, neighbors = network(logits).softmax(1).chunk(2)
    mean = anchors.mean(0)
    expected = -(anchors * neighbors).sum(1).log().mean() + 3 * (mean * mean.log()).sum()
    network.zero_grad()
    expected.backward()
    expected = expected.detach()
    assert torch.allclose(found, network.weight.grad, atol=1e-6)
    assert float(step.loss) == pytest.approx(float(expected), abs=1e-5)
    log_probs = network(logits).log_softmax(1).detach()[None]
    assert float(tsp_loss(*log_probs.chunk(2, dim=1), mean[None].detach())[0]) == pytest.approx(float(expected))


def test_tsp_trains_head_and_encoder_from_the_head_that_kmeans_gives(spec, tmp_path):
    settings = FinetuneSettings.of("tsp", max_epochs=2, batch_size=20, n_neighbors=5)
    report = train_with_tsp(FinetuneRun(spec, colored(), settings, tmp_path / "out", ON_CPU))
    rows = {row["method"]: row for row in report["clusterings"]}
    assert rows[START]["acc"] > 0.9  # colors are clusters already
    assert set(rows) > {ALONE, TOGETHER}
    assert all(0 <= row["ami"] <= 1 + 1e-9 for row in rows.values())
    assert len(report["losses"]) == 2
    assert (tmp_path / "out" / ENCODER).is_file()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"source": ArraySource(np.zeros((4, 8, 8), np.uint8))}, "has no labels to fine-tune with"),
        ({"source": ArraySource(np.zeros((1, 8, 8), np.uint8), np.zeros(1))}, "has 1 images: give 2 at least"),
        ({"source": ArraySource(np.zeros((4, 8, 8), np.uint8), np.zeros(4))}, "has one class alone"),
        ({"spec": EncoderSpec("clip", "CLIP", "open_clip", "ViT-B-16")}, "timm's networks alone"),
        ({"spec": EncoderSpec("vit", "ViT", "timm", "test_vit", pooling="mean")}, "leave out encoder.pooling"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(spec, tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        replace(run_of(spec, tmp_path / "out"), **changed).with_labels()
    assert not (tmp_path / "out").exists()


def test_a_folder_is_neither_overwritten_nor_gone_on_with_by_other_settings(spec, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is no run of this command"):
        run_of(spec, tmp_path / "other").with_labels()
    run_of(spec, tmp_path / "out", max_epochs=1).with_labels()
    with pytest.raises(InputError, match="holds a finished encoder"):
        run_of(spec, tmp_path / "out", max_epochs=1).with_labels()
    (tmp_path / "out" / REPORT).unlink()
    with pytest.raises(InputError, match="with other settings, images or another encoder"):
        run_of(spec, tmp_path / "out", max_epochs=2).with_labels()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_epochs": 5, "max_epochs": 5}, "leaves nothing of max_epochs=5"),
        ({"augment": None}, "random_erase=0.25 is a part of the augmentation"),
        ({"objective": "tsp"}, "is for labels: leave it out"),
        ({"layer_decay": 0.0}, "layer_decay is 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        FinetuneSettings(**settings)


class Broken(ArraySource):
    """Image 3 cannot be read."""

    def image(self, index: int, *, shrink_to: int | None = None) -> Any:
        if index == 3:
            raise UnreadableImageError("truncated")
        return super().image(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_refused_in_one_line_by_every_process(spec, tmp_path, workers):
    whole = colored()
    source = Broken(whole.images, whole.labels, whole.class_names)
    run = replace(run_of(spec, tmp_path / "out"), source=source, on_error="raise", workers=workers)
    with pytest.raises(InputError) as refused:
        run.with_labels()
    assert str(refused.value) == (
        "3 of array cannot be read (truncated): repair or remove it, or pass over it with data.on_error=skip"
    )


def test_the_next_image_takes_the_place_of_one_that_cannot_be_read(spec, capsys):
    whole = colored()
    source = Broken(whole.images, whole.labels, whole.class_names)
    images = TrainingImages(source, load_encoder(spec, device="cpu").transform, on_error="skip")
    image, label = images[0, 3]
    assert torch.equal(image, images[0, 4][0])
    assert label == whole.labels[4]
    assert "the next image takes its place" in capsys.readouterr().err


def test_the_command_trains_and_names_what_extraction_reads(spec, tmp_path, command):
    for split in ("train", "test"):
        source = colored()
        for row in range(len(source)):
            place = tmp_path / "photos" / split / f"class {source.labels[row]}" / f"{row}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            source.image(row).save(place)
    encoder = [
        "encoder=timm", "encoder.name=tiny", "encoder.model=test_vit", "encoder.image_size=32",
        f"encoder.checkpoint={spec.checkpoint}",
    ]  # fmt: skip
    data = ["data=class_folders", f"data.path={tmp_path}/photos", *encoder]
    quick = ["max_epochs=2", "warmup_epochs=0", "batch_size=20", "learning_rate=0.05", "accelerator=cpu"]
    made = command("finetune.py", *data, *quick, "mixup=0", "cutmix=0", "out=made")
    assert made.code == 0
    assert "epoch 2/2, batch 3/3: loss" in made.out
    assert "accuracy on the test split: " in made.out
    assert command("finetune", *data, *quick, "mixup=0", "cutmix=0", "out=made").error_line == (
        "error: made holds a finished encoder: choose another out=, or remove it"
    )
    read = [word for word in data if "checkpoint" not in word]
    assert command("extract", *read, f"encoder.checkpoint=made/{ENCODER}", "out=features").code == 0
    before = command("finetune", "data=features", "data.train=features", "out=other")
    assert before.error_line.startswith("error: data=features comes as features")
