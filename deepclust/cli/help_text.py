"""Every setting of a command for its `--help`: name, value as it comes, what it means, and what it may be.

What it means is the comment of the command's file in conf/ where there is one, else what the code declares.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any

from deepclust.runtime.settings import RANGE, Group, Member

WIDTH, ASIDE, INDENT = 110, 34, "  "
# More choices are listed elsewhere in the help.
MOST_CHOICES = 16
LINE = re.compile(r"(?P<space> *)(?P<key>[\w/]+):(?P<rest>.*)")
COMMENT = re.compile(r"(?:^|\s)#\s?(?P<text>.*)")


def settings_text(values: Mapping[str, Any], group: Group, conf: Path, choices: Callable[[str], Sequence[str]]) -> str:
    """A line or more per setting.

    Args:
        values: as composed.
        group: the schema of the command.
        conf: the command's file, whose comments are shown.
        choices: from a setting that is chosen by name to its names; none for all others.
    """
    comments = comments_of(conf.read_text(encoding="utf-8")) if conf.is_file() else {}
    return "\n".join(_lines(values, group, "", comments, choices))


def comments_of(text: str) -> dict[str, tuple[list[str], str]]:
    """{key: (lines of comment above it, comment beside it)} of a YAML file; keys of groups are joined by dots.

    Example:
        >>> comments_of("# of all\\na: 1   # one\\nb:\\n  c: 2  # two")
        {'a': (['of all'], 'one'), 'b': ([], ''), 'b.c': ([], 'two')}
    """
    found: dict[str, tuple[list[str], str]] = {}
    above: list[str] = []
    within: list[tuple[int, str]] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.lstrip().removeprefix("#").strip())
            continue
        match = LINE.fullmatch(line)
        if match:
            depth = len(match["space"])
            within = [(space, key) for space, key in within if space < depth]
            within.append((depth, match["key"]))
            beside = COMMENT.search(match["rest"])
            found[".".join(key for _, key in within)] = (above, beside["text"].strip() if beside else "")
        above = []
    return found


def _lines(
    values: Mapping[str, Any],
    group: Group,
    where: str,
    comments: Mapping[str, tuple[list[str], str]],
    choices: Callable[[str], Sequence[str]],
) -> Iterator[str]:
    pad = INDENT * where.count(".")
    for name, value in values.items():
        member = group.members.get(str(name), group.others)
        above, beside = comments.get(f"{where}{name}", ([], ""))
        yield from (f"{pad}# {line}" for line in above)
        names = choices(str(name)) if not where else ()
        allowed = [] if len(names) > MOST_CHOICES else list(names) or _range(member)
        # What a comment says already is not said again.
        told = [beside or ("" if above else _about(member))]
        told.append("" if all(word in beside for word in allowed) else " | ".join(allowed))
        is_group = isinstance(value, Mapping) and bool(value)
        shown = "" if is_group else f" {_value(value)}"
        yield from _beside(f"{pad}{name}:{shown}", "; ".join(filter(None, told)))
        if is_group:
            below = member if isinstance(member, Group) else Group(str(name))
            yield from _lines(value, below, f"{where}{name}.", comments, choices)


def _beside(setting: str, told: str) -> list[str]:
    """A setting with what is to be said of it on its right, in as many lines as that takes."""
    if not told:
        return [setting]
    lines = textwrap.wrap(told, WIDTH - ASIDE)
    first = [f"{setting:{ASIDE - 2}}"] if len(setting) <= ASIDE - 3 else [setting, " " * (ASIDE - 2)]
    first[-1] += f"# {lines[0]}"
    return [*first, *(f"{'':{ASIDE - 2}}# {line}" for line in lines[1:])]


def _value(value: Any) -> str:
    """As a command line takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_value, value))}]"
    return "{}" if value == {} else str(value)


def _about(member: Member | None) -> str:
    return str(member.metadata.get("about", "")).rstrip(".") if isinstance(member, Field) else ""


def _range(member: Member | None) -> list[str]:
    """The values of a setting: words, and `1 or more`, `above 0`, `0 to 1`."""
    if not isinstance(member, Field):
        return []
    rule = member.metadata
    said = [*(rule["choices"] or ()), *(["true", "false"] if rule["flag"] else [])]
    low, above, high, below = (rule[key] for key in RANGE)
    if low is not None or above is not None or high is not None or below is not None:
        start = f"{low:g}" if low is not None else f"above {above:g}" if above is not None else ""
        end = f"{high:.10g}" if high is not None else f"below {below:g}" if below is not None else ""
        said.append(" to ".join(filter(None, (start, end))) + (" or more" if low is not None and not end else ""))
    return said
