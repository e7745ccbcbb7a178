"""Tables with embeddings: Parquet, CSV, Feather, Arrow and AnnData files, converted once to a FeatureSet folder.

The folder is keyed by the file's content and the columns that were asked for. Its rows are memory-mapped from then on.
A table is read batch by batch and is never in memory as a whole, AnnData's excepted.

Shape suffixes: B rows of a batch, D feature dimensions.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepclust.features.columns import COLUMNS, Columns
from deepclust.features.csv_files import csv_batches
from deepclust.features.shards import MANIFEST, write_shard, write_split
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import file_sha256, fingerprint, make_folder, written_whole
from deepclust.runtime.locks import one_at_a_time

if TYPE_CHECKING:
    import pyarrow as pa

    from deepclust.features.table_columns import Roles

TABLES = (".parquet", ".pq", ".csv", ".tsv", ".feather", ".arrow", ".ipc", ".h5ad")
# Of the folders that tables are converted to; another one converts again.
VERSION = 1
# Of those of texts: earlier ones took an empty label for a class.
TEXT_VERSION = 2
TEXTS = (".csv", ".tsv")
BATCH_ROWS = 8192
SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class TableReading:
    """How tables are read.

    Attributes:
        columns: column names by role: `embedding`, `id`, `text`, `image`, `label`; what is not named is looked for.
        folder: where converted tables are kept.
    """

    columns: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = field(default_factory=lambda: Path(os.environ.get("DEEPCLUST_FEATURES") or "features") / "tables")


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name."""
    return path.suffix.lower() in TABLES


