"""The free-form flow on a known manifold: closed forms, surrogates in tangent frames, and the density at the row."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cases import gradients, half_log_det, jacobians, randn
from isthmus import fit, load, networks, save, scoring
from isthmus.errors import InputError
from isthmus.estimator import InjectiveFlow
from isthmus.flows import ManifoldFlow
from isthmus.objective import FreeForm, Likelihood
from isthmus.recipe import Recipe
from isthmus.report import render
from isthmus.supports import Euclidean, Product, Rotations, Sphere, Torus
from isthmus.volume import ESTIMATORS, SURROGATES, exact, tangent_probes

MANIFOLDS = {
    "circle": Sphere(2),
    "sphere": Sphere(3),
    "sphere in 5": Sphere(5),
    "torus": Torus(4),
    "circles": Product((Sphere(2), Sphere(2))),
    "rotations": Rotations(),
    "rotations and sphere": Product((Rotations(), Sphere(3))),
}
CLOSE = {"rtol": 1e-8, "atol": 1e-8}


class Formula(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def by_formula(rows, encode, decode):
    return ManifoldFlow(Formula(encode), Formula(decode), rows.columns, rows.columns, rows=rows).double()


def near_identity(rows, C=0):
    pair = networks.skip_pair(rows.columns, rows.columns, C, width=16)
    networks.start_at_identity(*pair)
    flow = ManifoldFlow(*pair, rows.columns, rows.columns, C, rows).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return flow


def sphere_quadrature(n=60):
    height, weight = (torch.as_tensor(t) for t in np.polynomial.legendre.leggauss(n))
    angle = torch.arange(2 * n).double() * math.pi / n
    h, a = torch.cartesian_prod(height, angle).unbind(1)
    x = torch.stack([(1 - h**2).sqrt() * a.cos(), (1 - h**2).sqrt() * a.sin(), h], 1)
    return x, weight.repeat_interleave(2 * n) * math.pi / n


# ------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("rows", MANIFOLDS.values(), ids=MANIFOLDS)
def test_the_identity_has_no_volume_and_the_uniform_density(rows):
    flow, x = by_formula(rows, lambda x: 3 * x, lambda z: z), rows.project(rows.uniform(9).double())
    z, x_hat, log_volume = flow.volume(x)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(x_hat, x)
    torch.testing.assert_close(log_volume, torch.zeros(9).double(), **CLOSE)
    torch.testing.assert_close(
        flow.log_prob(x), torch.full((9,), -math.log(rows.area().value), dtype=torch.float64), **CLOSE
    )


def test_turns_of_space_have_no_volume():
    turn = Rotations().project(Rotations().uniform(1).double()).reshape(3, 3)
    sphere = by_formula(Sphere(3), lambda x: x @ turn.mT, lambda z: z @ turn)
    left = lambda t, x: (t @ x.unflatten(1, (3, 3))).flatten(1)  # noqa: E731
    rotations = by_formula(Rotations(), lambda x: left(turn.mT, x), lambda z: left(turn, z))
    for flow in (sphere, rotations):
        x = flow.rows.project(flow.rows.uniform(9).double())
        torch.testing.assert_close(flow.volume(x).x_hat, x)
        torch.testing.assert_close(flow.volume(x).log_volume, torch.zeros(9).double(), **CLOSE)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_a_linear_map_and_the_projection_have_the_angular_gaussian_density(n):
    """A z / |A z| of uniform z has the density of Tyler (1987), |S|^-1/2 (x^T S^-1 x)^-n/2 / area, S = A A^T."""
    torch.manual_seed(0)
    A = torch.eye(n).double() + 0.4 * randn(n, n)
    flow, x = by_formula(Sphere(n), lambda x: x, lambda z: z @ A.mT), Sphere(n).uniform(50).double()
    x = Sphere(n).project(x)
    S = A @ A.mT
    expected = (
        -S.logdet() / 2 - n / 2 * (x * torch.linalg.solve(S, x.mT).mT).sum(1).log() - math.log(Sphere(n).area().value)
    )
    torch.testing.assert_close(flow.log_prob(x), expected, **CLOSE)  # the encoder is no inverse: it is found


def test_a_stretch_of_the_sphere_that_depends_on_the_height_alone_has_its_density():
    """A conformal map fixes the poles and stretches by `s / (cos^2 + s^2 sin^2)` of half the angle from one."""
    s = 3.0
    squeeze = lambda z, s: torch.cat([2 * s * z[:, :2], (1 + z[:, 2:]) - s**2 * (1 - z[:, 2:])], 1)  # noqa: E731
    flow = by_formula(Sphere(3), lambda x: squeeze(x, 1 / s), lambda z: squeeze(z, s))
    x = Sphere(3).project(Sphere(3).uniform(40).double())
    half = ((1 + x[:, 2]) + (1 - x[:, 2]) / s**2) / 2
    torch.testing.assert_close(flow.volume(x).x_hat, x, **CLOSE)
    torch.testing.assert_close(flow.log_prob(x).exp() * 4 * math.pi, (half * s) ** -2, **CLOSE)


def test_the_torus_has_no_seam_and_the_density_of_a_circle_map():
    """a -> a + 0.5 sin a of either angle; the density is 1 over the product of 2 pi (1 + 0.5 cos a)."""
    turn = lambda z: z + 0.0  # noqa: E731
    torus = MANIFOLDS["torus"]

    def decode(z):
        angle = torch.atan2(z[:, 1::2], z[:, ::2])
        moved = angle + 0.5 * angle.sin()
        return torch.stack([moved.cos(), moved.sin()], 2).flatten(1)

    flow = by_formula(torus, turn, decode)
    angle = torch.tensor([[math.pi, 0.3], [-math.pi + 1e-12, 0.3], [math.pi - 1e-12, -3.0], [0.1, 2.0]]).double()
    x = decode(torch.stack([angle.cos(), angle.sin()], 2).flatten(1))
    expected = -(2 * math.pi * (1 + 0.5 * angle.cos())).log().sum(1)
    found = flow.log_prob(x)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    assert abs(float(found[0] - found[1])) < 1e-9


# ---------------------------------------------------------------------------------------- volumes and surrogates


@pytest.mark.parametrize("rows", MANIFOLDS.values(), ids=MANIFOLDS)
def test_volumes_in_frames_are_those_of_the_singular_values_of_whole_jacobians(rows):
    flow, x = near_identity(rows), rows.uniform(4).double()
    f_row, g_row = (lambda b, t, f=f: f(t[None])[0] for f in (flow.encode, flow.decode))
    expected = half_log_det(jacobians(g_row, flow.encode(x)), rows.dim)
    parameters = list(flow.parameters())
    for found in (flow.volume(x), flow.volume_at(flow.encode(x)), exact(*flow.maps(), x, codes=rows, chunk=1)):
        torch.testing.assert_close(found.log_volume, expected, **CLOSE)
        torch.testing.assert_close(gradients(found.log_volume, parameters), gradients(expected, parameters), **CLOSE)
    expected = -half_log_det(jacobians(f_row, x), rows.dim)
    found = exact(*flow.maps(), x, codes=rows, side="encoder").log_volume
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(gradients(found, parameters), gradients(expected, parameters), **CLOSE)


@pytest.mark.parametrize("name", sorted(set(SURROGATES) - {"conditional"}))
@pytest.mark.parametrize("rows", MANIFOLDS.values(), ids=MANIFOLDS)
def test_surrogates_with_all_probes_of_a_frame_have_the_gradient_of_the_exact_volume(rows, name):
    """Where one map is the inverse of the other to first order at the rows tested, as training makes it."""
    flow, x = near_identity(rows), rows.project(rows.uniform(4).double())
    with torch.no_grad():
        if name.startswith("encoder"):
            z, inverse = (
                flow.encode(x),
                torch.linalg.pinv(jacobians(lambda b, t: flow.encode(t[None])[0], x), rtol=1e-6),
            )
            flow.decoder = Formula(lambda t: x + (inverse @ (t - z).unsqueeze(2)).squeeze(2))
        else:
            z, x = x, flow.decode(x)
            inverse = torch.linalg.pinv(jacobians(lambda b, t: flow.decode(t[None])[0], z), rtol=1e-6)
            flow.encoder = Formula(lambda t: z + (inverse @ (t - x).unsqueeze(2)).squeeze(2))
    options = {"tolerance": 1e-14, "max_iterations": 30} if name == "conjugate_gradient" else {}
    found = ESTIMATORS[name](*flow.maps(), x, K=rows.dim, probes=tangent_probes(rows), **options)
    expected = exact(*flow.maps(), x, codes=rows, side="encoder" if name.startswith("encoder") else "decoder")
    torch.testing.assert_close(found.x_hat, x, **CLOSE)
    by_surrogate, by_volume = (gradients(part[2], list(flow.parameters())) for part in (found, expected))
    assert float(by_volume.norm()) > 1e-3
    torch.testing.assert_close(by_surrogate, by_volume, rtol=1e-7, atol=1e-7)


# ------------------------------------------------------------------------------------------ the density at the row


@pytest.mark.parametrize("rows", MANIFOLDS.values(), ids=MANIFOLDS)
def test_rows_are_decoded_back_whatever_the_encoder_says(rows):
    flow = near_identity(rows)
    z = rows.project(rows.uniform(200).double())
    x = flow.decode(z).detach()
    assert float((flow.encode(x) - z).detach().norm(dim=1).mean()) > 0.01
    again, solved = flow.invert(x)
    assert solved.all()
    torch.testing.assert_close(again, z, rtol=0, atol=1e-7)
    torch.testing.assert_close(flow.log_prob(x), flow.base().log_prob(z) - flow.volume_at(z).log_volume, **CLOSE)
    assert (flow.estimate(x).standard_error == 0).all()


def test_the_density_on_the_sphere_integrates_to_one_by_quadrature_and_by_draws():
    flow, (x, area) = near_identity(Sphere(3)), sphere_quadrature()
    assert float((flow.estimate(x).value.exp() * area).sum()) == pytest.approx(1, abs=1e-5)
    assert flow.recovered(500) == 1.0


def test_what_a_fold_hides_is_missing_from_the_density_and_measured():
    """Angles are doubled: each row has two codes, of which one is found; half of the draws come back."""
    double = lambda z: torch.stack([z[:, 0] ** 2 - z[:, 1] ** 2, 2 * z[:, 0] * z[:, 1]], 1)  # noqa: E731
    flow, x = by_formula(Sphere(2), lambda x: x, double), Sphere(2).uniform(50).double()
    torch.testing.assert_close(
        flow.log_prob(x), torch.full((50,), -math.log(4 * math.pi), dtype=torch.float64), **CLOSE
    )
    torch.manual_seed(0)
    assert flow.recovered(2000) == pytest.approx(0.5, abs=0.05)


def test_rows_that_no_code_decodes_to_have_the_density_zero():
    up = lambda z: torch.cat([z[:, :2], 1.0 + z[:, 2:].square()], 1)  # noqa: E731
    flow = by_formula(Sphere(3), lambda x: x, up)
    x = torch.tensor([[0.0, 0.6, -0.8], [0.0, 0.6, 0.8]]).double()
    value, error = flow.estimate(x)
    assert value[0] == -torch.inf
    assert error[0] == torch.inf
    assert value[1].isfinite()
    assert error[1] == 0


def test_the_density_is_differentiable_through_the_inversion():
    flow, x = near_identity(Sphere(3)), Sphere(3).project(Sphere(3).uniform(3).double())
    parameters = list(flow.decoder.parameters())
    found = gradients(flow.log_prob(x), parameters)
    for index, step in ((0, 1e-6), (1, 1e-6)):
        with torch.no_grad():
            weight = parameters[0].view(-1)
            weight[index] += step
            above = flow.log_prob(x).sum()
            weight[index] -= 2 * step
            below = flow.log_prob(x).sum()
            weight[index] += step
        assert float(found[index]) == pytest.approx(float(above - below) / (2 * step), rel=1e-4, abs=1e-6)


def test_refusals_say_what_to_do():
    with pytest.raises(
        InputError, match="expected codes of 3 columns on a manifold of finite volume; got latent_dim 2"
    ):
        ManifoldFlow(nn.Identity(), nn.Identity(), 3, 2)
    with pytest.raises(InputError, match="and a Euclidean"):
        ManifoldFlow(nn.Identity(), nn.Identity(), 3, 3, rows=Euclidean(3))
    flow = near_identity(Sphere(3))
    with pytest.raises(InputError, match="expected a flow with an exact density of rows"):
        Likelihood()(flow, Sphere(3).uniform(2).double())
    with pytest.raises(InputError, match="which has no colder form"):
        flow.sample(2, temperature=0.5)
    with pytest.raises(InputError, match=r"expected no refit.latent for flow 'manifold'"):
        Recipe.validated({"flow": {"kind": "manifold"}, "refit": {"latent": "mixture"}})


# ------------------------------------------------------------------------------------------------------- training


def von_mises_fisher(n, means, concentrations):
    """Draw from an even mixture on the sphere; and the log density of rows."""
    means = torch.nn.functional.normalize(torch.tensor(means).double(), dim=1)
    concentrations = torch.tensor(concentrations).double()
    k = torch.randint(len(means), (n,))
    mu, kappa, u = means[k], concentrations[k], torch.rand(n).double()
    height = 1 + (u + (1 - u) * (-2 * kappa).exp()).log() / kappa
    across = torch.randn(n, 3).double()
    across = torch.nn.functional.normalize(across - (across * mu).sum(1, keepdim=True) * mu, dim=1)
    x = height.unsqueeze(1) * mu + (1 - height**2).clamp_min(0).sqrt().unsqueeze(1) * across

    def log_prob(x):
        norm = (concentrations / (2 * math.pi * (1 - (-2 * concentrations).exp()))).log() - math.log(len(means))
        return (norm + concentrations * (x @ means.mT - 1)).logsumexp(1)

    return x, log_prob


def descend(flow, x, steps, learning_rate=5e-3):
    objective = FreeForm(beta=100.0)
    optimiser = torch.optim.Adam(flow.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, steps, pct_start=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(flow, x[torch.randint(len(x), (256,))]).total.mean().backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return flow.double().eval()


def test_a_trained_flow_on_the_sphere_is_normalised_and_near_the_truth():
    torch.manual_seed(0)
    x, truth = von_mises_fisher(4000, [[1, 0, 0], [0, 1, 0.5], [-1, -1, 1]], [6.0, 10.0, 4.0])
    pair = networks.skip_pair(3, 3, width=32)
    networks.start_at_identity(*pair)
    flow = descend(ManifoldFlow(*pair, 3, 3), x[:2000].float(), 300)
    found, expected = flow.estimate(x[2000:]).value, truth(x[2000:])
    nodes, area = sphere_quadrature(40)
    assert float((flow.estimate(nodes).value.exp() * area).sum()) == pytest.approx(1, abs=0.01)
    assert float(expected.mean()) > -math.log(4 * math.pi) + 0.5
    assert float((expected - found).mean()) < 0.2
    assert float((flow.reconstruct(x[2000:]) - x[2000:]).detach().square().sum(1).mean()) < 5e-3


def test_training_on_uniform_rotations_leaves_the_uniform_law():
    torch.manual_seed(0)
    pair = networks.skip_pair(9, 9, width=16)
    networks.start_at_identity(*pair)
    flow = descend(ManifoldFlow(*pair, 9, 9, rows=Rotations()), Rotations().uniform(2000), 25, 2e-3)
    x = Rotations().uniform(200).double()
    assert float(flow.estimate(x).value.mean()) == pytest.approx(-math.log(8 * math.pi**2), abs=0.02)


# ----------------------------------------------------------------------------------------------- through a recipe


@pytest.mark.parametrize("kind", ManifoldFlow.supports)
def test_a_recipe_takes_it_from_a_table_to_a_report(kind, tmp_path):
    torch.manual_seed(0)
    rows = {"sphere": Sphere(3), "torus": Torus(4), "rotations": Rotations()}[kind]
    x = rows.project(rows.uniform(120) + 0.5 * torch.ones(rows.columns)).double()
    frame = pd.DataFrame(rows.project(x).numpy()).add_prefix("x")
    recipe = {"flow": {"kind": "manifold", "network": {"width": 16}}, "support": {"kind": kind}}
    recipe["training"] = {"max_steps": 10, "validations": 2}
    fitted = fit(frame, recipe=recipe)
    assert rows.measured == fitted.measured
    assert fitted.figures.latent_dim == rows.dim
    assert fitted.figures.beta == 100
    again = load(save(fitted, tmp_path / "model"))
    pd.testing.assert_frame_equal(scoring.score(again, frame), scoring.score(fitted, frame))
    assert np.isfinite(scoring.score(again, frame)["log_density"]).all()
    rows.check(torch.tensor(scoring.sample(again, 50).to_numpy(float)), "samples")
    figures = scoring.evaluate(again, frame)
    assert (figures["D"], figures["d"]) == (rows.columns, rows.dim)
    assert scoring.encode(again, frame).shape == frame.shape
    assert "The learned surface" not in render(again, frame)
    with pytest.raises(InputError, match="expected rows of X on the"):
        fit(2 * frame, recipe=recipe)
    scores = InjectiveFlow(recipe=recipe, random_state=0).fit(frame.to_numpy()).score_samples(frame.to_numpy())
    assert np.isfinite(scores).all()


def test_the_likeliest_of_draws_are_chosen_by_the_density_of_rows():
    torch.manual_seed(0)
    x, _ = von_mises_fisher(300, [[1, 0, 0]], [8.0])
    model = fit(x.numpy(), recipe={"flow": {"kind": "manifold"}, "training": {"max_steps": 60}}).model
    torch.manual_seed(0)
    likely, every = (model.log_prob(model.sample(200, truncation=share)).mean() for share in (0.2, 1.0))
    assert likely > every + 0.3


def test_a_table_with_a_context_is_told_it():
    torch.manual_seed(0)
    north, _ = von_mises_fisher(200, [[0, 0, 1]], [5.0])
    c = torch.randint(2, (200, 1)).double()
    x = torch.where(c == 1, north, -north)
    recipe = {"flow": {"kind": "manifold"}, "training": {"max_steps": 80, "learning_rate": 0.01}}
    model = fit(x.numpy(), context=c.numpy(), recipe=recipe).model
    assert float(model.log_prob(x, c).mean()) > float(model.log_prob(x, 1 - c).mean()) + 1
    assert float(model.sample(300, torch.ones(1, 1))[:, 2].mean()) > 0.3
