from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from deepclust.extraction.encoder_catalog import (
    ENCODERS,
    MADE_HERE,
    EncoderSpec,
    backbone_family,
    encoder_spec,
    encoder_training,
)
from deepclust.extraction.encoders import Encoder, fold_batch_norms, load_encoder
from deepclust.extraction.studies import with_study
from deepclust.extraction.weights import WEIGHT_PACKAGES, load_into, packaged_weights
from deepclust.features.idx import DEBIAN_FOLDER, fashion_mnist
from deepclust.runtime.errors import InputError

# Features of Fashion-MNIST made independently with the same weights: a folder with test_features.npy.
REFERENCE = os.environ.get("DEEPCLUST_LITE0_REFERENCE")
needs_lite0 = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in WEIGHT_PACKAGES.values()),
    reason="needs deepclust[offline-encoder]",
)
VIT = {"name": "small", "library": "timm", "model": "test_vit", "image_size": 32}


def squares(n: int, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def saved(tmp_path: Path, state: dict, name: str = "weights.pth") -> str:
    torch.save(state, tmp_path / name)
    return str(tmp_path / name)


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=0, img_size=32).eval()


def normalized(batch: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (encoder.transform.mean, encoder.transform.std))
    return (batch.permute(0, 3, 1, 2).float() / 255 - mean) / std


def test_every_encoder_has_a_line_of_help(command) -> None:
    described = command("extract", "--help").out
    for name, spec in ENCODERS.items():
        assert f"{name} " in described
        assert spec.title in described


def test_every_timm_encoder_exists_and_is_as_wide_as_the_catalog_says() -> None:
    for spec in ENCODERS.values():
        if spec.library == "timm":
            with torch.device("meta"):
                model = timm.create_model(spec.model, num_classes=0, **spec.model_options)
            assert model.num_features == spec.dim, spec.name


def test_moco_v3_vit_s_has_twelve_heads() -> None:
    spec = ENCODERS["mocov3_vits16"]
    with torch.device("meta"):
        model = timm.create_model(spec.model, **spec.model_options)
    assert model.blocks[0].attn.num_heads == 12


@needs_lite0
@pytest.mark.parametrize("name", WEIGHT_PACKAGES)
def test_packaged_weights_map_in_order_onto_timms_names(name: str) -> None:
    model = timm.create_model(name, num_classes=0)
    state = packaged_weights(model, name)
    assert state is not None
    expected = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    assert set(state) == expected
    # Running variances are never negative; running means of either sign.
    assert all((tensor >= 0).all() for name, tensor in state.items() if name.endswith("running_var"))
    assert any((tensor < 0).any() for name, tensor in state.items() if name.endswith("running_mean"))


@needs_lite0
@pytest.mark.skipif(
    REFERENCE is None or not DEBIAN_FOLDER.is_dir(), reason="set DEEPCLUST_LITE0_REFERENCE to a folder of features"
)
def test_lite0_reproduces_independent_features() -> None:
    reference = np.load(Path(str(REFERENCE)) / "test_features.npy", mmap_mode="r")[:64].astype(np.float32)
    encoder = load_encoder({"name": "efficientnet_lite0", "image_size": 128}, device="cpu", precision="float32")
    images = torch.from_numpy(fashion_mnist("test")[0][:64].copy()).float()[:, None] / 255
    large = nn.functional.interpolate(images, size=128, mode="bicubic").clamp(0, 1)
    with torch.inference_mode():
        features = encoder._eager.network(large.repeat(1, 3, 1, 1) * 2 - 1).numpy()
    # Half of float16's spacing at the largest feature.
    assert np.abs(features - reference).max() <= np.spacing(np.float16(np.abs(reference).max())) / 2 * 1.1


def _n_batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_folding_batch_norms_changes_speed_only() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=0).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    folded = fold_batch_norms(model, 32)
    # The stem's last one follows a sequence of layers, and stays.
    assert _n_batch_norms(folded) < _n_batch_norms(model) / 2
    batch = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(folded(batch), model(batch), rtol=1e-3, atol=1e-3)


