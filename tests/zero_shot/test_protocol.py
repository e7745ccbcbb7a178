"""The protocol's lists are the paper's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from deepclust.clusterers import clusterer_class, make_clusterer
from deepclust.runtime.errors import InputError
from deepclust.zero_shot.heads_clusterer import HeadsClusterer
from deepclust.zero_shot.protocol import (
    HEADS,
    PROTOCOL_CLUSTERERS,
    Candidates,
    check_clusterers,
    check_installed,
    check_name,
    describe_reduction,
    option_stages,
)

CONF = Path(__file__).resolve().parents[2] / "conf"


def test_the_reductions_are_none_eight_dims_seven_variances_and_eight_umaps():
    reductions = Candidates().reductions()
    assert [reduction["kind"] for reduction in reductions] == ["none"] + ["pca"] * 15 + ["umap"] * 8
    assert [item["dims"] for item in reductions if item["kind"] == "umap"] == [2, 5, 10, 20, 50, 100, 200, 500]
    assert len({str(reduction) for reduction in reductions}) == 24


def test_thirteen_pairs_of_linkage_and_metric():
    pairs = Candidates().linkages_and_metrics()
    assert len(pairs) == 13
    assert [pair["metric"] for pair in pairs if pair["linkage"] == "ward"] == ["euclidean"]


def test_twenty_one_thresholds_evenly_spaced_in_log_from_a_thousandth_to_5000():
    thresholds = np.array(Candidates().thresholds)
    assert (len(thresholds), thresholds[0], thresholds[-1]) == (21, 0.001, 5000)
    # The 1, 2, 5 series: steps of 2 or 2.5.
    assert set(np.round(thresholds[1:] / thresholds[:-1], 6)) == {2, 2.5}


def test_stages_come_in_the_papers_order_and_those_that_it_does_not_have_last():
    assert [stage.clusterer for stage in option_stages(Candidates())] == [
        "agglomerative", "agglomerative_threshold", "affinity_propagation", "hdbscan", "spectral", "optics", "louvain",
        "leiden",
    ]  # fmt: skip


def test_every_stages_options_are_its_baselines_own():
    full = Candidates(spectral_neighbors=(10,))
    for stage in option_stages(full):
        clusterer = PROTOCOL_CLUSTERERS[stage.clusterer]
        for options in stage.options:
            told = 10 if clusterer.given_n_clusters else None
            make_clusterer(clusterer.method, n_clusters=told, **{**clusterer.defaults, **options})


def test_the_default_of_a_searched_option_is_among_its_candidates():
    # The cells of the first stage are then found again in the second.
    for stage in option_stages(Candidates()):
        if stage.clusterer in ("optics", "louvain", "leiden", "affinity_propagation"):
            defaults = PROTOCOL_CLUSTERERS[stage.clusterer].defaults
            assert dict(defaults) in [{**defaults, **options} for options in stage.options]


def test_the_small_experiment_holds_every_clusterer():
    config = yaml.safe_load((CONF / "experiment" / "zero_shot_small.yaml").read_text())
    assert config["clusterers"] == list(PROTOCOL_CLUSTERERS)


def test_a_missing_library_is_named_before_any_cell_is_made(monkeypatch):
    pytest.importorskip("igraph")
    check_installed(list(PROTOCOL_CLUSTERERS.values()))
    monkeypatch.setitem(sys.modules, "igraph", None)
    check_installed(check_clusterers(["kmeans", "hdbscan"]))
    with pytest.raises(InputError, match=r"louvain and leiden need igraph: pip install 'deepclust\[clusterers\]'"):
        check_installed(check_clusterers(["kmeans", "leiden"]))


def test_the_config_shows_the_defaults():
    config = yaml.safe_load((CONF / "zero_shot.yaml").read_text())
    search = config["search"]
    assert search.pop("sets") == {}
    defaults = Candidates()
    assert set(search) == set(vars(defaults))
    for name, value in search.items():
        assert value == (list(getattr(defaults, name)) if isinstance(value, list) else getattr(defaults, name)), name


def test_every_clusterer_is_a_baseline_that_needs_c_where_it_is_told_it():
    for clusterer in PROTOCOL_CLUSTERERS.values():
        baseline = HeadsClusterer if clusterer.method == HEADS else clusterer_class(clusterer.method)
        if clusterer.name != "agglomerative_threshold":  # the same tree, cut at a distance
            assert baseline.needs_n_clusters == clusterer.given_n_clusters


@pytest.mark.parametrize(
    ("names", "message"), [([], "empty"), (["kmean"], "'kmean' is unknown"), (["kmeans", "kmeans"], "there twice")]
)
def test_unknown_clusterers_are_refused(names, message):
    with pytest.raises(InputError, match=message):
        check_clusterers(names)


def test_names_that_would_leave_the_folder_are_refused():
    assert check_name("dino_vitb16", "encoders") == "dino_vitb16"
    for name in ("../up", "a/b", "", ".hidden"):
        with pytest.raises(InputError, match="names files"):
            check_name(name, "encoders")


def test_reductions_are_described():
    assert describe_reduction({"kind": "umap", "dims": 50}) == "UMAP 50"
    assert describe_reduction({"kind": "pca", "variance": 0.9}) == "PCA 90 %"
    assert describe_reduction({"kind": "none"}) == "none"
