"""`score` and `encode` do what can be done: a row that does not suit the model gets a note, the others their bits."""

import contextlib
import dataclasses
import io

import numpy as np
import pandas as pd
import pytest

from isthmus import InputError, Recipe, cli, fit, save, scoring
from isthmus.data.tables import Parquet, Schema, read_table, write_table
from isthmus.parts import Parts

ROWS = 60
RECIPE = Recipe.validated({"flow": {"latent_dim": 2}, "training": {"max_steps": 20}})

FAULTS = {  # column, value, what the note says of it
    "a gap": ("a", None, "a value in column 'a'; got a missing value"),
    "infinity": ("a", np.inf, "finite numbers in column 'a'; got inf"),
    "too large": ("a", -3e305, "numbers up to 1e+300 in column 'a'"),
    "text": ("a", "seven", "numbers in column 'a'; got 'seven'"),
    "an unseen category": ("colour", "violet", "one of the levels 'blue', 'red' in column 'colour'; got 'violet'"),
    "no category": ("colour", None, "a value in column 'colour'"),
    "no boolean": ("up", "perhaps", "true or false in column 'up'; got 'perhaps'"),
    "no time": ("day", "someday", "times in column 'day'; got 'someday'"),
    "an unseen condition": ("kind", "z", "one of the levels 'x', 'y' in column 'kind'; got 'z'"),
    "text where values may be missing": ("gaps", "n/k", "numbers in column 'gaps'; got 'n/k'"),
}


def make_frame(rows=ROWS):
    rng = np.random.default_rng(0)
    t = rng.normal(size=rows)
    frame = pd.DataFrame({"a": t, "b": np.sin(t) + 0.1 * rng.normal(size=rows), "k": np.rint(3 * t).astype(int)})
    frame["gaps"] = frame["b"].where(np.arange(rows) % 7 > 0)
    frame["colour"] = np.where(t > 0, "red", "blue")
    frame["up"] = t > 0.3
    frame["day"] = pd.to_datetime("2020-01-01") + pd.to_timedelta(np.rint(100 * t), unit="h")
    frame["kind"] = np.where(rng.random(rows) > 0.5, "x", "y")
    return frame


def fitted_to(frame, target):
    schema, _ = Schema.learn(frame, target)
    return dataclasses.replace(fit(*schema.encode(frame), recipe=RECIPE), schema=schema)


@pytest.fixture(scope="module")
def frame():
    return make_frame()


@pytest.fixture(scope="module")
def fitted(frame):
    return fitted_to(frame, ["kind"])


@pytest.fixture(scope="module")
def model(fitted, tmp_path_factory):
    return save(fitted, tmp_path_factory.mktemp("model") / "model")


def planted(frame, faults, rows):
    bad = frame.astype(dict.fromkeys({FAULTS[fault][0] for fault in faults}, object))
    for row, fault in zip(rows, faults, strict=True):
        column, value, _ = FAULTS[fault]
        bad.loc[row, column] = value
    return bad


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def same_bits(results, clean, bad):
    """Whether all but the bad rows are bit for bit those of the clean table, and the bad ones empty and noted."""
    numbers = clean.select_dtypes("number").columns
    good = [row for row in range(len(clean)) if row not in bad]
    pd.testing.assert_frame_equal(results.loc[good, clean.columns], clean.loc[good], check_exact=True)
    assert results.loc[list(bad), numbers].isna().all(axis=None)
    assert results["note"].notna().tolist() == [row in bad for row in range(len(clean))]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_row_is_noted_and_no_other_row_changes(frame, fitted, fault):
    bad = planted(frame, [fault], [7])
    for density in ("linearised", "manifold"):
        results = scoring.score(fitted, bad, density=density)
        same_bits(results, scoring.score(fitted, frame, density=density), {7})
        assert FAULTS[fault][2] in results["note"][7]
        assert scoring.unscored(results) == 1
    codes = scoring.encode(fitted, bad)
    same_bits(codes.drop(columns="kind"), scoring.encode(fitted, frame).drop(columns="kind"), {7})
    for function in (scoring.score, scoring.encode):
        with pytest.raises(InputError, match=r"in row 7 \(counted from 0\)"):
            function(fitted, bad, strict=True)
        pd.testing.assert_frame_equal(function(fitted, frame, strict=True), function(fitted, frame))


def test_the_other_rows_are_scored_by_importance_sampling_too(frame, fitted):
    results = scoring.score(fitted, planted(frame, ["a gap"], [7]), density="ambient")
    clean = scoring.score(fitted, frame, density="ambient")
    np.testing.assert_allclose(results["log_density"].drop(7), clean["log_density"].drop(7), rtol=1e-9)


def test_many_faults_at_once_and_nothing_but_faults(frame, fitted):
    rows = range(0, 5 * len(FAULTS), 5)
    same_bits(scoring.score(fitted, planted(frame, FAULTS, rows)), scoring.score(fitted, frame), set(rows))
    nothing = scoring.score(fitted, frame.assign(a=np.nan))
    assert nothing.iloc[:, :2].isna().all(axis=None)
    assert nothing["note"].notna().all()
    with pytest.raises(InputError, match="expected the columns"):
        scoring.score(fitted, frame.drop(columns="a"))


def test_a_code_beyond_arithmetic_is_noted(frame, fitted):
    codes = scoring.encode(fitted, planted(frame, [], []).assign(a=frame["a"].where(frame.index != 3, 1e300)))
    assert codes.index[codes["z0"].isna()].tolist() in ([3], [])
    assert not np.isinf(codes[["z0", "z1"]]).any(axis=None)


