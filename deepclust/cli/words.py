"""What is wrong with the words of a command line, before Hydra composes them: it would say so in many lines."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import nearest

# What takes the folder of a run.
OF_A_RUN = ("assign", "edit", "evaluate", "export", "report")


def read_words(words: list[str], groups: Collection[str], several: Collection[str], command: str) -> list[Override]:
    """The settings of a command line.

    Args:
        words: without the program's name.
        groups: settings that are chosen by name.
        several: those of them of which there may be more than one.
        command: of deepclust, for messages.

    Raises:
        InputError: if a word is no option and no setting, or a group is given what is no name.
    """
    parser = get_args_parser()
    options = [option for action in parser._actions for option in action.option_strings]

    def refuse(message: str) -> NoReturn:
        words = message.removeprefix("unrecognized arguments: ").split()
        near = nearest(words[0], options) if message != " ".join(words) and words else ""
        raise InputError(f"{message}{near}: settings are setting=value, --help lists them")

    parser.error = refuse  # type: ignore[method-assign, assignment]
    read = []
    for word in parser.parse_intermixed_args(words).overrides:
        if word.startswith(("=", "@")):
            raise InputError(f"'{word}' names no setting: write setting=value")
        if "=" not in word and not word.startswith("~"):
            raise InputError(f"'{word}' has no value: write {_meant_by(word, command)}")
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            raise InputError(_unreadable(word, error)) from None
        if override.key_or_group in groups:
            _check_choice(override, override.key_or_group in several)
        read.append(override)
    return read


def _meant_by(word: str, command: str) -> str:
    """The setting that a place without a name is, where that can be told."""
    if command in OF_A_RUN and (Path(word).expanduser() / "config.yaml").is_file():
        return f"run={word}"
    return f"edits={word}" if command == "edit" and word.endswith(".json") else "setting=value"


def _unreadable(word: str, error: Exception) -> str:
    key, _, value = word.partition("=")
    reason = str(error.__cause__ or error).splitlines()[0] if "while evaluating" in str(error) else ""
    return (
        f"{word} cannot be read{f' ({reason})' if reason else ''}: put a value with signs such as = ( ) [ ] {{ }} into "
        f"two kinds of quotes, \"{key}='{value}'\""
    )


def _check_choice(override: Override, several: bool) -> None:
    """Refuse a group that is taken away, added again, or given what is no name."""
    group, said = override.key_or_group, override.input_line
    if override.is_delete():
        raise InputError(f"{said} takes away what the command needs: choose {group}=NAME instead")
    if override.is_add() and not override.is_force_add() and group != "experiment":
        raise InputError(f"{said}: {group} is chosen by name, {group}=NAME without the +")
    value = None if override.is_sweep_override() else override.value()
    if override.is_sweep_override() or isinstance(value, dict):  # settings of the group
        return
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{said}: {group} is chosen by name, {group}=NAME; leave it out for what is usual")
    if isinstance(value, list) and not several:
        raise InputError(f"{said}: there is one {group} in a run; -m {group}=A,B makes a run of each")
