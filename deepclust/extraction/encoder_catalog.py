"""The encoders of the papers by name: which library builds them, which weights they carry, how wide they are.

Sources of the names: Adaloglou et al. 2024 (TEMI, SCANv2), Zhou & Zhang 2022 (TSP), Lowe et al. 2023 (zero-shot
clustering), each of which uses the publicly released checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from deepclust.runtime.errors import InputError

Library = Literal["timm", "torchvision", "open_clip", "hub"]
LIBRARIES: tuple[Library, ...] = ("timm", "torchvision", "open_clip", "hub")
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that decides which numbers an image becomes.

    Attributes:
        name: what the user calls it, and the name of its feature folder.
        title: the encoder as the papers print it.
        library: `timm`, `torchvision`, `open_clip` or `hub` (torch.hub).
        model: timm's or torchvision's model name, open_clip's architecture, or the hub's entry point.
        dim: width of its features, None when only the built model knows.
        pretrained: torchvision's or open_clip's name of the weights, or the hub's `owner/repository`.
        url: where the authors publish weights that no library carries, None otherwise.
        keys: (prefix in the checkpoint, prefix in the model) pairs, tried in order; keys that match none are dropped.
        model_options: arguments of the architecture where the weights need others than the library's.
        checkpoint: local weights (.pth, .safetensors) that replace the published ones.
        image_size: side of the square the network sees, in pixels; None for the model's own.
        crop_pct: share of the resized image's short side that the center crop keeps: 1.0 is the zero-shot paper's
            resize and center crop to the same size; None the model's own (0.875 for most).
        interpolation: of the resize: `bicubic`, `bilinear`, `lanczos` or `nearest`; None the model's own.
        pooling: `own`, `cls`, `mean` (of the patch tokens or the feature map) or `cls+mean` (concatenated).
        layer: 0-based block (or stage) to read, negative from the end; None for the network's output.
        mean, std: per channel, where the library does not know them.
    """

    name: str
    title: str
    library: Library
    model: str
    dim: int | None = None
    pretrained: str | None = None
    url: str | None = None
    keys: tuple[tuple[str, str], ...] = (("", ""),)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    image_size: int | None = 224
    crop_pct: float | None = 1.0
    interpolation: str | None = None
    pooling: str = "own"
    layer: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


def _timm(name: str, title: str, model: str, dim: int, **options: Any) -> EncoderSpec:
    return EncoderSpec(name, title, "timm", model, dim, **options)


def _torchvision(name: str, title: str, model: str, dim: int, weights: str) -> EncoderSpec:
    """With torchvision's own preprocessing for these weights."""
    return EncoderSpec(name, title, "torchvision", model, dim, weights, image_size=None, crop_pct=None)


def _clip(name: str, title: str, model: str, dim: int, pretrained: str = "openai") -> EncoderSpec:
    return EncoderSpec(name, title, "open_clip", model, dim, pretrained)


def _published(name: str, title: str, model: str, dim: int, url: str, prefix: str = "", **options: Any) -> EncoderSpec:
    """An architecture of timm's with weights from the authors' own address, normalized with ImageNet's statistics."""
    options.setdefault("keys", ((prefix, ""),))
    return EncoderSpec(name, title, "timm", model, dim, url=url, mean=IMAGENET_MEAN, std=IMAGENET_STD, **options)


_FAIR = "https://dl.fbaipublicfiles.com"
_MOCO = "module.base_encoder."
_IBOT = "https://lf3-nlp-opensource.bytetos.com/obj/nlp-opensource/archive/2022/ibot"
_REFINER = "https://ml.jku.at/research/mimrefiner/download"
# MIM-Refiner's ViT keeps its class token and position embedding in modules of their own, and gives the class token
# no position.
_REFINED: dict[str, Any] = {
    "keys": (("pos_embed.embed", "pos_embed"), ("cls_tokens.tokens", "cls_token"), ("", "")),
    "model_options": {"no_embed_class": True},
}