def converted(path: Path, reading: TableReading) -> Path:
    """The FeatureSet folder of a table, made where it is not there yet.

    Args:
        path: the file.
        reading: how.

    Raises:
        InputError: if the file cannot be read, the columns are not found, or its embeddings are no matrix of numbers.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    asked = {role: value for role, value in reading.columns.items() if value is not None}
    # The name of the folder that images lie under is part of the result.
    kind = path.suffix.lower()
    version = TEXT_VERSION if kind in TEXTS else VERSION
    key = fingerprint(file_sha256(path), kind, str(path.parent.resolve()), asked, version)
    folder = reading.folder / f"{path.stem}-{key}"
    if not (folder / MANIFEST).is_file():
        make_folder(reading.folder)
        with one_at_a_time(folder.with_name(f"{folder.name}.lock"), f"converting {path.name}"):
            if not (folder / MANIFEST).is_file():
                try:
                    _convert(path, asked, folder)
                except InputError:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
    return folder


def _convert(path: Path, asked: Mapping[str, Any], folder: Path) -> None:
    # Imported here: Arrow takes a moment, and who has no table needs none.
    from deepclust.features.arrays import as_labels
    from deepclust.features.table_columns import roles_of

    with opened(path, asked) as (schema, batches):
        roles = roles_of(schema, asked, str(path))
        writer = _Writer(folder, roles, schema, str(path))
        with writer:
            for batch in batches:
                writer.add(batch)
    columns = Columns(folder / COLUMNS, roles.beside, roles.of)
    labels = class_names = None
    if "label" in roles.of:
        values = columns.read([roles.of["label"]]).column(0)
        try:
            if values.null_count:
                raise InputError(f"labels of {path} are missing in {values.null_count} of {len(values)} rows")
            labels, class_names = as_labels(np.asarray(values.to_pylist()), len(values), str(path))
        except InputError as error:
            if "label" in roles.given:
                raise
            del columns.roles["label"]
            print(f"{path.name}: column '{roles.of['label']}' is kept, but is no label ({error.cause})", flush=True)
    paths, source = None, {"kind": "table", "file": path.name}
    named = roles.of.get("image") or roles.of.get("id")
    if named is not None:
        paths = [str(value) for value in columns.read([named]).column(0).to_pylist()]
    if "image" in roles.of:
        source = {"kind": "files", "root": str(path.parent.resolve()), "file": path.name}
    write_split(folder, writer.shards, labels, class_names, paths, {"source": source}, columns)
    print(_told(path, roles, writer, labels is not None), flush=True)


def _told(path: Path, roles: Roles, writer: _Writer, labelled: bool) -> str:
    """What was taken for what."""
    one = roles.embedding[0] if len(roles.embedding) == 1 else f"{roles.embedding[0]} … {roles.embedding[-1]}"
    of = {role: name for role, name in roles.of.items() if role != "label" or labelled}
    taken = ", ".join(f"{role} {name}" for role, name in of.items())
    kept = f"; kept: {', '.join(roles.kept)}" if roles.kept else ""
    out = f"; left out, as they hold no single values: {', '.join(roles.left_out)}" if roles.left_out else ""
    return (
        f"{path.name}: {writer.n_rows:,} rows, embedding {one} ({writer.dim} numbers)"
        f"{', ' + taken if taken else ''}{kept}{out}"
    )


class _Writer:
    """Writes batches of a table as shards of rows, and the columns beside them, group by group.

    Args:
        folder: to write.
        roles: of the columns.
        schema: of the table.
        where: the file, for messages.
    """

    def __init__(self, folder: Path, roles: Roles, schema: pa.Schema, where: str) -> None:
        self.folder, self.roles, self.where = make_folder(folder), roles, where
        self.schema = schema
        self.shards: list[dict[str, Any]] = []
        self.n_rows, self.dim = 0, 0
        self._blocks: list[np.ndarray] = []
        self._bytes = 0
        self._open = ExitStack()

    def __enter__(self) -> _Writer:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        fields = [self.schema.field(name) for name in self.roles.beside]
        # Categories come as texts: each batch may number them anew.
        plain = [one.with_type(one.type.value_type) if pa.types.is_dictionary(one.type) else one for one in fields]
        self._beside = pa.schema(plain)
        temporary = self._open.enter_context(written_whole(self.folder / COLUMNS))
        self._table = self._open.enter_context(parquet.ParquetWriter(temporary, self._beside))
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        if kind is None and self.n_rows == 0:
            self._open.__exit__(InputError, None, None)
            raise InputError(f"{self.where} has no rows")
        if kind is None:
            self._flush()
        self._open.__exit__(kind, value, trace)

    def add(self, batch: pa.RecordBatch) -> None:
        """Write the rows of a batch."""
        import pyarrow as pa

        if batch.num_rows == 0:
            return
        rows_BD = embeddings_of(batch, self.roles.embedding, self.where, self.n_rows)
        if self.dim not in (0, rows_BD.shape[1]):
            raise InputError(
                f"{self.where}: the embedding of row {self.n_rows} has {rows_BD.shape[1]} numbers, those before have "
                f"{self.dim}: give every row the same number"
            )
        self.dim = rows_BD.shape[1]
        self._blocks.append(rows_BD)
        self._bytes += rows_BD.nbytes
        self.n_rows += len(rows_BD)
        beside = [batch.column(name).cast(self._beside.field(name).type) for name in self.roles.beside]
        self._table.write_table(pa.Table.from_arrays(beside, schema=self._beside))
        if self._bytes >= SHARD_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._blocks:
            self.shards.append(write_shard(self.folder, len(self.shards), np.concatenate(self._blocks)))
        self._blocks, self._bytes = [], 0


def embeddings_of(batch: pa.RecordBatch, names: list[str], where: str, first: int = 0) -> np.ndarray:
    """(B, D) float16 or float32 embeddings of a batch of rows.

    Args:
        batch: with the columns.
        names: a list column, a column of lists that are written as text, or the number columns.
        where: the file, for messages.
        first: number of the batch's first row, for messages.

    Raises:
        InputError: if a row has none, or another number of them.
    """
    import pyarrow as pa

    columns = [batch.column(name) for name in names]
    for name, column in zip(names, columns):
        if column.null_count:
            row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise InputError(f"{where}: column '{name}' has no value in row {row}: leave out such rows")
    if len(columns) == 1 and not pa.types.is_primitive(columns[0].type):
        column = columns[0] if pa.types.is_nested(columns[0].type) else _lists_in_text(columns[0], names[0], where)
        return _of_lists(column, names[0], where, first)
    as_floats = [np.asarray(column.cast(pa.float32(), safe=False)) for column in columns]
    return np.stack(as_floats, axis=1)


def _of_lists(column: pa.Array, name: str, where: str, first: int) -> np.ndarray:
    import pyarrow as pa

    lengths_B = (
        np.full(len(column), column.type.list_size)
        if pa.types.is_fixed_size_list(column.type)
        else np.asarray(column.value_lengths())
    )
    other = np.flatnonzero(lengths_B != lengths_B[0])
    if len(other):
        raise InputError(
            f"{where}: the embedding '{name}' of row {first + int(other[0])} has {lengths_B[other[0]]} numbers, those "
            f"before have {lengths_B[0]}: give every row the same number"
        )
    if lengths_B[0] == 0:
        raise InputError(f"{where}: the embedding '{name}' of row {first} has no numbers: name another column")
    values = column.flatten()
    if values.null_count:
        row = first + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // int(lengths_B[0])
        raise InputError(f"{where}: the embedding '{name}' of row {row} lacks numbers: leave out that row")
    kind = pa.float16() if pa.types.is_float16(values.type) else pa.float32()
    flat = values if values.type == kind else values.cast(kind, safe=False)
    return np.asarray(flat).reshape(len(column), int(lengths_B[0]))


def _lists_in_text(column: pa.Array, name: str, where: str) -> pa.Array:
    """Lists such as `[0.1, 0.2]` or `[0.1 0.2]`, as CSV files hold them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    bare = pc.utf8_trim(column, characters="[]() \n\t")
    try:
        parts = pc.split_pattern_regex(bare, r"[\s,;]+")
        numbers = parts.flatten().cast(pa.float32())
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{where}: column '{name}' holds no lists of numbers ({str(error).splitlines()[0][:120]}): name the "
            "embedding, data.columns.embedding=NAME"
        ) from None
    return pa.ListArray.from_arrays(parts.offsets, numbers)


