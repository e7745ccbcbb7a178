"""The training step: pairs in, one update of every head, bounded memory, exact over micro-batches and ranks.

Shape suffixes: H heads, B pairs, C clusters, V means of a batch, P dimensions that the heads see, I row numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor
from torch import distributed as dist
from torch.func import functional_call
from torch.optim.lr_scheduler import LambdaLR

from deepclust.features.bank import FeatureBank
from deepclust.losses import BatchLook, Gradients, LogProbs, Loss, Probs
from deepclust.runtime.errors import InputError
from deepclust.training.heads import Heads, make_teacher, update_teacher
from deepclust.training.pairs import PairBatch
from deepclust.training.recipe import Recipe
from deepclust.training.trained import TrainedHeads, finite_remedy

# The lowest head's loss over an epoch, logged under this name.
EPOCH_LOSS = "train/lowest_loss"
# Heads are taken in groups whose log-probabilities have at most so many elements: a few MB, which the temporaries of a
# loss reuse while they are in cache. It bounds memory as well: no float32 tensor of all heads is ever made.
GROUP_ELEMENTS = 1 << 20


class ClusteringModule(pl.LightningModule):
    """Multi-head student–teacher training on frozen features.

    Optimization is manual: the batch that the loss sees may be larger than memory, so a step is one or two passes over
    micro-batches, one sum of gradients over ranks, one update.

    Args:
        recipe: what to train.
        student: the heads as they start; the teacher, where the loss has one, starts equal to them.
        bank: the heads' inputs, and the transform that they went through.
        log_prefix: put before the name of every logged metric.
        identity: digest of the data and settings of the run, kept in the checkpoint.
    """

    mean_VHC: Tensor
    loss_sum_H: Tensor
    last_loss_H: Tensor

    def __init__(
        self, recipe: Recipe, student: Heads, bank: FeatureBank, *, log_prefix: str = "", identity: str | None = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.recipe, self.bank, self.log_prefix = recipe, bank, log_prefix
        self.identity = identity
        self.loss = recipe.loss
        self.transform = bank.transform  # kept in the checkpoint with the heads
        self.student = student
        self.teacher = make_teacher(student) if self.loss.uses_teacher else None
        self.register_buffer("mean_VHC", self.loss.first_mean(recipe.n_heads, recipe.n_clusters))
        self.register_buffer("loss_sum_H", torch.zeros(recipe.n_heads))
        self.register_buffer("last_loss_H", torch.full((recipe.n_heads,), math.inf))
        self.failed_at: dict[int, int] = {}  # {head: first epoch after which it was not finite}

    def trained(self) -> TrainedHeads:
        """What has been trained so far. The teacher assigns clusters where there is one."""
        heads = self.student if self.teacher is None else self.teacher
        return TrainedHeads(self.recipe, self.transform, heads, self.last_loss_H.cpu().numpy(), self.failed_at)

    # --- one step --------------------------------------------------------------------------------------------------

    def training_step(self, pairs: PairBatch, batch_idx: int) -> None:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(scheduler, LambdaLR)
        optimizer.zero_grad(set_to_none=True)
        parts = micro_batches(pairs, self.recipe.micro_batch_size)
        forward = ForwardPass(self, several=len(parts) > 1)

        # First what the loss needs of the whole batch: of every micro-batch, then of every rank.
        looks = [look_at(self.loss, forward.looked_at(part), self.recipe.temperature) for part in parts]
        shares = [part.share * look.mean_VHC for part, look in zip(parts, looks)]
        batch_mean_VHC = sum(shares, start=torch.zeros_like(self.mean_VHC))
        if self.trainer.world_size > 1:
            sum_over_ranks([batch_mean_VHC])
        self.mean_VHC.copy_(self.loss.next_mean(self.mean_VHC, batch_mean_VHC))

        # Then each micro-batch's exact share of the loss and its gradient.
        loss_H = torch.zeros_like(self.loss_sum_H)
        for part, look in zip(parts, looks):
            student_HBC, teacher_HBC = forward.both(part)
            gradient_HBC = torch.empty_like(student_HBC)
            scale = part.share / self.recipe.n_heads / self.recipe.temperature  # the loss's is in the log-odds
            for heads, student, teacher in by_heads(student_HBC.detach(), teacher_HBC, self.recipe.temperature):
                batch = BatchLook(self.mean_VHC[:, heads], look.weights_B)
                part_loss_H, gradients = self.loss.gradient(student, teacher, batch, scale)
                loss_H[heads] += part.share * part_loss_H
                put(gradients, gradient_HBC[heads])
            del student, teacher, gradients  # no float32 tensor outlives its group of heads
            # Not `manual_backward`, which goes through DDP: its hooks would sum over ranks at every micro-batch.
            student_HBC.backward(gradient_HBC)
            del student_HBC, teacher_HBC, gradient_HBC
        if self.trainer.world_size > 1:  # in one collective
            sum_over_ranks([loss_H, *gradients_of(self.student)])

        if self.current_epoch < self.recipe.freeze_prototypes_epochs:
            for parameter in self.student.prototype_parameters():
                parameter.grad = None
        if self.recipe.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.gradient_clip)
        optimizer.step()
        scheduler.step()
        if self.teacher is not None:
            update_teacher(self.teacher, self.student, self.recipe.teacher_momentum)
        self.loss_sum_H += loss_H
        self.log(f"{self.log_prefix}train/loss", loss_H.mean(), batch_size=pairs.global_size)

    # --- optimizer and schedule ------------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LambdaLR]]:
        spared = self.student.no_decay()
        named = list(self.student.named_parameters())
        groups = [
            {"params": [p for name, p in named if name not in spared], "weight_decay": self.recipe.weight_decay},
            {"params": [p for name, p in named if name in spared], "weight_decay": 0.0},
        ]
        kind = torch.optim.AdamW if self.recipe.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind([group for group in groups if group["params"]], lr=base_rate(self.recipe), fused=True)
        return [optimizer], [LambdaLR(optimizer, self.rate_factor)]

    def rate_factor(self, step: int) -> float:
        """What the base learning rate is multiplied with at a step of this training."""
        total_steps = int(self.trainer.estimated_stepping_batches)
        return schedule_factor(step, total_steps, self.recipe.warmup_fraction, self.recipe.lr_schedule)

    # --- the end of an epoch ---------------------------------------------------------------------------------------

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Not at the epoch's end: callbacks are called before the module there, and a checkpoint must hold this epoch's.
        if batch_idx + 1 == self.trainer.num_training_batches:
            finite_H = finite_heads(self.student)
            if self.teacher is not None:
                finite_H &= finite_heads(self.teacher)
            # The last step's weights have no loss yet that would tell.
            losses_H = torch.where(finite_H, self.loss_sum_H / self.trainer.num_training_batches, math.nan)
            self.last_loss_H.copy_(losses_H)
            self.loss_sum_H.zero_()
            self.note_failures()

    def note_failures(self) -> None:
        """Keep the epoch after which a head was not finite for the first time.

        Raises:
            InputError: if no head is: there is nothing to go on with. Ranks have the same losses, so each raises it.
        """
        failed = (~torch.isfinite(self.last_loss_H)).nonzero().flatten().tolist()
        self.failed_at = {head: self.failed_at.get(head, self.current_epoch + 1) for head in failed}
        if len(failed) == self.recipe.n_heads:
            at = f"after epoch {self.current_epoch + 1}"
            raise InputError(f"{self.loss.name}: no head is finite {at}: {finite_remedy(self.recipe)}")

    def on_train_epoch_end(self) -> None:
        losses = self.last_loss_H.tolist()
        name = f"{self.log_prefix}train/loss_head"
        self.log_dict({f"{name}_{head:02d}": loss for head, loss in enumerate(losses)}, rank_zero_only=True)
        lowest = min((loss for loss in losses if math.isfinite(loss)), default=math.inf)
        self.log(f"{self.log_prefix}{EPOCH_LOSS}", lowest)  # on every rank: early stopping looks at it

    # --- checkpoints hold plain types only, so that they load with weights_only=True --------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["deepclust"] = {
            "recipe": self.recipe.as_dict(),
            "in_dim": self.transform.in_dim,
            "in_memory": self.bank.in_memory,
            "identity": self.identity,
            "failed_at": self.failed_at,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Bring a checkpoint of old to the form of today's: one mean per head, and no state of the learning rate."""
        self.failed_at = dict(checkpoint["deepclust"].get("failed_at", {}))
        weights = checkpoint["state_dict"]
        if "state_HC" in weights:
            weights["mean_VHC"] = weights.pop("state_HC")[None]
        if not checkpoint["lr_schedulers"]:
            step = checkpoint["deepclust"]["steps_done"]
            groups = checkpoint["optimizer_states"][0]["param_groups"]
            checkpoint["lr_schedulers"] = [
                {"last_epoch": step, "_step_count": step + 1, "lr_lambdas": [None] * len(groups)}
            ]
            for group in groups:
                group["lr"] = base_rate(self.recipe) * self.rate_factor(step)


