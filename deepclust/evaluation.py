"""Evaluation of a finished run: its scores again, and what no training run computes by itself.

run folder/
  evaluation.json             one row per (method, split); `multilabel` and `calibration` add columns
  evaluation/<metric>.json    what belongs to the data or needs more than a column
  evaluation/<figure>.png     and .svg
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.clustering import Clustering
from deepclust.errors import InputError
from deepclust.experiment import RunFolder, scored, splits_of
from deepclust.features.datasets import Dataset
from deepclust.features.feature_set import FeatureSet
from deepclust.files import write_json, written_whole
from deepclust.metrics.calibration import Calibration, calibration, why_no_calibration
from deepclust.metrics.knn_probe import knn_probe
from deepclust.metrics.linear_probe import held_out_split, linear_probe
from deepclust.metrics.multilabel import (
    LabelSets,
    MultiLabelScores,
    classes_also,
    drawn_label_accuracy,
    multilabel_accuracy,
    read_label_sets,
    real_label_sets,
)
from deepclust.metrics.separability import separability
from deepclust.report.tables import display_name, method_order
from deepclust.training.trained import TrainedHeads

METRICS = ("multilabel", "calibration", "separability", "probe", "overclustering")
FIGURES = ("consistency", "neighbors", "umap", "confusion")


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
    """

    folder: Path
    dataset: Dataset
    clusterings: dict[tuple[str, str], Clustering]
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)

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


def check_names(metrics: Sequence[str], figures: Sequence[str]) -> None:
    """Raises InputError if a metric or figure is unknown."""
    for what, asked, known in (("metric", metrics, METRICS), ("figure", figures, FIGURES)):
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise InputError(f"no {what} is called '{unknown[0]}': choose from {', '.join(known)}")


