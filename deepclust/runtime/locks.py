"""A lock between processes: one makes what several want, the others wait for it or are refused."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from deepclust.runtime.errors import InputError
from deepclust.runtime.files import make_folder

# How often a waiting process asks; each is a call to the file server where the folder lies on one.
POLL_SECONDS = 0.5


@contextmanager
def one_at_a_time(path: Path, work: str) -> Iterator[bool]:
    """Hold the lock of a file, waiting for another process that holds it; one line on the console says so.

    The operating system keeps the lock and ends it with its process, even after kill -9. On NFS it holds between
    machines. The empty file stays: if it were removed, a process that waits for the old file and one that makes a new
    file would both hold a lock.

    Args:
        path: of the lock file, in a folder that exists. After waiting, look first for what the other process has made.
        work: named in the line, such as `mining neighbors`.

    Yields:
        Whether the lock is held. It is not where the file system has no locks or the file is another user's; a line on
        the console says so. Then nothing may be written there that a second process would find half-finished.
    """
    lock = _lock(path)
    trouble = _trouble(lock, path, work)
    if trouble:
        print(f"{work}: {path} cannot be locked ({trouble}), so unfinished work is not kept there", flush=True)
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def claimed(path: Path, taken: str) -> Iterator[None]:
    """Hold the lock of a file, or refuse where another process holds it. Its folder is made.

    A file system without locks keeps nobody out; a line on the console says so.

    Args:
        path: of the lock file, which stays, empty.
        taken: what the refusal says.

    Raises:
        InputError: if another process holds the lock, or the folder cannot be made.
    """
    make_folder(path.parent)
    lock = _lock(path)
    trouble = _trouble(lock, path, taken=taken)
    if trouble:
        print(f"{path} cannot be locked ({trouble}), so nothing keeps a second run out of this folder", flush=True)
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path) -> FileLock:
    # The fallback where there are no locks is a file that outlives its process, and would lock the folder for ever.
    return FileLock(path, fallback_to_soft=False)


def _trouble(lock: FileLock, path: Path, work: str = "", *, taken: str = "") -> str:
    """Acquire the lock; return the reason where that is impossible, else an empty string.

    Raises:
        InputError: saying `taken`, if it is given and another process holds the lock; without it, this one waits.
    """
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if taken:
                raise InputError(taken) from None
            print(f"{work}: another process is doing this already, waiting for its result ({path})", flush=True)
            lock.acquire(timeout=-1, poll_interval=POLL_SECONDS)
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) == errno.ENOSYS:
            return "no locks on this file system"
        return (getattr(error, "strerror", None) or str(error)).lower()
    return ""
