"""What holds for every loss: parts of a batch add up, clusters have no order, degenerate inputs stay finite.

Shape suffixes: H heads, B pairs, C clusters, V means of a batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from deepclust.losses import (
    LOSSES,
    BatchLook,
    LogProbs,
    Loss,
    Probs,
    make_loss,
    scan_loss,
    temi_loss,
    tsp_loss,
)
from deepclust.runtime.errors import InputError
from deepclust.training.recipe import Recipe

H, B, C = 2, 12, 5
# Bounded in each pair: a mutual information, cosines, a debiased likelihood; the others have no pairs.
NO_LIKELIHOOD_OF_PAIRS = {"iic", "pica", "dec", "self_label", "icon", "turtle"}
# At the paper's 0.99 no sample of these is sure.
OPTIONS = {"self_label": {"threshold": 0.4}}
every_loss = pytest.mark.parametrize("name", LOSSES)
PARTS = {"one": [B], "three": [4, 4, 4], "uneven": [7, 1, 4]}


def made(name: str) -> Loss:
    return make_loss(name, **OPTIONS.get(name, {}))


def random_logits(n_clusters: int = C, seed: int = 0, sharpness: float = 2.0) -> list[torch.Tensor]:
    """Of student and teacher on x and x'; the student leans to another cluster on x than on x'."""
    generator = torch.Generator().manual_seed(seed)
    logits = [sharpness * torch.randn(H, B, n_clusters, generator=generator, dtype=torch.float64) for _ in range(4)]
    logits[0][..., 0] += 1.5
    logits[1][..., 1] += 1.5
    return logits


def views(logits: list[torch.Tensor], loss: Loss) -> tuple[LogProbs, LogProbs]:
    """Of student and teacher; without a teacher the student's own."""
    log_probs = [part if loss.reads_log_odds else torch.log_softmax(part, dim=2) for part in logits]
    student = LogProbs(*log_probs[:2])
    return student, LogProbs(*log_probs[2:]) if loss.uses_teacher else student


def cut(both: LogProbs, part: slice) -> LogProbs:
    return LogProbs(*(view[:, part] for view in both))


def seen(loss: Loss, student: LogProbs, teacher: LogProbs) -> Probs:
    both = teacher if loss.looks_at_teacher else student
    return Probs(*both) if loss.reads_log_odds else both.exp()


def looks_of(loss: Loss, student: LogProbs, teacher: LogProbs, sizes: Sequence[int] = (B,)) -> list[BatchLook]:
    """What each part of the batch is given, after all looks."""
    mean_VHC = loss.first_mean(student.anchors.shape[0], student.anchors.shape[2]).to(student.anchors.dtype)
    parts = [seen(loss, cut(student, part), cut(teacher, part)) for part in slices(sizes)]
    weights = [loss.look(part).weights_B for part in parts]
    for number in range(loss.n_looks):
        looks = [loss.look(part) if number == 0 else loss.look_again(part, mean_VHC) for part in parts]
        batch_mean_VHC = sum(size / B * one.mean_VHC for size, one in zip(sizes, looks))
        mean_VHC = loss.next_mean(mean_VHC, batch_mean_VHC)
    return [BatchLook(mean_VHC, weights_B) for weights_B in weights]


def look(loss: Loss, student: LogProbs, teacher: LogProbs) -> BatchLook:
    return looks_of(loss, student, teacher)[0]


def slices(sizes: Sequence[int]) -> list[slice]:
    ends = np.cumsum(sizes)
    return [slice(int(end - size), int(end)) for size, end in zip(sizes, ends)]


def sinkhorn(probs_HBC: torch.Tensor, sharpness: float = 25, rounds: int = 50) -> torch.Tensor:
    """(H, C) log of the column scalings of p^λ: the published iteration, rows and columns in turn."""
    scores_HBC = sharpness * probs_HBC.log()
    columns_H1C = torch.zeros_like(scores_HBC[:, :1])
    for _ in range(rounds):
        rows_HB1 = -torch.logsumexp(scores_HBC + columns_H1C, dim=2, keepdim=True) - math.log(scores_HBC.shape[1])
        columns_H1C = -torch.logsumexp(scores_HBC + rows_HB1, dim=1, keepdim=True) - math.log(scores_HBC.shape[2])
    return columns_H1C[:, 0]


