"""Which folder a run writes to: named by the user, by time and data, or by what a sweep varies."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from deepclust.runs.folder import RunFolder
from deepclust.runs.source import DataSource
from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import Launch
from deepclust.training.loggers import in_wandb_sweep

# The first process names the run folder; the ranks that it starts inherit the name.
RUN_DIR_VARIABLE = "DEEPCLUST_RUN_DIR"
# Of the folder of a sweep's job; file systems stop at 255 bytes, and caches append to names.
MAX_NAME_BYTES = 200


def run_folder(config: dict[str, Any]) -> tuple[RunFolder, bool]:
    """The run's folder, and whether it continues a run that is there already.

    The folder is the same on every rank: the first process names it, its children inherit the name. Where torchrun or
    srun starts every rank, none inherits: the name is given, or is that of the SLURM job. A job of a sweep whose folder
    exists is continued, so that a killed sweep is resumed by the same command. A job of a W&B sweep is named after its
    W&B run: agents side by side never choose one name, and a run that the sweep starts again is continued.

    Raises:
        InputError: if the folder holds a run already, there is none to resume, or ranks could not agree on a name.
    """
    if config["resume"] is not None:
        places = {Path(one).expanduser().resolve() for one in (config["run_dir"], config["resume"]) if one is not None}
        if len(places) > 1:
            raise InputError(
                f"run_dir={config['run_dir']} and resume={config['resume']} are two folders: a run goes on where it "
                "is; leave out run_dir=, or resume= to start anew"
            )
        return resumed_folder(config["resume"]), True
    if RUN_DIR_VARIABLE in os.environ and "LOCAL_RANK" in os.environ:
        return RunFolder(Path(os.environ[RUN_DIR_VARIABLE])), False
    sweep = in_a_sweep()
    launch = Launch.from_environment()
    rank = launch.rank if launch.started_by in ("torchrun", "slurm") else None
    moment = time.strftime("%Y-%m-%d_%H-%M-%S")
    wandb_run = os.environ.get("WANDB_RUN_ID") if in_wandb_sweep() else None
    if wandb_run is not None:
        moment = f"wandb-{wandb_run}"
    elif rank is not None and config["run_dir"] is None:
        if "SLURM_JOB_ID" not in os.environ:
            raise InputError("ranks that torchrun starts cannot agree on a name for the run folder: set run_dir=")
        moment = f"slurm-{os.environ['SLURM_JOB_ID']}"
    methods = "-".join([*config["loss"], *([] if config["loss"] else config["baselines"])])
    folder = RunFolder(new_folder(config["run_dir"], f"{moment}_{DataSource.of(config).name}_{methods}"))
    if folder.config.exists() and not rank:  # rank 0 of this very run may have written it already
        if sweep or (wandb_run is not None and config["run_dir"] is None):
            return folder, True
        folder.check_free()
    os.environ[RUN_DIR_VARIABLE] = str(folder.path.resolve())
    return folder, False


def new_folder(given: str | None, name: str) -> Path:
    """`given`, or `runs/<name>`; in a sweep a folder of the job's own there."""
    job = HydraConfig.get().job
    if given is None:
        return Path("runs") / (f"{name}_{job.num}" if in_a_sweep() else name)
    path = Path(given).expanduser()
    return path / job_name(job.override_dirname, job.num) if in_a_sweep() else path


def job_name(overrides: str, number: int) -> str:
    """The folder of one job of a sweep: what was varied, or a number.

    A name that no file system takes is shortened. It ends in a digest then, and where slashes are replaced: two jobs
    never have one name.
    """
    if not overrides:
        return str(number)
    name = overrides.replace("/", "_")
    if name == overrides and len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:8]
    return f"{name.encode()[: MAX_NAME_BYTES - 9].decode(errors='ignore')}-{digest}"


def resumed_folder(path: str) -> RunFolder:
    """The folder of a run to continue.

    Raises:
        InputError: if no run is there.
    """
    folder = RunFolder(Path(path).expanduser())
    if not folder.config.is_file():
        raise InputError(
            f"resume={path}: no run there (config.yaml is missing): name a run folder of `deepclust train`"
        )
    return folder


def in_a_sweep() -> bool:
    """Whether this is a job of `-m`."""
    return HydraConfig.get().mode == RunMode.MULTIRUN
