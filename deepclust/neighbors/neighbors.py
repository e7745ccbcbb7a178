"""Neighbors: the K nearest of every sample.

Shape suffixes: N samples, K neighbors.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepclust.runtime.errors import InputError
from deepclust.runtime.files import written_whole

# Raised whenever the mining changes its result, so that no cache of an older rule is read.
MINING_VERSION = 3


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

    def first(self, k: int) -> Neighbors:
        """The k nearest of these."""
        if k > self.k:
            raise InputError(f"{k} neighbors asked for, but only {self.k} were mined: mine again with k={k}")
        return Neighbors(self.ids[:, :k], self.similarities[:, :k], self.settings)

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
        with np.load(path, allow_pickle=False) as archive:
            return cls(archive["ids"], archive["similarities"], json.loads(str(archive["settings"])))
