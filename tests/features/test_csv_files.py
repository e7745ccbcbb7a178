"""CSV files as spreadsheets of several languages write them give the same rows."""

from __future__ import annotations

import numpy as np
import pytest

from deepclust.features.feature_files import load_features
from deepclust.features.table_files import TableReading
from deepclust.runtime.errors import InputError

N, D = 12, 3
ROWS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


def written(delimiter: str, decimal: str, *, named: bool, encoding: str) -> bytes:
    lines = [delimiter.join(f"{value:.9g}".replace(".", decimal) for value in row) for row in ROWS]
    names = [delimiter.join(f"e{column}" for column in range(D))] if named else []
    return "\n".join([*names, *lines, ""]).encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("delimiter", "decimal"), [(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ",")])
def test_separators_decimals_and_encodings_are_told_from_the_file(delimiter, decimal, named, encoding, tmp_path):
    (tmp_path / "t.csv").write_bytes(written(delimiter, decimal, named=named, encoding=encoding))
    found = load_features(tmp_path / "t.csv", tables=TableReading(folder=tmp_path))
    np.testing.assert_array_equal(np.asarray(found.features), ROWS)


def test_semicolons_and_tabs_in_texts_separate_nothing(tmp_path):
    texts = [f"one; two\t{row}" for row in range(N)]
    lines = ["e0,text; all,e1", *(f'{row[0]},"{text}",{row[1]}' for row, text in zip(ROWS, texts))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = load_features(tmp_path / "t.csv", tables=TableReading({"text": "text; all"}, tmp_path))
    assert list(found.texts) == texts
    assert found.dim == 2


def test_texts_that_are_no_utf8_are_refused_by_their_column(tmp_path):
    lines = ["e0,text,e1", *(f"{row[0]},caf\xe9,{row[1]}" for row in ROWS)]
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(InputError, match=r"t\.csv: column 'text' holds bytes that are no UTF-8"):
        load_features(tmp_path / "t.csv", tables=TableReading(folder=tmp_path))


def test_an_empty_label_is_a_missing_one(tmp_path, capsys):
    lines = ["e0,label,e1", *(f"{row[0]},{'' if at == 4 else 'cat'},{row[1]}" for at, row in enumerate(ROWS))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert load_features(tmp_path / "t.csv", tables=TableReading(folder=tmp_path)).labels is None
    assert "'label' is kept, but is no label" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"missing in 1 of 12 rows \(first: row 4\)"):
        load_features(tmp_path / "t.csv", tables=TableReading({"label": "label"}, tmp_path))
