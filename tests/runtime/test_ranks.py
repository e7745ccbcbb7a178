"""Which rank a process is, by the variables that each launcher sets."""

from __future__ import annotations

import pytest
from torch import distributed as dist

from deepclust.runtime.ranks import Launch, is_first_process, launched_rank

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