def test_a_batch_norm_that_follows_no_convolution_is_left_alone() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(images).relu()).mean((2, 3))

    torch.manual_seed(0)
    model = Odd().eval()
    assert model.norm.running_mean is not None
    model.norm.running_mean.fill_(0.3)
    assert fold_batch_norms(model, 16) is model


def test_bfloat16_stays_close_to_float32(tiny_options: dict) -> None:
    exact = load_encoder(tiny_options, device="cpu", precision="float32").encode(squares(8, 32))
    rounded = load_encoder(tiny_options, device="cpu", precision="bfloat16").encode(squares(8, 32))
    assert torch.cosine_similarity(exact, rounded).min() > 0.99


def test_pooling_and_layer(tmp_path: Path, vit: nn.Module) -> None:
    checkpoint = saved(tmp_path, vit.state_dict())

    def features(**options: object) -> torch.Tensor:
        encoder = load_encoder({**VIT, "checkpoint": checkpoint, **options}, device="cpu", precision="float32")
        return encoder.encode(squares(2, 32))

    encoder = load_encoder({**VIT, "checkpoint": checkpoint}, device="cpu", precision="float32")
    with torch.inference_mode():
        tokens = vit.forward_features(normalized(squares(2, 32), encoder))
        n_prefix = vit.num_prefix_tokens
        assert n_prefix == 1
        torch.testing.assert_close(features(pooling="cls"), tokens[:, 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features(pooling="mean"), tokens[:, n_prefix:].mean(1), rtol=1e-4, atol=1e-5)
        both = torch.cat([tokens[:, 0], tokens[:, n_prefix:].mean(1)], dim=1)
        torch.testing.assert_close(features(pooling="cls+mean"), both, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features(pooling="cls", layer=-1), tokens[:, 0], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(features(pooling="cls", layer=0), tokens[:, 0], rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "encoder.pooling=max is unknown"),
        ({"layer": 99}, "does not run with"),
        ({"image_size": 33}, "does not run with|does not fit"),
        ({"model": "no_such_model"}, "timm has no model no_such_model"),
        ({"library": "keras"}, "encoder.library=keras is unknown"),
        ({"checkpoint": "/nowhere.pth"}, "no such file: /nowhere.pth"),
        ({"color": 1}, "unknown encoder option color"),
    ],
)
def test_refused_options(tmp_path: Path, vit: nn.Module, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_encoder({**VIT, "checkpoint": saved(tmp_path, vit.state_dict()), **options}, device="cpu")


def test_a_class_token_is_not_made_up(tiny_options: dict) -> None:
    with pytest.raises(InputError, match="needs a class token"):
        load_encoder({**tiny_options, "pooling": "cls"}, device="cpu")


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown encoder 'dino': one of .*dino_vitb16"):
        encoder_spec("dino")
    with pytest.raises(InputError, match="precision=int8 is unknown"):
        load_encoder("efficientnet_lite0", precision="int8")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": {f"module.base_encoder.{k}": v for k, v in state.items()}, "epoch": 300},
        lambda state: {"teacher": {f"backbone.{k}": v for k, v in state.items()}, "student": {}},
        lambda state: {"model": state},
        lambda state: {f"encoder.{k}": v for k, v in state.items()} | {f"head.{i}": torch.ones(1) for i in range(500)},
    ],
)
def test_prefixes_and_wrappings_of_training_code_come_off(tmp_path: Path, vit: nn.Module, wrap: object) -> None:
    checkpoint = saved(tmp_path, wrap(vit.state_dict()))  # type: ignore[operator]
    encoder = load_encoder({**VIT, "checkpoint": checkpoint}, device="cpu", precision="float32")
    with torch.inference_mode():
        expected = vit(normalized(squares(2, 32), encoder))
    torch.testing.assert_close(encoder.encode(squares(2, 32)), expected, rtol=1e-4, atol=1e-5)


