"""A sweep over a running Ray cluster: here one on this machine, with GPUs that are only said to be there."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_the_jobs_of_a_sweep_are_run_by_a_ray_that_is_there_already(start_process, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'deepclust[ray]'")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="its launcher is not: pip install 'deepclust[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    context = ray.init(num_cpus=16, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        process = start_process(
            *("train", "-m", "hydra/launcher=ray_cluster", "seed=0,1", f"run_dir={tmp_path / 'sweep'}"),
            *("loss=tsp", "baselines=none", "max_epochs=1", "n_heads=1", "init=kmeans", "trainer.accelerator=cpu"),
            RAY_ADDRESS=context.address_info["address"],
        )
        out, err = process.communicate(timeout=300)
    finally:
        ray.shutdown()
    assert process.returncode == 0, out + err
    assert len(list(tmp_path.glob("sweep/*/results.json"))) == 2
