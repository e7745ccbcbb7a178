"""Many cells over processes: grouped by the space they share, each group in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from deepclust.runtime.errors import InputError
from deepclust.zero_shot.cells import Cell, CellStore, Row, run_space
from deepclust.zero_shot.data import RAW, DataSpec, LoadedData, load_data, load_split

Report = Callable[[str], None]


@dataclass(frozen=True)
class Runner:
    """Where the data lie, where cells go, and over how many processes.

    Attributes:
        folder: the run's folder.
        data: the data sets by key.
        features_dir, study: see `load_data`.
        workers: processes; 1 works in this one.
        retry: make cells again that were refused or failed.
        report: called with one line per finished space.
    """

    folder: Path
    data: Mapping[str, DataSpec]
    features_dir: str | None = None
    workers: int = 1
    retry: bool = False
    report: Report = print
    study: str | None = None

    def load(self, dataset: str, encoder: str) -> LoadedData:
        """See `load_data`; kept for the next call.

        Raises:
            InputError: if there is no such data set, and as `load_data`.
        """
        if dataset not in self.data:
            raise InputError(f"there is no data set '{dataset}': data has {', '.join(self.data)}")
        return _load(_Hashable(self.data[dataset]), encoder, self.features_dir, self.study)

    def check(self, datasets: Iterable[str], encoders: Iterable[str]) -> None:
        """Refuse a matrix that lacks features before its first cell is made, without reading the features.

        Raises:
            InputError: naming the first that are missing or made otherwise than the study's, optional ones left out.
        """
        for spec in (self.data[name] for name in dict.fromkeys(datasets)):
            for encoder in encoders:
                if spec.has(encoder) and not spec.optional and encoder != RAW:
                    load_split(spec, encoder, self.features_dir, self.study)

    def available(self, dataset: str, encoder: str) -> bool:
        """Whether the data set comes with the encoder; an optional one is left out where its features are missing.

        Raises:
            InputError: if the features are missing and the data set is not optional.
        """
        spec = self.data.get(dataset)
        if spec is not None and not spec.has(encoder):
            return False
        try:
            self.load(dataset, encoder)
        except InputError as error:
            if spec is None or not spec.optional:
                raise
            self.report(f"left out: {error}")
            return False
        return True

    def run(self, cells: Sequence[Cell]) -> list[Row]:
        """The rows of the cells, in their order; missing ones are made."""
        groups: dict[tuple[str, str, str], list[int]] = {}
        for place, cell in enumerate(cells):
            groups.setdefault(cell.space, []).append(place)
        store = CellStore(self.folder)
        rows: dict[int, Row] = {}
        open_groups: list[list[int]] = []
        for places in groups.values():
            data = self.load(*cells[places[0]].space[:2])
            kept = {place: store.read(cells[place], data, retry=self.retry) for place in places}
            rows.update({place: row for place, row in kept.items() if row is not None})
            if None in kept.values():
                open_groups.append([place for place, row in kept.items() if row is None])
        jobs = [[cells[place] for place in places] for places in open_groups]
        for places, (made, _) in zip(open_groups, self._run_groups(jobs), strict=True):
            rows.update(zip(places, made, strict=True))
        return [rows[place] for place in range(len(cells))]

    def _run_groups(self, jobs: Sequence[Sequence[Cell]]) -> list[tuple[list[Row], float]]:
        done: list[tuple[list[Row], float]] = []
        if self.workers == 1 or len(jobs) < 2:
            for job in jobs:
                done.append(self._run_group(job))
                self._report_group(job, done[-1], len(done), len(jobs))
            return done
        # Imported here: a run in one process needs none of it.
        from joblib import Parallel, delayed

        quiet = replace(self, workers=1, report=_report_nothing)
        parallel: Any = Parallel(n_jobs=self.workers, return_as="generator", batch_size=1)
        for job, made in zip(jobs, parallel(delayed(quiet._run_group)(job) for job in jobs), strict=True):
            done.append(made)
            self._report_group(job, made, len(done), len(jobs))
        return done

    def _run_group(self, job: Sequence[Cell]) -> tuple[list[Row], float]:
        started = time.perf_counter()
        rows = run_space(job, self.load(*job[0].space[:2]), CellStore(self.folder), retry=self.retry)
        return rows, time.perf_counter() - started

    def _report_group(self, job: Sequence[Cell], made: tuple[list[Row], float], n_done: int, n_jobs: int) -> None:
        rows, seconds = made
        refused = sum(bool(row["reason"]) for row in rows)
        dataset, encoder, reduction = job[0].space
        self.report(
            f"[{n_done}/{n_jobs}] {dataset} {encoder} {reduction}: {_count(len(rows))}"
            + (f", {refused} without a result" if refused else "")
            + f", {seconds:.0f} s"
        )


def _count(n_cells: int) -> str:
    return "1 cell" if n_cells == 1 else f"{n_cells} cells"


def _report_nothing(_: str) -> None:
    pass


class _Hashable:
    """A spec as a key of a cache: by its text, as its levels may be lists."""

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec
        self.text = repr(spec)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and self.text == other.text


@lru_cache(maxsize=12)
def _load(spec: _Hashable, encoder: str, features_dir: str | None, study: str | None) -> LoadedData:
    return load_data(spec.spec, encoder, features_dir, study)
