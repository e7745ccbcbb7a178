"""Which rows of which features a data set of the matrix is."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.features.feature_set import FeatureSet
from deepclust.runtime.errors import InputError
from deepclust.zero_shot.data import data_specs, load_data, stratified_rows


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 3], [50, 30, 15, 5])
    rows = rng.standard_normal((100, 6)).astype(np.float32)
    for encoder in ("one", "two"):
        FeatureSet.from_arrays(rows + (encoder == "two"), labels).save(tmp_path / encoder / "test")
    return tmp_path


def load(folder, encoder="one", **settings):
    specs = data_specs({"mine": {"features": f"{folder}/{{encoder}}", "split": "test", **settings}})
    return load_data(specs["mine"], encoder)


def test_a_subset_keeps_the_classes_shares_and_depends_on_its_seed_alone():
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [500, 300, 200]))
    rows = stratified_rows(1000, 100, labels, seed=0)
    assert len(set(rows)) == 100
    assert np.abs(np.bincount(labels[rows]) - [50, 30, 20]).max() <= 1
    np.testing.assert_array_equal(rows, stratified_rows(1000, 100, labels, seed=0))
    assert set(rows) != set(stratified_rows(1000, 100, labels, seed=1))
    assert len(set(stratified_rows(1000, 100, None, seed=0))) == 100


def test_the_encoder_names_the_folder_and_the_content_the_key(folder):
    one, two = load(folder), load(folder, "two")
    np.testing.assert_allclose(two.features.features, one.features.features + 1, rtol=1e-6)
    assert one.key != two.key
    assert one.key == load(folder).key
    assert one.key != load(folder, levels={"half": [0, 0, 1, 1]}).key


def test_range_classes_and_rows_follow_each_other(folder):
    data = load(folder, range=[40, 100], classes=[0, 1, 3], rows=20)
    assert len(data.features) == 20
    assert set(data.labels) == {0, 1, 3}
    assert data.n_clusters == 3


def test_a_level_is_given_per_class_or_per_row(folder, tmp_path):
    by_class = load(folder, levels={"half": [7, 7, 9, 9]}, classes=[1, 2])
    np.testing.assert_array_equal(by_class.levels["half"], by_class.labels == 2)
    np.save(tmp_path / "level.npy", np.arange(100) // 50)
    by_row = load(folder, levels={"half": str(tmp_path / "level.npy")}, range=[40, 60])
    np.testing.assert_array_equal(by_row.levels["half"], np.repeat([0, 1], 10))


def test_ranks_are_parts_of_the_class_names(tmp_path):
    # As iNaturalist 2021 names its classes; Ficus is a genus of snails and one of figs.
    names = [
        "00000_Animalia_Mollusca_Ficus_ficus",
        "00001_Animalia_Mollusca_Ficus_variegata",
        "00002_Plantae_Rosales_Ficus_carica",
        "00003_Animalia_Chordata_Parus_major",
    ]
    FeatureSet.from_arrays(np.eye(8, dtype=np.float32), np.arange(8) % 4, class_names=names).save(tmp_path / "a/test")
    data = load(tmp_path, "a", ranks=["kingdom", "phylum", "genus"])
    assert list(data.levels) == ["kingdom", "phylum", "genus"]
    assert data.levels["kingdom"].tolist() == [0, 0, 1, 0] * 2
    assert [len(np.unique(level)) for level in data.levels.values()] == [2, 3, 3]
    assert data.levels["genus"][0] == data.levels["genus"][1] != data.levels["genus"][2]
    with pytest.raises(InputError, match="ranks has 4 names, but the class '00000_Animalia_Mollusca_Ficus_ficus'"):
        load(tmp_path, "a", ranks=["kingdom", "phylum", "genus", "species"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"range": [90, 200]}, "range is 90 to 200, but there are 100 rows"),
        ({"classes": [11]}, "0 rows are left"),
        ({"levels": {"half": [0, 1]}}, "one id for each of the 4 classes"),
        ({"levels": {"half": "nowhere.npy"}}, "no such file"),
        ({"split": "val"}, "choose one of train, test"),
        ({"color": 1}, " has no setting 'color'"),
        ({"name": "digits"}, "either name= of a known data set or features=PATH"),
        ({"probe": "other"}, "no data set here"),
        ({"ranks": ["order"]}, "parts of the class names, and there are none"),
        ({"range": [1, 2, 3]}, "give the first row and one past the last"),
    ],
)
def test_bad_settings_are_refused(folder, settings, message):
    with pytest.raises(InputError, match=message):
        load(folder, **settings)
