"""CSV files as they come: which sign separates columns, which one decimals, whether there is a line of names.

Spreadsheets of languages with a decimal comma separate columns by semicolons, and their `Unicode text` is UTF-16 with
tabs.
"""

from __future__ import annotations

import csv
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepclust.runtime.errors import InputError

MARKS_OF_UTF16 = (b"\xff\xfe", b"\xfe\xff")
NUMERAL_WITH_COMMA = re.compile(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*")


@dataclass(frozen=True)
class Writing:
    """How a CSV file is written.

    Attributes:
        encoding: of its text.
        delimiter: between columns.
        decimal: before the decimals of a number.
        named: whether its first line names the columns.
    """

    encoding: str
    delimiter: str
    decimal: str
    named: bool


def writing_of(path: Path) -> Writing:
    """Tell how a file is written from its first two lines.

    A line that is all numbers, other than 0, 1, 2 …, names nothing.

    Raises:
        OSError, UnicodeError: if the file cannot be read.
    """
    with open(path, "rb") as beginning:
        encoding = "utf-16" if beginning.read(2) in MARKS_OF_UTF16 else "utf-8-sig"
    errors = "strict" if encoding == "utf-16" else "replace"
    with open(path, encoding=encoding, errors=errors, newline="") as stream:
        lines = list(itertools.islice(stream, 64))
    first = lines[0] if lines else ""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(first)
    rows = list(itertools.islice(csv.reader(lines, delimiter=delimiter), 2))
    comma = delimiter != "," and any(NUMERAL_WITH_COMMA.fullmatch(word) for row in rows for word in row)
    decimal = "," if comma else "."
    names = rows[0] if rows else []
    numbers = bool(names) and all(_is_numeral(word.replace(decimal, ".")) for word in names)
    return Writing(encoding, delimiter, decimal, not numbers or names == [str(number) for number in range(len(names))])


def _delimiter(line: str) -> str:
    """A comma, unless the line is in parts by another sign alone: commas are in all parts but words, as decimals."""
    for sign in ("\t", ";"):
        parts = line.strip("\r\n").split(sign)
        if len(parts) > 1 and all("," not in part or NUMERAL_WITH_COMMA.fullmatch(part) for part in parts):
            return sign
    return ","


def csv_batches(path: Path) -> Any:
    """A reader of the batches of a CSV file.

    Raises:
        InputError: if a column is no UTF-8 text.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    writing = writing_of(path)
    encoding = "utf8" if writing.encoding == "utf-8-sig" else writing.encoding  # Arrow drops the mark by itself
    reader = arrow.open_csv(
        path,
        read_options=arrow.ReadOptions(
            autogenerate_column_names=not writing.named, block_size=16 << 20, encoding=encoding
        ),
        parse_options=arrow.ParseOptions(delimiter=writing.delimiter, newlines_in_values=True),
        convert_options=arrow.ConvertOptions(strings_can_be_null=False, decimal_point=writing.decimal),
    )
    for one in reader.schema:
        if pa.types.is_binary(one.type):  # Arrow's type for texts that it cannot read
            raise InputError(f"{path}: column '{one.name}' holds bytes that are no UTF-8: save the file as UTF-8")
    return reader


def _is_numeral(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
