"""The cache of mined neighbors, beside the features.

Shape suffixes: N samples, K neighbors.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from deepclust.features.feature_set import FeatureSet
from deepclust.neighbors.mining import DEFAULT_RECALL, check_request, mine_neighbors
from deepclust.neighbors.neighbors import MINING_VERSION, Neighbors
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint, remove_temporaries
from deepclust.runtime.locks import one_at_a_time
from deepclust.runtime.ranks import ALONE, Ranks
from deepclust.runtime.shared_array import SharedArray


def cached_neighbors(
    features: FeatureSet,
    k: int,
    *,
    cache_dir: str | os.PathLike | None = None,
    method: str = "auto",
    recall: float = DEFAULT_RECALL,
    engine: str = "auto",
    progress: bool = False,
    ranks: Ranks = ALONE,
) -> Neighbors:
    """`mine_neighbors`, kept beside the features under a key of their content and the mining settings.

    A cache of more neighbors serves fewer. A killed search continues from the blocks it had finished. Without a place
    to keep them (features in memory, or a read-only folder, and no `cache_dir`) they are mined anew. Of several
    processes that want the same, one mines, and the others wait and read what it has found.

    Called on every rank of `ranks` with the same arguments. The first rank looks for the cache, locks and writes it, so
    the others need not see its folder.
    """
    check_request(len(features), k, method, recall, engine)
    folder = cache_folder(features, cache_dir)
    key = ""
    with ExitStack() as until_saved:
        cached, locked = None, False
        with ranks.all_or_none():
            if folder is not None and ranks.rank == 0:
                of_method = recall if method in ("ivf", "auto") else None
                of_engine = [] if engine == "auto" else [engine]  # caches of versions without engines are met
                key = fingerprint(features.fingerprint(), method, of_method, MINING_VERSION, *of_engine)
                cached = _read_cached(folder, key, k, len(features))
                if cached is None:
                    locked = until_saved.enter_context(one_at_a_time(folder / f"{key}.lock", "mining neighbors"))
                    cached = _read_cached(folder, key, k, len(features))
        is_cached, keep_blocks = ranks.from_first(np.array([cached is not None, locked]))
        if is_cached:
            return _from_first_rank(cached, len(features), k, ranks)
        key = ranks.gather_objects(key)[0]
        blocks = folder / f"{key}-k{k}.blocks" if folder is not None and keep_blocks else None
        neighbors = mine_neighbors(
            features, k, method=method, recall=recall, engine=engine, block_dir=blocks, progress=progress, ranks=ranks
        )
        with ranks.all_or_none():
            if folder is not None and ranks.rank == 0:
                neighbors.save(folder / f"{key}-k{k}.npz")
                if blocks is not None:  # of killed searches for more or fewer neighbors, too
                    for left in folder.glob(f"{key}-k*.blocks"):
                        shutil.rmtree(left, ignore_errors=True)
                    remove_temporaries(folder)
        return neighbors


def _read_cached(folder: Path, key: str, k: int, n_samples: int) -> Neighbors | None:
    """The kept neighbors; what is damaged, or of other samples, is removed with a line on the console."""
    for path in sorted(folder.glob(f"{key}-k*.npz")):
        match = re.fullmatch(r".*-k(\d+)", path.stem)
        if match and int(match.group(1)) >= k:
            try:
                found = Neighbors.load(path)
                if len(found) != n_samples:
                    raise InputError(f"{path} holds neighbors of {len(found)} samples, not of {n_samples}: remove it")
                return found.first(k)
            except InputError as error:
                print(f"{error.cause}: mined again", flush=True)
                path.unlink(missing_ok=True)
    return None


def _from_first_rank(cached: Neighbors | None, n_samples: int, k: int, ranks: Ranks) -> Neighbors:
    """The first rank's neighbors, on every rank; those of a machine have them in common."""
    if ranks.world_size == 1:
        assert cached is not None
        return cached
    ids, similarities = SharedArray((n_samples, k), np.int32, ranks), SharedArray((n_samples, k), np.float32, ranks)
    if cached is not None:
        ids.values[:], similarities.values[:] = cached.ids, cached.similarities
    settings = ranks.gather_objects(None if cached is None else cached.settings)[0]
    assert settings is not None
    return Neighbors(ids.written(), similarities.written(), settings)


def cache_folder(
    features: FeatureSet, cache_dir: str | os.PathLike | None = None, kind: str = "neighbors"
) -> Path | None:
    """`cache_dir`, else a folder of that kind beside the features, else None; only if it can be written."""
    if cache_dir is not None:
        folder = Path(cache_dir)
    elif features.root is None:
        return None
    elif features.root.is_dir():
        folder = features.root / kind
    else:
        folder = features.root.with_name(f"{features.root.name}.{kind}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
