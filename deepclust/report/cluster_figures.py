"""The figures of TSP's paper: label consistency of neighbors, an embedding, a confusion matrix.

Zhou and Zhang 2022, figures 1, 4 and 7.

Shape suffixes: N samples, D feature dimensions, K classes, M mapped classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from matplotlib import patheffects, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from deepclust.clustering import Clustering, display_name
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics.agreement import hungarian_map
from deepclust.metrics.multilabel import UNMAPPED, mapped_classes
from deepclust.neighbors import Neighbors
from deepclust.report.figures import MARKERS, ONE_COLUMN, PALETTE, STYLE, TWO_COLUMNS, new_figure
from deepclust.report.map_layout import within_square, without_gaps
from deepclust.runtime.errors import InputError

# Figures are drawn at these numbers of neighbors, as far as so many were mined.
CONSISTENCY_KS = (1, 2, 3, 5, 10, 15, 20, 30, 40, 50)
# More classes than this have neither names nor a legend.
NAMED_CLASSES = 30
# Of a label, in widths of the panel.
LETTER_WIDTH, LINE_HEIGHT = 0.022, 0.045
UMAP_SAMPLES = 5000
_GRAY = "#b0b0b0"
# Of classes in the order of their ids, or of clusters by id.
Names = Sequence[str] | Mapping[int, str] | None


def consistency_curve(
    neighbors: Neighbors, labels_N: np.ndarray, ks: Sequence[int] = CONSISTENCY_KS
) -> dict[int, float]:
    """{k: share of the k nearest neighbors that carry the sample's label}, for each k that was mined."""
    same_K = (labels_N[neighbors.ids] == labels_N[:, None]).mean(axis=0)
    return {k: float(same_K[:k].mean()) for k in ks if k <= neighbors.k}


@rc_context(STYLE)
def consistency_figure(curves: Mapping[str, Mapping[int, float]]) -> Figure:
    """Neighbor label consistency over the number of neighbors, a line per name (an encoder, a split)."""
    figure, (axes,) = new_figure(ONE_COLUMN, 2.4)
    for index, (name, curve) in enumerate(curves.items()):
        axes.plot(
            list(curve),
            [100 * value for value in curve.values()],
            color=PALETTE[index % len(PALETTE)],
            marker=MARKERS[index % len(MARKERS)],
            label=name,
        )
    axes.set(xlabel="nearest neighbors k", ylabel="same label (%)")
    axes.set_xlim(left=0)
    if len(curves) > 1:
        axes.legend()
    else:
        axes.set_title(next(iter(curves)))
    return figure


def confusion_matrix(labels_N: np.ndarray, clustering: Clustering) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of each class by the class that the Hungarian map gives their cluster.

    Returns:
        (K, M) counts, the K class ids, and the M mapped ones: the same ids, then `UNMAPPED` where a sample is noise or
        in a cluster without a class.

    Raises:
        InputError: if the lengths differ.
    """
    if len(labels_N) != len(clustering):
        raise InputError(
            f"{len(labels_N)} labels for the {len(clustering)} samples of {clustering.method}: give one per sample"
        )
    classes_K, class_N = np.unique(labels_N, return_inverse=True)
    found_N = mapped_classes(hungarian_map(labels_N, clustering.labels), clustering.labels)
    columns_M = np.append(classes_K, UNMAPPED) if (found_N == UNMAPPED).any() else classes_K
    place_N = np.where(found_N == UNMAPPED, len(classes_K), np.searchsorted(classes_K, found_N))
    counts = np.bincount(class_N * len(columns_M) + place_N, minlength=len(classes_K) * len(columns_M))
    return counts.reshape(len(classes_K), len(columns_M)), classes_K, columns_M


@rc_context(STYLE)
def confusion_figure(labels_N: np.ndarray, clustering: Clustering, class_names: Sequence[str] | None = None) -> Figure:
    """Confusion matrix after the Hungarian map, in percent of each class; figures in the cells of up to 15 classes."""
    counts_KM, classes_K, columns_M = confusion_matrix(labels_N, clustering)
    percent_KM = 100 * counts_KM / counts_KM.sum(axis=1, keepdims=True)
    n_rows, n_columns = percent_KM.shape
    width = ONE_COLUMN + 0.9 if n_rows <= 15 else TWO_COLUMNS * 0.8
    figure, (axes,) = new_figure(width, width * 0.92)
    shown = axes.imshow(percent_KM, cmap="Blues", vmin=0, vmax=100)
    if n_rows <= 15:
        for row in range(n_rows):
            for column in range(n_columns):
                value = percent_KM[row, column]
                if value >= 0.5:
                    ink = "white" if value > 55 else "black"
                    axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=ink)
    if n_rows <= NAMED_CLASSES:
        names = [_name(label, class_names) for label in columns_M]
        axes.set_xticks(range(n_columns), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n_rows), [_name(label, class_names) for label in classes_K])
    axes.set(xlabel="class that the cluster is mapped to", ylabel="class")
    axes.set_title(f"{display_name(clustering.method)}, % of each class")
    axes.grid(visible=False)
    figure.colorbar(shown, ax=axes, shrink=0.7)
    return figure


def umap_layout(
    features: FeatureSet, *, n_samples: int = UMAP_SAMPLES, n_neighbors: int = 15, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A two-dimensional UMAP embedding (cosine) of a seeded sample of the rows.

    Returns:
        The rows that were drawn, ascending, and their (rows, 2) positions.

    Raises:
        InputError: if umap-learn is not installed, or there are too few samples.
    """
    if len(features) < 10:
        raise InputError(f"{len(features)} samples: UMAP needs at least 10")
    try:
        from umap import UMAP
    except ImportError:
        raise InputError("figures=[umap] needs umap-learn: pip install 'deepclust[clusterers]'") from None
    rows = np.arange(len(features))
    if len(features) > n_samples:
        rows = np.sort(np.random.default_rng(seed).choice(len(features), n_samples, replace=False))
    drawn_ND = np.asarray(features.features[rows], dtype=np.float32)
    # With a seed UMAP runs on one thread; told so beforehand it does not warn.
    layout = UMAP(n_neighbors=min(n_neighbors, len(rows) - 1), metric="cosine", random_state=seed, n_jobs=1)
    return rows, layout.fit_transform(drawn_ND)


@rc_context(STYLE)
def embedding_figure(
    places_N2: np.ndarray,
    clustering: Clustering,
    labels_N: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    cluster_names: Mapping[int, str] = MappingProxyType({}),
) -> Figure:
    """The embedding by class beside the embedding by cluster; clusters have the color of the class they are mapped to.

    Clusters without a class, and noise, are gray. Without labels there is the second panel alone, where clusters are
    called by their names, those without one by number.
    """
    places_N2 = within_square(without_gaps(places_N2))
    if labels_N is None:
        # Names of several words need more room than numbers.
        figure, (axes,) = new_figure(*((TWO_COLUMNS * 0.9, 4.5) if cluster_names else (ONE_COLUMN + 0.6, 3.0)))
        _scatter(axes, places_N2, clustering.labels, cluster_names)
        axes.set_title(f"{display_name(clustering.method)}: clusters")
        return figure
    figure, (left, right) = new_figure(TWO_COLUMNS, 3.3, n_columns=2)
    _scatter(left, places_N2, labels_N, class_names)
    left.set_title("classes")
    mapped_N = mapped_classes(hungarian_map(labels_N, clustering.labels), clustering.labels)
    _scatter(right, places_N2, mapped_N, class_names)
    right.set_title(f"clusters of {display_name(clustering.method)}, by the class they are mapped to")
    return figure


def _scatter(axes: Axes, places_N2: np.ndarray, groups_N: np.ndarray, known: Names) -> None:
    groups = np.unique(groups_N)
    for group in groups:
        rows = groups_N == group
        axes.scatter(
            places_N2[rows, 0],
            places_N2[rows, 1],
            s=3.5,
            linewidths=0,
            alpha=0.75,
            color=_GRAY if group == UNMAPPED else _color(int(group)),
            marker=MARKERS[int(group) // len(PALETTE) % len(MARKERS)],
        )
    # Colors alone do not tell ten classes apart: each has its name where most of it lies.
    named = groups if len(groups) <= NAMED_CLASSES else groups[:0]
    names = [_name(group, known) for group in named]
    middles_K2 = np.array([np.median(places_N2[groups_N == group], axis=0) for group in named]).reshape(-1, 2)
    for (x, y), text in zip(labels_apart(middles_K2, [len(name) for name in names]), names):
        name = axes.text(x, y, text, ha="center", va="center", fontsize=7.5)
        name.set_path_effects([patheffects.withStroke(linewidth=2, foreground="white")])
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)


def labels_apart(places_K2: np.ndarray, letters: Sequence[int], rounds: int = 200) -> np.ndarray:
    """Places of labels in the unit square, moved up and down until no two cover each other, as far as there is room.

    Args:
        places_K2: where the labels would stand.
        letters: of each label.
        rounds: of moving, at most.
    """
    apart_K2 = np.array(places_K2, dtype=np.float64)
    width_K = LETTER_WIDTH * np.asarray(letters, dtype=np.float64)
    needed_KK = (width_K[:, None] + width_K) / 2
    for _ in range(rounds):
        aside_KK = np.abs(apart_K2[:, None, 0] - apart_K2[:, 0])
        above_KK = apart_K2[:, None, 1] - apart_K2[:, 1]
        close_KK = (aside_KK < needed_KK) & (np.abs(above_KK) < LINE_HEIGHT)
        np.fill_diagonal(close_KK, False)
        if not close_KK.any():
            break
        # Of labels at one height the first goes up.
        order_KK = np.sign(np.arange(len(apart_K2))[None, :] - np.arange(len(apart_K2))[:, None])
        way_KK = np.where(above_KK == 0, order_KK, np.sign(above_KK))
        apart_K2[:, 1] += (close_KK * way_KK * (LINE_HEIGHT - np.abs(above_KK)) * 0.51).sum(axis=1).clip(-0.03, 0.03)
    return apart_K2


def _color(group: int) -> tuple[float, ...]:
    """The palette, then darker and lighter shades of it by turns."""
    turn, place = divmod(group, len(PALETTE))
    color = np.array(to_rgb(PALETTE[place]))
    if turn % 3 == 1:
        color = color * 0.5 if color.any() else color + 0.4
    elif turn % 3 == 2:
        color = color * 0.5 + 0.5
    return tuple(color.tolist())


def _name(label: int, known: Names) -> str:
    if label == UNMAPPED:
        return "none"
    if isinstance(known, Mapping):
        return known.get(int(label), str(label))
    return known[label] if known is not None and label < len(known) else str(label)
