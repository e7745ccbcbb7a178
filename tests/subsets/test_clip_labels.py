"""Relabeling and CLIP labels on planted features, whose right answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepclust.cli.relabel import RELABELING_CLIP
from deepclust.extraction.encoder_catalog import ENCODERS
from deepclust.features.rows import RowView
from deepclust.runtime.errors import InputError
from deepclust.subsets.clip_labels import PROMPTS, choose_lemmas, classify_by_clip, relabel, text_features, unit
from deepclust.subsets.hierarchy import hierarchy_of_parents

# 0 > 1 > 2, 3;  0 > 4;  5 (alone);  6 > 7 (an only child)
TREE = hierarchy_of_parents("abcdefgh", [-1, 0, 1, 1, 0, -1, -1, 6], "test")
TEXT = np.eye(8, dtype=np.float32)


def images(shown, noise=0.05, seed=0):
    """Images whose features lie near the text of what they show."""
    rng = np.random.default_rng(seed)
    return (TEXT[shown] + noise * rng.standard_normal((len(shown), 8))).astype(np.float32)


def test_the_papers_recipes_take_openclips_vit_bigg():
    # Adaloglou et al. 2024, sections 4.2 and 4.3: OpenCLIP ViT-G; ViT-g is another model.
    assert ENCODERS[RELABELING_CLIP].model == "ViT-bigG-14"
    page = (Path(__file__).parents[2] / "docs" / "imagenet21k.md").read_text(encoding="utf-8")
    assert RELABELING_CLIP in page
    assert "openclip_vitg14" not in page


def test_leaf_relabelling_finds_the_leaf_that_an_image_shows_by_way_of_its_ancestors():
    # Text of an inner node lies among its children's, as a class lies among its kinds.
    text = TEXT.copy()
    text[1], text[0] = TEXT[2] + TEXT[3], TEXT[2] + TEXT[3] + TEXT[4]
    shown = np.array([2, 3, 4, 2, 3, 5, 7, 7])
    labels = np.array([0, 0, 0, 1, 1, 5, 6, 7])
    found = relabel(images(shown), labels, TREE, text, with_parent=False)
    assert found.tolist() == shown.tolist()


def test_with_the_parent_among_the_choices_an_image_stays_where_it_fits():
    shown = np.array([0, 1, 2, 0, 6, 2])
    labels = np.array([0, 0, 1, 0, 6, 2])
    assert relabel(images(shown), labels, TREE, TEXT, with_parent=True).tolist() == [0, 1, 2, 0, 6, 2]
    # Without it, the same images have to go on to some leaf.
    leaves = relabel(images(shown), labels, TREE, TEXT, with_parent=False)
    assert TREE.leaves_M[leaves].all()


def test_a_label_never_leaves_its_subtree_and_the_order_of_samples_does_not_matter():
    rng = np.random.default_rng(1)
    features, labels = rng.standard_normal((300, 8)).astype(np.float32), rng.integers(0, 8, 300)
    found = relabel(features, labels, TREE, TEXT, with_parent=False)
    for new, old in zip(found, labels):
        assert new == old or old in TREE.ancestors[new]
    order = rng.permutation(300)
    assert (relabel(features[order], labels[order], TREE, TEXT, with_parent=False) == found[order]).all()


def test_rows_are_read_through_a_view_as_from_a_matrix():
    rng = np.random.default_rng(2)
    features, labels = rng.standard_normal((100, 8)).astype(np.float16), rng.integers(0, 8, 50)
    ids = np.arange(0, 100, 2)
    ours = relabel(RowView(features, ids), labels, TREE, TEXT, with_parent=True)
    assert (ours == relabel(features[ids], labels, TREE, TEXT, with_parent=True)).all()


def test_clip_chooses_among_all_the_level_or_the_siblings():
    # Label 2 looks most like 5, then like 4, then like 3, then like itself.
    odd_one = 4 * TEXT[5] + 3 * TEXT[4] + 2 * TEXT[3] + 1.5 * TEXT[2]
    rows, labels = np.stack([odd_one]), np.array([2])
    assert classify_by_clip(rows, labels, TREE, TEXT).nodes_N.tolist() == [5]
    assert classify_by_clip(rows, labels, TREE, TEXT, among="level").nodes_N.tolist() == [3]
    assert classify_by_clip(rows, labels, TREE, TEXT, among="siblings").nodes_N.tolist() == [3]
    # Level 2 holds 1, 4 and 7; the siblings of 1 are 1 and 4; 7 is an only child and takes its level.
    near = 3 * TEXT[7] + 2 * TEXT[4] + TEXT[1]
    for among, expected in (("all", 7), ("level", 7), ("siblings", 4)):
        assert classify_by_clip(near[None], np.array([1]), TREE, TEXT, among=among).nodes_N.tolist() == [expected]
    assert classify_by_clip(
        (4 * TEXT[4] + TEXT[7])[None], np.array([7]), TREE, TEXT, among="siblings"
    ).nodes_N.tolist() == [4]


def test_clips_confidence_is_the_softmax_of_scaled_cosines():
    rows = images(np.arange(8), noise=0.4)
    found = classify_by_clip(rows, np.arange(8), TREE, TEXT, logit_scale=7.0)
    logits = 7.0 * unit(rows) @ TEXT.T
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.confidence_N, probabilities.max(axis=1), rtol=1e-5)
    assert found.accuracy == (probabilities.argmax(axis=1) == np.arange(8)).mean()


def encode(sentences):
    """A text tower that sees words: each known word is a direction, prompts are small noise."""
    words = {"artefact": 0, "artifact": 1, "person": 2, "soul": 3}
    rows = np.zeros((len(sentences), 8))
    for row, sentence in zip(rows, sentences):
        for word, place in words.items():
            row[place] += word in sentence
        row[7] = 0.1 * (len(sentence) % 5)
    return rows


def test_the_lemma_of_a_class_is_the_one_most_of_its_images_are_nearest_to():
    lemmas = (("artifact", "artefact"), ("person", "soul"), ("soul",))
    # Class 0: two of three images look like "artefact". Class 1 has none: its first lemma. Class 2 has one lemma.
    words, text = choose_lemmas(TEXT[[0, 0, 1, 2]], np.array([0, 0, 0, 2]), lemmas, encode)
    assert words == ["artefact", "person", "soul"]
    np.testing.assert_allclose(text, text_features(words, encode), rtol=1e-6)


def test_a_words_feature_is_the_direction_of_the_mean_over_the_seven_prompts():
    assert len(PROMPTS) == 7
    seen = []

    def recorded(sentences):
        seen.extend(sentences)
        return encode(sentences)

    text = text_features(["person"], recorded)
    assert "itap of a person" in seen
    assert "a person in a person video game" in seen
    expected = unit(encode(seen)).mean(axis=0, keepdims=True)
    np.testing.assert_allclose(text, unit(expected), rtol=1e-6)


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="image features have 5 dimensions, text features 8"):
        relabel(np.ones((2, 5)), np.zeros(2, int), TREE, TEXT, with_parent=True)
    with pytest.raises(InputError, match="text features of 7 nodes, but the hierarchy has 8"):
        relabel(np.ones((2, 8)), np.zeros(2, int), TREE, TEXT[:7], with_parent=True)
    with pytest.raises(InputError, match="among is 'cousins'"):
        classify_by_clip(np.ones((1, 8)), np.zeros(1, int), TREE, TEXT, among="cousins")
