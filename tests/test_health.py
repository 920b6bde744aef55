"""Diagnostics against closed forms, and verdicts: what is healthy passes, what is sabotaged is called by its name."""

import json
import math

import pytest
import torch
from scipy.optimize import nnls
from sklearn.datasets import load_digits
from torch import nn

from cases import gradients, make_flow, randn
from isthmus import FreeForm, Recipe, fit
from isthmus.data import DATASETS
from isthmus.density import Ambient, IsotropicNoise
from isthmus.diagnostics import (
    LIMITS,
    Health,
    Limits,
    Verdict,
    agreement,
    codes,
    correlation_dimension,
    curvature,
    examine,
    flat_pieces,
    generalisation,
    gradient_quality,
    pseudo_inverse,
    reconstruction,
    samples,
    spectrum,
    two_sample,
)
from isthmus.diagnostics.likelihood import _decoder_log_volume, _nearest_sum
from isthmus.errors import InputError
from isthmus.flows import FreeFormFlow
from isthmus.metrics import energy_distance
from isthmus.networks import mlp_pair
from isthmus.recipe import RefitRecipe, TrainingRecipe
from isthmus.refit import refit_density
from isthmus.rows import Rows
from isthmus.training import train

SIGMA = 0.1


class Circle(nn.Module):
    def __init__(self, radius):
        super().__init__()
        self.radius = radius

    def forward(self, z):
        return self.radius * torch.cat([z.cos(), z.sin()], 1)


class Angle(nn.Module):
    def forward(self, x):
        return torch.atan2(x[:, 1:], x[:, :1])


def linear_flow(J, F, latent=None):
    """`f(x) = F x`, `g(z) = J z`."""
    D, d = J.shape
    encoder, decoder = nn.Linear(D, d, bias=False), nn.Linear(d, D, bias=False)
    encoder.weight.data, decoder.weight.data = F, J
    return FreeFormFlow(encoder, decoder, D, d, latent=latent).double()


def frame(D=5):
    return torch.linalg.qr(randn(D, D)).Q


def isometric(D=5, d=2):
    """Orthonormal J, its pseudo-inverse, and rows around the plane that it spans."""
    Q = frame(D)[:, :d]
    return linear_flow(Q, Q.mT), (randn(1200, d) @ Q.mT + SIGMA * randn(1200, D))


def split(x, most=800):
    return Rows(x[:most]), Rows(x[most:])


def isotropic(flow, sigma=SIGMA):
    return Ambient(flow, IsotropicNoise(flow.data_dim, sigma)).double()


def toy(kind, n=2500, **options):
    """Standardised rows of a data set."""
    x = DATASETS[kind](n_train=n, n_validation=2, n_test=2, **options).train.double()
    return (x - x.mean(0)) / x.std(0)


# --------------------------------------------------------------------------------------------- encoder and decoder


def test_a_linear_isometric_pair_is_its_own_inverse_and_flat():
    flow, x = isometric()
    gap, defect, trace = pseudo_inverse(flow, x)
    assert gap == pytest.approx(0, abs=1e-12)
    assert defect == pytest.approx(0, abs=1e-12)
    assert trace == pytest.approx(1)
    flat = curvature(flow, x, sigma=SIGMA)
    assert flat.per_length == pytest.approx(0, abs=1e-6)
    assert flat.detour == pytest.approx(1)
    quality = gradient_quality(flow, x)
    assert quality.encoder == pytest.approx(1)
    assert quality.decoder == pytest.approx(0, abs=1e-12)  # this surrogate leaves the decoder alone
    assert gradient_quality(flow, x, surrogate="decoder").decoder == pytest.approx(1)


def test_the_nearest_sum_of_two_gradients_is_that_of_nonnegative_least_squares():
    a, b = randn(2, 50)
    targets = {"inside": a + 2 * b, "edge": a - b, "off": a + randn(50), "other edge": b - 2 * a}
    for name, target in targets.items():
        weights, _ = nnls(torch.stack([a, b], 1).numpy(), target.numpy())
        found = _nearest_sum(target, a, b)
        along = weights[0] * a + weights[1] * b
        assert found / found.norm() == pytest.approx(along / along.norm(), abs=1e-9), name
    assert torch.equal(_nearest_sum(a, a, a), a)  # parallel gradients have no unique weights


