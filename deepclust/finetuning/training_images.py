"""Batches of images to train on. Which images a batch holds, and how each is augmented, is a function of the seed, the
epoch and the place alone: a resumed run sees what an uninterrupted one sees, whatever the number of workers.

Shape suffixes: B images in the batch, S side of the image.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deepclust.extraction.image_source import ImageSource
from deepclust.extraction.images import Preprocess, UnreadableImageError
from deepclust.finetuning.finetune_settings import FinetuneSettings
from deepclust.runtime.errors import InputError

Key = tuple[int, int]


def seed_all(*words: int) -> None:
    """Seed the global generators, which timm's augmentation, mixup and drop path draw from."""
    mixed = int(np.random.SeedSequence(words).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


class TrainingImages(Dataset):
    """Normalized images (3, S, S) and their labels, by (epoch, index).

    Args:
        source: the images; without labels every label is -1.
        preprocess: the encoder's: size, interpolation, mean and standard deviation; the cut, too, without augmentation.
        settings: the augmentation and the seed; None: none.
        on_error: for images that cannot be read: `skip` takes the next one in their place, or `raise`.

    Raises:
        InputError: if timm does not know the augmentation.
    """

    def __init__(
        self,
        source: ImageSource,
        preprocess: Preprocess,
        settings: FinetuneSettings | None = None,
        on_error: str = "raise",
    ) -> None:
        self.source, self.preprocess, self.on_error = source, preprocess, on_error
        self.seed = 0 if settings is None else settings.seed
        self.augmented = None if settings is None or settings.augment is None else augmentation(preprocess, settings)
        self.mean = torch.tensor(preprocess.mean).view(3, 1, 1)
        self.std = torch.tensor(preprocess.std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        epoch, index = key
        image, index = self._image(index)
        label = -1 if self.source.labels is None else int(self.source.labels[index])
        if self.augmented is None:
            square_SSC = torch.from_numpy(np.array(self.preprocess(image))).expand(-1, -1, 3)
            return (square_SSC.permute(2, 0, 1).float() / 255 - self.mean) / self.std, label
        seed_all(self.seed, epoch, index)
        return self.augmented(image.convert("RGB")), label

    def _image(self, index: int) -> tuple[Image.Image, int]:
        shrink = self.preprocess.resized if self.augmented is None else None  # a random crop wants every pixel
        for tried in range(len(self.source)):
            place = (index + tried) % len(self.source)
            try:
                return self.source.image(place, shrink_to=shrink), place
            except UnreadableImageError as error:
                what = f"{self.source.path(place)} of {self.source.name} cannot be read ({error})"
                if self.on_error == "raise":
                    raise InputError(f"{what}: repair or remove it, or pass over it with data.on_error=skip") from None
                print(f"warning: {what}; the next image takes its place", file=sys.stderr)
        raise InputError(f"no image of {self.source.name} can be read: repair them, or give others")


def augmentation(preprocess: Preprocess, settings: FinetuneSettings) -> Callable[[Image.Image], Tensor]:
    """timm's transform for training, in MAE's form: random crop and flip, the named augmentation, random erasing."""
    from timm.data import create_transform

    try:
        made: Any = create_transform(
            preprocess.image_size,
            is_training=True,
            color_jitter=0.0,  # the named augmentation has its own
            auto_augment=settings.augment,
            interpolation=preprocess.interpolation,
            re_prob=settings.random_erase,
            re_mode="pixel",
            mean=preprocess.mean,
            std=preprocess.std,
        )
    except (AssertionError, KeyError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise InputError(
            f"augment={settings.augment} is no augmentation of timm's ({reason}): give one such as rand-m9-mstd0.5-inc1"
        ) from None
    for operation in (one for step in made.transforms for one in getattr(step, "ops", ())):
        if operation.name.startswith("Posterize"):
            operation.aug_fn = posterized
    return made


def posterized(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """The image with so many bits of each value. timm draws 0 bits, too, the black image of older versions of Pillow,
    which newer ones refuse to make."""
    return image.point(lambda value: value & ~(2 ** (8 - min(bits, 8)) - 1))


class Batches:
    """One epoch of batches of (epoch, index) keys.

    Args:
        rows: of an epoch's number the batches of row numbers.
        n_batches: how many these are.
        epoch: gives the number of the epoch that begins.
    """

    def __init__(
        self, rows: Callable[[int], Iterator[Sequence[int]]], n_batches: int, epoch: Callable[[], int] = lambda: 0
    ) -> None:
        self.rows, self.n_batches, self.epoch = rows, n_batches, epoch

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch()
        for rows in self.rows(epoch):
            yield [(epoch, int(row)) for row in rows]


def shuffled_batches(n_images: int, batch_size: int, seed: int) -> tuple[Callable[[int], Iterator[list[int]]], int]:
    """Full batches of an even size in an order of their own each epoch, as mixup wants them, and how many they are.

    What does not fill a batch is left out of the epoch, others each time.
    """
    size = min(batch_size, n_images) // 2 * 2
    n_batches = n_images // size

    def rows(epoch: int) -> Iterator[list[int]]:
        # A large odd stride keeps the orders of neighboring seeds and epochs apart.
        order_N = torch.randperm(n_images, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        for place in range(n_batches):
            yield order_N[place * size : (place + 1) * size].tolist()

    return rows, n_batches


def loader(images: TrainingImages, batches: Batches, workers: int, *, pin_memory: bool = False) -> DataLoader:
    """(images (B, 3, S, S), labels (B,)) of each batch."""
    return DataLoader(
        images,
        batch_sampler=batches,  # type: ignore[arg-type]  # torch asks for a Sampler, and takes any iterable
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # it draws a number that nobody needs, else from the caller's global one
    )


@contextmanager
def one_line_of_workers() -> Iterator[None]:
    """What a process that reads images refuses, or dies of, as one line.

    Raises:
        InputError: its own, or what the operating system left of it.
    """
    try:
        yield
    except (InputError, RuntimeError) as error:
        said = str(error).strip().splitlines()
        if "in DataLoader worker process" in said[0]:  # torch puts the whole traceback into the message
            raise InputError(said[-1].rpartition("InputError: ")[2]) from None
        if "DataLoader worker" in said[0] or "shared memory" in said[0]:
            raise InputError(f"a process that reads images died ({said[0][:160]}): lower workers=") from None
        raise
