"""The site shows the notebooks of examples/, which lie beside docs/; links lead to them in a clone and on the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

EXAMPLES = Path(__file__).with_name("examples")


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, *, config: Any) -> Files:
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        place = f"{EXAMPLES.name}/{path.name}"
        files.append(File(place, str(EXAMPLES.parent), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace("](../examples/", "](examples/")
