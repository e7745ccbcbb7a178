"""Settings as dataclass fields that say what they mean and which values they take.

A setting is declared once: its name, type, default, meaning and range stand in one place. Checks, docstrings, the
command line's configuration and the estimators' signatures are derived from there.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from numbers import Integral, Real
from typing import Any

from deepclust.runtime.errors import InputError


def setting(
    default: Any = MISSING,
    about: str = "",
    *,
    choices: Iterable[str] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    whole: bool = False,
) -> Any:
    """A dataclass field with its meaning and its range.

    Args:
        default: its value where nothing is asked for; None makes the setting optional.
        about: what it does, in one or two sentences.
        choices: the words that it may be.
        at_least, above, at_most: the numbers that it may be.
        whole: only whole numbers.

    Example:
        >>> @dataclass(frozen=True)
        ... class Pace:
        ...     steps: int = setting(8, "steps per minute", at_least=1, whole=True)
    """
    limits = {"choices": tuple(choices) if choices else None, "at_least": at_least, "above": above, "at_most": at_most}
    return field(default=default, metadata={"about": about, "whole": whole, **limits})


def check_settings(settings: Any) -> None:
    """Check every `setting` of a dataclass instance.

    Raises:
        InputError: naming the first that is out of range, and what it may be.
    """
    for one in fields(settings):
        if "about" in one.metadata:
            _check(one, getattr(settings, one.name))


def _check(one: Field, value: Any) -> None:
    limits = one.metadata
    if value is None and one.default is None:
        return
    if limits["choices"] is not None:
        if value not in limits["choices"]:
            raise InputError(f"unknown {one.name} '{value}': choose one of {', '.join(limits['choices'])}")
        return
    if all(limits[key] is None for key in ("at_least", "above", "at_most")) and not limits["whole"]:
        return
    if limits["whole"] and (not isinstance(value, Integral) or isinstance(value, bool)):
        raise InputError(f"{one.name} is {value!r}: it must be a whole number{_range(limits, ', ')}")
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(f"{one.name} is {value!r}: it must be a number{_range(limits, ', ')}")
    if not math.isfinite(value):
        raise InputError(f"{one.name} is {value}: it must be a finite number{_range(limits, ', ')}")
    if not (
        (limits["at_least"] is None or value >= limits["at_least"])
        and (limits["above"] is None or value > limits["above"])
        and (limits["at_most"] is None or value <= limits["at_most"])
    ):
        raise InputError(f"{one.name} is {value}: it must be {_range(limits)}")


def _range(limits: Mapping[str, Any], before: str = "") -> str:
    low, above, high = limits["at_least"], limits["above"], limits["at_most"]
    if low is not None:
        return before + (f"{low:g} or more" if high is None else f"between {low:g} and {high:g}")
    if above is not None:
        return before + (f"above {above:g}" if high is None else f"above {above:g} and at most {high:g}")
    return before + f"at most {high:g}" if high is not None else ""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` with the known name that is spelled most like it; empty where none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse names that are not known.

    Args:
        given: the names.
        known: those there are.
        where: what they are settings of, for the message.

    Raises:
        InputError: naming the first unknown one and the nearest known one.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise InputError(f"{where} has no setting '{name}'{nearest(name, known)}: it has {', '.join(known)}")
