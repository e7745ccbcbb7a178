"""scikit-learn estimators over the same code: TEMI, SCAN and TSP. (SphericalKMeans lives with its function.)

Their parameters are the settings of the recipe (`deepclust/training/recipe.py`), with its names, defaults and meanings.

Shape suffixes: N samples, D feature dimensions, C clusters.
"""

from __future__ import annotations

import dataclasses
import os
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from deepclust.features.feature_set import FeatureSet
from deepclust.features.for_estimators import seed_of, validated_rows, whole_fit
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import written_whole
from deepclust.training.fit import fit_heads
from deepclust.training.recipe import Recipe, RecipeSetting, plain, recipe_settings
from deepclust.training.trained import TrainedHeads, read_saved
from deepclust.training.trainer import TrainerSettings

# Where and how to train, not what: kept out of the recipe.
RUN_OPTIONS = {
    "random_state": RecipeSetting(None, "int | np.random.RandomState | None", "seed, `RandomState` or None"),
    "device": RecipeSetting("auto", "str", "`auto`, `cpu` or `cuda`"),
    "precision": RecipeSetting("auto", "str", "`auto`, `32` or `bf16-mixed`"),
    "verbose": RecipeSetting(False, "bool", "show how far training is"),
}
ATTRIBUTES = """
Attributes:
    labels_: (N,) int32 clusters of the samples fitted on.
    best_head_: number of the head that is used.
    head_losses_: (H,) training loss of each head over the last epoch.
    trained_: the `TrainedHeads`.
    n_features_in_: D.
    feature_names_in_: (D,) names of the columns, where X was a DataFrame.
    n_iter_: epochs run.
"""


def parameters_of(loss: str) -> type:
    """A base class whose constructor takes every setting of a loss's recipe by name, with its default.

    A dataclass made from the recipe: signature, tab completion and `get_params` are those of explicit arguments.
    """
    parameters = {**recipe_settings(loss), **RUN_OPTIONS}
    return dataclasses.make_dataclass(
        f"{loss.upper()}Parameters",
        [
            ("n_clusters", "int", dataclasses.field(default=10)),
            ("_", dataclasses.KW_ONLY),
            *((name, one.type, dataclasses.field(default=one.default)) for name, one in parameters.items()),
        ],
        eq=False,
        repr=False,
    )


def documented(about: str, loss: str) -> str:
    """A docstring with the meaning and the default of every parameter."""
    lines = [about.strip(), "", "Args:", "    n_clusters: C, the number of clusters, 1 or more. Default 10."]
    for name, one in {**recipe_settings(loss), **RUN_OPTIONS}.items():
        told = f"{name}: {one.about.rstrip('.')}. Default {one.default!r}."
        lines += textwrap.wrap(told, 110, initial_indent="    ", subsequent_indent="        ")
    return "\n".join([*lines, ATTRIBUTES])


class HeadsEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """What the three estimators share: everything but the loss and its defaults."""

    _loss: ClassVar[str]
    random_state: Any
    device: str
    precision: str
    verbose: bool
    temperature: float

    @whole_fit
    def fit(self, X: Any, y: Any = None) -> Any:
        """Mine neighbors, train the heads, keep the best one and assign the samples; y is ignored.

        Args:
            X: (N, D) features as an array or a FeatureSet (which may be memory-mapped).

        Raises:
            InputError: (a ValueError) for rows with NaN, infinite or only zero values, or too few samples for the
                clusters or the neighbors.
        """
        features = self._features(X, reset=True)
        recipe = self.recipe()
        accelerator = "gpu" if self.device == "cuda" else self.device
        result = fit_heads(
            features,
            recipe,
            TrainerSettings(accelerator=accelerator, precision=self.precision),
            progress=self.verbose,
        )
        result.trained.warn_of_collapse(features)
        labels = result.trained.assign(features).labels
        # On the CPU, so that a pickle of the estimator loads on a machine without a GPU.
        result.trained.to("cpu")
        self._adopt(result.trained, labels)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(N,) int32 cluster of each row, by the best head."""
        check_is_fitted(self)
        return self.trained_.assign(self._features(X)).labels

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, C) float32 probabilities of the best head; their argmax is `predict`."""
        return torch.softmax(torch.from_numpy(self._logits(X)) / self.temperature, dim=1).numpy()

    def transform(self, X: Any) -> np.ndarray:
        """(N, C) float32 logits of the best head, before the temperature."""
        return self._logits(X)

    def recipe(self) -> Recipe:
        """What `fit` trains: the recipe that the command line would make of the same settings."""
        settings = {name: value for name, value in self.get_params().items() if name not in RUN_OPTIONS}
        return Recipe.of(self._loss, **settings, seed=seed_of(self.random_state))

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
                    "feature_names": list(map(str, getattr(self, "feature_names_in_", ()))),
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
        content = read_saved(path)
        if content.get("estimator") != cls.__name__:
            raise InputError(f"{path} holds {content.get('estimator', 'no estimator')}, not {cls.__name__}")
        estimator = cls(**content["params"])
        estimator._adopt(trained, content["labels"].numpy())
        if content.get("feature_names"):
            estimator.feature_names_in_ = np.array(content["feature_names"], dtype=object)
        return estimator

    def _adopt(self, trained: TrainedHeads, labels: np.ndarray) -> None:
        self.trained_, self.labels_ = trained, labels
        self.best_head_, self.head_losses_ = trained.best_head, trained.losses_H
        self.n_features_in_, self.n_iter_ = trained.in_dim, trained.recipe.epochs(len(labels))

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self.trained_.logits(self._features(X))

    @property
    def _n_features_out(self) -> int:
        return self.trained_.recipe.n_clusters

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # logits are float32 whatever comes in
        return tags

    def _features(self, X: Any, *, reset: bool = False) -> FeatureSet:
        if isinstance(X, FeatureSet):
            if reset:
                self.n_features_in_ = X.dim
                if hasattr(self, "feature_names_in_"):  # of an earlier fit: a FeatureSet names no columns
                    del self.feature_names_in_
            return X.check("X") if reset else X
        # NaN and infinity are left to FeatureSet.check, which says how many rows and which is the first.
        checked = validated_rows(self, X, ensure_all_finite=False, ensure_min_samples=2 if reset else 1, reset=reset)
        return FeatureSet.from_arrays(checked, name="X").check("X")


class TEMI(parameters_of("temi"), HeadsEstimator):  # type: ignore[misc]
    __doc__ = documented(
        "Teacher ensemble-weighted pointwise mutual information (Adaloglou et al. 2023; 2024, eq. 1).", "temi"
    )
    _loss = "temi"


class SCAN(parameters_of("scan"), HeadsEstimator):  # type: ignore[misc]
    __doc__ = documented(
        "SCANv2: consistency with the teacher plus an entropy over the batch (Adaloglou et al. 2024, eq. 2).", "scan"
    )
    _loss = "scan"


class TSP(parameters_of("tsp"), HeadsEstimator):  # type: ignore[misc]
    __doc__ = documented(
        "A linear head without a teacher on Gaussian-weighted neighbors (Zhou & Zhang 2022, eqs. 4 and 5).", "tsp"
    )
    _loss = "tsp"
