"""`deepclust assign …`: clusters of a finished run for new samples, and under the ids of an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepclust.cli.configure import run_hydra


def main() -> None:
    run_hydra("assign", assign)


def assign(config: dict[str, Any]) -> None:
    """Write the clusters of the samples, and print where they are."""
    # Imported here: `--help` and a mistyped option answer at once.
    from deepclust.cli.edit import free_folder
    from deepclust.report.neighbor_rows import images_of
    from deepclust.report.page_parts import noun_of
    from deepclust.runs.assigning import assign, hand_out
    from deepclust.runs.folder import RunFolder
    from deepclust.runtime.errors import InputError

    if config["run"] is None:
        raise InputError("name the run: run=<run folder>")
    if config.get("data") is None and config["match"] is None:
        raise InputError("name the new samples, data=, or the earlier run whose ids are kept, match=<run folder>")
    folder = RunFolder(Path(config["run"]).expanduser())
    match = None if config["match"] is None else Path(config["match"]).expanduser()
    found = assign(folder, None if config.get("data") is None else config, match)
    out = free_folder(folder.path / "assigned") if config["out"] is None else Path(config["out"]).expanduser()
    written = hand_out(found, folder, out)
    for note in found.notes:
        print(note)
    noun = noun_of(images_of(found.features) is not None, found.features.texts is not None)
    print(f"{len(found.features):,} {noun}, by {', '.join(found.clusterings)}")
    for path in written:
        print(f"written to {path}")


if __name__ == "__main__":
    main()
