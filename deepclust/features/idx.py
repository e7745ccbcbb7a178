"""MNIST's idx format, and Fashion-MNIST from Debian's package, torchvision's folder or its download."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepclust.runtime.errors import InputError

# Where Debian's package `dataset-fashion-mnist` installs its four files.
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def data_root() -> Path:
    """Where downloaded data sets are kept: `$DEEPCLUST_DATA`, else `~/.cache/deepclust/data`."""
    return Path(os.environ.get("DEEPCLUST_DATA", "~/.cache/deepclust/data")).expanduser()


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Read an idx file of unsigned bytes, gzipped or not, in the shape its header says.

    Raises:
        InputError: if it is no such file, or shorter than its header says.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}): fetch it again") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise InputError(f"{path} is no idx file of unsigned bytes: fetch it again")
    n_dims = content[3]
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=n_dims, offset=4))
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * n_dims)
    if len(values) != int(np.prod(shape)):
        raise InputError(f"{path} holds {len(values)} values, its header says {shape}: fetch it again")
    return values.reshape(shape)


def fashion_mnist(split: str, path: str | os.PathLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST's images (N, 28, 28) uint8 and labels (N,) int64, N = 60 000 (`train`) or 10 000 (`test`).

    Looked for in `path` if given, else in Debian's folder and in torchvision's; downloaded by torchvision otherwise.

    Raises:
        InputError: if it is nowhere and cannot be downloaded.
    """
    root = data_root()
    if path is not None:
        given = Path(path).expanduser()
        folders: Sequence[Path] = (given, given / "FashionMNIST" / "raw")
    else:
        folders = (DEBIAN_FOLDER, root / "FashionMNIST" / "raw")
    for folder in folders:
        files = [_existing(folder / name) for name in _FILES[split]]
        if all(files):
            images, labels = (read_idx(file) for file in files if file)
            return images, labels.astype(np.int64)
    if path is not None:
        raise InputError(f"no Fashion-MNIST in {path}: it should hold {_FILES[split][0]}.gz and {_FILES[split][1]}.gz")
    from torchvision.datasets import FashionMNIST

    try:
        downloaded = FashionMNIST(str(root), train=split == "train", download=True)
    except Exception as error:  # urllib, ssl and torchvision each raise their own without a network
        reason = str(error).splitlines()[0][:160]
        raise InputError(
            f"Fashion-MNIST is neither in {DEBIAN_FOLDER} (Debian: apt install dataset-fashion-mnist) nor in "
            f"{folders[-1]}, and its download failed ({reason}); data.path=FOLDER names another place"
        ) from None
    return downloaded.data.numpy(), downloaded.targets.numpy().astype(np.int64)


def _existing(path: Path) -> Path | None:
    """`path` or `path`.gz, whichever exists."""
    return next((file for file in (path, path.with_name(path.name + ".gz")) if file.is_file()), None)
