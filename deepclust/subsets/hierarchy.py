"""Class hierarchies: from WordNet, from the tree file of ImageNet-21K's authors, or from a table of one's own.

Every node has one path to its root. Where a source names several parents, the rule that chooses is part of the
source's reader and documented there.

Shape suffixes: M nodes, K classes of a data set.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.runtime.errors import InputError
from deepclust.subsets.wordnet import Synset, check_synsets, read_wordnet

# "paper" is the reading of `deepclust.subsets.imagenet_tree`.
LINKS = ("paper", "direct", "nearest")
HYPERNYMS = ("first", "last")


@dataclass(frozen=True)
class Hierarchy:
    """Nodes, each with its ancestors in order.

    Attributes:
        names: of the M nodes; a node's id is its position.
        ancestors: for each node the ids of its ancestors, the parent first and the root last.
        source: what it was read from, for messages.
        lemmas: for each node the words for it, or None where the source has names only.
        source_leaf_M: whether the source, beyond these nodes, knows nothing below a node; None where it knows no more
            than the nodes. For WordNet: the synsets without hyponyms.
        hypernyms: gives of each node the name right above it in WordNet, a node or not, where that decides what coarse
            classes are (`deepclust.subsets.imagenet_tree`); raises InputError where it cannot be known. None: ancestors
            decide.
    """

    names: tuple[str, ...]
    ancestors: tuple[tuple[int, ...], ...]
    source: str
    lemmas: tuple[tuple[str, ...], ...] | None = None
    source_leaf_M: np.ndarray | None = None
    hypernyms: Callable[[], Sequence[str | None]] | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def parents_M(self) -> np.ndarray:
        """(M,) the parent of each node, -1 for roots."""
        return np.array([above[0] if above else -1 for above in self.ancestors])

    @cached_property
    def depths_M(self) -> np.ndarray:
        """(M,) the depth of each node: 1 for roots."""
        return np.array([1 + len(above) for above in self.ancestors])

    @cached_property
    def leaves_M(self) -> np.ndarray:
        """(M,) whether no other node is below."""
        leaves_M = np.ones(len(self), bool)
        leaves_M[[node for above in self.ancestors for node in above]] = False
        return leaves_M

    @cached_property
    def children(self) -> tuple[np.ndarray, ...]:
        """For each node the ids of the nodes whose parent it is, ascending."""
        order = np.argsort(self.parents_M, kind="stable")
        bounds = np.searchsorted(self.parents_M[order], np.arange(len(self) + 1))
        return tuple(order[low:high] for low, high in pairwise(bounds))

    def level(self, depth: int) -> np.ndarray:
        """The nodes of a depth."""
        return np.flatnonzero(self.depths_M == depth)

    def coarse(self, depth: int) -> np.ndarray:
        """(M,) the ancestor at most so deep that stands for each node: the node itself where it is no deeper.

        Raises:
            InputError: if the depth is below 1.
        """
        if depth < 1:
            raise InputError(f"depth is {depth}: roots have depth 1, choose 1 or more")
        chains = ((node, *above) for node, above in enumerate(self.ancestors))
        return np.array([chain[max(0, len(chain) - depth)] for chain in chains])

    def coarse_names(self, depth: int) -> list[str]:
        """What each node is called in a coarse benchmark of a depth (Adaloglou et al. 2024, section 4.2).

        Raises:
            InputError: if the depth is below 1, or WordNet's links are needed and not there.
        """
        if self.hypernyms is None:
            return [self.names[node] for node in self.coarse(depth)]
        deeper = self.depths_M - 1 > depth  # roots count as depth 0 here
        above = zip(self.names, self.hypernyms(), deeper, strict=True)
        return [hypernym if is_deeper and hypernym else name for name, hypernym, is_deeper in above]

    def nodes_of(self, class_names: Sequence[str]) -> np.ndarray:
        """(K,) the node of each class of a data set, by name, or by number where the names are in no table.

        Raises:
            InputError: if a class is no node.
        """
        ids = {name: node for node, name in enumerate(self.names)}
        numbers = [str(number) for number in range(len(class_names))]
        by_number = not all(name in ids for name in class_names) and all(number in ids for number in numbers)
        keys = numbers if by_number else list(class_names)
        missing = [key for key in keys if key not in ids]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(keys)} classes are not in the hierarchy {self.source} "
                f"(first: '{missing[0]}'): name a hierarchy of these classes by benchmark.hierarchy=FILE "
                "(deepclust evaluate: hierarchy=FILE)"
            )
        return np.array([ids[key] for key in keys])

    def classes_above(self, class_names: Sequence[str]) -> list[list[int]]:
        """The ancestors of each class that are classes themselves, as class ids, nearest first.

        S_L of the multi-label accuracies is a subset of the classes (Adaloglou et al. 2024, section 4.4): an ancestor
        without samples cannot be hit.

        Raises:
            InputError: if a class is no node.
        """
        nodes_K = self.nodes_of(class_names)
        class_of = {int(node): number for number, node in enumerate(nodes_K)}
        return [[class_of[above] for above in self.ancestors[node] if above in class_of] for node in nodes_K]


def hierarchy_of_parents(names: Sequence[str], parents: Sequence[int], source: str, **more: Any) -> Hierarchy:
    """A Hierarchy from the parent of each node, -1 for roots.

    Raises:
        InputError: if the parents go round in a circle.
    """
    found: list[tuple[int, ...] | None] = [None] * len(names)
    for start in range(len(names)):
        trail = []
        node = start
        while node >= 0 and found[node] is None:
            if node in trail:
                raise InputError(
                    f"{source}: '{names[node]}' is its own ancestor: remove one of the links of the circle"
                )
            trail.append(node)
            node = parents[node]
        for below in reversed(trail):
            parent = parents[below]
            found[below] = () if parent < 0 else (parent, *(found[parent] or ()))
    return Hierarchy(tuple(names), tuple(above or () for above in found), source, **more)


def wordnet_hierarchy(
    synsets: Sequence[str],
    wordnet: Mapping[str, Synset] | None = None,
    *,
    links: str = "direct",
    hypernym: str = "last",
) -> Hierarchy:
    """The hierarchy that WordNet gives a list of synsets; nothing but these become nodes.

    These are readings of our own; that of ImageNet-21K's authors is `deepclust.subsets.imagenet_tree`.

    Args:
        synsets: names such as `n02084071`.
        wordnet: of `read_wordnet`; None reads it from its usual place.
        links: `direct`: a synset whose hypernyms are not in the list is a root. `nearest`: the ancestors are searched
            level by level until one is in the list.
        hypernym: which of several counts, the `first` or the `last` in WordNet's order.

    Raises:
        InputError: if a name is no synset, or an option is unknown.
    """
    for name, value, known in (("links", links, LINKS[1:]), ("hypernym", hypernym, HYPERNYMS)):
        if value not in known:
            raise InputError(f"{name} is '{value}': choose one of {', '.join(known)}")
    wordnet = read_wordnet() if wordnet is None else wordnet
    check_synsets(synsets, wordnet)
    ids = {name: node for node, name in enumerate(synsets)}

    def above(names: Sequence[str]) -> list[str]:
        found = [up for name in names for up in wordnet[name].hypernyms[:: 1 if hypernym == "first" else -1]]
        return list(dict.fromkeys(found))

    def parent(name: str) -> int:
        level = above([name])
        while level:
            listed = [ids[up] for up in level if up in ids]
            if listed:
                return listed[0]
            level = above(level) if links == "nearest" else []
        return -1

    return hierarchy_of_parents(
        synsets,
        [parent(name) for name in synsets],
        "WordNet 3.0",
        lemmas=tuple(wordnet[name].lemmas for name in synsets),
        source_leaf_M=np.array([not wordnet[name].has_hyponym for name in synsets]),
    )


def tree_file_hierarchy(path: str | os.PathLike) -> Hierarchy:
    """The hierarchy of `imagenet21k_miil_tree.pth` (Ridnik et al. 2021), the one that the paper uses.

    `class_tree_list[i]` lists class i, then its ancestors; `class_list`, or else the keys of `class_description`, names
    the classes in the same order. Only tensors, arrays and plain values are read: nothing in the file is executed.

    Raises:
        InputError: if the file is missing, unreadable or of another form.
    """
    import torch

    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        with torch.serialization.safe_globals(_array_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own on a broken or unsafe file
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{path} is no readable tree file, or holds more than plain values ({reason})") from None
    if not isinstance(content, Mapping) or not {"class_tree_list", "class_description"} <= set(content):
        raise InputError(f"{path} is no tree file: it must hold class_tree_list and class_description")
    trees = [[int(node) for node in tree] for tree in content["class_tree_list"]]
    descriptions = content["class_description"]
    listed = content.get("class_list")
    names = [str(name) for name in (descriptions if listed is None else listed)]
    if len(names) != len(trees):
        raise InputError(f"{path} names {len(names)} classes, but class_tree_list has {len(trees)}: fetch it again")
    for node, tree in enumerate(trees):
        if tree[:1] != [node] or len(set(tree)) != len(tree) or not 0 <= min(tree) <= max(tree) < len(trees):
            raise InputError(
                f"{path}: class_tree_list[{node}] is {tree[:8]}: it must be {node}, then different other classes"
            )
    words = [str(descriptions.get(name, name)) for name in names] if isinstance(descriptions, Mapping) else names
    lemmas = tuple(tuple(word.strip() for word in text.split(",")) for text in words)
    return Hierarchy(tuple(names), tuple(tuple(tree[1:]) for tree in trees), str(path), lemmas)


def _array_globals() -> list[Any]:
    """What a pickled NumPy array of numbers or strings names: harmless, under its names in NumPy 1 and 2."""
    make = np.empty(0).__reduce__()[0]
    names = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
    return [*((make, name) for name in names), np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in "qdifUS?")]


def csv_hierarchy(path: str | os.PathLike) -> Hierarchy:
    """A hierarchy from a table of `child,parent`: names, or class numbers; nodes in the order of their mention.

    A header line `child,parent` is skipped. An empty parent makes the child a root, as does never being a child. Where
    a child has several lines the first counts.

    Raises:
        InputError: if the file is missing, a line has another number of fields, or the links go round in a circle.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    parent_of: dict[str, str] = {}
    with open(path, encoding="utf-8", newline="") as stream:
        for number, fields in enumerate(csv.reader(stream), 1):
            cells = [field.strip() for field in fields]
            if not any(cells) or cells[0].startswith("#") or (not parent_of and cells == ["child", "parent"]):
                continue
            if len(cells) != 2 or not cells[0]:
                raise InputError(f"{path} line {number} has {len(cells)} fields: each line is child,parent")
            parent_of.setdefault(cells[0], cells[1])
    if not parent_of:
        raise InputError(f"{path} holds no links: each line is child,parent")
    names = list(dict.fromkeys([*parent_of, *(parent for parent in parent_of.values() if parent)]))
    ids = {name: node for node, name in enumerate(names)}
    parents = [ids[parent_of[name]] if parent_of.get(name) else -1 for name in names]
    return hierarchy_of_parents(names, parents, str(path))
