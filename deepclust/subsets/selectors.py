"""The benchmarks of Adaloglou et al. 2024, section 4, as rules about classes: which stay, and what they become.

A rule sees the classes of a data set (names, training frequencies, hierarchy) and answers with a `Benchmark`, which
then selects and relabels the rows of any split. Labels serve to select here, as the benchmarks are defined by them;
training never sees them.

Shape suffixes: N samples of a split, K classes of the data set, C classes of the benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from deepclust.runtime.errors import InputError
from deepclust.subsets.hierarchy import Hierarchy

DROPPED = -1


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, as a rule sees them.

    Attributes:
        names: of the K classes.
        counts_K: training samples of each.
        find_hierarchy: gives the hierarchy when a rule asks for it; raises InputError where there is none.
    """

    names: Sequence[str]
    counts_K: np.ndarray
    find_hierarchy: Callable[[], Hierarchy]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Selection:
    """The rows of a split that a benchmark keeps.

    Attributes:
        rows_N: (N,) bool.
        labels: new labels of the kept rows, 0 … C-1, in order.
        class_names: of the C new classes.
    """

    rows_N: np.ndarray
    labels: np.ndarray
    class_names: list[str]


@dataclass(frozen=True)
class Benchmark:
    """A rule's answer.

    Attributes:
        name: of the benchmark.
        new_class_K: (K,) what each class becomes, -1 where its samples are dropped.
        class_names: of the C new classes.
        halved_K: (K,) classes that lose half of their training samples; the other splits keep theirs.
        relabels: for each split the class, among the K, that each of its samples is to have instead of its label; -1
            drops a sample.
        seed: of the draw of the samples that are lost.
    """

    name: str
    new_class_K: np.ndarray
    class_names: list[str]
    halved_K: np.ndarray | None = None
    relabels: Mapping[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def select(self, labels_N: np.ndarray, split: str = "train") -> Selection:
        """The rows of one split.

        Args:
            labels_N: class of each sample, 0 … K-1.
            split: `train` or another; `halved_K` and `relabels` ask.

        Raises:
            InputError: if relabels are of another length than the split.
        """
        relabels_N = self.relabels.get(split)
        if relabels_N is not None:
            if len(relabels_N) != len(labels_N):
                raise InputError(
                    f"there are {len(relabels_N)} new labels for the {len(labels_N)} samples of the {split} split: "
                    "make them from the same features"
                )
            labels_N = relabels_N
        new_N = np.where(labels_N >= 0, self.new_class_K[labels_N], DROPPED)
        rows_N = new_N != DROPPED
        if self.halved_K is not None and split == "train":
            rows_N &= ~second_halves(labels_N, self.halved_K, self.seed)
        return Selection(rows_N, new_N[rows_N], list(self.class_names))


def second_halves(labels_N: np.ndarray, halved_K: np.ndarray, seed: int) -> np.ndarray:
    """(N,) whether a sample is lost: of each halved class ⌊n/2⌋ samples, drawn at random."""
    shuffled = np.random.default_rng(seed).permutation(len(labels_N))
    order = shuffled[np.argsort(labels_N[shuffled], kind="stable")]  # by class, at random within
    counts_K = np.bincount(labels_N, minlength=len(halved_K))
    starts_K = np.cumsum(counts_K) - counts_K
    places = np.arange(len(labels_N)) - starts_K[labels_N[order]]
    lost_N = np.empty(len(labels_N), bool)
    lost_N[order] = halved_K[labels_N[order]] & (places < counts_K[labels_N[order]] // 2)
    return lost_N


# --- rules: the classes that stay ------------------------------------------------------------------------------------


def kept(name: str, classes: Classes, keep_K: np.ndarray) -> Benchmark:
    """The benchmark of the classes that a mask keeps, in their order.

    Raises:
        InputError: if fewer than two are kept.
    """
    n_kept = int(keep_K.sum())
    if n_kept < 2:
        raise InputError(f"benchmark={name} keeps {n_kept} of {len(classes)} classes here: it needs at least 2")
    new_class_K = np.where(keep_K, np.cumsum(keep_K) - 1, DROPPED)
    return Benchmark(name, new_class_K, [classes.names[index] for index in np.flatnonzero(keep_K).tolist()])


def everything(name: str, classes: Classes) -> Benchmark:
    """Every class and every sample, for comparison with the other benchmarks."""
    return kept(name, classes, np.ones(len(classes), bool))


def percentile_range(counts_K: np.ndarray, low: float, high: float) -> np.ndarray:
    """(K,) classes whose frequency lies within two percentiles of the frequencies, bounds included.

    Ties stay together: hence the paper's 1060 classes where a tenth of 10 450 would be 1045. A bound that falls between
    two classes takes both in.
    """
    lowest, highest = np.percentile(counts_K, low, method="lower"), np.percentile(counts_K, high, method="higher")
    return (counts_K >= lowest) & (counts_K <= highest)


def around_median(name: str, classes: Classes, spread: float) -> Benchmark:
    """Tiny … Huge: the classes within [50 - s, 50 + s] percent of the class frequencies (§4.1)."""
    _check_uneven(name, classes)
    if not 0 < spread <= 50:
        raise InputError(f"benchmark={name}: spread is {spread}: percentiles around the median go from 0 to 50")
    return kept(name, classes, percentile_range(classes.counts_K, 50 - spread, 50 + spread))


def imbalanced(name: str, classes: Classes, percent: float = 10) -> Benchmark:
    """Imbalanced-2K: the central 10 % of the classes by frequency, and the 10 % most frequent (§4.1)."""
    return kept(name, classes, _imbalanced_classes(name, classes, percent))


def centered(name: str, classes: Classes, percent: float = 10) -> Benchmark:
    """Centered-2K: as many classes as `imbalanced` has, centered on the median frequency (§4.1).

    Ties at the borders go by class number.
    """
    n_kept = int(_imbalanced_classes(name, classes, percent).sum())
    order = np.argsort(classes.counts_K, kind="stable")
    first = (len(order) - n_kept) // 2
    keep_K = np.zeros(len(classes), bool)
    keep_K[order[first : first + n_kept]] = True
    return kept(name, classes, keep_K)


def _imbalanced_classes(name: str, classes: Classes, percent: float) -> np.ndarray:
    _check_uneven(name, classes)
    if not 0 < percent < 50:
        raise InputError(f"benchmark={name}: percent is {percent}: it must be above 0 and below 50")
    central_K = percentile_range(classes.counts_K, 50 - percent / 2, 50 + percent / 2)
    return central_K | percentile_range(classes.counts_K, 100 - percent, 100)


def _check_uneven(name: str, classes: Classes) -> None:
    if classes.counts_K.min() == classes.counts_K.max():
        raise InputError(
            f"benchmark={name} selects classes by frequency, but all {len(classes)} classes have "
            f"{classes.counts_K[0]} training samples: choose benchmark=odd for an imbalance here"
        )


def odd(name: str, classes: Classes, seed: int = 0) -> Benchmark:
    """ODD: the classes of odd number lose half of their training samples; validation stays as it is (§3)."""
    return replace(everything(name, classes), halved_K=np.arange(len(classes)) % 2 == 1, seed=seed)


def random_classes(name: str, classes: Classes, n_classes: int = 1000, seed: int = 0) -> Benchmark:
    """Random 1K (§4.3)."""
    _check_number(name, classes, n_classes)
    keep_K = np.zeros(len(classes), bool)
    keep_K[np.random.default_rng(seed).choice(len(classes), n_classes, replace=False)] = True
    return kept(name, classes, keep_K)


def easiest(name: str, classes: Classes, accuracies_K: np.ndarray, n_classes: int = 1000) -> Benchmark:
    """CLIP-1K, DINOv2-1K, Sup-1K: the classes that a model's linear probe gets most right (§4.3).

    Args:
        name: of the benchmark.
        classes: of the data set.
        accuracies_K: of the probe on the validation split, NaN where unknown; ties go by class number.
        n_classes: how many to keep.
    """
    return kept(name, classes, easiest_mask(name, classes, accuracies_K, n_classes))


def union(name: str, classes: Classes, accuracies: Sequence[np.ndarray], n_classes: int = 1000) -> Benchmark:
    """Union: the classes that are among the easiest for any of several models (§4.3)."""
    masks = [easiest_mask(name, classes, accuracies_K, n_classes) for accuracies_K in accuracies]
    return kept(name, classes, np.logical_or.reduce(masks))


def easiest_mask(name: str, classes: Classes, accuracies_K: np.ndarray, n_classes: int) -> np.ndarray:
    _check_number(name, classes, n_classes)
    accuracies_K = np.asarray(accuracies_K, dtype=np.float64)
    if accuracies_K.shape != (len(classes),):
        raise InputError(
            f"benchmark={name}: there are {accuracies_K.size} per-class accuracies for {len(classes)} classes: "
            "give one per class, in the order of the class names"
        )
    if (accuracies_K < 0).any():
        raise InputError(f"benchmark={name}: accuracies go down to {np.nanmin(accuracies_K)}: they are shares, 0 to 1")
    n_judged = int(np.isfinite(accuracies_K).sum())
    if n_judged < n_classes:
        raise InputError(
            f"benchmark={name} keeps the {n_classes} easiest classes, but accuracies are known of {n_judged} alone: "
            "probe with validation samples of every class, or lower benchmark.n_classes"
        )
    keep_K = np.zeros(len(classes), bool)
    keep_K[np.argsort(-accuracies_K, kind="stable")[:n_classes]] = True
    return keep_K


def _check_number(name: str, classes: Classes, n_classes: int) -> None:
    if not 2 <= n_classes <= len(classes):
        raise InputError(
            f"benchmark={name} keeps {n_classes} classes, but there are {len(classes)}: "
            f"set benchmark.n_classes between 2 and {len(classes)}"
        )


# --- rules over the hierarchy ----------------------------------------------------------------------------------------


def coarse(name: str, classes: Classes, depth: int) -> Benchmark:
    """Coarse d: classes deeper than d become coarser ones; all samples stay (§4.2).

    Which: their ancestors at depth d, or for ImageNet-21K what `deepclust.subsets.imagenet_tree` says of the paper.
    """
    hierarchy = classes.find_hierarchy()
    named_M = hierarchy.coarse_names(depth)
    names_K = [named_M[node] for node in hierarchy.nodes_of(classes.names)]
    # The classes stay in the hierarchy's order; what is no node comes last.
    place = {node_name: node for node, node_name in enumerate(hierarchy.names)}
    class_names = sorted(set(names_K), key=lambda one: (place.get(one, len(place)), one))
    if len(class_names) < 2:
        raise InputError(f"benchmark={name} leaves {len(class_names)} class at depth {depth}: choose a greater depth")
    ids = {one: number for number, one in enumerate(class_names)}
    return Benchmark(name, np.array([ids[one] for one in names_K]), class_names)


def tree_leaf(name: str, classes: Classes) -> Benchmark:
    """ImageNet21K leaf: classes below which the hierarchy has none; others leave both splits (§4.2)."""
    hierarchy = classes.find_hierarchy()
    return kept(name, classes, hierarchy.leaves_M[hierarchy.nodes_of(classes.names)])


def source_leaf(name: str, classes: Classes) -> Benchmark:
    """WordNet leaf: classes without any hyponym in WordNet, whether or not it is a class; others leave both splits."""
    hierarchy = classes.find_hierarchy()
    if hierarchy.source_leaf_M is None:
        raise InputError(
            f"benchmark={name} asks WordNet which classes have hyponyms, but the hierarchy is {hierarchy.source}: "
            "use benchmark=in21k_leaf, or name WordNet's folder by benchmark.hierarchy=FOLDER"
        )
    return kept(name, classes, hierarchy.source_leaf_M[hierarchy.nodes_of(classes.names)])


def relabeled(name: str, classes: Classes, relabels: Mapping[str, np.ndarray]) -> Benchmark:
    """Leaf HZR and p-HZR: samples get the labels that `relabel` found; classes that a split lacks are dropped (§4.2).

    Args:
        name: of the benchmark.
        classes: of the data set.
        relabels: for each split the new class of each sample, among the data set's own classes, -1 to drop it.
    """
    in_all_K = np.ones(len(classes), bool)
    for split, labels_N in relabels.items():
        if labels_N.dtype.kind not in "iu" or labels_N.ndim != 1 or len(labels_N) == 0:
            raise InputError(
                f"benchmark={name}: the new labels of the {split} split are {labels_N.dtype} {labels_N.shape}: "
                "give one class number per sample"
            )
        if labels_N.min() < DROPPED or labels_N.max() >= len(classes):
            raise InputError(
                f"benchmark={name}: the new labels of the {split} split go from {labels_N.min()} to {labels_N.max()}, "
                f"but there are {len(classes)} classes: give their numbers, or -1 to drop a sample"
            )
        in_all_K &= np.bincount(labels_N[labels_N >= 0], minlength=len(classes)) > 0
    chosen = kept(name, classes, in_all_K)
    return Benchmark(name, chosen.new_class_K, chosen.class_names, relabels=relabels)
