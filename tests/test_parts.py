"""Scores and codes in parts: the same as in memory, whatever was there before and whoever computed them."""

import contextlib
import dataclasses
import functools
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from pandas.testing import assert_frame_equal

from isthmus import Recipe, cli, fit, save, scoring
from isthmus.data.tables import Parquet, Schema, read_table
from isthmus.errors import InputError
from isthmus.parts import Parts as AnyParts
from longtables import SIZES, long_table, write_parts

Parts = functools.partial(AnyParts, rows=500)
RECIPE = Recipe().update(flow={"latent_dim": 2}, training={"max_steps": 20})


def fitted_to(frame, target=(), seed=0):
    schema, _ = Schema.learn(frame, target)
    fitted = fit(*schema.encode(frame), recipe=RECIPE.update(seed=seed))
    return dataclasses.replace(fitted, schema=schema)


@pytest.fixture(scope="module")
def frame():
    return long_table(sum(SIZES))


@pytest.fixture(scope="module")
def fitted(frame):
    return fitted_to(frame.iloc[:400])


@pytest.fixture(scope="module")
def table(frame, tmp_path_factory):
    return Parquet.open(write_parts(frame, tmp_path_factory.mktemp("long"), SIZES, row_group_size=300))


def read(folder):
    """As others would: every file of the folder whose name begins with no _ or dot; rows are good, so without notes."""
    files = sorted(file for file in folder.iterdir() if file.name[0] not in "._")
    results = pd.concat([read_table(file) for file in files], ignore_index=True)
    assert results["note"].isna().all()
    return results.drop(columns="note")


def same(found, expected):
    assert_frame_equal(found, expected, check_exact=False, rtol=1e-9, atol=1e-12)


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, err.getvalue()


@pytest.mark.parametrize("density", ["linearised", "manifold"])
def test_scores_in_parts_are_those_in_memory(fitted, table, frame, tmp_path, density):
    job = Parts(fitted, table, tmp_path / "out", density=density)
    assert list(job.write()) == list(range(len(job)))
    assert len(job) == 6
    same(read(tmp_path / "out"), scoring.score(fitted, frame, density=density))


def test_codes_keep_the_types_of_context_columns(frame, tmp_path):
    mostly = frame.assign(whole=np.where(frame["row"] < 2_000, np.nan, frame["row"] % 7)).astype({"whole": "Int64"})
    mostly["colour"] = pd.Categorical(mostly["colour"])
    table = Parquet.open(write_parts(mostly, tmp_path, SIZES, row_group_size=300))
    fitted = fitted_to(mostly.iloc[1_900:2_200], ["whole", "colour", "up"])
    assert list(Parts(fitted, table, tmp_path / "out", verb="encode").write())
    expected = scoring.encode(fitted, table.sample().frame)
    values = {"colour": str, "whole": float}
    same(read(tmp_path / "out").astype(values), expected.astype(values))
    types = {str(pa.parquet.read_schema(file).field("whole").type) for file in (tmp_path / "out").glob("*.parquet")}
    assert types == {"int64"}


def test_the_next_run_computes_only_what_is_missing(fitted, table, frame, tmp_path):
    job = Parts(fitted, table, tmp_path / "out")
    begun = job.write()
    assert [next(begun), next(begun)] == [0, 1]
    begun.close()
    times = [job.path(part).stat().st_mtime_ns for part in (0, 1)]
    (tmp_path / "out" / f".{'5' * 32}.part").write_bytes(b"what a killed run left")
    again = Parts(fitted, table, tmp_path / "out")
    assert list(again.write()) == list(range(2, len(job)))
    assert [job.path(part).stat().st_mtime_ns for part in (0, 1)] == times
    assert list(again.write()) == []
    same(read(tmp_path / "out"), scoring.score(fitted, frame))
    assert not list((tmp_path / "out").glob(".*"))


