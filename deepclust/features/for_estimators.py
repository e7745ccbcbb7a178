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
    """scikit-learn's checks of X, which takes torch tensors and frames with a column of lists, too; options as of
    `validate_data`."""
    rows = as_array(X) if hasattr(X, "detach") else rows_of_frame(X) if hasattr(X, "__arrow_c_stream__") else X
    return validate_data(estimator, rows, **{"dtype": FLOATS, **checks})


def rows_of_frame(X: Any) -> Any:
    """(N, D) float32 rows of a DataFrame or an Arrow table that is one column of lists; others as they are.

    Args:
        X: what gives itself as a stream of Arrow batches: pandas, polars, Arrow.

    Raises:
        InputError: if there is more beside the lists, or they are of several lengths.

    Example:
        >>> import pyarrow as pa
        >>> rows_of_frame(pa.table({"embedding": [[1.0, 2.0], [3.0, 4.0]]})).shape
        (2, 2)
    """
    import pyarrow as pa

    from deepclust.features.table_columns import is_list, listed
    from deepclust.features.table_files import embeddings_of

    table = X if isinstance(X, pa.Table) else pa.table(X.head(1) if hasattr(X, "head") else X)
    lists = [one.name for one in table.schema if is_list(one.type)]
    if not lists:
        return X
    if len(table.schema) > 1:
        raise InputError(f"X has the columns {listed(table.schema.names)}: give the embedding alone, X[['{lists[0]}']]")
    batches = pa.table(X).combine_chunks().to_batches()
    return np.concatenate([embeddings_of(batch, lists, "X") for batch in batches])


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
