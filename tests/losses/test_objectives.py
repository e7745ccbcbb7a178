"""What holds for every loss: parts of a batch add up, clusters have no order, degenerate inputs stay finite.

Shape suffixes: H heads, B pairs, C clusters.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepclust.losses import OBJECTIVES, make_objective, scan_loss, temi_loss, tsp_loss
from deepclust.losses.log_space import negative_entropy
from deepclust.runtime.errors import InputError

H, B, C = 2, 12, 5
every_loss = pytest.mark.parametrize("name", OBJECTIVES)
PARTS = {"one": [B], "three": [4, 4, 4], "uneven": [7, 1, 4]}
every_cut = pytest.mark.parametrize("sizes", PARTS.values(), ids=PARTS.keys())


def random_logits(n_clusters: int = C, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(H, B, n_clusters, generator=generator, dtype=torch.float64) for _ in range(4)]


def views(logits: list[torch.Tensor], objective) -> tuple:
    log_probs = [torch.log_softmax(part, dim=2) for part in logits]
    return (log_probs[0], log_probs[1]), (log_probs[2], log_probs[3]) if objective.uses_teacher else None


def cut(both, part: slice):
    return None if both is None else (both[0][:, part], both[1][:, part])


def slices(sizes: list[int]) -> list[slice]:
    ends = np.cumsum(sizes)
    return [slice(int(end - size), int(end)) for size, end in zip(sizes, ends)]


@every_cut
def test_the_entropy_of_a_batch_in_parts_has_the_gradient_of_the_whole(sizes):
    logits = random_logits()[0]
    whole = logits.clone().requires_grad_()
    mean_HC = torch.softmax(whole, dim=2).mean(dim=1)
    expected_H = (mean_HC * mean_HC.log()).sum(dim=1)
    expected_H.sum().backward()

    in_parts = logits.clone().requires_grad_()
    value_H = torch.zeros(H, dtype=torch.float64)
    for part in slices(sizes):
        probs_HBC = torch.softmax(in_parts[:, part], dim=2)
        share_H = probs_HBC.shape[1] / B * negative_entropy(mean_HC.detach(), probs_HBC)
        share_H.sum().backward()
        value_H += share_H.detach()
    np.testing.assert_allclose(value_H, expected_H.detach(), rtol=1e-6)
    np.testing.assert_allclose(in_parts.grad, whole.grad, rtol=1e-6, atol=1e-12)


def probs(log_probs):
    return None if log_probs is None else tuple(view.exp() for view in log_probs)


@every_loss
@every_cut
def test_the_loss_of_a_batch_in_parts_is_that_of_the_whole(name, sizes):
    objective = make_objective(name)
    logits = random_logits()
    state_HC = torch.full((H, C), 1 / C, dtype=torch.float64)

    def run(sizes):
        leaves = [part.clone().requires_grad_() for part in logits]
        student, teacher = views(leaves, objective)
        statistic_HC = sum(
            (part.stop - part.start)
            / B
            * objective.statistic(probs(cut(student, part)), probs(cut(teacher, part))).detach()
            for part in slices(sizes)
        )
        state = objective.next_state(state_HC, statistic_HC)
        loss_H = sum(
            (part.stop - part.start) / B * objective.loss(cut(student, part), cut(teacher, part), state)
            for part in slices(sizes)
        )
        loss_H.sum().backward()
        return loss_H.detach(), leaves[0].grad, leaves[1].grad

    for found, expected in zip(run(sizes), run([B])):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


@every_loss
def test_clusters_have_no_order(name):
    objective = make_objective(name)
    order = torch.randperm(C, generator=torch.Generator().manual_seed(1))
    logits = random_logits()
    state_HC = torch.softmax(torch.arange(H * C, dtype=torch.float64).view(H, C), dim=1)
    loss_H = objective.loss(*views(logits, objective), state_HC)
    permuted_H = objective.loss(*views([part[..., order] for part in logits], objective), state_HC[:, order])
    np.testing.assert_allclose(permuted_H, loss_H, rtol=1e-12)


@every_loss
def test_heads_do_not_see_each_others_students(name):
    objective = make_objective(name)
    student, teacher = views(random_logits(), objective)
    other = views(random_logits(seed=9), objective)[0]
    mixed = tuple(torch.cat([own[:1], foreign[1:]]) for own, foreign in zip(student, other))
    state_HC = torch.full((H, C), 1 / C, dtype=torch.float64)
    loss_H = objective.loss(student, teacher, state_HC)
    mixed_H = objective.loss(mixed, teacher, state_HC)
    np.testing.assert_allclose(mixed_H[0], loss_H[0], rtol=1e-12)
    assert abs(mixed_H[1] - loss_H[1]) > 1e-3


def degenerate_log_probs(kind: str) -> torch.Tensor:
    """(4, H, B, C) float32 log-probabilities of the four views."""
    if kind == "one cluster":
        return torch.zeros(4, H, B, 1)
    if kind == "uniform":
        return torch.full((4, H, B, C), 1 / C).log()
    winners = torch.zeros(4, H, B, dtype=torch.long)
    if kind == "one-hot, members disagree":
        winners[1], winners[3] = 1, 2
    if kind in ("one-hot, all in one cluster", "one-hot, members disagree"):
        return torch.nn.functional.one_hot(winners, C).float().log()
    return torch.log_softmax(1e4 * torch.nn.functional.one_hot(winners, C).float(), dim=3)  # "huge logits"


@every_loss
@pytest.mark.parametrize(
    "kind", ["one cluster", "uniform", "one-hot, all in one cluster", "one-hot, members disagree", "huge logits"]
)
@pytest.mark.parametrize("empty_state", [False, True], ids=["", "state of exact zeros"])
def test_degenerate_inputs_stay_finite(name, kind, empty_state):
    objective = make_objective(name)
    leaf = degenerate_log_probs(kind).requires_grad_()
    student, teacher = (leaf[0], leaf[1]), (leaf[2], leaf[3])
    n_clusters = leaf.shape[-1]
    state_HC = torch.full((H, n_clusters), 1 / n_clusters)
    state_HC = objective.next_state(state_HC, objective.statistic(probs(student), probs(teacher)).detach())
    if empty_state:
        state_HC = torch.zeros_like(state_HC)
    loss_H = objective.loss(student, teacher, state_HC)
    loss_H.sum().backward()
    assert torch.isfinite(loss_H).all()
    assert torch.isfinite(leaf.grad).all()


@every_loss
def test_disagreement_between_sure_members_is_felt(name):
    """A probability of exactly 0 must not silence the loss: it is far above that of agreement."""
    objective = make_objective(name)

    def loss_of(kind):
        log_probs = degenerate_log_probs(kind)
        student, teacher = (log_probs[0], log_probs[1]), (log_probs[0], log_probs[0])
        return objective.loss(student, teacher, torch.full((H, C), 1 / C))

    assert (loss_of("one-hot, members disagree") > loss_of("one-hot, all in one cluster") + 10).all()


@pytest.mark.parametrize("shapes", [((H, B, C), (H, B, C + 1)), ((B, C), (B, C)), ((H, B, C), (H, B + 1, C))])
def test_log_probabilities_of_other_shapes_are_refused(shapes):
    first, second = (torch.zeros(shape) for shape in shapes)
    for refuse in (
        lambda: temi_loss(first, second, torch.full((H, C), 1 / C), torch.ones(B)),
        lambda: scan_loss(first, second),
        lambda: tsp_loss(first, second),
    ):
        with pytest.raises(ValueError, match=r"two tensors of one shape \(heads, pairs, clusters\)"):
            refuse()


def test_unknown_losses_and_options_are_refused():
    with pytest.raises(InputError, match="unknown loss 'dec': choose one of temi, scan, tsp"):
        make_objective("dec")
    with pytest.raises(InputError, match=r"loss 'scan': .*beta"):
        make_objective("scan", beta=0.6)
