"""What `deepclust evaluate` measures: from its settings to the measurements of `runs/evaluation.py` and beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from deepclust.clustering import Clustering
from deepclust.features.feature_set import FeatureSet
from deepclust.report.figures import save_figure
from deepclust.report.sweep_figures import sweep_figure
from deepclust.report.sweeps import Run, Sweep, sweep
from deepclust.runs.config import cache_folders, read_experiment, read_mining, reduced_as_trained
from deepclust.runs.cutting import Recut, answers_about
from deepclust.runs.evaluation import (
    Evaluation,
    add_calibration,
    add_probe,
    add_separability,
    evaluate_run,
    labels_of,
)
from deepclust.runs.evaluation_figures import draw_calibration, draw_figures
from deepclust.runs.folder import RunFolder
from deepclust.runs.label_levels import add_levels
from deepclust.runs.many_labels import ManyLabels, add_multilabel, add_probe_row
from deepclust.runs.overclustering import default_counts, overcluster
from deepclust.runs.source import CLASS_OPTIONS, DataSource, with_its_encoder
from deepclust.runs.steps import show_images, write_tables
from deepclust.runtime.errors import InputError
from deepclust.runtime.files import fingerprint
from deepclust.subsets.hierarchy import Hierarchy
from deepclust.subsets.selectors import Classes
from deepclust.training.trainer_settings import TrainerSettings

Settings = dict[str, Any]


def finished_run(config: Settings, metrics: list[str]) -> tuple[Evaluation, Settings, Settings]:
    """A run scored again, the settings with what they inherit from it, and what the run was asked for.

    Raises:
        InputError: if there is no run, or the data do not suit it.
    """
    folder = RunFolder(Path(config["run"]).expanduser())
    if not folder.path.is_dir():
        raise InputError(f"run={config['run']}: no such folder")
    if not (folder.trained_methods() or folder.saved_methods()):
        raise InputError(
            f"{folder.path} holds no checkpoint (checkpoints/*.ckpt): name a run folder of `deepclust train`"
        )
    named = config.get("data") is not None
    trained_on = folder.read_config() if not named or folder.config.is_file() else {}
    if not named:
        # Everything that decides which rows and labels were trained on; a key that is not there changes nothing.
        inherited: Settings = {
            key: trained_on[key] for key in ("data", "benchmark", "features_dir") if key in trained_on
        }
        given = {key: value for key, value in config.items() if value is not None}
        encoder = config.get("encoder") or trained_on.get("encoder")
        config = {**config, **inherited, **given, "encoder": encoder}
    what = {key: config.get(key) for key in ("data", "benchmark", "encoder")}
    before = with_its_encoder(trained_on)  # earlier versions noted down that of the data set
    own = all(value == before.get(key) for key, value in with_its_encoder(what).items())
    if not own and "overclustering" in metrics:
        raise InputError("metrics=[overclustering] trains again on the run's own data: leave out data= and benchmark=")
    source = DataSource.of(config)
    loaded = source.load_of(folder) if own else source.load()
    dataset = reduced_as_trained(loaded, trained_on, record=folder.reduction, own=own)
    recut = asked_cut(config, folder, trained_on, dataset.train, own=own)
    evaluation = evaluate_run(
        folder,
        dataset,
        saved=own,
        silhouette=trained_on.get("silhouette", True),
        raw=config["confidence"] == "raw",
        recut=recut,
    )
    if recut is not None:
        evaluation.folder = recut.out.path
        found = {row["method"]: Clustering.load(recut.out.clustering(row["method"])) for row in evaluation.rows}
        write_tables(recut.out, {"train": dataset.train}, {"train": found}, None)
        show_images(recut.out, dataset.train, found)
    if not own:
        # Rows of other data are no further columns of the run's own.
        evaluation.folder = folder.path / "other_data" / f"{DataSource.of(config).name}-{fingerprint(what)[:8]}"
    config["cache_dir"] = config["cache_dir"] or trained_on.get("neighbors", {}).get("cache_dir")
    return evaluation, config, trained_on


def asked_cut(
    config: Settings, folder: RunFolder, trained_on: Settings, train: FeatureSet, *, own: bool
) -> Recut | None:
    """The other cut that `n_clusters=` or `constraints=` asks for, or None.

    Raises:
        InputError: if the data are not the run's own, or the constraints cannot be used.
    """
    asked, file = config["n_clusters"], config["constraints"]
    if asked is None and file is None:
        return None
    if not own:
        raise InputError("n_clusters= and constraints= cut the run on its own data: leave out data= and benchmark=")
    if isinstance(asked, int) and file is not None:
        raise InputError(f"constraints choose the number of clusters: leave out n_clusters={asked}")
    return Recut(
        folder,
        train,
        "auto" if asked is None else asked,
        answers_about(file, train),
        cache_folders(trained_on)[0],
        read_mining(trained_on),
    )


def features_alone(config: Settings, path: Path) -> Evaluation:
    """Features that nothing was clustered of yet, in a folder of their own.

    Raises:
        InputError: if the folder holds a run, or the evaluation of other features.
    """
    dataset = DataSource.of(config).load()
    folder = RunFolder(path)
    if folder.config.is_file():
        there = folder.read_config()
        if "metrics" not in there:
            raise InputError(f"run_dir={path} holds a run: evaluate it by run={path}, or choose another run_dir")
        if any(there.get(key) != config.get(key) for key in ("data", "benchmark", "encoder")):
            raise InputError(f"run_dir={path} holds the evaluation of other features: choose another run_dir")
    folder.write_config(config)
    return Evaluation(path, dataset, {}, [])


def measure(
    evaluation: Evaluation, metrics: list[str], figures: list[str], config: Settings, trained_on: Settings
) -> dict[str, Any]:
    """Run what was asked for, cheap things first; returns what the tables need beside the rows."""
    results: dict[str, Any] = {}
    if "multilabel" in metrics:
        many = ManyLabels.from_settings(
            config["label_sets"],
            n_draws=config["n_draws"],
            seed=config["seed"],
            ancestors=lambda: ancestors(evaluation, config),
            class_names=(lambda: classes_of_all(config).names) if config.get("benchmark") else None,
        )
        add_multilabel(evaluation, many)
    if "levels" in metrics:
        results["levels"] = levels(evaluation, config)
    calibrations = add_calibration(evaluation) if "calibration" in metrics else {}
    if "separability" in metrics:
        results["separability"] = add_separability(evaluation)
    if calibrations or figures:
        draw_calibration(evaluation, calibrations)
        draw_figures(evaluation, figures, cache_dir=config["cache_dir"], seed=config["seed"])
    if "probe" in metrics:
        results["probe"] = add_probe(evaluation, seed=config["seed"], progress=True, **config["probe"])
        if "multilabel" in metrics:
            add_probe_row(evaluation, many, seed=config["seed"])
    if "overclustering" in metrics:
        results["overclustering"] = overclustering(evaluation, config, trained_on)
    return results


def classes_of_all(config: Settings) -> Classes:
    """The classes of the whole data set, with the hierarchy that was asked for."""
    return DataSource.of(config).all_classes(**{key: config.get(key) for key in CLASS_OPTIONS})


def class_hierarchy(evaluation: Evaluation, config: Settings, asked: str) -> tuple[Hierarchy, list[str]]:
    """The hierarchy, and the classes of what is evaluated."""
    labels_of(evaluation.dataset.train, asked)
    classes = classes_of_all(config)
    return classes.find_hierarchy(), list(evaluation.dataset.train.class_names or classes.names)


def ancestors(evaluation: Evaluation, config: Settings) -> dict[str, list[str]]:
    """{class: [its ancestors among the classes]}."""
    hierarchy, names = class_hierarchy(evaluation, config, "label_sets=ancestors")
    return {name: [names[up] for up in above] for name, above in zip(names, hierarchy.classes_above(names))}


def levels(evaluation: Evaluation, config: Settings) -> Sweep:
    """How much of the labels is explained at each level of the hierarchy."""
    over_depth = add_levels(evaluation, *class_hierarchy(evaluation, config, "metrics=[levels]"))
    evaluation.written.extend(save_figure(sweep_figure(over_depth), evaluation.folder / "evaluation" / "levels"))
    return over_depth


def overclustering(evaluation: Evaluation, config: Settings, trained_on: Settings) -> Sweep:
    """The run again with other numbers of clusters; returns the sweep of NMI over them.

    Raises:
        InputError: if there are no labels to take NMI with.
    """
    labels_of(evaluation.dataset.train, "metrics=[overclustering]")
    n_clusters = trained_on["n_clusters"] or trained_on["data"]["n_clusters"]
    if not isinstance(n_clusters, int):  # what it found
        n_clusters = evaluation.rows[0]["n_clusters"]
    trained_on = {**trained_on, "n_clusters": n_clusters, "constraints": None}
    counts = config["counts"] or default_counts(n_clusters, len(evaluation.dataset.train))
    as_run = replace(
        # The heads' recipes are those of the checkpoints, so the losses' settings need not be read.
        read_experiment({**trained_on, "loss": {}}, RunFolder(Path(config["run"]).expanduser())),
        notes=(),
        trainer=TrainerSettings.of({**trained_on["trainer"], "strategy": "auto", "devices": 1, "num_nodes": 1}),
        neighbors_dir=config["cache_dir"],
    )
    results = overcluster(RunFolder(evaluation.folder), as_run, counts, trained_on)
    runs = [Run({**trained_on, "n_clusters": count}, result.rows, str(count)) for count, result in results.items()]
    nmi = sweep(runs, "n_clusters", "nmi")
    evaluation.written.extend(save_figure(sweep_figure(nmi), evaluation.folder / "evaluation" / "overclustering"))
    return nmi
