"""scikit-learn estimators over the same code: TEMI, SCAN and TSP. (SphericalKMeans lives with its function.)

Their parameters are the settings of the recipe (`deepclust/training/recipe.py`), with its names, defaults and meanings.

Shape suffixes: N samples, D feature dimensions, C clusters, G clusters after a cut.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from deepclust.clustering import Clustering
from deepclust.cuts.confidence import disagreement
from deepclust.cuts.constraints import read_constraints
from deepclust.cuts.exploration import Exploration, bounds_of, check_can_choose, cut_labels
from deepclust.cuts.settling import settle
from deepclust.cuts.tree import ClusterTree
from deepclust.cuts.voting import is_voted, voted_cuts, with_voted
from deepclust.features.feature_set import FeatureSet
from deepclust.features.for_estimators import seed_of, validated_rows, whole_fit
from deepclust.neighbors import cached_neighbors
from deepclust.neighbors.spectral import Partitions
from deepclust.notebook_methods import NotebookMethods
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import plain_json, written_whole
from deepclust.training.fit import fit_heads
from deepclust.training.initialization import views_at_start
from deepclust.training.recipe import Recipe, RecipeSetting, plain, recipe_settings
from deepclust.training.trained import TrainedHeads, read_saved
from deepclust.training.trainer_settings import TrainerSettings

# Where and how to train, not what: kept out of the recipe.
RUN_OPTIONS = {
    "random_state": RecipeSetting(None, "int | np.random.RandomState | None", "seed, `RandomState` or None"),
    "device": RecipeSetting("auto", "str", "`auto`, `cpu` or `cuda`"),
    "precision": RecipeSetting("auto", "str", "`auto`, `32` or `bf16-mixed`"),
    "verbose": RecipeSetting(False, "bool", "show how far training is"),
    "constraints": RecipeSetting(
        None, "str | None", "file of answers about pairs of rows, or of labels, that chooses the cut (docs/how_many.md)"
    ),
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
    exploration_: what speaks for each number of clusters, an `Exploration`; None where `n_clusters` is a number.
    tree_: of the clusters, a `ClusterTree`; only where `n_clusters` is `auto` or bounds.
"""


def parameters_of(loss: str) -> type:
    """A base class whose constructor takes every setting of a loss's recipe by name, with its default.

    A dataclass made from the recipe: signature, tab completion and `get_params` are those of explicit arguments.
    """
    parameters = {**recipe_settings(loss), **RUN_OPTIONS}
    return dataclasses.make_dataclass(
        f"{loss.upper()}Parameters",
        [
            ("n_clusters", "int | str | tuple[int, int]", dataclasses.field(default=10)),
            ("_", dataclasses.KW_ONLY),
            *((name, one.type, dataclasses.field(default=one.default)) for name, one in parameters.items()),
        ],
        eq=False,
        repr=False,
    )


def documented(about: str, loss: str) -> str:
    """A docstring with the meaning and the default of every parameter."""
    lines = [about.strip(), "", "Args:"]
    lines += [
        "    n_clusters: C, the number of clusters, 1 or more; or `auto`, or bounds such as (5, 50): as many as the",
        "        upper bound are trained, and merged to the number that is most stable; of a single head that starts",
        "        from a consensus the number is voted on first. Default 10.",
    ]
    for name, one in {**recipe_settings(loss), **RUN_OPTIONS}.items():
        told = f"{name}: {one.about.rstrip('.')}. Default {one.default!r}."
        lines += textwrap.wrap(told, 110, initial_indent="    ", subsequent_indent="        ")
    return "\n".join([*lines, ATTRIBUTES])


