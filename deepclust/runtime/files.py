"""Files that are written whole or not at all, and fingerprints of what went into them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    A reader, or a process killed half-way, never sees a partial file. The temporary name keeps the
    suffix, as `np.save` and friends append theirs otherwise.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; give it the mode any other new file would have.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all. NumPy scalars become plain numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Path):
            return str(value)
        raise TypeError(f"{type(value).__name__} is not JSON serializable")

    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=plain, ensure_ascii=False) + "\n", encoding="utf-8")


def fingerprint(*parts: Any) -> str:
    """A 16-hex-digit BLAKE2 digest of arrays (shape, dtype, bytes) and of anything JSON can say."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.shape}{part.dtype}".encode())
            rows_per_block = max(1, (1 << 26) // max(1, part[:1].nbytes))
            for start in range(0, len(part), rows_per_block):
                digest.update(np.ascontiguousarray(part[start : start + rows_per_block]).data)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()
