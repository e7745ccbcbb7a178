"""The one exception that a user's mistake raises, and how the command line reports it."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Turn an `InputError`, and what the disk refuses, into one line on stderr and exit code 2.

    Every other exception passes through.
    """
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        place = error.filename or ("the disk" if error.errno in FULL else None)
        if error.errno not in OF_THE_DISK or place is None:
            raise
        print(f"error: {place}: {(error.strerror or '').lower()}: {OF_THE_DISK[error.errno]}", file=sys.stderr)
        raise SystemExit(2) from None
