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
    number: bool = False,
    flag: bool = False,
    text: bool = False,
) -> Any:
    """A dataclass field with its meaning and its range.

    Args:
        default: its value where nothing is asked for; None makes the setting optional.
        about: what it does, in one or two sentences.
        choices: the words that it may be.
        at_least, above, at_most: the numbers that it may be.
        whole: only whole numbers.
        number: any finite number, where no range says so.
        flag: true or false.
        text: words, such as a path, and not empty.

    Example:
        >>> @dataclass(frozen=True)
        ... class Pace:
        ...     steps: int = setting(8, "steps per minute", at_least=1, whole=True)
    """
    limits = {"choices": tuple(choices) if choices else None, "at_least": at_least, "above": above, "at_most": at_most}
    kinds = {"whole": whole, "number": number, "flag": flag, "text": text}
    return field(default=default, metadata={"about": about, **kinds, **limits})


def check_settings(settings: Any) -> None:
    """Check every `setting` of a dataclass instance.

    Raises:
        InputError: naming the first that is out of range, and what it may be.
    """
    for one in fields(settings):
        if "about" in one.metadata:
            _check(one, getattr(settings, one.name))


def check_values(declared: Any, values: Mapping[str, Any], where: str = "") -> None:
    """Check plain values by the settings that a dataclass declares; names that it does not declare are passed over.

    Args:
        declared: the dataclass.
        values: by name.
        where: put before the names in messages, such as `trainer.`.

    Raises:
        InputError: naming the first that is out of range, and what it may be.
    """
    for one in fields(declared):
        if "about" in one.metadata and one.name in values:
            _check(one, values[one.name], where)


def _check(one: Field, value: Any, where: str = "") -> None:
    limits, name = one.metadata, where + one.name
    if value is None and one.default is None:
        return
    if limits["choices"] is not None:
        if value not in limits["choices"]:
            raise InputError(f"unknown {name} '{value}': choose one of {', '.join(limits['choices'])}")
        return
    if limits["flag"]:
        if not isinstance(value, bool):
            raise InputError(f"{name} is {value!r}: it must be true or false")
        return
    if limits["text"]:
        if not isinstance(value, str):
            raise InputError(f"{name} is {value!r}: it must be text; quotes make text of it, {name}=\\'{value}\\'")
        if not value.strip():
            raise InputError(f"{name} is empty: give it a value, or leave it out")
        return
    if all(limits[key] is None for key in ("at_least", "above", "at_most")) and not (
        limits["whole"] or limits["number"]
    ):
        return
    if limits["whole"] and (not isinstance(value, Integral) or isinstance(value, bool)):
        raise InputError(f"{name} is {value!r}: it must be a whole number{_range(limits, ', ')}")
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(f"{name} is {value!r}: it must be a number{_range(limits, ', ')}")
    if not (
        (limits["at_least"] is None or value >= limits["at_least"])
        and (limits["above"] is None or value > limits["above"])
        and (limits["at_most"] is None or value <= limits["at_most"])
    ):
        raise InputError(f"{name} is {value}: it must be {_range(limits)}")
    if not math.isfinite(value):
        raise InputError(f"{name} is {value}: it must be a finite number{_range(limits, ', ')}")


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
