"""The training step: pairs in, one update of every head, bounded memory, exact over micro-batches and ranks.

Shape suffixes: H heads, B pairs, C clusters, P dimensions that the heads see.
"""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch import distributed as dist
from torch.func import functional_call

from deepclust.features.bank import FeatureBank, stored_dtype
from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.losses import Views, initial_state, make_objective
from deepclust.losses.gradients import head_groups
from deepclust.neighbors import Neighbors
from deepclust.training.heads import make_heads, make_teacher, update_teacher
from deepclust.training.initialization import initialize_heads
from deepclust.training.pairs import PairBatch
from deepclust.training.recipe import Recipe
from deepclust.training.trained import TrainedHeads

# The lowest head's loss over an epoch, logged under this name.
EPOCH_LOSS = "train/lowest_loss"


class ClusteringModule(pl.LightningModule):
    """Multi-head student–teacher training on frozen features.

    Optimization is manual: the batch that the loss sees may be larger than memory, so a step is one or two passes over
    micro-batches, one sum of gradients over ranks, one update.

    Args:
        recipe: what to train.
        in_dim: D of the features.
        log_prefix: put before the name of every logged metric.
    """

    state_HC: Tensor
    loss_sum_H: Tensor
    last_loss_H: Tensor

    def __init__(self, recipe: Recipe, in_dim: int, *, log_prefix: str = "") -> None:
        super().__init__()
        self.log_prefix = log_prefix
        self.automatic_optimization = False
        self.recipe = recipe
        self.transform = FeatureTransform(in_dim, recipe.preprocess, recipe.pca_dim)
        self.student = make_heads(
            recipe.head,
            self.transform.out_dim,
            recipe.n_clusters,
            recipe.n_heads,
            hidden_dim=recipe.hidden_dim,
            embedding_dim=recipe.embedding_dim,
            seed=recipe.seed,
        )
        self.objective = make_objective(recipe.loss, **recipe.loss_options)
        self.teacher = make_teacher(self.student) if self.objective.uses_teacher else None
        self.register_buffer("state_HC", initial_state(recipe.n_heads, recipe.n_clusters))
        self.register_buffer("loss_sum_H", torch.zeros(recipe.n_heads))
        self.register_buffer("last_loss_H", torch.full((recipe.n_heads,), math.inf))
        self.steps_done = 0
        self.initialized = False
        self.bank: FeatureBank | None = None
        self._teacher_weights: dict[str, Tensor] | None = None
        self._data: tuple[FeatureSet, Neighbors | None] | None = None

    def trained(self) -> TrainedHeads:
        """What has been trained so far. The teacher assigns clusters where there is one."""
        heads = self.student if self.teacher is None else self.teacher
        return TrainedHeads(self.recipe, self.transform, heads, self.last_loss_H.cpu().numpy())

    # --- before the first step -------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Fit the transform, load the feature bank and, on rank 0 of a fresh run, initialize the heads.

        The other ranks receive rank 0's heads when the strategy wraps the module.
        """
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        features: FeatureSet = datamodule.features
        if self.initialized:  # resumed: the transform came with the checkpoint
            self._load_bank(features)
            return
        self.transform.fit(features)
        self._load_bank(features)
        if self.trainer.is_global_zero:
            assert self.bank is not None
            initialize_heads(self.student, self.bank, self.recipe, datamodule.neighbors)
            if self.teacher is not None:
                self.teacher.load_state_dict(self.student.state_dict())
        self.initialized = True

    def _load_bank(self, features: FeatureSet) -> None:
        device = self.trainer.strategy.root_device
        in_memory = self.trainer.datamodule.in_memory  # type: ignore[attr-defined]
        dtype = stored_dtype(self.trainer.precision)
        self.bank = FeatureBank(features, self.transform.to(device), device, dtype, in_memory=in_memory)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        spared = self.student.no_decay()
        named = list(self.student.named_parameters())
        groups = [
            {"params": [p for name, p in named if name not in spared], "weight_decay": self.recipe.weight_decay},
            {"params": [p for name, p in named if name in spared], "weight_decay": 0.0},
        ]
        kind = torch.optim.AdamW if self.recipe.optimizer == "adamw" else torch.optim.Adam
        return kind([group for group in groups if group["params"]], lr=self.recipe.learning_rate, fused=True)

    # --- one step --------------------------------------------------------------------------------------------------

    def training_step(self, pairs: PairBatch, batch_idx: int) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, pl.core.optimizer.LightningOptimizer)
        self._set_learning_rate(optimizer)
        optimizer.zero_grad(set_to_none=True)
        loss_H = self._accumulate_gradients(pairs)
        self._sum_over_ranks(loss_H)
        if self.current_epoch < self.recipe.freeze_prototypes_epochs:
            for parameter in self.student.prototype_parameters():
                parameter.grad = None
        if self.recipe.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.gradient_clip)
        optimizer.step()
        if self.teacher is not None:
            update_teacher(self.teacher, self.student, self.recipe.teacher_momentum)
        self.steps_done += 1
        self.loss_sum_H += loss_H
        self.log(f"{self.log_prefix}train/loss", loss_H.mean(), batch_size=pairs.global_size)

    def _accumulate_gradients(self, pairs: PairBatch) -> Tensor:
        """Gradients of the whole batch's loss from this rank's pairs; returns their share of the loss per head.

        A batch that fits one micro-batch takes one pass. Otherwise a first pass without gradient gathers the statistic
        that the loss needs over the whole batch, and a second adds each micro-batch's exact contribution.
        """
        local_size = len(pairs.anchors_B)
        micro = self.recipe.micro_batch_size or max(local_size, 1)
        parts = [slice(low, low + micro) for low in range(0, local_size, micro)]
        shares = [len(pairs.anchors_B[part]) / pairs.global_size for part in parts]
        of_teacher = self.objective.statistic_of_teacher
        statistic_HC = torch.zeros_like(self.state_HC)
        weights: list[Tensor | None] = []
        once: tuple[Tensor, Tensor | None] | None = None
        self._prepare_teacher(several=len(parts) > 1)
        for part, share in zip(parts, shares):
            inputs = self._inputs(pairs, part)
            if len(parts) == 1:
                once = self.student(inputs), self._teacher_logits(inputs)
                logits = once[1] if of_teacher else once[0]
            else:
                # With gradients on, autocast keeps the student's bfloat16 weights for the second pass, too.
                logits = self._teacher_logits(inputs) if of_teacher else self.student(inputs)
            assert logits is not None
            weights.append(self._first_look(statistic_HC, logits.detach(), share))
            del logits
        if self.trainer.world_size > 1:
            dist.all_reduce(statistic_HC)
        self.state_HC.copy_(self.objective.next_state(self.state_HC, statistic_HC))
        loss_H = torch.zeros_like(self.loss_sum_H)
        for part, share, weights_B in zip(parts, shares, weights):
            if once is None:
                inputs = self._inputs(pairs, part)
                student, teacher = self.student(inputs), self._teacher_logits(inputs)
            else:
                student, teacher = once
            # Averaged over heads, and weighted by the part's share of the batch.
            scale = share / self.recipe.n_heads
            part_loss_H, gradient = self._loss_and_gradient(student.detach(), teacher, weights_B, scale)
            student.backward(gradient)
            loss_H += share * part_loss_H
            del student, teacher, gradient
        return loss_H

    # Below, heads are taken in groups whose temporaries stay in cache.

    @torch.no_grad()
    def _first_look(self, statistic_HC: Tensor, logits_HBC: Tensor, share: float) -> Tensor | None:
        """Add these pairs' share of the batch's statistic; return their weights, averaged over all heads."""
        weights_B: Tensor | None = None
        for group in head_groups(*logits_HBC.shape):
            views = _views(torch.softmax(self._log_odds(logits_HBC[group]), dim=2))
            if not self.objective.statistic_of_teacher:
                statistic_HC[group] += share * self.objective.statistic(views, None)
                continue
            statistic_HC[group] += share * self.objective.statistic(None, views)
            of_group_B = self.objective.weights(views)
            if of_group_B is not None:
                part_B = of_group_B * ((group.stop - group.start) / self.recipe.n_heads)
                weights_B = part_B if weights_B is None else weights_B + part_B
        return weights_B

    @torch.no_grad()
    def _loss_and_gradient(
        self, student_HBC: Tensor, teacher_HBC: Tensor | None, weights_B: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Loss per head of the pairs at hand, and `scale` times its gradient in the student's logits, of their type."""
        loss_H = torch.zeros_like(self.loss_sum_H)
        gradient_HBC = torch.empty_like(student_HBC)
        scale = scale / self.recipe.temperature
        for group in head_groups(*student_HBC.shape):
            teacher = None if teacher_HBC is None else self._log_probs(teacher_HBC[group])
            student = self._log_probs(student_HBC[group])
            loss_H[group], views = self.objective.gradient(student, teacher, self.state_HC[group], weights_B, scale)
            for place, gradient in zip(_views(gradient_HBC[group]), views):
                place.copy_(gradient)
        return loss_H, gradient_HBC

    def _inputs(self, pairs: PairBatch, part: slice) -> Tensor:
        """(2B, P) inputs of the samples, then of their neighbors."""
        assert self.bank is not None
        inputs = self.bank.gather(torch.cat([pairs.anchors_B[part], pairs.neighbors_B[part]]))
        half_without_autocast = inputs.dtype != torch.float32 and not torch.is_autocast_enabled(inputs.device.type)
        return inputs.float() if half_without_autocast else inputs

    @torch.no_grad()
    def _prepare_teacher(self, *, several: bool) -> None:
        """Round the teacher's weights once per step where autocast would round them once per micro-batch."""
        self._teacher_weights = None
        if several and self.teacher is not None and torch.is_autocast_enabled(self.state_HC.device.type):
            dtype = torch.get_autocast_dtype(self.state_HC.device.type)
            self._teacher_weights = {name: value.to(dtype) for name, value in self.teacher.named_parameters()}

    @torch.no_grad()
    def _teacher_logits(self, inputs: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        if self._teacher_weights is not None:
            return functional_call(self.teacher, self._teacher_weights, (inputs,))
        return self.teacher(inputs)

    def _log_probs(self, logits_HBC: Tensor) -> Views:
        return _views(torch.log_softmax(self._log_odds(logits_HBC), dim=2))

    def _log_odds(self, logits_HBC: Tensor) -> Tensor:
        """Logits over temperature, in float32."""
        if logits_HBC.dtype == torch.float32:
            return logits_HBC * (1 / self.recipe.temperature)
        return logits_HBC.float().mul_(1 / self.recipe.temperature)

    def _sum_over_ranks(self, loss_H: Tensor) -> None:
        """One collective for all gradients and the losses: the batch mean was divided by its global size already."""
        if self.trainer.world_size == 1:
            return
        for parameter in self.student.parameters():
            if parameter.grad is None:  # a rank without pairs in a tiny batch
                parameter.grad = torch.zeros_like(parameter)
        tensors = [loss_H, *(p.grad for p in self.student.parameters() if p.grad is not None)]
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(summed.view_as(tensor))

    def _set_learning_rate(self, optimizer: Any) -> None:
        """Linear warm-up, then constant or cosine: a function of the step alone, so a resumed run needs no state."""
        total = self.trainer.max_epochs * self.trainer.num_training_batches  # type: ignore[operator]
        factor = schedule_factor(self.steps_done, int(total), self.recipe.warmup_fraction, self.recipe.lr_schedule)
        for group in optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self.recipe.batch_size / 256 * factor

    # --- the end of an epoch ---------------------------------------------------------------------------------------

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Not at the epoch's end: callbacks are called before the module there, and a checkpoint must hold this epoch's.
        if batch_idx + 1 == self.trainer.num_training_batches:
            self.last_loss_H.copy_(self.loss_sum_H / self.trainer.num_training_batches)
            self.loss_sum_H.zero_()

    def on_train_epoch_end(self) -> None:
        losses = self.last_loss_H.tolist()
        name = f"{self.log_prefix}train/loss_head"
        self.log_dict({f"{name}_{head:02d}": loss for head, loss in enumerate(losses)}, rank_zero_only=True)
        self.log(f"{self.log_prefix}{EPOCH_LOSS}", min(losses))  # on every rank: early stopping looks at it

    # --- checkpoints hold plain types only, so that they load with weights_only=True --------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["deepclust"] = {
            "recipe": self.recipe.as_dict(),
            "in_dim": self.transform.in_dim,
            "steps_done": self.steps_done,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps_done = checkpoint["deepclust"]["steps_done"]


def _views(both_HBC: Tensor) -> Views:
    """The samples' half of the rows, and their neighbors'."""
    half = both_HBC.shape[1] // 2
    return both_HBC[:, :half], both_HBC[:, half:]


def schedule_factor(step: int, total_steps: int, warmup_fraction: float, schedule: str) -> float:
    """What the base learning rate is multiplied with at a step: linear warm-up from near 0, then the schedule."""
    warmup = math.floor(total_steps * warmup_fraction)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total_steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
