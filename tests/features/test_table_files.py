"""Tables with embeddings: every format gives the same rows, once, with what stands beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet

from deepclust.extraction.datasets import load_dataset
from deepclust.features.feature_files import load_features
from deepclust.features.feature_set import FeatureSet
from deepclust.features.table_files import TableReading
from deepclust.runtime.errors import InputError

N, D = 40, 5
ROWS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
CLASSES = [("cat", "dog")[row % 2] for row in range(N)]
TEXTS = [f"a text, with a comma {row}" for row in range(N)]


def lists(rows: np.ndarray = ROWS, *, fixed: bool = True) -> pa.Array:
    flat = pa.array(rows.ravel())
    if fixed:
        return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    return pa.ListArray.from_arrays(np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32), flat)


def beside() -> dict[str, pa.Array]:
    return {
        "id": pa.array([f"s{row}" for row in range(N)]),
        "text": pa.array(TEXTS),
        "label": pa.array(CLASSES).dictionary_encode(),
        "price": pa.array(np.linspace(0, 1, N)),
    }


def numbered(rows: np.ndarray = ROWS) -> dict[str, pa.Array]:
    """Number columns in an order that is not that of their numbers."""
    return {f"emb_{column}": pa.array(rows[:, column]) for column in [1, 0, 3, 2, *range(4, rows.shape[1])]}


def write(kind: str) -> str:
    listed = pa.table({**beside(), "vector": lists()})
    if kind == "parquet":
        parquet.write_table(listed, "t.parquet", row_group_size=7)
    elif kind == "ragged parquet":
        parquet.write_table(pa.table({**beside(), "vector": lists(fixed=False)}), "t.parquet")
    elif kind == "feather":
        feather.write_feather(listed, "t.feather")
    elif kind == "arrow":
        with pa.OSFile("t.arrow", "wb") as sink, pa.ipc.new_stream(sink, listed.schema) as stream:
            stream.write_table(listed, max_chunksize=9)
        return "t.arrow"
    elif kind == "csv":
        csv.write_csv(pa.table({**beside(), "label": pa.array(CLASSES), **numbered()}), "t.csv")
    elif kind == "csv of lists":
        texts = [json.dumps(list(map(float, row))) for row in ROWS]
        csv.write_csv(pa.table({**beside(), "label": pa.array(CLASSES), "vector": pa.array(texts)}), "t.csv")
        return "t.csv"
    return f"t.{kind.split()[-1]}"


@pytest.mark.parametrize("kind", ["parquet", "ragged parquet", "feather", "arrow", "csv", "csv of lists"])
def test_every_format_gives_the_same_rows_and_what_stands_beside_them(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = write(kind)
    asked = {"embedding": "vector"} if kind == "csv of lists" else {}
    dataset = load_dataset("features", train=file, columns=asked)
    found = dataset.train
    np.testing.assert_array_equal(np.asarray(found.features), ROWS)
    assert isinstance(found.features, np.memmap)
    assert list(found.ids) == list(found.paths) == [f"s{row}" for row in range(N)]
    assert list(found.texts) == TEXTS
    assert [found.class_names[label] for label in found.labels] == CLASSES
    np.testing.assert_array_equal(found.columns.read(["price"]).column(0), np.linspace(0, 1, N))
    told = capsys.readouterr().out
    assert "40 rows" in told
    assert "label label; kept: price" in told
    # Read again: nothing is converted. Some of the rows: what stands beside them goes along, also through a folder.
    again = load_dataset("features", train=file, columns=asked).train
    assert capsys.readouterr().out == ""
    assert again.fingerprint() == found.fingerprint()
    some = again.select(np.array([3, 1])).select(np.array([1]))
    assert (list(some.texts), list(some.ids)) == ([TEXTS[1]], ["s1"])
    kept = load_features(some.save("some"))
    assert list(kept.texts) == [TEXTS[1]]


def test_a_file_of_other_content_or_other_columns_is_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parquet.write_table(pa.table({"a": lists(), "b": lists(-ROWS)}), "t.parquet")
    with pytest.raises(InputError, match=r"2 columns that may be the embedding, a, b: name one"):
        load_features("t.parquet")
    found = [load_features("t.parquet", tables=TableReading({"embedding": name})) for name in "ab"]
    np.testing.assert_array_equal(np.asarray(found[0].features), -np.asarray(found[1].features))
    parquet.write_table(pa.table({"a": lists(2 * ROWS)}), "t.parquet")
    np.testing.assert_array_equal(np.asarray(load_features("t.parquet").features), 2 * ROWS)


def test_images_of_a_table_lie_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    names = [f"img/{row}.png" for row in range(N)]
    parquet.write_table(pa.table({"vector": lists(), "file_name": pa.array(names)}), "sub/t.parquet")
    found = load_features("sub/t.parquet")
    assert found.files[3] == tmp_path / "sub" / "img" / "3.png"


@pytest.mark.parametrize(
    ("table", "columns", "said"),
    [
        ({"x": pa.array(["a"] * N)}, {}, "no column that is surely the embedding"),
        ({**numbered(), "f1": pa.array(np.ones(N)), "f2": pa.array(np.ones(N))}, {}, "2 families of number columns"),
        ({"v": lists()}, {"embedding": "w"}, "no column 'w'"),
        ({"v": lists()}, {"id": "vv"}, "no column 'vv' (did you mean v?)"),
        ({"v": lists(), "y": pa.array([1, None] * (N // 2))}, {"label": "y"}, "missing in 20 of 40 rows"),
        ({"v": pa.array([[1.0, 2.0], [1.0]] * (N // 2))}, {}, "row 1 has 1 numbers, those before have 2"),
        ({"v": pa.array([[1.0, 2.0], None] * (N // 2))}, {}, "no value in row 1"),
        ({"v": pa.array([[1.0, None], [1.0, 2.0]] * (N // 2))}, {}, "row 0 lacks numbers"),
        ({"v": pa.array([["a"]] * N)}, {"embedding": "v"}, "holds list<"),
        ({"v": pa.array(["no list"] * N)}, {"embedding": "v"}, "holds no lists of numbers"),
        ({"v": lists()[:0]}, {}, "has no rows"),
    ],
)
def test_what_is_no_table_of_embeddings_is_refused_and_leaves_no_features(table, columns, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parquet.write_table(pa.table(table), "t.parquet")
    with pytest.raises(InputError) as refused:
        load_features("t.parquet", tables=TableReading(columns))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(Path().rglob("manifest.json"))


@pytest.mark.parametrize("kind", ["parquet", "feather", "csv", "safetensors"])
def test_damaged_files_are_refused_in_a_line(kind, tmp_path):
    place = tmp_path / f"t.{kind}"
    place.write_bytes(b"\x00\xffno such file\n" * 20)
    with pytest.raises(InputError, match=str(place)):
        load_features(place, tables=TableReading(folder=tmp_path))


def test_matrices_without_names_and_safetensors(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    np.savetxt("t.csv", ROWS, delimiter=",", fmt="%.9g")
    np.testing.assert_array_equal(np.asarray(load_features("t.csv").features), ROWS)
    save_file({"embeddings": torch.from_numpy(ROWS).bfloat16(), "labels": torch.arange(N) % 3}, "t.safetensors")
    found = load_features("t.safetensors")
    assert (found.features.dtype, found.n_classes) == (np.float32, 3)
    np.testing.assert_allclose(found.features, ROWS, rtol=1e-2)
    with pytest.raises(InputError, match=r"data\.columns\.id names a column, but the data are no table"):
        load_dataset("features", train="t.safetensors", columns={"id": "x"})


def test_anndata_gives_an_embedding_by_its_key(tmp_path, monkeypatch):
    anndata = pytest.importorskip("anndata")
    monkeypatch.chdir(tmp_path)
    data = anndata.AnnData(np.zeros((N, 2), np.float32))
    data.obs["label"] = CLASSES
    data.obsm["X_pca"], data.obsm["X_umap"] = ROWS, ROWS[:, :2]
    data.write_h5ad("t.h5ad")
    with pytest.raises(InputError, match=r"2 embeddings in obsm"):
        load_features("t.h5ad")
    found: FeatureSet = load_features("t.h5ad", tables=TableReading({"embedding": "X_pca"}))
    np.testing.assert_array_equal(np.asarray(found.features), ROWS)
    assert [found.class_names[label] for label in found.labels] == CLASSES
    assert list(found.ids) == list(map(str, range(N)))
