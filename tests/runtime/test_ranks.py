"""Which rank a process is, by the variables that each launcher sets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from deepclust.runtime.errors import InputError
from deepclust.runtime.ranks import Launch, Ranks, is_first_process, launched_rank

VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "SLURM_PROCID", "SLURM_LOCALID"),
    *("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"),
)
TORCHRUN = {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4}
SRUN = {
    "SLURM_PROCID": 5, "SLURM_LOCALID": 1, "SLURM_NTASKS": 8, "SLURM_STEP_NUM_TASKS": 8, "SLURM_STEP_NUM_NODES": 2,
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def set_variables(**values: int) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_variables


@pytest.mark.parametrize(
    ("variables", "launch"),
    [
        ({}, Launch()),
        (TORCHRUN, Launch("torchrun", 5, 8, 1, 4)),
        ({"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}, Launch()),
        (SRUN, Launch("slurm", 5, 8, 1, 4)),
        # torchrun, started by srun once per machine
        ({**SRUN, **TORCHRUN, "SLURM_STEP_NUM_TASKS": 2}, Launch("torchrun", 5, 8, 1, 4)),
        # a batch script without srun: the job has eight tasks, this process is the only one
        ({"SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_NTASKS": 8}, Launch()),
        ({"NODE_RANK": 0, "LOCAL_RANK": 2, "WORLD_SIZE": 4}, Launch("lightning", 2, 4, 2, 4)),
        ({"NODE_RANK": 0, "LOCAL_RANK": 2}, Launch("lightning", 2, 3, 2, 3)),
    ],
)
def test_each_launcher_tells_the_rank(variables, launch, environment):
    environment(**variables)
    assert Launch.from_environment() == launch
    assert launched_rank() == launch.rank
    assert is_first_process() == (launch.rank == 0)
    assert launch.starts_every_rank == (launch.started_by in ("torchrun", "slurm"))


def test_a_process_group_knows_better_than_the_environment(environment, tmp_path):
    environment(**TORCHRUN)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        assert is_first_process()
    finally:
        dist.destroy_process_group()
    assert not is_first_process()


def _told_on_a_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    ranks = Ranks.of_run()
    heard = []
    for failure in (None, InputError("the disk is full: make room"), OSError("no space")):
        try:
            with ranks.all_or_none():
                if rank == 0 and failure is not None:
                    raise failure
            heard.append("went well")
        except (InputError, OSError) as error:
            heard.append(f"{type(error).__name__}: {error}")
    # One rank alone cannot use its GPU, or finds another method: the first one decides, or all refuse.
    heard.append(str(ranks.decide(rank == 0)))
    Path(folder, f"{rank}.txt").write_text("\n".join(heard))
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_failure_of_one_rank_ends_all_in_one_line_and_at_once(tmp_path):
    started = time.monotonic()
    torch.multiprocessing.spawn(_told_on_a_rank, (str(tmp_path),), nprocs=2)
    assert time.monotonic() - started < 60
    first, second = ((tmp_path / f"{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert first == ["went well", "InputError: the disk is full: make room", "OSError: no space", "True"]
    assert second == [
        "went well",
        "InputError: the disk is full: make room",
        "InputError: rank 0 failed: OSError: no space",
        "True",
    ]


def test_a_process_alone_raises_what_was_raised():
    with pytest.raises(OSError, match="no space"), Ranks().all_or_none():
        raise OSError("no space")
