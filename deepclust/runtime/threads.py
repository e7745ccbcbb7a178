"""How many threads computations on a CPU may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def one_thread_if(few: bool) -> Iterator[None]:
    """Inside this context torch, NumPy and SciPy compute on one thread, where there is little to compute.

    Many small products are no faster on several threads, which wait for each other after each. On a machine that does
    something else as well they wait for a turn: many times as long as one thread takes. On one thread the result does
    not depend on the number of threads, either.

    Args:
        few: whether there is little to compute; else nothing is changed.
    """
    if not few:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
