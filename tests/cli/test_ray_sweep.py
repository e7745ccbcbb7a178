"""A sweep over a running Ray cluster: here one on this machine, with GPUs that are only said to be there."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_a_ray_that_is_there_runs_the_jobs_of_a_sweep_and_tells_what_is_refused(start_process, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'deepclust[ray]'")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="its launcher is not: pip install 'deepclust[ray]'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    context = ray.init(num_cpus=16, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    words = (
        *("train", "-m", "hydra/launcher=ray_cluster", "seed=0,1", "run_dir=sweep", "loss=tsp", "baselines=none"),
        *("max_epochs=1", "n_heads=1", "init=kmeans", "trainer.accelerator=cpu"),
    )
    told = {"RAY_ADDRESS": context.address_info["address"]}
    try:
        ran, refused = start_process(*words, **told), start_process(*words, "n_clusters=9000", "run_dir=no", **told)
        (out, err), (_, line) = ran.communicate(timeout=300), refused.communicate(timeout=300)
    finally:
        ray.shutdown()
    assert ran.returncode == 0, out + err
    # The folder is relative to where the command was given, not to where Ray was started.
    assert len(list(tmp_path.glob("sweep/*/results.json"))) == 2
    assert refused.returncode == 2
    assert line.strip().splitlines()[-1].startswith("error: n_clusters=9000, but there are only"), line
