"""Neighbors: the K nearest of every sample.

Shape suffixes: N samples, K neighbors.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepclust.runtime.errors import InputError
from deepclust.runtime.files import read_npz, written_whole

# Raised whenever the mining changes its result, so that no cache of an older rule is read.
MINING_VERSION = 6


@dataclass(frozen=True)
class Neighbors:
    """K nearest neighbors of N samples, most similar first.

    Attributes:
        ids: (N, K) int32 row numbers, never the row itself.
        similarities: (N, K) float32 cosine similarities; minus the distances where `settings` say metric euclidean.
        settings: how they were mined.
    """

    ids: np.ndarray
    similarities: np.ndarray
    settings: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def k(self) -> int:
        return self.ids.shape[1]

    @property
    def metric(self) -> str:
        """`cosine` or `euclidean`, by which they were mined."""
        return self.settings.get("metric", "cosine")

    def first(self, k: int) -> Neighbors:
        """The k nearest of these."""
        if k > self.k:
            raise InputError(f"{k} neighbors asked for, but only {self.k} were mined: mine again with k={k}")
        return Neighbors(self.ids[:, :k], self.similarities[:, :k], self.settings)

    def reordered(self, order_N: np.ndarray) -> Neighbors:
        """The same neighbors of the rows in another order.

        Args:
            order_N: the row that is to be at each place.
        """
        place_N = np.empty(len(self), self.ids.dtype)
        place_N[order_N] = np.arange(len(self))
        return Neighbors(place_N[self.ids[order_N]], self.similarities[order_N], self.settings)

    def save(self, path: str | os.PathLike) -> None:
        with written_whole(path) as temporary:
            np.savez(
                temporary,
                ids=self.ids,
                similarities=self.similarities,
                settings=np.array(json.dumps(self.settings, default=str)),
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> Neighbors:
        """What `save` wrote.

        Raises:
            InputError: if the file is damaged, or its ids are no rows of so many samples.
        """
        arrays = read_npz(Path(path))
        try:
            found = cls(arrays["ids"], arrays["similarities"], json.loads(str(arrays["settings"])))
            numbered = found.ids.ndim == 2 and np.issubdtype(found.ids.dtype, np.integer)
            if (
                numbered
                and found.ids.shape == found.similarities.shape
                and found.ids.size
                and found.ids.min() >= 0
                and found.ids.max() < len(found)
            ):
                return found
        except (KeyError, ValueError):
            pass
        raise InputError(f"{path} holds no neighbors: remove it and mine again")
