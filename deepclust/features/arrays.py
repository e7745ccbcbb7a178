"""The one door for what comes in as arrays: features, labels, and rows that are compared.

Commands, estimators, FeatureSets and clusterers all take arrays through it. What it lets in has a known type and shape,
and lies where float32 computes.

Shape suffixes: N samples, D feature dimensions, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deepclust.runtime.errors import InputError

# Lengths of rows whose squares float32 holds, with room for sums of many of them.
SHORTEST, LONGEST = 1e-15, 1e15
LARGEST_CLASS = 2**31 - 1


def as_array(values: Any, name: str = "X") -> np.ndarray:
    """A NumPy array of whatever holds numbers or text: arrays, lists, torch tensors without their gradient.

    Args:
        values: bfloat16 and narrower floats become float32; an array stays itself, memory-mapped or not.
        name: for messages.

    Raises:
        InputError: if it is none, or a sparse or quantized tensor.
    """
    if isinstance(values, np.ndarray):
        return values
    try:
        return _of_tensor(values) if hasattr(values, "detach") else np.asarray(values)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"{name} is no array of numbers ({reason}): give a dense one") from None


def _of_tensor(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point() and str(tensor.dtype) not in ("torch.float16", "torch.float32", "torch.float64"):
        tensor = tensor.float()
    return tensor.resolve_conj().numpy()


def as_matrix(values: Any, name: str = "X") -> np.ndarray:
    """Features as N × D: float16 and float32 as they are, other numbers as float32.

    Raises:
        InputError: if they are no matrix of real numbers, or float32 cannot hold them.
    """
    matrix = as_array(values, name)
    if matrix.ndim != 2:
        raise InputError(f"{name} has shape {matrix.shape}: features must be a matrix, one row per sample")
    if 0 in matrix.shape:
        raise InputError(f"{name} is empty: shape {matrix.shape}")
    if matrix.dtype in (np.float16, np.float32):
        return matrix if min(matrix.strides) >= 0 else matrix.copy()  # torch takes no reversed rows
    if matrix.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {matrix.dtype} values: features must be real numbers")
    try:
        with np.errstate(over="raise"):
            return matrix.astype(np.float32)
    except FloatingPointError:
        raise InputError(f"{name} holds values above 3.4e38, the largest of float32: scale the features") from None


def as_labels(
    values: Any, n_rows: int, name: str = "X", class_names: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str] | None]:
    """Labels as int64 class ids from 0 on, and the classes' names where they have some.

    Whole numbers are class ids; text is numbered, by `class_names` where these hold all of it, else in sorted order.

    Args:
        values: one per row.
        n_rows: N.
        name: of the features, for messages.
        class_names: names that are known already.

    Raises:
        InputError: if there is not one class per row: NaN, fractions, negative numbers, empty text, other kinds of
            values.
    """
    labels = as_array(values, f"labels of {name}")
    if labels.ndim != 1 or len(labels) != n_rows:
        raise InputError(
            f"labels of {name} have shape {labels.shape}, but there are {n_rows} rows of features: give one label per "
            "row"
        )
    names = None if class_names is None else list(class_names)
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels):
        labels = labels.astype(str)
    if labels.dtype.kind == "U":
        own, numbers = np.unique(labels, return_inverse=True)
        if own[0] == "":
            missing = labels == ""
            raise InputError(
                f"labels of {name} are missing in {missing.sum()} of {n_rows} rows (first: row {_first(missing)}): "
                "leave out the rows without one, or give their class a name"
            )
        known = {label: index for index, label in enumerate(names or ())}
        if names is not None and known.keys() >= set(own.tolist()):
            return np.array([known[label] for label in own.tolist()])[numbers].astype(np.int64), names
        return numbers.astype(np.int64), [str(label) for label in own]
    if labels.dtype.kind not in "biuf":
        raise InputError(f"labels of {name} hold {labels.dtype} values: give class ids from 0 on, or text")
    first_bad = _first(~np.isfinite(labels)) if labels.dtype.kind == "f" else None
    if first_bad is None and labels.dtype.kind == "f":
        first_bad = _first(labels != np.floor(labels))
    if first_bad is None:
        first_bad = _first((labels < 0) | (labels > LARGEST_CLASS))
    if first_bad is not None:
        raise InputError(
            f"labels of {name} hold {labels[first_bad]} (row {first_bad}): class ids are whole numbers from 0 on; "
            "number the classes so, or leave out the rows without one"
        )
    ids = labels.astype(np.int64)
    if names is not None and ids.max() >= len(names):
        raise InputError(f"labels of {name} go up to {ids.max()}, but there are {len(names)} class names")
    return ids, names


def _first(bad: np.ndarray) -> int | None:
    return int(np.argmax(bad)) if bad.any() else None


class BadRows:
    """Rows that cannot be compared: NaN or infinite, all zero, or of a length whose square float32 does not hold.

    Args:
        zeros: whether zero rows can, as by Euclidean distance; rows near zero can then, too, beside longer ones.

    Example:
        >>> bad = BadRows()
        >>> bad.look(np.eye(3, dtype=np.float32))
        >>> bad.refuse("features")
    """

    def __init__(self, *, zeros: bool = False) -> None:
        self.zeros = zeros
        self._found: dict[str, tuple[int, int, float]] = {}  # kind: how many, number of the first, its largest value
        self._any_good = False

    def look(self, block_BD: np.ndarray, first: int | np.ndarray = 0, lengths_B: np.ndarray | None = None) -> None:
        """Look at a block of float32 or float64 rows.

        Args:
            block_BD: rows.
            first: number of the first row among all, or the number of each row.
            lengths_B: of the rows, where they are known.
        """
        if lengths_B is None:
            with np.errstate(all="ignore"):
                lengths_B = np.sqrt(np.einsum("bd,bd->b", block_BD, block_BD))
        suspects_S = np.flatnonzero(~((lengths_B > SHORTEST) & (lengths_B < LONGEST)))
        self._any_good |= len(suspects_S) < len(block_BD)
        if len(suspects_S) == 0:
            return
        largest_S = np.abs(block_BD[suspects_S], dtype=np.float64).max(axis=1)  # NaN where there is one
        kinds_S = np.where(largest_S > 1, "long", np.where(largest_S > 0, "short", "zero"))
        kinds_S[~np.isfinite(largest_S)] = "nan"
        for kind in np.unique(kinds_S).tolist():
            own = kinds_S == kind
            at = int(suspects_S[np.argmax(own)])
            number = first + at if isinstance(first, int) else int(first[at])
            count, earliest, largest = self._found.get(kind, (0, number, float(largest_S[np.argmax(own)])))
            self._found[kind] = (count + int(own.sum()), earliest, largest)

    def add(self, others: BadRows) -> None:
        """Count what was found among later rows, too."""
        self._any_good |= others._any_good
        for kind, (more, first, largest) in others._found.items():
            count, first, largest = self._found.get(kind, (0, first, largest))
            self._found[kind] = (count + more, first, largest)

    def refuse(self, name: str, n_rows: int | None = None) -> None:
        """End here if a row was bad.

        Args:
            name: of the features.
            n_rows: how many were looked at; None says nothing of it.

        Raises:
            InputError: naming how many rows are bad and the first of them.
        """
        for kind in ("nan", "zero", "long", "short"):
            if kind not in self._found or (self.zeros and (kind == "zero" or (kind == "short" and self._any_good))):
                continue
            count, first, largest = self._found[kind]
            rows = "rows" if n_rows is None else f"{count} of {n_rows} rows"
            where = f"(first: row {first})"
            if kind == "nan":
                raise InputError(f"{name}: {rows} hold NaN or infinite values {where}: remove or repair them")
            if kind == "zero":
                raise InputError(
                    f"{name}: {rows} are all zero {where} and have no direction for cosine similarity: remove them"
                )
            raise InputError(
                f"{name}: {rows} are {'longer' if kind == 'long' else 'shorter'} than float32 can square {where}, with "
                f"values up to {largest:.3g}: scale the features, such as to a mean length of 1"
            )


def check_rows(
    rows_SD: np.ndarray, numbers_S: np.ndarray | int = 0, *, name: str = "features", zeros: bool = False
) -> None:
    """Refuse bad rows of a matrix in memory; see `BadRows`.

    Args:
        rows_SD: float32 or float64.
        numbers_S: of the rows, for the message; or that of the first.

    Raises:
        InputError: naming how many rows are bad and the first of them.
    """
    bad = BadRows(zeros=zeros)
    bad.look(rows_SD, numbers_S)
    bad.refuse(name)
