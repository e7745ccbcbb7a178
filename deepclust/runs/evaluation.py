"""Evaluation of a finished run: its scores again, and what no training run computes by itself.

run folder/
  evaluation.json             one row per (method, split); `multilabel`, `levels`, `calibration` add columns
  evaluation/<metric>.json    what belongs to the data or needs more than a column
  evaluation/<figure>.png     and .svg
  other_data/<name>/          the same of other data than the run's own
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.clustering import Clustering, display_name, method_order
from deepclust.features.dataset import Dataset
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics.calibration import Calibration, calibration, why_no_calibration
from deepclust.metrics.knn_probe import knn_probe
from deepclust.metrics.linear_probe import Probe, held_out_split, linear_probe
from deepclust.metrics.separability import separability
from deepclust.runs.cutting import Recut
from deepclust.runs.identity import Identity
from deepclust.runs.steps import RunFolder, scored
from deepclust.runtime.devices import fastest_device
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import write_json
from deepclust.training.trained import TrainedHeads

METRICS = ("multilabel", "levels", "calibration", "separability", "probe", "overclustering")
FIGURES = ("consistency", "neighbors", "umap", "confusion")
# What the columns of the levels of a hierarchy are called, before the depth.
LEVEL = "one_sided_ami_d"
# Those that need no clustering.
OF_FEATURES = ("separability", "probe", "consistency", "neighbors")


@dataclass
class Evaluation:
    """What was measured on one run.

    Attributes:
        folder: where it is written.
        dataset: the splits.
        clusterings: by (method, split).
        rows: of evaluation.json.
        notes: sentences under its table.
        written: files written so far.
        probed: the linear probe, after `add_probe`, with the name and the features of what it was judged on.
    """

    folder: Path
    dataset: Dataset
    clusterings: dict[tuple[str, str], Clustering]
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    probed: tuple[str, FeatureSet, Probe] | None = None

    @property
    def judged(self) -> tuple[str, FeatureSet]:
        """The split that methods are judged on: `test` where there is one."""
        return ("train", self.dataset.train) if self.dataset.test is None else ("test", self.dataset.test)

    def add_note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def write_json(self, name: str, content: Any) -> None:
        path = self.folder / "evaluation" / f"{name}.json"
        write_json(path, content)
        self.written.append(path)


def check_names(metrics: Sequence[str], figures: Sequence[str], *, without_run: bool = False) -> None:
    """Raises InputError if a metric or figure is unknown, or measures clusterings where features stand alone."""
    for what, asked, known in (("metric", metrics, METRICS), ("figure", figures, FIGURES)):
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise InputError(f"no {what} is called '{unknown[0]}': choose from {', '.join(known)}")
        of_clusters = [name for name in asked if name not in OF_FEATURES]
        if "probe" in asked and "multilabel" in of_clusters:  # the probe has a row among them
            of_clusters.remove("multilabel")
        if without_run and of_clusters:
            raise InputError(
                f"{what}s=[{of_clusters[0]}] measures clusters: name the run that found them, run=<run folder>"
            )
    if without_run and not (metrics or figures):
        raise InputError(f"nothing to measure: name metrics= or figures= of features, {', '.join(OF_FEATURES)}")


def merged_rows(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of this command with what earlier ones measured of the same (method, split), and rows that are theirs alone.

    Values of now replace earlier ones, with their deviation, and levels of a hierarchy those of any other; None, which
    says not measured, replaces nothing.
    """
    earlier = {(row["method"], row["split"]): dict(row) for row in before}
    rows = []
    for row in now:
        known = earlier.pop((row["method"], row["split"]), {})
        if any(key.startswith(LEVEL) for key in row):
            known = {key: value for key, value in known.items() if not key.startswith(LEVEL)}
        measured = {key: value for key, value in row.items() if value is not None or known.get(key) is None}
        outdated = {f"{key}_std" for key, value in measured.items() if value is not None}
        rows.append({**{key: value for key, value in known.items() if key not in outdated}, **measured})
    return [*rows, *earlier.values()]


def evaluate_run(
    run: RunFolder,
    dataset: Dataset,
    *,
    saved: bool = True,
    silhouette: bool = True,
    raw: bool = False,
    recut: Recut | None = None,
) -> Evaluation:
    """Score every method of a run again: trained heads from their checkpoints, the others by the clusters they left.

    Args:
        run: the run folder.
        dataset: the run's own data, or other features of the same encoder.
        saved: whether the data are the run's own, so that saved clusterings belong to them.
        silhouette: of `run_experiment`.
        raw: take the heads' confidence as they were trained, without the temperature that was fitted after it.
        recut: another cut of the trained heads, which is saved beside; None leaves them as they are.

    Raises:
        InputError: if there is nothing to score, a checkpoint is of another run, or the features have other dimensions.
    """
    clusterings: dict[tuple[str, str], Clustering] = {}
    reduced = dataset.train.reduction
    rows: list[dict[str, Any]] = []
    notes: list[str] = [] if reduced is None else [reduced["note"]]
    splits = dataset.splits()
    identity = Identity.read(run.identity)
    trained_methods = sorted(run.trained_methods(), key=method_order)
    others = sorted(set(run.saved_methods()) - set(trained_methods), key=method_order)
    if not trained_methods and (recut is not None or not (others and saved)):
        left = f"; the clusters of {', '.join(others)} are for its own data only" if others else ""
        raise InputError(
            f"{run.path} holds no checkpoint (checkpoints/*.ckpt){left}: name a run folder of `deepclust train`"
        )
    for method in trained_methods:
        trained = TrainedHeads.load(run.checkpoint(method)).to(fastest_device())
        if trained.recipe.loss.name != method:
            raise InputError(f"{run.checkpoint(method)} is of another run: put this run's own file back, or remove it")
        if identity is not None:
            identity.check_own(run.checkpoint(method), method, trained.identity)
        check_cut(run, trained, method)
        if recut is not None:
            notes.extend(recut.apply(trained, method))
            recut.keep(trained, method)
        if raw:
            trained.confidence_temperature = 1.0
        for split, features in splits.items():
            trained.check_features(features)
            clustering = clusterings[method, split] = trained.assign(features)
            rows.append(scored(clustering, features, split, trained.recipe.seed, notes, silhouette=silhouette))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            notes.extend(trained.warn_of_collapse(dataset.train))
    for method in others if recut is None else ():
        if not saved:
            notes.append(f"{display_name(method)} left clusters of its own data only; it is not scored here.")
            continue
        for split, features in splits.items():
            if not run.clustering(method, split).is_file():
                continue
            clustering = clusterings[method, split] = Clustering.load(run.clustering(method, split))
            if identity is not None:
                identity.check_own(run.clustering(method, split), method, clustering.identity)
            rows.append(scored(clustering, features, split, None, notes, silhouette=silhouette))
            notes.extend(clustering.notes)
    return Evaluation(run.path, dataset, clusterings, rows, list(dict.fromkeys(notes)))


