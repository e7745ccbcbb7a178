"""`deepclust edit …`: the changes made in a page become a clustering, tables and folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepclust.cli.configure import run_hydra


def main() -> None:
    run_hydra("edit", edit)


def edit(config: dict[str, Any]) -> None:
    """Replay the changes, write what is made of them, and print where it is."""
    # Imported here: `--help` and a mistyped option answer at once.
    from deepclust.features.texts import read_texts
    from deepclust.report.neighbor_rows import images_of
    from deepclust.report.page_parts import noun_of
    from deepclust.runs.editing import edited_clustering, export, read_edits, replayed
    from deepclust.runs.relearning import HEADS, relearned_heads
    from deepclust.runs.reporting import FinishedRun, first_shown_of, write_report
    from deepclust.runtime.errors import InputError

    if config["run"] is None:
        raise InputError("name the run: run=<run folder>")
    if config["retrain"] and config["edits"] is None:
        raise InputError("retrain=true trains heads on changes: name their file with edits=")
    edits = None if config["edits"] is None else read_edits(Path(config["edits"]).expanduser())
    texts = None if config["texts"] is None else read_texts(Path(config["texts"]).expanduser())
    run = FinishedRun.read(config["run"])
    if edits is None:
        name = config["method"] or first_shown_of(run)
        if name not in run.clusterings:
            raise InputError(f"method={name} is not in {run.folder.path}: choose from {', '.join(run.clusterings)}")
        edited = replayed(run.clusterings[name], [])
    else:
        edited = edited_clustering(edits, run.clusterings, str(config["edits"]), run.dataset.train)
    noun = noun_of(images_of(run.dataset.train) is not None, texts is not None or run.dataset.train.texts is not None)
    again = relearned_heads(run, edited.clustering, noun) if config["retrain"] else None
    kept = free_folder(run.folder.path / ("edited" if edits is not None else "handed_on"))
    out = kept if config["out"] is None else Path(config["out"]).expanduser()
    written = export(edited, run.dataset.train, out, config["folders"])
    if edits is not None:
        edited.clustering.save(kept / "clustering.npz")
        run.clusterings = {f"edited:{kept.name}": edited.clustering, **run.clusterings}
        method = f"edited:{kept.name}"
        written.append(write_report(run, out / "report.html", method=method, texts=texts, map_kind=config["map"]))
    if again is not None:
        written.append(again.heads.save(kept / HEADS))
    found = edited.clustering.n_found
    print(f"{counted(edited.n_steps, 'changes')}, {len(edited.clustering):,} {noun} in {counted(found, 'clusters')}")
    if again is not None:
        print(again)
    for path in written:
        print(f"written to {path}")


def counted(n: int, noun: str) -> str:
    """`1 change`, `2 changes`."""
    return f"{n:,} {noun.removesuffix('s') if n == 1 else noun}"


def free_folder(folder: Path) -> Path:
    """The folder, or where it is there already `<name>-2`, `<name>-3` …"""
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


if __name__ == "__main__":
    main()
