"""What the settings of a run name, without Hydra: plain dicts as in config.yaml."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.cli.configure import composed
from deepclust.cli.run_folder import job_name
from deepclust.runs.config import cache_folders, read_experiment, read_reduction, with_neighbors_there
from deepclust.runs.source import DataSource
from deepclust.runtime.errors import InputError


def settings(*words):
    return composed("train", words)


def test_the_settings_of_a_run_make_its_experiment():
    experiment = read_experiment(
        settings("loss=[temi,tsp]", "n_heads=3", "seed=5", "baselines=kmeans", "neighbors.method=exact")
    )
    assert [(recipe.loss.name, recipe.n_heads, recipe.seed) for recipe in experiment.recipes] == [
        ("temi", 3, 5),
        ("tsp", 3, 5),
    ]
    assert {recipe.n_clusters for recipe in experiment.recipes} == {10} == {experiment.n_clusters}
    assert (experiment.methods(), experiment.mining.method) == (["temi", "tsp", "kmeans"], "exact")
    experiment.check()


def test_a_reduction_has_the_seed_of_the_run_unless_it_has_its_own():
    assert read_reduction(settings("reduction=pca", "seed=3")).seed == 3
    assert read_reduction(settings("reduction=pca", "seed=3", "reduction.seed=7")).seed == 7
    assert read_reduction({}).kind == "none"


def test_folders_are_named_after_data_and_benchmark():
    assert DataSource.of(settings()).name == "digits"
    assert DataSource.of(settings("benchmark=odd")).name == "digits-odd"
    assert [str(folder) for folder in cache_folders(settings("features_dir=F"))] == [
        "F/digits/neighbors",
        "F/digits/reductions",
    ]


def test_a_jobs_folder_has_a_name_that_file_systems_take_and_no_other_job_has(tmp_path):
    assert job_name("loss=temi,seed=0", 3) == "loss=temi,seed=0"
    assert job_name("benchmark=odd,data.path=a/b", 3).startswith("benchmark=odd,data.path=a_b-")
    assert job_name("data.path=a/b", 3) != job_name("data.path=a_b", 3)
    assert job_name("", 3) == "3"
    one, other = (job_name(f"accuracies=ü{'é' * 200},seed={seed}", 0) for seed in (0, 1))
    assert one != other
    for name in (one, other):
        (tmp_path / name).mkdir()


def test_a_typo_in_the_trainers_settings_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"acumulate_grad_batches.*accumulate_grad_batches"):
        read_experiment(settings("+trainer.acumulate_grad_batches=2"))


@pytest.mark.parametrize("place", ["hierarchy", "benchmark"])
def test_a_hierarchy_is_of_all_classes_and_may_be_the_benchmarks(place, tmp_path):
    file = tmp_path / "tree.csv"
    file.write_text("".join(f"{digit},{'even' if digit % 2 == 0 else 'odd'}\n" for digit in range(10)))
    config = settings(*([f"benchmark.hierarchy={file}", "benchmark=coarse_1"] if place == "benchmark" else []))
    classes = DataSource.of(config).all_classes(hierarchy=str(file) if place == "hierarchy" else None)
    assert len(classes) == 10
    assert set(classes.find_hierarchy().names) >= {"even", "odd", "9"}


def test_default_baselines_that_the_data_cannot_have_are_left_out_with_a_sentence(tmp_path):
    # Agglomerative clustering looks at 10 000 rows at most, and so cannot give ImageNet-21K's 10 450 clusters.
    np.save(tmp_path / "X.npy", np.random.default_rng(0).normal(size=(11_000, 2)).astype(np.float32))
    words = ("data=features", f"data.train={tmp_path / 'X.npy'}", "n_clusters=10450", "loss=none")
    experiment = read_experiment(settings(*words))
    experiment.check()
    assert list(experiment.baselines) == ["kmeans"]
    (note,) = experiment.notes
    assert note.startswith("Agglomerative is left out, as nobody asked for it by name: n_clusters is 10450")
    with pytest.raises(InputError, match="agglomerative clustering of 10000 samples"):
        read_experiment(settings(*words, "baselines=[kmeans,agglomerative]")).check()


def test_a_number_of_neighbors_that_nobody_gave_fits_a_small_set():
    losses = {"tsp": {"n_neighbors": 20}, "temi": {"n_neighbors": 5}}
    fitted, notes = with_neighbors_there(losses, 7)
    assert fitted == {"tsp": {"n_neighbors": 3}, "temi": {"n_neighbors": 5}}
    assert notes == ["n_neighbors is 3, as there are only 7 samples."]
    assert with_neighbors_there(losses, 100) == (losses, [])