def evaluate_run(run: RunFolder, dataset: Dataset, *, saved: bool = True) -> Evaluation:
    """Score every method of a run again: trained heads from their checkpoints, the others by the clusters they left.

    Args:
        run: the run folder.
        dataset: the run's own data, or other features of the same encoder.
        saved: whether the data are the run's own, so that saved clusterings belong to them.

    Raises:
        InputError: if there is nothing to score, or the features have other dimensions.
    """
    clusterings: dict[tuple[str, str], Clustering] = {}
    reduced = dataset.train.reduction
    rows: list[dict[str, Any]] = []
    notes: list[str] = [] if reduced is None else [reduced["note"]]
    splits = splits_of(dataset)
    trained_methods = sorted(run.trained_methods(), key=method_order)
    others = sorted(set(run.saved_methods()) - set(trained_methods), key=method_order)
    if not trained_methods and not (others and saved):
        left = f"; the clusters of {', '.join(others)} are for its own data only" if others else ""
        raise InputError(f"{run.path} holds no checkpoint (checkpoints/*.ckpt){left}: name a run folder of train.py")
    for method in trained_methods:
        trained = TrainedHeads.load(run.checkpoint(method))
        for split, features in splits.items():
            trained.check_features(features)
            clustering = clusterings[method, split] = trained.assign(features)
            rows.append(scored(clustering, features, split, trained.recipe.seed, notes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            notes.extend(trained.warn_of_collapse(dataset.train))
    for method in others:
        if not saved:
            notes.append(f"{display_name(method)} left clusters of its own data only; it is not scored here.")
            continue
        for split, features in splits.items():
            if not run.clustering(method, split).is_file():
                continue
            clustering = clusterings[method, split] = Clustering.load(run.clustering(method, split))
            rows.append(scored(clustering, features, split, None, notes))
            notes.extend(clustering.notes)
    return Evaluation(run.path, dataset, clusterings, rows, list(dict.fromkeys(notes)))


def add_multilabel(found: Evaluation, label_sets: str | None, *, n_draws: int, seed: int) -> None:
    """The four multi-label accuracies as columns of the rows.

    Args:
        found: is added to.
        label_sets: None (only →1), `real` (ReaL's labels of ImageNet's validation images), or a JSON file as
            `read_label_sets` takes it. Where each sample has a set of its own, one label of it is drawn `n_draws`
            times; where classes have sets, the sample's own label makes the map.
        n_draws: of labels.
        seed: of the draws.

    Raises:
        InputError: if the sets do not suit the data, or a split has no labels and no sets.
    """
    content = None if label_sets in (None, "real") else read_label_sets(str(label_sets))
    for row in found.rows:
        features = splits_of(found.dataset)[row["split"]]
        scores = _multilabel_scores(
            found.clusterings[row["method"], row["split"]], features, label_sets, content, n_draws, seed
        )
        if scores is None:
            found.add_note(f"Multi-label accuracy: the label sets are not those of the {row['split']} split.")
            continue
        row.update(scores.as_dict())
        row.update({f"{name}_std": value for name, value in scores.std.items()})
        if scores.n_used < len(features):
            found.add_note(f"Multi-label accuracy of {row['split']}: {scores.n_used} of {len(features)} have a label.")
    if all("top1_to_1" not in row for row in found.rows):
        raise InputError(f"label_sets={label_sets} is of another number of samples than any split: give one per sample")


def _multilabel_scores(
    clustering: Clustering,
    features: FeatureSet,
    label_sets: str | None,
    content: list | dict | None,
    n_draws: int,
    seed: int,
) -> MultiLabelScores | None:
    if label_sets == "real":
        if features.paths is None:
            raise InputError("label_sets=real needs features that know their files: extract the validation split")
        if not features.paths[0].endswith(".JPEG") or "_val_" not in features.paths[0]:
            return None
        return drawn_label_accuracy(clustering, real_label_sets(features.paths), n_draws=n_draws, seed=seed)
    if isinstance(content, list):
        if len(content) != len(features):
            return None
        return drawn_label_accuracy(clustering, LabelSets.from_lists(content), n_draws=n_draws, seed=seed)
    labels_N = labels_of(features, "metrics=[multilabel]")
    if content is None:
        return multilabel_accuracy(clustering, labels_N)
    names = features.class_names or [str(label) for label in range(int(labels_N.max()) + 1)]
    return multilabel_accuracy(clustering, labels_N, LabelSets.of_classes(labels_N, classes_also(content, names)))


def add_calibration(found: Evaluation) -> dict[str, Calibration]:
    """`ece` and `mean_msp` as columns of the rows; the calibrations of the judged split by method, for the figures."""
    shown: dict[str, Calibration] = {}
    for row in found.rows:
        clustering = found.clusterings[row["method"], row["split"]]
        reason = why_no_calibration(clustering)
        row["ece"] = row["mean_msp"] = None
        if reason is not None:
            found.add_note(f"{display_name(clustering.method)}{reason.removeprefix(clustering.method)}.")
            continue
        labels_N = labels_of(splits_of(found.dataset)[row["split"]], "metrics=[calibration]")
        measured = calibration(clustering, labels_N)
        row["ece"], row["mean_msp"] = measured.ece, measured.mean_confidence
        if row["split"] == found.judged[0]:
            shown[row["method"]] = measured
    found.write_json("calibration", {method: measured.as_dict() for method, measured in shown.items()})
    return shown


def add_separability(found: Evaluation) -> dict[str, dict[str, Any]]:
    """Alignment, Davies–Bouldin and silhouette of the classes, by split."""
    scores = {
        split: separability(features.features, labels_of(features, "metrics=[separability]")).as_dict()
        for split, features in splits_of(found.dataset).items()
    }
    found.write_json("separability", scores)
    return scores


def add_probe(found: Evaluation, *, seed: int, progress: bool = False, **options: Any) -> dict[str, Any]:
    """The linear and the kNN probe, on the test split or on a held-out fifth of each class where there is none."""
    train, val, judged_on = found.dataset.train, found.dataset.test, "test"
    if val is None:
        train, val = held_out_split(train, seed)
        judged_on = "a held-out fifth of each class"
    probe = linear_probe(train, val, seed=seed, progress=progress, **options)
    nearest = knn_probe(train.features, labels_of(train, "knn"), val.features, labels_of(val, "knn"))
    result = {"judged_on": judged_on, **probe.as_dict(), "knn": {str(k): share for k, share in nearest.items()}}
    found.write_json("probe", result)
    # For subsets of easy classes: as many values as class ids up to the highest, NaN for classes that were not judged.
    accuracy_K = np.full(int(probe.classes_C.max()) + 1, np.nan)
    accuracy_K[probe.classes_C] = probe.class_accuracy_C
    path = found.folder / "evaluation" / "probe_class_accuracy.npy"
    with written_whole(path) as temporary:
        np.save(temporary, accuracy_K)
    found.written.append(path)
    return result


def labels_of(features: FeatureSet, asked: str) -> np.ndarray:
    """The labels, or an InputError that names what asked for them."""
    if features.labels is None:
        raise InputError(f"{asked} needs labels: give data with labels (data.train_labels, data.test_labels)")
    return features.labels
