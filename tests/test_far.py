"""Rows far beyond arithmetic are outliers everywhere: minus infinity, never NaN, by one function for all surfaces."""

import dataclasses
import io
import math

import numpy as np
import pandas as pd
import pytest
import torch

from cases import DIMENSIONS, INJECTIONS, fits, make_flow
from isthmus import InjectiveFlow, InjectiveFlowDetector, Recipe, cli, fit, latents, save, scoring
from isthmus.columns import Columns
from isthmus.data.tables import Parquet, Schema, write_table
from isthmus.density import ComponentNoise, IsotropicNoise, density_of
from isthmus.flow import LearnedManifold
from isthmus.metrics import energy_distance, fid_like
from isthmus.model import Model
from isthmus.parts import Parts

MAGNITUDES = [1e10, 1e50, 1e100, 1e150, 1e153, 1e154, 1e155, 1e160, 1e200, 1e300]
BEYOND = 1e155
QUICK = Recipe.validated({"flow": {"latent_dim": 2}, "training": {"max_steps": 30}})
LATENTS = [None, "mixture", "student_t"]


def far_rows(x):
    """A row moved to every magnitude and sign, in one column or all; and how far it is."""
    places = [[0], [x.shape[1] - 1], list(range(x.shape[1]))]
    rows, sizes = [], []
    for size in MAGNITUDES:
        for value in (size, -size):
            for place in places:
                row = x[0].clone()
                row[place] = value
                rows.append(row)
                sizes.append(size)
    return torch.stack(rows), torch.tensor(sizes, dtype=torch.float64)


def make_model(name, D, d, C, latent):
    flow = make_flow(name, D, d, C)
    manifold = isinstance(flow, LearnedManifold)
    noise = IsotropicNoise(D, 0.3) if manifold else None
    if latent == "mixture":
        flow.latent = latents.mixture(d, components=2).double()
        if manifold:
            noise = ComponentNoise(D, 2).double()
            noise.set_covariances((0.3 * torch.eye(D).double()).expand(2, D, D))
    elif latent is not None:
        flow.latent = latents.LATENTS[latent](d, C).double()
    x = torch.randn(250, D).double() * torch.logspace(-3, 4, D).double()
    x[:, -1] = x[:, -1].round()
    x[:, 0] = x[:, 0].exp() * torch.randn(250).double().exp().square()  # heavy-tailed
    c = torch.randn(250, C).double() if C else None
    context = None if c is None else Columns.learn(c, dequantise=False, drop=False)
    return Model(density_of(flow, noise), Columns.learn(x), context), x, c


CASES = [
    (name, dims, latent)
    for name in INJECTIONS
    if "euclidean" in INJECTIONS[name].supports
    for dims in DIMENSIONS
    for latent in LATENTS[: 3 if name == "freeform" else 1]
    if fits(name, *DIMENSIONS[dims][:2])
]


@pytest.mark.parametrize(("name", "dims", "latent"), CASES)
def test_no_density_is_nan_and_what_is_beyond_arithmetic_is_minus_infinity(name, dims, latent):
    model, x, c = make_model(name, *DIMENSIONS[dims], latent)
    rows, _ = far_rows(x)
    given = None if c is None else c[:1].expand(len(rows), -1)
    beyond = model.columns.standardise(rows).abs().amax(1) >= BEYOND
    assert beyond.any()
    for density in set(model.density.names) - {"manifold"}:
        near = model.log_prob(x[:50], None if c is None else c[:50], density=density)
        far = model.log_prob(rows, given, density=density)
        assert near.isfinite().all()
        assert not far.isnan().any()
        assert (far < near.min()).all()
        assert far[beyond].isneginf().all()
    for density in model.density.names:
        assert not model.log_prob(rows, given, density=density).isnan().any()
    error = model.reconstruction_error(rows, given)
    assert not error.isnan().any()
    assert not model.estimate(rows, given).standard_error.isnan().any()
    if model.flow.latent_dim < model.flow.data_dim:  # else a row may be its own reconstruction
        assert (error > model.reconstruction_error(x[:50], None if c is None else c[:50]).max()).all()
        assert error[beyond].isposinf().all()


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 3)) + 0.05 * rng.normal(size=(200, 3))
    return pd.DataFrame(X, columns=list("abc"))


