"""The page in a real browser: it renders without errors and without a network, and what a person does there counts.

Needs Playwright's Python package and a Chromium or Chrome of the machine; `DEEPCLUST_BROWSER` names another one.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.report.member_scores import member_scores
from deepclust.report.page import Page, Shown, write_page
from deepclust.report.page_parts import Found, assembled_page
from deepclust.runs.editing import edited_clustering, read_edits

playwright = pytest.importorskip("playwright.sync_api", reason="no browser test: playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("DEEPCLUST_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser test: none of chromium and google-chrome is there")
N_IMAGES, N_CLUSTERS = 120, 4


def clusterings() -> list[Clustering]:
    labels_N = np.arange(N_IMAGES, dtype=np.int32) % N_CLUSTERS
    rough_N = np.where(np.arange(N_IMAGES) < 10, -1, labels_N // 2).astype(np.int32)
    probs = np.linspace(0.3, 1, N_IMAGES, dtype=np.float32)[:, None]
    heads = Clustering(labels_N, "tsp", N_CLUSTERS, labels_N[:, None], probs)
    return [heads, Clustering(rough_N, "hdbscan")]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    """Images of four colors, and features that tell them apart."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    colors = ((200, 40, 40), (40, 160, 60), (50, 80, 200), (240, 240, 240))
    for index in range(N_IMAGES):
        Image.new("RGB", (40, 24 + index % 30), colors[index % N_CLUSTERS]).save(folder / f"img {index:03}.png")
    rows = np.eye(8, dtype=np.float32)[np.arange(N_IMAGES) % N_CLUSTERS] + 0.1 * rng.normal(size=(N_IMAGES, 8))
    paths = [f"img {index:03}.png" for index in range(N_IMAGES)]
    source = {"kind": "files", "root": str(folder)}
    return FeatureSet.from_arrays(rows.astype(np.float32), paths=paths, manifest={"source": source})


@pytest.fixture(scope="module")
def page_file(features: FeatureSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shown = [
        Shown(one, title, agreement_N=agreement)
        for one, title, agreement in zip(clusterings(), ("TSP", "HDBSCAN"), (np.linspace(0, 1, N_IMAGES), None))
    ]
    page = Page(
        "120 images from photos", ["facts"], "why", features, shown, "/runs/a run", "images", features.files,
        duplicates=[np.array([0, 4]), np.array([1, 5, 9])], outlier_N=np.arange(float(N_IMAGES)),
    )  # fmt: skip
    return write_page(tmp_path_factory.mktemp("page") / "report.html", page, map_kind="pca")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: Any, page_file: Path) -> Iterator[Any]:
    """A tab with the page; an error on the console fails the test, as does a request for anything outside the file."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": 1300, "height": 900}, accept_downloads=True)
    tab = context.new_page()
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url))
    tab.goto(page_file.as_uri())
    yield tab
    context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def digits_page(digits: FeatureSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs of digits, each pair a cluster, and a third cluster of equal samples."""
    assert digits.labels is not None
    rows = np.flatnonzero(np.isin(digits.labels, [0, 1, 6, 7]))
    pairs_N = np.isin(digits.labels[rows], [6, 7]).astype(np.int32)
    features = np.concatenate([digits.features[rows], np.full((5, 64), 0.5, np.float32)])
    labels_N = np.concatenate([pairs_N, np.full(5, 2, np.int32)])
    page = Page(
        "digits", [], "", FeatureSet.from_arrays(features), [Shown(Clustering(labels_N, "kmeans"), "k-means")], "/r"
    )
    return write_page(tmp_path_factory.mktemp("digits") / "report.html", page, map_kind="pca")


def place_of(tab: Any, sample: int) -> tuple[float, float]:
    """Where a sample's dot is on screen."""
    tab.locator("#scatter").scroll_into_view_if_needed()
    box = tab.locator("#scatter").bounding_box()
    x, y = tab.evaluate(f"scatter.placeOf({sample})")
    return box["x"] + x, box["y"] + y


def test_the_page_shows_the_clusters_at_every_width_and_on_paper(tab):
    for width, height in ((390, 840), (900, 1100), (1440, 900)):
        tab.set_viewport_size({"width": width, "height": height})
        assert tab.locator(".card").count() == N_CLUSTERS
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        tab.wait_for_function("scatter.canvas.width > 0")
        drawn = (
            "[...scatter.canvas.getContext('2d').getImageData(0, 0, scatter.canvas.width, scatter.canvas.height).data]"
        )
        tab.wait_for_function(f"{drawn}.some((value) => value > 0)")
    assert tab.locator("#headline").inner_text() == "4 clusters by TSP"
    tab.emulate_media(media="print", color_scheme="dark")
    assert not tab.locator("#gallery").is_visible()
    assert tab.locator(".card").first.is_visible()
    # Every picture has words for those who do not see it, every control a name.
    unnamed = "b => !(b.getAttribute('aria-label') || b.textContent || b.labels?.length)"
    assert tab.evaluate(f"[...document.querySelectorAll('button,input,select')].filter({unnamed}).length") == 0


