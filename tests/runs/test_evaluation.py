"""What an evaluation writes beside its rows."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.clustering import Clustering
from deepclust.features.dataset import Dataset
from deepclust.features.feature_set import FeatureSet
from deepclust.metrics.linear_probe import Probe
from deepclust.report.tables import read_rows
from deepclust.runs.evaluation import accuracies_by_class, evaluate_run, merged_rows
from deepclust.runs.folder import RunFolder
from deepclust.runs.identity import Identity
from deepclust.runtime.errors import InputError


def probe_of(classes, accuracies):
    none = np.empty(0)
    return Probe(0.5, 0.1, 0.0, (), np.array(classes), np.array(accuracies), none, none, none, 0.0)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cat", "dog", "cow", "ewe"], {"cat": None, "dog": 0.5, "cow": None, "ewe": 0.25}),
        (None, {"0": None, "1": 0.5, "2": None, "3": 0.25}),
        (["crane", "crane", "cow", "ewe"], [None, 0.5, None, 0.25]),  # the bird and the machine
    ],
)
def test_accuracies_stand_by_class_name_unless_names_are_shared(names, expected):
    assert accuracies_by_class(probe_of([1, 2, 3], [0.5, np.nan, 0.25]), names, 4) == expected


def test_rows_gain_columns_and_lose_none():
    before = [
        {"method": "temi", "split": "test", "acc": 0.5, "ece": 0.1, "top1_to_1": 0.5, "top1_to_1_std": 0.01},
        {"method": "linear_probe", "split": "test", "acc": 0.9},
        {"method": "temi", "split": "train", "acc": 0.4, "silhouette": 0.2},
    ]
    now = [
        {"method": "temi", "split": "test", "acc": 0.6, "silhouette": None, "top1_to_1": 0.6, "top1_to_L": None},
        {"method": "temi", "split": "train", "acc": 0.4, "silhouette": None},
    ]
    assert merged_rows(before, now) == [
        # A value takes the place of an earlier one and of its deviation.
        {
            "method": "temi",
            "split": "test",
            "acc": 0.6,
            "ece": 0.1,
            "top1_to_1": 0.6,
            "silhouette": None,
            "top1_to_L": None,
        },
        {"method": "temi", "split": "train", "acc": 0.4, "silhouette": 0.2},
        {"method": "linear_probe", "split": "test", "acc": 0.9},
    ]
    assert merged_rows([], now) == now
    assert merged_rows(now, now) == now


@pytest.mark.parametrize("content", ["[{", "3", '[{"acc": 1}]'])
def test_a_broken_file_of_rows_is_refused(content, tmp_path):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(InputError, match=r"evaluation\.json is no list of rows .*: remove it"):
        read_rows(tmp_path / "evaluation.json")
    assert read_rows(tmp_path / "none.json") == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_clustering_of_another_run_is_refused(split, tmp_path):
    run, other = (
        Identity(data={"features": "same"}, shared={"seed": seed}, methods={"kmeans": {}}, asked={}) for seed in (0, 1)
    )
    features, labels = np.eye(8, dtype=np.float32), np.arange(8) % 2
    dataset = Dataset("planted", *(FeatureSet.from_arrays(features, labels) for _ in range(2)), encoder=None)
    folder = RunFolder(tmp_path)
    run.write(folder.identity)
    for place in ("train", "test"):
        folder.clustering("kmeans", place).parent.mkdir(exist_ok=True)
        Clustering(labels, "kmeans", 2, identity=run.digest("kmeans")).save(folder.clustering("kmeans", place))
    assert [row["acc"] for row in evaluate_run(folder, dataset, silhouette=False).rows] == [1, 1]

    Clustering(labels, "kmeans", 2, identity=other.digest("kmeans")).save(folder.clustering("kmeans", split))
    name = folder.clustering("kmeans", split).name
    with pytest.raises(InputError, match=f"{name} is of another run: put this run's own file back, or remove it"):
        evaluate_run(folder, dataset, silhouette=False)
