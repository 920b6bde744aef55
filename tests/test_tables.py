"""Tables: every format and every type of column there and back, exactly; every mistake is one line that names it."""

import contextlib
import datetime
import io
import json
import sys
import time
import zipfile
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from pydantic import ValidationError

from isthmus.data.tables import FORMATS, MAX_LEVELS, Column, Schema, read_table, write_table
from isthmus.data.tables.pictures import write_png
from isthmus.errors import InputError

NUMBERS = pd.DataFrame({"a": [1.5, -0.0, 5e-324], "b, c": [0.1, np.nan, 1e300], "naïve": [1, 2, 3]})
MIXED = NUMBERS.assign(
    s=["x", None, 'z "q", \n'],
    t=pd.to_datetime(["2024-01-01 00:00:00.000001", None, "1700-01-01"], format="ISO8601").as_unit("us"),
    k=pd.Categorical(["u", "v", None]),
    yes=[True, False, True],
)


def fails(call, *fragments):
    """The call raises one printable line that expects, got and names."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith("expected ")
    assert "; got " in message
    for fragment in fragments:
        assert fragment in message, message


# ----------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", sorted(FORMATS.keys() - {".png"}))
def test_a_written_table_is_read_back(tmp_path, suffix):
    numeric = suffix in {".npy", ".npz"}
    frame, path = NUMBERS if numeric else MIXED, tmp_path / f"Table{suffix.upper()}"
    write_table(frame, path)
    expected = frame.set_axis(["c0", "c1", "c2"], axis=1) if suffix == ".npy" else frame
    if "v" in suffix:  # a CSV file keeps values, not types
        expected = expected.astype({"k": str, "t": "datetime64[ns]"})
    assert_frame_equal(read_table(path), expected, check_dtype=not numeric, check_exact=True)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_standard_streams(monkeypatch, capsys):
    for path in ("-", None):
        write_table(MIXED, path)
        text = capsys.readouterr().out
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        expected = MIXED.astype({"k": str, "t": "datetime64[ns]"})  # a CSV file keeps values, not types
        assert_frame_equal(read_table("-"), expected, check_exact=True)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    fails(lambda: read_table("-"), "standard input", "Empty")
    fails(lambda: write_table(pd.DataFrame({"a": [[1], [2]]}), "-"), "list")


@pytest.mark.parametrize(
    ("text", "names", "first"),
    {
        "header": ("a,b\n1,2\n", ["a", "b"], [1, 2]),
        "no header": ("1,2.5\n3,4\n", ["c0", "c1"], [1, 2.5]),
        "no header, a gap": ("1,,3\n3,4,5\n", ["c0", "c1", "c2"], [1, np.nan, 3]),
        "no header, one row": ("-1e3\n", ["c0"], [-1000.0]),
        "header of a matrix": ("0,1,2\n7,8,9\n", ["0", "1", "2"], [7, 8, 9]),
        "byte order mark": ("\ufeff1,2\n3,4\n", ["c0", "c1"], [1, 2]),
        "semicolons": ('"a b";"c"\n1;2\n', ["a b", "c"], [1, 2]),
        "missing": ("a,b,c\nNA,NaN,\n1,2,3\n", ["a", "b", "c"], [np.nan] * 3),
        "line break in quotes": ('a,b\n"x\ny",1\n', ["a", "b"], ["x\ny", 1]),
        "time of day": ("a,b\n12:30:00,1\n", ["a", "b"], ["12:30:00", 1]),
        "date": ("a\n2024-02-03\n", ["a"], [pd.Timestamp("2024-02-03")]),
    }.values(),
)
def test_what_a_csv_file_says(tmp_path, text, names, first):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    frame = read_table(tmp_path / "t.csv")
    assert list(frame.columns) == names
    assert_frame_equal(frame.head(1), pd.DataFrame([first], columns=names), check_dtype=False)


def test_a_single_column_keeps_its_missing_values(tmp_path):
    frame = pd.DataFrame({"x": [1.5, np.nan, 2.5, np.nan]})
    write_table(frame, tmp_path / "t.csv")
    assert_frame_equal(read_table(tmp_path / "t.csv"), frame)


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"anything": np.zeros((2, 2))}, ["c0", "c1"]),
        ({"t": np.zeros(2)}, ["t"]),
        ({"t": np.zeros(2), "u": np.array(["a", "b"])}, ["t", "u"]),
        ({"X": np.zeros((2, 2)), "y": np.ones(2, dtype=">i4")}, ["X0", "X1", "y"]),
        ({"rows": np.zeros(2, dtype=[("p", "f8"), ("q", "i4")])}, ["p", "q"]),
    ],
)
def test_arrays_by_name(tmp_path, arrays, names):
    np.savez(tmp_path / "t.npz", **arrays)
    assert list(read_table(tmp_path / "t.npz").columns) == names


def test_parquet_from_elsewhere(tmp_path):
    """Decimals and dates without a type in pandas, an index with a name, folders that look like partitions."""
    (tmp_path / "a=1").mkdir()
    path = tmp_path / "a=1" / "t.parquet"
    frame = pd.DataFrame({"d": [Decimal("1.5"), None], "day": [datetime.date(2024, 1, 2)] * 2}, index=[4, 5])
    frame.rename_axis("id").to_parquet(path)
    read = read_table(path)
    assert list(read.columns) == ["id", "d", "day"]
    assert read["d"].dtype == np.float64
    assert read["day"].dtype.kind == "M"


BAD_FILES = {
    "empty.csv": (b"", "Empty"),
    "header.csv": (b"a,b\n", "at least one row"),
    "ragged.csv": (b"a,b\n1\n", "Expected 2 columns, got 1"),
    "image.csv": (b"\x89PNG\r\n\x1a\n\0\0", "decode"),
    "latin.csv": ("a\né\n".encode("latin1"), "column 'a' that are not UTF-8"),
    "twice.csv": (b"a,b,a\n1,2,3\n", "'a' more than once"),
    "plain.csv.gz": (b"a,b\n1,2\n", "plain.csv.gz"),
    "text.parquet": (b"a,b\n1,2\n", "Parquet"),
    "text.feather": (b"a,b\n1,2\n" * 9, "Arrow"),
    "text.npy": (b"a,b\n1,2\n", "magic string"),
    "text.npz": (b"PK\x03\x04 no", "magic string"),
    "empty.npy": (b"", "magic string"),
    "table.xlsx": (b"a", ".parquet"),
    "nosuffix": (b"a", ".csv"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_table(tmp_path, name):
    content, fragment = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    fails(lambda: read_table(tmp_path / name), name, fragment)


@pytest.mark.parametrize(
    ("arrays", "fragments"),
    [
        ({"X": np.zeros((3, 2)), "y": np.zeros(2)}, ["X (3, 2)", "y (2,)"]),
        ({"data": np.zeros((3, 2)), "images": np.zeros((2, 8, 8))}, ["data (3, 2)", "images (2, 8, 8)"]),
        ({"volumes": np.zeros((2, 3, 8, 8, 8))}, ["(2, 3, 8, 8, 8)", "reshape"]),
        ({"a": np.zeros((2, 1)), "a0": np.zeros(2)}, ["'a0' more than once"]),
        ({"o": np.array([None, {}])}, ["an array of object"]),
        ({"none": np.zeros((0, 3))}, ["at least one row"]),
        ({}, ["arrays that do not make one table"]),
    ],
)
def test_arrays_that_are_no_table(tmp_path, arrays, fragments):
    np.savez(tmp_path / "t.npz", **arrays)
    fails(lambda: read_table(tmp_path / "t.npz"), "t.npz", *fragments)


@pytest.mark.parametrize("suffix", sorted(FORMATS.keys() - {".png"}))
def test_damage_never_raises_anything_else(tmp_path, suffix):
    path, random = tmp_path / f"t{suffix}", np.random.default_rng(0)
    write_table(NUMBERS if suffix in {".npy", ".npz"} else MIXED, path)
    good = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    for trial in range(60):
        damaged = good[: random.integers(1, len(good)) if trial % 2 else None].copy()
        damaged[random.integers(len(damaged), size=4)] = random.integers(256, size=4)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(InputError):
            assert len(read_table(path))


def test_paths_that_cannot_be(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    fails(lambda: read_table(tmp_path / "folder.csv"), "directory", "folder.csv")
    fails(lambda: read_table(tmp_path / "gone.csv"), "no such file", "gone.csv")
    fails(lambda: write_table(NUMBERS, tmp_path / "t.xls"), "t.xls", ".parquet")
    fails(lambda: write_table(NUMBERS, tmp_path / "gone" / "t.csv"), "existing folder", "gone")
    for path in ("impossible\0.csv", f"{'long' * 99}.csv"):
        fails(lambda path=path: read_table(path), path[:9])
        fails(lambda path=path: write_table(NUMBERS, path), path[:9])


@pytest.mark.parametrize(
    ("name", "frame", "fragment"),
    [
        ("folder.csv", NUMBERS, "directory"),
        ("t.npy", MIXED, "'s', 't', 'k'"),
        ("t.npz", MIXED, ".csv or .parquet"),
        ("t.csv", pd.DataFrame({"a": [[1], [2]]}), "t.csv"),
        ("t.parquet", pd.DataFrame({"a": [1, "x"]}), "t.parquet"),
        ("t.csv", pd.DataFrame([[1, 2]], columns=["a", "a"]), "'a' more than once"),
    ],
)
def test_what_cannot_be_written_leaves_the_target_alone(tmp_path, name, frame, fragment):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "t.csv").write_text("a\n1\n")
    fails(lambda: write_table(frame, tmp_path / name), fragment)
    assert {file.name for file in tmp_path.iterdir()} == {"folder.csv", "t.csv"}
    assert (tmp_path / "t.csv").read_text() == "a\n1\n"


# ---------------------------------------------------------------------------------------------------- schema

N = 6
COLUMNS = {
    "float64": ([1.5, 2, 3, 4, 1, 2], ["v"]),
    "float32": (np.float32([1.1, 2, 3, 4, 1, 2]), ["v"]),
    "int8": (np.int8([-128, 127, 0, 1, 2, 3]), ["v"]),
    "uint64": (np.uint64([0, 1, 2, 3, 4, 2**53]), ["v"]),
    "missing": ([1.5, np.nan, 3, 4, 1, 2], ["v", "v is missing"]),
    "Int64": (pd.array([1, None, 3, 4, 5, 6], dtype="Int64"), ["v", "v is missing"]),
    "bool": ([True, False] * 3, ["v"]),
    "boolean": (pd.array([True, None, False] * 2, dtype="boolean"), ["v", "v is missing"]),
    "bool object": (pd.Series([True, None, False] * 2, dtype=object), ["v", "v is missing"]),
    "text": (["b", "a", "b"] * 2, ["v=a", "v=b"]),
    "text missing": (["b", "a", None] * 2, ["v=a", "v=b", "v is missing"]),
    "string": (pd.array(["b", "a", None] * 2, dtype="string"), ["v=a", "v=b", "v is missing"]),
    "category": (pd.Categorical(["b", "a", None] * 2, ["b", "a"]), ["v=b", "v=a", "v is missing"]),
    "ordered": (pd.Categorical(["lo", "hi"] * 3, ["lo", "hi"], ordered=True), ["v=lo", "v=hi"]),
    "category int": (pd.Categorical([3, 1, None] * 2), ["v=1", "v=3", "v is missing"]),
    "category float": (pd.Categorical([0.5, 1.0] * 3), ["v=0.5", "v=1.0"]),
    "category bool": (pd.Categorical([True, False] * 3), ["v=False", "v=True"]),
    "time": (pd.to_datetime(["2024-01-01 01:02:03.123457", None] * 3), ["v is missing"]),
    "time ns": (pd.date_range("1999-12-31 23:59:59.9", periods=N, freq="h", unit="ns"), ["v"]),
    "time zone": (pd.date_range("2024-10-27", periods=N, freq="h", tz="Europe/Paris"), ["v"]),
    "duration": (pd.to_timedelta([1, 2, 3, None, 5, 1e-6], unit="s"), ["v", "v is missing"]),
    "far times": (pd.to_datetime(["9999-12-31", "0001-01-01"] * 3), ["v"]),
    "constant": (7, []),
    "constant text": ("x", []),
    "constant time": (pd.Timestamp("2020-01-01"), []),
    "constant missing": ([5, None, 5, 5, 5, 5], ["v is missing"]),
    "constant text missing": (["x", None] * 3, ["v is missing"]),
    "empty": (np.nan, []),
    "empty text": (pd.Series([None] * N, dtype="str"), []),
    "empty time": (pd.NaT, []),
}


def beside(values):
    return pd.DataFrame({"before": np.arange(N) / 3, "v": values, "after": np.arange(N) * 2 / 3})


def stored_and_loaded(schema):
    loaded = Schema.model_validate(json.loads(json.dumps(schema.model_dump(mode="json"))))
    assert repr(loaded) == repr(schema)  # 1, 1.0 and True are equal, but not the same level
    return loaded


@pytest.mark.parametrize("role", ["data", "context"])
@pytest.mark.parametrize("case", COLUMNS)
def test_every_type_there_and_back(case, role):
    values, features = COLUMNS[case]
    frame = beside(values)
    if role == "context" and not features:
        fails(lambda: Schema.learn(frame, ["v"]), "a target that varies", "'v'")
        return
    schema, _ = Schema.learn(frame, ["v"] if role == "context" else [])
    X, C = schema.encode(frame[["after", "v", "before"]].assign(other="ignored"))
    names = schema.features if role == "data" else schema.context_features
    assert [name for name in names if name.startswith("v")] == features
    assert X.dtype == np.float64
    assert X.shape == (N, len(schema.features)) == (N, len(schema.integer))
    assert np.isfinite(X).all()
    assert all((column == np.rint(column)).all() for column, whole in zip(X.T, schema.integer, strict=True) if whole)
    assert (C is None) == (role == "data")
    schema = stored_and_loaded(schema)
    assert_frame_equal(schema.decode(X, C), frame, check_exact=True, check_freq=False)
    assert list(schema.decode(X)) == [c for c in frame if role == "data" or c != "v"]
    for scale in (1e30, -1e30):  # whatever a model samples is a table
        assert schema.decode(X * scale).shape[0] == N


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (pd.Series([Decimal("1.5"), None] * 3, dtype=object), "float64"),
        (pd.Series([1, None, 2] * 2, dtype=object), "float64"),
        (pd.Series([datetime.date(2020, 1, 1), None, datetime.date(2021, 1, 1)] * 2, dtype=object), "datetime64[s]"),
        (pd.array([1, 2, None] * 2, dtype="int64[pyarrow]"), "float64"),
        (pd.cut(np.arange(N), 2), "category"),
    ],
)
def test_storage_becomes_plain(values, dtype):
    frame = beside(values)
    decoded = (schema := Schema.learn(frame)[0]).decode(schema.encode(frame)[0])
    assert decoded["v"].dtype == dtype
    assert (decoded["v"].isna() == frame["v"].isna()).all()
    expected = frame["v"] if dtype == "category" else frame["v"].astype(dtype)
    assert (decoded["v"].astype(str) == expected.astype(str))[frame["v"].notna()].all()


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
MICROSECOND = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2240, 1, 1))
VALUES = [
    (st.floats(allow_infinity=False), "float64"),
    (st.floats(allow_infinity=False, width=32), "float32"),
    (st.integers(-(2**53), 2**53), "int64"),
    (st.none() | st.integers(0, 255), "UInt8"),
    (st.booleans(), "bool"),
    (st.none() | st.booleans(), "boolean"),
    (st.none() | st.sampled_from(["", "a", "b = c", "é\n"]), "str"),
    (st.sampled_from([3, 1, 2]), "category"),
    (st.none() | MICROSECOND, "datetime64[us]"),
]


@st.composite
def tables(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    rows = draw(st.integers(8, 16))
    columns = {}
    for name in names:
        values, dtype = draw(st.sampled_from(VALUES))
        columns[name] = pd.Series(draw(st.lists(values, min_size=rows, max_size=rows)), dtype=dtype)
    return pd.DataFrame(columns).assign(varies=np.arange(rows) / 7)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables(), st.booleans())
def test_any_table_there_and_back(frame, conditional):
    target = [name for name in frame if Column.learn(frame[name], "data").features][:-1] if conditional else []
    schema, notes = Schema.learn(frame, target)
    X, C = schema.encode(frame)
    assert_frame_equal(stored_and_loaded(schema).decode(X, C), frame, check_exact=True)
    assert all(note.isprintable() and note.endswith(".") for note in notes)
    rows = frame.iloc[[-1, 0]]
    np.testing.assert_array_equal(schema.encode(rows)[0], X[[-1, 0]])


def test_what_a_missing_value_becomes():
    frame = pd.DataFrame({"x": [1.0, np.nan, 10, 4], "k": ["a", "b", None, "a"]})
    schema, _ = Schema.learn(frame)
    assert schema.features == ("x", "x is missing", "k=a", "k=b", "k is missing")
    assert schema.integer == (True,) * 5
    X, _ = schema.encode(frame)
    assert X[1].tolist() == [4.0, 1.0, 0.0, 1.0, 0.0]  # the median
    assert X[2].tolist() == [10.0, 0.0, 0.0, 0.0, 1.0]
    sampled = schema.decode(np.array([[2.6, 0.4, -1.0, -0.5, 0.4], [2.6, 0.6, 9.0, 8.0, 0.6]]))
    assert_frame_equal(sampled, pd.DataFrame({"x": [3.0, np.nan], "k": ["b", None]}))


def test_the_notes_say_what_was_done():
    rows = 4 * MAX_LEVELS
    counts = np.arange(rows)
    frame = pd.DataFrame({f"k{j}": 1 for j in range(9)}, index=counts).assign(
        x=np.where(counts % 3, counts / 2, np.nan),
        name=[f"name {i}" for i in range(rows)],
        town=[f"town {i % (MAX_LEVELS + 1)}" for i in range(rows)],
        size=[f"size {i % MAX_LEVELS}" for i in range(rows)],
        yes=counts % 2 == 0,
        day=pd.date_range("2024-01-01", periods=rows),
        big=2**60 + counts,
        digit=counts % 10,
    )
    schema, notes = Schema.learn(frame, target=["digit"])
    text = "\n".join(notes)
    for fragment in (
        "(9): 'k0', 'k1', 'k2', 'k3', 'k4' and 4 more.",
        "dropped (2): 'name' (200 levels), 'town' (51 levels).",
        "level (1): 'size' (50 levels).",
        "0 or 1 (1): 'yes'.",
        "since 1970-01-01 UTC (1): 'day'.",
        "(1): 'x' (median 50).",
        "rounded (1): 'big'.",
        "conditioned (1): 'digit'.",
    ):
        assert fragment in text
    assert len(notes) == 8
    assert list(schema.decode(*schema.encode(frame))) == [c for c in frame if c not in {"name", "town"}]


TRAINED = pd.DataFrame(
    {
        "x": np.arange(8) / 2,
        "yes": [True, False] * 4,
        "day": pd.date_range("2024-01-01", periods=8),
        "span": pd.to_timedelta(np.arange(8), unit="D"),
        "k": ["a", "1"] * 4,
        "unit": "cm",
        "digit": range(8),
        "gap": [1.5, None] * 4,
    }
)
SCHEMA = Schema.learn(TRAINED, ["digit", "k"])[0]


def test_values_of_other_types_are_understood():
    row = {"x": "0.5", "yes": "False", "day": "2024-01-02", "span": "1 days", "k": 1.0, "digit": "1", "gap": None}
    given = SCHEMA.encode(pd.DataFrame({name: pd.Series([value], dtype=object) for name, value in row.items()}))
    for matrix, trained in zip(given, SCHEMA.encode(TRAINED.iloc[[1]]), strict=True):
        np.testing.assert_array_equal(matrix, trained)
    np.testing.assert_array_equal(SCHEMA.encode_context({"k": "1", "digit": 1}), given[1])


def test_columns_need_not_be_named_by_text():
    frame = pd.DataFrame(np.arange(6.0).reshape(3, 2))
    schema, _ = Schema.learn(frame, target=["1"])
    assert (schema.features, schema.context_features) == (("0",), ("1",))
    X, C = schema.encode(frame)
    np.testing.assert_array_equal(np.hstack([X, C]), frame)
    assert schema.encode(frame[[0]], context=False)[1] is None


@pytest.mark.parametrize(
    ("column", "value", "fragments"),
    [
        ("x", "abc", ["numbers", "'abc'"]),
        ("x", None, ["a missing value", "fill it in"]),
        ("x", np.inf, ["finite", "inf"]),
        ("x", "inf", ["finite", "'inf'"]),
        ("x", [1, 2], ["[1, 2]"]),
        ("x", 1j, ["1j"]),
        ("x", pd.Timestamp("2024-01-01"), ["Timestamp"]),
        ("yes", "maybe", ["true or false", "'maybe'"]),
        ("yes", 2, ["true or false", "2"]),
        ("day", "soon", ["times", "'soon'"]),
        ("day", pd.Timedelta(1), ["times"]),
        ("span", pd.Timestamp("2024-01-01"), ["times"]),
        ("k", "b\nc", ["'1', 'a'", r"b\nc"]),
        ("k", None, ["a missing value"]),
        ("k", [1], ["'1', 'a'", "[1]"]),
        ("digit", "seven", ["numbers", "'seven'"]),
    ],
)
def test_a_value_that_cannot_be(column, value, fragments):
    values = pd.Series([value] * 2, dtype=object).infer_objects()
    frame = TRAINED.head(4).drop(columns=column).assign(**{column: pd.concat([TRAINED[column].head(2), values]).values})
    fails(lambda: SCHEMA.encode(frame), repr(column), "in row 2 ", *fragments)
    if column in {"k", "digit"} and not isinstance(value, list):
        fails(lambda: SCHEMA.encode_context({"k": "a", "digit": 1} | {column: value}), repr(column), *fragments)


@pytest.mark.parametrize(
    ("call", "fragments"),
    [
        (lambda: SCHEMA.encode(TRAINED[["x", "unit"]]), ["'x', 'unit'", "add or rename 'yes', 'day', 'span'"]),
        (lambda: SCHEMA.encode(TRAINED.drop(columns="digit")), ["rename 'digit'"]),
        (lambda: SCHEMA.encode_context({"digitt": 7, "k": "a"}), ["'digitt'", "did you mean 'digit'?"]),
        (lambda: SCHEMA.encode_context({"digit": 7}), ["none for 'k'"]),
        (lambda: Schema.learn(TRAINED)[0].encode_context({"k": "a"}), ["no column is context", "'k'"]),
        (lambda: SCHEMA.decode(np.zeros((2, 3))), ["(2, 5)", "(2, 3)"]),
        (lambda: SCHEMA.decode(np.zeros((2, 5)), np.zeros((3, 3))), ["(2, 3)", "(3, 3)"]),
        (lambda: SCHEMA.decode(np.full((2, 5), np.nan)), ["nan at row 0", "feature 'x'"]),
        (lambda: Schema.learn(TRAINED, ["digits"]), ["'digits'", "did you mean 'digit'?"]),
        (lambda: Schema.learn(TRAINED, ["unit"]), ["a target that varies", "'unit'"]),
        (lambda: Schema.learn(TRAINED.assign(id=list("stuvwxyz")), "id"), ["8 levels", "'id'"]),
        (lambda: Schema.learn(TRAINED[["unit", "k"]], ["k"]), ["1 constant", "1 used as target"]),
        (lambda: Schema.learn(pd.DataFrame({"id": list("abcd")})), ["1 of text with too many levels"]),
        (lambda: Schema.learn(TRAINED.head(0)), ["(0, 8)"]),
        (lambda: Schema.learn(TRAINED.assign(bad=[1, 2, -np.inf, 3] * 2)), ["'bad'", "-inf in row 2 "]),
        (lambda: Schema.learn(TRAINED.assign(bad=[[1], None] * 4)), ["'bad'", "[1] in row 0 "]),
        (lambda: Schema.learn(TRAINED.assign(bad=[1, "a"] * 4)), ["'bad'", "mixed-integer"]),
        (lambda: Schema.learn(TRAINED.assign(bad=pd.period_range("2024", periods=8))), ["'bad'", "period"]),
        (lambda: Schema.learn(pd.concat([TRAINED, TRAINED], axis=1)), ["'x', 'yes'", "more than once"]),
    ],
)
def test_a_table_that_cannot_be(call, fragments):
    fails(call, *fragments)


def test_a_stored_schema_is_checked():
    state = SCHEMA.model_dump(mode="json")
    with pytest.raises(ValueError, match="kind"):
        Schema.model_validate({"columns": [state["columns"][0] | {"kind": "colour"}]})
    with pytest.raises(ValueError, match="Extra inputs"):
        Schema.model_validate(state | {"version": 2})
    with pytest.raises(ValueError, match="frozen"):
        SCHEMA.columns = ()


def test_a_large_table_takes_no_loop_over_its_rows():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(100_000, 20))).add_prefix("c")
    frame["c0"] = np.where(frame["c0"] > 2, np.nan, frame["c0"])
    frame["c1"] = np.where(frame["c1"] > 1, "high", "low")
    schema, _ = Schema.learn(frame)
    start = time.perf_counter()
    X, _ = schema.encode(frame)
    assert time.perf_counter() - start < 1.5  # 0.02 s as it is; a loop takes 5
    assert_frame_equal(schema.decode(X), frame)


def array_file(descr, shape, body=bytes(128)):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


FALSE_ARRAYS = {
    "more rows than there are": array_file("'<f8'", "(1000000000000,)"),
    "a negative number of rows": array_file("'<f8'", "(-1,)"),
    "nothing, often": array_file("'|S0'", "(8, 200000000000)"),
    "raw bytes": array_file("'|V8'", "(8,)"),
    "raw bytes in a record": array_file("[('a', '<f8'), ('b', '|V8')]", "(8,)"),
    "objects": array_file("'|O'", "(8,)"),
    "a header of 600 MB": b"\x93NUMPY\x02\x00" + (662372410).to_bytes(4, "little") + b"{'descr': '<f8'}",
    "brackets": array_file("'<f8'", "(" * 3000 + ")" * 3000),
}


@pytest.mark.parametrize("what", FALSE_ARRAYS)
def test_an_array_that_is_not_what_its_header_says_is_refused_before_room_is_made(what, tmp_path):
    (tmp_path / "t.npy").write_bytes(FALSE_ARRAYS[what])
    fails(lambda: read_table(tmp_path / "t.npy"), "t.npy")
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "t.npz", "w", method) as archive:
            archive.writestr("X.npy", FALSE_ARRAYS[what])
        fails(lambda: read_table(tmp_path / "t.npz"), "t.npz")


def test_an_encrypted_archive_says_so(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.zeros((2, 2)))
    content = bytearray((tmp_path / "t.npz").read_bytes())
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(start) + flags] |= 1
    (tmp_path / "t.npz").write_bytes(content)
    fails(lambda: read_table(tmp_path / "t.npz"), "t.npz", "encrypted")


def test_an_archive_of_other_files_is_no_table(tmp_path):
    for members in ({"a.txt": b"hello"}, {"a.txt": b"hello", "b.txt": b"you"}):
        with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        fails(lambda: read_table(tmp_path / "t.npz"), "t.npz")


@pytest.mark.parametrize(
    "column",
    [
        {"kind": "number", "dtype": ""},
        {"kind": "number", "dtype": "S999999999"},
        {"kind": "number", "dtype": "datetime64[ns]"},
        {"kind": "time", "dtype": "float64"},
        {"kind": "category", "dtype": "float64", "levels": ["a", "b"]},
        {"kind": "category", "dtype": "object", "levels": [1, True]},
        {"kind": "category", "dtype": "object"},
        {"kind": "number", "dtype": "float64", "fill": np.nan},
    ],
)
def test_a_schema_that_no_table_has_is_refused(column):
    with pytest.raises(ValidationError):
        Schema.model_validate({"columns": [{"name": "x", **column}]})
    with pytest.raises(ValidationError):
        Schema.model_validate({"columns": [{"name": "x", "kind": "number", "dtype": "float64"}] * 2})


# ------------------------------------------------------------------------------------------------------- images


def pictures(n=6, shape=(4, 3), kind=np.uint8):
    random = np.random.default_rng(0)
    return pd.Series([random.integers(0, 256, shape).astype(kind) for _ in range(n)], dtype=object, name="image")


def same(one, other):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 3), (2, 5, 4)])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_images_become_rows_channels_first_and_come_back(tmp_path, shape, kind):
    frame = pd.DataFrame({"image": pictures(shape=shape, kind=kind), "label": pd.Categorical([0, 1, 2] * 2), "x": 1.5})
    schema, notes = Schema.learn(frame, ["label"])
    channels = shape[2] if len(shape) == 3 else 1
    assert schema.image == (channels, *shape[:2])
    assert any("conditioned on them (1): 'x'" in note for note in notes)
    X, C = schema.encode(frame)
    first = frame["image"][0].reshape(*shape[:2], channels)
    assert np.array_equal(X[0].reshape(channels, *shape[:2]), first.transpose(2, 0, 1))
    assert np.array_equal(C, np.tile(np.eye(3), (2, 1)))
    assert Schema.model_validate_json(schema.model_dump_json()) == schema
    back = schema.decode(X, C)
    assert same(back["image"], frame["image"])
    assert_frame_equal(back[["label"]], frame[["label"]])
    write_table(back, tmp_path / "t.npz")
    again = read_table(tmp_path / "t.npz")
    assert same(again["image"], frame["image"])
    assert_frame_equal(again[["label"]], frame[["label"]])


def test_pixels_of_a_model_are_rounded_and_kept_within_their_type():
    schema, _ = Schema.learn(pd.DataFrame({"image": pictures(shape=(1, 3))}))
    assert schema.decode(np.array([[-7.0, 99.6, 300.0]]))["image"][0].tolist() == [[0, 100, 255]]


def test_files_of_images_are_one_table(tmp_path):
    images = pictures(4, (28, 20))
    stack = np.stack(list(images))
    for name, array in {"grey": stack, "last": stack[..., None], "first": np.stack(3 * [stack], 1)}.items():
        np.savez(tmp_path / f"{name}.npz", images=array)
        expected = images if name != "first" else [np.dstack(3 * [image]) for image in images]
        assert same(read_table(tmp_path / f"{name}.npz")["image"], expected), name
    for k, image in enumerate(images):
        folder = tmp_path / "folder" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        write_png(image, folder / f"{k}.png")
    frame = read_table(tmp_path / "folder")
    assert same(frame["image"], images[[0, 2, 1, 3]])
    assert frame["label"].tolist() == ["a", "a", "b", "b"]
    assert same(read_table(tmp_path / "folder" / "a" / "2.png")["image"], images[[2]])
    for kind, array in (("images-idx3", stack), ("labels-idx1", np.array([5, 0, 4, 1], np.uint8))):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (tmp_path / f"t10k-{kind}-ubyte").write_bytes(head + array.tobytes())
    frame = read_table(tmp_path / "t10k-images-idx3-ubyte")
    assert same(frame["image"], images)
    assert (frame["label"].tolist(), frame["label"].dtype.name) == ([5, 0, 4, 1], "category")


def test_a_grid_of_images_is_a_picture(tmp_path):
    for kind, values in ((np.uint8, [0, 255]), (np.float64, [0.0, 1.0]), (np.float64, [-3.0, 5.0])):
        write_table(pd.DataFrame({"image": [np.full((60, 60), v, kind) for v in values]}), tmp_path / "t.png")
        grid = read_table(tmp_path / "t.png")["image"][0]
        assert grid.shape == (64, 126)
        assert (int(grid[30, 30]), int(grid[30, 90]), int(grid[0, 0])) == (0, 255, 255)
    fails(lambda: write_table(NUMBERS, tmp_path / "t.png"), "no column of images")
    fails(lambda: write_table(pd.DataFrame({"image": pictures(shape=(2, 3, 5))}), tmp_path / "t.png"), "5 channels")


def test_images_that_do_not_suit(tmp_path):
    frame = pd.DataFrame({"image": pictures(), "other": pictures(), "x": 1.0})
    fails(lambda: Schema.learn(frame), "one column of images", "'image', 'other'")
    fails(lambda: Schema.learn(frame[["image"]], ["image"]), "'image' as target")
    schema, _ = Schema.learn(frame[["image"]])
    for bad, told in ((np.zeros((3, 4)), "3 x 4 x 1"), (None, "missing"), ("a.png", "'a.png'")):
        images = pictures()
        images[2] = bad
        fails(lambda images=images: schema.encode(pd.DataFrame({"image": images})), "4 x 3 x 1", told, "row 2")
    holes = pd.DataFrame({"image": [np.full((4, 3), np.nan)]})
    fails(lambda: schema.encode(holes), "finite numbers", "'image'")
    fails(lambda: Schema.learn(pd.DataFrame({"image": [np.zeros((4, 3), complex)]})), "numbers, text")


@pytest.mark.parametrize("change", [{"shape": []}, {"shape": [1, 0, 3]}, {"shape": [1, 4096, 4096]}, {"dtype": "S3"}])
def test_a_damaged_column_of_images_is_no_schema(change):
    column = Column.learn(pictures(), "data").model_dump(mode="json")
    with pytest.raises(ValidationError):
        Schema.model_validate({"columns": [{**column, **change}]})
    number = Column.learn(pd.Series([1.0, 2.0], name="a"), "data").model_dump(mode="json")
    with pytest.raises(ValidationError):
        Schema.model_validate({"columns": [{**number, "shape": [1, 1, 1]}]})
