"""Threads: little is computed on one, after which there are as many as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from deepclust.neighbors import consensus, mine_neighbors
from deepclust.runtime.threads import FEW_ROWS, one_thread_for_few


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2):
        yield
    torch.set_num_threads(before)


def counts() -> set[int]:
    return {torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())}


def test_one_thread_inside_and_as_many_as_before_outside_also_after_an_error(two_threads):
    before = counts()
    with one_thread_for_few(10):
        assert counts() == {1}
    assert counts() == before
    with pytest.raises(ValueError, match="inside"), one_thread_for_few(10):
        raise ValueError("inside")
    assert counts() == before
    with one_thread_for_few(FEW_ROWS + 1):
        assert counts() == before


def test_a_consensus_of_few_rows_is_made_on_one_thread(two_threads, monkeypatch):
    seen = []
    made = consensus.spectral_labels
    monkeypatch.setattr(consensus, "spectral_labels", lambda *a, **k: seen.append(counts()) or made(*a, **k))
    rows = np.random.default_rng(0).standard_normal((150, 6)).astype(np.float32)
    neighbors = mine_neighbors(rows, 12)
    consensus.consensus_of_rows(rows, 3, neighbors=neighbors)
    consensus.views_of_rows(rows, 3, neighbors=neighbors)
    assert seen
    assert all(count == {1} for count in seen)
