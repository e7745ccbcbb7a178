"""What the settings of a run name, without Hydra: plain dicts as in config.yaml."""

from __future__ import annotations

import pytest
import yaml

from deepclust.runs.settings import SHARED, all_classes, cache_folder, data_name, job_name, make_recipe, make_reduction

DIGITS = {"name": "digits", "batch_size": 64, "micro_batch_size": None, "n_clusters": 10, "encoder": None}


def settings(**given):
    return {**dict.fromkeys(SHARED), "data": DIGITS, "encoder": None, "features_dir": None, "seed": 3, **given}


def test_the_run_overrides_the_data_set_and_the_data_set_the_loss():
    loss = {"n_heads": 1, "max_epochs": 1, "n_neighbors": 1}
    sized = {**DIGITS, "recipe": {"max_epochs": 2, "n_neighbors": 2}}
    recipe = make_recipe("temi", loss, settings(data=sized, n_neighbors=4), n_clusters=10)
    assert (recipe.n_heads, recipe.max_epochs, recipe.n_neighbors) == (1, 2, 4)
    assert (recipe.batch_size, recipe.n_clusters, recipe.seed) == (64, 10, 3)


def test_a_reduction_has_the_seed_of_the_run_unless_it_has_its_own():
    assert make_reduction(settings(reduction={"kind": "pca", "dims": 4})).seed == 3
    assert make_reduction(settings(reduction={"kind": "pca", "dims": 4, "seed": 7})).seed == 7
    assert make_reduction({}).kind == "none"


def test_folders_are_named_after_data_and_benchmark():
    assert data_name(settings()) == "digits"
    assert data_name(settings(benchmark={"name": "odd"})) == "digits-odd"
    assert str(cache_folder(settings(features_dir="F"))) == "F/digits/neighbors"


def test_a_jobs_folder_has_a_name_that_file_systems_take_and_no_other_job_has(tmp_path):
    assert job_name("benchmark=odd,data.path=a/b", 3) == "benchmark=odd,data.path=a_b"
    assert job_name("", 3) == "3"
    one, other = (job_name(f"accuracies=ü{'é' * 200},seed={seed}", 0) for seed in (0, 1))
    assert one != other
    for name in (one, other):
        (tmp_path / name).mkdir()


@pytest.mark.parametrize("place", ["hierarchy", "benchmark"])
def test_a_hierarchy_is_of_all_classes_and_may_be_the_benchmarks(place, tmp_path):
    file = tmp_path / "tree.csv"
    file.write_text("".join(f"{digit},{'even' if digit % 2 == 0 else 'odd'}\n" for digit in range(10)))
    benchmark = yaml.safe_load(f"{{name: coarse_1, rule: coarse, depth: 1, hierarchy: {file}}}")
    given = {"hierarchy": str(file)} if place == "hierarchy" else {"benchmark": benchmark}
    classes = all_classes(settings(**given))
    assert len(classes) == 10
    assert set(classes.find_hierarchy().names) >= {"even", "odd", "9"}