def test_a_part_that_fails_leaves_nothing_behind(fitted, table, tmp_path, monkeypatch):
    job, score = Parts(fitted, table, tmp_path / "out"), scoring.score
    assert job.missing()
    monkeypatch.setattr(scoring, "score", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job.write_part(3)
    assert 3 in job.missing()
    monkeypatch.setattr(scoring, "score", score)
    job.write_part(3)
    assert 3 not in job.missing()


@pytest.mark.parametrize("change", ["model", "input", "density", "verb", "folder"])
def test_parts_of_something_else_are_refused(fitted, table, frame, tmp_path, change):
    next(Parts(fitted, table, tmp_path / "out").write())
    options = {"fitted": fitted, "table": table, "folder": tmp_path / "out"}
    if change == "model":
        options["fitted"] = fitted_to(frame.iloc[:400], seed=1)
    elif change == "input":
        options["table"] = Parquet.open(*table.files[:2])
    elif change == "folder":
        (tmp_path / "out" / "_manifest.json").unlink()
    else:
        options[change] = {"density": "manifold", "verb": "encode"}[change]
    with pytest.raises(InputError, match="new folder" if change == "folder" else f"another .*{change}") as caught:
        Parts(**options).missing()
    assert str(caught.value).isprintable()


def test_a_row_that_does_not_suit_the_model_is_named(fitted, frame, tmp_path):
    bad = frame.copy()
    bad.loc[SIZES[0] + 1_234, "colour"] = "violet"
    table = Parquet.open(write_parts(bad, tmp_path, SIZES))
    with pytest.raises(InputError, match=r"'violet' in row 1234 \(counted from 0\) of .*1\.parquet"):
        list(Parts(fitted, table, tmp_path / "out", strict=True).write())


# --------------------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def model(fitted, tmp_path_factory):
    return save(fitted, tmp_path_factory.mktemp("model") / "model")


@pytest.mark.parametrize("given", ["files", "folder", "pattern", "one file"])
def test_the_command_line_scores_long_tables_in_parts(model, fitted, table, frame, tmp_path, given):
    folder = table.files[0].parent
    tables = {"files": table.files, "folder": [folder], "pattern": [folder / "*.parquet"]}
    arguments = tables.get(given, [table.files[0], "--stream"])
    code, err = run("score", model, *arguments, "-o", tmp_path / "scores")
    assert (code, "error" in err) == (0, False), err
    same(read(tmp_path / "scores"), scoring.score(fitted, frame[: SIZES[0] if given == "one file" else None]))


def test_the_command_line_encodes_long_tables_in_parts(model, fitted, table, frame, tmp_path):
    code, err = run("encode", model, *table.files, "-o", f"{tmp_path}/codes/")
    assert code == 0, err
    same(read(tmp_path / "codes"), scoring.encode(fitted, frame))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "expected a folder to write parts to"),
        (["-o", "scores.csv"], "expected a folder to write parts to; got scores.csv"),
        (["-o", "no/such/folder"], "expected an existing folder"),
        (["-o", "scores", "--engine", "dusk"], "expected an engine among local, ray; got 'dusk'"),
        (["-o", "scores", "--density", "surrogate"], "expected a density among"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(model, table, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, err = run("score", model, *table.files, *arguments)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_parquet_is_no_stream(model, tmp_path):
    long_table(20).to_csv(tmp_path / "a.csv", index=False)
    code, err = run("score", model, tmp_path / "a.csv", "--stream", "-o", tmp_path / "out")
    assert code == 2
    assert ".parquet" in err


# -------------------------------------------------------------------------------------------------------- Ray

RAY = """
import json, sys
from pathlib import Path
import ray
from isthmus import load
from isthmus.data.tables import Parquet
from isthmus.parts import Parts

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
fitted, table = load(sys.argv[1]), Parquet.open(sys.argv[2])
done = [sorted(Parts(fitted, table, Path(out), rows=500).write("ray")) for out in sys.argv[3:]]
print(json.dumps({"done": done, "running": ray.is_initialized()}))
"""


def test_without_ray_the_extra_is_named(fitted, table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"isthmus\[ray\]"):
        list(Parts(fitted, table, tmp_path / "out").write("ray"))


@pytest.mark.slow
def test_ray_computes_the_same_parts_and_goes_on_where_others_stopped(
    model, fitted, table, frame, tmp_path, fresh_python
):
    pytest.importorskip("ray")
    begun = Parts(fitted, table, tmp_path / "begun")
    next(begun.write())
    folders = [str(tmp_path / name) for name in ("new", "begun")]
    found = fresh_python(RAY, str(model), str(table.files[0].parent), *folders)
    assert found == {"done": [list(range(6)), list(range(1, 6))], "running": True}
    for folder in ("new", "begun"):
        same(read(tmp_path / folder), scoring.score(fitted, frame))


@pytest.mark.slow
def test_a_row_that_does_not_suit_the_model_is_named_by_ray_too(model, frame, tmp_path):
    bad = frame.copy()
    bad.loc[SIZES[0] + 1_234, "colour"] = "violet"
    write_parts(bad, tmp_path, SIZES)
    command = [
        sys.executable,
        "-m",
        "isthmus.cli",
        "score",
        model,
        tmp_path,
        "-o",
        tmp_path / "out",
        "--engine",
        "ray",
        "--strict",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2, done.stderr
    assert "'violet' in row 1234 (counted from 0) of" in done.stderr
    assert done.stderr.count("isthmus: error") == 1
