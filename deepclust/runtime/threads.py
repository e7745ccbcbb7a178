"""How many threads computations on a CPU may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

# So many rows are few: clustering a graph of them is quicker on one thread (docs/benchmarks.md).
FEW_ROWS = 1 << 14


@contextmanager
def one_thread_for_few(n_rows: int) -> Iterator[None]:
    """Inside this context torch, NumPy and SciPy compute on one thread, where there is little to compute.

    Of many small products, threads wait for each other after each: they take no less time than one, and four to
    ten times as much on a machine whose cores are busy (docs/benchmarks.md). The result does not depend on the
    number of threads, either.

    Args:
        n_rows: that are computed with. Of more than `FEW_ROWS` nothing is changed.
    """
    if n_rows > FEW_ROWS:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