# --- kinds of files --------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, asked: Mapping[str, Any]) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """The schema of a table and its batches of rows, one after the other.

    Args:
        path: the file.
        asked: `embedding` chooses among the `obsm` of AnnData.

    Raises:
        InputError: if it is damaged or of another kind than its name says.
    """
    import pyarrow as pa

    kind = path.suffix.lower()
    try:
        if kind in (".parquet", ".pq"):
            import pyarrow.parquet as parquet

            with parquet.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
                yield file.schema_arrow, file.iter_batches(batch_size=BATCH_ROWS)
        elif kind in TEXTS:
            with csv_batches(path) as reader:
                yield reader.schema, iter(reader)
        elif kind == ".h5ad":
            table = _anndata(path, asked)
            yield table.schema, iter(table.to_batches(max_chunksize=BATCH_ROWS))
        else:
            with pa.memory_map(str(path)) as source:
                yield _arrow(source)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise InputError(f"{path} is no readable {kind} file, or is truncated ({reason})") from None


def _arrow(source: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """A Feather or Arrow file, or a stream of batches, as Hugging Face keeps data sets."""
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)
    return reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))


def _anndata(path: Path, asked: Mapping[str, Any]) -> pa.Table:
    """The `obs` of AnnData as columns, the names of its rows as ids, and one `obsm` as a list column."""
    import pyarrow as pa

    try:
        import anndata
    except ImportError:
        raise InputError(f"{path} is read with anndata: pip install 'deepclust[anndata]'") from None
    try:
        data = anndata.read_h5ad(path)
    except Exception as error:  # h5py and anndata each raise their own
        raise InputError(f"{path} is no readable .h5ad file ({str(error).splitlines()[0][:160]})") from None
    spaces = list(data.obsm)
    wanted = asked.get("embedding")
    if wanted is None and len(spaces) != 1:
        raise InputError(
            f"{path} has {len(spaces)} embeddings in obsm ({', '.join(spaces)}): name one, data.columns.embedding=KEY"
        )
    key = spaces[0] if wanted is None else wanted
    if key not in spaces:
        raise InputError(f"{path} has no obsm '{key}': it has {', '.join(spaces)}")
    rows_ND = np.ascontiguousarray(np.asarray(data.obsm[key]), dtype=np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.ravel()), rows_ND.shape[1])
    obs = pa.Table.from_pandas(data.obs.reset_index(drop=True), preserve_index=False)
    beside = [name for name in obs.column_names if name not in (key, "obs_name")]
    columns = {"obs_name": pa.array(list(map(str, data.obs_names))), **{name: obs[name] for name in beside}, key: lists}
    return pa.table(columns)
