"""The closed-form gradients are those of the losses' definitions."""

# Shape suffixes: H heads, B pairs, C clusters.

from __future__ import annotations

import pytest
import torch

from deepclust.losses import OBJECTIVES, make_objective
from deepclust.losses.gradients import head_groups

H, B, C = 3, 7, 5


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("sharpness", [1.0, 20.0])
def test_closed_form_equals_autograd_of_the_definition(name, sharpness):
    generator = torch.Generator().manual_seed(3)
    objective = make_objective(name)
    logits = [sharpness * torch.randn(H, B, C, generator=generator, dtype=torch.float64) for _ in range(4)]
    odds = [part.requires_grad_() for part in logits[:2]]
    student = (odds[0].log_softmax(2), odds[1].log_softmax(2))
    teacher = (logits[2].log_softmax(2), logits[3].log_softmax(2)) if objective.uses_teacher else None
    state_HC = torch.softmax(torch.randn(H, C, generator=generator, dtype=torch.float64), dim=1)
    loss_H = objective.loss(student, teacher, state_HC)
    expected = torch.autograd.grad(loss_H.sum(), odds)
    weights_B = None if teacher is None else objective.weights((teacher[0].exp(), teacher[1].exp()))
    with torch.no_grad():
        value_H, gradients = objective.gradient(
            (student[0].detach(), student[1].detach()), teacher, state_HC, weights_B
        )
    torch.testing.assert_close(value_H, loss_H.detach(), rtol=1e-9, atol=1e-12)
    for found, wanted in zip(gradients, expected):
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("n_heads", [1, 5, 16])
@pytest.mark.parametrize(("rows", "clusters"), [(4, 3), (1024, 10_450), (1 << 12, 1 << 7)])
def test_groups_take_every_head_once_and_stay_small(n_heads, rows, clusters):
    groups = head_groups(n_heads, rows, clusters)
    assert [head for group in groups for head in range(n_heads)[group]] == list(range(n_heads))
    sizes = [group.stop - group.start for group in groups]
    assert all(size == 1 or size * rows * clusters <= 1 << 20 for size in sizes)
