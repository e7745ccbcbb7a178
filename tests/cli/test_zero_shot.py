"""`deepclust zero-shot` as a user meets it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from deepclust.cli.configure import composed
from deepclust.extraction.dataset_facts import DATASETS
from deepclust.extraction.encoder_catalog import ENCODERS
from deepclust.features.feature_set import FeatureSet
from deepclust.report.published import published
from deepclust.zero_shot import data_specs

FEW = (
    "search.umap_dims=[]", "search.pca_dims=[10]", "search.pca_variances=[]", "search.linkages=[ward,average]",
    "search.metrics=[euclidean]", "search.thresholds=[1,2,5]", "search.dampings=[0.9]",
    "data.digits_first.rows=150", "data.digits_second.rows=150", "test=[digits_second]", "folder=run",
)  # fmt: skip


def test_all_stages_in_one_command_and_again_from_what_is_there(command, tmp_path):
    outcome = command("zero-shot", *FEW)
    assert (outcome.code, outcome.err) == (0, "")
    assert "7 of 7 cells have a result" in outcome.out
    run = tmp_path / "run"
    chosen = json.loads((run / "chosen" / "raw.json").read_text())["clusterers"]
    assert set(chosen) == {
        "kmeans", "spectral", "agglomerative", "agglomerative_threshold", "affinity_propagation", "hdbscan",
    }  # fmt: skip
    table = (run / "report" / "ami.md").read_text()
    assert (run / "report" / "datasets.md").read_text().splitlines()[2].startswith("| Digits 2 | 150 | 10 | 1.")
    assert "| AC w/o C | Raw pixels |" in table
    before = {path: path.stat().st_mtime_ns for path in (run / "cells").iterdir()}
    shutil.rmtree(run / "report")
    shutil.rmtree(run / "chosen")
    again = command("zero-shot", *FEW)
    assert again.code == 0
    assert {path: path.stat().st_mtime_ns for path in (run / "cells").iterdir()} == before
    assert (run / "report" / "ami.md").read_text() == table
    assert command("zero-shot", *FEW, "stage=report", "clusterers=[kmeans]").code == 0
    assert "AC" not in (run / "report" / "ami.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stage=serch",), "stage=serch is unknown"),
        (("tuning=[imagenette]",), "tuning: there is no data set 'imagenette'"),
        (("test=[imagenette]",), "test: there is no data set 'imagenette'"),
        (("clusterers=[kmean]",), "clusterers: 'kmean' is unknown"),
        (("encoders=[]",), "encoders is empty"),
        (("encoders=[dino_vitb16]",), "no features of digits by dino_vitb16"),
        (("stage=apply",), "search them with stage=search"),
        (("stage=report",), "make them with stage=apply"),
        (("+search.sets.kmeans=[gone]",), "search.sets: there is no data set 'gone'"),
        (("+search.sets.kmean=[digits_first]",), "'kmean' is unknown"),
        (("data.digits_first.range=[5,99999]",), "but there are 1797 rows"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, arguments, message):
    outcome = command("zero-shot", *FEW, *arguments)
    assert outcome.code == 2
    assert message in outcome.error_line


def test_the_small_experiment_is_a_matrix_of_known_data_sets(command):
    outcome = command("zero-shot", "experiment=zero_shot_small", "stage=report")
    assert outcome.code == 2
    assert "runs/zero_shot_small/results holds no cell of this matrix" in outcome.error_line


def test_the_papers_matrix_is_ten_encoders_on_ten_data_sets_tuned_on_three():
    settings = composed("zero_shot", ["experiment=zero_shot_paper"])
    assert (len(settings["encoders"]), len(settings["test"]), len(settings["tuning"])) == (10, 10, 3)
    assert set(settings["encoders"]) < set(ENCODERS)
    data = data_specs(settings["data"])
    named = {data[name].name for name in settings["test"]}
    assert named == {one.data for one in published("lowe2023") if one.metric == "n_samples"}
    # Appendix C.2: as many as the test splits have, with the classes' shares.
    assert [(data[name].split, data[name].rows) for name in settings["tuning"]] == [
        ("train", DATASETS[name].n_test) for name in ("imagenet", "imagenette", "imagewoof")
    ]
    # The talk's data sets are at hand, those of one split too.
    talk = {one.data: one.row for one in published("lowe2024") if one.metric == "n_samples"}
    judged = {spec.name: spec for key, spec in data.items() if key == spec.name}
    assert set(talk) == set(judged)
    for name, spec in judged.items():
        # `ImageNet-R (Domain-shift)`
        assert str(spec.domain).replace("_", "-") in talk[name].lower()
        assert (spec.split == "test") == (DATASETS[name].n_test is not None)


def test_the_papers_matrix_is_refused_by_the_first_features_that_are_missing(command, tmp_path):
    for data in ("imagenet", "imagenette", "imagewoof"):
        made = {"transform": {"image_size": 224, "crop_pct": 1.0, "interpolation": "bilinear"}}
        features = FeatureSet.from_arrays(np.eye(6, dtype=np.float32), np.arange(6), manifest=made)
        for split in ("train", "test"):
            features.save(tmp_path / "f" / data / "supervised_resnet50" / split)
    outcome = command("zero-shot", "experiment=zero_shot_paper", "features_dir=f", "encoders=[supervised_resnet50]")
    assert outcome.code == 2
    assert "no features of cifar10 by supervised_resnet50" in outcome.error_line
    cut = "encoder.image_size=224 encoder.crop_pct=1.0 encoder.interpolation=bilinear"
    assert f"`deepclust extract data=cifar10 encoder=supervised_resnet50 {cut}`" in outcome.error_line
    assert not (tmp_path / "runs" / "zero_shot_paper" / "cells").exists()


def test_finished_cells_are_kept_when_a_later_stage_is_refused(command, tmp_path):
    outcome = command("zero-shot", *FEW, "clusterers=[kmeans]", "test=[]")
    assert outcome.code == 2
    assert "test is empty" in outcome.error_line
    assert len(list((tmp_path / "run" / "cells").glob("*.npz"))) == 2


def test_a_sweep_over_encoders_or_data_sets_fills_one_matrix(command, tmp_path):
    few = [argument for argument in FEW if not argument.startswith("test=")]
    assert command("zero-shot", *few, "stage=search", "clusterers=[kmeans]").code == 0
    tests = "test=[digits_first],[digits_second]"
    assert command("zero-shot", "-m", *few, "stage=apply", "clusterers=[kmeans]", tests).code == 0
    both = "test=[digits_first,digits_second]"
    assert command("zero-shot", *few, "stage=report", "clusterers=[kmeans]", both).code == 0
    table = (tmp_path / "run" / "report" / "ami.md").read_text()
    assert "| Digits 1* | Digits 2 |" in table
    assert "–" not in table
