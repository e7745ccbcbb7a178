"""Reductions are the libraries', are the same every time, and are done once.

Shape suffixes: N samples, D feature dimensions.
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import deepclust.runtime.locks as locks_module
from deepclust.features.dataset import Dataset
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.features.rows import ShardedRows
from deepclust.neighbors import mine_neighbors
from deepclust.reduction.reduction import Reduction
from deepclust.reduction.splits import reduced_dataset, reduced_splits
from deepclust.runtime.errors import InputError


@pytest.fixture
def rows() -> np.ndarray:
    """Correlated dimensions of different widths, one of them constant."""
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 12)) * np.geomspace(0.1, 100, 12)
    mixed += 0.05 * np.geomspace(0.1, 100, 12) * rng.standard_normal((300, 12)) + 7
    mixed[:, 4] = 3
    return mixed.astype(np.float32)


@pytest.mark.parametrize("options", [{"dims": 3}, {"dims": 12}, {"variance": 0.5}, {"variance": 0.99}])
def test_pca_is_scikit_learns_after_a_z_score(options, rows):
    scaler = StandardScaler().fit(rows[:200].astype(np.float64))
    model = PCA(options.get("dims") or options["variance"], svd_solver="full").fit(scaler.transform(rows[:200]))
    reduction = Reduction("pca", **options)
    scale = np.abs(model.transform(scaler.transform(rows))).max()
    np.testing.assert_allclose(
        reduction.fit_transform(rows[:200]), model.transform(scaler.transform(rows[:200])), atol=1e-5 * scale
    )
    np.testing.assert_allclose(
        reduction.transform(rows[200:]), model.transform(scaler.transform(rows[200:])), atol=1e-5 * scale
    )
    kept = 100 * model.explained_variance_ratio_.sum()
    assert f"to {model.n_components_} dimensions, {kept:.1f} % of the variance" in reduction.note


def test_pca_of_shards_is_that_of_the_whole(rows):
    whole, parts = (Reduction("pca", dims=3).fit_transform(x) for x in (rows, ShardedRows([rows[:90], rows[90:]])))
    np.testing.assert_array_equal(whole, parts)


def grouped(n_samples: int = 240) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=n_samples)
    return (8 * np.eye(10)[labels] + rng.standard_normal((n_samples, 10))).astype(np.float32), labels


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", ["umap", "pacmap"])
def test_umap_and_pacmap_are_the_same_every_time_and_keep_groups_together(kind, metric):
    pytest.importorskip("umap" if kind == "umap" else "pacmap")
    rows, labels = grouped()
    reductions = [Reduction(kind, dims=3, metric=metric, n_neighbors=10, seed=seed) for seed in (0, 0, 1)]
    fitted = [reduction.fit_transform(rows[:200]) for reduction in reductions]
    placed = [reduction.transform(rows[200:]) for reduction in reductions]
    assert fitted[0].shape == (200, 3)
    assert placed[0].shape == (40, 3)
    assert fitted[0].dtype == placed[0].dtype == np.float32
    np.testing.assert_array_equal(fitted[0], fitted[1])
    np.testing.assert_array_equal(placed[0], placed[1])
    assert (fitted[0] != fitted[2]).any()
    mined = mine_neighbors(rows[:200], reductions[0].wanted_neighbors(200) + 3, metric=metric)
    np.testing.assert_array_equal(
        Reduction(kind, dims=3, metric=metric, n_neighbors=10).fit_transform(rows[:200], mined), fitted[0]
    )
    centers = np.stack([fitted[0][labels[:200] == label].mean(axis=0) for label in range(4)])
    for reduced, truth in ((fitted[0], labels[:200]), (placed[0], labels[200:])):
        nearest = np.linalg.norm(reduced[:, None] - centers, axis=2).argmin(axis=1)
        assert (nearest == truth).mean() > 0.97


def test_pacmap_sees_all_dimensions_and_starts_from_principal_directions(monkeypatch):
    # cluster.py of Lowe et al.'s code: PaCMAP(apply_pca=False, …).fit_transform(…, init="pca").
    pacmap = pytest.importorskip("pacmap")
    asked = {}
    real = pacmap.PaCMAP.fit_transform

    def recorded(self, X, **options):
        asked.update(options, apply_pca=self.apply_pca, dims=X.shape[1])
        return real(self, X, **options)

    monkeypatch.setattr(pacmap.PaCMAP, "fit_transform", recorded)
    rows = np.random.default_rng(0).standard_normal((60, 120)).astype(np.float32)
    Reduction("pacmap", dims=2, n_neighbors=5).fit_transform(rows)
    assert asked == {"apply_pca": False, "init": "pca", "dims": 120}


@pytest.mark.slow
def test_umap_is_umaps_where_its_own_search_is_exact():
    umap = pytest.importorskip("umap")
    rows, _ = grouped()
    # Below 4096 samples UMAP compares all pairs itself; graph and embedding agree but for float rounding.
    theirs = umap.UMAP(n_neighbors=15, min_dist=0.0, n_components=2, random_state=0, n_jobs=1).fit(rows)
    ours = Reduction("umap", dims=2, n_neighbors=15)
    ours.fit_transform(rows)
    difference = abs(ours._fitted[0].graph_ - theirs.graph_)
    assert difference.max() < 1e-3


def test_none_gives_the_features_back(rows):
    splits = {"train": FeatureSet.from_arrays(rows)}
    assert reduced_splits(Reduction("none"), splits) == splits
    np.testing.assert_array_equal(Reduction("none").fit_transform(rows), rows)


def test_a_reduction_is_done_once_and_read_back(tmp_path, rows, monkeypatch):
    labels = np.arange(200) % 3
    splits = {
        "train": FeatureSet.from_arrays(rows[:200], labels, paths=[str(i) for i in range(200)]),
        "test": FeatureSet.from_arrays(rows[200:]),
    }
    first = reduced_splits(Reduction("pca", dims=3), splits, cache_dir=tmp_path)
    np.testing.assert_array_equal(first["train"].features, Reduction("pca", dims=3).fit_transform(rows[:200]))
    np.testing.assert_array_equal(first["train"].labels, labels)
    assert first["train"].paths == splits["train"].paths
    assert "PCA to 3 dimensions" in first["train"].manifest["reduction"]["note"]
    other = reduced_splits(Reduction("pca", dims=4), splits, cache_dir=tmp_path)
    assert other["test"].dim == 4

    def refuse(*arguments):
        raise AssertionError("fitted again")

    monkeypatch.setattr(Reduction, "fit_transform", refuse)
    again = reduced_splits(Reduction("pca", dims=3, seed=5), splits, cache_dir=tmp_path)  # PCA draws nothing
    for name in splits:
        np.testing.assert_array_equal(again[name].features, first[name].features)
        assert again[name].fingerprint() == first[name].fingerprint()
    with pytest.raises(AssertionError, match="fitted again"):
        reduced_splits(Reduction("pca", dims=3), {"train": splits["test"]}, cache_dir=tmp_path)


def test_two_that_reduce_at_once_fit_once_and_share_one_space(tmp_path, rows, monkeypatch, capsys):
    splits = {"train": FeatureSet.from_arrays(rows[:200]), "test": FeatureSet.from_arrays(rows[200:])}
    real, fitted, go_on = Reduction.fit_transform, [], threading.Event()

    def waits(self, *arguments):
        fitted.append(0)
        assert go_on.wait(30)
        # As another machine's would be: no two fits are alike.
        return real(self, *arguments) + np.float32(len(fitted))

    monkeypatch.setattr(Reduction, "fit_transform", waits)
    monkeypatch.setattr(locks_module, "POLL_SECONDS", 0.01)
    out = ""
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(reduced_splits, Reduction("pca", dims=3), splits, cache_dir=tmp_path) for _ in range(2)]
        deadline = time.monotonic() + 30
        while "reducing by pca: another process is doing this already" not in out and time.monotonic() < deadline:
            time.sleep(0.01)
            out += capsys.readouterr().out
        go_on.set()
        found = [future.result(30) for future in running]
    assert len(fitted) == 1
    assert out.count("waiting for its result") == 1
    for name in splits:
        np.testing.assert_array_equal(found[0][name].features, found[1][name].features)


def test_new_features_go_into_the_space_of_the_old(tmp_path, rows):
    train, new = FeatureSet.from_arrays(rows[:200]), FeatureSet.from_arrays(rows[200:])
    found = reduced_dataset(
        Reduction("pca", dims=3), Dataset("own", new, None, None), fitted_on=train, cache_dir=tmp_path
    )
    reduction = Reduction("pca", dims=3)
    reduction.fit_transform(rows[:200])
    np.testing.assert_array_equal(found.train.features, reduction.transform(rows[200:]))
    assert found.test is None


def test_a_split_under_two_names_is_placed_once(tmp_path, rows, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("placed anew")

    monkeypatch.setattr(Reduction, "transform", refuse)
    train, same = FeatureSet.from_arrays(rows), FeatureSet.from_arrays(rows.copy())
    found = reduced_splits(Reduction("pca", dims=3), {"fitted_on": train, "train": same}, cache_dir=tmp_path)
    np.testing.assert_array_equal(found["train"].features, found["fitted_on"].features)


def test_what_was_kept_and_cannot_be_repeated_is_refused(tmp_path, rows):
    train, new = FeatureSet.from_arrays(rows[:200]), FeatureSet.from_arrays(rows[200:])
    reduced_splits(Reduction("pca", dims=3), {"train": train}, cache_dir=tmp_path)
    (shard,) = tmp_path.rglob("features-*.npy")
    kept = load_features(shard.parent)
    FeatureSet.from_arrays(np.load(shard) + 1, manifest=kept.manifest).save(shard.parent)
    with pytest.raises(InputError, match="cannot be repeated here: delete it"):
        reduced_splits(Reduction("pca", dims=3), {"train": train, "test": new}, cache_dir=tmp_path)


def test_a_record_of_another_result_is_refused(tmp_path, rows):
    record = tmp_path / "reduction.json"
    dataset = Dataset("own", FeatureSet.from_arrays(rows), None, None)
    for _ in range(2):
        reduced_dataset(Reduction("pca", dims=3), dataset, record=record)
    with pytest.raises(InputError, match=r"reduction.json tells of another reduction \(.*dims.*digest\)"):
        reduced_dataset(Reduction("pca", dims=4), dataset, record=record)
    other = Dataset("own", FeatureSet.from_arrays(rows[::-1]), None, None)
    with pytest.raises(InputError, match="tells of another reduction"):
        reduced_dataset(Reduction("pca", dims=3), other, record=record)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tsne"}, "unknown reduction 'tsne': choose one of none, pca, umap, pacmap"),
        ({"kind": "pca", "dims": 13}, r"reduction.dims=13, but the features are 300 × 12: choose at most 12"),
        ({"kind": "umap", "dims": 13}, "choose at most 12"),
        ({"kind": "umap", "dims": 3, "n_neighbors": 300}, "looks at 300 neighbors, but there are only 300 samples"),
        ({"kind": "pca", "dims": 0}, "reduction.dims is 0"),
        ({"kind": "pca", "variance": 1.0}, "reduction.variance is 1.0"),
        ({"kind": "umap", "variance": 0.9}, "reduction.variance is for reduction=pca, not for umap"),
        ({"kind": "umap", "metric": "l1"}, "unknown reduction.metric 'l1': choose one of euclidean, cosine"),
        ({"kind": "umap", "n_neighbors": 1}, "reduction.n_neighbors is 1"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message, rows):
    with pytest.raises(InputError, match=message):
        Reduction(**options).fit_transform(rows)


def test_as_many_dimensions_as_samples_are_refused(rows):
    with pytest.raises(InputError, match=r"reduction.dims=9, but the features are 9 × 12: choose at most 8"):
        Reduction("pca", dims=9).fit_transform(rows[:9])


@pytest.mark.parametrize(("kind", "command"), [("umap", "clusterers"), ("pacmap", "pip install --no-deps pacmap")])
def test_a_missing_package_is_named_with_its_command(kind, command, rows, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(InputError, match=f"reduction={kind} needs .*{command}"):
        Reduction(kind, dims=2).check(*rows.shape)


def test_neighbors_of_another_kind_are_refused(rows):
    pytest.importorskip("umap")
    reduction = Reduction("umap", dims=2, n_neighbors=10)
    with pytest.raises(InputError, match="the neighbors are by cosine, the reduction's metric is euclidean"):
        reduction.fit_transform(rows, mine_neighbors(rows, 9))
    with pytest.raises(InputError, match="8 neighbors of 300 samples were given, but the reduction takes 9 of 300"):
        reduction.fit_transform(rows, mine_neighbors(rows, 8, metric="euclidean"))


def test_values_that_are_no_numbers_are_refused(rows):
    reduction = Reduction("pca", dims=2)
    reduction.fit_transform(rows)
    rows[7, 2] = np.nan
    for refused in (reduction.fit_transform, reduction.transform):
        with pytest.raises(InputError, match=r"NaN or infinite values \(first: row 7\)"):
            refused(rows)


def test_new_samples_must_fit(rows):
    reduction = Reduction("pca", dims=2)
    with pytest.raises(InputError, match="the reduction was not fitted"):
        reduction.transform(rows)
    reduction.fit_transform(rows)
    with pytest.raises(InputError, match="the features have 5 dimensions, the reduction was fitted on 12"):
        reduction.transform(rows[:, :5])
