from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from deepclust.extraction.image_source import folder_source
from deepclust.extraction.images import Preprocess, UnreadableImageError, read_image


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=format, **options)
    return stream.getvalue()


def preprocess(size: int, crop_pct: float = 1.0) -> Preprocess:
    return Preprocess(size, crop_pct, "bicubic", (0.5,) * 3, (0.5,) * 3)


def png_header_only(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    # Upright: red above blue. Each orientation stores those pixels turned; reading must turn them back.
    upright = Image.new("RGB", (40, 60), "blue")
    upright.paste("red", (0, 0, 40, 30))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(encoded(stored, "JPEG", exif=exif, quality=95))
    assert image.size == (40, 60)
    assert image.getpixel((20, 5))[0] > 200
    assert image.getpixel((20, 55))[2] > 200


def test_16_bit_gray_keeps_its_upper_byte() -> None:
    pixels = np.array([[0, 128 << 8, 65535]], dtype=np.uint16)
    assert np.asarray(read_image(encoded(Image.fromarray(pixels)))).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 0.5, 1.0], [0, 127, 255]), ([0.0, 100.0, 255.0], [0, 100, 255])]
)
def test_float_tiffs_are_read_as_fractions_or_as_bytes(values: list[float], expected: list[int]) -> None:
    image = read_image(encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF"))
    assert np.asarray(image).tolist() == [expected]


def test_32_bit_integers_of_zero_and_one_stay_dark() -> None:
    image = read_image(encoded(Image.fromarray(np.array([[0, 1]], dtype=np.int32)), "TIFF"))
    assert np.asarray(image).tolist() == [[0, 1]]


def test_cmyk_becomes_rgb() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixel = read_image(encoded(red, "JPEG", quality=95)).getpixel((4, 4))
    assert pixel[0] > 240
    assert max(pixel[1:]) < 20


def test_palette_becomes_its_colors() -> None:
    green = Image.new("RGB", (8, 8), (0, 255, 0)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert read_image(encoded(green)).getpixel((0, 0)) == (0, 255, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.info["transparency"] = 0
    else:
        image = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    assert read_image(encoded(image)).convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_one_pixel_fills_the_square() -> None:
    square = preprocess(32)(read_image(encoded(Image.new("RGB", (1, 1), (10, 20, 30)))))
    assert square.shape == (32, 32, 3)
    assert (square == (10, 20, 30)).all()


def test_a_line_of_pixels_does_not_become_a_huge_image() -> None:
    # Its short side resized to 224, the other would be 6.7 million pixels long.
    assert preprocess(224)(Image.new("L", (1, 30000), 7)).shape == (224, 224, 1)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(UnreadableImageError, match="pixels"):
        read_image(png_header_only(30_000, 30_000))
    previous, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with pytest.raises(UnreadableImageError, match="30000 × 30000 pixels"):
            read_image(png_header_only(30_000, 30_000))
    finally:
        Image.MAX_IMAGE_PIXELS = previous


def test_reasons_of_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image at all")
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    reasons = {
        "empty": r"empty file \(0 bytes\)",
        "text": "not an image",
        "cut": "truncated",
        "link": "broken symbolic link",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnreadableImageError, match=reason):
            read_image(tmp_path / f"{name}.jpg")
    with pytest.raises(UnreadableImageError, match="no such file"):
        read_image(tmp_path / "gone.jpg")


def test_a_pipe_among_images_is_unreadable_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    os.symlink("b.png", tmp_path / "b.png")
    with pytest.raises(UnreadableImageError, match="folder, pipe or device"):
        read_image(tmp_path / "a.png")
    source = folder_source(tmp_path)
    assert [source.path(index) for index in range(len(source))] == ["a.png", "b.png"]
    with pytest.raises(UnreadableImageError):
        source.image(1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_is_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(encoded(Image.new("L", (2, 2))))
    path.chmod(0)
    with pytest.raises(UnreadableImageError, match="no permission"):
        read_image(path)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (37, 91), (1000, 230)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_same_pixels_as_torchvision(size: tuple[int, int], crop_pct: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    smooth = Image.fromarray(pixels).resize((size[0] // 4, size[1] // 4)).resize(size, Image.Resampling.BICUBIC)
    ours = preprocess(96, crop_pct)(smooth).astype(int)
    reference = transforms.Compose(
        [transforms.Resize(int(96 / crop_pct), transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(96)]
    )
    theirs = np.asarray(reference(smooth)).astype(int)
    # torchvision resizes the whole image first; only rounding is between the two.
    assert np.abs(ours - theirs).max() <= 1


def test_reduced_jpegs_are_nearly_the_same() -> None:
    y, x = np.mgrid[:1600, :2400]
    waves = [100 * np.sin(x / 90), 100 * np.cos(y / 70), 60 * np.sin((x + y) / 130)]
    pixels = 128 + np.stack(waves, axis=2)
    content = encoded(Image.fromarray(pixels.astype(np.uint8)), "JPEG", quality=95)
    reduced = read_image(content, shrink_to=128)
    assert reduced.size == (600, 400)
    difference = preprocess(128)(reduced).astype(int) - preprocess(128)(read_image(content)).astype(int)
    assert np.abs(difference).mean() < 1
