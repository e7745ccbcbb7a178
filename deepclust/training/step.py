"""The arithmetic of one training step: its parts, their logits, the loss and its gradient, the sum of gradients.

Nothing here makes the host wait for the device: no value is read, no result is copied to the host.

Shape suffixes: H heads, B pairs, C clusters, V means of a batch, P dimensions that the heads see, I row numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from deepclust.features.bank import FeatureBank
from deepclust.losses import BatchLook, LogProbs, Loss, Probs
from deepclust.training.cosine import head_groups
from deepclust.training.heads import Heads
from deepclust.training.pairs import PairBatch

# In the buffer of all gradients each begins at a multiple of so many elements: kernels load 16 bytes at a time.
ALIGNMENT = 64


class MicroBatch(NamedTuple):
    """The pairs that memory sees at a time, and their share of the global batch."""

    rows_I: Tensor  # the samples, then their neighbors
    share: float


def micro_batches(pairs: PairBatch, size: int | None) -> list[MicroBatch]:
    """This rank's pairs in parts of so many, all in one if None; no part where a tiny batch left this rank none."""
    n_pairs = len(pairs.anchors_B)
    size = size or max(n_pairs, 1)
    parts = []
    for low in range(0, n_pairs, size):
        anchors_B, neighbors_B = pairs.anchors_B[low : low + size], pairs.neighbors_B[low : low + size]
        parts.append(MicroBatch(torch.cat([anchors_B, neighbors_B]), len(anchors_B) / pairs.global_size))
    return parts


# --- weights and their gradients --------------------------------------------------------------------------------------


def step_dtype(device: torch.device) -> torch.dtype:
    """The precision of a step's products: that of the autocast around it, else float32."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return torch.float32


@torch.no_grad()
def rounded_weights(heads: Heads, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of heads in the precision of a step; in float32 they share the parameters' memory."""
    return {name: weight.detach().to(dtype) for name, weight in heads.weights().items()}


class GradientSum:
    """The student's gradients of one step, in float32, summed over micro-batches and ranks.

    A process alone takes the first micro-batch's gradients as they are. Over ranks all gradients lie in one buffer
    behind the losses, the same in every step, and one collective sums them where they are. Those of the prototypes lie
    at its end, which is left out while the prototypes are frozen.

    Args:
        student: whose parameters get the gradients.
        over_ranks: whether there are other ranks.
    """

    def __init__(self, student: Heads, *, over_ranks: bool) -> None:
        self.student = student
        self.frozen = False
        self.sums: dict[str, Tensor] = {}
        self.flat: Tensor | None = None
        self.places: dict[str, Tensor] = {}
        if over_ranks:
            weights = rounded_weights(student, torch.float32)
            names = sorted(weights, key=lambda name: name in student.prototype_weights)  # stable
            bounds = [aligned(student.n_heads)]
            for name in names:
                bounds.append(bounds[-1] + aligned(weights[name].numel()))
            self.flat = weights[names[0]].new_zeros(bounds[-1])
            for name, low in zip(names, bounds):
                self.places[name] = self.flat[low : low + weights[name].numel()].view_as(weights[name])
            self.moving = bounds[len(names) - len(student.prototype_weights)]

    def begin(self, dtype: torch.dtype, *, frozen: bool) -> dict[str, Tensor]:
        """Start a step: the student's weights, each a leaf whose gradients are added up here.

        Args:
            dtype: of the weights.
            frozen: whether the prototypes get no gradient.
        """
        self.frozen = frozen
        self.sums = {}
        leaves = rounded_weights(self.student, dtype)
        for name, leaf in leaves.items():
            if not (frozen and name in self.student.prototype_weights):
                leaf.requires_grad_().register_post_accumulate_grad_hook(partial(self._add, name))
        return leaves

    def _add(self, name: str, leaf: Tensor) -> None:
        gradient, leaf.grad = leaf.grad, None
        assert gradient is not None, "torch calls this when there is one"
        if name in self.sums:
            self.sums[name].add_(gradient)
        elif name in self.places:
            self.sums[name] = self.places[name].copy_(gradient)
        else:
            self.sums[name] = gradient.float()

    @torch.no_grad()
    def finish(self, loss_H: Tensor) -> None:
        """Sum losses, in place, and gradients over ranks, and give the parameters their gradients.

        Args:
            loss_H: this rank's share of the loss per head.
        """
        if self.flat is not None:
            moving = self.flat[: self.moving] if self.frozen else self.flat
            if not self.sums:  # a tiny batch left this rank no pairs
                moving.zero_()
            moving[: len(loss_H)].copy_(loss_H)
            dist.all_reduce(moving)
            loss_H.copy_(moving[: len(loss_H)])
            frozen = self.student.prototype_weights if self.frozen else ()
            self.sums = {name: place for name, place in self.places.items() if name not in frozen}
        gradients = self.student.gradients(self.sums)
        for name, parameter in self.student.named_parameters():
            parameter.grad = gradients.get(name)  # None leaves a frozen one as it is
        self.sums = {}


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


