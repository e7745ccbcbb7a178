"""Which column of a table is what: given by name, or found where only one can be meant.

The embedding is one list column of numbers, or a family of number columns such as `emb_0`, `emb_1`, …; `id`, `text`,
`image` and `label` are columns of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from deepclust.runtime.errors import InputError
from deepclust.runtime.settings import nearest

# Names by which the column of a role is known where nobody names it; upper and lower case are the same.
KNOWN_AS = {
    "id": ("id", "ids", "_id", "uid", "uuid", "key", "sample_id", "doc_id", "obs_name"),
    "text": ("text", "texts", "sentence", "document", "content", "caption"),
    "image": ("image", "image_path", "img_path", "path", "file", "filename", "file_name", "filepath", "file_path"),
    "label": ("label", "labels", "class", "target", "y"),
}
# Fewer number columns of one family are not taken for an embedding that nobody named.
FEWEST = 2
FAMILY = re.compile(r"(?P<stem>.*?)(?P<number>\d+)")


@dataclass(frozen=True)
class Roles:
    """What the columns of one table are.

    Attributes:
        embedding: a list column, or the number columns in their order.
        of: the columns of the other roles, by role.
        given: roles that somebody named.
        kept: columns of no role that stay beside the features.
        left_out: those that cannot, as they hold no single values.
    """

    embedding: list[str]
    of: dict[str, str] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    kept: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def beside(self) -> list[str]:
        """The columns that stay beside the features."""
        return [*dict.fromkeys(self.of.values()), *self.kept]


def roles_of(schema: pa.Schema, asked: Mapping[str, Any], where: str) -> Roles:
    """The roles of a table's columns.

    Args:
        schema: of the table.
        asked: column name by role; `embedding` may be a list of names, or a family, `emb_*`. None leaves a role open.
        where: the file, for messages.

    Raises:
        InputError: if a name is not there, or several columns may be the embedding.
    """
    asked = {role: value for role, value in asked.items() if value is not None}
    names = list(schema.names)
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(f"{where} has several columns named '{doubled[0]}': rename them")
    for role, name in asked.items():
        if role != "embedding" and name not in names:
            raise InputError(
                f"{where} has no column '{name}'{nearest(name, names)} for data.columns.{role}: it has {listed(names)}"
            )
    of = {role: str(name) for role, name in asked.items() if role != "embedding"}
    taken = set(of.values())
    for role, known in KNOWN_AS.items():
        found = [
            name
            for name in names
            if name.lower() in known and name not in taken and _fits(role, schema.field(name).type)
        ]
        if role not in of and len(found) == 1:
            of[role] = found[0]
            taken.add(found[0])
    embedding = _named(schema, asked["embedding"], where) if "embedding" in asked else _found(schema, taken, where)
    of = {role: name for role, name in of.items() if name not in embedding}
    rest = [name for name in names if name not in embedding and name not in of.values()]
    kept = [name for name in rest if is_single(schema.field(name).type)]
    return Roles(embedding, of, frozenset(asked), kept, [name for name in rest if name not in kept])


def _fits(role: str, kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if role == "id":
        return is_text(kind) or pa.types.is_integer(kind)
    if role == "label":
        return is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return is_text(kind)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_single(kind: pa.DataType) -> bool:
    """Whether a column holds one value per row that CSV and Parquet can write."""
    return not (pa.types.is_nested(kind) or pa.types.is_null(kind) or "binary" in str(kind) or "extension" in str(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists of numbers."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and _is_number(kind.value_type))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _named(schema: pa.Schema, asked: Any, where: str) -> list[str]:
    """The columns of `data.columns.embedding=`."""
    names = list(schema.names)
    wanted = [asked] if isinstance(asked, str) else list(asked)
    if isinstance(asked, str) and asked not in names and asked.endswith("*"):
        wanted = [name for name in names if name.startswith(asked[:-1]) and _is_number(schema.field(name).type)]
        if not wanted:
            raise InputError(f"{where} has no number columns '{asked}': it has {listed(names)}")
    for name in wanted:
        if name not in names:
            raise InputError(
                f"{where} has no column '{name}'{nearest(str(name), names)} for data.columns.embedding: it has "
                f"{listed(names)}"
            )
    kinds = [schema.field(name).type for name in wanted]
    if len(wanted) == 1 and (is_list(kinds[0]) or is_text(kinds[0])):
        return wanted
    for name, kind in zip(wanted, kinds):
        if not _is_number(kind):
            raise InputError(f"{where}: column '{name}' holds {kind}: an embedding is lists or columns of numbers")
    return wanted


def _found(schema: pa.Schema, taken: set[str], where: str) -> list[str]:
    """The one list column, else the one family of numbered number columns."""
    lists = [name for name in schema.names if is_list(schema.field(name).type)]
    fixed = [name for name in lists if pa.types.is_fixed_size_list(schema.field(name).type)]
    for found in (fixed, lists):
        if len(found) == 1:
            return found
    if lists:
        raise InputError(
            f"{where} has {len(lists)} columns that may be the embedding, {listed(lists)}: name one, "
            "data.columns.embedding=NAME"
        )
    families: dict[str, list[tuple[int, str]]] = {}
    for one in schema:
        numbered = FAMILY.fullmatch(one.name)
        if numbered and one.name not in taken and _is_number(one.type):
            families.setdefault(numbered["stem"], []).append((int(numbered["number"]), one.name))
    whole = {stem: sorted(members) for stem, members in families.items() if len(members) >= FEWEST}
    if len(whole) == 1:
        return [name for _, name in next(iter(whole.values()))]
    if whole:
        raise InputError(
            f"{where} has {len(whole)} families of number columns, {listed([f'{stem}*' for stem in whole])}: name one, "
            f"data.columns.embedding={next(iter(whole))}*"
        )
    floats = [name for name in schema.names if pa.types.is_floating(schema.field(name).type) and name not in taken]
    if len(floats) >= FEWEST and all(name in taken or name in floats for name in schema.names):
        return floats
    raise InputError(
        f"{where} has no column that is surely the embedding, among {listed(list(schema.names))}: name it, "
        "data.columns.embedding=NAME, [A,B,…] or PREFIX*"
    )


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for a message."""
    shown = ", ".join(map(str, names[:most]))
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
