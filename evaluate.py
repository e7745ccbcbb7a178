"""Score a finished run again from its checkpoints alone, on its own splits or on other features.

python evaluate.py run=runs/…                                        the run's own data
python evaluate.py run=runs/… data=features data.train=X.npy         other features of the same encoder
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from deepclust.errors import InputError, one_line_errors


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    with one_line_errors():
        if OmegaConf.is_missing(cfg, "run"):
            raise InputError("name the run to evaluate: run=<run folder>")
        evaluate(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]


def evaluate(config: dict[str, Any]) -> None:
    from deepclust.experiment import RunFolder, evaluate_run
    from deepclust.files import write_json
    from deepclust.report.tables import report_console, results_table
    from train import load_data

    folder = RunFolder(Path(config["run"]).expanduser())
    if not folder.path.is_dir():
        raise InputError(f"run={config['run']}: no such folder")
    if not folder.trained_methods():
        raise InputError(f"{folder.path} holds no checkpoint (checkpoints/*.ckpt): name a run folder of train.py")
    if config.get("data") is None:
        trained_on = OmegaConf.to_container(OmegaConf.load(folder.path / "config.yaml"))
        assert isinstance(trained_on, dict)
        config = {**config, "data": trained_on["data"], "encoder": config.get("encoder") or trained_on.get("encoder")}
        config["features_dir"] = config["features_dir"] or trained_on.get("features_dir")
        config["benchmark"] = config.get("benchmark") or trained_on.get("benchmark")
    results = evaluate_run(folder, load_data(config))
    write_json(folder.path / "evaluation.json", results.rows)
    console = report_console()
    console.print(results_table(results.rows, notes=results.notes))
    console.print(f"written to {folder.path / 'evaluation.json'}", soft_wrap=True)


if __name__ == "__main__":
    main()
