from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from deepclust.cuts.constraints import read_constraints
from deepclust.runtime.errors import InputError


def test_pair_f1_of_labels_is_that_of_all_their_pairs_given_one_by_one(tmp_path):
    generator = np.random.default_rng(0)
    classes, clusters = generator.integers(0, 4, (2, 60))
    known = generator.permutation(60)[:25]
    pairs = list(combinations(known, 2))
    right, found = ([labels[a] == labels[b] for a, b in pairs] for labels in (classes, clusters))
    by_label, by_pair = tmp_path / "labels.csv", tmp_path / "pairs.csv"
    by_label.write_text("sample,label\n" + "\n".join(f"{row}.jpg,{'abcd'[classes[row]]}" for row in known))
    by_pair.write_text("\n".join(f"{a}, {b}, {'same' if same else 'Different'}" for (a, b), same in zip(pairs, right)))
    paths = [f"{row}.jpg" for row in range(60)]
    expected = pytest.approx(f1_score(right, found))
    assert read_constraints(by_label, 60, paths).pair_f1(clusters) == expected
    assert read_constraints(by_pair, 60, paths).pair_f1(clusters) == expected
    assert read_constraints(by_pair, 60).pair_f1(classes) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("", "holds no two samples that belong together"),
        ("1,2,maybe", "line 1 is '1,2,maybe': write first,second,same"),
        ("1,2,3,same", "line 1 is"),
        ("1,2,same\n\n4,-3,different", "line 3: there is no sample '-3': name rows from 0 to 9"),
        ("1,1,same", "line 1: both are sample 1"),
        ("1,2,same", "holds no two samples that do not"),
        ("1,2,different", "holds no two samples that belong together"),
        ("1,a\n2,b", "holds no two samples that belong together"),
        ("1,2,same\n2,1,different", "line 2 contradicts an earlier line"),
        ("1,a\n1,b", "line 2: sample 1 has another label"),
        ("1,2,same\n3,cat", "holds pairs and labels"),
    ],
)
def test_a_file_that_cannot_choose_is_refused_in_a_line(tmp_path, text, said):
    path = tmp_path / "answers.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as refusal:
        read_constraints(path, 10)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
