"""Coupling flows and iterative ones as a user has them: recipes, fits, folders, the command line, reports."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from isthmus import InputError, Recipe, fit, load, save, scoring
from isthmus.cli import main
from isthmus.data.tables import Schema
from isthmus.report import render

RECIPES = {
    "kernel": "{kind: coupling, layers: realnvp, transforms: 3, conditioner: kernel, points: 12, kernel: matern}",
    "radial": "{kind: coupling, layers: volume_preserving+radial, transforms: 3, width: 16}",
    "list": "{kind: coupling, layers: [actnorm, affine, lu, spline, orthogonal], transforms: 2, width: 16}",
    "iterative": "{kind: iterative, layers: 30}",
}


NO_STEPS = {"training": {"max_steps": 0}, "refit": {"latent": "as trained"}}


def table(n=300):
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    y = x**2 + 0.5 * rng.normal(size=n)
    return pd.DataFrame({"x": 10 * x, "y": y, "k": rng.poisson(3.0, n), "place": np.where(x > 0, "a", "b")})


@pytest.fixture(scope="module", params=RECIPES)
def made(request):
    frame = table()
    schema, _ = Schema.learn(frame, ["place"])
    recipe = Recipe.parse(f"{{flow: {RECIPES[request.param]}, training: {{max_steps: 80}}}}")
    fitted = fit(*schema.encode(frame), recipe=recipe)
    return request.param, frame, dataclasses.replace(fitted, schema=schema)


def test_a_fit_is_better_than_a_normal_law_and_exact(made):
    _, frame, fitted = made
    x = torch.as_tensor(frame[["x", "y", "k"]].to_numpy(float))
    normal = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T)).log_prob(x).mean()
    assert scoring.score(fitted, frame)["log_density"].mean() > float(normal) + 0.1


def test_a_folder_brings_back_every_score_and_the_state_of_its_layers(made, tmp_path):
    name, frame, fitted = made
    again = load(save(fitted, tmp_path / "model"))
    pd.testing.assert_frame_equal(scoring.score(again, frame), scoring.score(fitted, frame))
    before, after = fitted.model.flow.state_dict(), again.model.flow.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    if name in ("list", "radial"):
        assert all(bool(flag) for key, flag in after.items() if key.endswith("started"))
    if name == "iterative":
        assert int(after["transform.used"]) > 0
        assert again.figures.steps == 0


def test_an_evaluation_says_what_a_layer_would_gain_and_a_report_what_layers_there_are(made):
    name, frame, fitted = made
    figures = scoring.evaluate(fitted, frame)
    assert 0 <= figures["affine_gain"] < 2
    assert 0 < figures["affine_gain_standard_error"] < 0.3
    assert "log_density_linearised" not in figures
    cited = {"kernel": "english2023", "radial": "draxler2024", "list": "kingma2018", "iterative": "draxler2024"}
    assert cited[name] in render(fitted, frame)


def test_a_layer_would_gain_much_where_none_has_learnt_anything():
    rng = np.random.default_rng(0)
    x = rng.normal(size=900)
    frame = pd.DataFrame({"x": x, "y": x**2 + 0.5 * rng.normal(size=900)})
    untrained = fit(frame.to_numpy(), recipe={"flow": {"kind": "coupling", "layers": "realnvp"}, **NO_STEPS})
    figures = scoring.evaluate(untrained, frame)
    assert figures["affine_gain"] > 0.3 + 3 * figures["affine_gain_standard_error"]
    assert re.search(r"one more layer would gain \d\.\d{2,3} ± 0\.\d{2,3} nats on the judged", render(untrained, frame))
    assert "affine_gain" not in scoring.evaluate(untrained, frame.iloc[:29])


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ("{kind: coupling, layers: realnpv}", "flow 'coupling': layers"),
        ("{kind: coupling, layers: [affine, actnrm]}", "flow 'coupling': layers"),
        ("{kind: coupling, layers: []}", "expected at least one layer of a coupling flow; got none"),
        ("{kind: coupling, points: 5}", "expected no points with conditioner 'mlp', which does not read it; got 5"),
        ("{kind: coupling, conditioner: kernel, width: 5}", "expected no width with conditioner 'kernel'"),
        ("{kind: coupling, bound: 0}", "flow 'coupling': bound"),
        ("{kind: iterative, step: 1.5}", "flow 'iterative': step"),
        ("{kind: iterative, layrs: 5}", "unknown key 'layrs'; did you mean 'layers'?"),
    ],
)
def test_recipes_that_cannot_work_are_refused_before_any_work(flow, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Recipe.parse(f"{{flow: {flow}}}")


def test_too_few_columns_are_refused_with_what_to_use():
    with pytest.raises(InputError, match="expected at least 3 columns for GIN couplings"):
        fit(np.random.default_rng(0).normal(size=(50, 2)), recipe={"flow": {"kind": "coupling", "layers": "gin"}})


def test_whole_numbers_are_spread_before_rows_start_a_flow():
    """Else conditional deviations of atoms would be 0, and densities without bound."""
    X = np.random.default_rng(0).integers(0, 4, (2_000, 3)).astype(float)
    fitted = fit(X, recipe={"flow": {"kind": "iterative"}})
    assert fitted.model.log_prob(torch.as_tensor(X)).mean() == pytest.approx(-3 * np.log(4), abs=0.8)


@pytest.mark.parametrize("kind", ["coupling", "iterative"])
def test_the_command_line_fits_it(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table(200).drop(columns="place").to_csv("t.csv", index=False)
    quick = ["--set", "training.max_steps=20", "--no-report"]
    assert main(["fit", "t.csv", "-o", "m", "--set", f"flow.kind={kind}", *quick]) == 0
    capsys.readouterr()
    assert main(["evaluate", "m", "t.csv", "--json"]) == 0
    assert np.isfinite(json.loads(capsys.readouterr().out)["log_density"])
