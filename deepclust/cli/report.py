"""`deepclust report …`: a finished run as one page that works offline."""

from __future__ import annotations

from typing import Any

from deepclust.cli.configure import run_hydra


def main() -> None:
    run_hydra("report", report)


def report(config: dict[str, Any]) -> None:
    """Write the page and print where it is."""
    # Imported here: `--help` and a mistyped option answer at once.
    from pathlib import Path

    from deepclust.features.texts import read_texts
    from deepclust.runs.reporting import FinishedRun, write_report
    from deepclust.runtime.errors import InputError

    if config["run"] is None:
        raise InputError("name the run to report: run=<run folder>")
    texts = None if config["texts"] is None else read_texts(Path(config["texts"]).expanduser())
    run = FinishedRun.read(config["run"])
    out = None if config["out"] is None else Path(config["out"]).expanduser()
    print(write_report(run, out, method=config["method"], texts=texts, map_kind=config["map"]))


if __name__ == "__main__":
    main()
