"""Train clustering heads on frozen features and score them beside classical clustering.

python train.py                                              digits, every loss, every default baseline
python train.py loss=temi data=fashion_mnist init=kmeans     one loss, another data set
python train.py data=features data.train=X.npy n_clusters=100
python train.py loss=none baselines=all reduction=umap       every clusterer, in a reduced space
python train.py baselines=all select=silhouette              and which of all to take, without labels
python train.py data=fashion_mnist benchmark=odd             one of the benchmarks of docs/imagenet21k.md
python train.py -m loss=temi,scan,tsp seed=0,1,2             a sweep
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from deepclust.runtime.errors import InputError, one_line_errors

RUN_DIR_VARIABLE = "DEEPCLUST_RUN_DIR"


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    with refused_without_a_trace():
        run(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]


@contextmanager
def refused_without_a_trace() -> Iterator[None]:
    """`one_line_errors`; and what Hydra noted down of a sweep goes where its first job is refused, which ends it."""
    try:
        with one_line_errors():
            yield
    except SystemExit:
        hydra_config = HydraConfig.get()
        in_series = hydra_config.runtime.choices["hydra/launcher"] == "basic"
        if hydra_config.mode == RunMode.MULTIRUN and in_series and hydra_config.job.num == 0:
            folder = Path(hydra_config.sweep.dir)
            (folder / "multirun.yaml").unlink(missing_ok=True)
            with suppress(OSError):  # there is more in it
                folder.rmdir()
        raise


def run(config: dict[str, Any]) -> None:
    # Imported here: `--help` and a mistyped option answer at once.
    from deepclust.reduction.splits import reduced_dataset
    from deepclust.report.tables import report_console, results_table
    from deepclust.runs.experiment import RunFolder, check_inputs, is_rank_zero, run_experiment
    from deepclust.runs.settings import (
        cache_folder,
        known_classes,
        load_data,
        make_recipe,
        make_reduction,
        reductions_folder,
        select_reductions,
        without_c,
    )
    from deepclust.runtime.files import written_whole
    from deepclust.training.loggers import make_logger

    trainer = dict(config["trainer"])
    val_every_n_epochs = trainer.pop("val_every_n_epochs")
    refuse_ranks_in_a_sweep(trainer)
    path, resume = run_folder(config)
    folder = RunFolder(path)
    if resume and config["resume"] is None and folder.results.is_file():  # a job of a sweep that is run again
        print(f"{path} is finished already: {folder.results}")
        return
    dataset = load_data(config)
    n_clusters: Any = config["n_clusters"] if config["n_clusters"] is not None else known_classes(config, dataset)
    select = config["select"]
    if n_clusters is None and config["loss"]:
        raise InputError(f"data={config['data']['name']} has no known number of clusters: set n_clusters=")
    recipes = [make_recipe(name, settings, config, n_clusters) for name, settings in config["loss"].items()]
    baselines = config["baselines"] if n_clusters is not None else without_c(config["baselines"], select)
    reduction = make_reduction(config)
    others = select_reductions(config, len(dataset.train)) if select["by"] is not None else []
    mining = dict(config["neighbors"])
    cache_dir = mining.pop("cache_dir") or cache_folder(config)
    check_inputs(
        dataset,
        recipes,
        baselines=baselines,
        n_clusters=n_clusters,
        trainer=trainer,
        mining=mining,
        reduction=reduction,
    )
    logger_options = dict(config["logger"])
    logger = make_logger(logger_options.pop("name"), folder.path, **logger_options)
    if is_rank_zero() and not resume:
        with written_whole(folder.path / "config.yaml") as temporary:
            temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    if logger:
        logger.log_hyperparams(config)
    unreduced = dataset
    dataset = reduced_dataset(
        reduction,
        dataset,
        mining=mining,
        cache_dir=reductions_folder(config),
        neighbors_dir=cache_dir,
        record=folder.reduction if is_rank_zero() else None,
    )
    try:
        results = run_experiment(
            dataset,
            recipes,
            folder,
            baselines=baselines,
            n_clusters=n_clusters,
            seed=config["seed"],
            resume=resume,
            logger=logger,
            val_every_n_epochs=val_every_n_epochs,
            cache_dir=cache_dir,
            mining=mining,
            progress=True,
            in_memory=config["data"]["in_memory"],
            silhouette=config["silhouette"],
            **trainer,
        )
    finally:
        if logger_options and config["logger"]["name"] == "wandb":
            import wandb

            # Without this the next job of a sweep would continue this run.
            wandb.finish()
    if results is not None:
        if select["by"] is not None:
            select_among(results, dataset, unreduced, config, others, n_clusters, folder)
        console = report_console()
        console.print(results_table(results.rows, notes=results.notes))
        console.print(f"run folder: {folder.path}", soft_wrap=True, markup=False)


def refuse_ranks_in_a_sweep(trainer: dict[str, Any]) -> None:
    """Raises InputError where the jobs of a sweep would train over several processes."""
    from deepclust.training.fit import n_processes

    if HydraConfig.get().mode == RunMode.MULTIRUN and (trainer["strategy"] == "ddp" or n_processes(**trainer) > 1):
        raise InputError(
            f"a sweep (-m) cannot train with strategy={trainer['strategy']} on devices={trainer['devices']}, as every "
            "rank would start the sweep again: run the sweep on one device per job, or start the runs one by one"
        )


def select_among(
    results: Any,
    reduced: Any,
    unreduced: Any,
    config: dict[str, Any],
    others: list[Any],
    n_clusters: int | None,
    run: Any,
) -> None:
    """Choose by silhouette among the run's clusterings and the further ones that select= names; note it down."""
    from deepclust.report.tables import write_results
    from deepclust.runs.choosing import select_in_run
    from deepclust.runs.settings import make_reduction, reductions_folder

    selection = select_in_run(
        run,
        reduced,
        unreduced,
        reduction=make_reduction(config),
        others=others,
        methods=[row["method"] for row in results.rows if row["split"] == "train"],
        baselines=config["baselines"],
        n_clusters=config["select"]["n_clusters"] or [n_clusters],
        seed=config["seed"],
        cache_dir=reductions_folder(config),
    )
    results.notes.append(selection.note)
    write_results(run.path, results.rows, results.notes)


