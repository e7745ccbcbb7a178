"""Label sets: where they are read from, and whether a class is in one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deepclust.metrics.label_sets import LabelSets, classes_also, read_label_sets, real_label_sets
from deepclust.runtime.errors import InputError


def test_reals_labels_are_found_by_file_name_in_any_order():
    names = ["val/n1/ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG"]
    sets = real_label_sets(names)
    # The first three entries of timm's file: [], [970, 795], [230, 231].
    assert sets.sizes.tolist() == [2, 0, 2]
    assert sets.ids.tolist() == [230, 231, 970, 795]
    with pytest.raises(InputError, match=r"train/x.JPEG is no ImageNet validation image"):
        real_label_sets(["train/x.JPEG"])


def test_label_sets_are_read_from_both_kinds_of_file(tmp_path):
    (tmp_path / "samples.json").write_text("[[1], [], [0, 2]]")
    assert read_label_sets(tmp_path / "samples.json") == [[1], [], [0, 2]]
    (tmp_path / "classes.json").write_text(json.dumps({"b": ["a", 2]}))
    table = read_label_sets(tmp_path / "classes.json")
    assert classes_also(table, ["a", "b", "c"]) == [[], [0, 2], []]


def test_a_table_over_all_classes_serves_the_classes_that_a_benchmark_keeps():
    table = {"b": ["a", 3], "c": ["b"], "d": ["b", "a"]}
    assert classes_also(table, "abcd", kept=["d", "b", "of its own"]) == [[1], [0], []]


@pytest.mark.parametrize("content", ["{", '"text"', "[1, 2]", '{"a": 1}'])
def test_another_kind_of_file_is_refused(content, tmp_path):
    (tmp_path / "sets.json").write_text(content)
    with pytest.raises(InputError, match=r"sets\.json (cannot be read as JSON|must hold a list of lists)"):
        read_label_sets(tmp_path / "sets.json")


def test_what_is_no_set_of_classes_is_refused():
    with pytest.raises(InputError, match="label sets name the class 'gown'"):
        classes_also({"gown": []}, ["dress"])
    with pytest.raises(InputError, match="label sets are given for 3 classes"):
        LabelSets.of_classes(np.array([0, 3]), [[], [], []])
    with pytest.raises(InputError, match="class ids, whole numbers"):
        LabelSets.from_lists([[0.5]])


def test_hits_are_exact_at_the_scale_of_imagenet21k():
    rng = np.random.default_rng(0)
    n_samples, n_classes = 50_000, 10_450
    labels = rng.integers(n_classes, size=n_samples)
    also = [[int(above) for above in rng.integers(n_classes, size=6)] for _ in range(n_classes)]
    sets = LabelSets.of_classes(labels, also)
    asked = rng.integers(n_classes, size=(n_samples, 5))
    asked[:, 3] = np.array([row[2] for row in also])[labels]
    found = sets.contains(asked)
    assert found[:, 3].all()
    for row in range(0, n_samples, 5000):
        own = {int(labels[row]), *also[labels[row]]}
        assert found[row].tolist() == [int(value) in own for value in asked[row]]
