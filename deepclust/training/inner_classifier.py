"""A teacher that is no average of the student: linear classifiers that are fitted to the student's labels (TURTLE).

Shape suffixes: H heads, B samples, C clusters, D dimensions that the heads see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from deepclust.features.bank import FeatureBank
from deepclust.losses.base import product
from deepclust.training.heads import Heads, LinearHeads
from deepclust.training.step import MicroBatch, log_odds

# Adam's own.
BETAS = (0.9, 0.999)
EPSILON = 1e-8


class InnerClassifiers(LinearHeads):
    """One linear classifier per head, which starts at 0, with the state of its Adam: a checkpoint holds both.

    Args:
        in_dim: D.
        n_clusters: C.
        n_heads: H.
        device: where.
    """

    first_moment: Tensor
    second_moment: Tensor
    steps_H: Tensor

    def __init__(self, in_dim: int, n_clusters: int, n_heads: int, device: torch.device | str | None = None) -> None:
        nn.Module.__init__(self)  # there is nothing to draw
        self.in_dim, self.n_clusters, self.n_heads = in_dim, n_clusters, n_heads
        shape = (n_heads, n_clusters, in_dim)
        self.prototypes = nn.Parameter(torch.zeros(shape, device=device), requires_grad=False)
        for moment in ("first_moment", "second_moment"):
            self.register_buffer(moment, torch.zeros(shape, device=device))
        self.register_buffer("steps_H", torch.zeros(n_heads, device=device))

    def like(self, n_heads: int) -> InnerClassifiers:
        return InnerClassifiers(self.in_dim, self.n_clusters, n_heads)

    @torch.no_grad()
    def fit(
        self,
        student: Heads,
        weights: Mapping[str, Tensor],
        bank: FeatureBank,
        parts: Sequence[MicroBatch],
        temperature: float,
        *,
        steps: int,
        learning_rate: float,
        over_ranks: Callable[[Tensor], object],
    ) -> None:
        """Steps of Adam on the cross-entropy with the student's labels of a whole batch.

        Args:
            student: whose labels.
            weights: of the student, in the precision of the products.
            bank: has the rows.
            parts: of the batch, of which the samples count.
            temperature: of both softmaxes.
            steps: how many.
            learning_rate: of Adam.
            over_ranks: sums a tensor over the ranks that share the batch, in place.
        """
        dtype = next(iter(weights.values())).dtype

        def inputs_of(part: MicroBatch) -> Tensor:
            return bank.gather(part.rows_I[: len(part.rows_I) // 2]).to(dtype)

        def labels_of(inputs_BD: Tensor) -> Tensor:
            return torch.softmax(log_odds(student.logits(weights, inputs_BD), temperature), dim=2)

        # What memory sees once may stay; of several parts it is made again in each step.
        kept = [(inputs, labels_of(inputs)) for inputs in map(inputs_of, parts)] if len(parts) == 1 else None
        for _ in range(steps):
            gradient_HCD = torch.zeros_like(self.prototypes)
            of_step = {"prototypes": self.prototypes.to(dtype)}
            for index, part in enumerate(parts):
                inputs_BD = inputs_of(part) if kept is None else kept[index][0]
                labels_HBC = labels_of(inputs_BD) if kept is None else kept[index][1]
                errors_HBC = torch.softmax(log_odds(self.logits(of_step, inputs_BD), temperature), dim=2)
                errors_HBC.sub_(labels_HBC).mul_(part.share / len(inputs_BD) / temperature)
                rows_HBD = inputs_BD.expand(self.n_heads, -1, -1)
                gradient_HCD += product(errors_HBC.to(dtype).transpose(1, 2), rows_HBD)
            over_ranks(gradient_HCD)
            self._step(gradient_HCD, learning_rate)

    def _step(self, gradient_HCD: Tensor, learning_rate: float) -> None:
        steps = self.steps_H[0].clone()
        adam(
            [self.prototypes],
            [gradient_HCD],
            [self.first_moment],
            [self.second_moment],
            [],
            [steps],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=learning_rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )
        self.steps_H.fill_(steps)
