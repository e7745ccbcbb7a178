"""Score a finished run again, on its own splits or on other features, and measure what training does not.

python evaluate.py run=runs/…                                        the run's own data
python evaluate.py run=runs/… data=features data.train=X.npy         other features of the same encoder
python evaluate.py run=runs/… metrics=[multilabel,levels,calibration,separability,probe,overclustering]
python evaluate.py run=runs/… figures=[consistency,neighbors,umap,confusion]
python evaluate.py data=imagenet21k encoder=openclip_vitg14 metrics=[probe]   features alone, without a run
python evaluate.py -m run=runs/a,runs/b metrics=[separability,probe]   several runs; then summarize.py
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from deepclust.runtime.errors import InputError
from train import refused_without_a_trace


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    with refused_without_a_trace():
        if cfg.run is None and cfg.get("data") is None:
            raise InputError("name the run to evaluate: run=<run folder>, or features alone: data=<data set>")
        evaluate(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]


def evaluate(config: dict[str, Any]) -> None:
    from deepclust.clustering import PROBE
    from deepclust.report.evaluation_tables import evaluation_tables
    from deepclust.report.tables import report_console, results_table
    from deepclust.runs.evaluation import check_names, merged_rows, read_rows
    from deepclust.runtime.files import write_json

    metrics, figures = listed(config["metrics"]), listed(config["figures"])
    check_names(metrics, figures, without_run=config["run"] is None)
    found, config, trained_on = features_alone(config) if config["run"] is None else finished_run(config, metrics)
    rows_file = found.folder / "evaluation.json"
    before = read_rows(rows_file)  # refused before hours of a probe, if at all
    results = measure(found, metrics, figures, config, trained_on)
    write_json(rows_file, merged_rows(before, found.rows))
    found.written.insert(0, rows_file)
    console = report_console()
    rows = [row for row in found.rows if row["method"] != PROBE]
    if rows:
        console.print(results_table(rows, notes=found.notes))
    for part in evaluation_tables(found.rows, results):
        console.print(part, style="italic dim" if isinstance(part, str) else None, markup=False)
    for path in found.written:
        if path.suffix != ".svg":
            console.print(f"written to {path}", soft_wrap=True, markup=False)


def finished_run(config: dict[str, Any], metrics: list[str]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A run scored again, the settings with what they inherit from it, and what the run was asked for."""
    from deepclust.runs.evaluation import evaluate_run
    from deepclust.runs.experiment import RunFolder
    from deepclust.runs.settings import data_name, load_data, reduced_as_trained
    from deepclust.runtime.files import fingerprint

    folder = RunFolder(Path(config["run"]).expanduser())
    if not folder.path.is_dir():
        raise InputError(f"run={config['run']}: no such folder")
    if not (folder.trained_methods() or folder.saved_methods()):
        raise InputError(f"{folder.path} holds no checkpoint (checkpoints/*.ckpt): name a run folder of train.py")
    named = config.get("data") is not None
    trained_on = config_of(folder.path) if not named or (folder.path / "config.yaml").is_file() else {}
    if not named:
        # Everything that decides which rows and labels were trained on; a key that is not there changes nothing.
        inherited: dict[str, Any] = {
            key: trained_on[key] for key in ("data", "benchmark", "features_dir") if key in trained_on
        }
        given = {key: value for key, value in config.items() if value is not None}
        encoder = config.get("encoder") or trained_on.get("encoder")
        config = {**config, **inherited, **given, "encoder": encoder}
    what = {key: config.get(key) for key in ("data", "benchmark", "encoder")}
    own = all(value == trained_on.get(key) for key, value in what.items())
    if not own and "overclustering" in metrics:
        raise InputError("metrics=[overclustering] trains again on the run's own data: leave out data= and benchmark=")
    dataset = reduced_as_trained(load_data(config), trained_on, record=folder.reduction, own=own)
    found = evaluate_run(folder, dataset, saved=own, silhouette=trained_on.get("silhouette", True))
    if not own:
        # Rows of other data are no further columns of the run's own.
        found.folder = folder.path / "other_data" / f"{data_name(config)}-{fingerprint(what)[:8]}"
    config["cache_dir"] = config["cache_dir"] or trained_on.get("neighbors", {}).get("cache_dir")
    return found, config, trained_on


