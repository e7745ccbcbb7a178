"""The tree of clusters as a figure, beside the stability of its cuts.

Shape suffixes: C leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from deepclust.cuts.exploration import Exploration
from deepclust.cuts.tree import ClusterTree
from deepclust.report.figures import PALETTE, TWO_COLUMNS, new_figure, save_figure

# More leaves than this have no room for their numbers.
NUMBERED_LEAVES = 64
# Of the images under the leaves, in points: so many of this size fit side by side.
IMAGE_POINTS, IMAGES_IN_A_ROW = 16, 8


def draw_tree(path: Path, exploration: Exploration, examples: Mapping[int, Image.Image] | None = None) -> list[Path]:
    """Draw the merges, colored by the cut that is taken, and the stability of every cut with the recommended range.

    Args:
        path: without an ending; .png and .svg are written.
        exploration: what is drawn.
        examples: an image of each cluster of the cut, to stand under it; None draws numbers alone.

    Returns:
        Both paths.
    """
    tree = exploration.tree
    figure, (left, right) = new_figure(TWO_COLUMNS, 3.2, n_columns=2)
    x_of, height_of = places_of(tree)
    groups_C = tree.groups(exploration.chosen)
    n_leaves = tree.n_leaves
    group_of = np.concatenate([groups_C, np.full(len(tree.merges), -1)])
    for made, (one, other) in enumerate(tree.merges, n_leaves):
        group_of[made] = group_of[one] if group_of[one] == group_of[other] else -1
        color = "#808080" if group_of[made] < 0 else PALETTE[group_of[made] % len(PALETTE)]
        xs = [x_of[one], x_of[one], x_of[other], x_of[other]]
        left.plot(xs, [height_of[one], height_of[made], height_of[made], height_of[other]], color=color, linewidth=1)
    if n_leaves <= NUMBERED_LEAVES:
        order = np.argsort(x_of[:n_leaves])
        left.set_xticks(range(n_leaves), [str(groups_C[leaf]) for leaf in order], fontsize=5, rotation=90)
        left.set_xlabel(f"cluster of the cut into {exploration.chosen}")
    else:
        left.set_xticks([])
    if examples and exploration.chosen <= NUMBERED_LEAVES:
        show_examples(left, x_of[:n_leaves], groups_C, examples)
    left.set_ylabel("pair information lost, nats")
    left.grid(False, axis="x")
    counts = [cut.n_clusters for cut in exploration.cuts]
    first = exploration.cuts[0]
    if first.pair_f1 is not None or first.votes is not None:
        decides = "votes" if first.pair_f1 is None else "pair F1"
        right.plot(counts, [cut.score for cut in exploration.cuts], color=PALETTE[3], label=decides)
    right.plot(counts, [cut.stability for cut in exploration.cuts], color=PALETTE[0], label="stability")
    silhouettes = [np.nan if cut.silhouette is None else cut.silhouette for cut in exploration.cuts]
    right.plot(counts, silhouettes, color=PALETTE[1], linestyle="--", label="silhouette")
    low, high = exploration.recommended
    right.axvspan(low - 0.4, high + 0.4, color=PALETTE[2], alpha=0.2, linewidth=0, label="recommended")
    right.set_xlabel("number of clusters")
    if counts[-1] > 8 * counts[0] and counts[-1] > NUMBERED_LEAVES:
        right.set_xscale("log")
    right.legend(frameon=False, fontsize=8)
    return save_figure(figure, path)


def show_examples(axes: Axes, x_of_C: np.ndarray, groups_C: np.ndarray, examples: Mapping[int, Image.Image]) -> None:
    """Put the image of each cluster under the middle of its leaves, in rows that leave room for each of them."""
    middles = {cluster: float(x_of_C[groups_C == cluster].mean()) for cluster in examples}
    n_rows = -(-len(examples) // IMAGES_IN_A_ROW)
    for place, cluster in enumerate(sorted(middles, key=lambda one: middles[one])):
        pixels = np.asarray(examples[cluster])
        picture = OffsetImage(pixels, zoom=IMAGE_POINTS / max(pixels.shape[:2]), cmap="gray")
        below = -(30 + (IMAGE_POINTS + 2) * (place % n_rows))
        box = AnnotationBbox(
            picture,
            (middles[cluster], 0),
            (0, below),
            xycoords=axes.get_xaxis_transform(),
            boxcoords="offset points",
            frameon=False,
            pad=0,
            annotation_clip=False,
        )
        axes.add_artist(box)
    axes.set_xlabel("")


def places_of(tree: ClusterTree) -> tuple[np.ndarray, np.ndarray]:
    """(2C - 1,) where each node stands: leaves side by side, so that no lines cross, at the height that is lost."""
    n_leaves = tree.n_leaves
    x_of, height_of = np.zeros(2 * n_leaves - 1), np.zeros(2 * n_leaves - 1)
    height_of[n_leaves:] = np.cumsum(tree.lost)
    waiting, placed = [2 * n_leaves - 2], 0
    while waiting:
        node = waiting.pop()
        if node < n_leaves:
            x_of[node] = placed
            placed += 1
        else:
            waiting.extend(tree.merges[node - n_leaves][::-1])
    for made, (one, other) in enumerate(tree.merges, n_leaves):
        x_of[made] = (x_of[one] + x_of[other]) / 2
    return x_of, height_of
