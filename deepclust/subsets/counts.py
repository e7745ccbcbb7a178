"""Class and sample counts of every benchmark, for a data set or a bare list of classes, beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.runtime.errors import InputError
from deepclust.subsets.hierarchy import HYPERNYMS, LINKS, Hierarchy, wordnet_hierarchy
from deepclust.subsets.imagenet_tree import imagenet_tree_of_wordnet
from deepclust.subsets.select import make_benchmark
from deepclust.subsets.selectors import Classes
from deepclust.subsets.wordnet import read_wordnet

SYNSETS_FILE = "imagenet21k_miil_w21_synsets.txt"
# Adaloglou et al. 2024, tables 1, 2, 3 and 5: classes, and millions of training samples.
PAPER_COUNTS: Mapping[str, tuple[int, float]] = {
    "imbalanced_2k": (2113, 2.55),
    "centered_2k": (2113, 2.34),
    "tiny": (1060, 1.17),
    "small": (3146, 3.46),
    "base": (5230, 5.67),
    "large": (7326, 7.79),
    "huge": (9405, 9.88),
    "coarse_1": (3987, 11.06),
    "coarse_2": (5086, 11.06),
    "coarse_3": (6772, 11.06),
    "coarse_4": (8386, 11.06),
    "coarse_5": (9429, 11.06),
    "coarse_6": (9997, 11.06),
    "coarse_7": (10241, 11.06),
    "coarse_8": (10351, 11.06),
    "wordnet_leaf": (7353, 7.54),
    "in21k_leaf": (8153, 8.37),
    "leaf_hzr": (8153, 11.06),
    "p_hzr": (10413, 11.06),
    "clip_1k": (1000, 1.14),
    "dinov2_1k": (1000, 1.13),
    "sup_1k": (1000, 1.12),
    "random_1k": (1000, 1.06),
    "union": (1331, 1.49),
    "all": (10_450, 11.06),
}
# Benchmarks as they follow each other in tables; d = 9 has no figures in the paper's.
ORDER = tuple(name for one in PAPER_COUNTS for name in ((one, "coarse_9") if one == "coarse_8" else (one,)))


def imagenet21k_synsets() -> list[str]:
    """The 10 450 classes of ImageNet-21K, winter 2021, preprocessed, in their order; timm ships the list.

    Raises:
        InputError: if this timm lacks it.
    """
    # Located without an import: importing timm takes seconds.
    spec = find_spec("timm")
    roots = [] if spec is None else list(spec.submodule_search_locations or ())
    for path in (Path(root) / "data" / "_info" / SYNSETS_FILE for root in roots):
        if path.is_file():
            return path.read_text(encoding="utf-8").split()
    raise InputError(f"timm's {SYNSETS_FILE} is missing: pip install 'timm>=1.0', or give a list of synsets")


def benchmark_counts(
    classes: Classes,
    benchmarks: Mapping[str, Mapping[str, Any]],
    *,
    test_labels: np.ndarray | None = None,
    train_labels: np.ndarray | None = None,
    files: Any = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per benchmark, and a sentence for each that these classes do not allow.

    Args:
        classes: of the data set; all counts 0 where only the classes are known.
        benchmarks: the settings of each by name: its rule and the rule's options.
        test_labels, train_labels: class of each sample; None leaves the sample counts out.
        files: replaces the files that options name by what they hold, `(name, options) -> options`.

    Returns:
        Rows with `benchmark`, `classes`, `paper_classes`, `train`, `paper_train` (millions), `test`.
    """
    rows, notes, without_samples = [], [], []
    of_the_paper = len(classes) == IMAGENET21K_CLASSES
    for name, settings in sorted(benchmarks.items(), key=lambda item: _place(item[0])):
        options = {key: value for key, value in settings.items() if key not in NOT_OF_THE_RULE}
        if not classes.counts_K.any() and settings["rule"] not in RULES_WITHOUT_SAMPLES:
            without_samples.append(name)
            continue
        try:
            benchmark = make_benchmark(name, settings["rule"], classes, **(files(name, options) if files else options))
        except InputError as error:
            notes.append(str(error))
            continue
        paper_classes, paper_train = PAPER_COUNTS.get(name, (None, None)) if of_the_paper else (None, None)
        row: dict[str, Any] = {"benchmark": name, "classes": benchmark.n_classes, "paper_classes": paper_classes}
        for split, labels in (("train", train_labels), ("test", test_labels)):
            row[split] = None if labels is None else int(benchmark.select(labels, split).rows_N.sum())
        row["paper_train"] = paper_train
        rows.append(row)
    if without_samples:
        notes.insert(0, f"{', '.join(without_samples)}: these need samples, a bare list of classes has none")
    return rows, notes


def _place(name: str) -> int:
    """Where a benchmark stands in the paper's tables; others follow."""
    return ORDER.index(name) if name in ORDER else len(ORDER)


IMAGENET21K_CLASSES = 10_450
# The settings of a benchmark that are no options of its rule, and the rules that need no sample.
NOT_OF_THE_RULE = ("name", "rule", "hierarchy", "links", "hypernym")
RULES_WITHOUT_SAMPLES = ("everything", "coarse", "source_leaf", "tree_leaf", "random")


def link_rules(synsets: Sequence[str]) -> list[dict[str, Any]]:
    """What each way of reading WordNet's links makes of a list of synsets: classes at depth 1 … 8, leaves, levels.

    The last row is the paper's, for the 10 450 classes of ImageNet-21K.
    """
    wordnet = read_wordnet()
    rows = [{"links": LINKS[0], "hypernym": "", **_level_counts(imagenet_tree_of_wordnet(synsets, wordnet))}]
    for links in LINKS[1:]:
        for hypernym in HYPERNYMS:
            hierarchy = wordnet_hierarchy(synsets, wordnet, links=links, hypernym=hypernym)
            rows.append({"links": links, "hypernym": hypernym, **_level_counts(hierarchy)})
    paper = {f"d{depth}": PAPER_COUNTS[f"coarse_{depth}"][0] for depth in range(1, 9)}
    leaves = {"tree_leaf": PAPER_COUNTS["in21k_leaf"][0], "wordnet_leaf": PAPER_COUNTS["wordnet_leaf"][0]}
    return [*rows, {"links": "table 5", "hypernym": "", **paper, **leaves, "levels": 11}]


def _level_counts(hierarchy: Hierarchy) -> dict[str, int]:
    counts = {f"d{depth}": len(set(hierarchy.coarse_names(depth))) for depth in range(1, 9)}
    counts["tree_leaf"] = int(hierarchy.leaves_M.sum())
    counts["wordnet_leaf"] = 0 if hierarchy.source_leaf_M is None else int(hierarchy.source_leaf_M.sum())
    return {**counts, "levels": int(hierarchy.depths_M.max())}
