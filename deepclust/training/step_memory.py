"""How much memory training takes beside the rows, so that these are held where both fit."""

from __future__ import annotations

from dataclasses import replace

import torch

from deepclust.runtime.devices import free_bytes
from deepclust.runtime.errors import InputError
from deepclust.training.cosine import head_groups
from deepclust.training.recipe import Recipe

# float32 tensors of a loss at once, each as large as the logits of a group of heads: log-probabilities of student and
# teacher, and of half of the rows each of score, its shares and two gradients.
LOSS_TENSORS = 4
# Those more of a loss that reads log-odds: both softmaxes and their slopes, of both views at once.
LOG_ODDS_TENSORS = 5
# float32 tensors at once as large as the means of the batch: that of the module, of a look, of the batch, and in losses
# of a C × C matrix what is made of it.
MEAN_TENSORS = 6


def training_bytes(
    recipe: Recipe, in_dim: int, n_ranks: int = 1, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> int:
    """Networks, gradients and the optimizer's state, and the tensors of a step at their most.

    Args:
        recipe: what is trained.
        in_dim: P, dimensions that the heads see.
        n_ranks: processes that share the batch.
        dtype: of the products.
        device: its type; a CPU takes the loss by smaller groups of heads.
    """
    n_heads, n_clusters, hidden, embedding = recipe.n_heads, recipe.n_clusters, recipe.hidden_dim, recipe.embedding_dim
    if recipe.head in ("linear", "normed_linear", "student_t"):
        hidden = embedding = 0
        prototypes = n_heads * n_clusters * in_dim
        parameters = prototypes + (n_heads * in_dim**2 if recipe.head == "student_t" else 0)
    else:
        prototypes = n_heads * n_clusters * (embedding + 1)
        parameters = prototypes + n_heads * (hidden * (in_dim + 1) + embedding * (hidden + 1))
    networks = 2 if recipe.loss.uses_teacher else 1
    # The networks, the gradient, Adam's two moments; then the weights of a step, and directions while they are made.
    standing = 4 * parameters * (networks + 3)
    if recipe.loss.inner_fit is not None:  # the teacher's moments, its gradient, and the rows of every head
        standing += 4 * 3 * n_heads * n_clusters * in_dim
    weights = dtype.itemsize * parameters * networks + 4 * 2 * prototypes
    pairs = recipe.batch_size * (2 if recipe.loss.local_pairs else 1)
    rows = 2 * min(recipe.micro_batch_size or pairs, -(-pairs // n_ranks))
    layers = rows * (2 * in_dim + n_heads * (4 * hidden + 3 * embedding))
    logits = (networks + 1) * n_heads * rows * n_clusters  # and the student's gradient
    group = head_groups((n_heads, rows, n_clusters), torch.device(device))[0].stop * rows * n_clusters
    means = recipe.loss.means(n_clusters) * n_heads * n_clusters
    tensors = LOSS_TENSORS + (LOG_ODDS_TENSORS if recipe.loss.reads_log_odds else 0)
    floats = tensors * group + MEAN_TENSORS * means
    return int(standing + weights + dtype.itemsize * (layers + logits) + 4 * floats)


def check_heads_fit(recipe: Recipe, in_dim: int, device: torch.device | str = "cpu") -> None:
    """Refuse heads whose training no batch is small enough for.

    Args:
        recipe: what is to be trained.
        in_dim: P, dimensions that the heads see.
        device: where.

    Raises:
        InputError: naming what they need and what there is.
    """
    needed, free = training_bytes(replace(recipe, batch_size=1, micro_batch_size=None), in_dim), free_bytes(device)
    if needed > free:
        raise InputError(
            f"{recipe.loss.name}: training n_heads={recipe.n_heads} heads takes {needed / 1e9:.3g} GB and more, and "
            f"{free / 1e9:.3g} GB are at hand: ask for fewer heads, or smaller hidden_dim and embedding_dim"
        )