def finite_heads(heads: Heads) -> Tensor:
    """(H,) whether every weight of a head is finite."""
    return torch.stack([torch.isfinite(one).flatten(1).all(1) for one in heads.parameters()]).all(0)


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


class ForwardPass:
    """The logits of one step, each computed as seldom as memory allows.

    Args:
        module: has the bank and both networks.
        several: whether there are several micro-batches: then those of the first look are computed again for the
            gradient, and only of the network that is looked at.
    """

    def __init__(self, module: ClusteringModule, *, several: bool) -> None:
        self.module, self.several = module, several
        self.kept: tuple[Tensor, Tensor | None] | None = None
        # Autocast would round the teacher's weights once per micro-batch, as they need no gradient.
        device = module.mean_VHC.device.type
        self.rounded: dict[str, Tensor] | None = None
        if several and module.teacher is not None and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            self.rounded = {name: value.detach().to(dtype) for name, value in module.teacher.named_parameters()}

    def looked_at(self, part: MicroBatch) -> Tensor:
        """(H, 2B, C) logits of the network that the loss looks at, samples first."""
        teacher = self.module.loss.looks_at_teacher
        if self.several:
            inputs = self.inputs(part)
            # The student with gradient, so that autocast keeps its bfloat16 weights for the second pass.
            logits_HBC = self.teacher_logits(inputs) if teacher else self.module.student(inputs).detach()
        else:
            self.kept = self.compute(part)
            logits_HBC = self.kept[1] if teacher else self.kept[0].detach()
        assert logits_HBC is not None, "a loss that looks at the teacher has one"
        return logits_HBC

    def both(self, part: MicroBatch) -> tuple[Tensor, Tensor | None]:
        """(H, 2B, C) logits of student, with gradient, and teacher, if any."""
        kept, self.kept = self.kept, None
        return self.compute(part) if kept is None else kept

    def compute(self, part: MicroBatch) -> tuple[Tensor, Tensor | None]:
        inputs = self.inputs(part)
        return self.module.student(inputs), self.teacher_logits(inputs)

    def inputs(self, part: MicroBatch) -> Tensor:
        inputs = self.module.bank.gather(part.rows_I)
        half_without_autocast = inputs.dtype != torch.float32 and not torch.is_autocast_enabled(inputs.device.type)
        return inputs.float() if half_without_autocast else inputs

    @torch.no_grad()
    def teacher_logits(self, inputs: Tensor) -> Tensor | None:
        if self.module.teacher is None:
            return None
        if self.rounded is not None:
            return functional_call(self.module.teacher, self.rounded, (inputs,))
        return self.module.teacher(inputs)


@torch.no_grad()
def look_at(loss: Loss, logits_HBC: Tensor, temperature: float) -> BatchLook:
    """What these pairs, samples first, tell of the batch: of every head, the weights averaged over the heads."""
    means, weights_B = [], logits_HBC.new_zeros(logits_HBC.shape[1] // 2, dtype=torch.float32)
    for heads in head_groups(*logits_HBC.shape):
        probs = Probs(*halves(torch.softmax(log_odds(logits_HBC[heads], temperature), dim=2)))
        look = loss.look(probs)
        means.append(look.mean_VHC)
        weights_B += look.weights_B * ((heads.stop - heads.start) / len(logits_HBC))
    return BatchLook(torch.cat(means, dim=1), weights_B)


def by_heads(
    student_HBC: Tensor, teacher_HBC: Tensor | None, temperature: float
) -> Iterator[tuple[slice, LogProbs, LogProbs]]:
    """Log-probabilities of student and teacher, a group of heads at a time; a student alone is its own teacher."""
    for heads in head_groups(*student_HBC.shape):
        student = log_probs(student_HBC[heads], temperature)
        yield heads, student, student if teacher_HBC is None else log_probs(teacher_HBC[heads], temperature)


def head_groups(n_heads: int, n_rows: int, n_clusters: int) -> list[slice]:
    """Slices of heads whose (heads, rows, clusters) block stays within `GROUP_ELEMENTS`, one head at least."""
    size = max(1, GROUP_ELEMENTS // max(1, n_rows * n_clusters))
    return [slice(low, min(low + size, n_heads)) for low in range(0, n_heads, size)]


def log_probs(logits_HBC: Tensor, temperature: float) -> LogProbs:
    return LogProbs(*halves(torch.log_softmax(log_odds(logits_HBC, temperature), dim=2)))


def log_odds(logits_HBC: Tensor, temperature: float) -> Tensor:
    """Logits over temperature, in float32."""
    if logits_HBC.dtype == torch.float32:
        return logits_HBC * (1 / temperature)
    return logits_HBC.float().mul_(1 / temperature)


def halves(both_HBC: Tensor) -> tuple[Tensor, Tensor]:
    """The samples' half of the rows, and their neighbors'."""
    half = both_HBC.shape[1] // 2
    return both_HBC[:, :half], both_HBC[:, half:]


def put(gradients: Gradients, place_HBC: Tensor) -> None:
    """Write the gradients of the samples, then those of their neighbors, in the type of the place."""
    for half_HBC, gradient_HBC in zip(halves(place_HBC), gradients):
        half_HBC.copy_(gradient_HBC)


def gradients_of(heads: Heads) -> list[Tensor]:
    """The gradients of all parameters, zero where a tiny batch left this rank no pairs."""
    for parameter in heads.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in heads.parameters() if parameter.grad is not None]


def sum_over_ranks(tensors: list[Tensor]) -> None:
    """Sum in place, in one collective."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(summed.view_as(tensor))


def base_rate(recipe: Recipe) -> float:
    """The learning rate after the warm-up: the recipe's is for a batch of 256."""
    return recipe.learning_rate * recipe.batch_size / 256


def schedule_factor(step: int, total_steps: int, warmup_fraction: float, schedule: str) -> float:
    """What the base learning rate is multiplied with at a step: linear warm-up from near 0, then the schedule."""
    warmup = math.floor(total_steps * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
