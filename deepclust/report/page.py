"""The page of a run, `report.html`: everything in one file, without a request to anywhere.

The look and the behavior are in `web/`: a Jinja template, a style sheet and the scripts, which are put into the page.

Shape suffixes: N samples, C clusters.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from deepclust.clustering import NOISE, Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.report.contact_sheet import Images, confidences
from deepclust.report.health import Finding
from deepclust.report.map_layout import map_layout
from deepclust.report.member_scores import MemberScores, few_numbers, member_scores
from deepclust.report.sprites import COLUMNS, PER_SHEET, Sprites, make_sprites, most_thumbnails
from deepclust.runtime.files import fingerprint, written_whole

WEB = Path(__file__).with_name("web")
SCRIPTS = ("data.js", "alike.js", "scatter.js", "edits.js", "gallery.js", "clusters.js", "app.js")
# Samples of each cluster that have a thumbnail before others, where not all can have one.
SHOWN_MEMBERS = 24


@dataclass
class Shown:
    """One clustering as a page shows it.

    Attributes:
        clustering: of the N samples of the page.
        title: what readers call it.
        findings: how far to trust it.
        names: of clusters, by id; the others are called by number.
        agreement_N: share of heads that agree on each sample, or None.
        whole: the clustering of all samples of the run, where the page holds some of them; changes are made to it.
    """

    clustering: Clustering
    title: str
    findings: Sequence[Finding] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    agreement_N: np.ndarray | None = None
    whole: Clustering | None = None


@dataclass
class Page:
    """What a page tells.

    Attributes:
        title: of the page.
        facts: what was clustered, in sentences.
        why: by which method, and why it is the first.
        features: the N samples.
        shown: clusterings, the one that is shown first coming first.
        run: where the run lies, for the command that takes edits; None of a page that is of no run.
        noun: what a sample is called, in the plural: `images`, `texts`, `rows`.
        images: of the samples, or None.
        texts: of the samples, or None.
        duplicates: groups of row numbers.
        outlier_N: how unlike all others each sample is, or None.
        rows: row numbers of the samples in the run, where the page holds a sample of them; None: all.
        layout: of `map_layout`, where it is known already.
    """

    title: str
    facts: Sequence[str]
    why: str
    features: FeatureSet
    shown: Sequence[Shown]
    run: str | None
    noun: str = "rows"
    images: Images | None = None
    texts: Sequence[str] | None = None
    duplicates: Sequence[np.ndarray] = ()
    outlier_N: np.ndarray | None = None
    rows: np.ndarray | None = None
    layout: tuple[np.ndarray, str] | None = None


def write_page(path: str | os.PathLike, page: Page, *, map_kind: str = "auto", seed: int = 0) -> Path:
    """Write the page.

    Args:
        path: of the `.html`.
        page: what it tells.
        map_kind, seed: of `map_layout`, for a page without a layout.
    """
    path = Path(path)
    places_N2, map_name = page.layout or map_layout(page.features, map_kind, seed)
    scores = [member_scores(page.features, shown.clustering.labels) for shown in page.shown]
    sprites = None if page.images is None else make_sprites(page.images, pictured(page, scores))
    content = page_content(page, scores, places_N2, map_name, sprites)
    templates = Environment(loader=FileSystemLoader(WEB), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = templates.get_template("page.html").render(
        page=page,
        map_name=map_name,
        findings=page.shown[0].findings,
        style=Markup((WEB / "style.css").read_text(encoding="utf-8")),
        scripts=[Markup((WEB / name).read_text(encoding="utf-8")) for name in SCRIPTS],
        sheets=[] if sprites is None else sprites.sheets,
        # In a script element nothing is escaped, and `</script>` in a file name would end it.
        content=Markup(json.dumps(content, allow_nan=False).replace("<", "\\u003c")),
    )
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def pictured(page: Page, scores: Sequence[MemberScores]) -> np.ndarray:
    """Row numbers of the samples that have a thumbnail: all, or those that a reader looks at first."""
    n_samples, most = len(page.features), most_thumbnails()
    if n_samples <= most:
        return np.arange(n_samples)
    first = [np.concatenate(page.duplicates)[: most // 8]] if len(page.duplicates) else []
    if page.outlier_N is not None:
        first.append(np.argsort(-page.outlier_N)[: most // 16])
    labels_N, own = page.shown[0].clustering.labels, scores[0]
    # By turns the most typical member of every cluster, the one at its border, then the next ones.
    for key_N in (-own.typical_N, own.margin_N):
        order = np.lexsort((key_N, labels_N))
        starts = np.flatnonzero(np.diff(labels_N[order], prepend=labels_N[order[0]] - 1))
        rank_N = np.arange(n_samples) - np.repeat(starts, np.diff([*starts, n_samples]))
        by_turns = order[np.argsort(rank_N, kind="stable")]
        first.append(by_turns[np.sort(rank_N)[: len(by_turns)] < SHOWN_MEMBERS])
    everyone = np.concatenate([*first, np.random.default_rng(0).permutation(n_samples)])
    _, at = np.unique(everyone, return_index=True)
    return np.sort(everyone[np.sort(at)[:most]])


def page_content(
    page: Page, scores: Sequence[MemberScores], places_N2: np.ndarray, map_name: str, sprites: Sprites | None
) -> dict[str, Any]:
    """What the scripts read: plain values, and arrays in base64 (little-endian)."""
    features = page.features
    few_NP, length = few_numbers(features)
    return {
        "title": page.title,
        "run": page.run,
        "noun": page.noun,
        "n": len(features),
        "map": map_name,
        "rows": packed(page.rows, "<i4"),
        "xy": packed(65535 * places_N2, "<u2"),
        "vectors": packed(few_NP, "i1"),
        "length": length,
        "paths": None if features.paths is None else list(features.paths),
        "texts": None if page.texts is None else list(page.texts),
        "labels": packed(features.labels, "<i4"),
        "class_names": features.class_names,
        "methods": [method_content(shown, own) for shown, own in zip(page.shown, scores)],
        "duplicates": [group.tolist() for group in page.duplicates],
        "outliers": packed(page.outlier_N, "<f4"),
        "sprites": None
        if sprites is None
        else {
            "side": sprites.side,
            "columns": COLUMNS,
            "per_sheet": PER_SHEET,
            "sheets": len(sprites.sheets),
            "slot": packed(sprites.slot_N, "<i4"),
            "n": int((sprites.slot_N >= 0).sum()),
        },
    }


def method_content(shown: Shown, scores: MemberScores) -> dict[str, Any]:
    """One clustering as the scripts read it; confidences and agreements are in 255ths."""
    clustering = shown.clustering
    whole_N = (shown.whole or clustering).labels
    confidence_N = confidences(clustering)
    return {
        "method": clustering.method,
        "title": shown.title,
        "made_of": fingerprint(whole_N.astype(np.int32)),
        "highest": int(whole_N.max(initial=0)),
        "names": {str(cluster): name for cluster, name in shown.names.items()},
        "nearest": dict(zip(map(str, scores.ids_C.tolist()), scores.nearest_C.tolist())),
        "findings": [[one.level, one.title, one.text] for one in shown.findings],
        "noise": NOISE,
        "cluster": packed(clustering.labels, "<i4"),
        "second": packed(scores.second_N, "<i4"),
        "typical": packed(scores.typical_N, "<f4"),
        "margin": packed(scores.margin_N, "<f4"),
        "confidence": packed(None if confidence_N is None else 255 * confidence_N, "u1"),
        "agreement": packed(None if shown.agreement_N is None else 255 * shown.agreement_N, "u1"),
    }


def packed(values: np.ndarray | None, kind: str) -> str | None:
    """An array's bytes in base64, numbers rounded and cut to the type's range; None stays None."""
    if values is None:
        return None
    values = np.asarray(values)
    if np.dtype(kind).kind in "iu" and values.dtype.kind == "f":
        limits = np.iinfo(kind)
        values = values.round().clip(limits.min, limits.max)
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode("ascii")
