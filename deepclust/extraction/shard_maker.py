"""Makes the rows of shards: reads images, encodes them batch by batch. Who writes them, and where, is not its concern.

Shape suffixes: B images in the batch, S side of the image, D feature dimensions.
"""

from __future__ import annotations

import os
import platform
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from deepclust.extraction.encoders import Encoder
from deepclust.extraction.image_source import ImageSource
from deepclust.extraction.images import Preprocess, UnreadableImageError
from deepclust.extraction.shard_plan import printable
from deepclust.runtime.errors import InputError

# On a CPU the activations of 32 images stay in cache; larger batches were slower (docs/features.md).
CPU_BATCH, GPU_BATCH = 32, 256
MAX_THREADS = 8
# Starting a process takes longer than reading a few hundred images.
FEWEST_FOR_PROCESSES = 512

Batch = tuple[int, range]
Loaded = tuple[int, range, torch.Tensor, list[tuple[int, str]]]
Encoded = Generator[tuple[Loaded, torch.Tensor], None, None]
# A shard's number, its rows, and the images that cannot be read, with reasons.
Shard = tuple[int, np.ndarray, list[tuple[int, str]]]
Shards = Generator[Shard, None, None]


@dataclass(frozen=True)
class ShardMaker:
    """What makes shards in this process.

    Attributes:
        source: of the images.
        encoder: loaded.
        dtype: of the rows.
        on_error: `skip` images that cannot be read, or `raise`.
        batch_size: images per forward pass; None: by the device.
        workers: processes that read images; None: by `cpus`.
        cpus: CPU cores that this process may use.
    """

    source: ImageSource
    encoder: Encoder
    dtype: type[np.floating]
    on_error: str = "skip"
    batch_size: int | None = None
    workers: int | None = None
    cpus: int = 1

    def describe(self) -> dict[str, Any]:
        """What the rows depend on, for the manifest."""
        return {**self.encoder.describe(), "versions": _versions()}

    def shards(self, images: Mapping[int, range], advance: Callable[[int], object]) -> Shards:
        """The shards, in order.

        Args:
            images: of each shard, by its number.
            advance: called with the number of images of each batch that is done.

        Raises:
            InputError: if an image cannot be read and `on_error` says `raise`, a process that reads images dies, or
                `dtype` cannot hold the features.
        """
        done: list[np.ndarray] = []
        skipped: list[tuple[int, str]] = []
        with closing(encoded(_loaded(self._loader(images)), self.encoder, self.cpus)) as results:
            for (shard, batch, _, unreadable), features_BD in results:
                if unreadable and self.on_error == "raise":
                    refuse_unreadable(self.source, *unreadable[0])
                missing = {image for image, _ in unreadable}
                kept = [slot for slot, image in enumerate(batch) if image not in missing]
                done.append(features_BD.numpy()[kept].astype(self.dtype))
                skipped.extend(unreadable)
                advance(len(batch))
                if batch.stop == images[shard].stop:
                    rows = np.concatenate(done)
                    if not np.isfinite(rows).all():
                        raise InputError(
                            f"{self.encoder.spec.name} gives features that {np.dtype(self.dtype)} cannot hold: "
                            "use dtype=float32, and precision=float32 if that fails too"
                        )
                    yield shard, rows, skipped
                    done, skipped = [], []

    def _loader(self, images: Mapping[int, range]) -> DataLoader:
        """Batches of squares of the given shards, in order. No batch reaches into the next shard."""
        device = self.encoder.device.type
        size = self.batch_size or (CPU_BATCH if device == "cpu" else GPU_BATCH)
        batches = [
            (shard, wanted[start : start + size])
            for shard, wanted in images.items()
            for start in range(0, len(wanted), size)
        ]
        workers = self._n_workers(sum(map(len, images.values())))
        return DataLoader(
            _Batches(self.source, self.encoder.transform, batches, size),
            batch_size=None,
            collate_fn=_as_is,
            num_workers=workers,
            pin_memory=device == "cuda",
            prefetch_factor=4 if workers else None,
        )

    def _n_workers(self, n_images: int) -> int:
        if self.workers is not None:
            return self.workers
        if n_images < FEWEST_FOR_PROCESSES:
            return 0
        on_cpu = self.encoder.device.type == "cpu"
        return max(1, min(8, self.cpus // 2)) if on_cpu else max(1, min(16, self.cpus))


def refuse_unreadable(source: ImageSource, image: int, reason: str) -> None:
    """Raises InputError."""
    raise InputError(
        f"{printable(source.path(image))} of {source.name} cannot be read ({reason}): "
        "repair or remove it, or leave such images out with data.on_error=skip"
    )


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


def cpus_at_hand() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("deepclust", "torch", "timm", "pillow", "open_clip_torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
