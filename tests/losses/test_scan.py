"""SCANv2 against the paper's formula, one number at a time (Adaloglou et al. 2024, eq. 2).

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deepclust.losses import SCAN, make_objective, scan_loss
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
    """Symmetrised: the consistency both ways, q̂ the student's mean over both members of all pairs."""
    losses = []
    for head in range(len(student_x)):
        consistency = paper_consistency(student_n[head], teacher_x[head])
        consistency += paper_consistency(student_x[head], teacher_n[head])
        losses.append(consistency / 2 + alpha * paper_negative_entropy([*student_x[head], *student_n[head]]))
    return losses


@pytest.fixture
def logits() -> np.ndarray:
    """Logits of the student on x and x' and of the teacher on x and x'."""
    return np.random.default_rng(2).normal(scale=2, size=(4, H, B, C))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0])
def test_one_direction_is_the_papers(alpha, dtype, logits, numerical_gradient):
    student = torch.tensor(logits[1], dtype=dtype, requires_grad=True)
    teacher = torch.tensor(logits[2], dtype=dtype, requires_grad=True)
    loss_H = scan_loss(torch.log_softmax(student, dim=2), torch.log_softmax(teacher, dim=2), entropy_weight=alpha)
    np.testing.assert_allclose(loss_H.detach(), paper_scan(logits[1], logits[2], alpha), atol=1e-5)
    loss_H.sum().backward()
    expected = numerical_gradient(lambda at: sum(paper_scan(at, logits[2], alpha)), logits[1])
    np.testing.assert_allclose(student.grad, expected, atol=1e-5)
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_directions_are_the_papers_with_one_mean_over_the_batch(dtype, logits, numerical_gradient):
    objective = SCAN(entropy_weight=5.0)
    students = [torch.tensor(part, dtype=dtype, requires_grad=True) for part in logits[:2]]
    student = tuple(torch.log_softmax(part, dim=2) for part in students)
    teacher = tuple(torch.log_softmax(torch.tensor(part, dtype=dtype), dim=2) for part in logits[2:])
    state_HC = objective.next_state(
        torch.full((H, C), 1 / C),
        objective.statistic(*(tuple(view.exp() for view in views) for views in (student, teacher))).detach(),
    )
    loss_H = objective.loss(student, teacher, state_HC)
    np.testing.assert_allclose(loss_H.detach(), paper_scan_both_ways(*logits, 5.0), atol=1e-5)
    loss_H.sum().backward()
    for view in (0, 1):

        def paper_sum(at, view=view):
            arguments = list(logits)
            arguments[view] = at
            return sum(paper_scan_both_ways(*arguments, 5.0))

        np.testing.assert_allclose(students[view].grad, numerical_gradient(paper_sum, logits[view]), atol=1e-5)


def test_a_negative_entropy_weight_is_refused():
    with pytest.raises(InputError, match="entropy_weight is -1"):
        make_objective("scan", entropy_weight=-1)