@pytest.fixture(scope="module")
def far(table):
    """The table with rows of all magnitudes at its end, those beyond arithmetic last."""
    rows, sizes = far_rows(torch.from_numpy(table.to_numpy(copy=True)))
    return pd.concat([table, pd.DataFrame(rows.numpy(), columns=list("abc"))]), int((sizes >= BEYOND).sum())


@pytest.fixture(scope="module")
def fitted(table):
    schema, _ = Schema.learn(table)
    return dataclasses.replace(fit(table.to_numpy(copy=True), recipe=QUICK), schema=schema)


@pytest.mark.parametrize("density", ["linearised", "ambient"])
def test_estimators_call_far_rows_outliers(table, far, density):
    frame, beyond = far
    detector = InjectiveFlowDetector(2, recipe=QUICK, random_state=0, density=density).fit(table)
    inside, outside = frame.iloc[:200], frame.iloc[200:]
    assert (detector.predict(inside) == 1).mean() > 0.8
    assert (detector.predict(outside) == -1).all()
    assert np.isneginf(detector.decision_function(frame)[-beyond:]).all()
    detector.offset_ = -np.inf  # as where more training rows than the contamination are far
    assert np.isneginf(detector.decision_function(frame)[-beyond:]).all()
    assert (detector.predict(frame.iloc[-beyond:]) == -1).all()


def test_a_row_without_weight_is_not_in_the_mean(table, far):
    frame, beyond = far
    flow = InjectiveFlow(2, recipe=QUICK, random_state=0).fit(table)
    weights = np.r_[np.ones(len(frame) - beyond), np.zeros(beyond)]
    assert math.isfinite(flow.score(frame.iloc[[0, -1]], sample_weight=[1, 0]))
    assert flow.score(frame, sample_weight=weights) < flow.score(table)
    assert flow.score(frame) == -math.inf


def test_scores_in_memory_in_parts_and_from_the_command_line(fitted, far, tmp_path, capsys):
    frame, beyond = far
    scores = scoring.score(fitted, frame)
    assert np.isneginf(scores["log_density"][-beyond:]).all()
    assert np.isposinf(scores["reconstruction_error"][-beyond:]).all()
    assert not scores[["log_density", "reconstruction_error"]].isna().any(axis=None)
    write_table(frame, tmp_path / "far.parquet")
    job = Parts(fitted, Parquet.open(tmp_path / "far.parquet"), tmp_path / "parts")
    assert list(job.write()) == [0]
    in_parts = pd.read_parquet(job.path(0))
    pd.testing.assert_frame_equal(in_parts[["log_density", "reconstruction_error"]], scores)
    model = save(fitted, tmp_path / "model")
    assert cli.main(["score", str(model), str(tmp_path / "far.parquet")]) == 0
    said = pd.read_csv(io.StringIO(capsys.readouterr().out))
    np.testing.assert_allclose(said["log_density"], scores["log_density"])


def test_evaluate_counts_them(fitted, far, table, tmp_path, capsys):
    frame, beyond = far
    figures = scoring.evaluate(fitted, frame)
    assert figures["beyond_arithmetic"] >= beyond
    assert figures["log_density"] == -math.inf
    assert math.isfinite(figures["log_density_standard_error"])
    assert math.isfinite(figures["log_density_gap"])
    assert figures["energy_distance"] == figures["fid_like"] == figures["reconstruction_mse"] == math.inf
    assert scoring.evaluate(fitted, table)["beyond_arithmetic"] == 0
    model = save(fitted, tmp_path / "model")
    write_table(frame, tmp_path / "far.csv")
    assert cli.main(["evaluate", str(model), str(tmp_path / "far.csv")]) == 0
    assert "beyond arithmetic" in capsys.readouterr().out


@pytest.mark.parametrize("metric", [energy_distance, fid_like])
def test_a_distance_that_overflows_is_not_zero(metric):
    x = torch.randn(20, 2).double()
    assert metric(x, 1e200 * x) == math.inf
