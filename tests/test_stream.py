"""Tables larger than memory: every row once, the same order again, a uniform sample, one clear line for a bad file."""

import itertools

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from scipy.stats import chisquare, kstest

from isthmus.data.tables import Parquet, Schema, Stream, read_table, write_table
from isthmus.data.tables import stream as module
from isthmus.errors import InputError
from longtables import SIZES, long_table, write_parts


@pytest.fixture(scope="module")
def frame():
    return long_table(sum(SIZES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, frame):
    """The table in three files, of row groups of 300 rows."""
    return write_parts(frame, tmp_path_factory.mktemp("long"), SIZES, row_group_size=300)


@pytest.fixture
def small_pieces(monkeypatch):
    """So small that a few thousand rows fill the buffer many times over."""
    for name, value in {"_CHUNK_ROWS": 128, "_BUFFER_ROWS": 256, "_RUN_ROWS": 100}.items():
        monkeypatch.setattr(module, name, value)


def rows_of(table, runs=None):
    return pd.concat([frame for run in runs or table.runs(1) for _, frame in table.frames(run)], ignore_index=True)


def epoch(stream, number=0, **options):
    return np.concatenate([X for X, _ in stream.epoch(number, **options)])


def test_files_folders_and_patterns_are_one_table_in_the_order_of_their_rows(folder, frame):
    expected = pd.concat([read_table(file) for file in sorted(folder.iterdir())], ignore_index=True)
    for sources in ([folder], [folder / "*.parquet"], sorted(folder.iterdir())):
        table = Parquet.open(*sources)
        assert len(table) == len(frame)
        assert table.columns == list(frame.columns)
        for least in (1, 500, 10**6):
            assert_frame_equal(rows_of(table, table.runs(least)), expected)
    assert_frame_equal(expected, frame)


def test_a_run_is_of_one_file_and_runs_have_every_row_once(folder):
    table = Parquet.open(folder)
    for least in (1, 500, 10**6):
        runs = table.runs(least)
        assert [run.first for run in runs] == [0, *itertools.accumulate(run.rows for run in runs)][:-1]
        last = {run.path: run for run in runs}
        assert all(run.rows >= least for run in runs if run is not last[run.path])
    assert len(table.runs(10**6)) == len(SIZES)


def test_the_place_of_a_row(folder):
    table = Parquet.open(folder)
    first, second = SIZES[0], SIZES[0] + SIZES[1]
    assert [(p.name, row) for p, row in map(table.place, (0, first - 1, first, second))] == [
        ("0.parquet", 0),
        ("0.parquet", first - 1),
        ("1.parquet", 0),
        ("2.parquet", 0),
    ]


def test_a_sample_has_its_rows_and_is_drawn_again_by_its_seed(folder, frame):
    table = Parquet.open(folder)
    rows, sampled = table.sample(700, seed=3)
    assert len(set(rows)) == len(rows) == 700
    assert_frame_equal(sampled, frame.iloc[rows].reset_index(drop=True))
    assert np.array_equal(table.sample(700, seed=3).rows, rows)
    assert not np.array_equal(table.sample(700, seed=4).rows, rows)
    assert_frame_equal(table.sample(10**6).frame, frame)


def test_a_sample_is_uniform_over_all_rows(folder, frame):
    drawn = np.concatenate([Parquet.open(folder).sample(100, seed=seed).rows for seed in range(40)])
    counts = np.histogram(drawn, bins=20, range=(0, len(frame)))[0]
    assert chisquare(counts).pvalue > 0.01


def test_a_wide_table_has_a_smaller_sample(folder, frame, monkeypatch):
    monkeypatch.setattr(module, "_SAMPLE_NUMBERS", 100 * frame.shape[1])
    table = Parquet.open(folder)
    assert len(table.sample().rows) == 100
    stream, _ = Stream.learn(table)
    assert len(stream.X) == len(stream.rows) == 100 * frame.shape[1] // stream.X.shape[1] < 100
    assert np.array_equal(stream.X, stream.schema.encode(frame.iloc[stream.rows])[0])


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("shards", [1, 2, 3, 50])
@pytest.mark.parametrize("target", [[], ["up"]])
def test_an_epoch_has_every_row_once_over_all_shards(folder, frame, shards, target):
    stream, _ = Stream.learn(Parquet.open(folder), target, most=500)
    X, C = stream.schema.encode(frame)
    parts = [list(stream.epoch(1, seed=5, shard=shard, shards=shards)) for shard in range(shards)]
    sizes = [sum(len(x) for x, _ in part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    seen = np.concatenate([np.hstack([x, *([] if c is None else [c])]) for part in parts for x, c in part])
    expected = X if C is None else np.hstack([X, C])
    order = stream.schema.features.index("row")
    assert np.array_equal(seen[seen[:, order].argsort()], expected)


@pytest.mark.usefixtures("small_pieces")
def test_rows_left_out_are_in_no_shard(folder, frame):
    stream, _ = Stream.learn(Parquet.open(folder), most=500)
    without = np.sort(np.random.default_rng(0).permutation(len(frame))[:400])
    seen = [row for shard in range(3) for row in epoch(stream, shard=shard, shards=3, without=without)[:, 0]]
    assert sorted(seen) == sorted(set(range(len(frame))) - set(without))


@pytest.mark.usefixtures("small_pieces")
def test_the_order_is_that_of_its_seed_and_another_one_in_each_epoch(folder):
    stream, _ = Stream.learn(Parquet.open(folder), most=500)
    first, again, other_epoch, other_seed = (
        epoch(stream, n, seed=s)[:, 0] for n, s in ((0, 1), (0, 1), (1, 1), (0, 2))
    )
    assert np.array_equal(first, again)
    for other in (other_epoch, other_seed):
        assert not np.array_equal(first, other)
        assert set(first) == set(other)


@pytest.mark.usefixtures("small_pieces")
def test_rows_that_stand_together_in_the_file_do_not_in_an_epoch(folder, frame):
    row = epoch(Stream.learn(Parquet.open(folder), most=500)[0])[:, 0]
    assert abs(np.corrcoef(row[:-1], row[1:])[0, 1]) < 0.5
    assert np.mean(np.abs(np.diff(row)) == 1) < 0.02
    assert kstest(row[: len(frame) // 2] / len(frame), "uniform").statistic < 0.3


def test_files_may_differ_in_what_a_wider_type_holds_and_in_the_order_of_columns(tmp_path):
    first = pd.DataFrame({"n": [1, 2], "s": ["a", "b"], "none": [None, None]})
    second = pd.DataFrame({"none": [0.5, None], "s": ["c", None], "n": [0.5, None]})
    write_table(first, tmp_path / "0.parquet")
    write_table(second, tmp_path / "1.parquet")
    table = Parquet.open(tmp_path)
    expected = pd.DataFrame(
        {"n": [1, 2, 0.5, None], "s": ["a", "b", "c", None], "none": [None, None, 0.5, None]}
    ).astype({"none": float})
    assert_frame_equal(rows_of(table), expected)
    assert_frame_equal(table.sample().frame, expected)


def test_categories_of_several_files_are_one_column(tmp_path):
    for part, levels in enumerate(("abab", "cbcb")):
        write_table(pd.DataFrame({"k": pd.Categorical(list(levels))}), tmp_path / f"{part}.parquet")
    frame = Parquet.open(tmp_path).sample().frame
    assert frame["k"].tolist() == list("ababcbcb")
    assert set(Schema.learn(frame)[0].columns[0].levels) == set("abc")


def broken(folder):
    (folder / "1.parquet").write_bytes(b"no parquet at all")


def fewer_columns(folder):
    write_table(pd.DataFrame({"row": [1], "up": [True]}), folder / "1.parquet")


def another_type(folder):
    write_table(read_table(folder / "1.parquet").assign(row="text"), folder / "1.parquet")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (broken, ["a Parquet file in", "1.parquet"]),
        (fewer_columns, ["the same columns", "0.parquet", "1.parquet", "'x'"]),
        (another_type, ["one type for column 'row'", "int64", "1.parquet"]),
    ],
)
def test_files_that_disagree_are_refused_in_one_line(tmp_path, frame, spoil, says):
    folder = write_parts(frame, tmp_path, SIZES)
    spoil(folder)
    fails(lambda: Parquet.open(folder), *says)


def test_what_is_no_parquet_is_refused_in_one_line(tmp_path):
    fails(lambda: Parquet.open(tmp_path), "got none")
    fails(lambda: Parquet.open(tmp_path / "*.parquet"), "got none")
    write_table(pd.DataFrame({"x": [1]}), tmp_path / "a.csv")
    fails(lambda: Parquet.open(tmp_path / "a.csv"), "a.csv")
    write_table(pd.DataFrame({"x": []}), tmp_path / "a.parquet")
    fails(lambda: Parquet.open(tmp_path), "at least one row")


@pytest.mark.parametrize(("column", "value"), [("colour", "violet"), ("row", None), ("x", np.inf)])
def test_a_value_that_the_sample_did_not_have_is_named_with_its_row_and_file(tmp_path, frame, column, value):
    stream, _ = Stream.learn(Parquet.open(write_parts(frame, tmp_path, SIZES)), most=500)
    bad = frame.iloc[SIZES[0] : SIZES[0] + SIZES[1]].copy()
    bad[column] = bad[column].astype(object if isinstance(value, str) else float)
    bad.iloc[77, bad.columns.get_loc(column)] = value
    bad.to_parquet(tmp_path / "1.parquet")
    spoilt, _ = Stream.learn(Parquet.open(tmp_path), most=500)
    spoilt = type(stream)(spoilt.table, stream.schema, stream.rows, stream.X, stream.C)
    fails(lambda: list(spoilt.epoch(0)), f"column '{column}'", "in row 77 (counted from 0) of", "1.parquet")


def test_a_fingerprint_tells_files_apart(tmp_path, frame):
    folder = write_parts(frame, tmp_path, SIZES)
    before = Parquet.open(folder).fingerprint()
    assert before == Parquet.open(folder).fingerprint()
    write_table(frame[::-1], folder / "1.parquet")
    after = Parquet.open(folder).fingerprint()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]


def fails(call, *fragments):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith("expected ")
    assert message.count("; ") == 2
    for fragment in fragments:
        assert fragment in message, message
