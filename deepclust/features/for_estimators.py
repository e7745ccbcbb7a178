"""What scikit-learn expects of every estimator: its seed, its rows, and a `fit` that ends whole or changes nothing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from deepclust.features.arrays import as_array
from deepclust.runtime.errors import InputError

FLOATS = (np.float32, np.float16, np.float64)
# As NumPy's RandomState has it.
LARGEST_SEED = 2**32 - 1

Estimator = TypeVar("Estimator", bound=BaseEstimator)


def whole_fit(fit: Callable[[Estimator, Any, Any], Estimator]) -> Callable[..., Estimator]:
    """A `fit` that leaves the estimator as it was where it fails, fitted before or not."""

    @functools.wraps(fit)
    def fitting(self: Estimator, X: Any, y: Any = None) -> Estimator:
        fresh = copy.copy(self)
        fit(fresh, X, y)
        for name in vars(self).keys() - vars(fresh).keys():  # such as the column names of an earlier fit
            delattr(self, name)
        vars(self).update(vars(fresh))
        return self

    return fitting


def validated_rows(estimator: BaseEstimator, X: Any, **checks: Any) -> np.ndarray:
    """scikit-learn's checks of X, which takes torch tensors, too; options as of `validate_data`."""
    rows = as_array(X) if hasattr(X, "detach") else X
    return validate_data(estimator, rows, **{"dtype": FLOATS, **checks})


def seed_of(random_state: Any) -> int:
    """The seed that a `random_state` stands for: itself, or drawn from a `RandomState` or from NumPy's own (None).

    Raises:
        InputError: if it is none of them, or out of range.
    """
    whole = isinstance(random_state, int | np.integer) and not isinstance(random_state, bool)
    if whole and 0 <= random_state <= LARGEST_SEED:
        return int(random_state)
    if random_state is None or random_state is np.random or isinstance(random_state, np.random.RandomState):
        return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
    raise InputError(
        f"random_state is {random_state!r}: give a whole number from 0 to {LARGEST_SEED}, a numpy.random.RandomState, "
        "or None"
    )
