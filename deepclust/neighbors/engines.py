"""Which library searches: torch, faiss or cuVS. Each gives ids and cosines of the same rows, by the same methods."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from deepclust.neighbors.search import missing_gpu_bytes
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import ALONE, Ranks

ENGINES = ("auto", "torch", "faiss", "cuvs")
# Packages that install the folder `faiss`.
BRING_FAISS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12", "faiss-gpu-cuvs")


def check_engine(engine: str, method: str, metric: str = "cosine") -> None:
    """Raises InputError unless the engine is known, is there, and has the method and the metric."""
    if engine not in ENGINES:
        raise InputError(f"unknown neighbors.engine '{engine}': choose one of {', '.join(ENGINES)}")
    if engine in ("auto", "torch"):
        return
    if metric != "cosine":
        raise InputError(f"neighbors by {metric} distance are searched by torch alone: leave engine={engine} out")
    if method == "screened":
        raise InputError(f"neighbors.method=screened is torch's, not {engine}'s: set neighbors.method=exact, or ivf")
    if engine == "faiss":
        brought_by = [name for name in BRING_FAISS if _is_installed(name)]
        if len(brought_by) > 1:
            raise InputError(
                f"{' and '.join(brought_by)} overwrite each other's files: pip uninstall {' '.join(brought_by)}, then "
                "install one of them"
            )
    elif find_spec("cuvs") is None:
        raise InputError("neighbors.engine=cuvs needs cuVS: pip install 'deepclust[cuvs]', or leave it out")
    elif not torch.cuda.is_available():
        raise InputError("neighbors.engine=cuvs needs an NVIDIA GPU, and torch sees none: set neighbors.engine=torch")


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def check_cuvs_fits(method: str, shape: tuple[int, int], ranks: Ranks = ALONE) -> None:
    """Raises InputError where cuVS cannot search these rows here."""
    if method == "ivf" and ranks.world_size > 1:
        raise InputError(
            "neighbors.engine=cuvs with neighbors.method=ivf uses all GPUs from one process, and this run has "
            f"{ranks.world_size}: mine by a run of one process before, or set neighbors.method=exact"
        )
    lacking = max(ranks.gather_objects(missing_gpu_bytes(*shape))) if method == "exact" else 0
    if lacking:
        raise InputError(
            f"the GPU lacks {lacking / 1e9:.1f} GB of free memory for {shape[0]} × {shape[1]} rows by "
            "neighbors.engine=cuvs: set neighbors.method=ivf, or neighbors.engine=auto"
        )
