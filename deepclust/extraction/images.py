"""From the bytes of one image to the square of pixels that an encoder sees; images that cannot be read are refused."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import stat
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, features

# What phones write: Pillow's own from 11.3 on, and by a plugin (`deepclust[photos]`).
READS_AVIF = features.check("avif")
READS_HEIF = importlib.util.find_spec("pillow_heif") is not None
if READS_HEIF:
    importlib.import_module("pillow_heif").register_heif_opener()
_PHONES = (*([".avif"] if READS_AVIF else []), *([".heic", ".heif"] if READS_HEIF else []))
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", *_PHONES})
# Images that are not read, to be told of: what phones and cameras write.
UNREAD = (
    frozenset(
        {
            ".heic",
            ".heif",
            ".avif",
            ".jxl",
            ".dng",
            ".cr2",
            ".cr3",
            ".nef",
            ".arw",
            ".raf",
            ".orf",
            ".rw2",
            ".psd",
            ".svg",
        }
    )
    - SUFFIXES
)
# The formats that Pillow may try. Not all that it knows: EPS would run Ghostscript.
_FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"),
    *(["AVIF"] if READS_AVIF else []),
    *(["HEIF"] if READS_HEIF else []),
)
# Twice Pillow's warning threshold, the size at which it refuses by itself: half a gigabyte once decoded to RGB.
MAX_PIXELS = 2 * 89_478_485
# A JPEG is decoded at a half, a quarter or an eighth of its size while that leaves three times the pixels needed on
# each side: the result differs by less than the resize's own rounding, and a large photo opens several times faster.
REDUCING_GAP = 3
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


class UnreadableImageError(Exception):
    """An image that cannot be read; the message is the reason, without the path."""


def read_image(content: str | os.PathLike | bytes, *, shrink_to: int | None = None) -> Image.Image:
    """Decode an image to `L` or `RGB`, upright as its EXIF orientation says.

    Transparency is laid on white; CMYK, palette and other color spaces become RGB; 16-bit values keep their upper
    byte. Of an animation or a multi-page file, the first frame is read.

    Args:
        content: a path, or the bytes of a file.
        shrink_to: allow a JPEG to be decoded at reduced size, as long as it stays well above this many pixels.

    Raises:
        UnreadableImageError: whatever is wrong with it.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd EXIF data, of palettes, of sizes short of its limit: none of it concerns the pixels.
            warnings.simplefilter("ignore")
            if isinstance(content, bytes):
                return _decode(io.BytesIO(content), shrink_to)
            if not stat.S_ISREG(os.stat(content).st_mode):  # opening a pipe would wait for someone to write to it
                raise UnreadableImageError("no file but a folder, pipe or device")
            with open(content, "rb") as stream:
                return _decode(stream, shrink_to)
    except UnreadableImageError:
        raise
    except FileNotFoundError:
        broken_link = not isinstance(content, bytes) and Path(content).is_symlink()
        raise UnreadableImageError("broken symbolic link" if broken_link else "no such file") from None
    except PermissionError:
        raise UnreadableImageError("no permission to read it") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ValueError, MemoryError, …
        raise UnreadableImageError(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]


def _decode(stream: BinaryIO, shrink_to: int | None) -> Image.Image:
    if not stream.read(1):
        raise UnreadableImageError("empty file (0 bytes)")
    stream.seek(0)
    try:
        image: Image.Image = Image.open(stream, formats=_FORMATS)
    except Image.UnidentifiedImageError:
        raise UnreadableImageError("not an image") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError(f"more than {MAX_PIXELS:,} pixels") from None
    width, height = image.size
    # Pillow's own limit can be lifted by anyone in the process; this one holds.
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(f"{width} × {height} pixels, more than {MAX_PIXELS:,}")
    if shrink_to is not None:
        image.draft(None, (REDUCING_GAP * shrink_to, REDUCING_GAP * shrink_to))
    image.load()
    # Damaged EXIF data leaves the pixels fine and their orientation unknown.
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image)
    return _to_l_or_rgb(image)


def _to_l_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode == "1":
        return image.convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Gray values of 16 bits, 32-bit integers or floats as 8 bits; Pillow's own conversion would clip them at 255."""
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    fractions = np.issubdtype(values.dtype, np.floating)
    values = np.nan_to_num(values.astype(np.float64))
    top = values.max(initial=0)
    if fractions and top <= 1:
        scale = 255.0
    elif top <= 255:
        scale = 1.0
    else:
        scale = 255 / 65535 if top <= 65535 else 255 / top
    return np.clip(values * scale, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Preprocess:
    """Resize the short side, cut the center square, and later on the device normalize.

    Attributes:
        image_size: side of the square, in pixels.
        crop_pct: share of the resized short side that the square keeps; 1.0 keeps all of it.
        interpolation: `bicubic`, `bilinear`, `lanczos` or `nearest`.
        mean, std: per channel, for values in [0, 1]. Applied to whole batches by the encoder.
    """

    image_size: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def resized(self) -> int:
        """Length of the short side before the crop."""
        return int(self.image_size / self.crop_pct)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """(image_size, image_size, 3 or 1) uint8. Only the square is computed, however long the other side is."""
        width, height = image.size
        resized_width, resized_height = _fit_short_side(width, height, self.resized)
        left = round((resized_width - self.image_size) / 2) * width / resized_width
        top = round((resized_height - self.image_size) / 2) * height / resized_height
        box = (
            left,
            top,
            min(width, left + self.image_size * width / resized_width),
            min(height, top + self.image_size * height / resized_height),
        )
        square = image.resize((self.image_size, self.image_size), _RESAMPLING[self.interpolation], box=box)
        return np.asarray(square).reshape(self.image_size, self.image_size, -1)

    def describe(self) -> dict[str, Any]:
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std), "reducing_gap": REDUCING_GAP}


def _fit_short_side(width: int, height: int, short: int) -> tuple[int, int]:
    """The size with the short side `short` and the same aspect ratio, rounded down as torchvision does."""
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short
