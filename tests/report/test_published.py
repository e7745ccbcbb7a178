"""The papers' figures as files, and a run's beside them."""

from __future__ import annotations

import csv

import pytest

from deepclust.clusterers import CLUSTERERS
from deepclust.extraction.datasets import DATASETS
from deepclust.extraction.encoder_catalog import ENCODERS
from deepclust.losses import LOSSES
from deepclust.report.published import (
    FOLDER,
    PAPERS,
    beside_published,
    comparison_cells,
    published,
    published_notes,
    published_rows,
)
from deepclust.report.sweeps import Run
from deepclust.report.zero_shot_tables import published_table
from deepclust.subsets.benchmarks import BENCHMARKS
from deepclust.subsets.counts import PAPER_COUNTS


def run(method="temi", data="imagenet", encoder="mae_refined_vith14", benchmark=None, split="test", **row) -> Run:
    config = {
        "data": {"name": data, "encoder": None},
        "encoder": {"name": encoder},
        "benchmark": benchmark and {"name": benchmark},
        "loss": {method: {"n_neighbors": 20}},
    }
    return Run(config, [{"method": method, "split": split, **row}], "run")


@pytest.mark.parametrize(
    ("paper", "tables"),
    [
        # Figures in each table: rows × columns, less those that the paper leaves out.
        ("zhou2022", {"1": 13 * 9 - 3 * 2, "2": 18}),
        ("lowe2023", {"1": 30, "2a": 243, "2b": 245, "3a": 143, "3b": 145, "4": 293, "5": 295, "6a": 20, "6b": 10}),
        ("lowe2024", {"data sets": 26 * 3, "kNN and AMI": 60}),
        ("adaloglou2024", {"1": 24, "2": 36, "3": 36, "4": 32, "5": 84}),
    ],
)
def test_every_table_is_there_whole(paper, tables):
    found = [one.table for one in published(paper) if not one.table.startswith("section")]
    assert {table: found.count(table) for table in dict.fromkeys(found)} == tables


# Read off the papers, one or two of every table.
@pytest.mark.parametrize(
    ("paper", "table", "method", "encoder", "data", "metric", "value"),
    [
        ("zhou2022", "1", "tsp", "dino_vitb16", "cifar20", "acc", 55.6),
        ("zhou2022", "1", "iic", "own training", "stl10", "acc", 61),
        ("lowe2023", "2a", "affinity_propagation", "supervised_resnet50", "imagenet", "ami", 69),
        ("lowe2023", "2b", "agglomerative", "mocov3_vitb16", "fashion_mnist", "ami", 73),
        ("lowe2023", "3b", "hdbscan", "mae_vitb16", "imagenet", "n_found", 133),
        ("lowe2023", "4", "classes", "mocov3_resnet50", "mnist", "silhouette", 0.78),
        ("lowe2023", "5", "hdbscan", "dino_vitb16", "inaturalist2021", "silhouette", -0.38),
        ("lowe2023", "6a", "", "ViT-B", "nabirds", "ami_silhouette_r", 0.57),
        ("lowe2024", "kNN and AMI", "agglomerative", "ViT-B", "", "ami_knn_rho_200", 36),
        ("lowe2024", "data sets", "", "", "bioscan1m", "imbalance", 782.5),
        ("adaloglou2024", "1", "scan", "mae_refined_vith14", "imagenet", "acc", 69.79),
        ("adaloglou2024", "4", "linear_probe", "ibot_vitl16", "imagenet21k", "top5_to_L", 79.8),
    ],
)
def test_figures_are_those_of_the_papers(paper, table, method, encoder, data, metric, value):
    named = (table, method, encoder, data, metric)
    values = [
        one.value for one in published(paper) if (one.table, one.method, one.encoder, one.data, one.metric) == named
    ]
    assert value in values


def test_what_has_a_name_here_has_this_name():
    here = {*CLUSTERERS, *LOSSES, "linear_probe", "classes"}
    for paper in ("lowe2023", "adaloglou2024"):
        for one in published(paper):
            assert one.method in {*here, "clip_zero_shot", ""}
            assert one.encoder in {*ENCODERS, "", "ResNet-50", "ViT-B"}
            assert one.data in {*DATASETS, "nabirds", ""}
            assert one.benchmark in {*BENCHMARKS, ""}
    classes = {
        one.benchmark: one.value
        for one in published("adaloglou2024")
        if (one.data, one.metric) == ("imagenet21k", "n_classes")
    }
    for benchmark, count in classes.items():
        assert count == PAPER_COUNTS[benchmark][0]
    for name in PAPERS:
        with open(FOLDER / f"{name}.csv", encoding="utf-8", newline="") as stream:
            assert len({tuple(line) for line in csv.reader(stream)}) == len(published(name)) + 1  # none is there twice