def masked_cross_entropy(logits_BC: torch.Tensor, threshold: float = 0.4) -> torch.Tensor:
    """Of the sure samples alone, with torch's class weights."""
    highest, labels = logits_BC.detach().softmax(dim=1).max(dim=1)
    sure = highest > threshold
    counts = torch.bincount(labels[sure], minlength=logits_BC.shape[1])
    weight = sure.sum() / counts.clamp_min(1).double()
    return torch.nn.functional.cross_entropy(logits_BC[sure], labels[sure], weight=weight)


def plain_loss(name: str, logits: list[torch.Tensor], marginal_HC: torch.Tensor) -> torch.Tensor:
    """(H,) the papers' formulas over the whole batch, in plain probabilities: what autograd differentiates."""
    x, n, teacher_x, teacher_n = (part.softmax(dim=2) for part in logits)

    def negative_entropy(probs: torch.Tensor) -> torch.Tensor:
        mean = probs.mean(dim=1)
        return (mean * mean.log()).sum(dim=1)

    if name == "temi":
        weights = (teacher_x * teacher_n).sum(dim=2).mean(dim=0)
        forward = (((x * teacher_n) ** 0.6) / marginal_HC[:, None]).sum(dim=2).log()
        backward = (((n * teacher_x) ** 0.6) / marginal_HC[:, None]).sum(dim=2).log()
        return -(weights * (forward + backward) / 2).mean(dim=1)
    if name in ("pmi", "wmi"):
        weights = (teacher_x * teacher_n).sum(dim=2) if name == "wmi" else 1.0
        forward = (x * teacher_n / marginal_HC[:, None]).sum(dim=2).log()
        backward = (n * teacher_x / marginal_HC[:, None]).sum(dim=2).log()
        return -(weights * (forward + backward) / 2).mean(dim=1)
    if name == "scan":
        agreement = (x * teacher_n).sum(dim=2).log() + (n * teacher_x).sum(dim=2).log()
        return -agreement.mean(dim=1) / 2 + 5 * (negative_entropy(x) + negative_entropy(n)) / 2
    consistency = -(x * n).sum(dim=2).log().mean(dim=1)
    if name == "iic":
        joint = torch.einsum("hbc,hbd->hcd", x, n) / x.shape[1]
        joint = (joint + joint.transpose(1, 2)) / 2
        independent = joint.sum(dim=2, keepdim=True) * joint.sum(dim=1, keepdim=True)
        return -(joint * (joint / independent).log()).sum(dim=(1, 2))
    if name in ("pica", "nnm"):
        columns = [torch.nn.functional.normalize(view, dim=1) for view in (x, n)]
        told_apart = torch.einsum("hbc,hbd->hcd", *columns).softmax(dim=2).diagonal(dim1=1, dim2=2).log().mean(dim=1)
        if name == "nnm":
            return consistency - told_apart + 5 * negative_entropy(x)
        return -told_apart + 2 * (negative_entropy(x) + math.log(x.shape[2]))
    if name == "self_classifier":

        def predicted(logits: torch.Tensor) -> torch.Tensor:
            return logits.softmax(dim=2) / logits.softmax(dim=2).sum(dim=1, keepdim=True) * (B / logits.shape[2])

        def target(logits: torch.Tensor) -> torch.Tensor:
            columns = (2 * logits).softmax(dim=1)
            return columns / columns.sum(dim=2, keepdim=True)

        forward = (target(logits[1]) * predicted(logits[0]).log()).sum(dim=2)
        backward = (target(logits[0]) * predicted(logits[1]).log()).sum(dim=2)
        return -(forward + backward).mean(dim=1) / 2
    if name == "sela":
        log_scaling = sinkhorn(teacher_x)[:, None]
        labels, neighbor_labels = (
            (25 * view.log() + log_scaling).argmax(dim=2, keepdim=True) for view in (teacher_x, teacher_n)
        )
        return -(n.gather(2, labels).log() + x.gather(2, neighbor_labels).log()).mean(dim=(1, 2)) / 2
    if name == "self_label":
        return torch.stack([masked_cross_entropy(head) for head in logits[0]])
    if name == "icon":
        return -(0.4 * (x * n / x.mean(dim=1, keepdim=True)).sum(dim=2) + 0.6).log().mean(dim=1)
    if name == "turtle":
        return -(x * teacher_x.log()).sum(dim=2).mean(dim=1) + 10 * negative_entropy(x)
    if name == "consensus_heads":
        votes = (teacher_x + teacher_n) / 2
        return -(votes * (x.log() + n.log()) / 2).sum(dim=2).mean(dim=1)
    if name == "dec":
        targets = torch.nn.functional.normalize(teacher_x**2 / teacher_x.sum(dim=1, keepdim=True), p=1, dim=2)
        return (targets * (targets / x).log()).sum(dim=2).mean(dim=1)
    return consistency + (5 if name == "scan_original" else 3) * negative_entropy(x)


