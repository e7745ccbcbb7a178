"""What a W&B run holds, read from its own file without a server: `wandb/offline-run-…/run-<id>.wandb`.

W&B's newest versions have no Python reader of it. The file is a LevelDB log of W&B's own protobuf messages: blocks of
32 KiB, in each records of a checksum, a length, a kind (whole, or the first, a middle or the last part) and the bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

FILE_HEADER, RECORD_HEADER, BLOCK = 7, 7, 32768
WHOLE, FIRST, LAST = 1, 2, 4


@dataclass
class LoggedRun:
    """One file of a W&B run.

    Attributes:
        run_id: of the run, which several files share where the run was resumed.
        project, name, group, tags: as it was started.
        config: flat settings.
        history: rows of metrics, pictures and tables by name, in the order in which they were logged.
        artifacts: paths of the files of each artifact by its name; `types` by its name, too.
        exit_code: with which it ended; None where it was killed.
    """

    run_id: str = ""
    project: str = ""
    name: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None

    def column(self, name: str) -> list[Any]:
        """Everything that was logged under a name."""
        return [row[name] for row in self.history if name in row]


def wandb_files(run_folder: Path) -> list[Path]:
    """The files of the W&B run of a run folder, oldest first: one for each time that it was continued."""
    return sorted(Path(run_folder).glob("wandb/*run-*/run-*.wandb"))


def read_run(file: Path) -> LoggedRun:
    """Everything that a file holds.

    Raises:
        ValueError: if it is no file of W&B's.
    """
    found = LoggedRun()
    for message in _messages(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.run_id, found.project, found.name, found.group = (
                run.run_id,
                run.project,
                run.display_name,
                run.run_group,
            )
            found.tags = list(run.tags)
            _take(found.config, run.config.update)
        elif kind == "config":
            _take(found.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _take(row, record.history.item)
            found.history.append(row)
        elif kind == "artifact":
            artifact = record.artifact
            found.artifacts[artifact.name] = [entry.path for entry in artifact.manifest.contents]
            found.types[artifact.name] = artifact.type
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _take(into: dict[str, Any], items: Any) -> None:
    for item in items:
        name = item.key or "/".join(item.nested_key)
        into[name] = json.loads(item.value_json)


def _messages(content: bytes) -> Iterator[bytes]:
    if not content.startswith(b":W&B"):
        raise ValueError("no file of W&B's")
    at, parts = FILE_HEADER, []
    while at + RECORD_HEADER <= len(content):
        if BLOCK - at % BLOCK < RECORD_HEADER:  # what is left of a block is padding
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        start = at + RECORD_HEADER
        parts.append(content[start : start + length])
        at = start + length
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts = []
