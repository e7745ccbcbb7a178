"""The training step: pairs in, one update of every head, bounded memory, exact over micro-batches and ranks.

Shape suffixes: H heads, B pairs, C clusters, V means of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor
from torch import distributed as dist
from torch.optim.lr_scheduler import LambdaLR

from deepclust.features.bank import FeatureBank
from deepclust.losses import BatchLook
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import ALONE
from deepclust.training.head_share import HeadShare
from deepclust.training.heads import Heads, make_teacher, update_teacher
from deepclust.training.inner_classifier import InnerClassifiers
from deepclust.training.pairs import PairBatch
from deepclust.training.recipe import Recipe
from deepclust.training.step import (
    ForwardPass,
    GradientSum,
    MicroBatch,
    look_at,
    loss_and_gradient,
    micro_batches,
    rounded_weights,
    step_dtype,
)
from deepclust.training.trained import TrainedHeads, finite_remedy

# The lowest head's loss over an epoch, logged under this name.
EPOCH_LOSS = "train/lowest_loss"
# A loss that looks at all samples several times does so at logits that are computed once, up to so many: 256 MB.
KEPT_LOGITS = 1 << 26


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
        share: this rank's of all heads, where ranks share out the heads; None: each rank has all of them, and some of
            every batch.
    """

    mean_VHC: Tensor
    loss_sum_H: Tensor
    last_loss_H: Tensor

    def __init__(
        self,
        recipe: Recipe,
        student: Heads,
        bank: FeatureBank,
        *,
        log_prefix: str = "",
        identity: str | None = None,
        share: HeadShare | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.recipe, self.bank, self.log_prefix = recipe, bank, log_prefix
        self.identity = identity
        self.loss = recipe.loss
        self.transform = bank.transform  # kept in the checkpoint with the heads
        self.share = share or HeadShare(recipe.n_heads, ALONE)
        self.student = self.share.of(student)
        self.teacher = self.first_teacher()
        self.register_buffer("mean_VHC", self.loss.first_mean(self.student.n_heads, recipe.n_clusters))
        self.register_buffer("loss_sum_H", torch.zeros(recipe.n_heads))
        self.register_buffer("last_loss_H", torch.full((recipe.n_heads,), math.inf))
        self.failed_at: dict[int, int] = {}  # {head: first epoch after which it was not finite}

    def first_teacher(self) -> Heads | None:
        """The teacher as training begins, if there is one."""
        if not self.loss.uses_teacher:
            return None
        if self.loss.inner_fit is None:
            return make_teacher(self.student)
        device = next(self.student.parameters()).device
        return InnerClassifiers(self.student.in_dim, self.recipe.n_clusters, self.student.n_heads, device)

    def trained(self) -> TrainedHeads:
        """What has been trained so far, on every rank, each of which calls this. The teacher assigns clusters where
        there is one, unless the loss says that the student does."""
        heads = self.student if self.teacher is None or self.loss.student_assigns else self.teacher
        heads = self.share.all_of(heads)
        return TrainedHeads(self.recipe, self.transform, heads, self.last_loss_H.cpu().numpy(), self.failed_at)

    def on_train_start(self) -> None:
        self.gradient_sum = GradientSum(self.student, over_ranks=self.shares_batches)

    @property
    def shares_batches(self) -> bool:
        """Whether every rank has all heads and some of each batch."""
        return self.trainer.world_size > 1 and not self.share.shared

    # --- one step --------------------------------------------------------------------------------------------------

    def training_step(self, pairs: PairBatch, batch_idx: int) -> None:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(scheduler, LambdaLR)
        optimizer.zero_grad(set_to_none=True)
        dtype = step_dtype(self.mean_VHC.device)
        with torch.autocast(self.mean_VHC.device.type, enabled=False):  # each tensor below has the type it should have
            loss_H = self.accumulate(pairs, dtype)
        if self.recipe.gradient_clip is not None:
            self.clip(self.recipe.gradient_clip)
        optimizer.step()
        scheduler.step()
        if self.teacher is not None and not self.loss.student_assigns:
            update_teacher(self.teacher, self.student, self.recipe.teacher_momentum)
        self.loss_sum_H += loss_H
        self.log(f"{self.log_prefix}train/loss", loss_H.mean(), batch_size=pairs.global_size)

    def clip(self, limit: float) -> None:
        """Shorten the gradient to a norm, that of all heads of all ranks."""
        norm = torch.nn.utils.get_total_norm([one.grad for one in self.student.parameters() if one.grad is not None])
        if self.share.shared:
            norm = self.share.summed(norm.square()).sqrt()
        torch.nn.utils.clip_grads_with_norm_(self.student.parameters(), limit, norm)

    def accumulate(self, pairs: PairBatch, dtype: torch.dtype) -> Tensor:
        """Give the student's parameters their gradients; returns the loss per head, (H,), over the global batch.

        Args:
            pairs: this rank's share of the batch.
            dtype: of the networks' products; the loss is taken in float32.
        """
        parts = micro_batches(pairs, self.recipe.micro_batch_size)
        gradients = self.gradient_sum
        weights = gradients.begin(dtype, frozen=self.current_epoch < self.recipe.freeze_prototypes_epochs)
        if isinstance(self.teacher, InnerClassifiers):
            self.fit_inner(self.teacher, parts, weights)
        forward = ForwardPass(self.loss, self.bank, self.student, weights, self.teacher, several=len(parts) > 1)

        # First what the loss needs of the whole batch.
        if self.loss.of_all_samples:  # known since the epoch began
            pair_weights = [self.mean_VHC.new_ones(len(part.rows_I) // 2) for part in parts]
        else:
            pair_weights = self.look_at_batch(parts, forward)

        # Then each micro-batch's exact share of the loss and its gradient.
        loss_H = self.loss_sum_H.new_zeros(self.student.n_heads)
        for part, weights_B in zip(parts, pair_weights):
            student_HBC, teacher_HBC = forward.both(part)
            batch = BatchLook(self.mean_VHC, weights_B)
            part_loss_H, gradient_HBC = loss_and_gradient(
                self.loss,
                student_HBC.detach(),
                teacher_HBC,
                batch,
                self.recipe.temperature,
                part.share,
                self.recipe.n_heads,
            )
            loss_H += part_loss_H
            # Not `manual_backward`, which goes through DDP: its hooks would sum over ranks at every micro-batch.
            if student_HBC.requires_grad:  # a linear head with frozen prototypes has nothing to learn
                student_HBC.backward(gradient_HBC)
            del student_HBC, teacher_HBC, gradient_HBC
        gradients.finish(loss_H)
        return self.share.losses(loss_H)

    def fit_inner(self, teacher: InnerClassifiers, parts: list[MicroBatch], weights: Mapping[str, Tensor]) -> None:
        """Fit the teacher to the student's labels of this batch, over micro-batches and ranks."""
        assert self.loss.inner_fit is not None, "the loss has asked for this teacher"
        steps, learning_rate = self.loss.inner_fit
        teacher.fit(
            self.student,
            weights,
            self.bank,
            parts,
            self.recipe.temperature,
            steps=steps,
            learning_rate=learning_rate,
            over_ranks=dist.all_reduce if self.shares_batches else lambda gradient_HCD: None,
        )

    def look_at_batch(self, parts: list[MicroBatch], forward: ForwardPass) -> list[Tensor]:
        """Bring `mean_VHC` to this batch, over micro-batches and ranks; returns the weights of each part's pairs."""
        weights: list[Tensor] = []
        for look in range(self.loss.n_looks):
            known_VHC = None if look == 0 else self.mean_VHC
            sum_VHC: Tensor | None = None
            for part in parts:
                found = look_at(self.loss, forward.looked_at(part), self.recipe.temperature, known_VHC)
                share_VHC = found.mean_VHC.mul_(part.share)
                sum_VHC = share_VHC if sum_VHC is None else sum_VHC.add_(share_VHC)
                weights += [found.weights_B] if look == 0 else []
            self.take_in(torch.zeros_like(self.mean_VHC) if sum_VHC is None else sum_VHC)
        if self.share.shared and weights:  # the weights of pairs are averaged over the heads of all ranks
            mine = self.student.n_heads / self.recipe.n_heads
            weights_B = self.share.summed(torch.cat(weights) * mine)
            weights = list(weights_B.split([len(part_B) for part_B in weights]))
        return weights

    def take_in(self, mean_VHC: Tensor) -> None:
        """What the loss makes of a look, of which this rank has its share."""
        if self.shares_batches:
            dist.all_reduce(mean_VHC)
        self.mean_VHC.copy_(self.loss.next_mean(self.mean_VHC, mean_VHC))

    # --- losses that look at all samples as an epoch begins ----------------------------------------------------------

    @torch.no_grad()
    def on_train_epoch_start(self) -> None:
        if not self.loss.of_all_samples:
            return
        assert self.teacher is not None, "such a loss looks at the teacher"
        self.teacher.load_state_dict(self.student.state_dict())
        self.mean_VHC.copy_(self.loss.first_mean(self.student.n_heads, self.recipe.n_clusters))
        n_logits = len(self.bank) * self.student.n_heads * self.recipe.n_clusters
        keeps = self.loss.n_looks > 1 and n_logits <= KEPT_LOGITS
        kept = list(self.blocks_of_logits()) if keeps else None
        for look in range(self.loss.n_looks):
            known_VHC = None if look == 0 else self.mean_VHC
            sum_VHC = torch.zeros_like(self.mean_VHC)
            for logits_HBC in self.blocks_of_logits() if kept is None else kept:
                found = look_at(self.loss, logits_HBC, self.recipe.temperature, known_VHC, paired=False)
                sum_VHC += found.mean_VHC * (logits_HBC.shape[1] / len(self.bank))
            self.take_in(sum_VHC)

    def blocks_of_logits(self) -> Iterator[Tensor]:
        """(H, B, C) the teacher's logits of this rank's share of all samples, a block at a time."""
        assert self.teacher is not None
        n_ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.shares_batches else (1, 0)
        weights = rounded_weights(self.teacher, self.bank.dtype)
        rows = self.recipe.micro_batch_size or self.recipe.batch_size  # what memory is known to hold
        for index, (_, block_BP) in enumerate(self.bank.blocks(rows)):
            if index % n_ranks == rank:
                yield self.teacher.logits(weights, block_BP)

    # --- optimizer and schedule ------------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LambdaLR]]:
        spared = self.student.no_decay(decay_gains=self.recipe.decay_gains)
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
            finite_H = self.share.whole(finite_H)
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
        lowest = min((loss for loss in losses if math.isfinite(loss)), default=math.inf)  # ended by max_steps
        self.log(f"{self.log_prefix}{EPOCH_LOSS}", lowest)  # on every rank: early stopping looks at it

    # --- checkpoints hold plain types only, so that they load with weights_only=True --------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.share.in_checkpoint(checkpoint, self.share.whole)
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
        self.share.in_checkpoint(checkpoint, self.share.cut)


def finite_heads(heads: Heads) -> Tensor:
    """(H,) whether every weight of a head is finite."""
    return torch.stack([torch.isfinite(one).flatten(1).all(1) for one in heads.parameters()]).all(0)


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
