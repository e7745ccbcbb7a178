"""What results show of themselves in notebooks is so: typical members, the table, the map, the page."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deepclust import TSP
from deepclust.clustering import Clustering
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.report.member_scores import member_scores
from deepclust.runtime.errors import InputError

WORDS = ["apple", "boat", "cloud", "dragon", "engine"]


@pytest.fixture(scope="module")
def fitted(planted) -> TSP:
    return TSP(5, max_epochs=5, n_heads=2, random_state=0).fit(np.asarray(planted.features))


@pytest.fixture
def texts(planted) -> list[str]:
    return [f"{WORDS[label]} number {row}" for row, label in enumerate(planted.labels)]


def test_the_members_shown_are_those_nearest_to_the_center(planted, texts):
    labels_N = np.asarray(planted.labels, np.int32)
    rows_ND = np.asarray(planted.features)
    shown = Clustering(labels_N, "kmeans").show(2, rows_ND, texts=texts, n=5)
    typical_N = np.where(labels_N == 2, member_scores(planted, labels_N).typical_N, -np.inf)
    np.testing.assert_allclose(typical_N[shown.rows], np.sort(typical_N)[::-1][:5], atol=1e-6)
    assert shown.told == [texts[row] for row in shown.rows]
    assert shown.title == f"cluster 2: cloud, number · {(labels_N == 2).sum()} texts · the 5 most typical"
    assert repr(shown).splitlines() == [shown.title, *(f"  {text}" for text in shown.told)]
    assert shown._repr_jpeg_() is None


def test_images_are_shown_as_thumbnails(planted, tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (300, 12, 12), np.uint8)
    clustering = Clustering(np.where(planted.labels == 4, -1, planted.labels).astype(np.int32), "hdbscan")
    shown = clustering.show(-1, planted.features, images=images, n=4)
    assert shown.title.startswith("in no cluster · 60 images")
    assert Image.open(io.BytesIO(shown._repr_jpeg_())).size == shown.sheet.size
    paths = []
    for row, image in enumerate(images):
        paths.append(tmp_path / f"{row}.png")
        Image.fromarray(image).save(paths[-1])
    again = clustering.show(-1, planted.features, images=paths, n=4)
    assert again.sheet.tobytes() == shown.sheet.tobytes()


def test_estimators_show_other_samples_than_those_they_were_fitted_on(fitted, planted, texts):
    rows_ND = np.asarray(planted.features)
    for part in (slice(None), slice(0, 150, 2)):
        frame = fitted.to_frame(rows_ND[part], texts=texts[part])
        assert frame["tsp_cluster"].tolist() == fitted.predict(rows_ND[part]).tolist()
        assert frame["text"].tolist() == texts[part]
        assert all(name.startswith(WORDS[label]) for name, label in zip(frame["tsp_name"], planted.labels[part]))
        np.testing.assert_allclose(frame["tsp_confidence"], fitted.predict_proba(rows_ND[part]).max(axis=1), atol=1e-6)


def test_missing_texts_are_empty(fitted, planted, texts):
    texts[0], texts[1] = None, float("nan")
    told = fitted.to_frame(np.asarray(planted.features), texts=iter(texts))["text"].tolist()
    assert told == ["", "", *texts[2:]]


def test_a_table_brings_its_own_texts_and_ids(tmp_path, planted, texts):
    frame = pd.DataFrame({"emb": list(np.asarray(planted.features)), "id": [f"#{row}" for row in range(300)]})
    labels_N = np.asarray(planted.labels, np.int32)
    frame.to_parquet(tmp_path / "ids.parquet")
    shown = Clustering(labels_N, "kmeans").show(0, load_features(tmp_path / "ids.parquet"), n=2)
    assert shown.told == [f"#{row}" for row in shown.rows]
    frame.assign(text=texts).to_parquet(tmp_path / "texts.parquet")
    features = load_features(tmp_path / "texts.parquet")
    assert Clustering(labels_N, "kmeans").show(0, features, n=2).told == [texts[row] for row in shown.rows]
    table = Clustering(labels_N, "kmeans").to_frame(features)
    assert table["id"].tolist() == frame["id"].tolist()
    # A frame of the embeddings alone is rows, too; without anything else row numbers are shown.
    assert Clustering(labels_N, "kmeans").show(0, frame[["emb"]], n=2).told == [f"row {row}" for row in shown.rows]


def test_the_map_is_by_cluster_and_beside_it_by_label(planted, texts):
    clustering = Clustering(np.asarray(planted.labels, np.int32), "kmeans")
    alone = clustering.plot_map(np.asarray(planted.features), texts=texts, kind="pca")
    (axes,) = alone.axes
    assert {text.get_text().split(",")[0] for text in axes.texts} == set(WORDS)
    assert len(clustering.plot_map(planted, kind="pca").axes) == 2
    assert alone._repr_png_().startswith(b"\x89PNG")


def test_the_page_is_that_of_a_run_without_the_command_for_edits(fitted, planted, texts, tmp_path):
    place = fitted.report(tmp_path / "page.html", np.asarray(planted.features), texts=texts, kind="pca")
    page = place.read_text(encoding="utf-8")
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.S)
    data = json.loads(content)
    assert data["run"] is None
    assert data["texts"] == texts
    assert [one["title"] for one in data["methods"]] == ["TSP"]
    assert "2 heads (small classifiers, trained each on its own) agree" in page
    assert 'id="command"' not in page


def test_what_does_not_fit_is_refused(fitted, planted, texts):
    rows_ND = np.asarray(planted.features)
    clustering = Clustering(np.asarray(planted.labels, np.int32), "kmeans")
    with pytest.raises(InputError, match="10 rows for 300 labels: give the samples that were clustered"):
        clustering.plot_map(rows_ND[:10])
    with pytest.raises(InputError, match="cluster 7 has no members: choose one of 0, 1, 2, 3, 4"):
        clustering.show(7, rows_ND)
    with pytest.raises(InputError, match="2 texts for 300 samples: give one per sample"):
        fitted.show(0, rows_ND, texts=texts[:2])
    with pytest.raises(InputError, match="3 images for 300 samples"):
        clustering.report("never.html", rows_ND, images=["a", "b", "c"])
    for pixels in (np.zeros((300, 4, 4), np.float32), [np.zeros((4, 4), np.float32)] * 300):
        with pytest.raises(InputError, match=r"images of float32 and shape \(4, 4\): give uint8"):
            clustering.show(0, rows_ND, images=pixels)
    with pytest.raises(InputError, match=r"300 of 300 images are no files, the first of them gone\.png"):
        clustering.show(0, rows_ND, images=["gone.png"] * 300)
    with pytest.raises(InputError, match="images hold values of type Image: give paths"):
        clustering.show(0, rows_ND, images=[Image.new("L", (4, 4))] * 300)
    with pytest.raises(InputError, match="texts is a single text"):
        fitted.to_frame(rows_ND, texts="x" * 300)
    with pytest.raises(InputError, match="kind is 'pacmap': choose one of auto, umap, pca"):
        clustering.plot_map(rows_ND, kind="pacmap")
    with pytest.raises(InputError, match="n is 0"):
        clustering.show(0, rows_ND, n=0)
    with pytest.raises(InputError, match="NaN"):
        clustering.show(0, np.full((300, 2), np.nan))
    assert clustering.of_samples(FeatureSet.from_arrays(rows_ND))[1].dim == 16
