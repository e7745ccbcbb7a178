"""The one exception that a user's mistake raises, and how the command line reports it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# As torch says it: of a CPU, of a GPU, of sizes that no address reaches.
OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "Storage size calculation overflowed")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
# What a disk refuses, and what to do about it.
OF_THE_DISK = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space, or name a folder elsewhere"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions, or name another place"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "a file and a folder have one name: name another"),
    **dict.fromkeys((errno.ELOOP, errno.ENAMETOOLONG), "name another place"),
    errno.EIO: "the disk cannot be read or written",
}


class InputError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""

    @property
    def cause(self) -> str:
        """The message without what is to be done, for those who do it themselves."""
        return str(self).rsplit(": ", 1)[0]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an `InputError` into one line on stderr and exit code 2, and so what the machine refuses: a file that cannot
    be used, memory that it does not have. Every other exception passes through."""
    try:
        yield
    except (InputError, OSError, MemoryError, RuntimeError) as error:
        told = _told(error)
        if told is None:
            raise
        print("error: " + told.replace("\n", "\\n"), file=sys.stderr)
        raise SystemExit(2) from None


def _told(error: Exception) -> str | None:
    """What to say of it, or None for what is no fault of user or machine."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        place = "the disk" if error.filename is None else os.fsdecode(error.filename)
        if error.errno is None or (error.filename is None and error.errno not in FULL):
            return None
        remedy = OF_THE_DISK.get(error.errno, "name another place, or make this one usable")
        return f"{place}: {os.strerror(error.errno).lower()}: {remedy}"
    said = str(error).splitlines()[0] if str(error) else ""
    if said.startswith("Symlink loop"):  # pathlib's own
        return f"{said}: name another place"
    # torch has its own: RuntimeError on a CPU, a subclass of it on a GPU.
    if isinstance(error, MemoryError) or any(word in said for word in OUT_OF_MEMORY):
        return f"the memory does not suffice ({said[:160]}): take fewer heads, clusters or samples, or smaller batches"
    return None
