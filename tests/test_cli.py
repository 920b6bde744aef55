"""The command line from table to table: every verb on every kind of column, and every mistake in one line."""

import contextlib
import dataclasses
import io
import json
import logging
import re
import shutil
import sys
import time
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from pandas.testing import assert_frame_equal

import isthmus
from isthmus import cli, scoring, screens
from isthmus.cli.common import progress_lines
from isthmus.data.tables import read_table, write_table
from isthmus.store import FORMAT

VERBS = ("fit", "score", "sample", "encode", "decode", "evaluate", "report", "explore", "grids", "inspect", "list")
VERBS += ("path", "mixture-weights")
NOTE = re.compile(r"isthmus: |[A-Z].*\.$")  # progress, or a sentence on the table
SHORT = ("--set", "training.max_steps=20", "--set", "training.patience=99", "--no-report")
ROWS = 120


class Run(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def table(self):
        return pd.read_csv(io.StringIO(self.out))

    @property
    def record(self):
        return json.loads(self.out.splitlines()[-1])


def run(*arguments, stdin=None):
    """Runs the command line in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO((stdin or "").encode()))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main([str(argument) for argument in arguments])
    finally:
        sys.stdin = before
    return Run(code, out.getvalue(), err.getvalue())


def done(*arguments, stdin=None):
    """Runs the command line, which must succeed."""
    result = run(*arguments, stdin=stdin)
    assert result.code == 0, result.err
    return result


def numbers(rows=ROWS):
    """A noisy curve in three columns, the last in whole numbers."""
    rng = np.random.default_rng(0)
    t = rng.normal(size=rows)
    noise = 0.1 * rng.normal(size=(rows, 2))
    return pd.DataFrame({"a": t + noise[:, 0], "b": np.sin(t) + noise[:, 1], "k": np.rint(3 * t).astype(int)})


def mixed():
    """Every kind of column: numbers, some missing, levels, booleans and a constant."""
    frame = numbers()
    rng = np.random.default_rng(1)
    frame["b"] = frame["b"].where(rng.random(ROWS) > 0.2)
    frame["colour"] = np.where(frame["a"] > 0.5, "red", np.where(frame["a"] > -0.5, "green", "blue"))
    return frame.assign(unit="cm", up=frame["a"] > 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tables, a model of each, and a conditional one."""
    folder = tmp_path_factory.mktemp("cli")
    mixed().to_csv(folder / "mixed.csv", index=False)
    write_table(numbers(), folder / "numbers.parquet")
    done("fit", folder / "mixed.csv", "-o", folder / "mixed", "--latent-dim", 2, *SHORT)
    done("fit", folder / "numbers.parquet", "-o", folder / "numbers", "--latent-dim", 1, *SHORT)
    done("fit", folder / "mixed.csv", "-o", folder / "given", "--given", "colour,k", "--set", "training.max_steps=200")
    return folder


# ------------------------------------------------------------------------------------ happy paths


def test_the_former_name_of_given_is_understood_and_says_so(tmp_path):
    mixed().to_csv(tmp_path / "mixed.csv", index=False)
    short = ("--set", "training.max_steps=2", "--no-report")
    result = done("fit", tmp_path / "mixed.csv", "-o", tmp_path / "m", "--target", "colour", "--given", "k", *short)
    assert "--target is called --given" in result.err
    assert [c.name for c in isthmus.load(tmp_path / "m").schema.columns if c.role == "context"] == ["k", "colour"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npy"])
def test_every_verb_on_every_format(tmp_path, suffix):
    frame = numbers() if suffix == ".npy" else mixed()
    table, model = tmp_path / f"table{suffix}", tmp_path / "model"
    write_table(frame, table)
    done("fit", table, "-o", model, "--latent-dim", 2, *SHORT)
    files = {verb: tmp_path / f"{verb}{suffix}" for verb in ("score", "encode", "sample", "decode")}
    done("score", model, table, "-o", files["score"])
    done("encode", model, table, "-o", files["encode"])
    done("sample", model, "-n", 7, "-o", files["sample"])
    done("decode", model, files["encode"], "-o", files["decode"])
    written = {verb: read_table(path) for verb, path in files.items()}
    assert {verb: written[verb].shape for verb in files} == {
        "score": (ROWS, 2),
        "encode": (ROWS, 2),
        "sample": (7, frame.shape[1]),
        "decode": (ROWS, frame.shape[1]),
    }
    assert not (model / "report.html").exists()
    assert np.isfinite(written["score"].to_numpy()).all()
    assert list(written["sample"].columns) == list(read_table(table).columns)


def test_samples_look_like_the_table(folder):
    frame, samples = mixed(), done("sample", folder / "mixed", "-n", 200).table
    assert (samples["unit"] == "cm").all()
    assert (samples["k"] == samples["k"].round()).all()
    assert samples["k"].between(frame["k"].min(), frame["k"].max()).all()
    assert set(samples["colour"]) == {"red", "green", "blue"}
    assert 0.05 < samples["b"].isna().mean() < 0.5
    assert samples["up"].dtype == bool
    assert abs(samples["a"].mean() - frame["a"].mean()) < 0.3


def test_of_equally_rounded_levels_the_likeliest_is_sampled(folder):
    fitted = isthmus.load(folder / "mixed")
    features = list(fitted.schema.features)
    x = torch.zeros(1, len(features), dtype=torch.float64)
    x[0, features.index("colour=green")], x[0, features.index("colour=red")] = 0.3, 0.4
    assert scoring._frame(fitted, scoring._Rows(x, None))["colour"].tolist() == ["red"]


def test_sampling_depends_on_its_options_only(folder):
    def sample(*options):
        return done("sample", folder / "numbers", "-n", 50, *options).out

    assert sample() == sample("--seed", 0) != sample("--seed", 1)
    coldest = pd.read_csv(io.StringIO(sample("--no-noise", "--temperature", 0)))
    latent = isthmus.load(folder / "numbers").model.flow.latent()
    assert len(coldest.round(9).drop_duplicates()) <= getattr(latent, "logits", torch.zeros(1)).numel()


def test_scores_are_those_of_the_model_in_row_order(folder):
    fitted, frame = isthmus.load(folder / "numbers"), numbers()
    x = torch.from_numpy(frame.to_numpy(float))
    for density in fitted.model.density.names:
        scores = done("score", folder / "numbers", folder / "numbers.parquet", "--density", density).table
        np.testing.assert_allclose(scores["log_density"], fitted.model.log_prob(x, density=density), rtol=1e-12)
    few = done("score", folder / "numbers", "-", stdin=frame.iloc[5:8, ::-1].to_csv(index=False)).table
    assert_frame_equal(
        few, done("score", folder / "numbers", folder / "numbers.parquet").table[5:8].reset_index(drop=True)
    )
    far = done("score", folder / "numbers", "-", stdin="a,b,k\n1e300,0,0\n0,0,0").table
    assert far["log_density"].tolist()[0] == -np.inf < far["log_density"].tolist()[1]


def test_codes_and_rows_are_those_of_the_model(folder):
    fitted, frame = isthmus.load(folder / "numbers"), numbers()
    codes = done("encode", folder / "numbers", folder / "numbers.parquet")
    x = torch.from_numpy(frame.to_numpy(float))
    np.testing.assert_allclose(codes.table, fitted.model.encode(x))
    rows = done("decode", folder / "numbers", "-", stdin=codes.out).table
    np.testing.assert_allclose(rows, fitted.model.columns.round_integers(fitted.model.reconstruct(x)))


def test_a_model_whose_networks_are_told_their_noise(folder, tmp_path):
    model, range_ = tmp_path / "told", ("--set", "training.noise=[0.01, 0.5]", "--set", "training.max_steps=50")
    done("fit", folder / "numbers.parquet", "-o", model, "--latent-dim", 1, *range_)
    assert done("inspect", model, "--json").record["level"] == pytest.approx({"noise": 0.01})
    assert "noise told" in done("inspect", model).out
    fitted = isthmus.load(model)
    for options, there in (((), fitted.model), (("--at", "noise=0.3"), fitted.model.at(noise=0.3))):
        expected = scoring.sample(dataclasses.replace(fitted, model=there), 20)
        np.testing.assert_allclose(done("sample", model, "-n", 20, *options).table, expected)
    assert done("sample", model, "-n", 20).out != done("sample", model, "-n", 20, "--at", "noise=0.3").out


def test_a_conditional_model(folder):
    model, table = folder / "given", folder / "mixed.csv"
    samples = done("sample", model, "-n", 30, "--given", "colour=red", "--given", "k=2").table
    assert (samples["colour"] == "red").all()
    assert (samples["k"] == 2).all()
    other = done("sample", model, "-n", 30, "--given", "colour=blue", "--given", "k=-2").table
    assert samples["a"].mean() > other["a"].mean() + 1
    codes = done("encode", model, table)
    latent_dim = done("inspect", model, "--json").record["latent_dim"]
    assert list(codes.table.columns) == [*(f"z{i}" for i in range(latent_dim)), "k", "colour"]
    assert done("decode", model, "-", stdin=codes.out).table["colour"].tolist() == mixed()["colour"].tolist()
    assert len(done("score", model, table).table) == ROWS
    assert done("evaluate", model, table, "--json").record["n"] == ROWS
    assert done("inspect", model, "--json").record["columns"]["colour"] == "category, context"


@pytest.mark.parametrize("context", [False, True])
def test_a_model_of_a_nameless_matrix(tmp_path, context):
    values = numbers().to_numpy(float)
    recipe = isthmus.Recipe.parse("", ["flow.latent_dim=1", "training.max_steps=5"])
    fitted = isthmus.fit(values[:, : 3 - context], values[:, 2:] if context else None, recipe=recipe)
    model, table = isthmus.save(fitted, tmp_path / "model"), tmp_path / "t.npy"
    np.save(table, values)
    scores = done("score", model, table).table["log_density"]
    x, c = torch.from_numpy(values[:, : 3 - context]), torch.from_numpy(values[:, 2:]) if context else None
    np.testing.assert_allclose(scores, fitted.model.log_prob(x, c))
    codes = done("encode", model, table).table
    assert list(codes.columns) == (["z0", "context0"] if context else ["z0"])
    assert "number" in done("inspect", model).out


# ------------------------------------------------------------------------------------ figures


def test_fit_says_what_it_did(tmp_path, folder):
    result = done("fit", folder / "mixed.csv", "-o", tmp_path / "m", "--latent-dim", "auto", "--json", *SHORT)
    assert list(result.record) == ["model", "seconds", "steps", "latent_dim", "beta", "validation", "health"]
    assert result.record["steps"] == 20
    assert len(result.out.splitlines()) == 1
    assert "Constant columns" in result.err
    said = done("fit", folder / "mixed.csv", "-o", tmp_path / "m", "--force", *SHORT).out
    assert "nats a row, higher is better" in said
    assert "per unit of volume in the units of the columns" in said
    assert str(tmp_path / "m") in said


def test_settings_come_from_the_file_then_the_command_line(tmp_path, folder):
    (tmp_path / "recipe.yaml").write_text(
        "{training: {max_steps: 7, weight_decay: 0.2}, seed: 3, flow: {latent_dim: 1}}"
    )
    options = ("--recipe", tmp_path / "recipe.yaml", "--set", "training.max_steps=9", "--seed", 5, "--max-time", "1.5m")
    done("fit", folder / "numbers.parquet", "-o", tmp_path / "m", "--latent-dim", 2, *options)
    recipe = done("inspect", tmp_path / "m", "--json").record["recipe"]
    assert (recipe["seed"], recipe["flow"]["latent_dim"]) == (5, 2)
    training = recipe["training"]
    assert (training["max_steps"], training["weight_decay"], training["max_time"]) == (9, 0.2, 90)


def test_evaluate_and_inspect(folder):
    model, table = folder / "mixed", folder / "mixed.csv"
    figures, scores = done("evaluate", model, table, "--json").record, done("score", model, table).table
    assert set(figures) >= {
        "n",
        "D",
        "d",
        "fid_like",
        "energy_distance",
        "c2st_auc",
        "seconds",
        "log_density_standard_error",
        "measure",
    }
    assert (figures["n"], figures["log_density_rows"], figures["d"]) == (ROWS, ROWS, 2)
    means = {"log_density_linearised": "log_density", "reconstruction_mse": "reconstruction_error"}
    for figure, column in means.items():
        assert figures[figure] == pytest.approx(scores[column].mean())
    for density, figure in {"ambient": "log_density", "manifold": "log_density_manifold"}.items():
        column = done("score", model, table, "--density", density).table["log_density"]
        assert figures[figure] == pytest.approx(column.mean())
    record = done("inspect", model, "--json").record
    assert set(record) >= {"data_dim", "latent_dim", "recipe", "beta", "latent", "noise", "validation", "versions"}
    assert record["columns"]["unit"] == "category, constant"
    for verb in (["evaluate", model, table], ["inspect", model]):
        shown = done(*verb).out
        assert f"{figures['D']} -> 2 -> {figures['D']}" in shown
        assert figures["measure"] == record["measure"]
        assert figures["measure"].partition(", ")[2] in shown


def test_figures_do_not_depend_on_units(tmp_path):
    figures = []
    for factor in (1.0, 1000.0):
        table, model = tmp_path / f"{factor}.csv", tmp_path / f"{factor}"
        write_table(numbers()[["a", "b"]] * factor, table)
        done("fit", table, "-o", model, "--latent-dim", 1, *SHORT)
        figures.append(done("evaluate", model, table, "--json").record)
    for name in ("fid_like", "energy_distance", "c2st_auc", "reconstruction_mse"):
        assert figures[0][name] == pytest.approx(figures[1][name], rel=1e-2, abs=5e-3), name
    for name, dims in {"log_density_manifold": 1, "log_density": 2}.items():
        assert figures[0][name] - figures[1][name] == pytest.approx(dims * np.log(1000), abs=1e-2), name


def test_of_many_rows_some_are_importance_sampled(folder, monkeypatch):
    monkeypatch.setattr(scoring, "_MOST_AUDITED_ROWS", 50)
    monkeypatch.setattr(scoring, "_AUDITED_ROWS", 20)
    figures = done("evaluate", folder / "numbers", folder / "numbers.parquet", "--json").record
    assert (figures["n"], figures["log_density_rows"]) == (ROWS, 20)


def test_a_gap_between_the_densities_is_a_warning(folder, monkeypatch):
    quiet = {"log_density_gap": 1.2, "log_density_standard_error": 0.1}
    assert scoring.distrust(quiet) is None
    assert "below" in scoring.distrust(quiet | {"log_density_gap": -1.4})
    monkeypatch.setattr(scoring, "_LARGEST_GAP", -1.0)
    result = done("evaluate", folder / "numbers", folder / "numbers.parquet", "--json")
    progress, warning = result.err.splitlines()
    assert progress.startswith("isthmus: evaluating")
    assert warning.startswith("isthmus: warning: the linearised density is")


def test_what_is_not_finite_is_null():
    assert screens._finite({"a": [1.0, float("nan")], "b": float("inf")}) == {"a": [1.0, None], "b": None}


@pytest.mark.parametrize("what", ["flows", "objectives", "networks", "latents", "datasets", "metrics"])
def test_list_names_what_there_is(what):
    lines = done("list", what).out.splitlines()
    assert [line.split()[0] for line in lines] == list(cli.show._registries()[what])
    assert all(len(line.split()) > 3 for line in lines)
    assert what in done("list").out


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(verb):
    assert f"Example: isthmus {verb} " in done(verb, "--help").out


def test_the_command_line_is_light_to_import(fresh_python):
    heavy = fresh_python(
        "import json, sys, isthmus; before = set(sys.modules); import isthmus.cli; new = set(sys.modules) - before;"
        "print(json.dumps([m for m in ('pandas', 'lightning', 'sklearn', 'rich', 'yaml') if m in new]))"
    )
    assert heavy == []


# ------------------------------------------------------------------------------------ mistakes


def fit(*options):
    return lambda folder: ("fit", folder / "numbers.parquet", "-o", folder / "new", *options)


def on_text(text, *arguments):
    """Arguments in which `TABLE` is a file of this text."""

    def make(folder):
        (folder / "bad.csv").write_text(text)
        return [folder / {"TABLE": "bad.csv"}.get(a, a) if a in ("TABLE", "new", "numbers") else a for a in arguments]

    return make


def damaged(file, damage):
    """Arguments that score with a copy of a model in which one file was changed."""

    def make(folder):
        shutil.copytree(folder / "numbers", folder / "damaged", dirs_exist_ok=True)
        damage(folder / "damaged" / file)
        return "score", folder / "damaged", folder / "numbers.parquet"

    return make


def reshape(path):
    tensors = safetensors.torch.load_file(path)
    name = next(name for name in tensors if tensors[name].dim() == 2)
    safetensors.torch.save_file(tensors | {name: tensors[name][:, 1:].contiguous()}, path)


def verb(*arguments):
    """Arguments in which names of models and tables are paths."""
    return lambda folder: [folder / a if (folder / str(a)).exists() else a for a in arguments]


MISTAKES = {
    "no such table": lambda folder: ("fit", folder / "nope.csv", "-o", folder / "new"),
    "not a table": on_text('a,b\n"1,2\n', "fit", "TABLE", "-o", "new"),
    "unknown suffix": lambda folder: ("fit", folder / "table.doc", "-o", folder / "new"),
    "nothing to learn": on_text("a\nx\ny\nz\n", "fit", "TABLE", "-o", "new"),
    "one row": on_text("a,b\n1,2\n", "fit", "TABLE", "-o", "new"),
    "infinity": on_text("a,b\n1,2\n3,inf\n2,2\n", "fit", "TABLE", "-o", "new"),
    "fewer rows than dimensions": on_text("a,b,c\n1,2,3\n3,2,1\n", "fit", "TABLE", "-o", "new", "--latent-dim", "3"),
    "more dimensions than columns": fit("--latent-dim", 4),
    "no dimension": fit("--latent-dim", 0),
    "a negative dimension": fit("--latent-dim", -1),
    "a dimension in words": fit("--latent-dim", "two"),
    "no dimension in the recipe": fit("--set", "flow.latent_dim=0"),
    "unknown setting": fit("--set", "flow.latent_dims=2"),
    "no setting": fit("--set", "flow.latent_dim"),
    "a value of the wrong type": fit("--set", "seed=x"),
    "a negative seed": fit("--seed", -1),
    "no time": fit("--max-time", "0s"),
    "no unit of time": fit("--max-time", "5 parsecs"),
    "no such recipe": fit("--recipe", "nope.yaml"),
    "unknown target": fit("--given", "nope"),
    "all are targets": fit("--given", "a,b", "--given", "k"),
    "an output that exists": lambda folder: ("fit", folder / "mixed.csv", "-o", folder / "mixed"),
    "an output that is no model": lambda folder: ("fit", folder / "mixed.csv", "-o", folder, "--force"),
    "no parent folder": lambda folder: ("fit", folder / "mixed.csv", "-o", folder / "no" / "new"),
    "a file as parent": lambda folder: ("fit", folder / "mixed.csv", "-o", folder / "mixed.csv" / "new"),
    "a name too long": lambda folder: ("fit", folder / "mixed.csv", "-o", folder / ("x" * 300)),
    "no model": verb("score", "nope", "mixed.csv"),
    "a table for a model": verb("score", "mixed.csv", "mixed.csv"),
    "other columns": verb("score", "mixed", "numbers.parquet"),
    "an unknown level": on_text("a,b,k,colour,up\n1,1,1,pink,True\n", "score", "mixed", "TABLE", "--strict"),
    "a missing value": on_text("a,b,k\n1,,1\n", "score", "numbers", "TABLE", "--strict"),
    "an infinity to score": on_text("a,b,k\n1,inf,1\n", "score", "numbers", "TABLE", "--strict"),
    "an unknown density": verb("score", "mixed", "mixed.csv", "--density", "exact"),
    "an unknown output": verb("score", "mixed", "mixed.csv", "-o", "scores.doc"),
    "an output in no folder": verb("encode", "mixed", "mixed.csv", "-o", "no/such/folder.csv"),
    "text into numbers": lambda folder: ("sample", folder / "mixed", "-n", 3, "-o", folder / "new.npy"),
    "no codes": verb("decode", "mixed", "mixed.csv"),
    "a report of no model": verb("report", "nope"),
    "a report on no table": verb("report", "mixed", "nope.csv"),
    "a report on other columns": verb("report", "mixed", "numbers.parquet"),
    "a report on no rows": on_text("a,b,k\n", "report", "numbers", "TABLE"),
    "a report in no folder": verb("report", "mixed", "-o", "no/such/report.html"),
    "a report that is no page": verb("report", "mixed", "-o", "report.pdf"),
    "images of another size": verb("report", "numbers", "--image", "2x2"),
    "images of no size": verb("report", "numbers", "--image", "big"),
    "images of levels": verb("report", "mixed", "--image", "1x6"),
    "too few rows": on_text("a,b,k\n1,1,1\n", "evaluate", "numbers", "TABLE"),
    "no condition": verb("sample", "given", "-n", 3),
    "half a condition": verb("sample", "given", "-n", 3, "--given", "k=1"),
    "an unknown condition": verb("sample", "given", "-n", 3, "--given", "k=1", "--given", "color=red"),
    "a needless condition": verb("sample", "mixed", "-n", 3, "--given", "k=1"),
    "no value": verb("sample", "given", "-n", 3, "--given", "k"),
    "no rows": verb("sample", "mixed", "-n", 0),
    "no number of rows": verb("sample", "mixed"),
    "a level without a range": verb("sample", "mixed", "-n", 3, "--at", "noise=0.1"),
    "a level that is no number": verb("sample", "mixed", "-n", 3, "--at", "noise=high"),
    "a level of something else": verb("sample", "mixed", "-n", 3, "--at", "gamma=1"),
    "a negative temperature": verb("sample", "mixed", "-n", 3, "--temperature", -1),
    "an endless temperature": verb("sample", "mixed", "-n", 3, "--temperature", "inf"),
    "no share of the codes": verb("sample", "mixed", "-n", 3, "--truncation", 0),
    "a truncated model": damaged("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9])),
    "an empty model": damaged("model.safetensors", lambda path: path.write_bytes(b"")),
    "a tensor of another shape": damaged("model.safetensors", reshape),
    "no tensors": damaged("model.safetensors", lambda path: path.unlink()),
    "no configuration": damaged("config.json", lambda path: path.unlink()),
    "a garbled configuration": damaged("config.json", lambda path: path.write_bytes(b"\xff\x00{")),
    "a list for a configuration": damaged("config.json", lambda path: path.write_text("[1]")),
    "an empty configuration": damaged("config.json", lambda path: path.write_text('{"format": 2}')),
    "an unknown format": damaged(
        "config.json", lambda path: path.write_text(path.read_text().replace(f'"format": {FORMAT}', '"format": 99'))
    ),
    "other dimensions": damaged(
        "config.json", lambda path: path.write_text(path.read_text().replace('"latent_dim": 1', '"latent_dim": 9'))
    ),
    "figures of another kind": damaged("metrics.json", lambda path: path.write_text("[]")),
    "garbled figures": damaged("metrics.json", lambda path: path.write_text("{")),
    "a path of no response": verb("path", "mixed.csv", "--response", "nope"),
    "a path of words": verb("path", "mixed.csv", "--response", "colour"),
    "a path of a constant": verb("path", "mixed.csv", "--response", "unit"),
    "a path of gaps": verb("path", "mixed.csv", "--response", "b"),
    "an elastic path": verb("path", "mixed.csv", "--response", "k", "--penalty", "elastic:0.5"),
    "a path of power zero": verb("path", "mixed.csv", "--response", "k", "--penalty", "lp:0"),
    "a path of no share": verb("path", "mixed.csv", "--response", "k", "--penalty", "l1+l2:1"),
    "a path of another measure": verb("path", "mixed.csv", "--response", "k", "--measure", "mass"),
    "an interval of everything": verb("path", "mixed.csv", "--response", "k", "--interval", "1"),
    "a path over its table": verb("path", "mixed.csv", "--response", "k", "-o", "mixed.csv", "--force"),
    "a page that is no page": verb("path", "mixed.csv", "--response", "k", "--report", "page.pdf"),
    "weights of words": verb("mixture-weights", "mixed.csv"),
    "weights of gaps": on_text("a,b\n1,\n2,3\n", "mixture-weights", "TABLE"),
    "weights of a sure thing": on_text("a,b\n1,inf\n2,3\n", "mixture-weights", "TABLE"),
    "weights of one": on_text("a\n1\n2\n", "mixture-weights", "TABLE"),
    "a prior in words": on_text("a,b\n1,2\n", "mixture-weights", "TABLE", "--alpha", "few"),
    "a prior of three": on_text("a,b\n1,2\n", "mixture-weights", "TABLE", "--alpha", "1,2,3"),
    "no verb": lambda _: (),
    "an unknown verb": lambda _: ("scroe",),
    "an unknown option": verb("score", "mixed", "mixed.csv", "--fast"),
    "no table": verb("score", "mixed"),
    "an unknown list": lambda _: ("list", "colours"),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.filterwarnings("error")
def test_a_mistake_is_one_line_and_writes_nothing(folder, name):
    arguments = MISTAKES[name](folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    if name != "no verb":  # which prints the help
        *progress, last = result.err.splitlines()
        assert last.startswith("isthmus: error: ")
        assert [line for line in progress if "error" in line or not NOTE.match(line)] == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    shutil.rmtree(folder / "damaged", ignore_errors=True)


def test_an_existing_output_is_refused_before_training(folder, monkeypatch):
    monkeypatch.setattr("isthmus.fitting.fit", lambda *_, **__: pytest.fail("trained in vain"))
    result = run("fit", folder / "numbers.parquet", "-o", folder / "mixed")
    assert (result.code, len(result.err.splitlines())) == (2, 1)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141)])
def test_interruptions_are_quiet(folder, monkeypatch, error, code):
    def interrupt(*_, **__):
        raise error

    monkeypatch.setattr("isthmus.scoring.encode", interrupt)
    before = sys.stdout
    try:
        result = run("encode", folder / "mixed", folder / "mixed.csv")
    finally:
        sys.stdout = before
    assert result.code == code
    assert len(result.err.splitlines()) == (code == 130)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), SystemExit(7)])
