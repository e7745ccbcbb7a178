"""Features of a collection of images, written shard by shard: a killed run continues and makes the same bytes.

Shape suffixes: B images in the batch, S side of the image, D feature dimensions.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from deepclust.extraction.encoders import Encoder, EncoderSpec, load_encoder
from deepclust.extraction.image_source import ImageSource, as_source
from deepclust.extraction.images import Preprocess, UnreadableImageError
from deepclust.extraction.shard_plan import ShardPlan, printable
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import SHARD_BYTES, FeatureSet
from deepclust.features.shards import MANIFEST
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint, make_folder
from deepclust.runtime.locks import one_at_a_time
from deepclust.runtime.progress import Stage
from deepclust.runtime.ranks import Launch

# Small enough that a killed run loses a minute or two even on a CPU, large enough that 11 million images make some
# 1 400 files.
IMAGES_PER_SHARD = 8192
# On a CPU the activations of 32 images stay in cache; larger batches were slower (docs/features.md).
CPU_BATCH, GPU_BATCH = 32, 256
MAX_THREADS = 8
# A rank that has made its own shards waits so long for the next one of another: a shard takes minutes.
STALLED_SECONDS = 3600.0
DTYPES = {"float16": np.float16, "float32": np.float32}

Batch = tuple[int, range]
Loaded = tuple[int, range, torch.Tensor, list[tuple[int, str]]]
Encoded = Generator[tuple[Loaded, torch.Tensor], None, None]


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
        precision: see `load_encoder`.
        overwrite: make features of other settings in `out` again, instead of refusing.
        progress: show progress on stderr.

    Returns:
        The FeatureSet, memory-mapped.

    Raises:
        InputError: if the images cannot be had, the encoder cannot run, `out` holds features made otherwise, an image
            is unreadable with `on_error="raise"`, or a feature does not fit into float16.
    """
    if on_error not in ("skip", "raise"):
        raise InputError(f"data.on_error={on_error} is unknown: skip or raise")
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype} is unknown: one of {', '.join(DTYPES)}")
    launch = Launch.from_environment()
    if not launch.starts_every_rank:
        # Lightning's ranks are started long after the first process has extracted what it needs.
        launch = Launch()
    rank, local_world = launch.rank, launch.local_world_size
    if overwrite and launch.world_size > 1:
        # The other ranks cannot tell the features to be replaced from those being made.
        raise InputError(f"overwrite=true is for a single process: remove {out}, then start the ranks")
    source = as_source(images)
    if not isinstance(encoder, Encoder):
        encoder = load_encoder(encoder, device=rank_device(device), precision=precision)
    rows = min(images_per_shard, max(1, SHARD_BYTES // (encoder.dim * DTYPES[dtype]().itemsize)))
    provenance = {**encoder.describe(), "source": source.describe(), "dtype": dtype, "versions": _versions()}
    plan = ShardPlan(Path(out).expanduser(), len(source), rows, provenance)
    with alone_in(plan.folder) if launch.world_size == 1 else nullcontext():
        plan.start(overwrite=overwrite, first_rank=rank == 0)
        if plan.finished:
            return load_features(plan.folder)
        mine = [shard for shard in range(rank, plan.n_shards, launch.world_size) if not plan.is_done(shard)]
        size = batch_size or (CPU_BATCH if encoder.device.type == "cpu" else GPU_BATCH)
        n_workers = _n_workers(workers, encoder.device.type, local_world, sum(len(plan.images_of(i)) for i in mine))
        loader = _loader(source, encoder, plan, mine, size, n_workers)
        _make_shards(
            source, encoder, plan, loader, _cpus() // local_world, on_error, DTYPES[dtype], progress and rank == 0
        )
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


def cached_features(source: ImageSource, spec: EncoderSpec, root: Path, *, on_error: str = "skip") -> FeatureSet:
    """The features of a source, extracted at the first call and found again as long as images and encoder stay.

    Of several processes that want them at once one extracts and the others wait; the ranks of torchrun or srun share
    the work.

    Args:
        source: the images.
        spec: the encoder.
        root: folder of the cache; each combination of images and encoder has a sub-folder of its own.
        on_error: see `extract`.

    Raises:
        InputError: see `extract`.
    """
    checkpoint = None if spec.checkpoint is None else Path(spec.checkpoint).expanduser()
    status = checkpoint.stat() if checkpoint is not None and checkpoint.is_file() else None
    options = {**asdict(spec), "checkpoint": status and [str(checkpoint), status.st_size, status.st_mtime_ns]}
    folder = root / f"{spec.name}-{fingerprint(source.describe(), options)}"
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


def _relabeled(features: FeatureSet, source: ImageSource) -> FeatureSet:
    features.labels = features.class_names = None
    if source.labels is not None:
        rows = {source.path(index): index for index in range(len(source))}
        features.labels = source.labels[[rows[path] for path in features.paths or ()]]
        features.class_names = source.class_names
    return features


class _Batches(Dataset):
    """Batches of decoded squares; a worker process makes one batch at a time."""

    def __init__(self, source: ImageSource, transform: Preprocess, batches: list[Batch], batch_size: int) -> None:
        self.source = source
        self.transform = transform
        self.batches = batches
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Loaded:
        shard, images = self.batches[index]
        size = self.transform.image_size
        # Full batches always: an image's feature depends on the shape of its batch (in the last bits), so it must not
        # depend on how many of its neighbors could be read.
        squares_BSSC = np.zeros((self.batch_size, size, size, 3), dtype=np.uint8)
        unreadable = []
        for slot, image in enumerate(images):
            try:
                squares_BSSC[slot] = self.transform(self.source.image(image, shrink_to=self.transform.resized))
            except UnreadableImageError as error:
                unreadable.append((image, str(error)))
        return shard, images, torch.from_numpy(squares_BSSC), unreadable


def _as_is(loaded: Any) -> Any:
    # torch's default would turn the range of images into a list.
    return loaded


def _loader(
    source: ImageSource, encoder: Encoder, plan: ShardPlan, shards: list[int], batch_size: int, workers: int
) -> DataLoader:
    """Batches of squares of the given shards, in order. No batch reaches into the next shard."""
    batches = [
        (shard, plan.images_of(shard)[start : start + batch_size])
        for shard in shards
        for start in range(0, len(plan.images_of(shard)), batch_size)
    ]
    return DataLoader(
        _Batches(source, encoder.transform, batches, batch_size),
        batch_size=None,
        collate_fn=_as_is,
        num_workers=workers,
        pin_memory=encoder.device.type == "cuda",
        prefetch_factor=4 if workers else None,
    )


def _make_shards(
    source: ImageSource,
    encoder: Encoder,
    plan: ShardPlan,
    loader: DataLoader,
    cpus: int,
    on_error: str,
    dtype: type[np.floating],
    progress: bool,
) -> None:
    done: list[np.ndarray] = []
    skipped: list[tuple[int, str]] = []
    assert isinstance(loader.dataset, _Batches)
    n_images = sum(len(images) for _, images in loader.dataset.batches)
    with (
        _progress(n_images, encoder.spec.name, progress) as stage,
        closing(encoded(_loaded(loader), encoder, cpus)) as results,
    ):
        for (shard, images, _, unreadable), features_BD in results:
            if unreadable and on_error == "raise":
                image, reason = unreadable[0]
                raise InputError(
                    f"{printable(source.path(image))} of {source.name} cannot be read ({reason}): "
                    "repair or remove it, or leave such images out with data.on_error=skip"
                )
            missing = {image for image, _ in unreadable}
            kept = [slot for slot, image in enumerate(images) if image not in missing]
            done.append(features_BD.numpy()[kept].astype(dtype))
            skipped.extend(unreadable)
            stage.advance(len(images))
            if images.stop == plan.images_of(shard).stop:
                rows = np.concatenate(done)
                if not np.isfinite(rows).all():
                    raise InputError(
                        f"{encoder.spec.name} gives features that {np.dtype(dtype)} cannot hold: "
                        "use dtype=float32, and precision=float32 if that fails too"
                    )
                plan.finish_shard(shard, rows, skipped)
                done, skipped = [], []


def _loaded(loader: DataLoader) -> Iterator[Loaded]:
    try:
        yield from loader
    except RuntimeError as error:
        if "shared memory" in str(error) or "DataLoader worker" in str(error):
            reason = str(error).splitlines()[0][:160]
            raise InputError(f"a process that reads images died ({reason}): lower workers= or batch_size=") from None
        raise


def encoded(batches: Iterator[Loaded], encoder: Encoder, cpus: int) -> Encoded:
    """Each batch with its features, in order. On a CPU, a batch is computed by one core, not by all of them.

    OpenMP's threads spin while they wait for each other after every layer. On a machine that also reads images this
    cost up to nine tenths of the speed. One core per batch also makes the features independent of the number of cores.
    More than `MAX_THREADS` threads would wait for Python's own lock.
    """
    on_cpu = encoder.device.type == "cpu" and not encoder.compiled
    n_threads = max(1, min(MAX_THREADS, cpus)) if on_cpu else 1
    before = torch.get_num_threads()
    per_thread = max(1, cpus // n_threads)
    torch.set_num_threads(per_thread)
    try:
        with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(per_thread,)) as pool:
            running: deque[tuple[Loaded, Future[torch.Tensor]]] = deque()
            for batch in batches:
                running.append((batch, pool.submit(encoder.encode, batch[2])))
                if len(running) > 2 * n_threads:
                    batch, future = running.popleft()
                    yield batch, future.result()
            for batch, future in running:
                yield batch, future.result()
    finally:
        torch.set_num_threads(before)


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


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _n_workers(asked: int | None, device: str, local_world: int, n_images: int) -> int:
    if asked is not None:
        return asked
    if n_images < 512:
        # Starting a process takes longer than reading a few hundred images.
        return 0
    cpus = _cpus() // local_world
    return max(1, min(8, cpus // 2)) if device == "cpu" else max(1, min(16, cpus))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("deepclust", "torch", "timm", "pillow", "open_clip_torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
