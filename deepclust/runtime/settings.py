"""Settings as dataclass fields that say what they mean and which values they take.

A setting is declared once: its name, type, default, meaning and range stand in one place. Checks, docstrings, the
command line's configuration and the estimators' signatures are derived from there. Settings of a command are a `Group`:
a tree of such fields, which is checked whole before anything is read or written.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Union

from deepclust.runtime.errors import InputError

# Whole numbers without a limit of their own: what counts and sizes of the libraries below can hold.
MOST = 2**31 - 1
# What NumPy's generators take as a seed.
LARGEST_SEED = 2**32 - 1
RANGE = ("at_least", "above", "at_most", "below")


def setting(
    default: Any = MISSING,
    about: str = "",
    *,
    choices: Iterable[str] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    whole: bool = False,
    number: bool = False,
    flag: bool = False,
    text: bool = False,
    each: bool = False,
    optional: bool = False,
    such: Callable[[Any], str | None] | None = None,
    most: int = MOST,
) -> Any:
    """A dataclass field with its meaning and its range.

    Args:
        default: its value where nothing is asked for; None makes the setting optional.
        about: what it does, in one or two sentences.
        choices: the words that it may be; with a range or `whole`, a number as well.
        at_least, above, at_most, below: the numbers that it may be.
        whole: only whole numbers.
        number: any finite number, where no range says so.
        flag: true or false.
        text: words, such as a path, and not empty.
        each: a list, of which the rest is said of each member.
        optional: None is a value, whatever the default.
        such: what no rule above says: gets a value and returns what it must be, or None where it is.
        most: of whole numbers that have no `at_most`.

    Example:
        >>> @dataclass(frozen=True)
        ... class Pace:
        ...     steps: int = setting(8, "steps per minute", at_least=1, whole=True)
    """
    rule = {
        "choices": tuple(choices) if choices is not None else None,
        **{"at_least": at_least, "above": above, "at_most": at_most, "below": below},
        **{"whole": whole, "number": number, "flag": flag, "text": text},
        **{"each": each, "optional": optional or default is None, "such": such, "most": most},
    }
    return field(default=default, metadata={"about": about, **rule})


def seed_setting(default: int | None, about: str) -> Any:
    """A `setting` that seeds generators."""
    return setting(default, about, at_least=0, whole=True, most=LARGEST_SEED)


# A setting that those check who take it.
ANYTHING: Field = setting(None, such=lambda value: None)


def settings_of(declared: Any, *names: str) -> dict[str, Field]:
    """The settings that a dataclass declares, by name; those of `names` alone where there are some."""
    own = {one.name: one for one in fields(declared) if "about" in one.metadata}
    return {name: own[name] for name in names} if names else own


@dataclass(frozen=True)
class Group:
    """Settings below a common name.

    Attributes:
        title: what has these settings, in messages.
        members: by name, each a setting or a group.
        others: what members of any other name are; None refuses them.
        optional: whether None stands for no such group.
        needed: names that must be there.
        then: called with the values once each of them is good; raises InputError where they do not go together.
    """

    title: str
    members: Mapping[str, Member] = field(default_factory=dict)
    others: Member | None = None
    optional: bool = False
    needed: tuple[str, ...] = ()
    then: Callable[[Mapping[str, Any]], Any] | None = None

    def check(self, values: Any, where: str = "") -> None:
        """Check names, types and ranges of all values.

        Args:
            values: by name.
            where: put before the names in messages, such as `trainer.`.

        Raises:
            InputError: naming the first that is unknown or out of range, and what it may be.
        """
        if values is None and self.optional:
            return
        if not isinstance(values, Mapping):
            such = f", such as {where}{next(iter(self.members))}=…" if self.members else ""
            raise InputError(f"{where.rstrip('.')} is {values!r}: it is a group of settings{such}")
        if self.others is None:
            check_names(values, self.members, self.title)
        for name, value in values.items():
            member = self.members.get(name, self.others)
            if isinstance(member, Group):
                member.check(value, f"{where}{name}.")
            elif member is not None:
                check_value(member, value, f"{where}{name}")
        for name in self.needed:
            if name not in values:
                raise InputError(f"{where}{name} was taken away: {self.title} needs it, leave out ~{where}{name}")
        if self.then is not None:
            self.then(values)


Member = Union[Field, Group]  # noqa: UP007 - read before `Group` is there


def check_settings(settings: Any) -> None:
    """Check every `setting` of a dataclass instance.

    Raises:
        InputError: naming the first that is out of range, and what it may be.
    """
    for name, one in settings_of(settings).items():
        check_value(one, getattr(settings, name), name)


def check_value(one: Field, value: Any, name: str | None = None) -> None:
    """Check one value.

    Args:
        one: the setting.
        value: of it.
        name: for the message; None takes the setting's.

    Raises:
        InputError: saying what it may be.
    """
    rule, name = one.metadata, name or one.name
    if value is None and rule["optional"]:
        return
    if not rule["each"]:
        _check(rule, value, name)
        return
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{name} is {value!r}: it must be a list, such as [{value}]")
    for part in value:
        _check(rule, part, name)


def _check(rule: Mapping[str, Any], value: Any, name: str) -> None:
    if rule["such"] is not None:
        wanted = rule["such"](value)
        if wanted is not None:
            raise InputError(f"{name} is {value!r}: it must be {wanted}")
        return
    choices = rule["choices"]
    ranged = rule["whole"] or rule["number"] or any(rule[key] is not None for key in RANGE)
    if choices is not None:
        if value in choices:
            return
        if not ranged:
            near = nearest(str(value), map(str, choices))
            raise InputError(f"unknown {name} '{value}'{near}: choose one of {', '.join(map(str, choices))}")
    if rule["flag"]:
        if not isinstance(value, bool):
            raise InputError(f"{name} is {value!r}: it must be true or false")
    elif rule["text"]:
        _check_text(value, name)
    elif ranged:
        _check_number(rule, value, name, f", or {', '.join(choices)}" if choices else "")


def _check_text(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise InputError(f"{name} is {value!r}: it must be text; quotes make text of it, {name}=\\'{value}\\'")
    if not value.strip():
        raise InputError(f"{name} is empty: give it a value, or leave it out")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise InputError(f"{name} is {value!r}: it holds control characters, leave them out")


def _check_number(rule: Mapping[str, Any], value: Any, name: str, otherwise: str) -> None:
    if rule["whole"] and (not isinstance(value, Integral) or isinstance(value, bool)):
        raise InputError(f"{name} is {value!r}: it must be a whole number{_range(rule, ', ')}{otherwise}")
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(f"{name} is {value!r}: it must be a number{_range(rule, ', ')}{otherwise}")
    if not (
        (rule["at_least"] is None or value >= rule["at_least"])
        and (rule["above"] is None or value > rule["above"])
        and (rule["at_most"] is None or value <= rule["at_most"])
        and (rule["below"] is None or value < rule["below"])
    ):
        raise InputError(f"{name} is {value}: it must be {_range(rule)}{otherwise}")
    if not math.isfinite(value):
        raise InputError(f"{name} is {value}: it must be a finite number{_range(rule, ', ')}{otherwise}")
    if rule["whole"] and rule["at_most"] is None and abs(value) > rule["most"]:
        raise InputError(f"{name} is {value}: it must be at most {rule['most']}")


def _range(rule: Mapping[str, Any], before: str = "") -> str:
    low, above, high, below = (rule[key] for key in RANGE)
    top = None if high is None and below is None else f"at most {high:.10g}" if below is None else f"below {below:g}"
    if low is not None and high is not None:
        return f"{before}between {low:g} and {high:.10g}"
    if low is not None:
        return before + (f"{low:g} or more" if top is None else f"at least {low:g} and {top}")
    if above is not None:
        return before + (f"above {above:g}" if top is None else f"above {above:g} and {top}")
    return "" if top is None else before + top


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
