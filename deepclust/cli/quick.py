"""Cluster a folder of images, or a matrix of embeddings, and write a page that shows what is in it.

deepclust photos/                                   the number of clusters is chosen
deepclust photos/ -k 20 --encoder dinov2_vitb14     20 clusters, of what a better encoder sees
deepclust embeddings.npy --texts sentences.txt      N × D matrix; the texts that its rows were made of
deepclust embeddings.parquet -k 20                  a table with embeddings; ids, texts and images of its rows are found

The last line is the path of the page. Everything else: deepclust train --help
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from deepclust.cli.arguments import Arguments, path
from deepclust.cli.own_data import LOSS
from deepclust.features.table_files import TABLES
from deepclust.runtime.errors import InputError, one_line_errors
from deepclust.runtime.settings import nearest

MATRICES = (".npy", ".npz", ".pt", ".safetensors", *TABLES)
PAGE = "report.html"  # comes last
BETTER_ENCODER, OFFLINE_ENCODER = "dinov2_vitb14", "efficientnet_lite0"
TRAINING = ("baselines=kmeans", "trainer.devices=1")


def main() -> None:
    with one_line_errors():
        options = read_options()
        config = settings_for(options)
        run_quick(config, options)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = Arguments("PATH", __doc__)
    parser.add_argument(
        "place",
        metavar="PATH",
        type=path,
        help="a folder of images, or a matrix or table of embeddings",
    )
    parser.add_argument("-k", dest="n_clusters", metavar="N", type=int, help="how many clusters; default: chosen")
    parser.add_argument("--encoder", help="of images; default: the best whose weights are at hand")
    parser.add_argument(
        "--labels", help="to compare with: `folders` (the sub-folders of images), or a file of N labels"
    )
    parser.add_argument("--texts", type=path, help="a file with a line per row of the embeddings")
    parser.add_argument("--out", type=path, help="folder to write; default: runs/<time>_<name>")
    options = parser.parse_args()
    if options.n_clusters is not None and options.n_clusters < 2:
        raise InputError(f"-k {options.n_clusters}: choose 2 clusters or more")
    if not options.place.exists():
        beside = [one.name for one in options.place.parent.iterdir()] if options.place.parent.is_dir() else []
        raise InputError(f"{options.place}: no such file or folder{nearest(options.place.name, beside)}")
    return options


def settings_for(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of `deepclust train` that the command line stands for."""
    from deepclust.cli.configure import composed, register_choices
    from deepclust.features.shards import MANIFEST

    register_choices()
    place = options.place
    ready = place.suffix.lower() in MATRICES or any((place / name / MANIFEST).is_file() for name in (".", "train"))
    if place.is_file() and not ready:
        raise InputError(f"{place} is no folder of images and no {', '.join(MATRICES)} file: convert it")
    if ready and options.encoder is not None:
        raise InputError(f"--encoder is for images, and {place} holds features already: leave it out")
    if ready:
        config = composed("train", [*TRAINING, f"loss={LOSS}", "data=features"])
        config["data"].update(train=str(place), train_labels=options.labels)
    else:
        if options.labels not in (None, "folders"):
            raise InputError("--labels of images is `folders`: their sub-folders; or leave it out")
        config = composed(
            "train", [*TRAINING, f"loss={LOSS}", "data=folder", f"encoder={options.encoder or encoder_at_hand()}"]
        )
        config["data"].update(path=str(place), labels=options.labels)
    config["n_clusters"] = options.n_clusters
    return config


def encoder_at_hand() -> str:
    """The better encoder if its weights are on this machine, else the one that comes in a package; says which."""
    from deepclust.extraction.backbones import weights_at_hand
    from deepclust.extraction.encoder_catalog import encoder_spec

    if weights_at_hand(encoder_spec(BETTER_ENCODER)):
        return BETTER_ENCODER
    better = f"--encoder {BETTER_ENCODER} sees more, and fetches its weights over the network"
    if not weights_at_hand(encoder_spec(OFFLINE_ENCODER)):
        raise InputError(f"no encoder is at hand: pip install 'deepclust[offline-encoder]'; or {better}")
    print(f"encoder: {OFFLINE_ENCODER}, which works offline; {better}", flush=True)
    return OFFLINE_ENCODER


def run_quick(config: dict[str, Any], options: argparse.Namespace) -> None:
    """Choose what nobody chose, train, and write the page."""
    from deepclust.cli.configure import composed
    from deepclust.features.texts import read_texts
    from deepclust.report.tables import report_console, results_table
    from deepclust.runs.config import read_experiment
    from deepclust.runs.cutting import read_exploration
    from deepclust.runs.folder import RunFolder
    from deepclust.runs.reporting import FinishedRun, write_report
    from deepclust.runs.source import DataSource
    from deepclust.training.termination import ended_by_sigterm
    from deepclust.training.trainer import leave_processes

    texts = None if options.texts is None else read_texts(options.texts)
    name = options.place.resolve().stem
    folder = RunFolder(options.out or Path("runs") / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{name}")
    resume = folder.config.is_file()  # of a command that was killed: the same one goes on
    if (folder.path / PAGE).is_file():
        raise InputError(f"--out {folder.path} holds a run already: choose another folder, or remove it")
    features = DataSource.of(config).load().check().train
    if texts is not None and len(texts) != len(features):
        raise InputError(f"--texts has {len(texts)} lines for {len(features)} rows: give one line per row")
    config["loss"] = composed("train", [*TRAINING, f"loss={LOSS}", "data=features"])["loss"]
    if config["n_clusters"] is None:
        config["n_clusters"] = "auto"
    experiment = read_experiment(config, folder if resume else None)
    experiment.check()
    try:
        with ended_by_sigterm(lambda: "start it again"):
            results = experiment.run(folder, resume=resume, progress=True)
    finally:
        leave_processes()
    if results is not None:
        report_console().print(results_table(results.rows, notes=results.notes))
    found = read_exploration(folder, experiment.recipes[0].loss.name)
    if found is not None:
        again = f"-k sets another number; deepclust evaluate run={folder.path} n_clusters=N merges these clusters."
        print(again, flush=True)
    page = write_report(FinishedRun.read(str(folder.path)), texts=texts)
    print(f"The page that shows what is in the clusters, to open in a browser:\n{page}")


if __name__ == "__main__":
    main()