_SPECS = (
    # Supervised; the first two are those of Lowe et al.
    _torchvision("supervised_resnet50", "supervised ResNet-50", "resnet50", 2048, "IMAGENET1K_V2"),
    _torchvision("supervised_vitb16", "supervised ViT-B/16", "vit_b_16", 768, "IMAGENET1K_V1"),
    _timm("tv_resnet50", "supervised ResNet-50, torchvision's IMAGENET1K_V1", "resnet50.tv_in1k", 2048),
    _timm("augreg_vitb16", "supervised ViT-B/16, AugReg", "vit_base_patch16_224.augreg_in1k", 768),
    _timm("efficientnet_lite0", "supervised EfficientNet-Lite0, works offline", "tf_efficientnet_lite0", 1280),
    _timm("efficientnet_lite2", "supervised EfficientNet-Lite2, works offline", "tf_efficientnet_lite2", 1280),
    # DINO (Caron et al. 2021) and DINOv2 (Oquab et al. 2024)
    _published(
        "dino_resnet50",
        "DINO ResNet-50",
        "resnet50",
        2048,
        f"{_FAIR}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
    ),
    _timm("dino_vits16", "DINO ViT-S/16", "vit_small_patch16_224.dino", 384),
    _timm("dino_vits8", "DINO ViT-S/8", "vit_small_patch8_224.dino", 384),
    _timm("dino_vitb16", "DINO ViT-B/16", "vit_base_patch16_224.dino", 768),
    _timm("dino_vitb8", "DINO ViT-B/8", "vit_base_patch8_224.dino", 768),
    _timm("dinov2_vits14", "DINOv2 ViT-S/14", "vit_small_patch14_dinov2.lvd142m", 384),
    _timm("dinov2_vitb14", "DINOv2 ViT-B/14", "vit_base_patch14_dinov2.lvd142m", 768),
    _timm("dinov2_vitl14", "DINOv2 ViT-L/14", "vit_large_patch14_dinov2.lvd142m", 1024),
    _timm("dinov2_vitg14", "DINOv2 ViT-g/14", "vit_giant_patch14_dinov2.lvd142m", 1536),
    # MoCo-v3 (Chen et al. 2021)
    _published(
        "mocov3_resnet50",
        "MoCo-v3 ResNet-50",
        "resnet50",
        2048,
        f"{_FAIR}/moco-v3/r-50-1000ep/r-50-1000ep.pth.tar",
        _MOCO,
    ),
    _published(
        "mocov3_vits16",
        "MoCo-v3 ViT-S/16",
        "vit_small_patch16_224",
        384,
        f"{_FAIR}/moco-v3/vit-s-300ep/vit-s-300ep.pth.tar",
        _MOCO,
        # It has twice as many attention heads as every other ViT-S, which the shapes of its tensors do not show.
        model_options={"num_heads": 12},
    ),
    _published(
        "mocov3_vitb16",
        "MoCo-v3 ViT-B/16",
        "vit_base_patch16_224",
        768,
        f"{_FAIR}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar",
        _MOCO,
    ),
    # MAE (He et al. 2022), and MAE-Refined (Alkin et al. 2024)
    _timm("mae_vitb16", "MAE ViT-B/16", "vit_base_patch16_224.mae", 768),
    _timm("mae_vitl16", "MAE ViT-L/16", "vit_large_patch16_224.mae", 1024),
    _timm("mae_vith14", "MAE ViT-H/14", "vit_huge_patch14_224.mae", 1280),
    _published(
        "mae_refined_vitl16",
        "MAE-Refined ViT-L/16",
        "vit_large_patch16_224",
        1024,
        f"{_REFINER}/maerefined_l16.th",
        **_REFINED,
    ),
    _published(
        "mae_refined_vith14",
        "MAE-Refined ViT-H/14",
        "vit_huge_patch14_224",
        1280,
        f"{_REFINER}/maerefined_h14.th",
        **_REFINED,
    ),
    # MSN (Assran et al. 2022)
    _published(
        "msn_vits16", "MSN ViT-S/16", "vit_small_patch16_224", 384, f"{_FAIR}/msn/vits16_800ep.pth.tar", "module."
    ),
    _published(
        "msn_vitb16", "MSN ViT-B/16", "vit_base_patch16_224", 768, f"{_FAIR}/msn/vitb16_600ep.pth.tar", "module."
    ),
    _published(
        "msn_vitl16", "MSN ViT-L/16", "vit_large_patch16_224", 1024, f"{_FAIR}/msn/vitl16_600ep.pth.tar", "module."
    ),
    # iBOT (Zhou et al. 2022); `ibot_vitl16` is the one trained on ImageNet-22K
    _published(
        "ibot_vitb16", "iBOT ViT-B/16", "vit_base_patch16_224", 768, f"{_IBOT}/vitb_16_rand_mask/checkpoint_teacher.pth"
    ),
    _published(
        "ibot_vitl16",
        "iBOT ViT-L/16, ImageNet-22K",
        "vit_large_patch16_224",
        1024,
        f"{_IBOT}/vitl_16_pt22k/checkpoint_student.pth",
    ),
    _published(
        "ibot_vitl16_in1k",
        "iBOT ViT-L/16, ImageNet-1K",
        "vit_large_patch16_224",
        1024,
        f"{_IBOT}/vitl_16_rand_mask/checkpoint_teacher.pth",
    ),
    # VICReg (Bardes et al. 2022)
    _published("vicreg_resnet50", "VICReg ResNet-50", "resnet50", 2048, f"{_FAIR}/vicreg/resnet50.pth"),
    # CLIP (Radford et al. 2021) and OpenCLIP (Ilharco et al. 2021)
    _clip("clip_resnet50", "CLIP ResNet-50", "RN50", 1024),
    _clip("clip_vitb16", "CLIP ViT-B/16", "ViT-B-16", 512),
    _clip("clip_vitb32", "CLIP ViT-B/32", "ViT-B-32", 512),
    _clip("clip_vitl14", "CLIP ViT-L/14", "ViT-L-14", 768),
    _clip("openclip_vith14", "OpenCLIP ViT-H/14, LAION-2B", "ViT-H-14", 1024, "laion2b_s32b_b79k"),
    _clip("openclip_vitg14", "OpenCLIP ViT-g/14, LAION-2B", "ViT-g-14", 1024, "laion2b_s34b_b88k"),
    _clip("openclip_vitbigg14", "OpenCLIP ViT-bigG/14, LAION-2B", "ViT-bigG-14", 1280, "laion2b_s39b_b160k"),
)
_MAE_POOLED: dict[str, Any] = {"model_options": {"global_pool": "avg"}}
_FINETUNED = (
    # Fine-tuned on ImageNet-1K with labels: MAE's by its authors, who average the patch tokens …
    _published(
        "ft_mae_vitb16",
        "MAE ViT-B/16, fine-tuned",
        "vit_base_patch16_224",
        768,
        f"{_FAIR}/mae/finetune/mae_finetuned_vit_base.pth",
        **_MAE_POOLED,
    ),
    _published(
        "ft_mae_vitl16",
        "MAE ViT-L/16, fine-tuned",
        "vit_large_patch16_224",
        1024,
        f"{_FAIR}/mae/finetune/mae_finetuned_vit_large.pth",
        **_MAE_POOLED,
    ),
    _published(
        "ft_mae_vith14",
        "MAE ViT-H/14, fine-tuned",
        "vit_huge_patch14_224",
        1280,
        f"{_FAIR}/mae/finetune/mae_finetuned_vit_huge.pth",
        **_MAE_POOLED,
    ),
    # … the others of Lowe et al. 2024 by themselves, with MAE's recipe; nobody publishes their weights.
    *(
        replace(spec, name=f"ft_{spec.name}", title=f"{spec.title}, fine-tuned", url=None, keys=(("", ""),))
        for spec in _SPECS
        if spec.name in ("dino_resnet50", "dino_vitb16", "mocov3_resnet50", "mocov3_vitb16", "vicreg_resnet50")
    ),
)
ENCODERS: Mapping[str, EncoderSpec] = MappingProxyType({spec.name: spec for spec in (*_SPECS, *_FINETUNED)})
# Those that are made by `deepclust finetune` alone, each with the encoder that it comes from.
MADE_HERE: Mapping[str, str] = MappingProxyType(
    {spec.name: spec.name.removeprefix("ft_") for spec in _FINETUNED if spec.url is None}
)
SUPERVISED, SELF_SUPERVISED, FINE_TUNED = "supervised", "self-supervised", "fine-tuned"
# The backbones that Lowe et al. compare encoders within; patches of 16 and 32 pixels, both ViT-B.
FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"ResNet-50": ("resnet50", "rn50"), "ViT-B": ("vit_base", "vit_b_", "vit-b-")}
)
OTHER_FAMILY = "Other"


