"""Features of a collection of images, written shard by shard: a killed run continues and makes the same bytes.

Shape suffixes: B images in the batch, S side of the image, D feature dimensions.
"""

from __future__ import annotations

import glob
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepclust.extraction.encoders import Encoder, EncoderSpec, encoder_spec, load_encoder
from deepclust.extraction.image_source import ImageSource, as_source
from deepclust.extraction.over_ray import RayWorkers, Task, ray_workers
from deepclust.extraction.shard_maker import ShardMaker, cpus_at_hand
from deepclust.extraction.shard_plan import ShardPlan
from deepclust.features.dataset import Clustered
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import SHARD_BYTES, FeatureSet
from deepclust.features.shards import MANIFEST
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint, make_folder, read_json
from deepclust.runtime.locks import one_at_a_time
from deepclust.runtime.progress import Stage
from deepclust.runtime.ranks import Launch

# Small enough that a killed run loses a minute or two even on a CPU, large enough that 11 million images make some
# 1 400 files.
IMAGES_PER_SHARD = 8192
# A rank that has made its own shards waits so long for the next one of another: a shard takes minutes.
STALLED_SECONDS = 3600.0
DTYPES = {"float16": np.float16, "float32": np.float32}
ENGINES = ("local", "ray")


def extract(
    images: Any,
    encoder: str | EncoderSpec | Mapping[str, Any] | Encoder,
    out: str | os.PathLike,
    *,
    on_error: str = "skip",
    batch_size: int | None = None,
    workers: int | None = None,
    images_per_shard: int = IMAGES_PER_SHARD,
    dtype: str = "float16",
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    engine: str = "local",
    overwrite: bool = False,
    progress: bool = True,
) -> FeatureSet:
    """Embed images and write a FeatureSet folder; goes on where an earlier, interrupted call stopped.

    Under `torchrun` or `srun` each process makes its share of the shards, and all of them return when the last shard is
    there. Of several calls for one folder that know nothing of each other one extracts, and the others wait for it.
    The bytes on disk depend on neither the number of processes or workers nor on interruptions.

    Args:
        images: a folder, a list of image paths, an (N, H, W[, 3]) uint8 array, or an `ImageSource`.
        encoder: an encoder's name, spec or options, or a loaded `Encoder`.
        out: the folder to write.
        on_error: `skip` images that cannot be read (they are counted, and listed in the manifest), or `raise`.
        batch_size: images per forward pass; default 32 on a CPU, 256 on a GPU.
        workers: processes that read images; default half the CPU cores on a CPU, all of them beside a GPU.
        images_per_shard: images that each shard covers; lower it where one image takes seconds.
        dtype: `float16` or `float32`.
        device: see `load_encoder`; under torchrun or srun, `auto` gives each local rank its own GPU.
        precision, compile: see `load_encoder`.
        engine: `local`, or `ray`: processes of a Ray cluster make the shards, one per GPU. This one writes them; the
            bytes are the same.
        overwrite: make features of other settings in `out` again, instead of refusing.
        progress: show progress on stderr.

    Returns:
        The FeatureSet, memory-mapped.

    Raises:
        InputError: if the images cannot be had, the encoder cannot run, `out` holds features made otherwise, an image
            is unreadable with `on_error="raise"`, a feature does not fit into float16, or the cluster fails.
    """
    if on_error not in ("skip", "raise"):
        raise InputError(f"data.on_error={on_error} is unknown: skip or raise")
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype} is unknown: one of {', '.join(DTYPES)}")
    if engine not in ENGINES:
        raise InputError(f"engine={engine} is unknown: one of {', '.join(ENGINES)}")
    launch = Launch.from_environment()
    if not launch.starts_every_rank:
        # Lightning's ranks are started long after the first process has extracted what it needs.
        launch = Launch()
    rank = launch.rank
    if overwrite and launch.world_size > 1:
        # The other ranks cannot tell the features to be replaced from those being made.
        raise InputError(f"overwrite=true is for a single process: remove {out}, then start the ranks")
    source = as_source(images)
    common: dict[str, Any] = {"dtype": DTYPES[dtype], "batch_size": batch_size, "workers": workers}
    with ExitStack() as until_made:
        maker: ShardMaker | RayWorkers
        if engine == "ray":
            if launch.world_size > 1:
                raise InputError("engine=ray hands out shards itself: give the command once, without torchrun or srun")
            if isinstance(encoder, Encoder):
                raise InputError("engine=ray loads the encoder where it runs: give a name or a spec, not a loaded one")
            task = Task(source, encoder_spec(encoder), device, precision, compile, **common)
            maker = until_made.enter_context(ray_workers(task, on_error))
        else:
            if not isinstance(encoder, Encoder):
                encoder = load_encoder(encoder, device=rank_device(device), precision=precision, compile=compile)
            cpus = cpus_at_hand() // launch.local_world_size
            maker = ShardMaker(source, encoder, on_error=on_error, cpus=cpus, **common)
        described = dict(maker.describe())
        versions = described.pop("versions")
        name, dim = described["encoder"]["name"], described["encoder"]["dim"]
        provenance = {**described, "source": source.describe(), "dtype": dtype, "versions": versions}
        rows = min(images_per_shard, max(1, SHARD_BYTES // (dim * DTYPES[dtype]().itemsize)))
        plan = ShardPlan(Path(out).expanduser(), len(source), rows, provenance)
        if launch.world_size == 1:
            until_made.enter_context(alone_in(plan.folder))
        plan.start(overwrite=overwrite, first_rank=rank == 0)
        if plan.finished:
            return load_features(plan.folder)
        mine = {
            shard: plan.images_of(shard)
            for shard in range(rank, plan.n_shards, launch.world_size)
            if not plan.is_done(shard)
        }
        n_images = sum(map(len, mine.values()))
        with (
            _progress(n_images, name, progress and rank == 0) as stage,
            closing(maker.shards(mine, stage.advance)) as shards,
        ):
            for shard, rows_ND, skipped in shards:
                plan.finish_shard(shard, rows_ND, skipped)
        finish_with_others(plan, source)
        if rank == 0:
            _warn_of_skipped(plan.folder)
    return load_features(plan.folder)


def finish_with_others(plan: ShardPlan, source: ImageSource) -> None:
    """Return once every shard is there. The ranks share nothing but the folder, so one that is gone shows only in that
    no shard comes any more.

    Raises:
        InputError: if none has come for an hour.
    """
    n_done, since = plan.n_done, time.monotonic()
    while not plan.finish(source):
        if plan.n_done != n_done:
            n_done, since = plan.n_done, time.monotonic()
        elif time.monotonic() - since > STALLED_SECONDS:
            raise InputError(
                f"{plan.folder} has {n_done} of {plan.n_shards} shards, and none has come for "
                f"{STALLED_SECONDS / 60:.0f} minutes: another rank has ended; start all of them again, and they go on"
            )
        time.sleep(0.5)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait for another process that extracts into the folder, and keep others out meanwhile."""
    make_folder(folder.parent)
    with one_at_a_time(folder.with_name(f".{folder.name}.lock"), f"extracting to {folder}"):
        yield


def cached_features(
    source: ImageSource, spec: EncoderSpec, root: Path, *, on_error: str = "skip", clustered: Clustered | None = None
) -> FeatureSet:
    """The features of a source, extracted at the first call and found again as long as images and encoder stay.

    Of several processes that want them at once one extracts and the others wait; the ranks of torchrun or srun share
    the work.

    Args:
        source: the images.
        spec: the encoder.
        root: folder of the cache; each combination of images and encoder has a sub-folder of its own.
        on_error: see `extract`.
        clustered: of a finished run, whose features are wanted: where the images have changed since, those that are
            kept of the earlier ones, and nothing is extracted.

    Raises:
        InputError: see `extract`; or if the images have changed since they were clustered, and nothing is kept.
    """
    checkpoint = None if spec.checkpoint is None else Path(spec.checkpoint).expanduser()
    status = checkpoint.stat() if checkpoint is not None and checkpoint.is_file() else None
    options = {**asdict(spec), "checkpoint": status and [str(checkpoint), status.st_size, status.st_mtime_ns]}
    folder = root / f"{spec.name}-{fingerprint(source.describe(), options)}"
    if clustered is not None:
        earlier = _features_of_run(source, folder / "train", clustered)
        if earlier is not None:
            return earlier
    with ExitStack() as until_made:
        if not (folder / "train" / MANIFEST).is_file():
            # Loaded first, so that a missing encoder is refused before anything is written.
            encoder = load_encoder(spec, device=rank_device("auto"))
            if not Launch.from_environment().starts_every_rank:
                try:
                    root.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise InputError(f"cannot write to {root} ({error.strerror}): give features_dir=FOLDER") from None
                until_made.enter_context(one_at_a_time(root / f"{folder.name}.lock", "extracting features"))
        if (folder / "train" / MANIFEST).is_file():
            # Labels are no part of the key: the same images may be asked for with and without.
            return _relabeled(load_features(folder), source)
        return extract(source, encoder, folder / "train", on_error=on_error)


def _features_of_run(source: ImageSource, place: Path, clustered: Clustered) -> FeatureSet | None:
    """The features that a run clustered, of its images as they were then; None where the images are the same.

    Args:
        source: the images that there are now.
        place: where their features lie, or would lie; those of earlier images lie beside.
        clustered: what is known of the run's.

    Raises:
        InputError: if the images are others, and the run's features are not kept.
    """
    if (place / MANIFEST).is_file() and clustered.digest in (None, load_features(place).fingerprint(times=False)):
        return None
    root, encoder = source.describe().get("root"), place.parent.name.rsplit("-", 1)[0]
    for one in sorted(place.parent.parent.glob(f"{glob.escape(encoder)}-*/{place.name}/{MANIFEST}")):
        told = read_json(one, f"remove {one.parent}")
        if told.get("source", {}).get("root") != root or clustered.n_samples not in (None, told.get("n_rows")):
            continue
        features = load_features(one.parent)
        if features.fingerprint(times=False) == clustered.digest:
            print(
                f"warning: {source.name} has changed since it was clustered ({len(source):,} images now): what follows "
                f"is of the {len(features):,} of that time; to cluster all, run again",
                file=sys.stderr,
            )
            return _relabeled(features, source)
    if clustered.n_samples not in (None, len(source)):
        raise InputError(
            f"{source.name} has {len(source):,} images, {clustered.n_samples:,} were clustered, and their features are "
            f"no longer in {place.parent.parent}: put the folder back as it was, or cluster it again"
        )
    return None


def _relabeled(features: FeatureSet, source: ImageSource) -> FeatureSet:
    features.labels = features.class_names = None
    if source.labels is not None:
        rows = {source.path(index): index for index in range(len(source))}
        gone = next((path for path in features.paths or () if path not in rows), None)
        if gone is not None:
            raise InputError(f"{source.name} has no {gone} any more, so its label is not known: put it back")
        features.labels = source.labels[[rows[path] for path in features.paths or ()]]
        features.class_names = source.class_names
    return features


@contextmanager
def _progress(total: int, name: str, show: bool) -> Iterator[Stage]:
    began = time.perf_counter()
    with Stage(name, total, unit="images", enabled=show, stderr=True) as stage:
        yield stage
    seconds = time.perf_counter() - began
    if show and total:
        print(f"{total:,} images in {seconds:.1f} s: {total / seconds:.0f} images/s", file=sys.stderr)


def _warn_of_skipped(folder: Path) -> None:
    features = load_features(folder)
    skipped = features.manifest["skipped"]
    if skipped["count"]:
        first = skipped["images"][0]
        print(
            f"warning: {skipped['count']} of {features.manifest['n_images']} images cannot be read and were left out, "
            f"the first of them {first['path']} ({first['reason']}); all are listed in {folder / MANIFEST}",
            file=sys.stderr,
        )


def rank_device(device: str) -> str:
    """The device of this process: what was asked for, or for `auto` the GPU of its local rank, where there are any."""
    if device != "auto" or not torch.cuda.is_available():
        return device
    return f"cuda:{Launch.from_environment().local_rank % torch.cuda.device_count()}"
