"""scikit-learn estimators over the same code: TEMI, SCAN and TSP. (SphericalKMeans lives with its function.)

Shape suffixes: N samples, D feature dimensions, C clusters.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import written_whole
from deepclust.training.fit import fit_heads
from deepclust.training.recipe import Recipe, plain
from deepclust.training.trained import TrainedHeads

FLOATS = (np.float32, np.float16, np.float64)
# Where and how to train, not what: kept out of the recipe.
RUN_OPTIONS = ("random_state", "device", "precision", "verbose")


class _HeadsEstimator(TransformerMixin, ClusterMixin, BaseEstimator):
    """What the three estimators share: everything but the loss and its defaults."""

    _loss: ClassVar[str]
    _loss_options: ClassVar[tuple[str, ...]]

    def fit(self, X: Any, y: Any = None) -> Any:
        """Mine neighbors, train the heads, keep the best one and assign the samples; y is ignored.

        Args:
            X: (N, D) features as an array or a FeatureSet (which may be memory-mapped).

        Raises:
            InputError: (a ValueError) for rows with NaN, infinite or only zero values, or too few samples for the
                clusters or the neighbors.
        """
        features = self._features(X, reset=True)
        recipe = self._recipe()
        result = fit_heads(
            features,
            recipe,
            progress=self.verbose,
            accelerator="gpu" if self.device == "cuda" else self.device,
            precision=self.precision,
        )
        self.trained_ = result.trained
        self.trained_.warn_of_collapse(features)
        self.best_head_ = self.trained_.best_head
        self.head_losses_ = self.trained_.losses_H
        self.n_iter_ = recipe.epochs(len(features))
        self.labels_ = self.trained_.assign(features).labels
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(N,) int32 cluster of each row, by the best head."""
        check_is_fitted(self)
        return self.trained_.assign(self._features(X)).labels

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, C) float32 probabilities of the best head; their argmax is `predict`."""
        logits = torch.from_numpy(self.transform(X)) / self.temperature
        return torch.softmax(logits, dim=1).numpy()

    def transform(self, X: Any) -> np.ndarray:
        """(N, C) float32 logits of the best head, before the temperature."""
        check_is_fitted(self)
        return self.trained_.logits(self._features(X))

    def save(self, path: str | os.PathLike) -> Path:
        """Write parameters and fitted state to one file that `load` reads without running any code in it.

        A `RandomState` is kept as the seed that was drawn from it.
        """
        check_is_fitted(self)
        params = plain(self.get_params())
        if isinstance(self.random_state, np.random.RandomState):
            params["random_state"] = self.trained_.recipe.seed
        with written_whole(path) as temporary:
            torch.save(
                {
                    "estimator": type(self).__name__,
                    "params": params,
                    "labels": torch.from_numpy(self.labels_),
                    **self.trained_.state(),
                },
                temporary,
            )
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Any:
        """Read what `save` wrote.

        Raises:
            InputError: if the file is missing, unreadable, or holds another estimator.
        """
        trained = TrainedHeads.load(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content.get("estimator") != cls.__name__:
            raise InputError(f"{path} holds {content.get('estimator', 'no estimator')}, not {cls.__name__}")
        estimator = cls(**content["params"])
        estimator._adopt(trained, content["labels"].numpy())
        return estimator

    def _adopt(self, trained: TrainedHeads, labels: np.ndarray) -> None:
        self.trained_, self.labels_ = trained, labels
        self.best_head_, self.head_losses_ = trained.best_head, trained.losses_H
        self.n_features_in_, self.n_iter_ = trained.in_dim, trained.recipe.epochs(len(labels))

    def _recipe(self) -> Recipe:
        params = self.get_params()
        for option in RUN_OPTIONS:
            params.pop(option)
        loss_options = {name: params.pop(name) for name in self._loss_options}
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        return Recipe(loss=self._loss, loss_options=loss_options, seed=int(seed), **params)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # logits are float32 whatever comes in
        return tags

    def _features(self, X: Any, *, reset: bool = False) -> FeatureSet:
        if isinstance(X, FeatureSet):
            if reset:
                self.n_features_in_ = X.dim
            return X.check("X") if reset else X
        # NaN and infinity are left to FeatureSet.check, which says how many rows and which is the first.
        checked = validate_data(
            self, X, dtype=FLOATS, ensure_all_finite=False, ensure_min_samples=2 if reset else 1, reset=reset
        )
        return FeatureSet.from_arrays(checked, name="X").check("X")


_SHARED_DOC = """
        n_clusters: C.
        n_heads: H heads trained at once; the one with the lowest training loss is kept.
        n_neighbors: K mined neighbors, from which pairs are drawn.
        head: `mlp` or `linear`.
        init: `spectral`, `kmeans` or `random`; see `Recipe`, as for everything below.
        warm_start_epochs, max_epochs, patience, batch_size, micro_batch_size, learning_rate, lr_schedule,
        warmup_fraction, weight_decay, optimizer, teacher_momentum, freeze_prototypes_epochs, gradient_clip,
        temperature, hidden_dim, embedding_dim, preprocess, pca_dim: as in `deepclust.training.recipe.Recipe`.
        random_state: seed, `RandomState` or None.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `32` or `bf16-mixed`.
        verbose: show progress bars on a terminal.

    Attributes:
        labels_: (N,) int32 clusters of the samples fitted on.
        best_head_: number of the head that is used.
        head_losses_: (H,) training loss of each head over the last epoch.
        trained_: the `TrainedHeads`.
        n_features_in_: D.
        n_iter_: epochs run.