# --- logits -----------------------------------------------------------------------------------------------------------


class ForwardPass:
    """The logits of one step, each computed as seldom as memory allows.

    Args:
        loss: says which network is looked at.
        bank: has the rows.
        student: the student's heads.
        weights: the student's weights, as leaves, in the precision of the step.
        teacher: its heads, if there is one.
        several: whether there are several micro-batches: then those of a look are computed again for every further look
            and for the gradient, and only of the network that is looked at.
    """

    def __init__(
        self,
        loss: Loss,
        bank: FeatureBank,
        student: Heads,
        weights: Mapping[str, Tensor],
        teacher: Heads | None,
        *,
        several: bool,
    ) -> None:
        self.loss, self.bank, self.student, self.weights, self.teacher = loss, bank, student, weights, teacher
        self.several = several
        self.dtype = next(iter(weights.values())).dtype
        self.kept: tuple[Tensor, Tensor | None] | None = None
        self.teacher_weights = rounded_weights(teacher, self.dtype) if several and teacher is not None else None

    def looked_at(self, part: MicroBatch) -> Tensor:
        """(H, 2B, C) logits of the network that the loss looks at, samples first, without gradient."""
        if self.several:  # and in every look
            inputs = self.inputs(part)
            with torch.no_grad():
                teacher = self.loss.looks_at_teacher
                logits_HBC = self.teacher_logits(inputs) if teacher else self.student.logits(self.weights, inputs)
        else:
            self.kept = self.kept or self.compute(part)
            logits_HBC = self.kept[1] if self.loss.looks_at_teacher else self.kept[0].detach()
        assert logits_HBC is not None, "a loss that looks at the teacher has one"
        return logits_HBC

    def both(self, part: MicroBatch) -> tuple[Tensor, Tensor | None]:
        """(H, 2B, C) logits of student, with gradient, and teacher, if any."""
        kept, self.kept = self.kept, None
        return self.compute(part) if kept is None else kept

    def compute(self, part: MicroBatch) -> tuple[Tensor, Tensor | None]:
        inputs = self.inputs(part)
        return self.student.logits(self.weights, inputs), self.teacher_logits(inputs)

    def inputs(self, part: MicroBatch) -> Tensor:
        return self.bank.gather(part.rows_I).to(self.dtype)

    @torch.no_grad()
    def teacher_logits(self, inputs: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        return self.teacher.logits(self.teacher_weights or rounded_weights(self.teacher, self.dtype), inputs)


# --- the loss ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def look_at(
    loss: Loss, logits_HBC: Tensor, temperature: float, mean_VHC: Tensor | None = None, *, paired: bool = True
) -> BatchLook:
    """What these pairs, samples first, tell of the batch: of every head, the weights averaged over the heads.

    Args:
        loss: what is looked for.
        logits_HBC: of the network that it looks at.
        temperature: of the softmax.
        mean_VHC: what the looks before have told; None: this is the first.
        paired: whether the second half of the rows are the neighbors of the first; else each is its own neighbor.
    """
    groups = head_groups(logits_HBC.shape, logits_HBC.device)
    looks = []
    for heads in groups:
        values_HBC = log_odds(logits_HBC[heads], temperature)
        if not loss.reads_log_odds:
            values_HBC = torch.softmax(values_HBC, dim=2)
        seen = Probs(*halves(values_HBC)) if paired else Probs(values_HBC, values_HBC)
        looks.append(loss.look(seen) if mean_VHC is None else loss.look_again(seen, mean_VHC[:, heads]))
    if len(looks) == 1:
        return looks[0]
    shares = [(heads.stop - heads.start) / len(logits_HBC) for heads in groups]
    weights_B = sum(share * look.weights_B for share, look in zip(shares, looks))
    assert isinstance(weights_B, Tensor)
    return BatchLook(torch.cat([look.mean_VHC for look in looks], dim=1), weights_B)


