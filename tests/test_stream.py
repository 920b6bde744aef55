"""Tables larger than memory: every row once, the same order again, a uniform sample, one clear line for a bad file."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from scipy.stats import chisquare, kstest

from isthmus import Recipe, cli, fitting, load
from isthmus.columns import Columns
from isthmus.data.tables import Parquet, Schema, Stream, read_table, write_table
from isthmus.data.tables import stream as module
from isthmus.errors import InputError
from isthmus.recipe import TrainingRecipe
from isthmus.store.figures import Source
from isthmus.training import LongRows, train
from isthmus.training import batches as batches_module
from isthmus.training.batches import LongBatches
from isthmus.training.plan import Plan
from longtables import SIZES, long_table, write_parts
from test_tables import fails

QUICK = Recipe().update(
    flow={"latent_dim": 2},
    training={"max_steps": 60},
    columns={"heavy_tails": False, "dequantise": False},
    refit={"latent": "gaussian", "noise": "isotropic"},
)


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
    monkeypatch.setattr(module, "_FEWEST_ROWS", 5)
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
        (broken, ["a table in", "1.parquet"]),
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


# --------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def long_rows(folder):
    stream, _ = Stream.learn(Parquet.open(folder), ["up"], most=500)
    columns, context = (Columns.learn(torch.from_numpy(matrix)) for matrix in (stream.X, stream.C))
    return LongRows(stream, columns, context, np.sort(stream.rows[:50]))


def numbers(rows, x):
    return rows.columns.restore(x.double())[:, 0].round().long().tolist()


def test_batches_have_every_row_that_is_not_held_out_once_an_epoch(long_rows):
    batches = list(LongBatches(long_rows, size=len(long_rows) // 8, steps=16, seed=0))
    assert {len(batch.x) for batch in batches} == {len(long_rows) // 8}
    expected = sorted(set(range(sum(SIZES))) - set(long_rows.without))
    whole = len(expected) // 8 * 8
    assert len(set(numbers(long_rows, torch.cat([batch.x for batch in batches[:8]])))) == whole
    both = numbers(long_rows, torch.cat([batch.x for batch in batches]))
    assert set(both) == set(expected)
    for batch in batches:  # each row with its own context, standardised
        up = long_rows.columns.restore(batch.x.double())[:, 1] > 0
        assert float(((batch.c[:, 0] > 0) == up).double().mean()) > 0.9


@pytest.mark.parametrize("spread", [True, False])
def test_batches_from_a_step_on_are_those_of_the_whole(long_rows, spread):
    options = {"size": 300, "steps": 25, "seed": 4, "spread": long_rows.columns.spread if spread else None}
    whole, rest = list(LongBatches(long_rows, **options)), list(LongBatches(long_rows, start=17, **options))
    assert len(rest) == 8
    for one, other in zip(whole[17:], rest, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.c, other.c)


def test_workers_of_a_loader_share_the_rows(long_rows, monkeypatch):
    found = []
    for worker in range(2):
        info = SimpleNamespace(id=worker, num_workers=2)
        monkeypatch.setattr(batches_module, "get_worker_info", lambda info=info: info)
        for batch in LongBatches(long_rows, size=100, steps=30, seed=0):
            found += numbers(long_rows, batch.x)
    assert len(found) == len(set(found)) == 3_000


def test_a_streamed_fit_never_trains_on_what_it_holds_out(folder, monkeypatch):
    stream, _ = Stream.learn(Parquet.open(folder), most=500)
    given = {}

    def watched(*arguments, **options):
        if isinstance(arguments[2], LongRows):
            given.update(rows=arguments[2], held_out=arguments[3])
        return train(*arguments, **options)

    monkeypatch.setattr(fitting, "train", watched)
    fitted = fitting.fit(stream, recipe=QUICK)
    held_out = set(numbers(given["rows"], given["held_out"].x))
    trained = [n for X in given["rows"].epoch(0, seed=0, shard=0, shards=1) for n in numbers(given["rows"], X.x)]
    assert len(held_out) == 50
    assert held_out == set(given["rows"].without)
    assert sorted([*trained, *held_out]) == list(range(sum(SIZES)))
    assert fitted.figures.stream == Source(rows=sum(SIZES), sampled=500, files=3)
    assert fitted.schema == stream.schema
    drawn, again = fitting.rows_again(fitted, stream.X)
    assert torch.equal(again.x, given["held_out"].x)
    assert len(drawn.x) == 450


def test_a_streamed_fit_is_as_good_as_one_in_memory(folder, frame):
    stream, _ = Stream.learn(Parquet.open(folder), most=1_000)
    X = torch.from_numpy(stream.X)
    scores = [fitting.fit(rows, recipe=QUICK).model.log_prob(X).mean() for rows in (stream, stream.X)]
    assert abs(scores[0] - scores[1]) < 0.5


def test_a_streamed_fit_follows_the_rules_for_all_rows(long_rows):
    plan = Plan.of(TrainingRecipe(), len(long_rows), parameters=140_000)
    assert len(long_rows) == sum(SIZES) - 50
    assert plan.batch_size == 256
    assert plan.learning_rate == 2e-3


def test_a_stream_has_its_own_context(folder):
    stream, _ = Stream.learn(Parquet.open(folder), most=500)
    with pytest.raises(InputError, match="a stream alone; got context"):
        fitting.fit(stream, np.ones((500, 1)))


def test_the_command_line_fits_long_tables(folder, tmp_path, capsys):
    arguments = ["fit", str(folder), "-o", str(tmp_path / "model"), "--given", "colour", "--latent-dim", "2"]
    settings = [f"--set={key}" for key in ("training.max_steps=20", "columns.heavy_tails=false")]
    assert cli.main([*arguments, *settings, "--no-report"]) == 0
    assert "3,233" in capsys.readouterr().out
    fitted = load(tmp_path / "model")
    assert fitted.figures.stream.rows == sum(SIZES)
    assert [column.name for column in fitted.schema.columns if column.role == "context"] == ["colour"]
    assert not (tmp_path / "model.run").exists()


def test_an_interrupted_fit_of_a_long_table_goes_on_only_with_the_same_files(tmp_path, frame, monkeypatch, capsys):
    folder = write_parts(frame, tmp_path, SIZES)
    arguments = ["fit", str(folder), "-o", str(tmp_path / "model"), "--latent-dim", "2", "--no-report"]
    settings = [f"--set={key}" for key in ("training.max_steps=20", "columns.heavy_tails=false")]
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "refit_density", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.main([*arguments, *settings])
    (folder / "1.parquet").rename(tmp_path / "kept")
    write_table(frame.iloc[::-1], folder / "1.parquet")
    assert cli.main(["fit", "--resume", str(tmp_path / "model.run")]) == 2
    assert "got a changed one" in capsys.readouterr().err
    (tmp_path / "kept").rename(folder / "1.parquet")
    assert cli.main(["fit", "--resume", str(tmp_path / "model.run")]) == 0
    assert load(tmp_path / "model").figures.stream.rows == sum(SIZES)


def partitioned(folder, names=("year=2021/month=a", "year=2022/month=b%20c")):
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        write_table(pd.DataFrame({"x": [k, k + 0.5]}), folder / name / "part-0.parquet")
    return folder


def test_folders_that_state_a_column_give_one(tmp_path):
    table = Parquet.open(partitioned(tmp_path))
    assert table.columns == ["x", "year", "month"]
    frame = table.sample(4).frame
    assert frame["year"].tolist() == [2021, 2021, 2022, 2022]
    assert frame["month"].tolist() == ["a", "a", "b c", "b c"]
    stream, _ = Stream.learn(table)
    assert stream.schema.features == ("x", "year", "month=a", "month=b c")
    assert len(np.concatenate([X for X, _ in stream.epoch(0)])) == 4


def test_a_column_in_the_files_goes_before_its_folder(tmp_path):
    assert Parquet.open(partitioned(tmp_path, ("x=7", "x=8"))).columns == ["x"]


def test_folders_that_state_different_columns_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected folders that state the same columns for .*'month', 'year'"):
        Parquet.open(partitioned(tmp_path, ("year=2021", "month=a")))


def test_what_is_hidden_is_no_part_of_a_long_table(tmp_path):
    partitioned(tmp_path, (".ipynb_checkpoints", "_temporary", "data"))
    assert len(Parquet.open(tmp_path)) == 2
