"""Refuse methods that hold all pairs of samples before they allocate more memory than the machine has."""

from __future__ import annotations

from math import isqrt

from deepclust.runtime.devices import free_bytes
from deepclust.runtime.errors import InputError

# The share of the free memory that one method may use; the process needs the rest.
USABLE = 0.9


def check_memory(n_samples: int, needed: int, what: str, remedy: str) -> None:
    """Raises InputError where memory that grows with the square of N exceeds what is free.

    Args:
        n_samples: N.
        needed: bytes that N samples take.
        what: who needs them.
        remedy: what to do instead.
    """
    usable = int(USABLE * free_bytes())
    if needed > usable:
        reach = isqrt(usable * n_samples * n_samples // needed)
        raise InputError(
            f"{what} of {n_samples} samples needs {needed / 1e9:.3g} GB, and {usable / 1e9:.3g} GB are at hand, which "
            f"reach for {reach} samples: {remedy}"
        )