def test_hover_click_lasso_and_lists_show_samples(tab):
    tab.mouse.move(*place_of(tab, 7))
    tab.wait_for_function("!document.querySelector('#tip').hidden")
    assert "img " in tab.locator("#tip").inner_text()
    tab.mouse.click(*place_of(tab, 7))
    assert tab.locator("#gallery-title").inner_text() == "Cluster 3"
    assert tab.locator("#items .thumb").count() == N_IMAGES // N_CLUSTERS
    tab.click("#lasso")
    box = tab.locator("#scatter").bounding_box()
    corners = [(2, 2), (box["width"] - 2, 2), (box["width"] - 2, box["height"] - 2), (2, box["height"] - 2)]
    tab.mouse.move(box["x"] + 2, box["y"] + 2)
    tab.mouse.down()
    for x, y in corners:
        tab.mouse.move(box["x"] + x, box["y"] + y, steps=3)
    tab.mouse.up()
    assert tab.locator("#gallery-title").inner_text() == "Lasso"
    assert tab.locator("#gallery-note").inner_text().startswith("120 images")
    assert tab.locator("#items .thumb").count() == 60
    tab.click("#next")
    assert tab.locator("#page-number").inner_text() == "Page 2 of 2"
    tab.click("text=Near duplicates")
    assert tab.locator("#items .group").count() == 2
    tab.click("text=Like no other")
    assert tab.locator("#items .thumb").first.get_attribute("data-sample") == str(N_IMAGES - 1)
    tab.fill("#search", "img 01")
    assert tab.locator("#items .thumb").count() == 10
    assert tab.locator("#confusion td button").count() == 8
    tab.select_option("#method", "1")
    assert tab.locator("#headline").inner_text() == "2 clusters by HDBSCAN; 10 images in no cluster"


def test_changes_made_with_the_keyboard_give_the_same_counts_in_edit(tab, tmp_path):
    name = tab.locator('.card[data-cluster="2"] input[type=text]')
    name.focus()
    tab.keyboard.type("blue things")
    tab.keyboard.press("Enter")
    for cluster in (0, 2):
        tab.locator(f'.card[data-cluster="{cluster}"] input[type=checkbox]').focus()
        tab.keyboard.press("Space")
    tab.locator("#merge").focus()
    tab.keyboard.press("Enter")
    assert tab.locator("#gallery-title").inner_text() == "blue things"
    # Two of them into a cluster of their own, and a step too many, which is taken back.
    tab.locator("#items .thumb").nth(0).click()
    tab.locator("#items .thumb").nth(3).click()
    ticked = tab.locator("#items .thumb").nth(0)
    assert "image" in ticked.evaluate("thumb => getComputedStyle(thumb).backgroundImage")  # its picture stays
    tab.select_option("#move", "new")
    assert tab.locator("#gallery-title").inner_text() == "Cluster 4"
    tab.click("#mark")
    tab.locator('.card[data-cluster="1"] input[type=text]').fill("wrong")
    tab.keyboard.press("Enter")
    tab.click("#undo")
    shown = {int(one): size for one, size in tab.evaluate("app.edits.clusters().map(({id, size}) => [id, size])")}
    with tab.expect_download() as download:
        tab.locator("#bar .download").click()
    download.value.save_as(tmp_path / "edits.json")
    edited = edited_clustering(read_edits(tmp_path / "edits.json"), dict(zip("ab", clusterings())), "edits.json")
    assert Counter(edited.clustering.labels.tolist()) == shown == {2: 58, 1: 30, 3: 30, 4: 2}
    assert edited.names == {2: "blue things"}
    assert len(edited.marked) == 2
    # The page remembers them when it is opened again.
    tab.reload()
    assert tab.locator("#bar-text").inner_text() == "4 changes"


def test_a_split_finds_the_two_kinds_that_a_cluster_mixes(tab, digits_page, digits, tmp_path):
    tab.goto(digits_page.as_uri())
    truth = digits.labels[np.isin(digits.labels, [0, 1, 6, 7])]
    tab.click('.card[data-cluster="1"] button:text("Split in two")')
    assert tab.locator("#items .group").count() == 2
    assert tab.locator("#items .thumb").count() == 8
    for part in tab.evaluate("[1, 3].map((id) => app.edits.members(id))"):
        shares = np.bincount(truth[part], minlength=10)[[6, 7]] / len(part)
        assert shares.max() > 0.97
    # The part that is shown may be named, merged and split like any other; a split is taken back as a whole.
    tab.locator("#items .group button").nth(1).click()
    tab.fill("#rename", "sevens")
    tab.keyboard.press("Enter")
    assert tab.locator("#gallery-title").inner_text() == "sevens"
    tab.click("#split")
    assert tab.locator("#headline").inner_text() == "5 clusters by k-means"
    tab.click("#undo")
    assert tab.locator("#gallery-title").inner_text() == "sevens"
    tab.locator('.card[data-cluster="2"] button:text("Split in two")').click()
    assert "nothing to split" in tab.locator("#gallery-note").inner_text()
    shown = tab.evaluate("Array.from(app.edits.labels)")
    with tab.expect_download() as download:
        tab.locator("#bar .download").click()
    assert download.value.suggested_filename in tab.locator("#command").inner_text()
    download.value.save_as(tmp_path / "edits.json")
    found = Clustering(np.concatenate([np.isin(truth, [6, 7]), np.full(5, 2)]).astype(np.int32), "kmeans")
    edited = edited_clustering(read_edits(tmp_path / "edits.json"), {"kmeans": found}, "edits.json")
    assert edited.clustering.labels.tolist() == shown
    assert edited.names == {3: "sevens"}


