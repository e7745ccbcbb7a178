"""Score a finished run again, on its own splits or on other features, and measure what training does not.

python evaluate.py run=runs/…                                        the run's own data
python evaluate.py run=runs/… data=features data.train=X.npy         other features of the same encoder
python evaluate.py run=runs/… metrics=[multilabel,calibration,separability,probe,overclustering]
python evaluate.py run=runs/… figures=[consistency,neighbors,umap,confusion]
python evaluate.py -m run=runs/a,runs/b metrics=[separability,probe]   several runs; then summarize.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from deepclust.errors import InputError
from train import refused_without_a_trace


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    with refused_without_a_trace():
        if OmegaConf.is_missing(cfg, "run"):
            raise InputError("name the run to evaluate: run=<run folder>")
        evaluate(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]


def evaluate(config: dict[str, Any]) -> None:
    from deepclust.evaluation import check_names, evaluate_run
    from deepclust.experiment import RunFolder
    from deepclust.files import write_json
    from deepclust.report.evaluation_tables import evaluation_tables
    from deepclust.report.tables import report_console, results_table
    from train import load_data

    metrics, figures = listed(config["metrics"]), listed(config["figures"])
    check_names(metrics, figures)
    folder = RunFolder(Path(config["run"]).expanduser())
    if not folder.path.is_dir():
        raise InputError(f"run={config['run']}: no such folder")
    if not (folder.trained_methods() or folder.saved_methods()):
        raise InputError(f"{folder.path} holds no checkpoint (checkpoints/*.ckpt): name a run folder of train.py")
    own = config.get("data") is None
    trained_on = config_of(folder.path) if own or (folder.path / "config.yaml").is_file() else {}
    if own:
        # Everything that decides which rows and labels were trained on; a key that is not there changes nothing.
        inherited: dict[str, Any] = {
            key: trained_on[key] for key in ("data", "benchmark", "features_dir") if key in trained_on
        }
        given = {key: value for key, value in config.items() if value is not None}
        encoder = config.get("encoder") or trained_on.get("encoder")
        config = {**config, **inherited, **given, "encoder": encoder}
    elif "overclustering" in metrics:
        raise InputError("metrics=[overclustering] trains again on the run's own data: leave out data=")
    found = evaluate_run(folder, reduced(load_data(config), folder, trained_on, own), saved=own)
    config["cache_dir"] = config["cache_dir"] or trained_on.get("neighbors", {}).get("cache_dir")
    results = measure(found, metrics, figures, config, trained_on)
    write_json(folder.path / "evaluation.json", found.rows)
    found.written.insert(0, folder.path / "evaluation.json")
    console = report_console()
    console.print(results_table(found.rows, notes=found.notes))
    for part in evaluation_tables(found.rows, results):
        console.print(part, style="italic dim" if isinstance(part, str) else None)
    for path in found.written:
        if path.suffix != ".svg":
            console.print(f"written to {path}", soft_wrap=True)


def reduced(dataset: Any, folder: Any, trained_on: dict[str, Any], own: bool) -> Any:
    """The splits in the space that the run clustered, which was fitted to its own training split."""
    from deepclust.reduced_splits import reduced_dataset
    from train import cache_folder, load_data, make_reduction, reductions_folder

    reduction = make_reduction(trained_on)
    if reduction.kind == "none":
        return dataset
    mining = dict(trained_on["neighbors"])
    return reduced_dataset(
        reduction,
        dataset,
        fitted_on=None if own else load_data(trained_on).train,
        neighbors_dir=mining.pop("cache_dir") or cache_folder(trained_on),
        mining=mining,
        cache_dir=reductions_folder(trained_on),
        record=folder.reduction,
    )


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
    from deepclust.evaluation import add_calibration, add_multilabel, add_probe, add_separability

    results: dict[str, Any] = {}
    if "multilabel" in metrics:
        add_multilabel(found, config["label_sets"], n_draws=config["n_draws"], seed=config["seed"])
    calibrations = add_calibration(found) if "calibration" in metrics else {}
    if "separability" in metrics:
        results["separability"] = add_separability(found)
    if calibrations or figures:
        from deepclust.report.evaluation_figures import draw_calibration, draw_figures

        draw_calibration(found, calibrations)
        draw_figures(found, figures, cache_dir=config["cache_dir"], seed=config["seed"])
    if "probe" in metrics:
        results["probe"] = add_probe(found, seed=config["seed"], progress=True, **config["probe"])
    if "overclustering" in metrics:
        results["overclustering"] = overclustering(found, config, trained_on)
    return results


def overclustering(found: Any, config: dict[str, Any], trained_on: dict[str, Any]) -> Any:
    """The run again with other numbers of clusters; returns the sweep of NMI over them."""
    from deepclust.experiment import RunFolder
    from deepclust.files import written_whole
    from deepclust.overclustering import default_counts, overcluster
    from deepclust.report.figures import save_figure
    from deepclust.report.sweep_figures import sweep_figure
    from deepclust.report.sweeps import Run, sweep

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
