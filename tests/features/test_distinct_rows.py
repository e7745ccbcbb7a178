"""Equal rows are found, whatever they are stored as."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.features.distinct_rows import distinct_rows


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_distinct_rows_are_numpys(dtype, monkeypatch):
    monkeypatch.setattr("deepclust.features.distinct_rows.BLOCK_ROWS", 7)
    rows = np.random.default_rng(0).integers(-1, 2, (60, 3)).astype(dtype)
    first_G, place_N = distinct_rows(rows)
    np.testing.assert_array_equal(first_G, np.sort(np.unique(rows, axis=0, return_index=True)[1]))
    np.testing.assert_array_equal(rows[first_G][place_N], rows)


def test_minus_zero_is_zero():
    assert distinct_rows(np.array([[0.0, 1.0], [-0.0, 1.0]]))[0].tolist() == [0]