@every_loss
@pytest.mark.parametrize("sizes", PARTS.values(), ids=PARTS.keys())
@pytest.mark.parametrize("sharpness", [1.0, 12.0])
def test_value_and_gradient_of_a_batch_in_parts_are_autograds_of_the_whole(name, sizes, sharpness):
    loss, logits = made(name), random_logits(sharpness=sharpness)
    odds = [part.clone().requires_grad_() for part in logits[:2]]
    student, teacher = views(logits, loss)
    looks = looks_of(loss, student, teacher, sizes)
    expected_H = plain_loss(name, [*odds, *logits[2:]], looks[0].mean_VHC[0])
    expected = torch.autograd.grad(expected_H.sum(), odds, allow_unused=True, materialize_grads=True)

    found_H, found = torch.zeros(H, dtype=torch.float64), []
    for part, of_part in zip(slices(sizes), looks):
        share = (part.stop - part.start) / B
        part_H, gradients = loss.gradient(cut(student, part), cut(teacher, part), of_part, share)
        found_H += share * part_H
        found.append(gradients)
    torch.testing.assert_close(found_H, expected_H.detach(), rtol=1e-9, atol=1e-12)
    for view in (0, 1):
        whole_HBC = torch.cat([gradients[view] for gradients in found], dim=1)
        torch.testing.assert_close(whole_HBC, expected[view], rtol=1e-7, atol=1e-10)


def value(loss: Loss, student: LogProbs, teacher: LogProbs) -> torch.Tensor:
    return loss.gradient(student, teacher, look(loss, student, teacher))[0]


@every_loss
def test_clusters_have_no_order(name):
    loss, logits = made(name), random_logits()
    order = torch.randperm(C, generator=torch.Generator().manual_seed(1))
    loss_H = value(loss, *views(logits, loss))
    permuted_H = value(loss, *views([part[..., order] for part in logits], loss))
    np.testing.assert_allclose(permuted_H, loss_H, rtol=1e-12)


@every_loss
def test_heads_do_not_see_each_others_students(name):
    loss = made(name)
    student, teacher = views(random_logits(sharpness=4), loss)
    other, _ = views(random_logits(seed=9, sharpness=4), loss)
    mixed = LogProbs(*(torch.cat([own[:1], foreign[1:]]) for own, foreign in zip(student, other)))
    loss_H = value(loss, student, teacher)
    mixed_H = value(loss, mixed, teacher if loss.uses_teacher else mixed)
    np.testing.assert_allclose(mixed_H[0], loss_H[0], rtol=1e-12)
    assert abs(mixed_H[1] - loss_H[1]) > 1e-3


@every_loss
def test_the_scale_multiplies_the_gradient_and_not_the_value(name):
    loss = made(name)
    student, teacher = views(random_logits(), loss)
    batch = look(loss, student, teacher)
    (loss_H, plain), (same_H, scaled) = (loss.gradient(student, teacher, batch, scale) for scale in (1.0, 0.25))
    torch.testing.assert_close(same_H, loss_H)
    for first, second in zip(plain, scaled):
        torch.testing.assert_close(first / 4, second)


