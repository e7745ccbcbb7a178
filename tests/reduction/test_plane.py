"""The plane of a map is that of `reduction=pca`, whose products are in float64."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.reduction.plane import BLOCK_ROWS, principal_plane
from deepclust.reduction.reduction import Reduction


def drawn(n_samples: int, dim: int, *, offset: float = 0.0) -> np.ndarray:
    """Two directions stand out, so that there is one plane."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((n_samples, 2)) * (3, 2)
    rows = hidden @ rng.standard_normal((2, dim)) + rng.standard_normal((n_samples, dim)) / 2
    return (rows + offset).astype(np.float32)


@pytest.mark.parametrize(
    "rows",
    [
        drawn(300, 16),
        drawn(300, 16).astype(np.float16),
        drawn(300, 16, offset=1000),
        drawn(20, 60),
        drawn(2 * BLOCK_ROWS + 5, 8),
        drawn(50, 2),
        np.hstack([drawn(300, 6), np.full((300, 2), 0.1, np.float32)]),
        drawn(300, 8) * np.float32(1e6),
    ],
    ids=["float32", "float16", "far from zero", "few rows", "several blocks", "two", "constant", "long rows"],
)
def test_it_is_that_of_the_reduction(rows):
    expected = Reduction("pca", 2).fit_transform(rows) if rows.shape[1] > 2 else None
    found = principal_plane(rows)
    assert (found.shape, found.dtype) == ((len(rows), 2), np.float32)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-2)
    if expected is not None:
        np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_the_same_rows_have_the_same_places():
    rows = drawn(500, 40)
    np.testing.assert_array_equal(principal_plane(rows), principal_plane(rows.copy()))
