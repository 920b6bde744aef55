"""Names of columns that look like what the tool writes or parses: they work, or `fit` refuses them."""

import contextlib
import io

import numpy as np
import pandas as pd
import pytest

from isthmus import InputError, cli
from isthmus.cli.fit import _names
from isthmus.cli.rows import _given
from isthmus.data.tables import Schema, read_table, write_table

ROWS = 80
SHORT = ["--latent-dim", "2", "--set", "training.max_steps=5"]
NAMES = ["a", "A", "z0", "note", "log_density", "untrusted", "a,b", "g=h", "row", "X", "index", " ", "0", "c=x"]


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    wrong = [line for line in err.getvalue().splitlines() if line.startswith(("isthmus: error", "isthmus: warning"))]
    return code, out.getvalue(), "\n".join(wrong)


def make_frame():
    """Columns whose names look like others', features of columns included."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(ROWS, 2))
    frame = pd.DataFrame({name: base @ rng.normal(size=2) + 0.1 * rng.normal(size=ROWS) for name in NAMES})
    frame["c"] = np.where(base[:, 0] > 0, "x", "y")
    frame["g"] = frame["a"].where(rng.random(ROWS) > 0.2)
    frame["g is missing"] = base[:, 1]
    frame["t"] = np.where(base[:, 1] > 0, "u=1", "v")
    frame["t=u"] = np.where(rng.random(ROWS) > 0.5, "1", "2=3")
    return frame


@pytest.mark.slow
def test_every_verb_with_names_that_look_like_others(tmp_path):
    frame, table, model = make_frame(), tmp_path / "t.parquet", tmp_path / "model"
    write_table(frame, table)
    code, _, err = run("fit", table, "-o", model, "--given", "t,t=u", *SHORT)
    assert code == 0, err
    for verb in ("score", "encode"):
        code, _, err = run(verb, model, table, "-o", tmp_path / f"{verb}.parquet")
        assert (code, err) == (0, "")
    code, _, err = run("decode", model, tmp_path / "encode.parquet", "-o", tmp_path / "rows.parquet")
    assert (code, err) == (0, "")
    assert list(read_table(tmp_path / "rows.parquet").columns) == list(frame.columns)
    codes = read_table(tmp_path / "encode.parquet")
    codes.loc[3, "z0"] = np.nan
    write_table(codes, tmp_path / "gap.parquet")
    code, _, err = run("decode", model, tmp_path / "gap.parquet", "-o", tmp_path / "noted.parquet")
    noted = read_table(tmp_path / "noted.parquet")
    assert (code, list(noted.columns)) == (3, [*frame.columns, "note_"])
    assert noted["note_"].notna().tolist() == [row == 3 for row in range(ROWS)]
    code, _, err = run("sample", model, "-n", 5, "--given", "t=u=1", "--given", "t=v", "-o", tmp_path / "s.parquet")
    assert (code, err) == (0, "")
    samples = read_table(tmp_path / "s.parquet")
    assert (samples[["t=u", "t"]].astype(str) == ["1", "v"]).all(axis=None)
    assert run("evaluate", model, table, "--json")[0] == 0
    assert run("report", model, table, "-o", tmp_path / "page.html")[0] == 0
    assert run("inspect", model)[0] == 0


@pytest.mark.parametrize(
    ("texts", "names", "given"),
    [
        (["a=b=3"], ["a=b"], {"a=b": "3"}),
        (["a=b=3"], ["a"], {"a": "b=3"}),
        (["a=b=3", "a=4"], ["a", "a=b"], {"a=b": "3", "a": "4"}),
        (["a="], ["a"], {"a": None}),
        (["=3"], [""], {"": "3"}),
        (["==3"], ["="], {"=": "3"}),
        (["a=3", "A=4"], ["a", "A"], {"a": "3", "A": "4"}),
        (["b=c=3"], ["a"], {"b": "c=3"}),  # refused by its name, later
    ],
)
def test_a_given_value_is_found_by_the_longest_known_name(texts, names, given):
    assert _given(texts, names) == given


@pytest.mark.parametrize(("texts", "names"), [(["a"], ["a"]), (["=3"], ["a"]), (["a=1", "a=2"], ["a"])])
def test_a_given_value_without_a_name_or_twice_is_refused(texts, names):
    with pytest.raises(InputError, match="expected"):
        _given(texts, names)


@pytest.mark.parametrize(
    ("texts", "columns", "targets"),
    [
        (["a,b"], ["a", "b"], ["a", "b"]),
        (["a,b"], ["a", "b", "a,b"], ["a,b"]),
        (["c,a,b"], ["c", "a,b"], ["c", "a,b"]),
        (["a,b,c", "d"], ["a,b", "b,c", "c", "d"], ["a,b", "c", "d"]),
        (["a,,b"], ["a", "", "b"], ["a", "", "b"]),
        ([""], [""], [""]),
        (["a, b"], ["a", " b"], ["a", " b"]),
        (["x,a"], ["a"], ["x", "a"]),
    ],
)
def test_targets_may_have_commas_in_their_names(texts, columns, targets):
    assert _names(texts, columns) == targets


@pytest.mark.parametrize("name", ["z0", "z1", "note"])
def test_a_target_that_codes_would_have_twice_is_refused(name):
    frame = pd.DataFrame({"p": [0.5, 1.5, 2.0, 1.0], "q": [1.0, 2.5, 0.5, 2.0], name: ["a", "b", "a", "b"]})
    with pytest.raises(InputError, match=rf"got '{name}'; rename"):
        Schema.learn(frame, [name])
    assert Schema.learn(frame)[0].features[:2] == ("p", "q")


@pytest.mark.parametrize("name", ["z2", "z", "Z0", "z00", "log_density", "reconstruction_error", "untrusted"])
def test_other_targets_are_not(name):
    frame = pd.DataFrame({"p": [0.5, 1.5, 2.0, 1.0], "q": [1.0, 2.5, 0.5, 2.0], name: ["a", "b", "a", "b"]})
    assert Schema.learn(frame, [name])[0].context_features == (f"{name}=a", f"{name}=b")
