"""What is wrong with a command line that Hydra refuses, in one line: Hydra says it in several."""

from __future__ import annotations

from collections.abc import Callable

from hydra.errors import MissingConfigException

from deepclust.runtime.settings import nearest


def told_in_one_line(
    error: Exception, command: str, choices_of: Callable[[str], list[str]], known_keys: Callable[[str], set[str]]
) -> str:
    """What is wrong with a command line, with the nearest name that there is.

    Args:
        error: of Hydra.
        command: the name of a file in conf/.
        choices_of: the names that a group may be given.
        known_keys: every setting of a command, also below the choices of this command line.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = [choice for choice in error.options or choices_of(group) if choice != "default"]
        if group:
            return f"{group}={name} is unknown{nearest(name, known)}: choose from {', '.join(sorted(known))}"
        return f"there is no configuration '{name}': leave out --config-name"
    unknown = _unknown_key(error)
    if unknown is not None:
        return _told_of_unknown(unknown, command, known_keys(command))
    asked = str(error)
    if "appears more than once in the final defaults list" in asked:
        name = asked.split(" appears")[0].split(".")[-1]
        return f"{name} is chosen twice: name it once"
    if "Ambiguous value for argument" in asked:
        key, _, value = asked.split("'", 1)[1].split("'\n")[0].rpartition("'")[0].partition("=")
        if not key:
            key, _, value = asked.split("'")[1].partition("=")
        return (
            f"{key}={value} holds a comma: put it in two kinds of quotes, \"{key}='{value}'\"; a list is "
            f"{key}=[{value}], a sweep over several values takes -m"
        )
    if "missing EQUAL" in asked:
        return f"'{asked.split(chr(39))[1]}' has no value: write setting=value"
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(said[:2])


def _told_of_unknown(key: str, command: str, known: set[str]) -> str:
    """What is wrong with a setting that Hydra does not find here."""
    group, *below = key.split(".")
    if key in known and below:  # below another choice than those of this command line
        return f"{key} is of {group}={below[0]}, which is not chosen: choose {group}={below[0]}, or leave it out"
    if group == "baselines" and len(below) > 1:
        return f"{key}: the options of a baseline are added, +{key}=VALUE, where it is chosen"
    listed = f"`deepclust {command.replace('_', '-')} --help` lists them"
    return f"no setting is called '{key}'{nearest(key, known)}: {listed}"


def _unknown_key(error: Exception) -> str | None:
    first = str(error).splitlines()[0]
    for start in ("Could not override '", "Could not append to config. An item is already at '"):
        if first.startswith(start) and "is not in struct" in str(error.__cause__ or error):
            return first.removeprefix(start).split("'")[0]
    if first.startswith("In '") or "No match in the defaults list" in str(error):
        words = [part for part in str(error).split("'") if part]
        return words[1] if len(words) > 1 else None
    return None
