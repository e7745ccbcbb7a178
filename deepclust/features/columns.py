"""Columns that came with features: ids, texts and what else a table said of its rows; on disk until asked for.

Shape suffixes: S selected rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepclust.features.paths import Paths
from deepclust.runtime.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = "columns.parquet"
# What a column may be to us; all others are kept as they are.
ROLES = ("id", "text", "image", "label")
# What a column of a table may be.
TABLE_ROLES = ("embedding", *ROLES)


class Columns:
    """A Parquet file with one row per row of the features, or some rows of it.

    Args:
        path: the file.
        names: of its columns.
        roles: which of them holds the `id`, `text`, `image` or `label` of a sample.
        ids_S: the rows of the file; None takes all.
    """

    def __init__(
        self, path: Path, names: Sequence[str], roles: Mapping[str, str], ids_S: np.ndarray | None = None
    ) -> None:
        self.path, self.names, self.roles, self.ids_S = path, list(names), dict(roles), ids_S

    def some(self, ids_S: np.ndarray) -> Columns:
        """Those of some of these rows."""
        return Columns(self.path, self.names, self.roles, ids_S if self.ids_S is None else self.ids_S[ids_S])

    def of(self, role: str) -> Sequence[str] | None:
        """The texts of the column with a role, read when one is asked for; None where there is no such column."""
        return TextColumn(self, self.roles[role]) if role in self.roles else None

    def read(self, names: Sequence[str] | None = None) -> pa.Table:
        """Some columns, or all, as an Arrow table.

        Raises:
            InputError: if the file is gone or damaged.
        """
        import pyarrow.parquet as parquet

        try:
            table = parquet.read_table(self.path, columns=self.names if names is None else list(names))
        except Exception as error:  # Arrow has an error of its own for each kind of damage
            reason = str(error).splitlines()[0][:160]
            raise InputError(
                f"{self.path} cannot be read ({reason}): remove its folder and read the table again"
            ) from None
        return table if self.ids_S is None else table.take(self.ids_S)

    def facts(self) -> dict[str, Any]:
        """What a manifest says of them."""
        return {"names": self.names, "roles": self.roles}


class TextColumn(Paths):
    """A column as texts; a missing one is empty.

    Args:
        columns: with the file.
        name: of the column.
    """

    def __init__(self, columns: Columns, name: str) -> None:
        self.columns, self.name = columns, name

    def __len__(self) -> int:
        return self._n_rows if self.columns.ids_S is None else len(self.columns.ids_S)

    @cached_property
    def _n_rows(self) -> int:
        import pyarrow.parquet as parquet

        return parquet.read_metadata(self.columns.path).num_rows

    def read(self) -> list[str]:
        values = self.columns.read([self.name]).column(0).to_pylist()
        return ["" if value is None else str(value) for value in values]
