"""The inner classifiers are what torch's Adam makes of the same cross-entropy, in parts of a batch as in one.

Shape suffixes: H heads, B samples, C clusters, D dimensions.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from deepclust.features.bank import FeatureBank
from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.training.heads import NormedLinearHeads
from deepclust.training.inner_classifier import InnerClassifiers
from deepclust.training.pairs import PairBatch
from deepclust.training.step import micro_batches

H, B, C, D = 2, 30, 4, 6


@pytest.mark.parametrize("size", [None, 13], ids=["one part", "three parts"])
def test_fitting_is_adams_on_the_students_labels(size):
    generator = torch.Generator().manual_seed(0)
    rows_BD = torch.randn(B, D, generator=generator)
    bank = FeatureBank(FeatureSet.from_arrays(rows_BD.numpy()), FeatureTransform(D, "none"))
    student = NormedLinearHeads(D, C, H, generator=generator)
    weights = {name: weight.detach() for name, weight in student.weights().items()}
    found = InnerClassifiers(D, C, H)
    samples_B = torch.randperm(B, generator=generator)
    parts = micro_batches(PairBatch(samples_B, samples_B.roll(1), B), size)
    for _ in range(2):  # the second goes on from the first
        found.fit(student, weights, bank, parts, 0.5, steps=3, learning_rate=0.05, over_ranks=lambda gradient_HCD: None)

    labels_HBC = torch.softmax(student(rows_BD).detach() / 0.5, dim=2)
    for head in range(H):
        plain = nn.Linear(D, C, bias=False)
        nn.init.zeros_(plain.weight)
        optimizer = torch.optim.Adam(plain.parameters(), lr=0.05)
        for _ in range(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(rows_BD) / 0.5, labels_HBC[head]).backward()
            optimizer.step()
        torch.testing.assert_close(found.prototypes[head], plain.weight.detach(), atol=1e-5, rtol=0)
    assert found.steps_H.tolist() == [6, 6]


def test_a_part_of_the_classifiers_is_what_the_whole_had():
    whole = InnerClassifiers(D, C, 3)
    whole.first_moment.normal_(generator=torch.Generator().manual_seed(1))
    part = whole.some(slice(1, 3))
    assert isinstance(part, InnerClassifiers)
    torch.testing.assert_close(part.first_moment, whole.first_moment[1:])
