"""The documentation site builds: links and anchors lead somewhere, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("material", reason="pip install -e '.[docs]' brings what builds the site")
pytest.importorskip("mkdocstrings_handlers.python")
pytest.importorskip("mkdocs_jupyter")

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_nobody(tmp_path):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    # Strict: a link or an anchor that leads nowhere, and a page that is in no menu, ends the build.
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    pages = {page.parent.name: page.read_text(encoding="utf-8") for page in (tmp_path / "site").rglob("index.html")}
    assert {"tutorial", "install", "commands", "api", "leaderboard"} <= set(pages)
    # Notebooks of examples/ with their pictures; the tutorial leads to them.
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        assert "data:image/png;base64" in pages[notebook.stem] or "data:image/jpeg;base64" in pages[notebook.stem]
        assert f"examples/{notebook.stem}/" in pages["tutorial"]
    for name, page in pages.items():
        loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"?(https?://[^\" >]+)", page)
        assert [url for url in loaded if "rel=canonical" not in url] == [], name
    # What only an import tells: the parameters that the estimators take from their recipes.
    assert "freeze_prototypes_epochs" in pages["api"]
    for method in ("predict_proba", "plot_map", "show", "report", "to_frame"):
        assert f'id="deepclust.estimators.TEMI.{method}"' in pages["api"]
