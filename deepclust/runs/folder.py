"""The run folder: where the artefacts of one run lie.

config.yaml                 what was asked for
run.lock                    locked while a run writes here
deepclust.sha256            checksums of everything here: `deepclust verify FOLDER` compares them
identity.json               the settings that decide the results, and digests of the data
reduction.json              what the features were reduced by, where they were
checkpoints/<method>.ckpt   newest training state of each loss; once it is finished its heads alone. <method>.json: the
                            cut and the temperature of its heads
exploration/<method>.json   the tree of clusters and what speaks for each cut, with n_clusters=auto or bounds
clusterings/<method>.npz    the training split; <method>_<split>.npz for the others
results.json, results.md    one row per (method, split)
samples.parquet, .csv       every sample and its cluster by every method; samples_test: those of the test split
clusters.parquet, .csv      every cluster of every method: name, size, its most typical samples
contact_sheets/<method>/    the most confident images of each cluster
report.html                 the run as one page, by `deepclust report`
edited/, handed_on/         what `deepclust edit` made of it
selection.json, selection/  which clustering was chosen without labels, with select=
evaluation.json, evaluation/, other_data/, overclustering/, cuts/      by `deepclust evaluate`
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deepclust.clustering import Clustering
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import keep_checksums, read_yaml, remove_temporaries, written_whole
from deepclust.runtime.locks import claimed


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run's artefacts."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def identity(self) -> Path:
        return self.path / "identity.json"

    @property
    def reduction(self) -> Path:
        return self.path / "reduction.json"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    def checkpoint(self, method: str) -> Path:
        return self.path / "checkpoints" / f"{method}.ckpt"

    def exploration(self, method: str) -> Path:
        return self.path / "exploration" / f"{method}.json"

    def clustering(self, method: str, split: str = "train") -> Path:
        return self.path / "clusterings" / (f"{method}.npz" if split == "train" else f"{method}_{split}.npz")

    def has_finished(self, method: str, splits: Iterable[str], identity: str | None = None) -> bool:
        """Whether a method left a clustering of every split; that of the training split is written last.

        One that is damaged is none; a line on the console says so.

        Args:
            identity: the digest that the clusterings must name; None: any, as those of old runs name none.
        """
        left = [self.clustering(method, split) for split in splits]
        if not all(path.is_file() for path in left):
            return False
        try:
            return all(identity in (None, clustering.identity) for clustering in map(Clustering.load, left))
        except InputError as error:
            print(f"{error.cause}: made again", flush=True)
            return False

    def trained_methods(self) -> list[str]:
        """The losses that left a checkpoint, in alphabetical order; dotted files are what a kill left half-written."""
        left = (self.path / "checkpoints").glob("*.ckpt")
        return sorted(path.stem for path in left if not path.name.startswith("."))

    def saved_methods(self) -> list[str]:
        """The methods that left a clustering of the training split, in alphabetical order."""
        left = [path for path in (self.path / "clusterings").glob("*.npz") if not path.name.startswith(".")]
        return sorted(path.stem for path in left if not path.stem.endswith("_test"))

    @contextmanager
    def claimed(self, *, resume: bool) -> Iterator[None]:
        """Keep every other run out of the folder. One process of a run claims it for all.

        Args:
            resume: whether a run may be there already.

        Raises:
            InputError: if another run writes here, or a run is there that is not to be continued.
        """
        taken = f"another run is writing to {self.path}: wait for its end, or choose another run_dir"
        with claimed(self.path / "run.lock", taken):
            # Asked again under the lock: another run may have begun and ended since it was asked first.
            if not resume:
                self.check_free()
            keep_checksums(self.path)
            remove_temporaries(self.path)
            yield

    def check_free(self) -> None:
        """Raises InputError if the folder holds a run."""
        if self.config.exists():
            raise InputError(
                f"{self.path} holds a run already: continue it with resume={self.path}, or choose another run_dir"
            )

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Note down what was asked for."""
        with written_whole(self.config) as temporary:
            temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def read_config(self) -> dict[str, Any]:
        """What the run was asked for.

        Raises:
            InputError: if it left no note of it, or one that cannot be read.
        """
        if not self.config.is_file():
            raise InputError(f"{self.path} holds no config.yaml, so its data are not known: name them with data=")
        config = read_yaml(self.config, "restore it from a copy, or name the data with data= and features alone")
        if not isinstance(config, dict):
            raise InputError(f"{self.config} holds no settings: name a run folder of `deepclust train`")
        return {str(name): value for name, value in config.items()}
