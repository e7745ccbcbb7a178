"""What several processes may want at once is made by one, while the others wait for it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

# How often a waiting process asks; each is a call to the file server where the folder lies on one.
POLL_SECONDS = 0.5


@contextmanager
def one_at_a_time(path: Path, work: str) -> Iterator[bool]:
    """Hold the lock of a file, waiting for another process that holds it; one line on the console says so.

    The lock is the operating system's and ends with its process, however that dies: nobody waits for what a kill -9
    left. On NFS it holds between machines. The empty file stays, since a process that waits for a removed file and one
    that makes it anew would both believe to be alone.

    Args:
        path: of the lock file, in a folder that exists. After waiting, look first for what the other process has made.
        work: named in the line, such as `mining neighbors`.

    Yields:
        Whether the lock is held. Not so, after a line that says it, where the file system knows no locks or the file is
        another user's: then nothing may be written there that a second process would meet half-finished.
    """
    lock = FileLock(path)
    trouble = _trouble(lock, path, work)
    if trouble:
        print(f"{work}: {path} cannot be locked ({trouble}), so unfinished work is not kept there", flush=True)
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _trouble(lock: FileLock, path: Path, work: str) -> str:
    """Acquires the lock; a reason where there can be none, else an empty string."""
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # filelock's own on falling back; the caller tells it in one line
                lock.acquire(timeout=0)
        except Timeout:
            if not isinstance(lock, SoftFileLock):
                print(f"{work}: another process is doing this already, waiting for its result ({path})", flush=True)
                lock.acquire(timeout=-1, poll_interval=POLL_SECONDS)
    except (OSError, NotImplementedError) as error:
        return (getattr(error, "strerror", None) or str(error)).lower()
    if isinstance(lock, SoftFileLock):
        # What filelock takes where there are no locks: a file that outlives its process.
        lock.release()
        return "no locks on this file system"
    return ""
