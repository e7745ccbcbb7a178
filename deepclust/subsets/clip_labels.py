"""CLIP labels: relabeling down the tree, and how often CLIP is right (Adaloglou et al. 2024, 4.2 and B.5).

Image and text features come from one vision-language model; they are compared by cosine. Samples are handled node by
node: all samples at a node are compared with their choices in one product, in blocks, so that memory-mapped features of
any size work.

Shape suffixes: N samples, M nodes of the hierarchy, L lemmas, D feature dimensions, B samples of a block, J choices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deepclust.features.rows import Rows
from deepclust.runtime.errors import InputError
from deepclust.subsets.hierarchy import Hierarchy

EncodeText = Callable[[list[str]], np.ndarray]

# Appendix C.2: 7 of the 80 prompts of CLIP.
PROMPTS = (
    "itap of a {label}",
    "a bad photo of the {label}",
    "an origami {label}",
    "a photo of the large {label}",
    "a {label} in a {label} video game",
    "art of the {label}",
    "a photo of the small {label}",
)
# The trained CLIP multiplies cosines by this before its softmax.
LOGIT_SCALE = 100.0
BLOCK_ROWS = 16384
# A block's samples × choices stay below 128 MB.
BLOCK_COSINES = 1 << 25


def text_features(words: Sequence[str], encode_text: EncodeText, *, at_once: int = 256) -> np.ndarray:
    """(L, D) unit features of words: the mean over the prompts' unit features.

    Args:
        words: L words or phrases.
        encode_text: gives the model's text features of some sentences, one row each.
        at_once: words per call.
    """
    parts = []
    for start in range(0, len(words), at_once):
        part = words[start : start + at_once]
        sentences = [prompt.format(label=word) for word in part for prompt in PROMPTS]
        features = unit(np.asarray(encode_text(sentences), dtype=np.float32))
        parts.append(unit(features.reshape(len(part), len(PROMPTS), -1).mean(axis=1)))
    return np.concatenate(parts)


def choose_lemmas(
    features_ND: Rows, nodes_N: np.ndarray, lemmas: Sequence[Sequence[str]], encode_text: EncodeText
) -> tuple[list[str], np.ndarray]:
    """The word for each node that most images of its class are nearest to (appendix C.2).

    Args:
        features_ND: image features.
        nodes_N: the node of each image.
        lemmas: for each node its words; where votes tie, or a node has no image, the first counts.
        encode_text: as in `text_features`.

    Returns:
        M words and their (M, D) text features.
    """
    bounds = np.cumsum([0] + [len(words) for words in lemmas])
    text_LD = text_features([word for words in lemmas for word in words], encode_text)
    check_dims(features_ND, text_LD)
    chosen_M = bounds[:-1].copy()
    for node, ids in samples_by_node(nodes_N, len(lemmas)):
        low, high = bounds[node], bounds[node + 1]
        if high - low > 1:
            votes = np.bincount(nearest(features_ND, ids, text_LD[low:high]), minlength=high - low)
            chosen_M[node] = low + int(votes.argmax())
    words = [word for words in lemmas for word in words]
    return [words[place] for place in chosen_M], text_LD[chosen_M]


def relabel(
    features_ND: Rows,
    nodes_N: np.ndarray,
    hierarchy: Hierarchy,
    text_MD: np.ndarray,
    *,
    with_parent: bool,
) -> np.ndarray:
    """Move each sample down the tree, always to the choice whose text is nearest to its image.

    Args:
        features_ND: image features of the vision-language model.
        nodes_N: the node of each sample's label.
        hierarchy: of M nodes.
        text_MD: text features of the nodes.
        with_parent: False: leaf HZR, every sample ends at a leaf. True: p-HZR, the node it stands at is one of the
            choices, and a sample that prefers it stays.

    Returns:
        (N,) the node that each sample ends at.

    Raises:
        InputError: if features, text and hierarchy do not fit each other.
    """
    if len(text_MD) != len(hierarchy):
        raise InputError(f"there are text features of {len(text_MD)} nodes, but the hierarchy has {len(hierarchy)}")
    check_dims(features_ND, text_MD)
    if len(nodes_N) != features_ND.shape[0]:
        raise InputError(f"there are {len(nodes_N)} labels for {features_ND.shape[0]} rows of image features")
    text_MD = unit(np.asarray(text_MD, dtype=np.float32))
    current_N = np.array(nodes_N)
    waiting: dict[int, list[np.ndarray]] = {node: [ids] for node, ids in samples_by_node(nodes_N, len(hierarchy))}
    for node in top_down(hierarchy):
        below = hierarchy.children[node]
        if node not in waiting or len(below) == 0:
            continue
        ids = np.sort(np.concatenate(waiting.pop(node)))  # ascending: a file is read front to back
        choices_J = np.append(below, node) if with_parent else below
        current_N[ids] = choices_J[nearest(features_ND, ids, text_MD[choices_J])]
        for child in below:
            arrived = ids[current_N[ids] == child]
            if len(arrived):
                waiting.setdefault(int(child), []).append(arrived)
    return current_N


@dataclass(frozen=True)
class ClipLabels:
    """The labels that CLIP gives to labeled samples, which it was never trained on.

    Attributes:
        nodes_N: the node that is predicted.
        confidence_N: its softmax probability.
        accuracy: share of the samples whose prediction is their label.
    """

    nodes_N: np.ndarray
    confidence_N: np.ndarray
    accuracy: float


def classify_by_clip(
    features_ND: Rows,
    nodes_N: np.ndarray,
    hierarchy: Hierarchy,
    text_MD: np.ndarray,
    *,
    among: str = "all",
    logit_scale: float = LOGIT_SCALE,
) -> ClipLabels:
    """CLIP labels among all nodes, those of the label's depth, or the label and its siblings (appendix B.5).

    Args:
        features_ND, nodes_N, hierarchy, text_MD: as in `relabel`.
        among: `all`, `level`, or `siblings`; where a label has no sibling, its level (the paper's rule).
        logit_scale: cosines are multiplied by it before the softmax.

    Raises:
        InputError: if `among` is unknown, or features and text do not fit.
    """
    if among not in ("all", "level", "siblings"):
        raise InputError(f"among is '{among}': choose all, level or siblings")
    check_dims(features_ND, text_MD)
    text_MD = unit(np.asarray(text_MD, dtype=np.float32))
    predicted_N = np.empty(len(nodes_N), np.int64)
    confidence_N = np.empty(len(nodes_N), np.float32)
    for choices_J, ids in _choices(nodes_N, hierarchy, among):
        for rows, cosines_BJ in cosine_blocks(features_ND, ids, text_MD[choices_J]):
            best_B = cosines_BJ.argmax(axis=1)
            highest_B1 = cosines_BJ.max(axis=1, keepdims=True)
            predicted_N[rows] = choices_J[best_B]
            confidence_N[rows] = 1 / np.exp(logit_scale * (cosines_BJ - highest_B1)).sum(axis=1)
    return ClipLabels(predicted_N, confidence_N, float((predicted_N == nodes_N).mean()))


def _choices(nodes_N: np.ndarray, hierarchy: Hierarchy, among: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (nodes to choose among, samples that choose among them)."""
    if among == "all":
        yield np.arange(len(hierarchy)), np.arange(len(nodes_N))
        return
    levels_N = hierarchy.depths_M[nodes_N]
    if among == "siblings":
        parents_M = hierarchy.parents_M
        n_children_M = np.array([len(below) for below in hierarchy.children])
        has_sibling_M = (parents_M >= 0) & (n_children_M[parents_M] > 1)
        families_N = np.where(has_sibling_M[nodes_N], parents_M[nodes_N], len(hierarchy))
        for parent, ids in samples_by_node(families_N, len(hierarchy)):
            yield hierarchy.children[parent], ids
        levels_N = np.where(has_sibling_M[nodes_N], 0, levels_N)  # no node has depth 0
    for depth in np.unique(levels_N[levels_N > 0]):
        yield hierarchy.level(depth), np.flatnonzero(levels_N == depth)


def top_down(hierarchy: Hierarchy) -> Iterator[int]:
    """Every node after its parent."""
    level = np.flatnonzero(hierarchy.parents_M < 0)
    while len(level):
        yield from level.tolist()
        level = np.concatenate([hierarchy.children[node] for node in level])


def samples_by_node(nodes_N: np.ndarray, n_nodes: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (node, ascending sample ids) for every node that has samples."""
    order_N = np.argsort(nodes_N, kind="stable")
    bounds = np.searchsorted(nodes_N[order_N], np.arange(n_nodes + 1))
    for node in np.flatnonzero(np.diff(bounds)):
        yield int(node), order_N[bounds[node] : bounds[node + 1]]


def nearest(features_ND: Rows, ids: np.ndarray, text_JD: np.ndarray) -> np.ndarray:
    """For each of the samples the number of the nearest text."""
    return np.concatenate([cosines_BJ.argmax(axis=1) for _, cosines_BJ in cosine_blocks(features_ND, ids, text_JD)])


def cosine_blocks(features_ND: Rows, ids: np.ndarray, text_JD: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (sample ids, (B, J) cosines)."""
    rows_at_once = max(64, min(BLOCK_ROWS, BLOCK_COSINES // len(text_JD)))
    for start in range(0, len(ids), rows_at_once):
        rows = ids[start : start + rows_at_once]
        yield rows, unit(np.asarray(features_ND[rows], dtype=np.float32)) @ text_JD.T


def unit(rows_BD: np.ndarray) -> np.ndarray:
    """The rows at length 1; zero rows stay zero."""
    return rows_BD / np.maximum(np.linalg.norm(rows_BD, axis=1, keepdims=True), 1e-12)


def check_dims(features_ND: Rows, text_MD: np.ndarray) -> None:
    if features_ND.shape[1] != text_MD.shape[1]:
        raise InputError(
            f"image features have {features_ND.shape[1]} dimensions, text features {text_MD.shape[1]}: "
            "make both with one vision-language model"
        )