def backbone_family(encoder: str) -> str:
    """`ResNet-50`, `ViT-B` or `Other`: the backbone of an encoder; of one that the catalog lacks, what its name says.

    Example:
        >>> backbone_family("mocov3_vitb16"), backbone_family("clip_resnet50"), backbone_family("raw")
        ('ViT-B', 'ResNet-50', 'Other')
    """
    model = ENCODERS[encoder].model.lower() if encoder in ENCODERS else encoder.lower().replace("vitb", "vit_b_")
    return next((name for name, starts in FAMILIES.items() if any(start in model for start in starts)), OTHER_FAMILY)


def encoder_training(encoder: str) -> str | None:
    """`supervised`, `self-supervised`, or `fine-tuned` after self-supervision; None for CLIP, which learned from texts,
    and for encoders that the catalog lacks.

    Example:
        >>> encoder_training("dino_vitb16"), encoder_training("ft_dino_vitb16"), encoder_training("clip_vitb16")
        ('self-supervised', 'fine-tuned', None)
    """
    spec = ENCODERS.get(encoder)
    if spec is None or spec.library == "open_clip":
        return None
    if encoder.startswith("ft_"):
        return FINE_TUNED
    return SUPERVISED if spec.title.startswith("supervised") else SELF_SUPERVISED


