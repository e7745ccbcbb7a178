"""Data sets by name: the ready features that every training run starts from.

Knows arrays and feature folders only. Images become features in `deepclust.extraction.extract`; the one data set that
is extracted on demand is `folder`, a user's own photos.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.extraction.dataset_facts import DATASETS, FOLDER_ENCODER, PIXELS_ENCODER, DatasetFacts
from deepclust.extraction.encoder_catalog import ENCODERS, EncoderSpec, encoder_spec
from deepclust.extraction.studies import with_study
from deepclust.features.dataset import Clustered, Dataset, check_same_encoder
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.features.idx import CLASS_NAMES, fashion_mnist
from deepclust.features.shards import MANIFEST
from deepclust.features.spaces import Place, load_spaces
from deepclust.features.table_files import TableReading, is_table
from deepclust.runtime.errors import InputError

# What decides an image's features beside the encoder itself.
OPTIONS = ("image_size", "crop_pct", "interpolation", "pooling", "layer")

EncoderLike = str | EncoderSpec | Mapping[str, Any]


def load_dataset(
    name: str,
    *,
    encoder: EncoderLike | None = None,
    features_dir: str | os.PathLike | None = None,
    train: Place | Sequence[Place] | None = None,
    train_labels: Place | None = None,
    test: Place | Sequence[Place] | None = None,
    test_labels: Place | None = None,
    path: str | os.PathLike | None = None,
    labels: str | None = None,
    on_error: str = "skip",
    columns: Mapping[str, Any] | None = None,
    clustered: Clustered | None = None,
) -> Dataset:
    """Load the features of a data set.

    Args:
        name: `digits` and `fashion_mnist` (raw pixels unless an encoder is given), `features` (the user's own matrix),
            `folder` (the user's own images, embedded on demand), or a name whose features lie under `features_dir`.
        encoder: name, spec or mapping of options; None, or a mapping of None only, for the data set's default. Data
            sets that come as features refuse one.
        features_dir: where extracted features lie, as `<name>/<encoder>/{train,test}`; default
            `$DEEPCLUST_FEATURES`, else `features`.
        train, train_labels, test, test_labels: the user's own files, for `features` only; of `train` and `test` several
            are feature spaces of the same samples, see `deepclust.features.spaces`.
        path: folder of images for `folder`, or of raw data for `fashion_mnist` without an encoder.
        labels: `folders` makes the sub-folders of `folder` its labels.
        on_error: `skip` or `raise`, for images of `folder` that cannot be read.
        columns: of tables among `train` and `test`, by role: see `deepclust.features.table_files`.
        clustered: of a finished run, whose images are wanted: those that a `folder` has gained since are not extracted.

    Raises:
        InputError: if the data set is unknown, its features are missing or of another encoder than asked for, or the
            splits were made by different encoders.
    """
    if name != "features" and any(given is not None for given in (train, train_labels, test, test_labels)):
        raise InputError(f"data.train, data.test and their labels are for data=features, not for data={name}")
    if name in ("features", "digits") and (path is not None or labels is not None):
        of, own = ("path", "data.train=") if path is not None else ("labels", "data.train_labels=")
        instead = f"; {own} is for features" if name == "features" else ""
        raise InputError(f"data.{of} is for images, and data={name} comes without: leave it out{instead}")
    if name != "features":
        given_columns(columns)
    encoder = _with_its_name(encoder, name)
    root = Path(features_dir or os.environ.get("DEEPCLUST_FEATURES") or "features").expanduser()
    if name == "digits" and encoder is None:
        return Dataset(name, _digits(), None, None)
    if name == "features":
        # What is not named is looked for.
        tables = TableReading(given_columns(columns, train, test), root / "tables")
        return _own_features(encoder, train, train_labels, test, test_labels, tables)
    if name == "folder":
        return _own_images(encoder, root, path, labels, on_error, clustered)
    if name == "fashion_mnist" and encoder is None:
        return Dataset(name, _fashion_mnist_pixels("train", path), _fashion_mnist_pixels("test", path), None)
    return _extracted_features(name, encoder, root)


def given_columns(columns: Mapping[str, Any] | None, *places: Any) -> dict[str, Any]:
    """The columns that somebody named.

    Raises:
        InputError: if none of the places is a table.
    """
    given = {role: name for role, name in (columns or {}).items() if name is not None}
    files = [one for place in places for one in (place if isinstance(place, (list, tuple)) else [place]) if one]
    if given and not any(is_table(Path(one)) for one in files):
        raise InputError(f"data.columns.{next(iter(given))} names a column, but the data are no table: leave it out")
    return given


def _with_its_name(encoder: EncoderLike | None, dataset: str) -> EncoderLike | None:
    """The encoder that was asked for: options without a name are of the data set's default encoder, a study stands for
    its own options."""
    if not isinstance(encoder, Mapping):
        return encoder
    options = {key: value for key, value in encoder.items() if value is not None}
    if options and "name" not in options:
        facts = DATASETS.get(dataset)
        options["name"] = FOLDER_ENCODER if facts is None else facts.encoder or PIXELS_ENCODER
    return with_study(options, dataset) or None


def _refuse_encoder(name: str, encoder: EncoderLike | None) -> None:
    if encoder is not None:
        raise InputError(f"data={name} comes as features and takes no encoder: leave out encoder=")


def _digits() -> FeatureSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return FeatureSet.from_arrays(
        (digits.data / 16).astype(np.float32),
        digits.target,
        class_names=[str(digit) for digit in range(10)],
        manifest={"source": {"kind": "scikit-learn", "name": "digits"}},
        name="digits",
    )


def _fashion_mnist_pixels(split: str, path: str | os.PathLike | None) -> FeatureSet:
    images, labels = fashion_mnist(split, path)
    return FeatureSet.from_arrays(
        images.reshape(len(images), -1).astype(np.float32) / 255,
        labels,
        class_names=CLASS_NAMES,
        manifest={"source": {"kind": "fashion_mnist", "split": split}, "transform": "pixels / 255"},
        name=f"fashion_mnist {split}",
    )


def _own_features(
    encoder: EncoderLike | None,
    train: Place | Sequence[Place] | None,
    train_labels: Place | None,
    test: Place | Sequence[Place] | None,
    test_labels: Place | None,
    tables: TableReading,
) -> Dataset:
    _refuse_encoder("features", encoder)
    if train is None:
        raise InputError("data=features needs data.train=PATH: a FeatureSet folder, a matrix (.npy, …) or a table")
    if test is None and test_labels is not None:
        raise InputError("data.test_labels is given without data.test: give both, or neither")
    fitted = load_spaces(train, train_labels, tables=tables).check(str(train))
    if (
        test is None
        and isinstance(train, (str, os.PathLike))
        and (Path(train).expanduser() / "test" / MANIFEST).is_file()
    ):
        test = Path(train).expanduser() / "test"
    judged = None if test is None else load_spaces(test, test_labels, split="test", tables=tables).check(str(test))
    if judged is not None:
        check_same_encoder(fitted, judged)
    return Dataset("features", fitted, judged, fitted.manifest.get("encoder", {}).get("name"), checked=True)


def _own_images(
    encoder: EncoderLike | None,
    root: Path,
    path: str | os.PathLike | None,
    labels: str | None,
    on_error: str,
    clustered: Clustered | None,
) -> Dataset:
    if path is None:
        raise InputError("data=folder needs data.path=FOLDER: the folder that holds the images")
    # Imported here: torch and timm take seconds, and ready features need neither.
    from deepclust.extraction.extract import cached_features
    from deepclust.extraction.image_source import folder_source

    spec = encoder_spec(encoder if encoder is not None else FOLDER_ENCODER)
    source = folder_source(path, labels=labels)
    features = cached_features(source, spec, root / "folder", on_error=on_error, clustered=clustered)
    return Dataset("folder", features, None, spec.name)


def _extracted_features(name: str, encoder: EncoderLike | None, root: Path) -> Dataset:
    facts = DATASETS.get(name)
    if encoder is None:
        if facts is None:
            known = ", ".join(sorted(DATASETS))
            raise InputError(f"unknown data set '{name}': one of {known}, or give encoder= for features of your own")
        encoder = facts.encoder or PIXELS_ENCODER
    encoder_name = _encoder_name(encoder)
    folder = root / name / encoder_name
    if not (folder / "train" / MANIFEST).is_file():
        raise InputError(_missing_message(name, encoder, folder, facts))
    train = load_features(folder, split="train")
    _check_options(encoder, train)
    test = None
    if (folder / "test").is_dir():
        if not (folder / "test" / MANIFEST).is_file():
            raise InputError(
                f"{folder / 'test'} is unfinished, its manifest is missing: go on with "
                f"`{_extract_command(name, encoder)}`"
            )
        test = load_features(folder, split="test")
        check_same_encoder(train, test)
    return Dataset(name, train, test, encoder_name)


def _encoder_name(encoder: EncoderLike) -> str:
    if isinstance(encoder, str):
        return encoder
    return encoder.name if isinstance(encoder, EncoderSpec) else str(encoder["name"])


def _check_options(encoder: EncoderLike, features: FeatureSet) -> None:
    """Refuse features that were made with another size, cut, pooling or layer than a mapping of options asks for."""
    if not isinstance(encoder, Mapping):
        return
    made = {**features.manifest.get("transform", {}), **features.manifest.get("encoder", {})}
    for key in OPTIONS:
        if key in encoder and key in made and encoder[key] not in (made[key], "own"):
            raise InputError(
                f"{features.root} was made with {key}={made[key]}, not {encoder[key]}: extract with "
                f"encoder.{key}={encoder[key]} (features_dir=FOLDER keeps both), or take them by "
                f"encoder.{key}={made[key]}"
            )


def _missing_message(name: str, encoder: EncoderLike, folder: Path, facts: DatasetFacts | None) -> str:
    size, by = "", _encoder_name(encoder)
    if facts is not None and facts.n_train is not None:
        dim = ENCODERS[by].dim if by in ENCODERS else None
        size = f" ({facts.n_train:,} × {dim or 'D'} float16 rows)".replace(",", " ")
    unfinished = "is unfinished" if (folder / "train").is_dir() else "does not exist"
    return (
        f"no features of {name} by {by}: {folder / 'train'} {unfinished}, it should hold {MANIFEST} and "
        f"features-*.npy{size}; make them with `{_extract_command(name, encoder)}`"
    )


def _extract_command(name: str, encoder: EncoderLike) -> str:
    facts = DATASETS.get(name)
    asked = encoder if isinstance(encoder, Mapping) else {}
    options = "".join(f" encoder.{key}={asked[key]}" for key in OPTIONS if key in asked)
    path = " data.path=IMAGES" if facts is None or facts.needs_path else ""
    return f"deepclust extract data={name} encoder={_encoder_name(encoder)}{options}{path}"
