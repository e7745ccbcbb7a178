"""The FeatureSet: N × D frozen features of one split, in memory or memory-mapped, with what is known about them.

`deepclust.features.feature_files` reads them from disk and writes them.

Shape suffixes: N samples, D feature dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepclust.features.arrays import BadRows, as_labels, as_matrix
from deepclust.features.columns import Columns
from deepclust.features.paths import FilesUnder, Paths, SomePaths
from deepclust.features.rows import Rows, RowView, ShardedRows
from deepclust.features.shards import check_shards, write_shard, write_split
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint, make_folder

if TYPE_CHECKING:
    from deepclust.runtime.ranks import Ranks

# 1 GiB keeps a shard small enough to copy and checksum, large enough that ImageNet-21K is ~20 of them.
SHARD_BYTES = 1 << 30


@dataclass
class FeatureSet:
    """N × D features of one split, with what is known about them.

    Attributes:
        features: N × D float16 or float32, in memory or memory-mapped; index it by slice or integer array.
        labels: N integer class ids, or None.
        class_names: name of each class id, or None.
        paths: image path (or id) per row, or None; of a folder they are read when one is asked for.
        manifest: provenance: encoder, weights, transform, versions, source.
        root: the folder or file it was read from, or None.
        columns: what a table said of its rows beside that, or None.
    """

    features: Rows
    labels: np.ndarray | None = None
    class_names: list[str] | None = None
    paths: Sequence[str] | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    root: Path | None = None
    columns: Columns | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def dim(self) -> int:
        return self.features.shape[1]

    @property
    def n_classes(self) -> int | None:
        """How many distinct labels occur, or None without labels."""
        return None if self.labels is None else len(np.unique(self.labels))

    @property
    def reduction(self) -> dict[str, Any] | None:
        """What the features were reduced by (see `deepclust.reduction.splits`), or None."""
        return self.manifest.get("reduction")

    @property
    def files(self) -> Sequence[Path] | None:
        """The image file of each row, where the features were extracted from files; None otherwise."""
        source = self.manifest.get("source")
        if self.paths is None or not isinstance(source, dict) or source.get("kind") != "files":
            return None
        return FilesUnder(source["root"], self.paths)

    @property
    def texts(self) -> Sequence[str] | None:
        """The text of each row, where a table gave one; None otherwise."""
        return None if self.columns is None else self.columns.of("text")

    @property
    def ids(self) -> Sequence[str] | None:
        """The id of each row, where a table gave one; None otherwise."""
        return None if self.columns is None else self.columns.of("id")

    @classmethod
    def from_arrays(
        cls,
        features: Any,
        labels: Any = None,
        *,
        class_names: Sequence[str] | None = None,
        paths: Sequence[str] | None = None,
        manifest: dict[str, Any] | None = None,
        name: str = "features",
    ) -> FeatureSet:
        """A FeatureSet over arrays (NumPy, or a CPU torch tensor). float64 becomes float32.

        Raises:
            InputError: if the features are not an N × D numeric matrix, labels are no classes, or labels or paths are
                of another length.
        """
        rows = features if isinstance(features, ShardedRows) else as_matrix(features, name)
        n_rows = len(rows)
        checked_labels = None
        names = None if class_names is None else list(class_names)
        if labels is not None:
            checked_labels, names = as_labels(labels, n_rows, name, class_names)
        if paths is not None and len(paths) != n_rows:
            raise InputError(f"{name} has {n_rows} rows but {len(paths)} paths: give one path per row")
        return cls(
            rows,
            checked_labels,
            names,
            paths if paths is None or isinstance(paths, Paths) else list(paths),
            dict(manifest or {}),
        )

    def blocks(self, rows: int = 16384, share: slice | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, float32 block of at most `rows` rows), in order; of some consecutive rows, or of all."""
        first, end, _ = (share or slice(None)).indices(len(self))
        for start in range(first, end, rows):
            yield start, np.asarray(self.features[start : min(start + rows, end)], dtype=np.float32)

    def mean_over_rows(
        self, part_of: Callable[[np.ndarray], np.ndarray], start: np.ndarray, ranks: Ranks
    ) -> np.ndarray:
        """What a block of rows makes, summed over all blocks and divided by N.

        Args:
            part_of: from a float32 block to its sum.
            start: zeros of the sum's shape and type, which are changed.
            ranks: the processes that share the rows, each of which calls and gets the same mean.
        """
        with ranks.all_or_none():
            for _, block in self.blocks(share=ranks.share(len(self))):
                start += part_of(block)
        return ranks.sum(start) / len(self)

    def select(self, rows: np.ndarray) -> FeatureSet:
        """The FeatureSet of the given rows (a boolean mask or integer ids), copied into memory."""
        ids = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows)
        return FeatureSet(
            np.asarray(self.features[ids]),
            None if self.labels is None else self.labels[ids],
            self.class_names,
            None if self.paths is None else SomePaths(self.paths, ids),
            dict(self.manifest),
            columns=None if self.columns is None else self.columns.some(ids),
        )

    def view(self, rows: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> FeatureSet:
        """The FeatureSet of the rows of a boolean mask, with labels of their own; features stay where they are."""
        ids = np.flatnonzero(rows)
        everything = len(ids) == len(self)
        return FeatureSet(
            self.features if everything else RowView(self.features, ids),
            labels,
            list(class_names),
            self.paths if everything or self.paths is None else SomePaths(self.paths, ids),
            self.manifest,
            self.root,
            self.columns if everything or self.columns is None else self.columns.some(ids),
        )

    def check(self, name: str = "features", ranks: Ranks | None = None) -> FeatureSet:
        """Refuse NaN, infinite and zero rows, and those too long or short for float32.

        Those of a folder are compared with its checksums meanwhile, unless they are some of its rows only.

        Args:
            name: for messages.
            ranks: the processes that share the rows and files, each of which calls, and all of which refuse; None: this
                one alone.

        Returns:
            Itself, so that a loader can end with it.

        Raises:
            InputError: naming how many rows are bad and the first of them, or the file that differs from its checksum;
                or if rows are one number each, whose cosines say nothing.
        """
        from deepclust.runtime.ranks import ALONE  # imports torch, which whoever opens features need not

        if self.dim < 2:
            raise InputError(f"{name}: n_features={self.dim}, and a direction needs at least 2: give more features")
        ranks, bad = ranks or ALONE, BadRows()
        with ranks.all_or_none(), ThreadPoolExecutor(1) as background:
            compared: Future[None] | None = None
            if self.root is not None and self.manifest.get("shards") and not isinstance(self.features, RowView):
                shards = self.manifest["shards"][ranks.rank :: ranks.world_size]
                compared = background.submit(check_shards, self.root, shards)
            for start, block in self.blocks(share=ranks.share(len(self))):
                bad.look(block, start)
            if compared is not None:
                compared.result()
        found, *others = ranks.gather_objects(bad)
        for other in others:
            found.add(other)
        found.refuse(name, len(self))
        return self

    def fingerprint(self, *, times: bool = True) -> str:
        """Digest of the content: equal features give equal digests, whatever file they came from.

        A folder is fingerprinted by its manifest's checksums with the size and modification time of each shard,
        so that 20 GB need not be read again; everything else by its bytes. A view is its base and its rows.

        Args:
            times: whether the times count, which a copy of the folder does not keep.
        """
        if isinstance(self.features, RowView):
            whole = FeatureSet(self.features.base, manifest=self.manifest, root=self.root)
            return fingerprint(whole.fingerprint(times=times), self.features.ids_S)
        shards = self.manifest.get("shards")
        if self.root is not None and shards:
            stats = [(self.root / shard["file"]).stat() for shard in shards]
            return fingerprint(shards, [(stat.st_size, *([stat.st_mtime_ns] if times else [])) for stat in stats])
        return fingerprint(np.asarray(self.features))

    def save(self, folder: str | os.PathLike, *, shard_bytes: int = SHARD_BYTES) -> Path:
        """Write a FeatureSet folder; the manifest comes last, so that an interrupted save is not taken for one."""
        folder = make_folder(Path(folder))
        row_bytes = max(1, self.features.shape[1] * self.features.dtype.itemsize)
        rows_per_shard = max(1, shard_bytes // row_bytes)
        shards = []
        for index, start in enumerate(range(0, len(self), rows_per_shard)):
            shards.append(write_shard(folder, index, np.asarray(self.features[start : start + rows_per_shard])))
        write_split(folder, shards, self.labels, self.class_names, self.paths, self.manifest, self.columns)
        return folder