def check_cut(run: RunFolder, trained: TrainedHeads, method: str) -> None:
    """Raises InputError if the heads have another number of clusters than the clustering that they left."""
    left = run.clustering(method)
    if left.is_file() and Clustering.load(left).n_clusters not in (None, trained.n_clusters):
        raise InputError(
            f"{left} has other clusters than {run.checkpoint(method)}: put back {method}.json, which holds the cut, "
            "beside the checkpoint"
        )


def add_calibration(evaluation: Evaluation) -> dict[str, Calibration]:
    """`ece` and `mean_msp` as columns of the rows; the calibrations of the judged split by method, for the figures."""
    shown: dict[str, Calibration] = {}
    for row in evaluation.rows:
        clustering = evaluation.clusterings[row["method"], row["split"]]
        reason = why_no_calibration(clustering)
        row["ece"] = row["mean_msp"] = None
        if reason is not None:
            evaluation.add_note(f"{display_name(clustering.method)}{reason.removeprefix(clustering.method)}.")
            continue
        labels_N = labels_of(evaluation.dataset.splits()[row["split"]], "metrics=[calibration]")
        measured = calibration(clustering, labels_N)
        row["ece"], row["mean_msp"] = measured.ece, measured.mean_confidence
        if row["split"] == evaluation.judged[0]:
            shown[row["method"]] = measured
    evaluation.write_json("calibration", {method: measured.as_dict() for method, measured in shown.items()})
    return shown


def add_separability(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Alignment, Davies–Bouldin and silhouette of the classes, by split."""
    scores = {
        split: separability(features.features, labels_of(features, "metrics=[separability]")).as_dict()
        for split, features in evaluation.dataset.splits().items()
    }
    evaluation.write_json("separability", scores)
    return scores


def add_probe(evaluation: Evaluation, *, seed: int, progress: bool = False, **options: Any) -> dict[str, Any]:
    """The linear and the kNN probe, on the test split or on a held-out fifth of each class where there is none."""
    train, val, judged_on = evaluation.dataset.train, evaluation.dataset.test, "test"
    if val is None:
        train, val = held_out_split(train, seed)
        judged_on = "a held-out fifth of each class"
    probe = linear_probe(train, val, seed=seed, progress=progress, **options)
    nearest = knn_probe(train.features, labels_of(train, "knn"), val.features, labels_of(val, "knn"))
    result = {"judged_on": judged_on, **probe.as_dict(), "knn": {str(k): share for k, share in nearest.items()}}
    evaluation.probed = ("held-out" if evaluation.dataset.test is None else "test", val, probe)
    evaluation.write_json("probe", result)
    n_labels = 1 + int(max(labels_of(train, "probe").max(), labels_of(val, "probe").max()))
    evaluation.write_json("probe_class_accuracy", accuracies_by_class(probe, train.class_names, n_labels))
    return result


def accuracies_by_class(
    probe: Probe, class_names: Sequence[str] | None, n_labels: int
) -> dict[str, float | None] | list[float | None]:
    """The probe's accuracy on each class as `benchmark.accuracies=` reads it, for subsets of easy classes.

    Args:
        probe: its accuracies on validation samples.
        class_names: of the data set; without them classes are named by number, as benchmarks do.
        n_labels: one more than the highest class id.

    Returns:
        By class name, or in the order of the classes where several have one name; None for a class that the probe was
        not trained or not judged on.
    """
    names = list(class_names) if class_names else [str(number) for number in range(n_labels)]
    known = dict(zip(probe.classes_C.tolist(), probe.class_accuracy_C.tolist()))
    judged = [known.get(number, np.nan) for number in range(len(names))]
    accuracies = [None if np.isnan(accuracy) else accuracy for accuracy in judged]
    return dict(zip(names, accuracies)) if len(set(names)) == len(names) else accuracies


def labels_of(features: FeatureSet, asked: str) -> np.ndarray:
    """The labels, or an InputError that names what asked for them."""
    if features.labels is None:
        raise InputError(f"{asked} needs labels: give data with labels (data.train_labels, data.test_labels)")
    return features.labels
