"""Columns that number the rows, as pandas writes an index: left out alike in every format, in one file and in two."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from isthmus.data.tables import Parquet, Schema, Stream, read_table

UNNAMED = "The first column is left out: it has no name, and numbers the rows."
LEVELS = "Columns of an index that has no name are left out"
COUNTS, OTHERS = np.arange(6), np.array([7, 3, 12, 5, 40, 8])
NAMES = ["a", "b"]


def formats(suffix, frame, path):
    """Write a frame whose index is a column by now, without what pandas keeps of it."""
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(), path)
    elif suffix == ".npz":
        np.savez(path, **{name: np.array(frame[name].tolist()) for name in frame})
    else:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)


def rows(first, name, place=0):
    frame = pd.DataFrame({"a": np.linspace(0.5, 3.25, 6), "b": [1.5, 2.5, 4.0, 1.25, 7.5, 3.5]})
    frame.insert(place, name, first)
    return frame


CASES = {  # column, its values, its place -> the note, if it is left out
    "numbered": ("", COUNTS, 0, UNNAMED),
    "numbered from one": ("", COUNTS + 1, 0, UNNAMED),
    "other whole numbers": ("", OTHERS, 0, UNNAMED),
    "read and written again": ("Unnamed: 0", COUNTS, 0, UNNAMED),
    "an index of pandas": ("__index_level_0__", COUNTS, 2, LEVELS),
    "an index of text": ("__index_level_1__", np.array(list("uvuvuv")), 0, LEVELS),
    "twice the same": ("", np.array([0, 1, 2, 3, 4, 4]), 0, None),
    "decimals": ("", COUNTS + 0.5, 0, None),
    "not the first": ("Unnamed: 0", COUNTS, 1, None),
    "a name": ("id", COUNTS, 0, None),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather", ".arrow", ".npz"])
def test_an_index_is_left_out_in_every_format_and_said(suffix, case, tmp_path):
    name, values, place, note = CASES[case]
    path, frame = tmp_path / f"t{suffix}", rows(values, name, place)
    if suffix == ".npz" and not name:
        pytest.skip("an archive has no array without a name")
    formats(suffix, frame, path)
    read = read_table(path)
    schema, notes = Schema.learn(read)
    assert list(read.columns) == [c for c in frame.columns if note is None or c != name]
    assert sum(line.startswith((UNNAMED, LEVELS)) for line in notes) == (note is not None)
    assert note is None or any(line.startswith(note) for line in notes)
    assert (schema.dialect is not None) == (suffix == ".csv"), "a note stores no dialect"
    known, _ = Schema.learn(frame)  # of a model that has learnt the column
    assert name in read_table(path, schema=known).columns


@pytest.mark.parametrize("case", CASES)
def test_a_long_table_has_the_columns_of_a_short_one(case, tmp_path):
    name, values, place, _ = CASES[case]
    frame = rows(values, name, place)
    for part in range(2):
        formats(".parquet", frame.iloc[3 * part : 3 * part + 3], tmp_path / f"{part}.parquet")
    formats(".parquet", frame, tmp_path / "whole.PARQUET")
    short, said = Schema.learn(read_table(tmp_path / "whole.PARQUET"))
    stream, notes = Stream.learn(Parquet.open(tmp_path))
    assert (stream.schema, notes) == (short, said)
    assert len(np.concatenate([X for X, _ in stream.epoch(0)])) == 6


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_what_pandas_itself_writes_of_an_index(suffix, tmp_path):
    frame, path = rows(COUNTS, "id").iloc[[5, 1, 3, 0]], tmp_path / f"t{suffix}"
    indices = {  # index -> columns
        "plain": (frame.reset_index(drop=True), ["id", *NAMES]),
        "chosen rows": (frame, ["id", *NAMES]),
        "with a name": (frame.set_index("id"), ["id", *NAMES]),
        "two, one with a name": (frame.set_index("id", append=True), ["id", *NAMES]),
        "of times": (frame.set_index(pd.date_range("2024", periods=4)), ["id", *NAMES]),
    }
    for indexed, columns in indices.values():
        table = pa.Table.from_pandas(indexed)
        if suffix == ".parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        read = read_table(path)
        assert sorted(read.columns) == sorted(columns)
        assert read["id"].tolist() == [5, 1, 3, 0]