def test_errors_of_the_program_are_not_hidden(folder, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("isthmus.scoring.encode", fail)
    with pytest.raises(type(error)):
        run("encode", folder / "mixed", folder / "mixed.csv")


def test_no_likelihood_stands_alone_where_the_reconstruction_fails(tmp_path):
    """With so small a weight of the reconstruction the codes follow no data; the verdict must reach every figure."""
    table, models = tmp_path / "sine.csv", {beta: tmp_path / f"{beta}" for beta in (1e-4, "auto")}
    rng = np.random.default_rng(0)
    x = rng.normal(size=600)
    frame = pd.DataFrame({"x": x, "y": np.sin(1.5 * x)}) + 0.05 * rng.normal(size=(600, 2))
    write_table(frame, table)
    for beta, model in models.items():
        settings = ["--set", f"objective.beta={beta}", "--set", "training.max_steps=1500", "--no-report"]
        done("fit", table, "-o", model, "--latent-dim", 1, *settings)
    for verb in ("score", "evaluate"):
        bad, strict = run(verb, models[1e-4], table), run(verb, models[1e-4], table, "--strict")
        assert (bad.code, strict.code) == (0, 1)
        assert "cannot be trusted: " in bad.err
        assert "cannot be trusted: " in strict.err
        assert "beta" in bad.err
        assert strict.out.splitlines()[:5] == bad.out.splitlines()[:5]
        good = done(verb, models["auto"], table, "--strict")
        assert "cannot be trusted" not in good.err
    scores = done("score", models[1e-4], table).table
    assert scores["untrusted"].str.contains("raise it to about").all()
    assert list(done("score", models["auto"], table).table.columns) == ["log_density", "reconstruction_error"]
    assert "raise it" in done("evaluate", models[1e-4], table, "--json").record["untrusted"]
    assert done("evaluate", models["auto"], table, "--json").record["untrusted"] is None


def test_the_version_needs_no_verb():
    assert done("--version").out == f"isthmus {isthmus.__version__}\n"
    assert isthmus.__version__ == version("isthmus")


def test_the_package_lists_its_public_names():
    assert {*isthmus.__all__, "__version__"} <= set(dir(isthmus))
    for name in isthmus.__all__:
        assert getattr(isthmus, name) is not None


PHASES = ("preparing", "searching", "training", "fitting", "checking")


def test_a_log_has_a_line_a_phase_and_column_messages_before_the_training(folder, tmp_path, monkeypatch):
    real, said = isthmus.training.train, []
    monkeypatch.setattr("isthmus.fitting.train", lambda *a, **k: (said.append(sys.stderr.getvalue()), real(*a, **k))[1])
    result = done("fit", folder / "mixed.csv", "-o", tmp_path / "loud", *SHORT)
    verbs = [line.split()[1] for line in result.err.splitlines() if line.startswith("isthmus: ")]
    assert [verb for verb in verbs if verb in PHASES] == list(PHASES)
    assert "Constant columns" in said[0]
    quiet = done("fit", folder / "mixed.csv", "-o", tmp_path / "quiet", *SHORT, "--quiet")
    assert [
        line for line in quiet.err.splitlines() if not line.startswith(("isthmus: warn: ", "isthmus: fail: "))
    ] == []


def test_within_a_phase_a_line_comes_every_half_minute_at_most(monkeypatch):
    clock, log, err = [0.0], logging.getLogger("isthmus.test"), io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with contextlib.redirect_stderr(err), progress_lines():
        log.info("training")
        for second in range(100):
            clock[0] = float(second)
            log.debug("step %s", second)
        log.warning("late")
    lines = ["training", "step 30", "step 60", "step 90", "warning: late"]
    assert err.getvalue().splitlines() == [f"isthmus: {line}" for line in lines]
