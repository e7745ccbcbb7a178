"""Classes and samples of every benchmark, beside the paper's; no features are read.

deepclust subsets                                    ImageNet-21K's 10 450 classes over WordNet 3.0
deepclust subsets --hierarchy imagenet21k_miil_tree.pth
deepclust subsets --data imagenet21k --features-dir features
deepclust subsets --data fashion_mnist --json counts.json
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from deepclust.cli.arguments import Arguments, path
from deepclust.runtime.errors import InputError, one_line_errors


def main() -> None:
    parser = Arguments("subsets", __doc__)
    parser.add_argument("--data", help="a data set whose features lie ready; without it only classes are counted")
    parser.add_argument("--features-dir", help="where features lie (default: $DEEPCLUST_FEATURES, else features)")
    parser.add_argument("--encoder", help="whose features; any will do, only labels are read")
    parser.add_argument("--synsets", type=path, help="a file with one synset per line instead of ImageNet-21K's")
    parser.add_argument(
        "--hierarchy", help="a .pth tree file, a .txt is-a list, a .csv of child,parent, or WordNet's folder"
    )
    parser.add_argument("--json", type=path, help="write the rows to this file, too")
    with one_line_errors():
        options = parser.parse_args()
        show(options)


def show(options: argparse.Namespace) -> None:
    from deepclust.extraction.datasets import load_dataset
    from deepclust.report.tables import report_console
    from deepclust.runtime.files import write_json
    from deepclust.subsets.benchmarks import BENCHMARKS
    from deepclust.subsets.counts import benchmark_counts, imagenet21k_synsets, link_rules
    from deepclust.subsets.select import classes_of, lazy_hierarchy, read_files
    from deepclust.subsets.selectors import Classes

    settings: dict[str, Any] = {name: dict(BENCHMARKS[name]) for name in sorted(BENCHMARKS)}
    console = report_console()
    more: dict[str, Any] = {}
    links: list[dict[str, Any]] = []
    if options.data:
        dataset = load_dataset(options.data, encoder=options.encoder, features_dir=options.features_dir)
        classes = classes_of(dataset, hierarchy=options.hierarchy)
        root = dataset.train.root
        folder = None if root is None else root.parent / "benchmarks"
        more["train_labels"] = dataset.train.labels
        more["test_labels"] = None if dataset.test is None else dataset.test.labels
        more["files"] = partial(read_files, classes=classes, folder=folder, has_test=dataset.test is not None)
    else:
        names = read_synsets(options.synsets) if options.synsets else imagenet21k_synsets()
        classes = Classes(
            names, np.zeros(len(names), int), lazy_hierarchy(names, "synsets", hierarchy=options.hierarchy)
        )
        if options.hierarchy is None:
            links = link_rules(names)
    rows, notes = benchmark_counts(classes, settings, **more)
    console.print(table_of(rows))
    for note in notes:
        console.print(f"not here: {note}", style="dim", soft_wrap=True, markup=False)
    if links:
        console.print()
        console.print(table_of(links, "How WordNet's links are read (docs/imagenet21k.md)"))
    if options.json:
        write_json(options.json, {"benchmarks": rows, "links": links, "not_here": notes})


def read_synsets(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        names = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text ({error}): give one synset per line") from None
    if not names:
        raise InputError(f"{path} names no synset: give one per line")
    return names


def table_of(rows: list[dict[str, Any]], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    for key in rows[0] if rows else ("benchmark",):
        table.add_column(key.replace("_", " "), justify="left" if isinstance(rows and rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*("–" if value is None else str(value) for value in row.values()))
    return table


if __name__ == "__main__":
    main()
