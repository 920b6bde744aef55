"""Laws on known surfaces: charts, exact densities that integrate to one, no seams, no edges, and what is refused."""

import math
import time

import pandas as pd
import pytest
import torch
from scipy import special
from torch.distributions import Dirichlet

from cases import SURFACES, Bumps, by_quadrature, half_log_det, jacobians
from isthmus import Recipe, fit, load, save, scoring
from isthmus.bijections import Layer
from isthmus.errors import InputError
from isthmus.flows import HypersurfaceFlow, TorusFlow
from isthmus.supports import Euclidean, LpSphere, Radius, Simplex, Sphere, Torus
from isthmus.supports.charts import SimplexChart, SphereChart

CHARTS = {"sphere": SphereChart, "simplex": SimplexChart}


def shaken(flow, by=0.3):
    """A flow away from its start, in float64."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += by * torch.randn_like(parameter)
    return flow.double()


def trained(flow, draw, steps, learning_rate=0.01, batch=256):
    optimiser = torch.optim.Adam(flow.parameters(), learning_rate)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (-flow.log_prob(draw(batch)).mean()).backward()
        optimiser.step()
        decay.step()
    return flow


# ------------------------------------------------------------------------------------------------- coordinates


@pytest.mark.parametrize("d", [2, 3, 10, 50])
@pytest.mark.parametrize("name", CHARTS)
def test_the_uniform_law_of_a_chart_is_its_area_element(name, d):
    """Half the log determinant of the chart's inverse, less a constant, at points drawn and at points far out."""
    chart = CHARTS[name](d)
    torch.manual_seed(d)
    v = torch.cat([chart.draw(4, torch.empty(0).double()), (3 if d < 50 else 0.3) * torch.randn(4, d - 1).double()])
    v[:, chart.lines :] = v[:, chart.lines :].clamp(-3, 3)
    brute = half_log_det(jacobians(lambda b, t: chart.directions(t[None])[0], v))
    off = brute - chart.log_uniform(v)
    torch.testing.assert_close(off, off.mean().expand(8), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(chart.coordinates(chart.directions(v)), v, rtol=1e-6, atol=1e-6)
    chart.surface.check(chart.directions(v))


@pytest.mark.parametrize("d", [3, 10, 50, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_near_poles_and_sparse_vertices_come_back(d, dtype):
    tiny = torch.tensor([1e-3, 1e-12, 1e-30], dtype=dtype)
    for name, chart in CHARTS.items():
        x = torch.rand(3, d, dtype=dtype) * tiny.unsqueeze(1) + tiny.unsqueeze(1)
        x[torch.arange(3), torch.tensor([0, d - 1, d // 2])] = 1.0
        x = x if name == "simplex" else x * torch.randn(3, d).sign()
        x = chart(d).surface.project(x)
        back = chart(d).directions(chart(d).coordinates(x))
        loose, least = (3e-4, 1e-6) if dtype == torch.float32 else (1e-10, 1e-15)
        torch.testing.assert_close(back[:, :-2], x[:, :-2], rtol=loose, atol=0)
        # an angle is as accurate as its type, so the smaller of the last two columns is not as accurate as itself
        size = float(x[:, -2:].norm(dim=1).max())
        torch.testing.assert_close(back[:, -2:], x[:, -2:], rtol=loose, atol=size * least)


@pytest.mark.parametrize("name", CHARTS)
def test_what_has_no_coordinates_is_refused_with_the_row(name):
    chart = CHARTS[name](3)
    x = torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0]])
    faces = {"sphere": "whose last two columns are not both 0", "simplex": "without zeros, which lie on a face"}[name]
    with pytest.raises(InputError, match=rf"expected rows {faces}; got row 1 \(counted from 0\), \(1, 0, 0\); move it"):
        chart.coordinates(x)
    if name == "simplex":
        with pytest.raises(InputError, match="without zeros"):
            HypersurfaceFlow(Simplex(3), width=8).log_prob(x)


def test_uniform_coordinates_are_those_of_uniform_rows():
    for name, chart in CHARTS.items():
        surface = {"sphere": Sphere, "simplex": Simplex}[name](6)
        torch.manual_seed(0)
        drawn, own = chart(6).coordinates(surface.uniform(20_000)), chart(6).draw(20_000, torch.empty(0))
        for i in range(5):
            quantiles = torch.linspace(0.02, 0.98, 25)
            torch.testing.assert_close(
                drawn[:, i].quantile(quantiles), own[:, i].quantile(quantiles), atol=0.12, rtol=0.05
            )


# ------------------------------------------------------------------------------------------------------- layers

LAYERS = {
    "autoregressive": (Layer, (3, 1), {}),
    "reversed": (Layer, (3, 1, 2), {"reverse": True}),
    "three passes": (Layer, (4, 0), {"passes": 3}),
    "coupling": (Layer, (3, 1, 2), {"passes": 2}),
    "one line": (Layer, (1, 0), {}),
    "one circle": (Layer, (0, 1), {}),
    "circles": (Layer, (0, 3), {"straight": True}),
    "straight": (Layer, (2, 1), {"straight": True, "reverse": True}),
}


@pytest.mark.parametrize("fast", ["density", "sampling"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_bijections_with_their_determinants(name, fast):
    kind, sizes, options = LAYERS[name]
    layer = shaken(kind(*sizes, width=8, fast=fast, **options))
    n, context = sum(sizes[:2]), torch.randn(5, 2).double() if len(sizes) == 3 else None
    v = 2 * torch.randn(5, n).double()
    v[:, sizes[0] :] = torch.remainder(v[:, sizes[0] :], 2 * torch.pi) - torch.pi
    u, log_det = layer.to_base(v, context)
    back, other = layer.from_base(u, context)
    torch.testing.assert_close(back, v, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(other, -log_det, rtol=1e-8, atol=1e-8)
    row = lambda b, t: layer.to_base(t[None], None if context is None else context[b : b + 1])[0][0]  # noqa: E731
    torch.testing.assert_close(jacobians(row, v).logdet(), log_det, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("slopes", [(0.2, 5.0), (30.0, 0.1)])
def test_tails_have_a_slope_of_their_own_on_each_side(slopes):
    layer = Layer(1, 0, width=4).double()
    left, right = slopes
    with torch.no_grad():
        layer.network[-1].bias[-2] = soft(-0.5 * math.log(left * right), math.log(1e3))
        layer.network[-1].bias[-1] = soft(0.5 * math.log(left / right), math.log(1e3) / 2)
    far = torch.tensor([[-1e7], [-1e7 - 1], [1e7], [1e7 + 1]]).double()
    u = layer.to_base(far)[0].squeeze(1).detach()
    assert float(u[0] - u[1]) == pytest.approx(left, rel=1e-4)
    assert float(u[3] - u[2]) == pytest.approx(right, rel=1e-4)


def soft(value, limit):
    """What a parameter has to be for a softened value, `x / (1 + |x| / limit)`."""
    return value / (1 - abs(value) / limit)


# -------------------------------------------------------------------------------------------------- the density


@pytest.mark.parametrize("make", [Sphere, Simplex], ids=["sphere", "simplex"])
@pytest.mark.parametrize("d", [2, 3, 50])
def test_an_untrained_flow_is_the_uniform_law(make, d):
    surface = make(d)
    flow, x = HypersurfaceFlow(surface, width=8).double(), surface.uniform(50).double()
    uniform = x.new_full((50,), -surface.log_area().value)
    torch.testing.assert_close(flow.log_prob(x), uniform, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fast", ["density", "sampling"])
@pytest.mark.parametrize("name", SURFACES)
def test_draws_lie_on_the_surface_and_have_their_density(name, fast):
    surface = SURFACES[name](4)
    flow, c = shaken(HypersurfaceFlow(surface, 2, width=8, fast=fast)), torch.randn(6, 2).double()
    x, log_prob = flow.rsample_with_log_prob(6, c)
    surface.check(x)
    torch.testing.assert_close(flow.log_prob(x, c), log_prob, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", SURFACES)
def test_a_trained_flow_integrates_to_one(name):
    """By quadrature over the surface in three columns, after some steps on rows about a corner and opposite it."""
    surface = SURFACES[name](3)
    torch.manual_seed(0)
    spread = torch.tensor([0.5, 0.3, 0.4])

    @torch.no_grad()
    def draw(n):
        x = torch.tensor([1.0, 0.5, 0.2]) + spread * torch.randn(n, 3)
        return surface.project(x.abs() + 1e-3 if surface.orthant else x * torch.randint(0, 2, (n, 1)).mul(2).sub(1))

    before = HypersurfaceFlow(surface, transforms=2, width=16)
    start = float(before.log_prob(draw(500)).mean().detach())
    flow = trained(before, draw, 60).double()
    assert float(flow.log_prob(draw(500).double()).mean().detach()) > start + 0.1
    # between Gauss points next to a cusp the density per direction is what is smooth
    total = by_quadrature(surface, lambda x: flow.log_prob(x).exp(), per_panel=48)
    assert total == pytest.approx(1, abs=0.01)


def test_a_flow_of_two_columns_integrates_to_one():
    for surface in (Sphere(2), LpSphere(2, 4.0), Simplex(2)):
        flow = shaken(HypersurfaceFlow(surface, width=8), by=0.1)
        turn = torch.pi / 2 if surface.orthant else 2 * torch.pi
        angle = (torch.arange(8000).double() + 0.5) * turn / 8000
        n = torch.stack([angle.cos(), angle.sin()], 1)
        with torch.no_grad():
            density = (flow.log_prob(surface.project(n)) + surface.log_stretch(n)).exp()
        assert float(density.mean()) * turn == pytest.approx(1, abs=1e-3)


def von_mises_fisher(concentration):
    """The log density about the first axis of R^3, per area, and a function that draws it."""
    k = torch.tensor(concentration).double()
    log_constant = 0.5 * k.log() - 1.5 * math.log(2 * math.pi) - math.log(special.ive(0.5, float(k)))

    def draw(n):
        u = torch.rand(n, 1).double()
        along = 1 + (u + (1 - u) * (-2 * k).exp()).log() / k
        across = (1 - along**2).sqrt() * torch.nn.functional.normalize(torch.randn(n, 2).double(), dim=1)
        return torch.cat([along, across], 1)

    return lambda x: log_constant + k * (x[:, 0] - 1), draw


def mean_weight(log_target, flow, n=20_000):
    """The mean of p/q over draws of the flow, its error, and the flow's draws."""
    with torch.no_grad():
        x, log_prob = flow.rsample_with_log_prob(n)
    weight = (log_target(x) - log_prob).exp()
    return float(weight.mean()), float(weight.std()) / math.sqrt(n), x


def test_a_flow_trained_on_a_von_mises_fisher_law_has_its_density():
    torch.manual_seed(0)
    log_target, draw = von_mises_fisher(20.0)
    flow = trained(HypersurfaceFlow(Sphere(3), transforms=3, width=16).double(), draw, 120)
    x = draw(4000)
    assert float((log_target(x) - flow.log_prob(x)).mean().detach()) < 0.06
    mean, error, drawn = mean_weight(log_target, flow)
    assert mean == pytest.approx(1, abs=4 * error + 1e-3)
    torch.testing.assert_close(drawn.mean(0), x.mean(0), atol=0.03, rtol=0)


@pytest.mark.parametrize("alpha", [(2.0, 3.0, 4.0), (0.7, 1.5, 3.0, 5.0, 2.0)])
def test_a_flow_trained_on_a_dirichlet_law_reaches_its_boundary_layers(alpha):
    """Torch's density is with respect to volume of all columns but one: area is sqrt(D) times that."""
    torch.manual_seed(0)
    law = Dirichlet(torch.tensor(alpha).double())
    flow = HypersurfaceFlow(Simplex(len(alpha)), transforms=2, width=16).double()
    flow = trained(flow, lambda n: law.sample((n,)), 120)
    log_target = lambda x: law.log_prob(x) - 0.5 * math.log(len(alpha))  # noqa: E731
    x = law.sample((4000,))
    assert float((log_target(x) - flow.log_prob(x)).mean().detach()) < 0.03
    mean, error, drawn = mean_weight(log_target, flow)
    assert mean == pytest.approx(1, abs=4 * error + 2e-3)
    torch.testing.assert_close(drawn.mean(0), law.mean, atol=0.01, rtol=0)


def test_a_learnt_radius_is_learnt():
    """The gradient of a mean over draws reaches the network of the radius, and the store sees its parameters."""
    flow = HypersurfaceFlow(Radius(3, Bumps(3)), width=8).double()
    x, log_prob = flow.rsample_with_log_prob(50)
    (x.square().sum(1) + log_prob).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.function.parameters() if p.dim() > 1)
    assert any(name.startswith("function.") for name in flow.state_dict())


def test_a_cusp_has_density_zero_where_a_column_is_zero():
    flow = HypersurfaceFlow(LpSphere(3, 0.5), width=8)
    assert flow.log_prob(LpSphere(3, 0.5).project(torch.tensor([[0.0, 0.5, 0.5]]))).isneginf().all()


def test_float32_is_finite_in_ten_thousand_columns():
    torch.manual_seed(0)
    for surface in (Sphere(10_000), Simplex(10_000), LpSphere(10_000, 0.5)):
        flow = HypersurfaceFlow(surface, transforms=2, bins=2, width=4)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        x, log_prob = flow.rsample_with_log_prob(2)
        surface.check(x.detach())
        torch.testing.assert_close(flow.log_prob(x), log_prob, rtol=1e-5, atol=0.1)
        log_prob.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in flow.parameters())


def test_the_cost_of_the_stretch_is_linear_in_the_columns():
    """A hundred times as many columns take at most three hundred times as long, gradient included."""

    def seconds(d):
        surface, best = LpSphere(d, 1.5), math.inf
        n = Sphere(d).uniform(20).requires_grad_()
        for _ in range(5):
            begun = time.perf_counter()
            torch.autograd.grad(surface.log_stretch(n).sum(), n)
            best = min(best, time.perf_counter() - begun)
        return best

    assert seconds(10_000) < 300 * seconds(100)


def test_supports_that_are_no_surface_are_refused():
    with pytest.raises(InputError, match="expected a surface around the origin, sphere, simplex"):
        HypersurfaceFlow(Euclidean(3))
    with pytest.raises(InputError, match="expected a torus; got Sphere; give angles as cosines and sines"):
        TorusFlow(Sphere(3))
    with pytest.raises(InputError, match="expected a surface of 2 columns or more; got 1"):
        HypersurfaceFlow(Sphere(1))


# ----------------------------------------------------------------------------------------------------- the torus


@pytest.mark.parametrize("fast", ["density", "sampling"])
def test_a_law_of_angles_has_no_seam(fast):
    """One density on both sides of every seam, and a slope of it too; zuko 1.6.0's own has two densities there."""
    flow = shaken(TorusFlow(Torus(6), width=8, fast=fast))
    for i in range(3):
        angles = torch.tensor([[0.3, -1.0, 2.0]]).double().repeat(4, 1)
        step = 1e-6
        angles[:, i] = torch.pi + torch.tensor([-2 * step, -step, step, 2 * step]).double()
        a, b, c, d = flow.log_prob(Torus.rows(angles)).tolist()
        assert b == pytest.approx(c, abs=1e-3)
        assert (b - a) / step == pytest.approx((d - c) / step, rel=0.05, abs=0.05)


def test_a_law_of_two_angles_integrates_to_one():
    flow = shaken(TorusFlow(Torus(4), 1, width=8), by=0.15)
    axis = (torch.arange(400).double() + 0.5) * torch.pi / 200 - torch.pi
    x, c = Torus.rows(torch.cartesian_prod(axis, axis)), torch.full((160_000, 1), 0.5).double()
    with torch.no_grad():
        assert float(flow.log_prob(x, c).exp().sum()) * (torch.pi / 200) ** 2 == pytest.approx(1, abs=1e-3)


def test_a_trained_law_of_angles_knows_how_they_depend():
    """The second angle is the first plus a little: the entropy of the pair is that of the difference and of a turn."""
    torch.manual_seed(0)

    def draw(n):
        first = 2 * torch.pi * torch.rand(n, 1)
        return Torus.rows(torch.cat([first, first + 0.3 * torch.randn(n, 1)], 1))

    flow = trained(TorusFlow(Torus(4), transforms=3, width=32), draw, 200)
    best = -math.log(2 * math.pi) - 0.5 * math.log(2 * math.pi * math.e * 0.3**2)
    assert float(flow.log_prob(draw(4000)).mean().detach()) == pytest.approx(best, abs=0.08)


# ------------------------------------------------------------------------------------------- through the library

FITS = {
    "sphere": ("hypersurface", {"kind": "sphere"}, Sphere(3)),
    "parts": ("hypersurface", {"kind": "simplex"}, Simplex(3)),
    "p-sphere": ("hypersurface", {"kind": "lp_sphere", "p": 1.0, "radius": 2.0}, LpSphere(3, 1.0, 2.0)),
    "angles": ("torus", {"kind": "torus"}, Torus(4)),
}


@pytest.mark.parametrize("name", FITS)
def test_a_fit_by_its_name_is_saved_and_read_back(name, tmp_path):
    kind, support, surface = FITS[name]
    rng = torch.Generator().manual_seed(0)
    X = surface.project(torch.rand(200, surface.columns, generator=rng, dtype=torch.float64) + 0.1)
    training = {"max_steps": 20, "learning_rate": 0.01}
    recipe = Recipe.validated({"flow": {"kind": kind, "width": 8}, "support": support, "training": training})
    frame = pd.DataFrame(X.numpy()).add_prefix("x")
    fitted = fit(frame, recipe=recipe)
    again = load(save(fitted, tmp_path / "model"))
    pd.testing.assert_frame_equal(scoring.score(again, frame), scoring.score(fitted, frame))
    surface.check(torch.tensor(scoring.sample(again, 20).to_numpy(float)))
    assert again.model.density.rows == surface
    assert surface.measured.split(", ")[1] in fitted.measured
