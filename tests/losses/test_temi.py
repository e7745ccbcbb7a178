"""TEMI against the paper's formula, one number at a time (Adaloglou et al. 2024, eq. 1).

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deepclust.losses import TEMI, BatchLook, LogProbs, Probs, make_loss, next_marginal, temi_loss, temi_weights
from deepclust.runtime.errors import InputError

H, B, C = 3, 4, 5


def softmax(logits):
    largest = max(logits)
    exponentials = [math.exp(value - largest) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


def paper_weight(teacher_x, teacher_n, pair):
    """w(x, x') = (1/H) Σ_j Σ_c q_t^j(c|x) q_t^j(c|x')."""
    total = 0.0
    for head in range(len(teacher_x)):
        q, q_other = softmax(teacher_x[head][pair]), softmax(teacher_n[head][pair])
        for c in range(len(q)):
            total += q[c] * q_other[c]
    return total / len(teacher_x)


def paper_temi(student_x, student_n, teacher_x, teacher_n, marginal, beta):
    """Eq. 1 for each head, symmetrised over (x, x') and (x', x), averaged over the pairs."""
    losses = []
    for head in range(len(student_x)):
        total = 0.0
        for pair in range(len(student_x[head])):
            directions = 0.0
            for student, teacher in ((student_x, teacher_n), (student_n, teacher_x)):
                q_s, q_t = softmax(student[head][pair]), softmax(teacher[head][pair])
                score = 0.0
                for c in range(len(q_s)):
                    score += (q_s[c] * q_t[c]) ** beta / marginal[head][c]
                directions += math.log(score)
            total -= paper_weight(teacher_x, teacher_n, pair) * directions / 2
        losses.append(total / len(student_x[head]))
    return losses


@pytest.fixture
def logits() -> np.ndarray:
    """Logits of the student on x and x' and of the teacher on x and x'."""
    return np.random.default_rng(0).normal(scale=2, size=(4, H, B, C))


@pytest.fixture
def marginal() -> np.ndarray:
    return np.random.default_rng(1).dirichlet(np.ones(C), size=H)


def log_probs(logits, dtype=torch.float64):
    return torch.log_softmax(torch.as_tensor(logits, dtype=dtype), dim=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [0.51, 0.6, 1.0])
def test_value_and_gradient_are_the_papers(beta, dtype, logits, marginal, numerical_gradient):
    student, teacher = (LogProbs(*(log_probs(part, dtype) for part in both)) for both in (logits[:2], logits[2:]))
    batch = BatchLook(torch.as_tensor(marginal, dtype=dtype)[None], temi_weights(teacher.exp()))
    loss_H, gradients = TEMI(beta=beta).gradient(student, teacher, batch)
    np.testing.assert_allclose(loss_H, paper_temi(*logits, marginal, beta), atol=1e-5)
    for view, gradient_HBC in enumerate(gradients):

        def paper_sum(at, view=view):
            arguments = list(logits)
            arguments[view] = at
            return sum(paper_temi(*arguments, marginal, beta))

        np.testing.assert_allclose(gradient_HBC, numerical_gradient(paper_sum, logits[view]), atol=1e-5)


def test_weights_are_symmetric_and_average_over_all_heads(logits):
    x_HBC, n_HBC = log_probs(logits[2]).exp(), log_probs(logits[3]).exp()
    weights_B = temi_weights(Probs(x_HBC, n_HBC))
    np.testing.assert_allclose(weights_B, temi_weights(Probs(n_HBC, x_HBC)))
    np.testing.assert_allclose(weights_B, [paper_weight(logits[2], logits[3], pair) for pair in range(B)])
    each_HB = torch.stack([temi_weights(Probs(x_HBC[[head]], n_HBC[[head]])) for head in range(H)])
    np.testing.assert_allclose(weights_B, each_HB.mean(dim=0))


def test_a_sure_teacher_weighs_its_pairs_one_and_an_ignorant_one_by_chance():
    sure = torch.zeros(H, B, C)
    sure[..., 2] = 1
    np.testing.assert_allclose(temi_weights(Probs(sure, sure)), 1)
    ignorant = log_probs(np.zeros((H, B, C))).exp()
    np.testing.assert_allclose(temi_weights(Probs(ignorant, ignorant)), 1 / C)


def test_the_marginal_is_a_running_mean_of_the_teachers_probabilities_over_both_views(logits):
    momentum, loss = 0.8, TEMI(marginal_momentum=0.8)
    mean_1HC = loss.first_mean(H, C).double()
    expected = [[1 / C] * C for _ in range(H)]
    for first, second in ((logits[0], logits[1]), (logits[2], logits[3])):
        teacher = LogProbs(log_probs(first), log_probs(second))
        mean_1HC = loss.next_mean(mean_1HC, loss.look(teacher.exp()).mean_VHC)
        for head in range(H):
            for c in range(C):
                mean = sum(softmax(view[head][pair])[c] for view in (first, second) for pair in range(B)) / (2 * B)
                expected[head][c] = momentum * expected[head][c] + (1 - momentum) * mean
    np.testing.assert_allclose(mean_1HC[0], expected, atol=1e-12)
    np.testing.assert_allclose(mean_1HC[0].sum(dim=1), 1)


def test_the_marginal_keeps_its_own_precision():
    marginal = next_marginal(torch.full((1, 2), 0.5), torch.tensor([[0.25, 0.75]], dtype=torch.bfloat16), 0.9)
    assert marginal.dtype == torch.float32
    np.testing.assert_allclose(marginal, [[0.475, 0.525]])


def test_ignorance_scores_zero_information_at_beta_one_and_more_below():
    # (q q)^β / p with everything 1/C is C^(1 - 2β), C times over.
    uniform = log_probs(np.zeros((1, 1, C)))
    marginal, weights = torch.full((1, C), 1 / C, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    at_one, _ = temi_loss(uniform, uniform, marginal, weights, beta=1.0)
    below, _ = temi_loss(uniform, uniform, marginal, weights, beta=0.6)
    np.testing.assert_allclose(at_one, 0, atol=1e-12)
    np.testing.assert_allclose(below, -(2 - 2 * 0.6) * math.log(C))


@pytest.mark.parametrize("beta", [0.5, 0.4, 1.01, -1, math.nan])
def test_beta_outside_its_range_is_refused(beta):
    with pytest.raises(InputError, match=r"it must be above 0\.5 and at most 1"):
        make_loss("temi", beta=beta)