def test_an_encoder_that_sees_normal_directions_is_off_the_pseudo_inverse_by_as_much():
    Q = frame()
    gap, defect, trace = pseudo_inverse(linear_flow(2 * Q[:, :2], Q[:, :2].mT / 2 + 0.15 * Q[:, 2:4].mT), randn(9, 5))
    assert gap == pytest.approx(0.3)
    assert defect == pytest.approx(0, abs=1e-12)
    assert trace == pytest.approx(1)
    gap, defect, trace = pseudo_inverse(linear_flow(Q[:, :2], 1.2 * Q[:, :2].mT), randn(9, 5))
    assert (gap, defect, trace) == (pytest.approx(0.2), pytest.approx(0.2), pytest.approx(1.2))


@pytest.mark.parametrize("radius", [0.5, 1.0, 3.0])
def test_a_circle_turns_by_one_over_its_radius(radius):
    flow = FreeFormFlow(Angle(), Circle(radius), 2, 1)
    angle = 2.5 * torch.rand(400, 1).double() - 1
    found = curvature(flow, radius * torch.cat([angle.cos(), angle.sin()], 1), sigma=0.1)
    assert found.per_length == pytest.approx(1 / radius, rel=1e-3)
    assert found.times_noise == pytest.approx(0.1 / radius, rel=1e-3)
    assert found.per_line == pytest.approx(2.5 / 3, rel=0.3)  # the mean distance of two uniform angles
    assert 1 < found.detour < 1.2


def test_singular_values_are_extents_whatever_the_scale_of_the_codes():
    Q = frame()
    J = Q[:, :3] * torch.tensor([3.0, 2.0, 0.01]).double()
    x = randn(4000, 3) @ J.mT
    for scale in (1.0, 7.0):
        found = spectrum(linear_flow(J / scale, scale * torch.linalg.pinv(J)), x, sigma=0.1)
        assert found.mean == pytest.approx((3.0, 2.0, 0.01), rel=0.05)
        assert found.deviation == pytest.approx((0, 0, 0), abs=1e-9)
        assert found.participation == pytest.approx((9 + 4) ** 2 / (81 + 16), rel=0.05)
        assert found.above_noise == 2


def test_residuals_of_the_right_plane_are_at_the_noise_floor_and_of_a_wrong_one_above():
    flow, x = isometric()
    train_rows, held_out = Rows(x[:800]), Rows(x[800:])
    pieces = flat_pieces(x[:800], x[800:], 4)
    found = reconstruction(flow, train_rows, held_out, pieces)
    assert found.excess == pytest.approx(1, abs=0.02)
    for variance in (found.train, found.held_out, found.floor):
        assert variance == pytest.approx(SIGMA**2, rel=0.15)
    assert found.unexplained == pytest.approx(3 * SIGMA**2 / (2 + 5 * SIGMA**2), rel=0.2)
    wrong = frame()[:, :2]
    found = reconstruction(linear_flow(wrong, wrong.mT), train_rows, held_out, pieces)
    assert found.excess - 2 * found.standard_error > 3


@pytest.mark.parametrize("surrogate", ["encoder", "decoder", "conditional", "encoder_on_manifold"])
def test_gradients_of_an_untrained_pair_are_no_better_than_they_should(surrogate):
    flow, x = make_flow("freeform", D=4, d=2), randn(30, 4)
    quality = gradient_quality(flow, x, surrogate=surrogate)
    assert all(abs(cosine) < 0.99 for cosine in quality[:2])
    assert 0 < quality.single <= 1
    assert quality == gradient_quality(flow, x, surrogate=surrogate)
    assert all(parameter.grad is None for parameter in flow.parameters())


def test_the_exact_gradient_of_the_decoder_takes_d_products():
    flow, x = make_flow("freeform", D=4, d=2), randn(6, 4)
    _, _, log_volume = flow.volume(x)
    expected = gradients(log_volume, flow.parameters())
    torch.testing.assert_close(gradients(_decoder_log_volume(*flow.maps(), x), flow.parameters()), expected)


# ---------------------------------------------------------------------------------------------------- the data alone


def test_flat_pieces_leave_the_noise_beyond_the_dimension_of_a_plane():
    _, x = isometric(D=6, d=2)
    pieces = flat_pieces(x[:800], x[800:], 6)
    assert pieces.variance(0) == pytest.approx(float(x.square().sum(1).mean()) / 6, rel=0.15)
    for q in (2, 3, 4, 5):
        assert pieces.variance(q) == pytest.approx(SIGMA**2, rel=0.15)
    assert pieces.variance(6) == pytest.approx(0, abs=1e-12)
    assert (pieces.squares.diff(dim=1) <= 1e-12).all()


