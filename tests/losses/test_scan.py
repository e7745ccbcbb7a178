"""SCANv2 against the paper's formula, one number at a time (Adaloglou et al. 2024, eq. 2).

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deepclust.losses import SCAN, LogProbs, make_loss, scan_loss
from deepclust.runtime.errors import InputError

H, B, C = 3, 4, 5


def softmax(logits):
    largest = max(logits)
    exponentials = [math.exp(value - largest) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


def paper_consistency(student, teacher):
    """- mean_b log Σ_c q_t(c|x_b) q_s(c|x'_b) of one head."""
    total = 0.0
    for pair in range(len(student)):
        q_s, q_t = softmax(student[pair]), softmax(teacher[pair])
        agreement = 0.0
        for c in range(len(q_s)):
            agreement += q_t[c] * q_s[c]
        total -= math.log(agreement)
    return total / len(student)


def paper_negative_entropy(rows):
    """Σ_c q̂(c) log q̂(c) of the rows' mean probability."""
    total = 0.0
    for c in range(len(rows[0])):
        mean = sum(softmax(row)[c] for row in rows) / len(rows)
        total += mean * math.log(mean)
    return total


def paper_scan(student, teacher, alpha):
    """Eq. 2, one direction, for each head."""
    return [
        paper_consistency(student[head], teacher[head]) + alpha * paper_negative_entropy(student[head])
        for head in range(len(student))
    ]


def paper_scan_both_ways(student_x, student_n, teacher_x, teacher_n, alpha):
    """Symmetrised: eq. 2 with the student on x' and with the student on x, each q̂ the mean over that view alone."""
    directions = zip(paper_scan(student_n, teacher_x, alpha), paper_scan(student_x, teacher_n, alpha))
    return [(first + second) / 2 for first, second in directions]


@pytest.fixture
def logits() -> np.ndarray:
    """Logits of the student on x and x' and of the teacher on x and x'."""
    return np.random.default_rng(2).normal(scale=2, size=(4, H, B, C))


def log_probs(logits, dtype=torch.float64):
    return torch.log_softmax(torch.as_tensor(logits, dtype=dtype), dim=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0])
def test_one_direction_is_the_papers(alpha, dtype, logits, numerical_gradient):
    student_HBC, teacher_HBC = log_probs(logits[1], dtype), log_probs(logits[2], dtype)
    mean_HC = student_HBC.exp().mean(dim=1)
    loss_H, gradient_HBC = scan_loss(student_HBC, teacher_HBC, mean_HC, entropy_weight=alpha)
    np.testing.assert_allclose(loss_H, paper_scan(logits[1], logits[2], alpha), atol=1e-5)
    expected = numerical_gradient(lambda at: sum(paper_scan(at, logits[2], alpha)), logits[1])
    np.testing.assert_allclose(gradient_HBC, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_directions_are_the_papers_with_one_mean_per_view(dtype, logits, numerical_gradient):
    logits[0, :, :, 0] += 2  # the student leans to one cluster on x and to another on x'
    logits[1, :, :, 1] += 2
    loss = SCAN(entropy_weight=5.0)
    student, teacher = (LogProbs(*(log_probs(part, dtype) for part in both)) for both in (logits[:2], logits[2:]))
    loss_H, gradients = loss.gradient(student, teacher, loss.look(student.exp()))
    np.testing.assert_allclose(loss_H, paper_scan_both_ways(*logits, 5.0), atol=1e-5)
    for view, gradient_HBC in enumerate(gradients):

        def paper_sum(at, view=view):
            arguments = list(logits)
            arguments[view] = at
            return sum(paper_scan_both_ways(*arguments, 5.0))

        np.testing.assert_allclose(gradient_HBC, numerical_gradient(paper_sum, logits[view]), atol=1e-5)


def test_a_mean_of_the_whole_batch_replaces_that_of_the_pairs_at_hand():
    even = torch.full((1, B, 2), 0.5).log()
    loss_H, _ = scan_loss(even, even, torch.tensor([[0.9, 0.1]]), entropy_weight=1.0)
    np.testing.assert_allclose(loss_H, [math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)], rtol=1e-6)


def test_the_entropy_is_that_of_each_view_and_not_of_both_pooled():
    # Every sample in cluster 0 on x and in cluster 1 on x': each view has collapsed, both pooled look even.
    on_x, on_n = torch.full((2, 1, B, 2), -30.0, dtype=torch.float64)
    on_x[..., 0] = on_n[..., 1] = 0.0
    student = LogProbs(on_x.log_softmax(2), on_n.log_softmax(2))
    teacher = LogProbs(student.neighbors, student.anchors)
    loss = SCAN(entropy_weight=5.0)
    loss_H, _ = loss.gradient(student, teacher, loss.look(student.exp()))
    np.testing.assert_allclose(loss_H, 0, atol=1e-9)  # pooled: -5 log 2


def test_a_negative_entropy_weight_is_refused():
    with pytest.raises(InputError, match="entropy_weight is -1"):
        make_loss("scan", entropy_weight=-1)
