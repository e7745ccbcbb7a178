"""One metric over a setting, from the configs and rows of runs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from deepclust.report.figures import save_figure
from deepclust.report.sweep_figures import difference_figure, separability_figure, sweep_figure
from deepclust.report.sweeps import Run, Sweep, difference, natural_order, sweep, sweep_cells
from deepclust.report.tables import write_results
from deepclust.runs.identity import Identity
from deepclust.runtime.errors import InputError
from deepclust.subsets.benchmarks import BENCHMARKS

ROOT = Path(__file__).resolve().parents[2]


def run(acc, *, split="test", nmi=0.5, **config):
    """A run of every method in `acc`."""
    rows = [{"method": method, "split": split, "acc": value, "nmi": nmi} for method, value in acc.items()]
    return Run(config, rows, "run")


def runs_over_c():
    return [
        run({"temi": 0.5, "kmeans": 0.3}, n_clusters=100, seed=0),
        run({"temi": 0.7, "kmeans": 0.4}, n_clusters=100, seed=1),
        run({"temi": 0.9, "kmeans": 0.2}, n_clusters=20, seed=0),
    ]


def test_runs_of_one_value_are_averaged_and_values_are_in_order():
    found = sweep(runs_over_c(), "n_clusters", "acc")
    assert found.values == [20, 100]
    assert found.methods == ["temi", "kmeans"]
    mean, spread, n_runs = found.cells[100, "temi"]
    assert (mean, n_runs) == (pytest.approx(0.6), 2)
    assert spread == pytest.approx(0.1 * 2**0.5)
    assert found.cells[20, "kmeans"] == (0.2, None, 1)
    assert sweep_cells(found) == (
        ["n_clusters", "TEMI", "k-means"],
        [["20", "90.0", "20.0"], ["100", "60.0 ± 14.1", "35.0 ± 7.1"]],
    )


def test_a_setting_that_is_null_is_that_of_the_loss_then_of_the_data():
    config = {
        "n_neighbors": None,
        "encoder": {"name": None, "pooling": None},
        "loss": {"temi": {"n_neighbors": 25}},
        "data": {"name": "digits", "encoder": "dino_vitb16"},
    }
    found = sweep([Run(config, [{"method": "temi", "split": "train", "acc": 0.5}], "a")], "n_neighbors", "acc")
    assert found.values == [25]
    found = sweep([Run(config, [{"method": "temi", "split": "train", "acc": 0.5}], "a")], "encoder", "acc")
    assert found.values == ["dino_vitb16"]
    named = {**config, "encoder": {"name": "mae", "pooling": "cls"}}
    assert sweep([Run(named, [{"method": "temi", "split": "train", "acc": 0.5}], "a")], "encoder", "acc").values == [
        "mae"
    ]
    nested = sweep([Run(config, [{"method": "temi", "split": "train", "acc": 0.5}], "a")], "data.name", "acc")
    assert nested.values == ["digits"]


def test_the_test_split_is_taken_where_there_is_one():
    runs = [*runs_over_c(), run({"temi": 0.1}, split="train", n_clusters=20)]
    assert sweep(runs, "n_clusters", "acc").cells[20, "temi"][0] == 0.9
    assert sweep(runs, "n_clusters", "acc", "train").cells == {(20, "temi"): (0.1, None, 1)}


def test_a_setting_left_at_null_is_a_value_of_its_own():
    runs = [run({"temi": 0.5}, encoder="mae"), run({"temi": 0.8}, data={"encoder": None})]
    assert sweep(runs, "encoder", "acc").values == ["mae", "none"]


def test_benchmarks_come_in_the_papers_order_names_by_their_numbers_and_the_whole_last():
    names = ["all", "mine_10", "coarse_2", "huge", "mine_9", "tiny", "odd"]
    assert sorted(names, key=natural_order) == ["tiny", "huge", "coarse_2", "odd", "mine_9", "mine_10", "all"]


def test_the_difference_is_sorted_by_size_and_needs_both_methods():
    runs = [
        run({"temi": 0.5, "scan": 0.6}, encoder="mae"),
        run({"temi": 0.8, "scan": 0.6}, encoder="dino"),
        run({"temi": 0.8}, encoder="moco"),
    ]
    found = sweep(runs, "encoder", "acc")
    assert difference(found, "temi", "scan") == [("dino", pytest.approx(0.2)), ("mae", pytest.approx(-0.1))]
    with pytest.raises(InputError, match="'temi' and 'tsp' were not both run anywhere: choose two of temi, scan"):
        difference(found, "temi", "tsp")


def test_what_is_not_there_is_refused():
    with pytest.raises(InputError, match="no run has a setting 'depth' on split test"):
        sweep(runs_over_c(), "depth", "acc")
    with pytest.raises(InputError, match="no row of split test has 'ece': choose from acc, nmi"):
        sweep(runs_over_c(), "n_clusters", "ece")
    with pytest.raises(InputError, match=r"no run holds evaluation/separability\.json"):
        separability_figure([])


def test_figures_show_every_method_value_and_r_squared(tmp_path: Path):
    over_c = sweep(runs_over_c(), "n_clusters", "acc")
    _, svg = save_figure(sweep_figure(over_c), tmp_path / "over_c")
    for shown in ("TEMI", "k-means", "number of clusters C", ">20<", ">100<"):
        assert shown in svg.read_text()
    by_name = sweep([run({"temi": 0.5, "scan": 0.6}, encoder="mae")], "encoder", "acc")
    _, svg = save_figure(sweep_figure(by_name), tmp_path / "by_encoder")
    assert ">mae<" in svg.read_text()
    _, svg = save_figure(difference_figure(by_name, "temi", "scan"), tmp_path / "difference")
    assert ">−10.0<" in svg.read_text()
    assert "TEMI − SCANv2" in svg.read_text()
    points = [
        {"name": f"b{i}", "probe": 0.1 * i, "alignment": 2 - 0.1 * i, "davies_bouldin": 3.0, "silhouette": 0.2 * i**2}
        for i in range(4)
    ]
    _, svg = save_figure(separability_figure(points), tmp_path / "separability")
    text = svg.read_text()
    assert "R² = 1.00" in text  # alignment
    assert text.count("R² = ") == 2  # a constant score has none
    for shown in ("alignment score", "Davies–Bouldin score", ">silhouette<", ">b3<"):
        assert text.count(shown) == 1


def labels_in(figure):
    """The boxes, in pixels, of the labels along the x-axis as they are drawn."""
    figure.draw_without_rendering()
    axes = figure.axes[0]
    return [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]


def test_twenty_seven_benchmarks_and_thirty_encoders_stand_apart():
    names = sorted(BENCHMARKS)
    assert len(names) == 27
    boxes = labels_in(sweep_figure(sweep([run({"temi": 0.5}, benchmark=name) for name in names], "benchmark", "acc")))
    assert not any(first.overlaps(second) for first, second in pairwise(boxes))
    encoders = [run({"temi": 0.5 + 0.01 * i, "scan": 0.6}, encoder=f"encoder_{i}") for i in range(30)]
    boxes = labels_in(sweep_figure(sweep(encoders, "encoder", "acc")))
    assert not any(first.overlaps(second) for first, second in pairwise(boxes))
    figure = difference_figure(sweep(encoders, "encoder", "acc"), "temi", "scan")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for labels in (axes.get_yticklabels(), axes.texts):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(first.overlaps(second) for first, second in pairwise(boxes))
    assert "0.0" in {text.get_text() for text in axes.texts}, "no sign where there is no difference"


def test_levels_are_steps_and_stand_evenly():
    depths = Sweep("depth", "one_sided_ami", "test", list(range(1, 12)), ["temi"], {
        (depth, "temi"): (0.5, None, 1) for depth in range(1, 12)
    })  # fmt: skip
    figure = sweep_figure(depths)
    assert figure.axes[0].get_xscale() == "linear"
    assert figure.axes[0].get_ylabel() == "one-sided AMI (%)"
    over_c = sweep([run({"temi": 0.5}, n_clusters=count) for count in (5, 10, 40)], "n_clusters", "acc")
    assert sweep_figure(over_c).axes[0].get_xscale() == "log"


def test_what_is_drawn_needs_a_place_and_a_setting_that_varied(command):
    for words, told in (
        (["--by", "seed", "--difference", "temi", "scan"], "--difference is drawn: give --figure, too"),
        (["--difference", "temi", "scan"], "--figure and --difference need --by KEY"),
        (["--figure", "over_seeds"], "--figure and --difference need --by KEY"),
    ):
        outcome = command("summarize", "nowhere", *words)
        assert outcome.code == 2
        assert told in outcome.error_line


def finished(folder, seed, *, loss=None, n_heads=8, **accuracies):
    """A run folder as far as `deepclust summarize` reads it."""
    methods = {"kmeans": {"seed": seed, "n_init": 5}, **({loss: {"seed": seed, "n_heads": n_heads}} if loss else {})}
    folder.mkdir(parents=True)
    Identity({"features": "a"}, {"seed": seed}, methods, {}).write(folder / "identity.json")
    write_results(folder, [{"method": method, "split": "train", "acc": acc} for method, acc in accuracies.items()])
    config = {"seed": seed, "loss": {loss: {}} if loss else {}, "n_heads": n_heads}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_baseline_that_every_job_of_a_sweep_repeats_counts_once_per_seed(command, tmp_path):
    for seed, kmeans in ((0, 0.76), (1, 0.80)):
        for loss in ("temi", "tsp"):
            finished(tmp_path / f"s{seed}{loss}", seed, loss=loss, kmeans=kmeans, **{loss: 0.9 + 0.02 * seed})
    table = command("summarize", ".").out
    # (0.80 - 0.76) / sqrt(2), of two values and not of four
    assert "78.0±2.8" in table
    assert "over 2 seeds" in table
    assert "differ" not in table
    by_heads = command("summarize", ".", "--by", "n_heads").out
    assert "78.0 ± 2.8" in by_heads


def test_runs_that_differ_in_more_than_the_seed_are_said_to(command, tmp_path):
    finished(tmp_path / "a", 0, loss="temi", n_heads=8, temi=0.9, kmeans=0.7)
    finished(tmp_path / "b", 1, loss="temi", n_heads=16, temi=0.8, kmeans=0.7)
    table = command("summarize", ".").out
    assert "TEMI: its runs differ in n_heads as well; --by KEY shows one at a time" in table
    assert "k-means: its runs" not in table