@pytest.mark.parametrize(("kind", "d", "noise"), [("sine", 1, 0.1), ("sine", 1, 0.2), ("swiss_roll", 2, 0.1)])
def test_curved_manifolds_are_cut_into_pieces_down_to_the_noise(kind, d, noise):
    raw = DATASETS[kind](n_train=5000, n_validation=2, n_test=2, noise=noise).train.double()
    pieces = flat_pieces(raw[:4000], raw[4000:], d)
    assert pieces.count > 1
    assert pieces.variance(d) == pytest.approx(noise**2, rel=0.6)


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.2])
@pytest.mark.parametrize(
    ("kind", "d"), [("sine", 1), ("swiss_roll", 2), ("sphere", 2), ("torus", 2), ("random_manifold", 3)]
)
def test_the_dimension_beyond_the_noise_tells_d_from_half_of_d(kind, d, noise):
    x = toy(kind, noise=noise)

    def ratio(assumed):
        q = min(2 * assumed, x.shape[1] - 1)
        return correlation_dimension(x, flat_pieces(x[:2000], x[2000:], q).variance(q)) / assumed

    assert LIMITS["latent_dim"].status(ratio(d)) == "ok"
    if d > 1:
        assert LIMITS["latent_dim"].status(ratio(1)) == "fail"


def test_few_or_equal_rows_have_no_correlation_dimension():
    for x in (randn(5, 2), torch.ones(50, 2)):
        assert math.isnan(correlation_dimension(x, 0.1))


# ---------------------------------------------------------------------------------------------------------- the laws


def test_the_energy_test_is_the_energy_distance_and_knows_chance():
    x, y = randn(100, 3), randn(150, 3) + 0.5
    found = two_sample(x, y)
    expected = energy_distance(x, y) / (2 * float(torch.cdist(x, y).mean()))
    assert expected - 0.02 < found.share < expected  # less its mean under permutations
    assert found.p_value == pytest.approx(1 / 201)
    by_chance = [two_sample(randn(80, 2), randn(80, 2), seed=seed) for seed in range(20)]
    assert 0.2 < sum(test.p_value for test in by_chance) / 20 < 0.8
    assert max(test.share for test in by_chance) < LIMITS["codes"].fail


def test_moments_of_codes_are_measured_against_the_latent_density():
    flow = FreeFormFlow(nn.Identity(), nn.Identity(), 2, 2).double()
    right = codes(flow, randn(4000, 2))
    assert max(right.mean, right.scale, right.skewness) < 0.12
    assert right.kurtosis < 0.3
    assert right.energy.p_value > 0.01
    shifted = codes(flow, randn(4000, 2) * torch.tensor([1.0, 2.0]) + torch.tensor([0.5, 0.0]))
    assert shifted.mean == pytest.approx(0.5, abs=0.1)
    assert shifted.scale == pytest.approx(math.log(2), abs=0.06)
    assert shifted.energy.share > LIMITS["codes"].fail
    skew = codes(flow, torch.distributions.Exponential(1.0).sample((4000, 2)).double() - 1)
    assert skew.skewness == pytest.approx(2, abs=0.5)
    assert skew.kurtosis == pytest.approx(6, abs=3)


def test_both_densities_agree_for_a_linear_decoder_and_not_for_a_folded_one():
    flow, x = isometric()
    assert agreement(isotropic(flow), x).spread < 1e-9
    circle = FreeFormFlow(Angle(), Circle(1.0), 2, 1).double()  # its latent line winds around the circle
    found = agreement(isotropic(circle, 0.5), randn(200, 2))
    assert found.spread > LIMITS["density"].fail
    assert found.standard_error > 0


def test_the_gap_between_training_and_held_out_rows():
    flow, x = isometric()
    ambient = isotropic(flow)
    same = generalisation(ambient, Rows(x), Rows(x))
    assert (same.gap, same.train) == (0, same.held_out)
    fresh = generalisation(ambient, Rows(x[:800]), Rows(x[800:]))
    assert abs(fresh.gap) < 4 * fresh.standard_error
    worse = generalisation(ambient, Rows(x), Rows(x + 0.5))
    assert worse.gap > 10 * worse.standard_error


