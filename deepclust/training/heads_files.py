"""Trained heads as a safetensors file: tensors by name, everything else as JSON in the file's header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepclust.runtime.errors import InputError
from deepclust.runtime.files import plain_json, written_whole

# Of the header's entries, the one that is ours.
HEADER = "deepclust"
PARTS = ("transform", "heads")


def write_safetensors(state: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Write what `TrainedHeads.state` gives."""
    from safetensors.torch import save_file

    tensors = {f"{part}.{name}": value.contiguous() for part in PARTS for name, value in state[part].items()}
    tensors["losses"] = state["losses"].contiguous()
    rest = {name: value for name, value in state.items() if name not in (*PARTS, "losses")}
    with written_whole(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER: json.dumps(plain_json(rest))})
    return Path(path)


def read_safetensors(path: Path) -> dict[str, Any]:
    """What `TrainedHeads.from_state` takes.

    Raises:
        InputError: if the file cannot be read, or holds no heads.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            rest = json.loads((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        losses = tensors.pop("losses")
    except Exception as error:  # of its own kind for each damage
        raise InputError(f"{path} holds no heads ({str(error).splitlines()[0][:160]}): export them again") from None
    state: dict[str, Any] = {**rest, "losses": losses}
    for part in PARTS:
        prefix = f"{part}."
        state[part] = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
    state["failed_at"] = {int(head): epoch for head, epoch in rest.get("failed_at", {}).items()}
    return state
