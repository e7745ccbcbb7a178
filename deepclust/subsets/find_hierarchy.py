"""The hierarchy of a data set's classes: what the user gives, what comes with the package, or WordNet's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from deepclust.runtime.errors import InputError
from deepclust.subsets.hierarchy import LINKS, Hierarchy, csv_hierarchy, tree_file_hierarchy, wordnet_hierarchy
from deepclust.subsets.imagenet_tree import imagenet_hypernyms, imagenet_tree, imagenet_tree_of_wordnet, read_is_a
from deepclust.subsets.wordnet import Synset, read_wordnet

# Hierarchies that come with the package, by data set.
PACKAGED = {"fashion_mnist": Path(__file__).parent / "hierarchies" / "fashion_mnist.csv"}


def find_hierarchy(
    given: str | os.PathLike | None,
    class_names: Sequence[str] | None,
    data_name: str = "",
    *,
    links: str = "paper",
    hypernym: str = "last",
) -> Hierarchy:
    """The hierarchy of a data set.

    Args:
        given: the authors' tree file (`.pth`, `.pt`), ImageNet's is-a list (`.txt`), a `child,parent` table (`.csv`),
            WordNet's folder or `data.noun`, or None: the one that comes with the package for this data set, else
            WordNet's where the classes are synsets.
        class_names: of the data set.
        data_name: of the data set.
        links, hypernym: how WordNet is read: `paper` as ImageNet-21K's authors do, the others as `wordnet_hierarchy`.

    Raises:
        InputError: if none can be found or read.
    """
    names = list(class_names or ())
    if given is None:
        if data_name in PACKAGED:
            return csv_hierarchy(PACKAGED[data_name])
        if names and all(is_synset(name) for name in names):
            return _of_wordnet(names, read_wordnet(), links, hypernym)
        raise InputError(
            f"no class hierarchy is known for data={data_name}: give one by benchmark.hierarchy=FILE "
            "(deepclust evaluate: hierarchy=FILE), a CSV of child,parent lines, or name the classes by WordNet synsets "
            "(n########)"
        )
    path = Path(given).expanduser()
    if path.suffix in (".pth", ".pt"):
        tree = tree_file_hierarchy(path)
        # The file has the classes above a class, not what is right above it: WordNet says that, once asked.
        return replace(tree, hypernyms=partial(_hypernyms, tree)) if all(map(is_synset, tree.names)) else tree
    if path.suffix == ".txt":
        return imagenet_tree(names, read_is_a(path), str(path))
    if path.suffix == ".csv":
        return csv_hierarchy(path)
    if path.is_dir() or path.name == "data.noun":
        return _of_wordnet(names, read_wordnet(path), links, hypernym)
    raise InputError(
        f"hierarchy {path}: give a .pth tree file, ImageNet's is-a list (.txt), a .csv of child,parent, or a folder "
        "with data.noun"
    )


def _of_wordnet(names: Sequence[str], wordnet: Mapping[str, Synset], links: str, hypernym: str) -> Hierarchy:
    if links not in LINKS:
        raise InputError(f"links is '{links}': choose one of {', '.join(LINKS)}")
    if links == "paper":
        return imagenet_tree_of_wordnet(names, wordnet)
    return wordnet_hierarchy(names, wordnet, links=links, hypernym=hypernym)


def _hypernyms(tree: Hierarchy) -> list[str | None]:
    hypernyms = imagenet_hypernyms()
    return [hypernyms.get(name) for name in tree.names]


def is_synset(name: str) -> bool:
    return len(name) == 9 and name[0] == "n" and name[1:].isdigit()
