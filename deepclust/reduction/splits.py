"""The splits of a data set in a reduced space: fitted on the first, kept on disk. The one cache of reduced features.

The reduced features are kept under a key of the features and the settings. The fitted models are not kept: fitting
again with the same seed gives the same result, and no pickle has to be trusted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.features.dataset import Dataset
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.features.shards import MANIFEST, OF_THE_FOLDER, check_shards
from deepclust.neighbors import Neighbors, cached_neighbors
from deepclust.neighbors.cache import cache_folder
from deepclust.neighbors.mining import DEFAULT_MINING, MiningSettings
from deepclust.reduction.reduction import Reduction
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint, read_json, write_json
from deepclust.runtime.locks import one_at_a_time

# Raised whenever the result changes for the same settings, or what is kept of it, so that no older cache is read.
REDUCTION_VERSION = 2
# Of kinds that changed alone: PaCMAP no longer goes through 100 principal directions.
REDUCTION_VERSIONS = {"pacmap": 3}


def reduction_version(kind: str) -> int:
    """Raised whenever what a kind of reduction gives changes."""
    return REDUCTION_VERSIONS.get(kind, REDUCTION_VERSION)


def reduced_splits(
    reduction: Reduction,
    splits: Mapping[str, FeatureSet],
    *,
    neighbors: Callable[[], Neighbors] | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> dict[str, FeatureSet]:
    """Fit a reduction to the first split and take every split into its space.

    Args:
        reduction: what to do; `none` gives the splits back.
        splits: features by name, of the same dimension.
        neighbors: gives the mined neighbors of the first split, for UMAP and PaCMAP to start from; called only if the
            result is not kept yet. None: `Reduction` searches.
        cache_dir: where results are kept; None: a folder beside the features of the first split. Features in memory,
            or in a folder that cannot be written, are reduced anew.

    Returns:
        FeatureSets of the same names, with the labels and paths of the given ones. `manifest["reduction"]` holds the
        settings and the `note` for a table, `manifest["reduction_seconds"]` the time that the split took when it was
        reduced.

    Raises:
        InputError: as `Reduction.check` and `Reduction.transform`.
    """
    if reduction.kind == "none":
        return dict(splits)
    fitted_on = next(iter(splits.values()))
    reduction.check(len(fitted_on), fitted_on.dim)
    folder = cache_folder(fitted_on, cache_dir, "reductions")
    # Keyed by content: a split that comes again under another name is not reduced again.
    contents = {name: split.fingerprint() for name, split in splits.items()}
    own = fitted_on.fingerprint()
    key = fingerprint(own, reduction.settings, reduction.package_version, reduction_version(reduction.kind))
    places = {} if folder is None else {content: folder / key / content for content in contents.values()}
    by_content = {contents[name]: split for name, split in splits.items()}
    results = _read(places)
    with ExitStack() as until_saved:
        if folder is not None and len(results) < len(by_content):
            # Two processes that reduce at once, on different machines, would leave splits of two different spaces.
            if not until_saved.enter_context(one_at_a_time(folder / f"{key}.lock", f"reducing by {reduction.kind}")):
                places = {}
            results |= _read(places)
        missing = {content: split for content, split in by_content.items() if content not in results}
        if missing:
            mined = neighbors() if neighbors is not None and reduction.kind in ("umap", "pacmap") else None
            started = time.perf_counter()
            fitted_NP = reduction.fit_transform(fitted_on.features, mined)
            fit_seconds = time.perf_counter() - started
            if own in results and not np.allclose(np.asarray(results[own].features), fitted_NP, atol=1e-3):
                raise InputError(
                    f"{results[own].root} was reduced on another machine or by other versions, and cannot be repeated "
                    "here: delete it"
                )
            for content, split in missing.items():
                started = time.perf_counter()
                rows_NP = fitted_NP if content == own else reduction.transform(split.features)
                seconds = fit_seconds if content == own else time.perf_counter() - started
                manifest = {"reduction": _facts(reduction), "reduction_seconds": round(seconds, 3)}
                reduced = FeatureSet.from_arrays(rows_NP, manifest=manifest)
                results[content] = load_features(reduced.save(places[content])) if content in places else reduced
    return {name: _with_labels_of(split, results[contents[name]]) for name, split in splits.items()}


def _read(places: Mapping[str, Path]) -> dict[str, FeatureSet]:
    """What is kept; where a part of it is damaged, nothing: all is reduced again, so that it is one space."""
    there = {content: place for content, place in places.items() if (place / MANIFEST).is_file()}
    try:
        found = {content: load_features(place) for content, place in there.items()}
        for content, place in there.items():
            check_shards(place, found[content].manifest["shards"])
        return found
    except InputError as error:
        print(f"{error.cause}: reduced again", flush=True)
        for place in there.values():
            shutil.rmtree(place.parent, ignore_errors=True)
        return {}


def reduced_dataset(
    reduction: Reduction,
    dataset: Dataset,
    *,
    fitted_on: FeatureSet | None = None,
    mining: MiningSettings = DEFAULT_MINING,
    cache_dir: str | os.PathLike | None = None,
    neighbors_dir: str | os.PathLike | None = None,
    record: Path | None = None,
) -> Dataset:
    """A data set in the reduced space.

    Args:
        reduction: what to do.
        dataset: its training split is fitted on.
        fitted_on: another split to fit on instead, as for features that are met after training.
        mining: how neighbors are searched. By cosine, UMAP and PaCMAP start from the mined neighbors that are kept
            beside the features.
        cache_dir: as in `reduced_splits`.
        neighbors_dir: where mined neighbors are kept.
        record: a file with the settings and a digest of the result; written where it is missing, else compared.

    Raises:
        InputError: as `reduced_splits`; or if the record tells of another result.
    """
    if reduction.kind == "none":
        return dataset
    start = dataset.train if fitted_on is None else fitted_on

    def mine() -> Neighbors:
        k = reduction.wanted_neighbors(len(start))
        return cached_neighbors(start, k, cache_dir=neighbors_dir, **asdict(mining))

    splits = {"fitted_on": start, "train": dataset.train}
    if dataset.test is not None:
        splits["test"] = dataset.test
    if fitted_on is None:
        del splits["fitted_on"]
    reduced = reduced_splits(
        reduction, splits, neighbors=mine if reduction.metric == "cosine" else None, cache_dir=cache_dir
    )
    if record is not None:
        _compare(record, next(iter(reduced.values())))
    return replace(dataset, train=reduced["train"], test=reduced.get("test"))


def _compare(record: Path, reduced: FeatureSet) -> None:
    facts = {**(reduced.reduction or {}), "digest": fingerprint(np.asarray(reduced.features))}
    if not record.is_file():
        write_json(record, facts)
        return
    earlier = read_json(record, "restore it from a copy, or start a new run")
    changed = [key for key in facts if facts[key] != earlier.get(key)]
    if changed:
        raise InputError(
            f"{record} tells of another reduction ({', '.join(changed)}): the features, their settings, the version of "
            "the package or the machine have changed; start a new run"
        )


def _facts(reduction: Reduction) -> dict[str, Any]:
    return {**reduction.settings, "package_version": reduction.package_version, "note": reduction.note}


def _with_labels_of(original: FeatureSet, reduced: FeatureSet) -> FeatureSet:
    """Reduced features with the labels, paths and provenance of those they were made from."""
    provenance = {key: value for key, value in original.manifest.items() if key not in OF_THE_FOLDER}
    return replace(
        reduced,
        labels=original.labels,
        class_names=original.class_names,
        paths=original.paths,
        columns=original.columns,
        manifest={**provenance, **reduced.manifest},
    )