def run_folder(config: dict[str, Any]) -> tuple[Path, bool]:
    """The run's folder, and whether it continues a run that is there already.

    The folder is the same on every rank: the first process names it, its children inherit the name. Where torchrun or
    srun starts every rank, none inherits: the name is given, or is that of the SLURM job. A job of a sweep whose folder
    exists is continued, so that a killed sweep is resumed by the same command.
    """
    from deepclust.runs.settings import data_name, job_name

    if config["resume"] is not None:
        return resumed_folder(config["resume"]), True
    if RUN_DIR_VARIABLE in os.environ and "LOCAL_RANK" in os.environ:
        return Path(os.environ[RUN_DIR_VARIABLE]), False
    job = HydraConfig.get().job
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    methods = "-".join([*config["loss"], *([] if config["loss"] else config["baselines"])])
    rank = launched_rank()
    moment = time.strftime("%Y-%m-%d_%H-%M-%S")
    if rank is not None and config["run_dir"] is None:
        if "SLURM_JOB_ID" not in os.environ:
            raise InputError("ranks that torchrun starts cannot agree on a name for the run folder: set run_dir=")
        moment = f"slurm-{os.environ['SLURM_JOB_ID']}"
    name = f"{moment}_{data_name(config)}_{methods}"
    if config["run_dir"] is not None:
        path = Path(config["run_dir"]).expanduser()
        if sweep:
            path = path / job_name(job.override_dirname, job.num)
    else:
        path = Path("runs") / (f"{name}_{job.num}" if sweep else name)
    if (path / "config.yaml").exists() and not rank:  # rank 0 of this very run may have written it already
        if sweep:
            return path, True
        raise InputError(f"{path} holds a run already: continue it with resume={path}, or choose another run_dir")
    os.environ[RUN_DIR_VARIABLE] = str(path.resolve())
    return path, False


def launched_rank() -> int | None:
    """This process's rank where torchrun or srun started every rank; None where it is the first, or the only one."""
    for size, rank in (("WORLD_SIZE", "RANK"), ("SLURM_NTASKS", "SLURM_PROCID")):
        if int(os.environ.get(size, 1)) > 1 and rank in os.environ:
            return int(os.environ[rank])
    return None


def resumed_folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not (folder / "config.yaml").is_file():
        raise InputError(f"resume={path}: no run there (config.yaml is missing): name a run folder of train.py")
    return folder


if __name__ == "__main__":
    main()
