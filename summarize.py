"""Mean ± standard deviation over the seeds of finished runs.

python summarize.py runs/my_seeds            a folder of run folders, or any number of run folders
python summarize.py runs/my_seeds --split test --markdown docs/table.md
python summarize.py runs/rehearsal --benchmarks --figure docs/images/accuracy     benchmarks × methods, and figure 2
"""

from __future__ import annotations

import argparse
import io
import json
import re
from pathlib import Path

from rich.console import Console

from deepclust.errors import InputError, one_line_errors
from deepclust.files import written_whole
from deepclust.report.tables import mean_std_markdown, mean_std_table, report_console


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--split", help="only this split")
    parser.add_argument("--markdown", type=Path, help="write the table to this file, too")
    parser.add_argument("--svg", type=Path, help="draw the table into this file, too")
    parser.add_argument("--benchmarks", action="store_true", help="one row per benchmark instead of one per method")
    parser.add_argument("--figure", type=Path, help="with --benchmarks: accuracy against depth and imbalance")
    options = parser.parse_args()
    with one_line_errors():
        if options.benchmarks:
            summarize_benchmarks(options)
            return
        rows = collect(options.folders, options.split)
        report_console().print(mean_std_table(rows))
        if options.svg:
            picture = Console(record=True, width=94, file=io.StringIO())
            picture.print(mean_std_table(rows))
            with written_whole(options.svg) as temporary:
                # Without its font rules the picture fetches nothing; the viewer's own monospace font does.
                svg = re.sub(r"@font-face {.*?}", "", picture.export_svg(title="python summarize.py"), flags=re.DOTALL)
                temporary.write_text(svg, encoding="utf-8")
        if options.markdown:
            with written_whole(options.markdown) as temporary:
                temporary.write_text(mean_std_markdown(rows), encoding="utf-8")


def summarize_benchmarks(options: argparse.Namespace) -> None:
    from omegaconf import OmegaConf

    from deepclust.report.benchmark_figures import accuracy_figure, benchmark_markdown, benchmark_rows, benchmark_table

    found = [file.parent for folder in options.folders for file in results_of(folder)]
    configs = {folder: OmegaConf.load(folder / "config.yaml") for folder in found}
    rows = benchmark_rows(found, {run: OmegaConf.select(config, "benchmark.name") for run, config in configs.items()})
    if not rows:
        raise InputError(f"no results in {', '.join(map(str, options.folders))}: name run folders of train.py")
    split = options.split or ("test" if any(row["split"] == "test" for row in rows) else "train")
    report_console().print(benchmark_table(rows, split))
    if options.markdown:
        with written_whole(options.markdown) as temporary:
            temporary.write_text(benchmark_markdown(rows, split), encoding="utf-8")
    if options.figure:
        print(*accuracy_figure(rows, options.figure, split))


def results_of(folder: Path) -> list[Path]:
    """Every results.json in a folder or directly below it."""
    return [file for file in [folder / "results.json", *sorted(folder.glob("*/results.json"))] if file.is_file()]


def collect(folders: list[Path], split: str | None) -> list[dict]:
    """Rows of every results.json in the folders or directly below them.

    Raises:
        InputError: if there are none.
    """
    files = [file for folder in folders for file in results_of(folder)]
    rows = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))]
    rows = [row for row in rows if split is None or row["split"] == split]
    if not rows:
        where = ", ".join(map(str, folders))
        raise InputError(f"no results{f' of split {split}' if split else ''} in {where}: name run folders of train.py")
    return rows


if __name__ == "__main__":
    main()
