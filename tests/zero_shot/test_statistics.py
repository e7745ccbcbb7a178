"""Average ranks and correlations of a matrix, on matrices small enough to work out by hand."""

from __future__ import annotations

import pytest

from deepclust.zero_shot.statistics import ami_silhouette_correlation, average_ranks, probe_correlation


def row(dataset, encoder, clusterer, ami, silhouette=None):
    return {"dataset": dataset, "encoder": encoder, "clusterer": clusterer, "ami": ami, "silhouette": silhouette}


ROWS = [
    row("x", "e", "k", 0.9, 0.5), row("x", "e", "h", 0.1, 0.1), row("x", "e", "s", 0.5, 0.2),
    row("y", "e", "k", 0.4, 0.3), row("y", "e", "h", 0.4, 0.2), row("y", "e", "s", None),
    row("x", "f", "k", 0.2, None),
]  # fmt: skip


def test_ranks_within_each_data_set_and_encoder_with_ties_shared():
    ranks = {rank.name: rank for rank in average_ranks(ROWS, "clusterer")}
    # x, e: k 1, s 2, h 3. y, e: k and h share 1.5. x, f: k alone is no comparison.
    assert (ranks["k"].mean, ranks["k"].n) == (1.25, 2)
    assert (ranks["h"].mean, ranks["h"].n) == (2.25, 2)
    assert ranks["h"].std == pytest.approx(1.5 / 2**0.5)
    assert (ranks["s"].mean, ranks["s"].std, ranks["s"].n) == (2, None, 1)


def test_encoders_are_ranked_within_data_set_and_clusterer():
    ranks = average_ranks(ROWS, "encoder")
    assert [(rank.name, rank.mean, rank.n) for rank in ranks] == [("e", 1, 1), ("f", 2, 1)]


def test_pearsons_r_leaves_out_cells_without_a_silhouette():
    r, n = ami_silhouette_correlation([*ROWS[:3], ROWS[5]])
    assert n == 3
    assert r == pytest.approx(0.9607689)
    assert ami_silhouette_correlation(ROWS[:2]) == (None, 2)
    assert ami_silhouette_correlation([row("x", "e", "k", 0.5, s) for s in (0.1, 0.2, 0.3)]) == (None, 3)


def test_probe_correlation_pairs_by_data_set_and_encoder():
    places = [("x", "e"), ("y", "e"), ("x", "f")]
    probes = [
        {"dataset": dataset, "encoder": encoder, "accuracy": {"1": accuracy, "10": 1 - accuracy}}
        for (dataset, encoder), accuracy in zip(places, (0.9, 0.5, 0.1))
    ]
    cells = [row(dataset, encoder, "k", ami) for (dataset, encoder), ami in zip(places, (0.8, 0.7, 0.2))]
    assert probe_correlation([*cells, row("z", "e", "k", 0.0)], probes) == {"1": 1.0, "10": -1.0}
