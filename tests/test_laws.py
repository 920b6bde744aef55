"""Laws that the library does not know, each a class and one line in `FLOWS`: they go through every surface."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from isthmus import Recipe, fit, load, save, scoring
from isthmus.errors import InputError
from isthmus.estimator import InjectiveFlow, InjectiveFlowDetector
from isthmus.flow import Injection
from isthmus.flows import FLOWS
from isthmus.report import render
from isthmus.supports import MEASURES
from toylaws import TOYS

CLI = "import sys; sys.path.insert(0, {here!r}); import toylaws; from isthmus.flows import FLOWS; "
CLI += "FLOWS.update(toylaws.TOYS); from isthmus.cli import main; sys.exit(main())"
MEASURE = {"on_circle": "surface area", "counted": "counting", "normalised": "volume"}


def table(name, n=400):
    rng = np.random.default_rng(0)
    if name == "on_circle":
        angle = rng.vonmises(1.0, 4.0, n)
        return pd.DataFrame({"east": np.cos(angle), "north": np.sin(angle)})
    if name == "counted":
        first = rng.integers(0, 5, n)
        return pd.DataFrame({"a": first, "b": np.where(rng.random(n) < 0.9, first, rng.integers(0, 5, n))})
    return pd.DataFrame({"x": rng.normal(3.0, 0.5, n), "y": rng.normal(-100.0, 20.0, n)})


def truth(name):
    """The mean log density of the law that the rows come from, in nats."""
    if name == "counted":
        same, other = 0.9 + 0.1 / 5, 0.1 / 5
        return -np.log(5) + same * np.log(same) + 4 * other * np.log(other)
    return -np.log(0.5) - np.log(20.0) - 1 - np.log(2 * np.pi)


@pytest.fixture(scope="module", autouse=True)
def toys():
    with pytest.MonkeyPatch.context() as patch:
        for name, toy in TOYS.items():
            patch.setitem(FLOWS, name, toy)
        yield


@pytest.fixture(scope="module", params=TOYS)
def made(request, toys):
    recipe = {"flow": {"kind": request.param}, "training": {"max_steps": 300, "learning_rate": 0.03}}
    frame = table(request.param)
    return request.param, frame, fit(frame, recipe=recipe)


def test_a_fit_learns_the_law(made):
    name, frame, fitted = made
    scores = scoring.score(fitted, frame)["log_density"]
    if name == "on_circle":
        law = fitted.model.flow
        assert float(law.angle) == pytest.approx(1.0, abs=0.1)
        assert float(law.log_concentration.exp()) == pytest.approx(4.0, rel=0.2)
    else:
        assert scores.mean() == pytest.approx(truth(name), abs=0.1)
    assert fitted.model.density.rows.measure == MEASURE[name]
    assert MEASURES[MEASURE[name]] in fitted.measured


def test_densities_are_normalised_with_respect_to_their_measure(made):
    name, _, fitted = made
    if name == "on_circle":
        angle = (torch.arange(720) + 0.5) * torch.pi / 360
        total = fitted.model.log_prob(torch.stack([angle.cos(), angle.sin()], 1)).exp().sum() * torch.pi / 360
    elif name == "counted":
        total = fitted.model.log_prob(torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0))).exp().sum()
    else:
        x, y = torch.linspace(0, 6, 121).double(), torch.linspace(-240, 40, 141).double()
        total = fitted.model.log_prob(torch.cartesian_prod(x, y)).exp().sum() * 0.05 * 2.0
    assert float(total) == pytest.approx(1, abs=0.02)


def test_save_load_score_sample_evaluate_and_report(made, tmp_path):
    name, frame, fitted = made
    again = load(save(fitted, tmp_path / "model"))
    pd.testing.assert_frame_equal(scoring.score(again, frame), scoring.score(fitted, frame))
    drawn = scoring.sample(again, 500)
    assert list(drawn.columns) == list(frame.columns)
    again.model.density.rows.check(again.model.columns.standardise(torch.tensor(drawn.to_numpy(float))))
    figures = scoring.evaluate(again, frame)
    assert figures["measure"] == again.measured
    assert ("reconstruction_mse" in figures) is isinstance(again.model.flow, Injection)
    page = render(again, frame)
    assert again.measured in page.replace("&#39;", "'")
    if name == "normalised":
        assert bool(again.model.flow.initialised)


def test_colder_samples_are_likelier_or_refused(made):
    name, _, fitted = made
    torch.manual_seed(0)
    if name == "counted":
        with pytest.raises(InputError, match="expected temperature 1 for counts"):
            fitted.model.sample(5, temperature=0.5)
        return
    means = [float(fitted.model.log_prob(fitted.model.sample(2000, temperature=t)).mean()) for t in (0.3, 0.6, 1.0)]
    assert means == sorted(means, reverse=True)


def test_the_command_line_knows_it(made, tmp_path):
    name, frame, _ = made
    frame.to_csv(tmp_path / "table.csv", index=False)

    def isthmus(*arguments):
        code = CLI.format(here=str(Path(__file__).parent))
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    quick = ["--set", f"flow.kind={name}", "--set", "training.max_steps=20", "--no-report"]
    said = isthmus("fit", "table.csv", "-o", "m", *quick)
    phrase = MEASURES[MEASURE[name]]
    assert phrase in said
    assert phrase in isthmus("inspect", "m")
    assert phrase in json.loads(isthmus("evaluate", "m", "table.csv", "--json"))["measure"]
    assert isthmus("score", "m", "table.csv").splitlines()[0].startswith("log_density")
    assert len(isthmus("sample", "m", "-n", "3").splitlines()) == 4


def test_the_estimators_take_it(made):
    name, frame, _ = made
    options = {"recipe": {"flow": {"kind": name}}, "max_steps": 20, "random_state": 0}
    X = frame.to_numpy(float)
    assert np.isfinite(InjectiveFlow(**options).fit(X).score_samples(X)).all()
    assert set(InjectiveFlowDetector(**options).fit(X).predict(X)) <= {-1, 1}


def test_what_has_no_codes_says_so(made):
    name, frame, fitted = made
    if isinstance(fitted.model.flow, Injection):
        assert scoring.encode(fitted, frame).shape == (len(frame), 2)
        return
    with pytest.raises(InputError, match="expected a flow with codes; got"):
        scoring.encode(fitted, frame)
    with pytest.raises(InputError, match="which has no codes; got 1"):
        Recipe.validated({"flow": {"kind": name, "latent_dim": 1}})


def test_rows_off_the_support_are_refused(made):
    name, frame, _ = made
    if name != "normalised":
        with pytest.raises(InputError, match="expected rows of X on the"):
            fit(frame.to_numpy(float) + 0.2, recipe={"flow": {"kind": name}, "training": {"max_steps": 1}})