def test_a_run_of_the_papers_method_data_and_encoder_is_compared_without_a_reservation():
    runs = [run(acc=0.66, seed=seed) for seed in (0, 1)] + [run(acc=0.68, seed=2)]
    (one,), notes = beside_published(runs)
    assert (one.figure.value, one.figure.table, one.n_seeds, one.but) == (66.4, "1", 3, ())
    assert one.run == pytest.approx(66.666667)
    assert one.difference == pytest.approx(0.8 / 3)
    assert notes == []
    header, cells, reservations = comparison_cells([one])
    assert dict(zip(header, cells[0])) == {
        "Method": "ImageNet-1K", "Data": "imagenet", "Encoder": "mae_refined_vith14",
        "Metric": "acc", "Here": "66.7", "Published": "66.4",
        "Difference": "+0.3", "Where": "Adaloglou et al. 2024, table 1", "But": "",
    }  # fmt: skip
    assert reservations == []


def test_under_the_results_of_a_run_stand_the_published_accuracies_of_its_very_method_data_and_encoder():
    assert published_notes(run(acc=0.66)) == [
        "Published, Adaloglou et al. 2024, table 1: ImageNet-1K, accuracy 66.4 %, -0.4 here."
    ]
    assert published_notes(run(acc=0.66, encoder="dino_vitb16")) == []
    assert published_notes(run(acc=None)) == []
    assert published_notes(Run({}, [{"method": "temi", "split": "test", "acc": 0.5}], "made without settings")) == []


def test_another_encoder_another_benchmark_and_another_split_are_said():
    (odd,), _ = beside_published([run(benchmark="odd", acc=0.6, encoder="dino_vitb16")])
    assert (odd.figure.value, odd.but) == (62.82, ("the features here are of dino_vitb16",))
    (train,), _ = beside_published([run(split="train", acc=0.6)])
    assert train.but == ("the split that was clustered, published is the test split",)
    (kmeans,), _ = beside_published([run("kmeans", acc=0.6)])
    assert (kmeans.figure.value, kmeans.but) == (62.72, ("the best of several starts, published is the mean of three",))
    assert beside_published([run("kmeans_paper", acc=0.6)])[0][0].but == ()
    nothing, notes = beside_published([run(data="digits", acc=0.9)])
    assert nothing == []
    assert notes == ["TEMI on data=digits, benchmark=all is in no table."]


def test_where_a_table_varies_the_neighbors_the_runs_own_count():
    found, _ = beside_published([run("tsp", "cifar10", "dino_vits16", acc=0.9)])
    assert [(one.figure.table, one.figure.value, one.figure.spread) for one in found] == [
        ("1", 92.1, 0.8),
        ("2", 92.11, 0.88),
    ]


def test_cells_of_the_protocol_stand_beside_the_papers():
    cell = {"dataset": "fashion", "encoder": "dino_vitb16", "clusterer": "kmeans", "ami": 0.7, "n_samples": 2000}
    titles = ({"fashion": "Fashion"}, {"dino_vitb16": "DINO"}, {"kmeans": "k-means"})
    (table,) = published_table([cell], {"fashion": "fashion_mnist"}, *titles)
    assert table.lines == [["Fashion", "DINO", "k-means", "70.0", "69", "+1.0"]]
    assert table.notes == ["Fashion: 2000 of the 10000 images that the paper clusters."]
    assert published_table([cell], {"fashion": "digits"}, *titles) == []
    assert published_rows("eurosat") == 4050


def test_the_command_prints_the_comparison(command, tmp_path):
    import json

    import yaml

    folder = tmp_path / "run"
    folder.mkdir()
    one = run(acc=0.664)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(one.config)))
    (folder / "results.json").write_text(json.dumps(list(one.rows)))
    done = command("summarize", folder, "--published", "--markdown", tmp_path / "table.md")
    assert done.code == 0, done.err
    assert "66.4" in done.out
    assert "Adaloglou et al. 2024, table 1" in (tmp_path / "table.md").read_text()
    (folder / "results.json").write_text(json.dumps([{**one.rows[0], "acc": None}]))
    assert "nothing is published of these runs" in command("summarize", folder, "--published").error_line