"""


class TEMI(_HeadsEstimator):
    """Teacher ensemble-weighted pointwise mutual information (Adaloglou et al. 2023; 2024, eq. 1).

    Args:
        beta: β in (0.5, 1].
        marginal_momentum: λ of the teacher's running cluster marginal.
    """

    _loss = "temi"
    _loss_options = ("beta", "marginal_momentum")

    def __init__(
        self,
        n_clusters: int = 10,
        *,
        n_heads: int = 8,
        n_neighbors: int = 20,
        beta: float = 0.6,
        marginal_momentum: float = 0.9,
        head: str = "mlp",
        hidden_dim: int = 512,
        embedding_dim: int = 256,
        temperature: float = 0.1,
        init: str = "spectral",
        warm_start_epochs: int = 1,
        preprocess: str = "standardize",
        pca_dim: int | None = None,
        max_epochs: int | None = None,
        patience: int | None = None,
        batch_size: int = 512,
        micro_batch_size: int | None = None,
        optimizer: str = "adamw",
        learning_rate: float = 1e-3,
        lr_schedule: str = "cosine",
        warmup_fraction: float = 0.1,
        weight_decay: float = 1e-4,
        teacher_momentum: float = 0.99,
        freeze_prototypes_epochs: int = 1,
        gradient_clip: float | None = None,
        random_state: Any = None,
        device: str = "auto",
        precision: str = "auto",
        verbose: bool = False,
    ) -> None:
        _store(self, locals())


class SCAN(_HeadsEstimator):
    """SCANv2: consistency with the teacher plus an entropy over the batch (Adaloglou et al. 2024, eq. 2).

    Args:
        entropy_weight: α, how strongly uniform cluster sizes are favored.
    """

    _loss = "scan"
    _loss_options = ("entropy_weight",)

    def __init__(
        self,
        n_clusters: int = 10,
        *,
        n_heads: int = 8,
        n_neighbors: int = 20,
        entropy_weight: float = 5.0,
        head: str = "mlp",
        hidden_dim: int = 512,
        embedding_dim: int = 256,
        temperature: float = 0.1,
        init: str = "spectral",
        warm_start_epochs: int = 1,
        preprocess: str = "standardize",
        pca_dim: int | None = None,
        max_epochs: int | None = None,
        patience: int | None = None,
        batch_size: int = 512,
        micro_batch_size: int | None = None,
        optimizer: str = "adamw",
        learning_rate: float = 1e-3,
        lr_schedule: str = "cosine",
        warmup_fraction: float = 0.1,
        weight_decay: float = 1e-4,
        teacher_momentum: float = 0.99,
        freeze_prototypes_epochs: int = 1,
        gradient_clip: float | None = None,
        random_state: Any = None,
        device: str = "auto",
        precision: str = "auto",
        verbose: bool = False,
    ) -> None:
        _store(self, locals())


class TSP(_HeadsEstimator):
    """A linear head without a teacher on Gaussian-weighted neighbors (Zhou & Zhang 2022, eqs. 4 and 5).

    Args:
        entropy_weight: λ, how strongly uniform cluster sizes are favored.
    """

    _loss = "tsp"
    _loss_options = ("entropy_weight",)

    def __init__(
        self,
        n_clusters: int = 10,
        *,
        n_heads: int = 8,
        n_neighbors: int = 20,
        entropy_weight: float = 3.0,
        head: str = "linear",
        hidden_dim: int = 512,
        embedding_dim: int = 256,
        temperature: float = 1.0,
        init: str = "spectral",
        warm_start_epochs: int = 1,
        preprocess: str = "standardize",
        pca_dim: int | None = None,
        max_epochs: int | None = None,
        patience: int | None = None,
        batch_size: int = 256,
        micro_batch_size: int | None = None,
        optimizer: str = "adam",
        learning_rate: float = 1e-2,
        lr_schedule: str = "cosine",
        warmup_fraction: float = 0.1,
        weight_decay: float = 0.0,
        teacher_momentum: float = 0.99,
        freeze_prototypes_epochs: int = 0,
        gradient_clip: float | None = None,
        random_state: Any = None,
        device: str = "auto",
        precision: str = "auto",
        verbose: bool = False,
    ) -> None:
        _store(self, locals())


def _store(estimator: BaseEstimator, arguments: dict[str, Any]) -> None:
    """Keep every argument under its own name, as scikit-learn's contract asks."""
    for name, value in arguments.items():
        if name not in ("self", "__class__"):
            setattr(estimator, name, value)


for _estimator in (TEMI, SCAN, TSP):
    _estimator.__doc__ = (_estimator.__doc__ or "").rstrip() + _SHARED_DOC