def test_members_of_a_changed_cluster_are_measured_again(tab, digits_page, digits):
    """In the page by a few numbers of each, as `deepclust edit` will by all."""
    tab.goto(digits_page.as_uri())
    rows = np.flatnonzero(np.isin(digits.labels, [0, 1, 6, 7]))
    features = FeatureSet.from_arrays(np.concatenate([digits.features[rows], np.full((5, 64), 0.5, np.float32)]))
    before = tab.evaluate("[Array.from(app.edits.scores.typical), Array.from(app.edits.scores.margin)]")
    moved = tab.evaluate("app.edits.members(0).slice(0, 40)")
    tab.evaluate("(samples) => app.change({ step: 'move', samples, to: 7 })", moved)
    tab.evaluate("app.change({ step: 'merge', ids: [0, 1], into: 1 })")
    scores = member_scores(features, np.array(tab.evaluate("Array.from(app.edits.labels)")))
    typical, margin = tab.evaluate("[Array.from(app.edits.scores.typical), Array.from(app.edits.scores.margin)]")
    np.testing.assert_allclose(typical, scores.typical_N, atol=0.06)
    np.testing.assert_allclose(margin, scores.margin_N, atol=0.06)
    assert np.abs(np.array(before[0]) - scores.typical_N).max() > 0.3
    nearest = tab.evaluate("app.edits.clusters().map(({ id }) => [id, app.edits.scores.nearest[id]])")
    assert dict(map(tuple, nearest)) == dict(zip(scores.ids_C.tolist(), scores.nearest_C.tolist()))
    tab.evaluate("app.undo()")
    tab.evaluate("app.undo()")
    assert tab.evaluate("[Array.from(app.edits.scores.typical), Array.from(app.edits.scores.margin)]") == before


def test_the_most_different_members_are_far_from_each_other_and_from_the_typical_ones(tab, digits_page):
    tab.goto(digits_page.as_uri())
    apart = """(samples) => Math.min(...samples.flatMap((i, a) => samples.slice(a + 1).map((j) =>
        distance(i, Array.from(VECTORS.subarray(j * DIM, (j + 1) * DIM))))))"""
    members = tab.evaluate("app.edits.members(0)")
    unlike = tab.evaluate("different(app.edits.members(0), [app.edits.members(0)[0]], 6)")
    assert len(set(unlike)) == 6
    assert set(unlike) <= set(members)
    rng = np.random.default_rng(0)
    drawn = [tab.evaluate(apart, [int(i) for i in rng.choice(members, 7, replace=False)]) for _ in range(50)]
    assert tab.evaluate(apart, [members[0], *unlike]) > max(drawn)
    card = tab.locator('.card[data-cluster="0"]')
    assert "Most different" in card.inner_text()
    assert tab.locator('.card[data-cluster="2"]').inner_text().count("Most different") == 0  # where all are equal


def test_a_split_on_a_page_of_some_samples_splits_all(tab, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("deepclust.report.page_parts.MOST_ROWS", 300)
    rows = np.flatnonzero(np.isin(digits.labels, [0, 1, 6, 7]))
    features, truth = FeatureSet.from_arrays(digits.features[rows]), digits.labels[rows]
    labels_N = np.isin(truth, [6, 7]).astype(np.int32)
    shown = np.random.default_rng(0).choice(len(rows), 300, replace=False)
    labels_N[np.setdiff1d(np.flatnonzero(labels_N == 0), shown)[:2]] = 5  # a cluster of which the page knows nothing
    found = Clustering(labels_N, "kmeans")
    page = assembled_page(
        features, [Found(found, "k-means", {})], title="", facts=[], why="", run="/r", images=None, texts=None,
        neighbors=None,
    )  # fmt: skip
    tab.goto(write_page(tmp_path / "report.html", page, map_kind="pca").as_uri())
    tab.click('.card[data-cluster="1"] button:text("Split in two")')
    with tab.expect_download() as download:
        tab.locator("#bar .download").click()
    download.value.save_as(tmp_path / "edits.json")
    edits = read_edits(tmp_path / "edits.json")
    labels = edited_clustering(edits, {"kmeans": found}, "edits.json", features).clustering.labels
    assert len(edits["steps"][0]["rows"]) + len(edits["steps"][0]["rest"]) < (found.labels == 1).sum()
    assert (labels[found.labels != 1] == found.labels[found.labels != 1]).all()
    assert set(labels.tolist()) == {0, 1, 5, 6}
    parts = [Counter(truth[labels == cluster].tolist()) for cluster in (1, 6)]
    assert all(max(part.values()) > 0.95 * sum(part.values()) for part in parts)