def test_safetensors_are_the_same_weights(tmp_path: Path, vit: nn.Module) -> None:
    from safetensors.torch import save_file

    save_file(vit.state_dict(), tmp_path / "w.safetensors")
    encoders = [
        load_encoder({**VIT, "checkpoint": checkpoint}, device="cpu")
        for checkpoint in (str(tmp_path / "w.safetensors"), saved(tmp_path, vit.state_dict()))
    ]
    assert encoders[0].weights_sha256 == encoders[1].weights_sha256


def test_mim_refiners_names_map_onto_timms() -> None:
    model = timm.create_model("test_vit", num_classes=0, img_size=32, no_embed_class=True)
    state = {name: torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    theirs = dict(state)
    side = round(state["pos_embed"].shape[1] ** 0.5)
    theirs["pos_embed.embed"] = theirs.pop("pos_embed").unflatten(1, (side, side))
    theirs["cls_tokens.tokens"] = theirs.pop("cls_token")
    spec = EncoderSpec("refined", "", "timm", "test_vit", keys=ENCODERS["mae_refined_vitl16"].keys)
    load_into(model, theirs, spec, "weights.th")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_what_does_not_fit_is_reported(tmp_path: Path, vit: nn.Module, capsys: pytest.CaptureFixture) -> None:
    state = {**vit.state_dict(), "projection.weight": torch.ones(3)}
    del state["norm.bias"]
    load_encoder({**VIT, "checkpoint": saved(tmp_path, state)}, device="cpu")
    report = capsys.readouterr().err
    assert "1 of " in report
    assert "missing (norm.bias)" in report
    assert "1 unexpected (projection.weight)" in report


def test_the_checkpoint_of_another_network_is_refused(tmp_path: Path, tiny_weights: Path) -> None:
    with pytest.raises(InputError, match=r"does not fit small \(test_vit\): .* tensors missing"):
        load_encoder({**VIT, "checkpoint": str(tiny_weights)}, device="cpu")
    (tmp_path / "cut.pth").write_bytes(tiny_weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="no readable checkpoint, or is truncated"):
        load_encoder({**VIT, "checkpoint": str(tmp_path / "cut.pth")}, device="cpu")


def test_weights_put_by_hand_are_found_by_name(tmp_path: Path, vit: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPCLUST_WEIGHTS", str(tmp_path))
    saved(tmp_path, vit.state_dict(), "small.pth")
    assert load_encoder(VIT, device="cpu").source == "small.pth"


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """torchvision's smallest ResNet under weights that were drawn, not fetched."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("resnet18") / "weights.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    own = {"image_size": "own", "crop_pct": "own", "checkpoint": str(path)}
    return {"name": "r18", "library": "torchvision", "model": "resnet18", "pretrained": "IMAGENET1K_V1", **own}


def test_a_torchvision_encoder_is_torchvisions_model_and_transform(resnet18: dict) -> None:
    encoder = load_encoder(resnet18, device="cpu", precision="float32")
    own = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((300, 260))
    ours = normalized(torch.tensor(encoder.transform(image))[None], encoder)[0]
    # One gray level, where both round.
    torch.testing.assert_close(ours, own(image), rtol=0, atol=1.01 / 255 / min(encoder.transform.std))
    model = torchvision.models.resnet18(weights=None)
    model.load_state_dict(torch.load(resnet18["checkpoint"], weights_only=True))
    model.fc = nn.Identity()
    with torch.inference_mode():
        expected = model.eval()(normalized(squares(2, 224), encoder))
    torch.testing.assert_close(encoder.encode(squares(2, 224)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet19"}, "torchvision has no model resnet19"),
        ({"pretrained": "IMAGENET1K_V9"}, "no weights 'IMAGENET1K_V9' for resnet18: one of IMAGENET1K_V1"),
        ({"layer": -1}, "leave out encoder.pooling and encoder.layer"),
    ],
)
def test_what_torchvision_does_not_have_is_refused(resnet18: dict, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_encoder({**resnet18, **options}, device="cpu")


def test_the_zero_shot_papers_supervised_encoders_are_torchvisions_with_its_own_preprocessing() -> None:
    # Lowe et al. 2023, section 2, "publicly available checkpoints"; encoders/api.py of their code names them.
    wanted = {
        "supervised_resnet50": (torchvision.models.ResNet50_Weights.IMAGENET1K_V2, 232),
        "supervised_vitb16": (torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1, 256),
    }
    for name, (weights, resized) in wanted.items():
        spec = ENCODERS[name]
        assert spec.library == "torchvision"
        assert torchvision.models.get_model_weights(spec.model)[str(spec.pretrained)] is weights
        # None: the weights' own.
        assert (spec.image_size, spec.crop_pct, spec.interpolation) == (None, None, None)
        assert weights.transforms().resize_size == [resized]
    assert ENCODERS["tv_resnet50"].model == "resnet50.tv_in1k"
    assert ENCODERS["augreg_vitb16"].model == "vit_base_patch16_224.augreg_in1k"


def test_a_study_cuts_images_by_its_own_rule(tiny_options: dict) -> None:
    def cut(study: str, dataset: str, **options: object) -> tuple:
        made = load_encoder(
            with_study({**tiny_options, "image_size": None, "study": study, **options}, dataset)
        ).transform
        return made.resized, made.image_size, made.interpolation

    # Lowe et al. 2023, section 2, and data_transformations.py: torchvision's Resize(224), bilinear by default.
    assert cut("zero_shot", "cifar10") == cut("zero_shot", "imagenet") == (224, 224, "bilinear")
    # model_builders.py of the TEMI authors: Resize(256), CenterCrop(224) on ImageNet, Resize(224, bicubic) elsewhere.
    assert cut("temi", "imagenet") == (256, 224, "bilinear")
    assert cut("temi", "cifar10") == (224, 224, "bicubic")
    # CLIP comes with its own transform there; what is asked for by name wins.
    assert with_study({"name": "clip_vitb16", "study": "temi"}, "imagenet")["crop_pct"] == 1.0
    assert cut("temi", "imagenet", crop_pct=1.0) == (224, 224, "bilinear")
    with pytest.raises(InputError, match=r"encoder\.study=talk is unknown: one of temi, zero_shot"):
        with_study({"study": "talk"}, "imagenet")


def test_encoders_are_of_two_backbone_families_or_another() -> None:
    # Lowe et al. 2023, table 2: five encoders of each.
    methods = {"ResNet-50": "supervised mocov3 vicreg dino clip", "ViT-B": "supervised mocov3 mae dino clip"}
    ends = {"ResNet-50": "resnet50", "ViT-B": "vitb16"}
    for family, names in methods.items():
        assert {backbone_family(f"{name}_{ends[family]}") for name in names.split()} == {family}
    others = ("raw", "dino_vits16", "clip_vitl14", "efficientnet_lite0", "openclip_vitbigg14")
    assert {backbone_family(name) for name in others} == {"Other"}
    assert (backbone_family("ft_dino_vitb16"), backbone_family("my_resnet50")) == ("ViT-B", "ResNet-50")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("supervised_resnet50", "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"),
        ("dino_vits16", "timm/vit_small_patch16_224.dino"),
        ("vicreg_resnet50", "https://dl.fbaipublicfiles.com/vicreg/resnet50.pth"),
    ],
)
def test_without_a_network_the_error_says_which_file_goes_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    def unresolved(*_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unresolved)
    monkeypatch.setattr("deepclust.extraction.backbones._in_hub_cache", lambda repository: False)
    monkeypatch.setenv("DEEPCLUST_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    with pytest.raises(InputError) as caught:
        load_encoder(name, device="cpu")
    message = str(caught.value)
    assert file in message
    assert f"{tmp_path / name}.pth" in message
    assert "encoder.checkpoint=FILE" in message
    assert "\n" not in message


def test_a_local_torch_hub_repository(tmp_path: Path) -> None:
    (tmp_path / "hubconf.py").write_text(
        "import torch\n"
        "def flat(pretrained=True):\n"
        "    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())\n"
    )
    options = {"name": "mine", "library": "hub", "model": "flat", "pretrained": str(tmp_path), "image_size": 32}
    encoder = load_encoder(options, device="cpu", precision="float32")
    assert encoder.encode(torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)).shape == (1, 12)
    with pytest.raises(InputError, match=r"torch\.hub cannot load nothing"):
        load_encoder({**options, "model": "nothing"}, device="cpu")


@pytest.mark.slow
def test_clip_has_a_text_tower_beside_its_image_tower(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    checkpoint = saved(tmp_path, model.state_dict())
    options = {"name": "clip", "library": "open_clip", "model": "ViT-S-32-alt", "checkpoint": checkpoint}
    encoder = load_encoder(options, device="cpu", precision="float32")
    texts = encoder.encode_text(["a photo of a cat", "a dog"])
    assert texts.shape == (2, encoder.dim)
    with torch.inference_mode():
        expected = model.eval().encode_image(normalized(squares(1, 224), encoder))
    torch.testing.assert_close(encoder.encode(squares(1, 224)), expected, rtol=1e-3, atol=1e-4)


def test_other_encoders_have_no_text_tower(tiny_encoder: Encoder) -> None:
    with pytest.raises(InputError, match="tiny has no text tower"):
        tiny_encoder.encode_text(["a cat"])


def test_a_layer_that_an_encoder_does_not_have_is_refused(vit, tmp_path) -> None:
    weights = {"checkpoint": saved(tmp_path, vit.state_dict())}
    with pytest.raises(InputError, match=r"small does not run with .*layer=99 .*: choose others"):
        load_encoder({**VIT, **weights, "layer": 99}, device="cpu")


def test_encoders_that_nobody_publishes_say_how_they_are_made(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPCLUST_WEIGHTS", str(tmp_path))
    with pytest.raises(
        InputError, match=r"nobody publishes the weights of ft_dino_vitb16: make them with `deepclust fi"
    ):
        load_encoder("ft_dino_vitb16", device="cpu")


def test_the_fine_tuned_encoders_are_those_of_the_authors_code():
    """`get_finetuned_encoder` of scottclowe/zs-ssl-clustering, and MAE's own."""
    made = {f"ft_{name}" for name in ("dino_resnet50", "dino_vitb16", "mocov3_resnet50", "mocov3_vitb16")}
    made.add("ft_vicreg_resnet50")
    assert set(MADE_HERE) == made
    assert all(encoder_training(name) == "fine-tuned" for name in [*made, "ft_mae_vitb16"])
    assert all(backbone_family(name) == backbone_family(MADE_HERE[name]) for name in made)
    assert encoder_training("supervised_resnet50") == encoder_training("augreg_vitb16") == "supervised"
    assert encoder_training("vicreg_resnet50") == "self-supervised"
    assert encoder_training("clip_vitb16") is None
    assert encoder_training("raw") is None


def test_maes_fine_tuned_checkpoint_is_read_whole_and_pools_the_patches(tmp_path, capsys):
    """It has fc_norm in place of norm, and a head."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=7, global_pool="avg", img_size=32).eval()
    torch.save({"model": network.state_dict()}, tmp_path / "mae.pth")
    pooled = ENCODERS["ft_mae_vitb16"].model_options
    spec = EncoderSpec(
        "mae", "", "timm", "test_vit", image_size=32, checkpoint=str(tmp_path / "mae.pth"), model_options=pooled
    )
    encoder = load_encoder(spec, device="cpu", precision="float32")
    assert "0 of" in capsys.readouterr().err.split(" tensors missing")[0]
    images = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    normalized = (images.permute(0, 3, 1, 2) - encoder._eager.mean) / encoder._eager.std
    with torch.no_grad():
        expected = network.fc_norm(network.forward_features(normalized)[:, 1:].mean(dim=1))
    assert torch.allclose(encoder.encode(images), expected, atol=1e-5)
