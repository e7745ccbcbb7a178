"""`deepclust extract …`: turn images into features, once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepclust.cli.configure import run_hydra
from deepclust.runtime.errors import InputError

if TYPE_CHECKING:
    from deepclust.extraction.encoder_catalog import EncoderSpec


def main() -> None:
    run_hydra("extract", extract)


def extract(config: dict[str, Any]) -> None:
    """Extract every split of the data set that the settings name."""
    # Imported here: `--help` needs neither torch nor timm.
    from deepclust.extraction.encoders import load_encoder
    from deepclust.extraction.extract import extract as extract_split
    from deepclust.extraction.extract import rank_device
    from deepclust.extraction.sources import open_sources
    from deepclust.runtime.ranks import is_first_process

    data = config["data"]
    refuse_features(data)
    spec = asked_encoder(config)
    root = Path(config["features_dir"] or os.environ.get("DEEPCLUST_FEATURES") or "features")
    out = Path(config["out"]) if config["out"] else root / data["name"] / spec.name
    sources = open_sources(data["name"], data["path"], labels=data["labels"])
    running = {key: config[key] for key in ("device", "precision", "compile")}
    # Loaded once for all splits; processes of a cluster load it themselves.
    here = config["engine"] == "local"
    encoder = load_encoder(spec, **{**running, "device": rank_device(config["device"])}) if here else spec
    for split, source in sources.items():
        features = extract_split(
            source,
            encoder,
            out / split,
            on_error=data["on_error"],
            batch_size=config["batch_size"],
            workers=config["workers"],
            images_per_shard=config["images_per_shard"],
            dtype=config["dtype"],
            engine=config["engine"],
            **running,
            overwrite=config["overwrite"],
        )
        if is_first_process():
            print(f"{out / split}: {len(features)} × {features.dim} {config['dtype']}, by {spec.name}")


def refuse_features(data: Mapping[str, Any]) -> None:
    """Raises InputError where `data=` names features, not images."""
    if data["name"] == "features":
        raise InputError("data=features comes as features: there are no images to extract them from or train with")
    if given := [key for key in ("train", "train_labels", "test", "test_labels") if data[key] is not None]:
        raise InputError(f"data.{given[0]} is for data=features: images lie in data.path")


def asked_encoder(config: Mapping[str, Any]) -> EncoderSpec:
    """The encoder that `encoder=` names, else the data set's own."""
    from deepclust.extraction.encoder_catalog import encoder_spec
    from deepclust.extraction.studies import with_study

    data = config["data"]
    # Fashion-MNIST's default for training is raw pixels.
    name = config["encoder"]["name"] or data["encoder"] or "efficientnet_lite0"
    return encoder_spec(with_study({**config["encoder"], "name": name}, data["name"]))


if __name__ == "__main__":
    main()
