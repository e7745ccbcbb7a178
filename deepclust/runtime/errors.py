"""The one exception that a user's mistake raises, and how the command line reports it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and what to do about it."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an `InputError` into one line on stderr and exit code 2; every other exception passes through."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
