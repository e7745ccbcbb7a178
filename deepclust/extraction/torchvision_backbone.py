"""Networks of torchvision's model zoo with one of its sets of weights, and the preprocessing that goes with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from deepclust.extraction.encoder_catalog import EncoderSpec
from deepclust.extraction.weights import load_into, local_weights, published_weights, read_checkpoint
from deepclust.runtime.errors import InputError

# Where torchvision's models keep their classifier: without it they give the features that it sees.
CLASSIFIERS = ("fc", "heads", "head", "classifier")


def torchvision_network(spec: EncoderSpec) -> tuple[nn.Module, Any, str]:
    """The network of a spec without its classifier, torchvision's own transform for its weights, and their origin.

    Raises:
        InputError: if torchvision has no such model or weights, they cannot be had, or tokens or layers are asked for.
    """
    from torchvision import models

    try:
        known = models.get_model_weights(spec.model)
    except ValueError:
        raise InputError(f"torchvision has no model {spec.model}: see torchvision.models.list_models()") from None
    if spec.pretrained not in known.__members__:
        names = ", ".join(known.__members__)
        raise InputError(f"torchvision has no weights '{spec.pretrained}' for {spec.model}: one of {names}")
    if spec.pooling != "own" or spec.layer is not None:
        raise InputError(
            f"{spec.name} is torchvision's, which gives its own vector alone: leave out encoder.pooling and "
            "encoder.layer, or choose a timm encoder"
        )
    weights = known[spec.pretrained]
    path = local_weights(spec) or published_weights(replace(spec, url=weights.url))
    network = models.get_model(spec.model, weights=None)
    load_into(network, read_checkpoint(path), spec, path)
    for name in CLASSIFIERS:
        if hasattr(network, name):
            setattr(network, name, nn.Identity())
    return network, weights.transforms(), f"torchvision {spec.model} {spec.pretrained}, {path.name}"
