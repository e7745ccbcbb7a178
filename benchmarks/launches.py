"""What a training step launches, copies from or to the host and takes of memory on an accelerator, without one.

    python benchmarks/launches.py [--quick] [--record]

Training runs on a pretended accelerator in bfloat16: its tensors have a shape, a type and a place, but no values, so
sizes are no matter and whatever reads a value fails. Views and the allocation of memory launch nothing and are not
counted; a fused optimizer step and the teacher's update over all parameters are one operation each.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from tables import arguments, report
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from deepclust.features.bank import FeatureBank, Stage
from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.training import module as module_file
from deepclust.training.head_share import HeadShare
from deepclust.training.heads import Heads
from deepclust.training.module import ClusteringModule
from deepclust.training.pairs import PairBatch
from deepclust.training.recipe import Recipe

DIM, ROWS = 64, 128
SHAPES = [(10, 8, 512, None), (1000, 50, 512, None), (10_450, 50, 512, None), (10_450, 32, 2048, 256)]
# Launch nothing: memory is allocated, or a tensor is looked at in another way.
FREE = ("empty", "empty_like", "new_empty", "empty_strided", "detach", "_unsafe_view")


class Launches(TorchDispatchMode):
    """Counts the operations inside its context.

    Attributes:
        operations: by name.
        host_copies: of them those that copy between the host and the accelerator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.host_copies: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        is_view = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
        if func.namespace == "aten" and not is_view and name not in FREE:
            self.operations[name] += 1
            places = {value.device.type for value in (*args, result) if isinstance(value, torch.Tensor)}
            if name in ("copy_", "_to_copy") and len(places) > 1:
                self.host_copies[name] += 1
        return result


class Memory(TorchDispatchMode):
    """Follows the memory of the tensors that are made on the accelerator inside its context.

    Attributes:
        peak: the most bytes that they took at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in pytree.tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.device.type != "cpu":
                self._see(value.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self.known:
            return
        self.known.add(id(storage))
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, id(storage), storage.nbytes())

    def _gone(self, storage: int, size: int) -> None:
        self.known.remove(storage)
        self.now -= size


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_MODES: list[FakeTensorMode] = []  # one: PyTorch keeps tensors of the first in caches of its own
_LIBRARIES: list[torch.library.Library] = []


@contextmanager
def pretended_accelerator() -> Iterator[torch.device]:
    """A device that PyTorch takes for an accelerator; inside, every tensor is without values."""
    if not _MODES:
        backend_registration._setup_privateuseone_for_python_backend("pretended", backend_module=_Module())
        _LIBRARIES.append(torch.library.Library("_", "IMPL"))
        _LIBRARIES[0].fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
        _MODES.append(FakeTensorMode())
    with (
        # The rejection sampling of the heads' start looks at values.
        mock.patch.object(nn.init, "trunc_normal_", lambda weight, **_: weight),
        # Threads of autograd for a device are started at the first backward pass, which may be long past.
        torch.autograd.set_multithreading_enabled(False),
        _MODES[0],
    ):
        yield torch.device("pretended", 0)


def without_values(tensor: torch.Tensor) -> torch.Tensor:
    """The same inside `pretended_accelerator`."""
    return _MODES[0].from_tensor(tensor)


def pretended_module(
    recipe: Recipe,
    device: torch.device,
    in_dim: int = DIM,
    *,
    held: bool = True,
    share: HeadShare | None = None,
) -> ClusteringModule:
    """A module in the middle of its training, as Lightning would have it, but for logging.

    Args:
        recipe: what it trains.
        device: of `pretended_accelerator`.
        in_dim: of the rows.
        held: whether the bank holds its rows, else they are staged.
        share: the rank's of all heads.
    """
    with torch.device("cpu"):
        bank = FeatureBank(
            FeatureSet.from_arrays(np.zeros((ROWS, in_dim), np.float32)),
            FeatureTransform(in_dim, "none"),
            device,
            torch.bfloat16,
            in_memory=False,
        )
    rows_NP = torch.empty(ROWS, in_dim, dtype=torch.bfloat16, device=device)
    if held:
        bank._rows_NP = rows_NP
    else:
        bank._stage = Stage(torch.arange(ROWS), torch.arange(ROWS, device=device), rows_NP)

    def fresh_teacher(student: Heads) -> nn.Module:  # a copy would bring a mode of its own
        return replace(recipe, n_heads=student.n_heads).new_heads(in_dim).requires_grad_(False)

    with torch.device(device), mock.patch.object(module_file, "make_teacher", fresh_teacher):
        module = ClusteringModule(recipe, recipe.new_heads(in_dim), bank, share=share)
    strategy = SimpleNamespace(optimizer_step=lambda optimizer, closure, **_: optimizer.step(closure))
    trainer: Any = SimpleNamespace(world_size=1, current_epoch=1, estimated_stepping_batches=100, strategy=strategy)
    module._trainer = trainer
    (optimizer,), (scheduler,) = module.configure_optimizers()
    ours = LightningOptimizer(optimizer)
    ours._strategy = strategy
    strategy._lightning_optimizers = [ours]
    trainer.lr_scheduler_configs = [SimpleNamespace(scheduler=scheduler)]
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    module.on_train_start()
    return module


def pretended_batch(recipe: Recipe, device: torch.device) -> PairBatch:
    n_pairs = recipe.batch_size * (2 if recipe.loss.local_pairs else 1)
    ids_B = torch.empty(n_pairs, dtype=torch.long, device=device)
    return PairBatch(ids_B, ids_B, n_pairs)


def launches_of_a_step(recipe: Recipe, *, held: bool = True) -> Launches:
    """What the second step launches; the first one makes the optimizer's state."""
    with pretended_accelerator() as device:
        module = pretended_module(recipe, device, held=held)
        batch = pretended_batch(recipe, device)
        for _ in range(2):
            with Launches() as launches, torch.autocast(device.type, torch.bfloat16):
                module.training_step(batch, 0)
    return launches


