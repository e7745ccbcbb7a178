"""Names of clusters, by the words that a CLIP model's text tower finds near their images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from deepclust.cli import report
from deepclust.clustering import Clustering
from deepclust.extraction import encoders
from deepclust.features.feature_set import FeatureSet
from deepclust.report.cluster_names import names_by_features
from deepclust.runtime.errors import InputError

WORDS = ["photograph", "cat", "dog", "car"]
# All images are near to "photograph"; each class has a direction of its own beside it.
TEXT = np.eye(4, 6, dtype=np.float32)


def images(classes: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (3 * TEXT[0] + TEXT[classes] + 0.1 * rng.standard_normal((len(classes), 6))).astype(np.float32)


CLASSES = np.repeat([1, 2, 3], 20)


def test_a_cluster_is_named_by_what_sets_it_apart():
    clusters_N = np.where(np.arange(60) % 20 == 0, -1, 3 - CLASSES)
    lengths_N1 = np.linspace(0.1, 10, 60, dtype=np.float32)[:, None]
    named = names_by_features(lengths_N1 * images(CLASSES), clusters_N, WORDS, TEXT)
    assert named == {2: "cat", 1: "dog", 0: "car"}
    assert names_by_features(images(CLASSES), CLASSES // 4, WORDS, TEXT) == {0: "photograph"}
    halves = np.where(CLASSES == 1, np.arange(60) % 2, 2)
    named = names_by_features(images(CLASSES), halves, WORDS, TEXT)
    assert (named[0], named[1]) == ("cat", "cat 2")


def test_dimensions_of_another_model_are_refused():
    with pytest.raises(InputError, match="6 dimensions, text features 5"):
        names_by_features(images(CLASSES), CLASSES, WORDS, TEXT[:, :5])


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A run on features by a model whose text tower knows four words."""

    def tower(texts: list[str]) -> np.ndarray:
        return np.stack([TEXT[next(place for place, word in enumerate(WORDS) if word in text)] for text in texts])

    described = {"encoder": {"name": "clip_vitb16"}, "weights": {"sha256": "ours"}}
    encoder = SimpleNamespace(encode_text=tower, describe=lambda: described)
    monkeypatch.setattr(encoders, "load_encoder", lambda name: encoder)
    (tmp_path / "words.txt").write_text("cat\n\n dog\ncar\n")
    features = FeatureSet(images(CLASSES), manifest=described)
    clusterings = {"temi": Clustering(CLASSES - 1, "temi", 3, settings={"names": {"1": "my dogs"}})}
    return SimpleNamespace(dataset=SimpleNamespace(train=features), clusterings=clusterings)


def test_a_persons_names_stay(run, tmp_path):
    report.name_by_words(run, tmp_path / "words.txt")
    assert run.clusterings["temi"].settings["names"] == {0: "cat", 1: "my dogs", 2: "car"}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({}, "do not say which encoder"),
        ({"encoder": {"name": "clip_vitb16"}, "weights": {"sha256": "others"}}, "by other weights of clip_vitb16"),
    ],
)
def test_features_that_are_not_of_the_model_are_refused(run, manifest, message, tmp_path):
    run.dataset.train = FeatureSet(images(CLASSES), manifest=manifest)
    with pytest.raises(InputError, match=message):
        report.name_by_words(run, tmp_path / "words.txt")


def test_a_file_without_words_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="no such file: name one with a line per word or phrase"):
        report.name_by_words(run, tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(InputError, match="holds no word"):
        report.name_by_words(run, tmp_path / "empty.txt")
