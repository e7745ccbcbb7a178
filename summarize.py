"""Mean ± standard deviation over the seeds of finished runs.

python summarize.py runs/my_seeds            a folder of run folders, or any number of run folders
python summarize.py runs/my_seeds --split test --markdown docs/table.md
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
    options = parser.parse_args()
    with one_line_errors():
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


def collect(folders: list[Path], split: str | None) -> list[dict]:
    """Rows of every results.json in the folders or directly below them.

    Raises:
        InputError: if there are none.
    """
    files = [file for folder in folders for file in [folder / "results.json", *sorted(folder.glob("*/results.json"))]]
    rows = [row for file in files if file.is_file() for row in json.loads(file.read_text(encoding="utf-8"))]
    rows = [row for row in rows if split is None or row["split"] == split]
    if not rows:
        where = ", ".join(map(str, folders))
        raise InputError(f"no results{f' of split {split}' if split else ''} in {where}: name run folders of train.py")
    return rows


if __name__ == "__main__":
    main()
