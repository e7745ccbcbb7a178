"""What a run is: the settings that decide its results, and a digest of its data.

identity.json in a run folder holds it, and every checkpoint and clustering names its method's part by a digest. What
was made otherwise is never taken over.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepclust.clusterers import make_clusterer
from deepclust.features.dataset import Dataset
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint, read_json, write_json

if TYPE_CHECKING:
    from deepclust.runs.experiment import Experiment

Settings = dict[str, Any]


@dataclass(frozen=True)
class Identity:
    """Settings as JSON holds them.

    Attributes:
        data: a digest of the features and of the labels of every split, by what it is of.
        shared: what all methods of the run have in common.
        methods: what decides the result of one method beside it, by its name.
        asked: what decides which rows results.json has.
        results_of: what was asked for when results.json was written; None before.
    """

    data: Settings
    shared: Settings
    methods: dict[str, Settings]
    asked: Settings
    results_of: Settings | None = None

    @classmethod
    def of(cls, run: Experiment) -> Identity:
        """That of an experiment. Where things lie, devices and loggers are no part of it."""
        data = digests_of(run.dataset)
        methods: dict[str, Any] = {}
        for recipe in run.recipes:
            methods[recipe.loss.name] = {
                **recipe.as_dict(),
                "trainer.precision": str(run.trainer.precision),
                **{f"trainer.{name}": value for name, value in run.trainer.more.items()},
                "neighbors.method": run.mining.method,
                "neighbors.recall": run.mining.recall,
                "neighbors.engine": run.mining.engine,
            }
        for name, options in run.baselines.items():
            most = run.n_clusters if run.bounds is None else run.bounds[1]
            settings = make_clusterer(name, **{"n_clusters": most, "seed": run.seed, **options}).settings
            if run.bounds is not None and "n_clusters" not in options:
                settings = {key: value for key, value in settings.items() if key != "n_clusters"}  # not known yet
            methods[name] = settings
        asked: Settings = {"methods": run.methods(), "silhouette": run.silhouette, "select": None}
        if run.choosing is not None:
            # Candidates are kept in the folder by their names alone.
            methods |= {f"select's {name}": dict(options) for name, options in run.choosing.baselines.items()}
            methods |= {f"select's {one.kind}": one.settings for one in run.choosing.reductions}
            asked["select"] = [
                list(run.choosing.baselines),
                [one.kind for one in run.choosing.reductions],
                list(run.choosing.n_clusters),
            ]
        asked_for = run.n_clusters if run.bounds is None else run.bounds
        shared: Settings = {"seed": run.seed, "n_clusters": asked_for, "reduction": run.reduction.settings}
        if run.constraints is not None:
            shared["constraints"] = fingerprint(Path(run.constraints).expanduser().read_bytes())
        return cls(*json.loads(json.dumps([data, shared, methods, asked], default=str)))

    @classmethod
    def read(cls, path: Path) -> Identity | None:
        """What `write` left; None where there is none: the run is of a version without identities.

        Raises:
            InputError: if the file cannot be read.
        """
        if not path.is_file():
            return None
        try:
            return cls(**read_json(path, "restore it from a copy, or start a new run"))
        except TypeError as error:
            raise InputError(f"{path} is no identity of a run ({str(error).splitlines()[0]})") from None

    def write(self, path: Path) -> None:
        write_json(path, vars(self))

    def digest(self, method: str) -> str:
        """Names a method's part: that of its checkpoint and clusterings."""
        return fingerprint(self.data, self.shared, self.methods[method])

    def check_data(self, dataset: Dataset, folder: Path) -> None:
        """Refuse features that are not those of the run: its clusters would be scored and shown on other samples.

        Labels may have been corrected since; a warning says so.

        Args:
            dataset: read from the place that the run had its data from.
            folder: of the run, for messages.

        Raises:
            InputError: naming the split whose features have changed.
        """
        for what, digest in digests_of(dataset).items():
            if self.data.get(what) == digest:
                continue
            if what.startswith("features"):
                raise InputError(
                    f"{folder} is a run on other data than are there now (the {what} differ): put back what it was "
                    "run on, or run again"
                )
            print(
                f"warning: the {what} are not those that {folder} was scored by; they count as they are now",
                file=sys.stderr,
            )

    def check_own(self, path: Path, method: str, named: str | None) -> None:
        """Raises InputError if a method's file is of another run than its folder.

        Args:
            path: of the file.
            method: by the file's name.
            named: the digest that the file names.
        """
        of_method = method in self.methods
        # Of what the run was not asked for by name, such as what `select` tried, any digest of the run will do.
        digests = {self.digest(one) for one in ((method,) if of_method else self.methods)}
        if named not in digests and (of_method or named is not None):
            raise InputError(f"{path} is of another run: put this run's own file back, or remove it")

    def continued(self, before: Identity, folder: Path) -> Identity:
        """This run as the continuation of what the folder holds: the methods there, and those that are added.

        Raises:
            InputError: naming the first difference.
        """
        for what in {**before.data, **self.data}:
            if before.data.get(what) != self.data.get(what):
                raise InputError(
                    f"{folder} is a run on other data (the {what} differ): give the data and settings that "
                    "its config.yaml has, or set another run_dir"
                )
        parts = [(before.shared, self.shared, "")]
        parts += [(before.methods[name], self.methods[name], name) for name in before.methods if name in self.methods]
        for there, here, method in parts:
            then, now = dict(flat(there)), dict(flat(here))
            for name in {**then, **now}:
                # Another version may know a setting more; an option that somebody gave counts where it is not given.
                known = name in then and name in now
                given = name.startswith("trainer.") or method.startswith("select's")
                if (known or given) and then.get(name) != now.get(name):
                    of = f" for {method}" if method else ""
                    raise InputError(
                        f"{folder} was run with {name}={said(then.get(name))}{of}, not {said(now.get(name))}: "
                        "resume it with its own settings, or set another run_dir"
                    )
        return Identity(before.data, before.shared, {**self.methods, **before.methods}, self.asked, before.results_of)


def digests_of(dataset: Dataset) -> Settings:
    """A digest of the features and of the labels of every split, by what it is of."""
    data = {}
    for split, features in dataset.splits().items():
        data[f"features of the {split} split"] = features.fingerprint(times=False)
        if features.labels is not None:
            data[f"labels of the {split} split"] = fingerprint(features.labels)
    return data


def flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings by their own names: options of a loss or a reduction stand beside the others."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f"reduction.{key}" if name == "reduction" else key, member) for key, member in flat(value))
        else:
            yield name, value


def said(value: Any) -> str:
    """As the command line writes it."""
    return value if isinstance(value, str) else json.dumps(value)
