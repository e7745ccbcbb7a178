"""The encoder turns batches of pixels into features, as fast as the device allows.

Shape suffixes: B images in the batch, S side of the image, D feature dimensions.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from deepclust.extraction.backbones import Backbone, build
from deepclust.extraction.encoder_catalog import ENCODERS, EncoderSpec, encoder_spec
from deepclust.extraction.images import Preprocess
from deepclust.extraction.weights import weights_digest
from deepclust.runtime.errors import InputError

__all__ = ["ENCODERS", "Encoder", "EncoderSpec", "encoder_spec", "load_encoder"]

PRECISIONS = ("auto", "float32", "bfloat16")


class Encoder:
    """A frozen image encoder.

    Attributes:
        spec: what was asked for.
        transform: from an image to the square of pixels that `encode` takes.
        dim: width of the features.
        device, precision, compiled: how it runs.
    """

    def __init__(self, spec: EncoderSpec, backbone: Backbone, device: torch.device, precision: str, compiled: bool):
        self.spec = spec
        self.transform: Preprocess = backbone.transform
        self.device = device
        self.precision = precision
        self.compiled = compiled
        self.source = backbone.source
        self.weights_sha256 = weights_digest(backbone.network)
        self._encode_text = backbone.encode_text
        try:
            network = fold_batch_norms(backbone.network, self.transform.image_size)
        except AssertionError as error:  # timm's own of a layer that is not there
            raise InputError(f"{spec.name} does not run with layer={spec.layer} ({error}): choose another") from None
        self._eager = _Normalized(network, self.transform).to(memory_format=torch.channels_last).to(device).eval()
        self.dim = self._probe()
        self._forward: Any = self._eager
        if compiled:
            # Shapes never change, so that one graph serves all batches; freezing lets inductor lay out the constants.
            options: dict[str, Any] = {"freezing": True} if device.type == "cpu" else {}
            self._forward = torch.compile(self._eager, dynamic=False, options=options)

    def _probe(self) -> int:
        size = self.transform.image_size
        try:
            features = self._run(self._eager, torch.zeros(1, size, size, 3, dtype=torch.uint8))
        except InputError:
            raise
        except (AssertionError, RuntimeError, ValueError, IndexError, AttributeError, TypeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:160]
            raise InputError(
                f"{self.spec.name} does not run with image_size={size}, pooling={self.spec.pooling}, "
                f"layer={self.spec.layer} ({reason}): choose others"
            ) from None
        if features.ndim != 2:
            raise InputError(f"{self.spec.name} gives features of shape {tuple(features.shape)}: choose a pooling")
        return int(features.shape[1])

    def _run(self, network: Any, images_BSSC: Tensor) -> Tensor:
        enabled = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            return network(images_BSSC.to(self.device, non_blocking=True)).float().cpu()

    def encode(self, images_BSSC: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            images_BSSC: (B, S, S, 3) uint8 squares, as `transform` makes them. Keep B the same: the first batch of
                another size compiles again.

        Returns:
            (B, D) float32 on the CPU.
        """
        try:
            return self._run(self._forward, images_BSSC)
        except Exception as error:
            if self._forward is self._eager:
                raise
            # Compilation needs a C++ compiler (or Triton). Without one the network runs uncompiled.
            reason = (str(error) or type(error).__name__).splitlines()[0][:160]
            print(f"warning: torch.compile failed ({reason}); going on without", file=sys.stderr)
            self._forward, self.compiled = self._eager, False
            return self._run(self._forward, images_BSSC)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        """Features of texts by the text tower of a CLIP model, (n, D) float32, comparable to its image features.

        Raises:
            InputError: if the encoder has no text tower.
        """
        if self._encode_text is None:
            raise InputError(f"{self.spec.name} has no text tower: use a CLIP encoder such as clip_vitb16")
        return self._encode_text(texts).cpu().numpy()

    def describe(self) -> dict[str, Any]:
        """The encoder's entry in the manifest; splits with equal entries may be used together."""
        return {
            "encoder": {
                "name": self.spec.name,
                "library": self.spec.library,
                "model": self.spec.model,
                "pooling": self.spec.pooling,
                "layer": self.spec.layer,
                "dim": self.dim,
                "precision": self.precision,
            },
            "weights": {"source": self.source, "sha256": self.weights_sha256},
            "transform": self.transform.describe(),
        }


class _Normalized(nn.Module):
    """uint8 squares (B, S, S, 3) to features: the normalization runs on the device, inside the compiled graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, transform: Preprocess) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(transform.mean).view(1, -1, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(transform.std).view(1, -1, 1, 1) * 255, persistent=False)

    def forward(self, images_BSSC: Tensor) -> Tensor:
        # A permuted (B, S, S, 3) is (B, 3, S, S) in channels_last memory: nothing is copied.
        return self.network((images_BSSC.permute(0, 3, 1, 2).float() - self.mean) / self.std)


def fold_batch_norms(network: nn.Module, image_size: int) -> nn.Module:
    """The network with each BatchNorm folded into the convolution right before it, where that changes nothing.

    Fewer passes over memory, and in bfloat16 also closer to float32, as the folding itself is done in float32. Which
    convolution precedes a BatchNorm is guessed from the order of the modules, so the result is compared with the
    original on noise and dropped if it differs.
    """
    from timm.layers import BatchNormAct2d

    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    folded = copy.deepcopy(network)
    for parent in list(folded.modules()):
        children = list(parent.named_children())
        for (_, conv), (name, norm) in itertools.pairwise(children):
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            if conv.out_channels == norm.num_features and norm.running_mean is not None:
                _fold_into(conv, norm)
                # timm's BatchNorm also holds the activation after it.
                rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
                setattr(parent, name, rest)
    noise = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = network(noise), folded(noise)
    scale = float(expected.abs().max())
    return folded if torch.allclose(expected, found, rtol=0, atol=1e-3 * scale) else network


def _fold_into(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    conv.weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.bias = bias


def load_encoder(
    encoder: str | EncoderSpec | Mapping[str, Any],
    *,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
) -> Encoder:
    """Build an encoder with its weights, ready to run.

    Args:
        encoder: a name of `ENCODERS`, a spec, or a mapping of a name and options.
        device: `auto` (the first GPU, else the CPU), `cpu`, `cuda`, `cuda:1`, …
        precision: `float32`, `bfloat16` (by autocast), or `auto`: bfloat16 where the device computes in it.
        compile: compile the network; pays off from a few thousand images on.

    Raises:
        InputError: if the encoder is unknown, its weights cannot be had or do not fit, or it does not run as asked.
    """
    spec = encoder_spec(encoder)
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision} is unknown: one of {', '.join(PRECISIONS)}")
    place = _device(device)
    if precision == "auto":
        precision = "bfloat16" if _computes_bfloat16(place) else "float32"
    return Encoder(spec, build(spec), place, precision, compile)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
    except RuntimeError:
        raise InputError(f"device={name} is unknown: auto, cpu, cuda or cuda:N") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device={name}: this machine has {torch.cuda.device_count()} GPUs; use device=cpu")
    return place


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without these instructions bfloat16 is emulated, and slower than float32.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
