"""Small image collections, and an encoder quick enough for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepclust.extraction.encoders import Encoder, load_encoder

# timm's smallest ResNet at a size at which a CPU does thousands of images a second; its weights are drawn, not loaded.
TINY = {"name": "tiny", "library": "timm", "model": "test_resnet", "image_size": 32}


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_options(tiny_weights: Path) -> dict:
    return {**TINY, "checkpoint": str(tiny_weights)}


@pytest.fixture(scope="session")
def tiny_encoder(tiny_options: dict) -> Encoder:
    return load_encoder(tiny_options, device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve readable images of three kinds in two sub-folders."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for index in range(12):
        pixels = rng.integers(0, 255, (40 + index, 50, 3), dtype=np.uint8)
        place = folder / ("cats" if index % 2 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index:02d}.{('jpg', 'png', 'webp')[index % 3]}")
    return folder
