"""The multi-label accuracies of a finished run (Adaloglou et al. 2024, table 4): its methods' and the linear probe's.

Shape suffixes: N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepclust.clustering import PROBE, Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics import ROW_KEYS
from deepclust.metrics.label_sets import LabelSets, classes_also, read_label_sets, real_label_sets
from deepclust.metrics.multilabel import MultiLabelScores, drawn_label_accuracy, multilabel_accuracy
from deepclust.runs.evaluation import Evaluation, labels_of
from deepclust.runtime.errors import InputError


@dataclass(frozen=True)
class ManyLabels:
    """Which labels count beside a sample's own.

    Attributes:
        name: what was asked for, for messages: None, `ancestors`, `real` or a file.
        sets: a list of class ids for each sample, or {class: [classes that it counts as, too]}; None where there are
            none (only →1) and for `real`.
        class_names: that `sets` speaks of, where the splits hold a selection of them; None: those of the split.
        n_draws, seed: of one label per sample, where each sample has a set of its own.
    """

    name: str | None
    sets: Sequence[Sequence[int]] | Mapping[str, Sequence[Any]] | None
    n_draws: int
    seed: int
    class_names: Sequence[str] | None = None

    @classmethod
    def from_settings(
        cls,
        label_sets: str | None,
        *,
        n_draws: int,
        seed: int,
        ancestors: Callable[[], Mapping[str, Sequence[Any]]],
        class_names: Callable[[], Sequence[str]] | None = None,
    ) -> ManyLabels:
        """Of `label_sets=` as docs/evaluation.md describes it.

        Args:
            label_sets: None, `ancestors`, `real`, or a JSON file as `read_label_sets` takes it.
            n_draws, seed: as above.
            ancestors: gives {class: [its ancestors]} when it is asked for.
            class_names: gives the classes of the whole data set, which a file's table speaks of, where the splits hold
                a benchmark's selection of them.

        Raises:
            InputError: if a file or hierarchy cannot be read.
        """
        if label_sets in (None, "real"):
            return cls(label_sets, None, n_draws, seed)
        if label_sets == "ancestors":
            return cls(label_sets, ancestors(), n_draws, seed)
        sets = read_label_sets(str(label_sets))
        whole = class_names() if class_names is not None and isinstance(sets, Mapping) else None
        return cls(label_sets, sets, n_draws, seed, whole)

    def scores(
        self, clustering: Clustering, features: FeatureSet, mapping: Mapping[int, int] | None = None
    ) -> MultiLabelScores | None:
        """The four accuracies on one split; None where the sets are not those of this split.

        Args:
            clustering: of the split.
            features: the split.
            mapping: of clusters to classes where it is known; None: the Hungarian map.

        Raises:
            InputError: if the split has neither labels nor sets, or the sets do not suit its classes.
        """
        drawn = {"n_draws": self.n_draws, "seed": self.seed, "mapping": mapping}
        if self.name == "real":
            if features.paths is None:
                raise InputError("label_sets=real needs features that know their files: extract the validation split")
            if not features.paths[0].endswith(".JPEG") or "_val_" not in features.paths[0]:
                return None
            return drawn_label_accuracy(clustering, real_label_sets(features.paths), **drawn)  # type: ignore[arg-type]
        if self.sets is not None and not isinstance(self.sets, Mapping):
            if len(self.sets) != len(features):
                return None
            return drawn_label_accuracy(clustering, LabelSets.from_lists(self.sets), **drawn)  # type: ignore[arg-type]
        labels_N = labels_of(features, "metrics=[multilabel]")
        if self.sets is None:
            return multilabel_accuracy(clustering, labels_N, mapping=mapping)
        names = features.class_names or [str(label) for label in range(int(labels_N.max()) + 1)]
        sets = LabelSets.of_classes(labels_N, classes_also(self.sets, self.class_names or names, names))
        return multilabel_accuracy(clustering, labels_N, sets, mapping=mapping)


def add_multilabel(evaluation: Evaluation, many: ManyLabels) -> None:
    """The four accuracies of every method as columns of its rows.

    Raises:
        InputError: as `ManyLabels.scores`, or if the sets are of no split at all.
    """
    for row in evaluation.rows:
        features = evaluation.dataset.splits()[row["split"]]
        scores = many.scores(evaluation.clusterings[row["method"], row["split"]], features)
        _add_scores(evaluation, row, scores, features)
    if evaluation.rows and all("top1_to_1" not in row for row in evaluation.rows):
        raise InputError(f"label_sets={many.name} is of another number of samples than any split: give one per sample")


def add_probe_row(evaluation: Evaluation, many: ManyLabels, *, seed: int) -> None:
    """A row for the linear probe, whose classes need no map, after `add_probe`."""
    assert evaluation.probed is not None
    split, features, probe = evaluation.probed
    predicted = Clustering(probe.top_ids_NT[:, 0], PROBE, top_ids=probe.top_ids_NT, seconds=probe.seconds)
    row: dict[str, Any] = dict.fromkeys(ROW_KEYS)
    row |= {"method": PROBE, "split": split, "acc": probe.accuracy, "seconds": round(probe.seconds, 3), "seed": seed}
    itself = {int(class_id): int(class_id) for class_id in probe.classes_C}
    _add_scores(evaluation, row, many.scores(predicted, features, itself), features)
    evaluation.rows.append(row)


def _add_scores(
    evaluation: Evaluation, row: dict[str, Any], scores: MultiLabelScores | None, features: FeatureSet
) -> None:
    if scores is None:
        evaluation.add_note(f"Multi-label accuracy: the label sets are not those of the {row['split']} split.")
        return
    row.update(scores.as_dict())
    row.update({f"{name}_std": value for name, value in scores.std.items()})
    if scores.n_used < len(features):
        evaluation.add_note(f"Multi-label accuracy of {row['split']}: {scores.n_used} of {len(features)} have a label.")
