"""Trained heads: what remains of training, usable without Lightning.

Shape suffixes: H heads, N samples, B a block of samples, C clusters, G clusters after a cut, T most probable clusters.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepclust.clustering import TOP, Clustering
from deepclust.features.bank import FeatureBank
from deepclust.features.distinct_rows import distinct_rows
from deepclust.features.feature_set import FeatureSet
from deepclust.features.transform import FeatureTransform
from deepclust.losses import LOSSES
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_json, read_tensors, write_json, written_whole
from deepclust.training.heads import Heads
from deepclust.training.heads_files import read_safetensors
from deepclust.training.recipe import Recipe, loss_settings

BLOCK_LOGITS, ACCELERATOR_BLOCK_LOGITS = 1 << 24, 1 << 28


class TrainedHeads:
    """All heads of a run, the transform before them, and which head is the best.

    Args:
        recipe: how they were trained.
        transform: fitted on the training split.
        heads: the network that assigns: the teacher where there was one.
        losses_H: training loss of each head over the last epoch; where it is not finite the head is never the best.
        failed_at: {head: first epoch after which its loss or its weights were not finite}.

    Attributes:
        best_head: the finite one with the lowest loss.
        groups_C: the cluster, from 0, that each cluster of the best head belongs to where its tree was cut; or None.
        confidence_temperature: by which its probabilities are softened, beside the recipe's; labels do not depend on
            it (`deepclust.cuts.confidence`).
        identity: the digest of the run that a training checkpoint is of, or None.
    """

    def __init__(
        self,
        recipe: Recipe,
        transform: FeatureTransform,
        heads: Heads,
        losses_H: np.ndarray,
        failed_at: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.recipe = recipe
        self.transform = transform.eval()
        self.heads = heads.eval()
        self.losses_H = np.asarray(losses_H)
        self.failed_at = dict(failed_at)
        self.groups_C: np.ndarray | None = None
        self.confidence_temperature = 1.0
        self.identity: str | None = None
        self.best_head = int(np.where(np.isfinite(self.losses_H), self.losses_H, np.inf).argmin())

    @property
    def in_dim(self) -> int:
        return self.transform.in_dim

    @property
    def n_clusters(self) -> int:
        """G: how many clusters samples are assigned to, C where the tree was not cut."""
        return self.recipe.n_clusters if self.groups_C is None else int(self.groups_C.max()) + 1

    def to(self, device: torch.device | str) -> TrainedHeads:
        """Move heads and transform to where samples are to be assigned; returns itself."""
        self.heads.to(device)
        self.transform.to(device)
        return self

    def check_features(self, features: FeatureSet) -> None:
        """Raises InputError unless the features have the dimension that the heads were trained on."""
        check_dimension(features, self.in_dim)

    @torch.no_grad()
    def logits(self, features: FeatureSet, head: int | None = None) -> np.ndarray:
        """(N, C) float32 logits of one head, the best by default, before cut and temperature."""
        out = np.empty((len(features), self.recipe.n_clusters), np.float32)
        for start, logits_BC in self._logits_by_block(features, head):
            out[start : start + len(logits_BC)] = logits_BC.float().cpu().numpy()
        return out

    @torch.no_grad()
    def scores(self, features: FeatureSet) -> np.ndarray:
        """(N, G) float32 what the best head's softmax is taken of, after the cut; up to a constant per row logarithms
        of its probabilities at a confidence temperature of 1."""
        out = np.empty((len(features), self.n_clusters), np.float32)
        for start, logits_BC in self._logits_by_block(features):
            out[start : start + len(logits_BC)] = self._scores_of(logits_BC).cpu().numpy()
        return out

    @torch.no_grad()
    def probabilities(self, features: FeatureSet) -> np.ndarray:
        """(N, G) float32 probabilities of the best head; rows sum to 1, their argmax is the label."""
        scores_NG = torch.from_numpy(self.scores(features))
        return torch.softmax(scores_NG / self.confidence_temperature, dim=1).numpy()

    @torch.no_grad()
    def assign(self, features: FeatureSet, head: int | None = None) -> Clustering:
        """Clusters of the best head, with the 5 most probable of each sample; or, uncut and with its own confidence,
        those of another head.

        Raises:
            InputError: if the features have another dimension, or the head's probabilities are not finite.
        """
        started = time.perf_counter()
        n_clusters, confidence = self.n_clusters, self.confidence_temperature
        if head is not None:
            n_clusters, confidence = self.recipe.n_clusters, 1.0
        top = min(TOP, n_clusters)
        ids_NT = np.empty((len(features), top), np.int32)
        probs_NT = np.empty((len(features), top), np.float32)
        for start, logits_BC in self._logits_by_block(features, head):
            scores = logits_BC.float() / self.recipe.temperature if head is not None else self._scores_of(logits_BC)
            probs_BT, ids_BT = most_probable(scores, confidence, top)
            ids_NT[start : start + len(logits_BC)] = ids_BT.cpu().numpy()
            probs_NT[start : start + len(logits_BC)] = probs_BT.cpu().numpy()
        head = self.best_head if head is None else head
        if not np.isfinite(probs_NT).all():
            name = self.recipe.loss.name
            raise InputError(f"{name} head {head}: its probabilities are not finite: {finite_remedy(self.recipe)}")
        return Clustering(
            labels=ids_NT[:, 0].copy(),
            method=self.recipe.loss.name,
            n_clusters=n_clusters,
            top_ids=ids_NT,
            top_probs=probs_NT,
            settings={
                **self.recipe.as_dict(),
                "best_head": head,
                "head_losses": self.losses_H.tolist(),
                "confidence_temperature": confidence,
            },
            seconds=time.perf_counter() - started,
        )

    def _logits_by_block(self, features: FeatureSet, head: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """The first row of each block, and its (B, C) logits of one head, the best by default."""
        self.check_features(features)
        one = self.heads.single(self.best_head if head is None else head).to(self._device())
        bank = FeatureBank(features, self.transform, self._device(), in_memory=False)  # one pass needs no copy
        weights = one.weights()  # once, not for every block
        for start, block in bank.blocks(self._block_rows()):
            yield start, one.logits(weights, block)[0]

    def _scores_of(self, logits_BC: Tensor) -> Tensor:
        scores_BC = logits_BC.float() / self.recipe.temperature
        if self.groups_C is None:
            return scores_BC
        probs_BT, ids_BT = most_probable(scores_BC, 1.0, min(TOP, scores_BC.shape[1]))
        return cut_scores(ids_BT, probs_BT, self.groups_C)

    @torch.no_grad()
    def labels_of_heads(self, features: FeatureSet) -> np.ndarray:
        """(H, N) int32 clusters of every head; what a head calls a cluster says nothing to another one."""
        out_HN = np.empty((self.heads.n_heads, len(features)), np.int32)
        for start, labels_HB in self.labels_by_block(features):
            out_HN[:, start : start + labels_HB.shape[1]] = labels_HB.cpu().numpy()
        return out_HN

    @torch.no_grad()
    def labels_by_block(self, features: FeatureSet) -> Iterator[tuple[int, Tensor]]:
        """The first row of each block, and the (H, B) clusters of every head."""
        self.check_features(features)
        bank = FeatureBank(features, self.transform, self._device(), in_memory=False)  # one pass needs no copy
        weights = self.heads.weights()  # once, not for every block
        for start, block in bank.blocks(self._block_rows(self.heads.n_heads)):
            yield start, self.heads.logits(weights, block).argmax(dim=2)

    @torch.no_grad()
    def clusters_used(self, features: FeatureSet, rows: int | None = None) -> np.ndarray:
        """(H,) how many clusters each head assigns at least one of the first `rows` samples of a seeded sample to."""
        rows = rows or max(10_000, 20 * self.recipe.n_clusters)
        if len(features) > rows:
            features = features.select(np.sort(np.random.default_rng(0).choice(len(features), rows, replace=False)))
        seen_HC = torch.zeros(self.heads.n_heads, self.recipe.n_clusters, dtype=torch.bool, device=self._device())
        for _, labels_HB in self.labels_by_block(features):
            seen_HC.scatter_(1, labels_HB, True)
        return seen_HC.sum(dim=1).cpu().numpy()

    def warn_of_collapse(self, features: FeatureSet) -> list[str]:
        """One warning for each head that uses fewer than half of its clusters, or is not finite."""
        messages = []
        used_H = self.clusters_used(features)
        few = min(used_H) < self.recipe.n_clusters / 2
        remedy = _remedy(self.recipe, len(distinct_rows(features.features)[0])) if few else ""
        for head, used in enumerate(used_H):
            if not np.isfinite(self.losses_H[head]):
                since = f" since epoch {self.failed_at[head]}" if head in self.failed_at else ""
                which = f"{self.recipe.loss.name} head {head}"
                messages.append(f"{which} is not finite{since} and left out: {finite_remedy(self.recipe)}")
                warnings.warn(messages[-1], stacklevel=2)
            elif used < self.recipe.n_clusters / 2:
                which = f"{self.recipe.loss.name} head {head}" + (" (the best)" if head == self.best_head else "")
                messages.append(f"{which} uses {used} of its {self.recipe.n_clusters} clusters: {remedy}")
                warnings.warn(messages[-1], stacklevel=2)
        return messages

    def _device(self) -> torch.device:
        return next(self.heads.parameters()).device

    def _block_rows(self, n_heads: int = 1) -> int:
        """Rows per block such that the logits stay near 64 MB, on an accelerator near 1 GB: fewer launches."""
        most = BLOCK_LOGITS if self._device().type == "cpu" else ACCELERATOR_BLOCK_LOGITS
        return max(64, min(8192, most // (self.recipe.n_clusters * n_heads)))

    # --- on disk -----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Plain tensors and values: everything `from_state` needs."""
        return {
            "recipe": self.recipe.as_dict(),
            "in_dim": self.in_dim,
            "transform": {name: value.cpu() for name, value in self.transform.state_dict().items()},
            "heads": {name: value.cpu() for name, value in self.heads.state_dict().items()},
            "losses": torch.from_numpy(self.losses_H),
            "failed_at": self.failed_at,
            **self.settled(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TrainedHeads:
        recipe = Recipe.from_dict(state["recipe"])
        transform = FeatureTransform(state["in_dim"], recipe.preprocess, recipe.pca_dim)
        transform.load_state_dict(state["transform"])
        heads = recipe.new_heads(transform.out_dim)
        heads.load_state_dict(state["heads"])
        trained = cls(recipe, transform, heads, state["losses"].numpy(), state.get("failed_at", {}))
        trained.settle(state)
        return trained

    def settled(self) -> dict[str, Any]:
        """What is found once training has ended, as plain values: the cut and the confidence temperature."""
        groups = None if self.groups_C is None else self.groups_C.tolist()
        return {"groups": groups, "confidence_temperature": self.confidence_temperature}

    def settle(self, found: Mapping[str, Any]) -> None:
        """Take over what `settled` gave; of earlier versions there may be nothing."""
        groups = found.get("groups")
        self.groups_C = None if groups is None else np.array(groups, np.int32)
        self.confidence_temperature = float(found.get("confidence_temperature", 1.0))

    def save_settled(self, checkpoint: Path, identity: str | None) -> None:
        """Keep it beside the checkpoint of the run, where `load` finds it: the checkpoint is not written again."""
        write_json(checkpoint.with_suffix(".json"), {"identity": identity, **self.settled()})

    def save(self, path: str | os.PathLike) -> Path:
        """Export to a `.pt` file that needs no Lightning to load."""
        with written_whole(path) as temporary:
            torch.save(self.state(), temporary)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> TrainedHeads:
        """Read an export of torch or safetensors, or a training checkpoint.

        Raises:
            InputError: if the file is missing or is neither.
        """
        content = read_safetensors(Path(path)) if Path(path).suffix == ".safetensors" else read_saved(path)
        identity = None
        if "deepclust" in content:
            identity = content["deepclust"].get("identity")
            content = _state_of_checkpoint(content)
        if "recipe" not in content or "heads" not in content:
            raise InputError(f"{path} is no checkpoint of deepclust")
        try:
            trained = cls.from_state(content)
        except (KeyError, TypeError, RuntimeError, AttributeError) as error:  # weights of other shapes, or missing
            raise InputError(f"{path} is no checkpoint of deepclust ({str(error).splitlines()[0][:160]})") from None
        trained.identity = identity
        beside = Path(path).with_suffix(".json")
        if beside.is_file():
            found = read_json(beside, "remove it, and resume its run")
            if found.get("identity") != identity:
                raise InputError(
                    f"{path} is of another run than {beside.name} beside it: put back its own, or remove both"
                )
            trained.settle(found)
        return trained


def most_probable(logits_BC: Tensor, temperature: float, top: int) -> tuple[Tensor, Tensor]:
    """(B, T) float32 probabilities and numbers of each sample's most probable clusters, the most probable first."""
    best = torch.softmax(logits_BC.float() / temperature, dim=1).topk(top, dim=1)
    return best.values, best.indices


def cut_scores(ids_BT: Tensor, probs_BT: Tensor, groups_C: np.ndarray) -> Tensor:
    """(B, G) logarithms of the probabilities of a cut's clusters: sums over those of a sample's most probable leaves.

    Only these count, so that a saved clustering of the leaves is cut as the heads themselves would be.
    """
    groups = torch.from_numpy(groups_C).long().to(ids_BT.device)
    probs_BG = probs_BT.new_zeros(len(ids_BT), int(groups_C.max()) + 1)
    return probs_BG.scatter_add_(1, groups[ids_BT.long()], probs_BT).log_()


def check_dimension(features: FeatureSet, in_dim: int) -> None:
    """Raises InputError unless the features have the dimension that heads were trained on."""
    if features.dim != in_dim:
        raise InputError(
            f"the features have {features.dim} dimensions, but the heads were trained on {in_dim}: "
            "use features of the same encoder"
        )


def read_saved(path: str | os.PathLike) -> dict[str, Any]:
    """The plain tensors and values of an export or a training checkpoint; no code in it is run.

    Raises:
        InputError: if the file is missing or broken.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}: train first, or name another run folder")
    content = read_tensors(path, "remove it to train again, or restore it from a copy")
    if not isinstance(content, dict):
        raise InputError(f"{path} is no checkpoint of deepclust")
    return content


def weights_that_assign(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Of a training checkpoint the transform, the heads that assign samples, and the loss of each head."""
    weights: dict[str, Tensor] = checkpoint["state_dict"]
    student_assigns = LOSSES[checkpoint["deepclust"]["recipe"]["loss"]].student_assigns
    has_teacher = any(name.startswith("teacher.") for name in weights)
    prefixes = ("transform.", "student." if student_assigns or not has_teacher else "teacher.", "last_loss_H")
    return {name: value for name, value in weights.items() if name.startswith(prefixes)}


def _state_of_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    weights = weights_that_assign(checkpoint)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}

    return {
        "recipe": checkpoint["deepclust"]["recipe"],
        "in_dim": checkpoint["deepclust"]["in_dim"],
        "transform": part("transform."),
        "heads": part("teacher.") or part("student."),
        "losses": weights["last_loss_H"],
        "failed_at": checkpoint["deepclust"].get("failed_at", {}),
    }


def finite_remedy(recipe: Recipe) -> str:
    """What to try where training was not finite."""
    clip = f", or loss.{recipe.loss.name}.gradient_clip=1" if recipe.gradient_clip is None else ""
    return f"try a learning_rate below {recipe.learning_rate:g}{clip}"


def _remedy(recipe: Recipe, n_distinct: int) -> str:
    """What to try where a head uses few of its clusters, among so many rows that differ."""
    if n_distinct < recipe.n_clusters:
        return f"only {n_distinct} of the rows differ from each other, so ask for at most {n_distinct} clusters"
    tries = []
    if recipe.init == "random":
        tries.append("init=kmeans")
    own = loss_settings(recipe.loss.name)
    if "beta" in own:
        tries.append("a smaller beta")
    elif "entropy_weight" in own:
        tries.append("a larger entropy_weight")
    if recipe.batch_size < 4 * recipe.n_clusters:
        tries.append(f"a batch above {4 * recipe.n_clusters}")
    tries.append("more epochs")
    return "try " + ", ".join(tries)
