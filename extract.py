"""Images to features: `python extract.py encoder=dino_vitb16 data=cifar10`. Everything else: `--help`."""

from __future__ import annotations

import os
from pathlib import Path

import hydra
from omegaconf import DictConfig

from deepclust.runtime.errors import InputError, one_line_errors


def run(cfg: DictConfig) -> None:
    """Extract every split of the data set that the config names."""
    # After Hydra's own --help, which needs neither torch nor timm.
    from deepclust.extraction.encoders import encoder_spec, load_encoder
    from deepclust.extraction.extract import extract, rank_device
    from deepclust.extraction.sources import open_sources

    if cfg.data.name == "features":
        raise InputError("data=features comes as features: there are no images to extract them from")
    options = {str(key): value for key, value in cfg.encoder.items()}
    # Fashion-MNIST's default for training is raw pixels.
    options["name"] = options["name"] or cfg.data.encoder or "efficientnet_lite0"
    spec = encoder_spec(options)
    root = Path(cfg.features_dir or os.environ.get("DEEPCLUST_FEATURES") or "features")
    out = Path(cfg.out) if cfg.out else root / cfg.data.name / spec.name
    sources = open_sources(cfg.data.name, cfg.data.path, labels=cfg.data.labels)
    encoder = load_encoder(spec, device=rank_device(cfg.device), precision=cfg.precision, compile=cfg.compile)
    for split, source in sources.items():
        features = extract(
            source,
            encoder,
            out / split,
            on_error=cfg.data.on_error,
            batch_size=cfg.batch_size,
            workers=cfg.workers,
            images_per_shard=cfg.images_per_shard,
            dtype=cfg.dtype,
            overwrite=cfg.overwrite,
        )
        if os.environ.get("RANK", "0") == "0":
            print(f"{out / split}: {len(features)} × {features.dim} {cfg.dtype}, by {spec.name}")


@hydra.main(version_base="1.3", config_path="conf", config_name="extract")
def main(cfg: DictConfig) -> None:
    with one_line_errors():
        run(cfg)


if __name__ == "__main__":
    main()
