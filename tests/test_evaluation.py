"""What an evaluation writes beside its rows."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.evaluation import accuracies_by_class
from deepclust.metrics.linear_probe import Probe


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