def features_alone(config: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Features that nothing was clustered of yet, in a folder of their own; the rest as `finished_run`."""
    from deepclust.runs.evaluation import Evaluation
    from deepclust.runs.settings import load_data
    from deepclust.runtime.files import written_whole

    dataset = load_data(config)
    folder = new_folder(config)
    if (folder / "config.yaml").is_file():
        there = config_of(folder)
        if "metrics" not in there:
            raise InputError(f"run_dir={folder} holds a run: evaluate it by run={folder}, or choose another run_dir")
        if any(there.get(key) != config.get(key) for key in ("data", "benchmark", "encoder")):
            raise InputError(f"run_dir={folder} holds the evaluation of other features: choose another run_dir")
    with written_whole(folder / "config.yaml") as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    return Evaluation(folder, dataset, {}, []), config, {}


def new_folder(config: dict[str, Any]) -> Path:
    """Where an evaluation without a run is written: `run_dir`, and a folder per job of a sweep in it."""
    from deepclust.runs.settings import data_name, job_name

    hydra_job = HydraConfig.get()
    sweep = hydra_job.mode == RunMode.MULTIRUN
    if config["run_dir"] is None:
        name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{data_name(config)}_features"
        return Path("runs") / (f"{name}_{hydra_job.job.num}" if sweep else name)
    path = Path(config["run_dir"]).expanduser()
    if not sweep:
        return path
    return path / job_name(hydra_job.job.override_dirname, hydra_job.job.num)


def config_of(path: Path) -> dict[str, Any]:
    """What the run was asked for."""
    if not (path / "config.yaml").is_file():
        raise InputError(f"{path} holds no config.yaml, so its data are not known: name them with data=")
    config = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
    assert isinstance(config, dict)
    return {str(name): value for name, value in config.items()}


def measure(
    found: Any, metrics: list[str], figures: list[str], config: dict[str, Any], trained_on: dict[str, Any]
) -> dict[str, Any]:
    """Run what was asked for, cheap things first; returns what the tables need beside the rows."""
    from deepclust.runs.evaluation import add_calibration, add_probe, add_separability
    from deepclust.runs.many_labels import ManyLabels, add_multilabel, add_probe_row
    from deepclust.runs.settings import all_classes

    results: dict[str, Any] = {}
    if "multilabel" in metrics:
        many = ManyLabels.from_settings(
            config["label_sets"],
            n_draws=config["n_draws"],
            seed=config["seed"],
            ancestors=lambda: ancestors(found, config),
            class_names=(lambda: all_classes(config).names) if config.get("benchmark") else None,
        )
        add_multilabel(found, many)
    if "levels" in metrics:
        results["levels"] = levels(found, config)
    calibrations = add_calibration(found) if "calibration" in metrics else {}
    if "separability" in metrics:
        results["separability"] = add_separability(found)
    if calibrations or figures:
        from deepclust.runs.evaluation_figures import draw_calibration, draw_figures

        draw_calibration(found, calibrations)
        draw_figures(found, figures, cache_dir=config["cache_dir"], seed=config["seed"])
    if "probe" in metrics:
        results["probe"] = add_probe(found, seed=config["seed"], progress=True, **config["probe"])
        if "multilabel" in metrics:
            add_probe_row(found, many, seed=config["seed"])
    if "overclustering" in metrics:
        results["overclustering"] = overclustering(found, config, trained_on)
    return results


def class_hierarchy(found: Any, config: dict[str, Any], asked: str) -> tuple[Any, list[str]]:
    """The hierarchy, and the classes of what is evaluated."""
    from deepclust.runs.evaluation import labels_of
    from deepclust.runs.settings import all_classes

    labels_of(found.dataset.train, asked)
    classes = all_classes(config)
    return classes.find_hierarchy(), list(found.dataset.train.class_names or classes.names)


def ancestors(found: Any, config: dict[str, Any]) -> dict[str, list[str]]:
    """{class: [its ancestors among the classes]}."""
    hierarchy, names = class_hierarchy(found, config, "label_sets=ancestors")
    return {name: [names[up] for up in above] for name, above in zip(names, hierarchy.classes_above(names))}


def levels(found: Any, config: dict[str, Any]) -> Any:
    """How much of the labels is explained at each level of the hierarchy."""
    from deepclust.report.figures import save_figure
    from deepclust.report.sweep_figures import sweep_figure
    from deepclust.runs.label_levels import add_levels

    over_depth = add_levels(found, *class_hierarchy(found, config, "metrics=[levels]"))
    found.written.extend(save_figure(sweep_figure(over_depth), found.folder / "evaluation" / "levels"))
    return over_depth


def overclustering(found: Any, config: dict[str, Any], trained_on: dict[str, Any]) -> Any:
    """The run again with other numbers of clusters; returns the sweep of NMI over them."""
    from deepclust.report.figures import save_figure
    from deepclust.report.sweep_figures import sweep_figure
    from deepclust.report.sweeps import Run, sweep
    from deepclust.runs.experiment import RunFolder
    from deepclust.runs.overclustering import default_counts, overcluster
    from deepclust.runtime.files import written_whole

    n_clusters = trained_on["n_clusters"] or trained_on["data"]["n_clusters"]
    trainer = {key: value for key, value in trained_on["trainer"].items() if key != "val_every_n_epochs"}
    mining = {key: value for key, value in trained_on["neighbors"].items() if key != "cache_dir"}

    def prepare(folder: RunFolder, count: int) -> None:
        with written_whole(folder.path / "config.yaml") as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create({**trained_on, "n_clusters": count})))

    results = overcluster(
        RunFolder(found.folder),
        found.dataset,
        config["counts"] or default_counts(n_clusters, len(found.dataset.train)),
        baselines=trained_on["baselines"],
        seed=trained_on["seed"],
        prepare=prepare,
        cache_dir=config["cache_dir"],
        mining=mining,
        progress=True,
        in_memory=trained_on["data"]["in_memory"],
        **{**trainer, "strategy": "auto", "devices": 1, "num_nodes": 1},
    )
    runs = [Run({**trained_on, "n_clusters": count}, result.rows, str(count)) for count, result in results.items()]
    nmi = sweep(runs, "n_clusters", "nmi")
    found.written.extend(save_figure(sweep_figure(nmi), found.folder / "evaluation" / "overclustering"))
    return nmi


def listed(names: Any) -> list[str]:
    """`metrics=[a,b]` or `metrics=a` as a list."""
    return [names] if isinstance(names, str) else list(names or [])


if __name__ == "__main__":
    main()
