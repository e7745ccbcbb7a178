"""The semantic tree of ImageNet-21K's authors (Ridnik et al. 2021), and how Adaloglou et al. 2024 coarsen its classes.

Ridnik et al. made the tree of ImageNet's own is-a list (github.com/Alibaba-MIIL/ImageNet21K, issues 7 and 11): a synset
has one hypernym, of several the one that the list names last, and a class hangs below the nearest class on its way up.
The list has WordNet 3.0's links in an order of its own, so WordNet and a table of the differences give it, and so does
the list itself.

The rule behind the paper's class counts was found by trying: at depth d every class deeper than d, roots at depth 0,
becomes its hypernym, once, and whether or not that is a class. It gives all eight counts of table 5 (3987, 5086, 6772,
8386, 9429, 9997, 10 241, 10 351), as the tree gives the 8153 leaves of table 2. The ancestor at depth d, which the
paper's words describe (section 4.2), would leave 1369 to 10 341 classes.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.runtime.errors import InputError
from deepclust.subsets.hierarchy import Hierarchy, hierarchy_of_parents
from deepclust.subsets.wordnet import Synset, check_synsets, read_wordnet

# child,parent of every synset whose last line in the is-a list is not its last hypernym in WordNet 3.0.
LAST_IN_IMAGENET = Path(__file__).parent / "hierarchies" / "imagenet_hypernyms.csv"


def imagenet_hypernyms(wordnet: Mapping[str, Synset] | None = None) -> dict[str, str]:
    """{synset: its one hypernym} of ImageNet's is-a list, from WordNet.

    Args:
        wordnet: of `read_wordnet`; None reads it from its usual place.

    Raises:
        InputError: if WordNet is not there.
    """
    wordnet = read_wordnet() if wordnet is None else wordnet
    hypernyms = {name: synset.hypernyms[-1] for name, synset in wordnet.items() if synset.hypernyms}
    with open(LAST_IN_IMAGENET, encoding="utf-8", newline="") as stream:
        told = dict(csv.reader(line for line in stream if line[0] == "n"))
    return {**hypernyms, **{child: parent for child, parent in told.items() if child in hypernyms}}


def read_is_a(path: str | os.PathLike) -> dict[str, str]:
    """{synset: its one hypernym} of ImageNet's is-a list itself: a line is `hypernym synset`, and the last one counts.

    Raises:
        InputError: if the file is missing, or a line is of another form.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    hypernyms = {}
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            fields = line.split()
            if fields and len(fields) != 2:
                raise InputError(f"{path} line {number} has {len(fields)} words: ImageNet's is-a list has two")
            if fields:
                hypernyms[fields[1]] = fields[0]
    if not hypernyms:
        raise InputError(f"{path} holds no links: each line is `hypernym synset`")
    return hypernyms


def imagenet_tree(classes: Sequence[str], hypernyms: Mapping[str, str], source: str, **more: Any) -> Hierarchy:
    """The authors' tree over any synsets; nothing but these become nodes.

    Args:
        classes: names such as `n02084071`.
        hypernyms: of `imagenet_hypernyms` or `read_is_a`.
        source: what the hypernyms are of, for messages.
        **more: further attributes of the Hierarchy.

    Raises:
        InputError: if the links go round in a circle.
    """
    ids = {name: node for node, name in enumerate(classes)}

    def parent(name: str) -> int:
        seen = {name}
        while (name := hypernyms.get(name, "")) and name not in seen:
            if name in ids:
                return ids[name]
            seen.add(name)
        return -1

    return hierarchy_of_parents(
        classes,
        [parent(name) for name in classes],
        source,
        hypernyms=lambda: [hypernyms.get(name) for name in classes],
        **more,
    )


def imagenet_tree_of_wordnet(synsets: Sequence[str], wordnet: Mapping[str, Synset] | None = None) -> Hierarchy:
    """The authors' tree over any synsets, from WordNet.

    Raises:
        InputError: if WordNet is not there, or a name is no synset of its.
    """
    wordnet = read_wordnet() if wordnet is None else wordnet
    check_synsets(synsets, wordnet)
    return imagenet_tree(
        synsets,
        imagenet_hypernyms(wordnet),
        "WordNet 3.0, read as ImageNet-21K's authors do",
        lemmas=tuple(wordnet[name].lemmas for name in synsets),
        source_leaf_M=np.array([not wordnet[name].has_hyponym for name in synsets]),
    )