def encoder_spec(encoder: str | EncoderSpec | Mapping[str, Any]) -> EncoderSpec:
    """The spec of an encoder given by name, or by a mapping of `name` and options that override the catalog's.

    A mapping whose name is not in the catalog must say `library` and `model` itself. Options that are None are the
    catalog's; `image_size`, `crop_pct` and `interpolation` may be "own", for the pretrained model's.

    Raises:
        InputError: if the name is unknown, or an option is.
    """
    if isinstance(encoder, EncoderSpec):
        return encoder
    given: dict[str, Any]
    given = {"name": encoder} if isinstance(encoder, str) else {k: v for k, v in encoder.items() if v is not None}
    given.update({key: None for key in ("image_size", "crop_pct", "interpolation") if given.get(key) == "own"})
    unknown = sorted(set(given) - {field.name for field in fields(EncoderSpec)})
    if unknown:
        raise InputError(
            f"unknown encoder option {', '.join(unknown)}: an encoder has "
            f"{', '.join(field.name for field in fields(EncoderSpec))}"
        )
    name = str(given.get("name"))
    if name in ENCODERS:
        return replace(ENCODERS[name], **given)
    if not {"name", "library", "model"} <= set(given):
        raise InputError(f"unknown encoder '{name}': one of {', '.join(sorted(ENCODERS))}, or give library and model")
    return EncoderSpec(**{"title": given["model"], **given})
