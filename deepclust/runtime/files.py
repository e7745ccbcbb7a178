"""What is kept on disk: written whole or not at all, with a checksum, and looked at when it is read back.

A folder with a `deepclust.sha256` keeps there the checksums of all that `written_whole` writes below it, one line a
file, as `sha256sum` prints them. A line is added before its file is renamed into place: of a file that was written
several times the older lines hold, too, as a kill may come between the two.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deepclust.runtime.errors import InputError

CHECKSUMS = "deepclust.sha256"
# How torch, which writes by itself, says that it could not; it does not say why.
TORCH_FAILED = ("PytorchStreamWriter", "inline_container.cc")
# Folders above a file among which its checksums are looked for.
DEPTH = 4
# Of a temporary file: whose it is. Only its own machine can tell whether that process still runs.
HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]
TEMPORARY = re.compile(r"\..*\.(?P<host>[0-9a-f]{4})-(?P<pid>\d+)\.\w{8}\.part(\.\w+)?")


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    A reader, or a process killed half-way, never sees a partial file. The temporary name keeps the
    suffix, as `np.save` and friends append theirs otherwise.

    Raises:
        InputError: if the disk is full, the folder cannot be written, or a folder lies where the file should.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.stem}.{HOST}-{os.getpid()}."
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=f".part{path.suffix}", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes the file private; give it the mode any other new file would have.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        _note_checksum(path, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(_cannot_write(path, error)) from None
    except Exception as error:
        # Libraries that write by themselves do not raise an OSError.
        full = os.strerror(errno.ENOSPC)
        if full in str(error):
            raise InputError(_cannot_write(path, OSError(errno.ENOSPC, full))) from None
        if any(word in str(error) for word in TORCH_FAILED):
            raise InputError(_cannot_write(path, OSError(errno.ENOSPC, "the disk may be full"))) from None
        raise
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> Path:
    """A folder and those above it, unless they are there.

    Raises:
        InputError: if one cannot be made, or a file has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(_cannot_write(path, error)) from None
    return path


def _cannot_write(path: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    full = getattr(error, "errno", None) in (None, errno.ENOSPC, errno.EDQUOT)
    remedy = "free space, or write elsewhere" if full else "write elsewhere, or change its permissions"
    return f"cannot write {path} ({reason}): {remedy}"


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes of this machine left half-written in a folder and below."""
    for path in folder.rglob(".*.part*"):
        left = TEMPORARY.fullmatch(path.name)
        if left and left["host"] == HOST and not _runs(int(left["pid"])):
            path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


# --- checksums -------------------------------------------------------------------------------------------------------


def keep_checksums(folder: Path) -> None:
    """From now on the checksums of all that is written in a folder and below are kept there. The folder is made.

    Raises:
        InputError: if the folder cannot be written.
    """
    make_folder(folder)
    ledger = folder / CHECKSUMS
    if ledger.exists() and not ledger.is_file():  # opening a pipe would wait for ever
        raise InputError(f"{ledger} is no file: remove it")
    try:
        with open(ledger, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise InputError(_cannot_write(folder, error)) from None


def file_sha256(path: str | os.PathLike) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _ledger_of(path: Path) -> Path | None:
    for folder in list(path.absolute().parents)[:DEPTH]:
        if (folder / CHECKSUMS).is_file():
            return folder / CHECKSUMS
    return None


def _note_checksum(path: Path, content: Path) -> None:
    ledger = _ledger_of(path)
    if ledger is not None:
        line = f"{file_sha256(content)}  {path.absolute().relative_to(ledger.parent).as_posix()}\n"
        content_of_line = line.encode("utf-8", "surrogateescape")
        with open(ledger, "ab", buffering=0) as stream:
            before = stream.seek(0, os.SEEK_END)
            if stream.write(content_of_line) < len(content_of_line):
                stream.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(ledger))


@functools.lru_cache(maxsize=8)
def _checksums(ledger: Path, size: int, time_ns: int, inode: int) -> dict[str, set[str]]:
    """{file: its checksums}; what the ledger's state is tells whether it has changed since."""
    found: dict[str, set[str]] = {}
    for line in ledger.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)  # a line that a kill cut off is none
        if match:
            found.setdefault(match[2], set()).add(match[1])
    return found


def checksums_in(folder: Path) -> dict[str, set[str]]:
    """{file, relative to the folder: the checksums that were noted for it}; empty where none are kept."""
    ledger = folder / CHECKSUMS
    if not ledger.is_file():
        return {}
    state = ledger.stat()
    return _checksums(ledger, state.st_size, state.st_mtime_ns, state.st_ino)


def check_whole(path: Path, remedy: str = "restore it from a copy, or remove it and make it again") -> None:
    """Compare a file with its checksum, where one was kept.

    Raises:
        InputError: if it differs.
    """
    ledger = _ledger_of(path)
    if ledger is None:
        return
    noted = checksums_in(ledger.parent).get(path.absolute().relative_to(ledger.parent).as_posix())
    if noted is not None and file_sha256(path) not in noted:
        raise InputError(f"{path} is not as it was written (its checksum in {ledger.name} differs): {remedy}")


# --- one reader for each kind of file --------------------------------------------------------------------------------


@contextmanager
def _read_whole(path: Path, kind: str, remedy: str) -> Iterator[None]:
    """The block reads `path`: whatever is wrong with the file ends in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib, json, yaml, pickle and numpy each raise their own
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"{path} is no {kind} ({reason}): {remedy}") from None


def read_json(path: Path, remedy: str = "remove it and make it again", kind: str = "readable JSON") -> Any:
    """What `write_json` wrote.

    Args:
        remedy, kind: what the refusal says to do, and that the file is none of.

    Raises:
        InputError: if the file cannot be read, is no JSON or is not as it was written.
    """
    with _read_whole(path, kind, remedy):
        content = json.loads(path.read_text(encoding="utf-8"))
        check_whole(path, remedy)
        return content


def read_yaml(path: Path, remedy: str) -> Any:
    """The content of a YAML file; raises as `read_json`."""
    with _read_whole(path, "readable YAML", remedy):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        check_whole(path, remedy)
        return content


def read_npz(path: Path, remedy: str = "remove it and make it again") -> dict[str, np.ndarray]:
    """Every array of an `.npz` file, which has checksums of its own. Raises as `read_json`."""
    with _read_whole(path, "readable .npz file", remedy), np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def read_tensors(path: Path, remedy: str) -> Any:
    """The plain tensors and values of a file of torch; no code in it is run. Raises as `read_json`."""
    import torch

    with _read_whole(path, "readable checkpoint", remedy):
        if zipfile.is_zipfile(path):  # torch does not compare the checksums that it writes
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise InputError(f"{path} is no readable checkpoint ({damaged} is damaged): {remedy}")
        return torch.load(path, map_location="cpu", weights_only=True)


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all. NumPy scalars become plain numbers."""
    text = json.dumps(content, indent=2, default=_plain, ensure_ascii=False) + "\n"
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def plain_json(content: Any) -> Any:
    """As it comes back from a file of `write_json`."""
    return json.loads(json.dumps(content, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


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