def test_samples_of_a_blurred_model_lie_far_from_the_rows():
    flow, x = isometric(D=3, d=1)
    rows = Rows(x[:800]), Rows(x[800:])
    right, blurred = (samples(isotropic(flow, sigma), *rows) for sigma in (SIGMA, 5 * SIGMA))
    assert right.nearest == pytest.approx(1, abs=0.2)
    assert right.energy.share < LIMITS["samples"].warn
    assert blurred.nearest > LIMITS["nearest"].fail
    repeated = Rows(x[:100]), Rows(x[:100])
    assert math.isnan(samples(isotropic(flow), *repeated).nearest)


# ---------------------------------------------------------------------------------------------------------- verdicts

HEALTHY = {"beta": 0.5 / SIGMA**2, "surrogate": "encoder"}


def names(verdicts):
    return [verdict.name for verdict in verdicts]


def test_limits_know_which_way_is_bad():
    up, down = Limits(1, 2), Limits(0.5, 0.1)
    assert [up.status(value) for value in (0.5, 1.0, 2.0, math.nan, math.inf)] == ["ok", "warn", "fail", "fail", "fail"]
    assert [down.status(value) for value in (0.6, 0.5, 0.1, math.nan)] == ["ok", "warn", "fail", "fail"]


def test_health_is_its_worst_verdict_and_survives_json(unchecked):
    good, odd = Verdict("codes", "ok", 0.0, 1.0, "fine"), Verdict("beta", "warn", 0.3, 0.5, "low; raise it")
    bad, worse = (Verdict(name, "fail", 3.0, 2.0, f"{name} is wrong") for name in ("curvature", "samples"))
    assert Health(()).status == Health((good,)).status == "ok"
    assert Health((good, odd)).summary() == "warn: beta: low; raise it"
    health = Health((good, odd, bad, worse))
    assert (health.status, health.failing) == ("fail", (bad, worse))
    assert health.summary() == "fail: curvature: curvature is wrong (also samples)"
    assert Health.from_dict(json.loads(json.dumps(health.as_dict()))) == health
    lost = Health((Verdict("density", "fail", math.inf, 1.0, "lost"),)).as_dict()
    assert math.isnan(Health.from_dict(json.loads(json.dumps(lost, allow_nan=False))).verdicts[0].value)
    for record in ({}, {"verdicts": [{"name": "beta"}]}, {"verdicts": [lost["verdicts"][0] | {"status": "?"}]}):
        with pytest.raises(InputError, match=r"expected .*; got .*; fit again"):
            Health.from_dict(record)


def test_a_perfect_model_is_healthy_and_left_alone():
    flow, x = isometric()
    ambient, state = isotropic(flow).float(), torch.random.get_rng_state()
    health = examine(ambient, *split(x), **HEALTHY)
    assert health.status == "ok", health.summary()
    assert health.summary() == "ok: nothing wrong was found"
    assert set(names(health.verdicts)) <= set(LIMITS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in ambient.parameters())
    assert examine(ambient, *split(x), **HEALTHY) == health


def test_causes_are_called_by_their_names():
    flow, x = isometric()
    ambient, rows = isotropic(flow), split(x)
    low = examine(ambient, *rows, beta=0.01, surrogate="encoder")
    assert names(low.failing) == ["beta"]
    assert "raise it to about 4" in low.summary() or "raise it to about 5" in low.summary()  # 1/(2 sigma^2) = 50
    on_manifold = examine(ambient, *rows, beta=1.0, surrogate="encoder_on_manifold")
    assert on_manifold.failing[0].name == "curvature"
    assert examine(ambient, *rows, beta=200.0, surrogate="encoder_on_manifold").status == "ok"
    J = flow.decoder.weight.data[:, :1]
    half = linear_flow(J, J.mT)
    too_small = examine(isotropic(half, 0.5), *rows, **HEALTHY)
    assert too_small.failing[0].name == "latent_dim"
    assert "raise it to 2" in too_small.summary()
    Q = frame()
    spare = linear_flow(torch.cat([J, 1e-3 * Q[:, :1]], 1), torch.cat([J.mT, Q[:, :1].mT]))
    assert "spectrum" in [verdict.name for verdict in examine(isotropic(spare), *rows, **HEALTHY).verdicts[3:]]


