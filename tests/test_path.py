"""Penalty paths and mixture weights for users: estimators, commands, pages; against closed forms."""

import json
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge, lars_path
from sklearn.utils.estimator_checks import parametrize_with_checks

from isthmus.data.tables import Regression
from isthmus.errors import InputError
from isthmus.inference import MixtureWeights, PenaltyPath
from isthmus.report.laws import QUESTIONS
from test_cli import done, run

TINY = {"training": {"max_steps": 2, "validations": 1, "batch_size": 16}, "restarts": 0, "random_state": 0}
TINY |= {"flow": {"transforms": 1, "width": 8, "bins": 4}}
STEPS = ("--steps", "3", "--levels", "3")


SHORT = TINY | {"training": {"max_steps": 100, "validations": 1, "batch_size": 16}}  # enough to predict by


@parametrize_with_checks([PenaltyPath(**SHORT, draws=1000), MixtureWeights(**TINY)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def diabetes():
    """Three columns, the last of them with two levels of text, and a response."""
    frame = load_diabetes(as_frame=True, scaled=False).frame[["bmi", "s5", "sex", "target"]]
    return frame.assign(sex=np.where(frame["sex"] == 1, "f", "m"))


@pytest.fixture(scope="module")
def log_likelihoods():
    rng = np.random.default_rng(0)
    x, means = rng.normal(rng.choice([-2.0, 2.0], 40, p=[0.8, 0.2])), np.array([-2.0, 0.0, 2.0])
    return pd.DataFrame(-0.5 * (x[:, None] - means) ** 2, columns=["<deer>", "salmon", "seal"])


def test_a_table_becomes_a_regression_with_a_group_a_column(diabetes):
    X, y, names, groups, notes = Regression.of(diabetes, "target")
    assert names == ("bmi", "s5", "sex=f", "sex=m")
    assert groups == (0, 1, 2, 2)
    np.testing.assert_array_equal(y, diabetes["target"])
    np.testing.assert_array_equal(X[:, 0], diabetes["bmi"])
    assert any("sex" in note for note in notes)
    with pytest.raises(InputError, match=r"missing value in row 1"):
        Regression.of(diabetes.assign(target=diabetes["target"].where(diabetes.index != 1)), "target")


def standardised(*columns):
    X, y = load_diabetes(return_X_y=True)
    X = X[:, columns]
    return (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_penalised_least_squares_beside_the_posterior_is_that_of_scikit_learn(p):
    """Also where columns depend on one another, as all levels of a category do."""
    X, y = load_diabetes(return_X_y=True)
    X = X[:, [2, 3, 8]] * [1.0, 7.0, 0.1]
    fitted = PenaltyPath(p, **TINY).fit(X, y)
    A, b = standardised(2, 3, 8)
    levels = fitted.highest_ * np.array([0.1, 0.5, 1.0])
    coefficients = fitted.least_squares(levels) * X.std(0) / y.std()
    np.testing.assert_allclose((np.abs(coefficients) ** p).sum(1) ** (1 / p), levels, rtol=1e-5)
    if p == 1:
        _, _, corners = lars_path(A, b, method="lasso")
        sizes = np.abs(corners).sum(0)
        expected = np.stack([np.interp(levels, sizes, corner) for corner in corners], 1)
        np.testing.assert_allclose(coefficients, expected, atol=1e-6)
    else:
        penalty = (A.T @ (b - A @ coefficients[1]))[0] / coefficients[1, 0]
        np.testing.assert_allclose(Ridge(penalty, fit_intercept=False).fit(A, b).coef_, coefficients[1], rtol=1e-6)
    assert np.isnan(fitted.least_squares([2 * fitted.highest_])).all()


def test_columns_that_depend_on_one_another_have_their_noise_and_their_path(diabetes):
    X, y, _, groups, _ = Regression.of(diabetes, "target")
    fitted = PenaltyPath(groups=groups, **TINY).fit(X, y)
    plain = PenaltyPath(2, **TINY).fit(X[:, :3], y)
    assert fitted.sigma_ == pytest.approx(plain.sigma_, rel=1e-9)
    assert fitted.least_squares([fitted.highest_]) is None
    along = PenaltyPath(2, **TINY).fit(X, y)
    np.testing.assert_allclose(X @ (along.least_squares([along.highest_])[0] - 0).T, X @ _fit(X, y), atol=80)
    assert np.isfinite(fitted.path([fitted.highest_]).mean).all()


def _fit(X, y):
    return np.linalg.lstsq(X - X.mean(0), y - y.mean(), rcond=None)[0]


def test_the_mixed_penalty_is_a_norm_between_its_two():
    """Of two columns: the level set is a curve, where everything is a sum over angles with its length."""
    A, b = standardised(2, 8)
    training = {"max_steps": 250, "batch_size": 128, "validations": 5}
    fitted = PenaltyPath(share=0.4, training=training, flow={"bins": 6, "width": 32}, restarts=0, random_state=0)
    fitted.fit(A, b)
    level = 0.5 * fitted.highest_
    angle = np.linspace(-np.pi, np.pi, 20_001)
    n = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = level * n / (0.4 * np.abs(n).sum(1) + 0.6)[:, None]
    middle, length = (points[1:] + points[:-1]) / 2, np.linalg.norm(np.diff(points, axis=0), axis=1)
    log_likelihood = -0.5 * ((b[:, None] - A @ middle.T) ** 2).sum(0) / fitted.sigma_**2
    w = length * np.exp(log_likelihood - log_likelihood.max())
    mean = w @ middle / w.sum()
    deviation = np.sqrt(w @ (middle - mean) ** 2 / w.sum())
    path = fitted.path([level])
    np.testing.assert_allclose(path.mean[0], mean, atol=0.1 * deviation.min())
    np.testing.assert_allclose(path.deviation[0], deviation, rtol=0.1)
    evidence = log_likelihood.max() + np.log(w.sum() / length.sum())
    evidence -= 0.5 * len(b) * np.log(2 * np.pi * fitted.sigma_**2)
    assert path.log_evidence[0] == pytest.approx(evidence, abs=0.08)
    for share in (0.0, 1.0):
        with pytest.raises(InputError, match="share in"):
            PenaltyPath(share=share, **TINY).fit(A, b)
    with pytest.raises(InputError, match="groups or a share"):
        PenaltyPath(share=0.5, groups=(0, 1), **TINY).fit(A, b)


@pytest.mark.parametrize("estimator", [PenaltyPath(share=0.5, **TINY), PenaltyPath(groups=(0, 0, 1), **TINY)])
def test_estimators_keep_names_and_are_cloned_and_pickled(estimator, diabetes):
    frame, y = diabetes[["bmi", "s5"]].assign(age=range(len(diabetes))), diabetes["target"]
    fitted = clone(estimator).fit(frame, y)
    assert list(fitted.feature_names_in_) == ["bmi", "s5", "age"]
    again = pickle.loads(pickle.dumps(fitted))
    level = [fitted.level_]
    np.testing.assert_array_equal(again.path(level).mean, fitted.path(level).mean)
    np.testing.assert_array_equal(again.predict(frame), fitted.predict(frame))
    with pytest.raises(ValueError, match="minimum of 2"):
        clone(estimator).fit(frame[["bmi"]], y)


def test_log_densities_may_be_minus_infinity_and_nothing_else_that_is_no_number(log_likelihoods):
    rows = log_likelihoods.to_numpy().copy()
    rows[0, 0] = -np.inf
    assert np.isfinite(MixtureWeights(**TINY).fit(rows).mean_).all()
    for value, message in ((np.nan, "NaN"), (np.inf, "inf")):
        rows[0, 0] = value
        with pytest.raises(InputError, match=message):
            MixtureWeights(**TINY).fit(rows)
    rows[0] = -np.inf
    with pytest.raises(InputError, match="row 0 with none"):
        MixtureWeights(**TINY).fit(rows)


# -------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("penalty", ["l1", "l2", "l1+l2:0.5"])
def test_a_path_is_written_with_a_page(tmp_path, diabetes, penalty):
    diabetes.to_csv(tmp_path / "table.csv", index=False)
    table, page = tmp_path / "path.csv", tmp_path / "path.html"
    outputs = ("-o", table, "--report", page)
    arguments = ("path", tmp_path / "table.csv", "--response", "target", "--penalty", penalty, *STEPS, *outputs)
    result = done(*arguments)
    frame = pd.read_csv(table)
    assert list(frame["column"].unique()) == ["bmi", "s5", "sex=f", "sex=m"]
    assert frame["level"].nunique() == 3
    assert (frame["low"] <= frame["high"]).all()
    assert frame.notna().all(axis=None)
    assert "level" in result.out
    text = page.read_text()
    assert "Penalty path of target" in text
    assert ("least angle" in text) == (penalty == "l1")
    assert ("ridge regression" in text) == (penalty == "l2")
    assert "negri2025" in text
    assert "isthmus path " in text
    refused = run(*arguments)
    assert (refused.code, "--force" in refused.err) == (2, True)


def test_the_same_seed_gives_the_same_path_and_json_its_figures(tmp_path, diabetes):
    stdin = diabetes[["bmi", "s5", "target"]].to_csv(index=False)
    options = ("path", "-", "--response", "target", "--penalty", "group", *STEPS, "--seed", "3")
    one, table = done(*options, stdin=stdin), tmp_path / "path.csv"
    record = json.loads(done(*options, "--json", "-o", table, stdin=stdin).out)
    assert table.read_text() == one.out
    assert one.table.shape == (6, 9)
    assert set(record["coefficients"]) == {"bmi", "s5"}
    assert {verdict["name"] for verdict in record["health"]["verdicts"]} == set(QUESTIONS)
    assert "isthmus: fail: " in one.err  # after three steps


def test_mixture_weights_are_written_with_a_page(tmp_path, log_likelihoods):
    log_likelihoods.to_csv(tmp_path / "rows.csv", index=False)
    table, page = tmp_path / "weights.csv", tmp_path / "weights.html"
    outputs = ("-o", table, "--report", page)
    done("mixture-weights", tmp_path / "rows.csv", "--alpha", "0.5,1,2", "--steps", "40", *outputs)
    frame = pd.read_csv(table).set_index("component")
    assert frame["mean"].sum() == pytest.approx(1)
    assert frame["mean"].idxmax() == "<deer>"
    text = page.read_text()
    assert "Three weights at once" in text
    assert "<deer>" not in text


def test_a_limited_time_is_kept(tmp_path, log_likelihoods):
    record = done(
        "mixture-weights", "-", "--max-time", "2s", "--json", stdin=log_likelihoods.to_csv(index=False)
    ).record
    assert record["weights"]["<deer>"] > record["weights"]["salmon"]