def peak_of_training(recipe: Recipe, in_dim: int = DIM) -> int:
    """Bytes that training takes at most on an accelerator beside the bank's rows: networks, optimizer, a step."""
    with pretended_accelerator() as device, Memory() as memory:
        module = pretended_module(recipe, device, in_dim)
        batch = pretended_batch(recipe, device)
        for _ in range(2):
            with torch.autocast(device.type, torch.bfloat16):
                module.training_step(batch, 0)
    return memory.peak - ROWS * in_dim * torch.bfloat16.itemsize


def launches_of_a_loss(recipe: Recipe) -> Launches:
    """What the loss launches for a micro-batch: its look and its gradient, from logits to logits."""
    with pretended_accelerator() as device:
        n_pairs = recipe.micro_batch_size or recipe.batch_size
        shape = (recipe.n_heads, 2 * n_pairs, recipe.n_clusters)
        student_HBC = torch.empty(shape, dtype=torch.bfloat16, device=device)
        teacher_HBC = torch.empty(shape, dtype=torch.bfloat16, device=device) if recipe.loss.uses_teacher else None
        looked_at_HBC = teacher_HBC if recipe.loss.looks_at_teacher else student_HBC
        assert looked_at_HBC is not None
        with Launches() as launches:
            look = module_file.look_at(recipe.loss, looked_at_HBC, recipe.temperature)
            mean_VHC = recipe.loss.next_mean(look.mean_VHC, look.mean_VHC)
            module_file.loss_and_gradient(
                recipe.loss, student_HBC, teacher_HBC, look._replace(mean_VHC=mean_VHC), recipe.temperature, 1.0
            )
    return launches


def main() -> None:
    options = arguments(__doc__).parse_args()
    rows = []
    for loss in ("temi", "scan", "tsp"):
        for n_clusters, n_heads, batch_size, micro_batch_size in SHAPES[: 2 if options.quick else None]:
            recipe = Recipe.of(
                loss,
                n_clusters=n_clusters,
                n_heads=n_heads,
                batch_size=batch_size,
                micro_batch_size=micro_batch_size,
                freeze_prototypes_epochs=0,
            )
            step = launches_of_a_step(recipe)
            rows.append(
                {
                    "loss": recipe.loss.title,
                    "C": n_clusters,
                    "H": n_heads,
                    "B": batch_size,
                    "micro-batches": batch_size // (micro_batch_size or batch_size),
                    "operations of the loss, a micro-batch": launches_of_a_loss(recipe).operations.total(),
                    "of the step": step.operations.total(),
                    "copies from or to the host": step.host_copies.total(),
                    "peak GB": peak_of_training(recipe, 1024) / 1e9,
                }
            )
    report(
        "launches",
        rows,
        ["in bfloat16; peak: networks, optimizer and a step at D = 1024, without the features"],
        record=options.record,
    )


if __name__ == "__main__":
    main()