def test_what_cannot_be_measured_is_said():
    flow, x = isometric()
    few = examine(isotropic(flow), Rows(x), Rows(x[:3]), **HEALTHY)
    assert (few.status, names(few.verdicts)) == ("warn", ["rows"])
    flow.decoder.weight.data[0, 0] = math.nan
    lost = examine(isotropic(flow), *split(x), **HEALTHY)
    assert (lost.status, names(lost.verdicts)) == ("fail", ["finite"])
    json.dumps(lost.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("kind", "D", "d", "C"),
    [("freeform", 4, 2, 2), ("rectangular", 4, 2, 0), ("rectangular", 3, 3, 0), ("freeform", 1, 1, 0)],
)
def test_every_flow_can_be_examined(kind, D, d, C):
    flow, x, c = make_flow(kind, D, d, C), randn(120, D), randn(120, C) if C else None
    rows = Rows(x[:60], None if c is None else c[:60]), Rows(x[60:], None if c is None else c[60:])
    health = examine(isotropic(flow), *rows, beta=None, surrogate=None)
    found = names(health.verdicts)
    assert {"reconstruction", "samples", "density"} <= set(found)
    assert not {"beta", "gradient"} & set(found)
    assert ("latent_dim" in found) == (C == 0)
    json.dumps(health.as_dict(), allow_nan=False)


# ------------------------------------------------------------------------------------------------------- trained runs


def fitted_health(X, fresh, d, **objective):
    """The default recipe on X but for d and the objective, examined on X and fresh rows of the same law."""
    recipe = Recipe().update(flow={"latent_dim": d}, objective={"kind": "freeform", **objective})
    fitted = fit(X.numpy(), recipe=recipe)
    columns = fitted.model.columns
    rows = (columns.standardise(x.double()) for x in (X, fresh))
    spread = (Rows(columns.spread(u, torch.rand_like(u) - 0.5)) for u in rows)
    surrogate = objective.get("surrogate", "encoder")
    return examine(fitted.model.density, *spread, beta=fitted.figures.beta, surrogate=surrogate)


def toy_health(kind, d, **objective):
    data = DATASETS[kind](n_train=4000, n_validation=2, n_test=1000, noise=0.1)
    return fitted_health(data.train, data.test, d, **objective)


def gaussian_health(beta, surrogate):
    """The publication's pathology: a Gaussian in the plane, last weights of a short training without any help."""
    x = randn(4000, 2) * torch.tensor([1.0, 0.3])
    flow = FreeFormFlow(*mlp_pair(2, 1, width=64), data_dim=2, latent_dim=1)
    plain = {"noise": 0.0, "warm_up": 0.0, "weight_decay": 0.0, "schedule": "constant", "gradient_clip": None}
    settings = TrainingRecipe(max_steps=3000, batch_size=256, validations=1, **plain)
    rows = split(x, 3000)
    train(flow, FreeForm(beta=beta, surrogate=surrogate), *rows, settings=settings)
    refit = refit_density(flow, *rows, RefitRecipe(latent="as trained", noise="isotropic"))
    return examine(refit.density, *rows, beta=beta, surrogate=surrogate)


@pytest.mark.soak
def test_default_fits_are_healthy():
    assert not toy_health("sine", 1).failing
    assert not toy_health("random_manifold", 3).failing
    table = torch.as_tensor(load_digits().data)[torch.randperm(1797)]
    assert not fitted_health(table[600:], table[:600], 10).failing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "d", "objective", "name"),
    [
        ("sine", 1, {"beta": 0.01}, "beta"),
        pytest.param("torus", 1, {}, "latent_dim", marks=pytest.mark.soak),
        pytest.param("random_manifold", 1, {}, "latent_dim", marks=pytest.mark.soak),
        ("sine", 1, {"beta": 1.0, "surrogate": "encoder_on_manifold"}, "curvature"),
    ],
)
def test_sabotaged_fits_are_called_by_their_names(kind, d, objective, name):
    health = toy_health(kind, d, **objective)
    assert health.failing[0].name == name, health.summary()


@pytest.mark.soak
def test_the_pathology_of_the_publication():
    assert not gaussian_health(5.0, "encoder").failing
    health = gaussian_health(1.0, "encoder_on_manifold")
    assert health.failing[0].name == "curvature"
    assert {"reconstruction", "density"} <= set(names(health.failing))  # and its symptoms are seen