@every_loss
def test_under_autocast_the_arithmetic_stays_in_float32(name):
    loss = made(name)
    student, teacher = (LogProbs(*(view.float() for view in both)) for both in views(random_logits(), loss))
    batch = look(loss, student, teacher)
    expected_H, expected = loss.gradient(student, teacher, batch)
    with torch.autocast("cpu", torch.bfloat16):
        found_H, found = loss.gradient(student, teacher, batch)
    torch.testing.assert_close(found_H, expected_H, rtol=0, atol=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def degenerate_log_probs(kind: str) -> torch.Tensor:
    """(4, H, B, C) float32 log-probabilities of the four views; sure members have probabilities of exactly 0 and 1."""
    if kind == "one cluster":
        return torch.zeros(4, H, B, 1)
    if kind == "uniform":
        return torch.full((4, H, B, C), 1 / C).log()
    winners = torch.zeros(4, H, B, dtype=torch.long)
    if kind == "sure, members disagree":
        winners[1], winners[3] = 1, 2
    log_probs = torch.log_softmax(1e4 * torch.nn.functional.one_hot(winners, C).float(), dim=3)
    assert ((log_probs.exp() == 0) | (log_probs.exp() == 1)).all()
    return log_probs


@every_loss
@pytest.mark.parametrize("kind", ["one cluster", "uniform", "sure, all in one cluster", "sure, members disagree"])
@pytest.mark.parametrize("empty_mean", [False, True], ids=["", "means of exact zeros"])
def test_degenerate_inputs_stay_finite(name, kind, empty_mean):
    loss, log_probs = made(name), degenerate_log_probs(kind)
    student, teacher = LogProbs(*log_probs[:2]), LogProbs(*log_probs[2:])
    batch = look(loss, student, teacher)
    if empty_mean:
        batch = batch._replace(mean_VHC=torch.zeros_like(batch.mean_VHC))
    loss_H, gradients = loss.gradient(student, teacher, batch)
    assert torch.isfinite(loss_H).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - NO_LIKELIHOOD_OF_PAIRS))
def test_disagreement_between_sure_members_is_felt(name):
    """A probability of exactly 0 must not silence the loss: it is far above that of agreement."""
    loss = made(name)

    def loss_of(kind):
        log_probs = degenerate_log_probs(kind)
        student, teacher = LogProbs(*log_probs[:2]), LogProbs(log_probs[0], log_probs[0])
        return value(loss, student, teacher)

    assert (loss_of("sure, members disagree") > loss_of("sure, all in one cluster") + 10).all()


@pytest.mark.parametrize("shapes", [((H, B, C), (H, B, C + 1)), ((B, C), (B, C)), ((H, B, C), (H, B + 1, C))])
def test_log_probabilities_of_other_shapes_are_refused(shapes):
    first, second = (torch.zeros(shape) for shape in shapes)
    mean_HC = torch.full((H, C), 1 / C)
    for refuse in (
        lambda: temi_loss(first, second, mean_HC, torch.ones(B)),
        lambda: scan_loss(first, second, mean_HC),
        lambda: tsp_loss(first, second, mean_HC),
    ):
        with pytest.raises(ValueError, match=r"two tensors of one shape \(heads, pairs, clusters\)"):
            refuse()


def test_unknown_losses_and_options_are_refused():
    with pytest.raises(InputError, match="unknown loss 'moco': choose one of temi, scan, tsp, scan_original"):
        make_loss("moco")
    with pytest.raises(InputError, match="loss=scan has no setting 'beta'"):
        make_loss("scan", beta=0.6)


@every_loss
def test_a_loss_names_settings_of_the_recipe_in_which_it_differs(name):
    loss = LOSSES[name]
    defaults = {member.name: member.default for member in dataclasses.fields(Recipe)}
    assert all(defaults[setting] != value for setting, value in loss.trained_with.items())
    assert Recipe.of(name, n_clusters=2) == Recipe(n_clusters=2, loss=loss(), **loss.trained_with)
    assert loss.name == name


@every_loss
def test_the_statistics_of_a_batch_have_one_shape_before_and_after(name):
    loss = made(name)
    probs = Probs(*torch.full((2, H, B, C), 1 / C))
    assert loss.look(probs).mean_VHC.shape == loss.first_mean(H, C).shape == (loss.means(C), H, C)
    assert loss.look(probs).weights_B.shape == (B,)
