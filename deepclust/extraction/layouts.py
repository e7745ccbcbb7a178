"""Published data sets as their authors lay them out: folders of classes, tables beside the images, file names.

A line of `LAYOUTS` says which reader goes with a data set, and where in the folder it starts. Only the tables are
opened here: which images there are, their classes and their splits.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
from sklearn.model_selection import train_test_split

from deepclust.extraction.dataset_facts import BACKGROUNDS, DATASETS
from deepclust.extraction.image_source import (
    FileSource,
    ImageSource,
    existing_folder,
    folder_source,
    image_files,
    split_folders,
)
from deepclust.runtime.errors import InputError

Sources = Mapping[str, ImageSource]

# Of BIOSCAN-1M, coarsest first: the parts of its class names. iNaturalist's are `<number>_<kingdom>_…_<epithet>`.
BIOSCAN_RANKS = ("order", "family", "subfamily", "tribe", "genus", "species")
BIOSCAN_TABLE = "BIOSCAN_Insect_Dataset_metadata.tsv"
BIOSCAN_IMAGES = Path("bioscan", "images", "cropped_256")
# As in Lowe et al.'s code: what was seen in training, and what the authors held out.
BIOSCAN_SPLITS = {"train": ("train_seen",), "test": ("seen_keys", "test_seen", "test_unseen", "test_unseen_keys")}
NOT_CLASSIFIED = ("", "not_classified")

BREAKHIS_IMAGES = Path("histology_slides", "breast")
# Magnification first, as Lowe et al. number the classes: the draw of the test split goes by it.
TUMORS = ("A", "F", "PT", "TA", "DC", "LC", "MC", "PC")
MAGNIFICATIONS = ("40", "100", "200", "400")
BREAKHIS_NAME = re.compile(r"SOB_[BM]_(A|F|PT|TA|DC|LC|MC|PC)-\d+-\w+-(40|100|200|400)-\d+\.png")
BREAKHIS_HELD_OUT = 0.4

# Three files of the archive have no race in their names; they are left out, as by everybody.
UTKFACE_NAME = re.compile(r"(\d+)_\d_\d_\d+\.jpg(\.chip\.jpg)?")
UTKFACE_HELD_OUT = 0.25


def class_folders(root: Path, inside: str = "") -> Sources:
    """<class>/<image>, one split."""
    return {"train": folder_source(existing_folder(root / inside), labels="folders", stat_files=False)}


def nabirds(root: Path) -> Sources:
    """Tables of `<image id> <value>`: paths, classes and splits."""
    paths, classes, trains = (
        _pairs(root / name) for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt")
    )
    names = _pairs(root / "classes.txt")
    # The numbers have gaps: of 1011 nodes of the tree 555 are classes.
    numbers = sorted(set(classes.values()), key=int)
    ids = {number: place for place, number in enumerate(numbers)}
    splits: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
    for image, path in paths.items():
        if image not in classes or image not in trains:
            raise InputError(f"{root}: image {image} has no class or no split: unpack the archive of NABirds again")
        listed, labels = splits["train" if trains[image] == "1" else "test"]
        listed.append(path)
        labels.append(ids[classes[image]])
    class_names = [f"{names.get(number, number)} {number}" for number in numbers]
    return {split: _files(root / "images", *listed, class_names) for split, listed in splits.items()}


def bioscan(root: Path) -> Sources:
    """One table of all insects, a list of sample ids per part of a split; classes are species."""
    part_of = {
        sample: split
        for split, parts in BIOSCAN_SPLITS.items()
        for part in parts
        for sample in _lines(root / f"{part}.txt")
    }
    table = root / BIOSCAN_TABLE
    splits: dict[str, tuple[list[str], list[str]]] = {split: ([], []) for split in BIOSCAN_SPLITS}
    taxa: dict[str, dict[str, str]] = {}
    csv.field_size_limit(1 << 24)  # DNA in a column beside
    with _opened(table) as stream:
        for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            try:
                split = part_of.get(row["sampleid"])
                if split is None or row["species"] in NOT_CLASSIFIED:
                    continue
                # Some rows of a species lack a rank that others have.
                known = taxa.setdefault(row["species"], {})
                known.update({rank: row[rank] for rank in BIOSCAN_RANKS if row[rank] not in NOT_CLASSIFIED})
                paths, species = splits[split]
                paths.append(f"part{row['chunk_number']}/{row['image_file']}")
                species.append(row["species"])
            except (KeyError, TypeError):
                raise InputError(
                    f"{table} is not BIOSCAN-1M's table, a line lacks a column of sampleid, image_file, chunk_number, "
                    f"{', '.join(BIOSCAN_RANKS)}: fetch it again"
                ) from None
    lineages = {name: _lineage(known) for name, known in taxa.items()}
    ordered = sorted(taxa, key=lambda name: lineages[name])
    ids = {name: place for place, name in enumerate(ordered)}
    class_names = [lineages[name] for name in ordered]
    return {
        split: _files(root / BIOSCAN_IMAGES, paths, [ids[name] for name in species], class_names)
        for split, (paths, species) in splits.items()
    }


def _lineage(known: Mapping[str, str]) -> str:
    """A species' ranks in one name; missing ones are filled as in Lowe et al.'s code."""
    order, family = (known.get(rank, "unassigned") for rank in BIOSCAN_RANKS[:2])
    genus = known.get("genus") or known["species"].split(" ")[0]
    tribe = known.get("tribe") or f"unassigned {known.get('subfamily') or family}"
    subfamily = known.get("subfamily") or f"unassigned {family}"
    return "_".join((order, family, subfamily, tribe, genus, known["species"]))


def utkface(root: Path) -> Sources:
    """<age>_<gender>_<race>_<date>.jpg.chip.jpg in one folder.

    Every fourth face, sorted by age, then by name, is in the test split; a face that is the only one of its age is in
    the train split.
    """
    ages = {path: int(match[1]) for path in image_files(root) if (match := UTKFACE_NAME.fullmatch(path))}
    if len(ages) < 4:
        raise InputError(
            f"{root} holds {len(ages)} images named <age>_<gender>_<race>_<date>.jpg: it should be UTKFace"
        )
    paths = sorted(sorted(ages), key=lambda path: ages[path])
    ages_N = np.array([ages[path] for path in paths])
    margin = int(0.5 / UTKFACE_HELD_OUT)
    held_out_N = np.zeros(len(paths), dtype=bool)
    held_out_N[
        np.round(np.linspace(margin, len(paths) - 1 - margin, int(UTKFACE_HELD_OUT * len(paths)))).astype(int)
    ] = True
    first_K = np.searchsorted(ages_N, np.unique(ages_N))
    for first, last in zip(first_K, [*first_K[1:], len(paths)], strict=True):
        if held_out_N[first:last].all():
            held_out_N[first] = False
    return _parted(root, paths, [str(age) for age in ages_N], [str(age) for age in np.unique(ages_N)], held_out_N)


def breakhis(root: Path) -> Sources:
    """SOB_<B or M>_<tumor>-<year>-<slide>-<magnification>-<number>.png, somewhere below.

    Classes are pairs of tumor and magnification.
    """
    folder = existing_folder(root / BREAKHIS_IMAGES)
    named = {path: match for path in image_files(folder) if (match := BREAKHIS_NAME.fullmatch(Path(path).name))}
    classes = [f"{tumor} {magnification}" for magnification in MAGNIFICATIONS for tumor in TUMORS]
    paths = sorted(named)
    of_each = [f"{named[path][1]} {named[path][2]}" for path in paths]
    if not paths or min(of_each.count(name) for name in set(of_each)) < 2:
        raise InputError(f"{folder} lacks images named SOB_<B or M>_<tumor>-…-<magnification>-….png of every class")
    ids = {name: place for place, name in enumerate(classes)}
    held_out_N = np.zeros(len(paths), dtype=bool)
    _, drawn = train_test_split(
        np.arange(len(paths)),
        test_size=BREAKHIS_HELD_OUT,
        random_state=0,
        stratify=[ids[name] for name in of_each],
    )
    held_out_N[drawn] = True
    return _parted(folder, paths, of_each, classes, held_out_N)


LAYOUTS: Mapping[str, Callable[[Path], Sources]] = {
    **dict.fromkeys(("imagenet_v2", "imagenet_o", "imagenet_r", "imagenet_sketch"), class_folders),
    **{f"imagenet9_{variant}": partial(class_folders, inside=f"{variant}/val") for variant in BACKGROUNDS},
    **dict.fromkeys(("imagenette", "imagewoof"), partial(split_folders, stat_files=False)),
    "nabirds": nabirds,
    "bioscan1m": bioscan,
    "utkface": utkface,
    "breakhis": breakhis,
}


def laid_out_sources(name: str, path: str | os.PathLike) -> Sources:
    """The splits of a data set of `LAYOUTS`.

    Args:
        name: a key of `LAYOUTS`.
        path: its folder, as `DATASETS[name].about` tells.

    Raises:
        InputError: if the folder is missing, or holds another layout or other classes than the published data set.
    """
    sources = LAYOUTS[name](existing_folder(path))
    facts = DATASETS[name]
    labels_N = sources["train"].labels
    found = 0 if labels_N is None else len(np.unique(labels_N))
    if facts.n_classes not in (None, found):
        raise InputError(
            f"{path} (data.path) has {found} classes of {name}, published are {facts.n_classes}: a part comes in by "
            f"data=class_folders. {facts.about}"
        )
    return sources


def _parted(
    root: Path, paths: Sequence[str], of_each: Sequence[str], classes: Sequence[str], held_out_N: np.ndarray
) -> Sources:
    ids = {name: place for place, name in enumerate(classes)}
    splits = {"train": np.flatnonzero(~held_out_N).tolist(), "test": np.flatnonzero(held_out_N).tolist()}
    return {
        split: _files(root, [paths[row] for row in rows], [ids[of_each[row]] for row in rows], classes)
        for split, rows in splits.items()
    }


def _files(root: Path, paths: Sequence[str], labels: Sequence[int], class_names: Sequence[str]) -> FileSource:
    """The images that a table lists, the first of which must be there."""
    if not paths or not (root / paths[0]).is_file():
        raise InputError(f"{root / (paths[0] if paths else '')} is not there, though the data set's tables list it")
    # These files are a million at most and stay: their list is their key.
    listing = "\n".join(f"{path}\t{label}" for path, label in zip(paths, labels, strict=True))
    key = hashlib.blake2b(listing.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return FileSource(
        root.resolve(), paths, labels=np.asarray(labels, dtype=np.int64), class_names=class_names, key=key
    )


def _opened(path: Path) -> TextIO:
    try:
        return open(path, encoding="utf-8", newline="")
    except OSError:
        raise InputError(f"{path} cannot be read: data.path should be the folder that holds it") from None


def _lines(path: Path) -> Iterable[str]:
    with _opened(path) as stream:
        return [line.strip() for line in stream if line.strip()]


def _pairs(path: Path) -> dict[str, str]:
    """`<id> <the rest of the line>`."""
    pairs = [line.split(" ", 1) for line in _lines(path)]
    if any(len(pair) < 2 for pair in pairs):
        raise InputError(f"{path}: a line is not `<id> <value>`: unpack the archive again")
    return {pair[0]: pair[1] for pair in pairs}