def test_a_nameless_matrix(frame):
    fitted = fit(frame[["a", "b", "k"]].to_numpy(float, copy=True), recipe=RECIPE)
    x = pd.DataFrame(frame[["a", "b", "k"]].to_numpy(float, copy=True))
    bad = x.copy()
    bad.loc[4, 1] = np.nan
    same_bits(scoring.score(fitted, bad), scoring.score(fitted, x), {4})


@pytest.mark.parametrize("verb", ["score", "encode"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_command_line_says_how_many_and_exits_with_3(frame, fitted, model, tmp_path, verb, suffix):
    faults = ["a gap", "an unseen category", "infinity"]
    bad = planted(frame, faults, [1, 2, 59]).astype({"a": float})
    clean, table, out = tmp_path / f"clean{suffix}", tmp_path / f"bad{suffix}", tmp_path / f"out{suffix}"
    write_table(frame, clean)
    write_table(bad, table)
    code, _, err = run(verb, model, table, "-o", out)
    assert code == 3
    assert [line for line in err.splitlines() if "warning" in line or "error" in line] == err.splitlines()[-1:]
    assert "3 rows have no" in err
    assert run(verb, model, clean, "-o", tmp_path / f"expected{suffix}")[0] == 0
    same_bits(read_table(out), read_table(tmp_path / f"expected{suffix}"), {1, 2, 59})
    strict = run(verb, model, table, "--strict", "-o", tmp_path / f"strict{suffix}")
    assert strict[:2] == (2, "")
    assert "isthmus: error: expected" in strict[2]
    assert not (tmp_path / f"strict{suffix}").exists()
    assert run(verb, model, clean, "--strict")[0] == 0


def test_one_unreadable_cell_changes_no_other_number_of_a_csv_file(frame, fitted, model, tmp_path):
    write_table(frame, tmp_path / "clean.csv")
    lines = (tmp_path / "clean.csv").read_text().splitlines()
    lines[5] = "seven" + lines[5][lines[5].index(",") :]
    (tmp_path / "bad.csv").write_text("\n".join(lines))
    bad, clean = (scoring.score(fitted, read_table(tmp_path / f"{name}.csv")) for name in ("bad", "clean"))
    same_bits(bad, clean, {4})


@pytest.mark.parametrize("verb", ["score", "encode"])
def test_long_tables(frame, fitted, model, tmp_path, verb):
    bad = planted(frame, ["a gap", "an unseen category"], [3, 50])
    (tmp_path / "long").mkdir()
    for part in range(3):
        write_table(bad[20 * part : 20 * part + 20].astype({"a": float}), tmp_path / "long" / f"{part}.parquet")
    table, function = Parquet.open(tmp_path / "long"), getattr(scoring, verb)
    job = Parts(fitted, table, tmp_path / "out", verb=verb, rows=20)
    assert list(job.write()) == [0, 1, 2]
    assert job.unscored() == 2
    results = read_table(tmp_path / "out" / "part-00000.parquet")
    expected = function(fitted, bad[:20])
    pd.testing.assert_frame_equal(results, expected.astype({"note": results["note"].dtype}), check_dtype=False)
    assert len(Parquet.open(tmp_path / "out")) == ROWS  # all parts have the same columns of the same types
    code, _, err = run(verb, model, tmp_path / "long", "-o", tmp_path / "new")
    assert (code, "2 rows have no" in err) == (3, True)
    assert run(verb, model, tmp_path / "long", "-o", tmp_path / "new")[0] == 3  # found there, and counted again
    assert run(verb, model, tmp_path / "long", "-o", tmp_path / "new", "--strict")[0] == 2
    code, _, err = run(verb, model, tmp_path / "long", "-o", tmp_path / "strict", "--strict")
    assert code == 2
    assert "row 3 (counted from 0) of" in err


CODES = {  # what is planted in z0, and what the note says of it
    "a gap": (None, "a value in column 'z0'; got a missing value"),
    "infinity": (np.inf, "finite numbers in column 'z0'; got inf"),
    "too large": (1e307, "numbers up to 1e+300 in column 'z'"),
    "text": ("seven", "numbers in column 'z0'; got 'seven'"),
}


@pytest.mark.parametrize("fault", CODES)
def test_decode_does_what_can_be_done_and_strict_refuses(fitted, frame, fault):
    value, said = CODES[fault]
    codes = scoring.encode(fitted, frame)
    clean, bad = scoring.decode(fitted, codes), codes.astype({"z0": object})
    bad.loc[[3, 7], "z0"] = value
    rows = scoring.decode(fitted, bad)
    assert rows["note"].notna().to_numpy().nonzero()[0].tolist() == [3, 7]
    assert said in rows["note"][3]
    assert rows.drop(columns="note").iloc[[3, 7]].isna().all(axis=None)
    kept = rows.drop(columns="note").drop(index=[3, 7])
    pd.testing.assert_frame_equal(kept, clean.drop(index=[3, 7]), check_dtype=False, check_exact=True)
    with pytest.raises(InputError, match="expected"):
        scoring.decode(fitted, bad, strict=True)


def test_decode_takes_what_encode_wrote_of_bad_rows_and_keeps_their_notes(model, frame, tmp_path):
    write_table(planted(frame, ["an unseen category"], [5]), tmp_path / "rows.parquet")
    assert run("encode", model, tmp_path / "rows.parquet", "-o", tmp_path / "codes.csv")[0] == 3
    code, _, err = run("decode", model, tmp_path / "codes.csv", "-o", tmp_path / "back.csv")
    assert code == 3
    assert "1 row has no values" in err
    note = read_table(tmp_path / "back.csv")["note"]
    assert note.notna().sum() == 1
    assert "'violet'" in note[5]
    assert run("decode", model, tmp_path / "codes.csv", "-o", tmp_path / "strict.csv", "--strict")[0] == 2
