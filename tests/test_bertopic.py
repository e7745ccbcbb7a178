"""BERTopic takes our estimators in place of HDBSCAN."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust import TSP


def test_topics_are_the_clusters_of_the_heads_for_old_and_new_texts(planted):
    bertopic = pytest.importorskip("bertopic")
    reduction = pytest.importorskip("bertopic.dimensionality").BaseDimensionalityReduction()
    words = ["apple", "boat", "cloud", "dragon", "engine"]
    texts = [f"{words[label]} {words[label]} story" for label in planted.labels]
    heads = TSP(n_clusters=5, max_epochs=5, random_state=0, device="cpu")
    topics = bertopic.BERTopic(hdbscan_model=heads, umap_model=reduction, embedding_model=None)
    found, _ = topics.fit_transform(texts, np.asarray(planted.features))
    again, _ = topics.transform(texts, np.asarray(planted.features))
    assert list(found) == list(again)
    assert -1 not in found
    # Each topic is called by the word that its texts have.
    for topic in set(found):
        own = {texts[row].split()[0] for row in np.flatnonzero(np.array(found) == topic)}
        assert len(own) == 1
        assert own <= {word for word, _ in topics.get_topic(topic)}
