"""How the images of a study were cut before an encoder saw them: `encoder.study=temi` and `encoder.study=zero_shot`.

The same checkpoint gives other features of an image that was resized by another rule. What a study's code does counts
here; where a command line says `crop_pct`, `image_size` or `interpolation` itself, that wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepclust.extraction.encoder_catalog import ENCODERS
from deepclust.runtime.errors import InputError

# torchvision's Resize interpolates bilinearly unless told otherwise.
LARGER_THAN_THE_CROP: Mapping[str, Any] = {"image_size": 224, "crop_pct": 224 / 256, "interpolation": "bilinear"}
AS_LARGE_AS_THE_CROP: Mapping[str, Any] = {"image_size": 224, "crop_pct": 1.0, "interpolation": "bicubic"}
STUDIES = ("temi", "zero_shot")


def with_study(options: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """The options of an encoder, those of the study filled in; without a study, the options as they are.

    Args:
        options: of an encoder, `name` among them where it has one; values of None are not given.
        dataset: the name of the data set whose images are cut.

    Raises:
        InputError: if the study is unknown.

    Example:
        >>> with_study({"name": "dino_vitb16", "study": "zero_shot"}, "cifar10")["interpolation"]
        'bilinear'
    """
    given = {key: value for key, value in options.items() if value is not None}
    study = given.pop("study", None)
    if study is None:
        return given
    if study not in STUDIES:
        raise InputError(f"encoder.study={study} is unknown: one of {', '.join(STUDIES)}")
    rule = _zero_shot() if study == "zero_shot" else _temi(dataset, given.get("name"))
    return {**rule, **given}


def _zero_shot() -> dict[str, Any]:
    """Lowe et al. 2023, section 2, and `data_transformations.py` of their code: one rule for every encoder."""
    return {**AS_LARGE_AS_THE_CROP, "interpolation": "bilinear"}


def _temi(dataset: str, encoder: str | None) -> dict[str, Any]:
    """`model_builders.py` of the TEMI authors' code: ImageNet is cut out of 256 pixels, but for CLIP, which brings its
    own transform; smaller images are enlarged to 224."""
    spec = ENCODERS.get(encoder or "")
    clip = spec is not None and spec.library == "open_clip"
    return dict(LARGER_THAN_THE_CROP if dataset == "imagenet" and not clip else AS_LARGE_AS_THE_CROP)