class HeadsEstimator(NotebookMethods, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """What the three estimators share: everything but the loss and its defaults."""

    _loss: ClassVar[str]
    random_state: Any
    device: str
    precision: str
    verbose: bool
    n_clusters: Any
    n_heads: int
    constraints: Any

    @whole_fit
    def fit(self, X: Any, y: Any = None) -> Any:
        """Mine neighbors, train the heads, keep the best one and assign the samples; y is ignored.

        Args:
            X: (N, D) features as an array or a FeatureSet (which may be memory-mapped).

        Raises:
            InputError: (a ValueError) for rows with NaN, infinite or only zero values, too few samples for the
                clusters or the neighbors, or constraints that cannot be used.
        """
        features = self._features(X, reset=True)
        bounds = self._bounds(len(features))
        constraints = None if self.constraints is None else read_constraints(self.constraints, len(features))
        recipe = self.recipe(len(features))
        votes = is_voted(recipe, bounds, constraints is not None)
        check_can_choose(bounds, constraints is not None or votes, self.n_heads)
        partitions, neighbors, voted = Partitions(), None, None
        if votes:
            recipe.check_features(len(features))
            neighbors = cached_neighbors(features, recipe.mined_neighbors(len(features)), progress=self.verbose)
            assert bounds is not None
            asked: dict[str, Any] = {"seed": recipe.seed, "partitions": partitions, "progress": self.verbose}
            voted = voted_cuts(features, neighbors, bounds, **asked)
            recipe = with_voted(recipe, voted)
        accelerator = "gpu" if self.device == "cuda" else self.device
        result = fit_heads(
            features,
            recipe,
            TrainerSettings(accelerator=accelerator, precision=self.precision),
            neighbors=neighbors,
            partitions=partitions,
            progress=self.verbose,
        )
        trained = result.trained
        trained.warn_of_collapse(features)
        views_VN = views_at_start(recipe, features, result.neighbors, partitions)
        self.exploration_ = settle(trained, features, result.neighbors, bounds, constraints, views_VN, voted)
        self._leaves = None if bounds is None else trained.assign(features, head=trained.best_head)
        labels = trained.assign(features).labels
        # On the CPU, so that a pickle of the estimator loads on a machine without a GPU.
        trained.to("cpu")
        self._adopt(trained, labels)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(N,) int32 cluster of each row, by the best head."""
        check_is_fitted(self)
        return self.trained_.assign(self._features(X)).labels

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, G) float32 probabilities of the best head; their argmax is `predict`.

        They are as sure as the other heads let expect, or the views of the graph that a single head started from.
        """
        check_is_fitted(self)
        return self.trained_.probabilities(self._features(X))

    def transform(self, X: Any) -> np.ndarray:
        """(N, C) float32 logits of the best head, before the temperature, for all clusters that were trained."""
        check_is_fitted(self)
        return self.trained_.logits(self._features(X))

    def of_samples(self, X: Any) -> tuple[Clustering, FeatureSet]:
        """The clusters of X by the best head, with their probabilities and the share of the other heads that disagree,
        and X as a FeatureSet; X may be other samples than those of `fit`."""
        check_is_fitted(self)
        features = self._features(X)
        clustering = self.trained_.assign(features)
        clustering.disagreement = disagreement(self.trained_, features, clustering.labels)
        return clustering, features

    def recipe(self, n_samples: int | None = None) -> Recipe:
        """What `fit` trains: the recipe that the command line would make of the same settings.

        Args:
            n_samples: N, by which `n_clusters="auto"` is limited.
        """
        settings = {name: value for name, value in self.get_params().items() if name not in RUN_OPTIONS}
        bounds = self._bounds(n_samples)
        if bounds is not None:
            settings["n_clusters"] = bounds[1]
        return Recipe.of(self._loss, **settings, seed=seed_of(self.random_state))

    @property
    def tree_(self) -> ClusterTree:
        """The tree of the clusters."""
        check_is_fitted(self)
        if self.exploration_ is None:
            raise AttributeError(f"n_clusters={self.n_clusters} makes no tree: fit with n_clusters='auto' or bounds")
        return self.exploration_.tree

    def cut(self, n_clusters: int) -> Any:
        """This model cut into another number of clusters, without training.

        Args:
            n_clusters: from 2 to the number that was trained, the upper bound.

        Returns:
            A fitted copy, with `labels_`, `predict` and `predict_proba` of the cut; this one stays as it is. The
            temperature of its confidence is that of the chosen cut.

        Raises:
            InputError: if there is no such cut, or `n_clusters` was a number when it was fitted.

        Examples:
            >>> from sklearn.datasets import load_digits
            >>> model = TEMI("auto", max_epochs=5, n_heads=2).fit(load_digits().data)
            >>> model.cut(17).predict_proba(load_digits().data).shape
            (1797, 17)
        """
        check_is_fitted(self)
        if self.exploration_ is None or self._leaves is None:
            raise InputError(f"n_clusters={self.n_clusters} makes no tree: fit with n_clusters='auto' or bounds")
        groups_C = self.exploration_.tree.groups(n_clusters)
        other = copy.copy(self)
        trained = copy.copy(self.trained_)
        trained.groups_C = groups_C
        other._adopt(trained, cut_labels(self._leaves, groups_C))
        return other

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
                    "exploration": None if self.exploration_ is None else plain_json(self.exploration_.as_dict()),
                    "leaf_ids": None if self._leaves is None else torch.from_numpy(self._leaves.top_ids),
                    "leaf_probs": None if self._leaves is None else torch.from_numpy(self._leaves.top_probs),
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
        saved = content.get("exploration")  # files of earlier versions hold none
        estimator.exploration_ = estimator._leaves = None
        if saved is not None:
            ids_NT, probs_NT = content["leaf_ids"].numpy(), content["leaf_probs"].numpy()
            estimator.exploration_ = Exploration.from_dict(saved)
            estimator._leaves = Clustering(ids_NT[:, 0], cls._loss, top_ids=ids_NT, top_probs=probs_NT)
        estimator._adopt(trained, content["labels"].numpy())
        if content.get("feature_names"):
            estimator.feature_names_in_ = np.array(content["feature_names"], dtype=object)
        return estimator

    def _adopt(self, trained: TrainedHeads, labels: np.ndarray) -> None:
        self.trained_, self.labels_ = trained, labels
        self.best_head_, self.head_losses_ = trained.best_head, trained.losses_H
        self.n_features_in_, self.n_iter_ = trained.in_dim, trained.recipe.epochs(len(labels))

    def _bounds(self, n_samples: int | None) -> tuple[int, int] | None:
        """Of the number of clusters; None where it is a number, which the recipe checks."""
        if isinstance(self.n_clusters, (str, list, tuple)):
            return bounds_of(self.n_clusters, n_samples)
        return None

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


def explore(X: Any, n_clusters: Any = "auto", **settings: Any) -> TEMI:
    """How many clusters? Train TEMI's heads once, and score every number of clusters.

    Args:
        X: (N, D) features as an array or a FeatureSet.
        n_clusters: `auto`, 3 to 50, or bounds such as (5, 200).
        settings: further ones of `TEMI`, such as `constraints=` or `random_state=`.

    Returns:
        The fitted model: `print(model.exploration_)` shows all numbers, `model.labels_` the clusters that are taken,
        `model.cut(17)` others.

    Raises:
        InputError: (a ValueError) as `TEMI.fit`.

    Examples:
        >>> from sklearn.datasets import load_digits
        >>> explore(load_digits().data, (2, 12), max_epochs=5, n_heads=2).exploration_.cuts[0].n_clusters
        2
    """
    return TEMI(n_clusters, **settings).fit(X)


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


class ConsensusHeads(parameters_of("consensus_heads"), HeadsEstimator):  # type: ignore[misc]
    __doc__ = documented(
        "A head that learns the partition that many views of the neighbor graph agree on, and keeps it; our own.",
        "consensus_heads",
    )
    _loss = "consensus_heads"
