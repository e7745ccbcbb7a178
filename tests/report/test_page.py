"""The page of a run: what it says of samples is so, and it holds all that it needs."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors import Neighbors
from deepclust.report.cluster_names import names_by_label, names_by_words
from deepclust.report.health import duplicate_groups, findings
from deepclust.report.map_layout import map_layout, within_square
from deepclust.report.member_scores import few_numbers, member_scores
from deepclust.report.page import Page, Shown, packed, pictured, write_page
from deepclust.report.sprites import PER_SHEET, make_sprites


def test_member_scores_are_cosines_with_the_centers(planted):
    labels_N = np.asarray(planted.labels).copy()
    labels_N[:7] = -1
    scores = member_scores(planted, labels_N)
    unit_ND = planted.features - planted.features.mean(axis=0)
    unit_ND = unit_ND / np.linalg.norm(unit_ND, axis=1, keepdims=True)
    centers_CD = np.stack([unit_ND[labels_N == cluster].mean(axis=0) for cluster in range(5)])
    cosines_NC = unit_ND @ (centers_CD / np.linalg.norm(centers_CD, axis=1, keepdims=True)).T
    for row in range(0, 300, 11):
        order = np.argsort(-cosines_NC[row])
        own = labels_N[row] if labels_N[row] >= 0 else order[0]
        other = next(cluster for cluster in order if cluster != own)
        assert scores.typical_N[row] == pytest.approx(cosines_NC[row, own], abs=1e-5)
        assert scores.second_N[row] == (other if labels_N[row] >= 0 else own)
        wanted = cosines_NC[row, own] - cosines_NC[row, other] if labels_N[row] >= 0 else 0
        assert scores.margin_N[row] == pytest.approx(wanted, abs=1e-5)
    assert (scores.nearest_C != scores.ids_C).all()


def test_few_numbers_keep_the_angles_between_samples(planted):
    few_NP, length = few_numbers(planted)
    assert np.median(np.linalg.norm(few_NP, axis=1)) / length == pytest.approx(1, abs=0.02)
    few_NP = few_NP.astype(np.float64)
    assert few_NP.shape == (300, 16)  # planted in so many dimensions
    unit_ND = planted.features - planted.features.mean(axis=0)
    unit_ND = unit_ND / np.linalg.norm(unit_ND, axis=1, keepdims=True)
    few_NP /= np.linalg.norm(few_NP, axis=1, keepdims=True)
    np.testing.assert_allclose(few_NP @ few_NP.T, unit_ND @ unit_ND.T, atol=0.05)
    wide = FeatureSet.from_arrays(np.random.default_rng(0).normal(size=(50, 100)).astype(np.float32))
    assert few_numbers(wide)[0].shape == (50, 32)
    assert not few_numbers(FeatureSet.from_arrays(np.ones((4, 3), np.float32)))[0].any()


def test_a_far_cluster_does_not_squeeze_the_map():
    rng = np.random.default_rng(0)
    places_N2 = np.concatenate([rng.normal(size=(990, 2)), rng.normal(size=(10, 2)) + 1000])
    within_N2 = within_square(places_N2)
    assert within_N2.min() >= 0
    assert within_N2.max() <= 1 + 1e-6
    assert np.ptp(within_N2[:980], axis=0).min() > 0.3


@pytest.mark.parametrize(("n_samples", "dim"), [(1, 4), (2, 2), (40, 1), (40, 3)])
def test_any_features_have_a_map(n_samples, dim):
    features = FeatureSet.from_arrays(np.random.default_rng(0).normal(size=(n_samples, dim)).astype(np.float32))
    places_N2, _ = map_layout(features, "pca")
    assert places_N2.shape == (n_samples, 2)
    assert np.isfinite(places_N2).all()


def test_names_say_what_a_cluster_has_and_others_have_not():
    texts = [
        "the red wine tastes",
        "red wine glass",
        "a fast red car",
        "the car engine",
        "engine oil of a car",
        "12 34",
    ]
    named = names_by_words(texts, np.array([0, 0, 1, 1, 1, -1]))
    assert named[0].startswith("wine")
    assert named[1].startswith(("car", "engine"))
    assert -1 not in named
    assert names_by_words(["1", "2"], np.array([0, 1])) == {}
    labels, clusters = np.array([0, 0, 1, 0, 0, 1, 2, 1]), np.array([5, 5, 5, 7, 7, 8, 8, 9])
    assert names_by_label(labels, clusters, ["cat", "dog", "owl"]) == {5: "cat", 7: "cat 2", 8: "dog", 9: "dog 2"}


def test_near_duplicates_are_joined_by_chains():
    neighbors = Neighbors(
        np.array([[1, 2], [0, 2], [1, 0], [4, 0], [3, 0]]),
        np.array([[0.995, 0.5], [0.995, 0.992], [0.992, 0.5], [0.9, 0.1], [0.9, 0.1]], np.float32),
    )
    assert [group.tolist() for group in duplicate_groups(neighbors)] == [[0, 1, 2]]


def test_trouble_is_told_in_words():
    labels_N = np.array([0] * 90 + [1] * 4 + [-1] * 6, dtype=np.int32)
    found = {one.title: one for one in findings(Clustering(labels_N, "tsp", 10), {"silhouette": 0.01})}
    assert (found["Clusters"].level, found["Clusters"].text[:16]) == ("poor", "2 of the 10 clus")
    assert (found["Separation"].level, found["Noise"].level) == ("poor", "good")
    assert "6 samples (6 %)" in found["Noise"].text
    assert "Against your labels" not in found
    told = findings(Clustering(labels_N, "tsp", 10), {"silhouette": 0.5, "acc": 0.5}, n_duplicates=9, noun="images")
    words = " ".join(one.text for one in told)
    assert ("images" in words, "samples" in words) == (True, False)
    sure = findings(Clustering(labels_N, "tsp", 2), {}, agreement_N=np.full(100, 0.95), n_heads=4)
    assert (sure[0].title, sure[0].level) == ("Stability", "good")
    assert "4 heads" in sure[0].text
    alone = findings(Clustering(labels_N, "consensus_heads", 2), {}, agreement_N=np.full(100, 0.8), n_heads=1)
    assert (alone[0].level, alone[0].text[:36]) == ("fair", "Clusterings of other neighbor graphs")


def page_of(features: FeatureSet, labels_N: np.ndarray, **more) -> Page:
    shown = Shown(Clustering(labels_N.astype(np.int32), "kmeans"), "k-means")
    return Page("rows", ["a fact"], "because", features, [shown], "/a run", **more)


def test_the_page_holds_its_arrays_and_asks_nobody(tmp_path, planted):
    evil = ["</script><img src=x>", 'a"b', "\udce9.png"]  # a file name may hold bytes that are no UTF-8
    features = FeatureSet.from_arrays(planted.features, paths=[*evil, *map(str, range(297))])
    images = np.full((300, 8, 8), 7, np.uint8)
    place = write_page(tmp_path / "p.html", page_of(features, planted.labels, images=images), map_kind="pca")
    text = place.read_text(encoding="utf-8")
    outside = re.sub(r"<script.*?</script>|<meta.*?>", "", text, flags=re.S)
    assert re.findall(r"(?:src|href)=[\"'](?!data:|#)|url\((?!data:)|@import", outside) == []
    assert "http" not in re.sub(r"http-equiv", "", text)
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.S)
    data = json.loads(content)
    assert data["paths"][:3] == evil
    decoded = np.frombuffer(base64.b64decode(data["methods"][0]["cluster"]), "<i4")
    np.testing.assert_array_equal(decoded, planted.labels)
    assert np.frombuffer(base64.b64decode(data["xy"]), "<u2").shape == (600,)
    assert data["sprites"]["sheets"] == text.count("data:image/webp") == -(-300 // PER_SHEET)


def test_numbers_are_packed_within_their_type():
    assert packed(np.array([-1.0, 0.6, 300.0]), "u1") == base64.b64encode(bytes([0, 1, 255])).decode()
    assert packed(None, "u1") is None


def test_where_not_all_have_a_thumbnail_every_cluster_has_some(monkeypatch, planted):
    monkeypatch.setattr("deepclust.report.page.most_thumbnails", lambda: 40)
    page = page_of(planted, np.asarray(planted.labels), outlier_N=np.arange(300.0), duplicates=[np.array([1, 2])])
    scores = [member_scores(planted, planted.labels)]
    rows = pictured(page, scores)
    assert len(rows) == len(set(rows.tolist())) == 40
    assert {1, 2, 299} <= set(rows.tolist())
    for cluster in range(5):
        members = np.flatnonzero(planted.labels == cluster)
        assert members[scores[0].typical_N[members].argmax()] in rows


def test_thumbnails_have_slots_in_the_order_of_their_rows():
    sprites = make_sprites(np.zeros((600, 8, 8), np.uint8), np.arange(0, 600, 2))
    assert sprites.side == 8
    assert len(sprites.sheets) == 2
    np.testing.assert_array_equal(sprites.slot_N[:4], [0, -1, 1, -1])