@torch.no_grad()
def loss_and_gradient(
    loss: Loss,
    student_HBC: Tensor,
    teacher_HBC: Tensor | None,
    batch: BatchLook,
    temperature: float,
    share: float = 1.0,
    n_heads: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss per head, (H,), and its gradient in the student's logits, (H, 2B, C), in their precision.

    Args:
        loss: computes in float32.
        student_HBC: logits of the pairs at hand, samples first.
        teacher_HBC: likewise; None if there is no teacher.
        batch: means over the whole batch, and weights of the pairs at hand.
        temperature: of the softmax.
        share: of the pairs at hand in the global batch; both results are multiplied with it.
        n_heads: the gradient is that of the mean over so many heads; None: over those at hand.
    """
    loss_H = batch.mean_VHC.new_empty(len(student_HBC))
    gradient_HBC = torch.empty_like(student_HBC)
    scale = share / (n_heads or len(student_HBC)) / temperature  # the loss's gradient is in the log-odds
    for heads, student, teacher in by_heads(student_HBC, teacher_HBC, temperature, as_log_odds=loss.reads_log_odds):
        part_H, gradients = loss.gradient(student, teacher, BatchLook(batch.mean_VHC[:, heads], batch.weights_B), scale)
        torch.mul(part_H, share, out=loss_H[heads])
        for half_HBC, half_gradient_HBC in zip(halves(gradient_HBC[heads]), gradients):
            half_HBC.copy_(half_gradient_HBC)
    return loss_H, gradient_HBC


def by_heads(
    student_HBC: Tensor, teacher_HBC: Tensor | None, temperature: float, *, as_log_odds: bool = False
) -> Iterator[tuple[slice, LogProbs, LogProbs]]:
    """Log-probabilities of student and teacher, a group of heads at a time; a student alone is its own teacher.

    Of a loss that reads log-odds, these. No float32 tensor outlives its group.
    """

    def read(logits_HBC: Tensor) -> LogProbs:
        values_HBC = log_odds(logits_HBC, temperature)
        return LogProbs(*halves(values_HBC if as_log_odds else torch.log_softmax(values_HBC, dim=2)))

    for heads in head_groups(student_HBC.shape, student_HBC.device):
        student = read(student_HBC[heads])
        yield heads, student, student if teacher_HBC is None else read(teacher_HBC[heads])


def log_odds(logits_HBC: Tensor, temperature: float) -> Tensor:
    """Logits over temperature, in float32."""
    if logits_HBC.dtype == torch.float32:
        return logits_HBC * (1 / temperature)
    return logits_HBC.float().mul_(1 / temperature)


def halves(both_HBC: Tensor) -> tuple[Tensor, Tensor]:
    """The samples' half of the rows, and their neighbors'."""
    half = both_HBC.shape[1] // 2
    return both_HBC[:, :half], both_HBC[:, half:]
