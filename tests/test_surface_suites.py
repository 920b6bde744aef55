"""The benchmarks of known surfaces: forms of the change of volume, optima on level sets, simulated rows, targets."""

import math

import numpy as np
import pytest
import torch
from benchmarks import chains
from benchmarks.experiments import inferring, paths, stretch

from isthmus.inference import Weights
from isthmus.supports import LpSphere, Simplex, Sphere


@pytest.mark.parametrize("d", [2, 3, 10, 50])
@pytest.mark.parametrize("name", stretch.SURFACES)
def test_the_forms_of_the_change_of_volume_agree(name, d):
    torch.manual_seed(d)
    surface = stretch.SURFACES[name](d)
    n = Sphere(d).uniform(4).double()
    theta = stretch.angles(n)
    torch.testing.assert_close(stretch._direction(theta)[0], n)
    brute = stretch.brute(surface, theta)
    for form in (stretch.linear, stretch.quadratic):
        torch.testing.assert_close(form(surface, theta), brute, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("most", "calls"), [(9.0, 5), (1e-9, 1)])
def test_times_are_medians_of_calls_after_the_first(most, calls):
    seen = []
    value, milliseconds = stretch.timed(lambda: seen.append(sum(range(9_999))) or torch.ones(2), most=most, repeats=4)
    assert len(seen) == calls
    assert 0 < milliseconds < 100
    assert value.tolist() == [1, 1]


def test_optima_on_level_sets_are_those_of_their_conditions():
    """The gradient is as steep in all columns that the LASSO takes; of ridge it points along the coefficients."""
    X, y, level = chains.regression()
    b = paths.lasso(X, y, level)
    slope = X.T @ (y - X @ b)
    assert np.abs(b).sum() == pytest.approx(level)
    assert np.abs(slope[b != 0]) == pytest.approx(np.abs(slope).max())
    b = paths.ridge(X, y, 0.5)
    assert np.linalg.norm(b) == pytest.approx(0.5)
    assert X.T @ (y - X @ b) / b == pytest.approx(np.full(len(b), (X.T @ (y - X @ b))[0] / b[0]))


@pytest.mark.parametrize("p", [1, 2])
def test_simulated_rows_are_standardised_and_their_truth_is_on_the_level_set(p):
    spec = {"p": p, "rows": 4_000, "columns": 3, "mixing": 0.3, "sigma": 1.0}
    X, y, b, level, sigma = paths._simulated(spec, np.random.default_rng(0))
    assert X.mean(0) == pytest.approx(0, abs=1e-9)
    assert X.std(0) == pytest.approx(1)
    assert (y.mean(), y.std()) == pytest.approx((0, 1))
    assert float(LpSphere(3, float(p)).log_gauge(torch.tensor(b)[None]).exp()) == pytest.approx(level)
    assert (y - X @ b).std() == pytest.approx(sigma, rel=0.05)
    np.testing.assert_allclose(np.linalg.lstsq(X, y)[0], b, atol=0.1)


@pytest.mark.parametrize("name", ["dirichlet", "opposite", "spiral"])
def test_targets_have_the_evidence_and_the_moments_that_they_say(name, monkeypatch):
    """By importance weights of uniform draws, not by a law that is learnt."""
    densities = []
    monkeypatch.setattr(inferring, "infer", lambda log_density, support, **_: densities.append((log_density, support)))
    target = inferring.TARGETS[name](**({"d": 3, "alpha": [2.0, 3.0, 4.0]} if name == "dirichlet" else {}))
    target.learn({"training": {}}, 0)
    ((log_density, support),) = densities
    assert support == (Simplex(3) if name == "dirichlet" else Sphere(3))
    torch.manual_seed(0)
    x = support.uniform(400_000).double()
    weights = Weights(log_density(x, None), torch.full((len(x),), -support.log_area().value), x)
    assert weights.log_evidence == pytest.approx(target.log_evidence, abs=0.02)
    moments = weights.summarise(x)
    np.testing.assert_allclose(moments.mean, target.mean, atol=0.02)
    if target.variance is not None:
        np.testing.assert_allclose(moments.deviation**2, target.variance, rtol=0.02)


def test_the_target_of_outcomes_is_their_posterior():
    target = inferring.multinomial(4, 0.5, 10)
    assert float(target.mean.sum()) == pytest.approx(1)
    counts = target.mean * 12 - 0.5
    torch.testing.assert_close(counts, counts.round())
    assert float(counts.sum()) == pytest.approx(10)
    lgamma = math.lgamma
    exact = sum(lgamma(0.5 + c) - lgamma(0.5) for c in counts.tolist()) + lgamma(2) - lgamma(12)
    assert target.log_evidence == pytest.approx(exact)


def test_errors_of_exact_draws_are_about_their_noise():
    target = inferring.dirichlet(5, 0.7)
    torch.manual_seed(0)
    x = torch.distributions.Dirichlet(torch.full((5,), 0.7).double()).sample((50_000,))
    values = inferring._moments(x, target)
    for name in ("mean", "variance"):
        assert 0.2 < values[f"{name}_error"] / values[f"{name}_noise"] < 2.5
