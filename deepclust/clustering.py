"""The Clustering: the result of every method, whether a trained head, k-means or HDBSCAN.

Shape suffixes: N samples, C clusters, T the most probable clusters kept per sample (at most 5).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.features.feature_set import FeatureSet
from deepclust.notebook_methods import NotebookMethods
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_npz, written_whole

NOISE = -1
TOP = 5
REMEDY = "remove it, and resume its run"
# The method of the linear probe's rows. It saw labels, so it is not compared with the others.
PROBE = "linear_probe"
DISPLAY_NAMES = {
    "temi": "TEMI",
    "scan": "SCANv2",
    "tsp": "TSP",
    "scan_original": "SCAN",
    "self_label": "SCAN, self-labelled",
    "iic": "IIC",
    "pica": "PICA",
    "nnm": "NNM",
    "dec": "DEC",
    "sela": "SeLa",
    "self_classifier": "Self-Classifier",
    "pmi": "PMI",
    "wmi": "WMI",
    "icon": "I-Con",
    "turtle": "TURTLE",
    "consensus_heads": "Consensus heads",
    "kmeans": "k-means",
    "kmeans_l2": "k-means, ℓ2",
    "kmeans_paper": "k-means, single starts",
    "consensus": "Consensus",
    "agglomerative": "Agglomerative",
    "agglomerative_threshold": "Agglomerative w/o C",
    "affinity_propagation": "Affinity propagation",
    "spectral": "Spectral",
    "hdbscan": "HDBSCAN",
    "optics": "OPTICS",
    "louvain": "Louvain",
    "leiden": "Leiden",
    PROBE: "Linear probe",
}


@dataclass
class Clustering(NotebookMethods):
    """N cluster ids with what made them.

    In notebooks `show`, `plot_map`, `to_frame` and `report` take the N samples and show what is in the clusters.

    Attributes:
        labels: (N,) int32 cluster ids, -1 for noise.
        method: the method's name: `temi`, `kmeans`, `agglomerative`, …
        n_clusters: how many clusters were asked for (those found are counted by `n_found`).
        top_ids: (N, T) int32, the T most probable clusters, best first; the first column equals `labels`. Or None.
        top_probs: (N, T) float32, their probabilities; None for methods that have none.
        settings: what the method was run with.
        seconds: wall-clock time of fitting, or of assigning for a split that was not fitted on.
        notes: sentences that belong under any table this clustering appears in.
        identity: digest of the data and settings of the run that made it (`deepclust.runs.identity`), or None.
        disagreement: (N,) float32 share of the other heads that put a sample elsewhere; of a single head that started
            from a consensus, of its views, for the training split; None of other methods and single heads.
        repeats: (R, N) int32 cluster ids of further runs of the method, or None; its scores are the means over all.
    """

    labels: np.ndarray
    method: str
    n_clusters: int | None = None
    top_ids: np.ndarray | None = None
    top_probs: np.ndarray | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    notes: Sequence[str] = ()
    identity: str | None = None
    repeats: np.ndarray | None = None
    disagreement: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.labels = np.asarray(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_found(self) -> int:
        """How many clusters have at least one member; noise is none."""
        found = np.unique(self.labels)
        return int((found != NOISE).sum())

    @property
    def runs(self) -> list[np.ndarray]:
        """The cluster ids of every run of the method: `labels`, then `repeats`."""
        return [self.labels, *(() if self.repeats is None else self.repeats)]

    def of_samples(self, X: Any) -> tuple[Clustering, FeatureSet]:
        """Itself, and the samples that were clustered as a FeatureSet.

        Raises:
            InputError: if X is not N × D, or has rows with NaN, infinite or only zero values.
        """
        features = X
        if not isinstance(X, FeatureSet):
            from deepclust.features.for_estimators import rows_of_frame  # imports scikit-learn

            rows = rows_of_frame(X) if hasattr(X, "__arrow_c_stream__") else X
            features = FeatureSet.from_arrays(rows, name="X").check("X")
        if len(features) != len(self):
            raise InputError(f"X has {len(features)} rows for {len(self)} labels: give the samples that were clustered")
        return self, features

    def save(self, path: str | os.PathLike) -> Path:
        """Write a `.npz` with `labels`, `meta` (JSON), and those of the other arrays that there are."""
        path = Path(path)
        arrays: dict[str, Any] = {"labels": self.labels.astype(np.int32)}
        if self.top_ids is not None:
            arrays["top_ids"] = self.top_ids.astype(np.int32)
        if self.top_probs is not None:
            arrays["top_probs"] = self.top_probs.astype(np.float32)
        if self.repeats is not None:
            arrays["repeats"] = self.repeats.astype(np.int32)
        if self.disagreement is not None:
            arrays["disagreement"] = self.disagreement.astype(np.float32)
        meta = {
            "method": self.method,
            "n_clusters": self.n_clusters,
            "settings": self.settings,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "identity": self.identity,
        }
        with written_whole(path) as temporary:
            np.savez_compressed(temporary, meta=np.array(json.dumps(meta, default=str)), **arrays)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> Clustering:
        """Read what `save` wrote.

        Raises:
            InputError: if there is no such file, or it is damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"no clustering at {path}")
        arrays = read_npz(path, REMEDY)
        try:
            meta = json.loads(str(arrays.pop("meta")))
            names = ("top_ids", "top_probs", "repeats", "disagreement")
            optional: dict[str, Any] = {name: arrays.get(name) for name in names}
            return cls(labels=arrays["labels"], **optional, **meta)
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path} is no clustering ({str(error).splitlines()[0][:160]}): {REMEDY}") from None


def display_name(method: str) -> str:
    """The name of a method as readers know it."""
    return DISPLAY_NAMES.get(method, method)


def method_order(method: str) -> tuple[int, str]:
    """A sort key, so that methods have the same order and color wherever they are shown."""
    known = list(DISPLAY_NAMES)
    return (known.index(method) if method in known else len(known), method)
