"""Every bijection of R^D: there and back, the determinant against autograd; then what single ones do, and flows."""

import copy
import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian

from cases import bent_rows, randn
from isthmus import InputError, bijections
from isthmus.bijections import ActNorm, Coupling, KernelConditioner, LULinear, Orthogonal, Radial, Scale, Whitening
from isthmus.bijections.moments import MomentCoupling, conditional_moments, cross_fitted_gain, reflected, reflector
from isthmus.flows.coupling import PRESETS, CouplingFlow
from isthmus.flows.iterative import IterativeFlow
from isthmus.rows import Rows


def moment_coupling(D, C):
    layer, rows = MomentCoupling(D, C, bins=12).double(), bent_rows(D, C)
    direction = torch.nn.functional.normalize(randn(D), dim=0)
    weights = torch.nn.functional.normalize(randn(1 + C), dim=0)
    z = reflected(rows.x, reflector(direction))
    b = z[:, 0] * weights[0] + (0.0 if rows.c is None else rows.c @ weights[1:])
    layer.set(direction, weights, conditional_moments(b, z[:, 1:], 9))
    return layer


def coupling(function, **options):
    return lambda D, C: Coupling(D, C, function=function, number=3, **options)


KERNEL = {"conditioner": "kernel", "options": {"points": 7}}
MATERN = {"conditioner": "kernel", "options": {"points": 7, "kernel": "matern"}}
LAYERS = {
    "actnorm": lambda D, C: ActNorm(D),
    "scale": lambda D, C: Scale(D),
    "orthogonal": lambda D, C: Orthogonal(D),
    "lu": lambda D, C: LULinear(D),
    "radial": lambda D, C: Radial(D),
    "whitening": lambda D, C: Whitening(D),
    "moments": moment_coupling,
    **{name: coupling(name) for name in bijections.FUNCTIONS},
    **{f"{name} by a kernel": coupling(name, **KERNEL) for name in bijections.FUNCTIONS},
    "affine by a Matern kernel": coupling("affine", **MATERN),
}
SIZES = {"D = 1": (1, 0), "D = 1 given c": (1, 2), "D = 2": (2, 0), "D = 6": (6, 0), "D = 6 given c": (6, 2)}
CASES = [(name, size) for name in LAYERS for size in SIZES if name != "moments" or SIZES[size][0] > 1]


def made(name, size):
    """A bijection away from its start, in float64, with rows and contexts."""
    D, C = SIZES[size]
    layer = LAYERS[name](D, C).double()
    rows = bent_rows(D, C)
    layer.start(rows.x, rows.c)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return layer, rows[:5]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_there_and_back(name, size):
    layer, rows = made(name, size)
    transform = layer(rows.c)
    with torch.no_grad():
        y = transform(rows.x)
        assert not torch.allclose(y, rows.x, atol=1e-3) or (name, size[:5]) == ("orthogonal", "D = 1")
        torch.testing.assert_close(transform.inv(y), rows.x, rtol=0, atol=1e-10)
        torch.testing.assert_close(transform(transform.inv(rows.x)), rows.x, rtol=0, atol=1e-10)
        single = layer.float()(None if rows.c is None else rows.c.float())
        torch.testing.assert_close(single.inv(single(rows.x.float())), rows.x.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_the_log_determinant_is_one_number_a_row_and_that_of_autograd(name, size):
    layer, rows = made(name, size)
    for way in (lambda c: layer(c), lambda c: layer(c).inv):
        log_det = way(rows.c).call_and_ladj(rows.x)[1]
        assert log_det.shape == (5,)
        for i, row in enumerate(rows.x):
            one = way(None if rows.c is None else rows.c[i : i + 1])
            J = jacobian(lambda t, one=one: one(t.unsqueeze(0)).squeeze(0), row)
            torch.testing.assert_close(log_det[i], torch.linalg.slogdet(J).logabsdet, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_the_log_determinant_is_constant_where_a_layer_says_so_and_only_there(name, size):
    layer, rows = made(name, size)
    log_det = layer(rows.c).call_and_ladj(rows.x)[1].detach()
    one_function = size == "D = 1" and "spline" not in name and name != "radial"
    assert (float(log_det.std()) < 1e-10) == (layer.constant or one_function)


# ------------------------------------------------------------------------------------------------------- single layers


def test_actnorm_is_started_once_in_training_mode_and_says_so_in_its_state():
    layer, x = ActNorm(3).double(), 3 * randn(50, 3) + 5
    layer.eval().start(x)
    assert not layer.started
    layer.train().start(x)
    y = layer()(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(y.std(0), torch.ones(3).double())
    before = copy.deepcopy(layer.state_dict())
    again = ActNorm(3).double()
    again.load_state_dict(before)
    for one in (layer, again):
        one.start(10 * x)
        assert all(torch.equal(before[name], value) for name, value in one.state_dict().items())


def test_actnorm_leaves_a_constant_column_finite():
    layer = ActNorm(2)
    layer.start(torch.tensor([[1.0, 2.0], [1.0, 3.0]]))
    assert layer()(torch.tensor([[1.0, 2.0]])).isfinite().all()


def test_affine_couplings_stay_within_their_bound():
    layer = Coupling(4, function="affine", bound=0.7).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 30)
    log_det = layer().call_and_ladj(10 * randn(200, 4))[1].abs()
    assert 0.9 * 1.4 < log_det.max() < 1.4  # two active columns


def test_the_radial_layer_moves_along_rays_and_leaves_the_origin():
    layer, rows = made("radial", "D = 6")
    y = layer()(rows.x)
    torch.testing.assert_close(y / y.norm(dim=1, keepdim=True), rows.x / rows.x.norm(dim=1, keepdim=True))
    assert torch.equal(layer()(torch.zeros(1, 6).double()), torch.zeros(1, 6).double())


@pytest.mark.parametrize("kernel", bijections.KERNELS)
def test_gradients_through_the_kernel_reach_inputs_points_lengths_and_weights(kernel):
    conditioner = KernelConditioner(2, 3, points=4, kernel=kernel).double()
    names = [name for name, _ in conditioner.named_parameters()]

    def function(u, *parameters):
        return torch.func.functional_call(conditioner, dict(zip(names, parameters, strict=True)), (u,))

    u = randn(5, 2)
    parameters = [p.detach() + 0.1 * randn(*p.shape) for p in conditioner.parameters()]
    u[0] = parameters[0][0]  # where a root has no slope
    assert gradcheck(function, [t.requires_grad_() for t in (u, *parameters)], eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", bijections.KERNELS)
def test_a_kernel_is_zero_untrained_and_far_away_and_the_full_form_where_its_points_are_the_rows(kernel):
    conditioner, u = KernelConditioner(3, 2, points=20, kernel=kernel).double(), randn(20, 3)
    conditioner.start(u)
    assert torch.equal(conditioner(u), torch.zeros(20, 2).double())
    length = float(torch.pdist(u).median())
    torch.testing.assert_close(conditioner.log_lengths.exp(), torch.full((3,), length).double())
    assert torch.equal(conditioner.points.sort(0).values, u.sort(0).values)
    with torch.no_grad():
        conditioner.weights.normal_()
        conditioner.points.copy_(u)
    r = (u.unsqueeze(1) - u).norm(dim=2) / length
    root = math.sqrt(5) * r
    gram = (-(r**2) / 2).exp() if kernel == "squared_exponential" else (1 + root + root**2 / 3) * (-root).exp()
    torch.testing.assert_close(conditioner(u), gram @ conditioner.weights)
    assert conditioner(u + 1e3).abs().max() < 1e-12


def test_more_points_than_rows_are_rows_once_more_and_a_little_apart():
    conditioner, u = KernelConditioner(2, 1, points=25).double(), randn(10, 2)
    conditioner.start(u)
    distances = torch.cdist(conditioner.points, u)
    assert (distances.min(1).values < 1e-12).sum() == 10
    assert torch.pdist(conditioner.points).min() > 1e-6
    with pytest.raises(InputError, match="expected at least 1 input of a kernel; got 0; use a network"):
        KernelConditioner(0, 1)


# ------------------------------------------------------------------------------------------------------------- moments


def test_conditional_moments_are_those_of_the_law():
    b = torch.randn(100_000, dtype=torch.float64)
    a = torch.stack([b.sin() + (0.3 + 0.2 * b.tanh()) * torch.randn_like(b), torch.randn_like(b)], 1)
    mean, deviation = conditional_moments(b, a, 40).at(torch.tensor([-1.0, 0.0, 1.0]).double())
    at = torch.tensor([-1.0, 0.0, 1.0]).double()
    torch.testing.assert_close(mean[:, 0], at.sin(), rtol=0, atol=0.02)
    torch.testing.assert_close(deviation[:, 0], 0.3 + 0.2 * at.tanh(), rtol=0, atol=0.02)
    torch.testing.assert_close(deviation[:, 1], torch.ones(3).double(), rtol=0, atol=0.05)


@pytest.mark.parametrize("n", [500, 5_000, 50_000])
def test_noise_gains_nothing_when_rows_are_scored_by_moments_of_other_rows(n):
    z, bins = randn(n, 4), n // 100
    gain = cross_fitted_gain(z[:, 0], z[:, 1:], bins).mean(0)
    own = conditional_moments(z[:, 0], z[:, 1:], bins)
    assert (gain < 0.0).all()
    assert (gain > -3 * bins / n - 0.05).all()
    assert own.knots.diff().min() > 0


def test_the_gain_is_the_same_whichever_way_an_axis_points():
    x = bent_rows(2, n=4_000).x
    gain = cross_fitted_gain(x[:, 0], x[:, 1:], 20)
    torch.testing.assert_close(cross_fitted_gain(x[:, 0], -x[:, 1:], 20), gain)
    torch.testing.assert_close(cross_fitted_gain(-x[:, 0], x[:, 1:], 20).mean(), gain.mean(), rtol=0.02, atol=1e-3)


# --------------------------------------------------------------------------------------------------------------- flows


def integral(flow, low=-14.0, high=14.0, n=701):
    """The density of a flow of two columns over the plane, and its mean log density there."""
    axis = torch.linspace(low, high, n, dtype=torch.float64)
    cell = float(axis[1] - axis[0]) ** 2
    with torch.no_grad():
        log_p = Rows(torch.cartesian_prod(axis, axis)).map(flow.log_prob)
    return float(log_p.exp().sum()) * cell, float((log_p.exp() * log_p).nan_to_num().sum()) * cell


FLOWS = {f"{name} by {conditioner}": (name, conditioner) for name in PRESETS for conditioner in ("mlp", "kernel")}
FLOWS = {name: (layers, how) for name, (layers, how) in FLOWS.items() if layers != "gin"}


def flow_of(layers, conditioner="mlp", columns=2, context=0, **options):
    """A coupling flow away from its start, in float64."""
    options |= {"points": 10} if conditioner == "kernel" else {"width": 16}
    flow = CouplingFlow(columns, columns, context, layers=layers, transforms=4, conditioner=conditioner, **options)
    flow = flow.double()
    flow.start(bent_rows(columns, context))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return flow


@pytest.mark.parametrize("name", FLOWS)
def test_a_density_integrates_to_one_and_samples_have_its_entropy(name):
    flow = flow_of(*FLOWS[name])
    total, mean = integral(flow)
    assert total == pytest.approx(1, abs=2e-3)
    log_p = flow.log_prob(flow.sample(20_000)).detach()
    assert float(log_p.mean()) == pytest.approx(mean, abs=4 * float(log_p.std()) / 20_000**0.5 + 2e-3)
    x, log_prob = flow.rsample_with_log_prob(50)
    torch.testing.assert_close(flow.log_prob(x), log_prob, rtol=0, atol=1e-9)


def test_an_iterative_density_integrates_to_one():
    flow = IterativeFlow(2, 2, layers=20).double()
    flow.start(bent_rows(2, n=4_000))
    assert int(flow.transform.used) > 3
    assert integral(flow)[0] == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize(("layers", "columns"), [("nice", 2), ("nice", 5), ("gin", 3), ("gin", 6)])
def test_volume_preserving_flows_have_one_log_determinant_and_one_mode_of_known_height(layers, columns):
    flow, x = flow_of(layers, columns=columns), randn(200, columns)
    log_det = -flow.volume(x).log_volume.detach()
    assert float(log_det.std()) < 1e-10
    peak = float(log_det[0]) - columns / 2 * math.log(2 * math.pi)
    with torch.no_grad():
        mode = flow.decode(torch.zeros(1, columns).double())
        assert float(flow.log_prob(mode)) == pytest.approx(peak, abs=1e-10)
        assert float(flow.log_prob(mode + 0.3 * x).max()) < peak
    assert float(flow_of("realnvp", columns=columns).volume(x).log_volume.detach().std()) > 1e-3


@pytest.mark.parametrize("layers", PRESETS)
@pytest.mark.parametrize("columns", [1, 2, 3, 7])
def test_presets_take_any_number_of_columns_or_say_why_not(layers, columns):
    if layers == "gin" and columns < 3:
        with pytest.raises(InputError, match=f"expected at least 3 columns for GIN .* got {columns}; use 'additive'"):
            CouplingFlow(columns, columns, layers=layers)
        return
    for context in (0, 2):
        flow = flow_of(layers, columns=columns, context=context)
        c = randn(6, context) if context else None
        x = flow.sample(6, c)
        torch.testing.assert_close(flow.reconstruct(x, c).detach(), x, rtol=0, atol=1e-8)


def test_the_iterative_flow_says_that_one_column_is_too_few():
    with pytest.raises(InputError, match=r"expected at least 2 columns for the iterative flow.* got 1; use flow"):
        IterativeFlow(1, 1)


def test_layers_start_by_rows_as_they_reach_them():
    flow = CouplingFlow(3, 3, layers=("lu", "actnorm", "affine", "actnorm", "radial"), width=8).double()
    with torch.no_grad():
        flow.transform.transforms[0].off_diagonal.normal_()
    rows = bent_rows(3)
    flow.start(rows)
    z = flow.encode(rows.x).detach()
    torch.testing.assert_close(z.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(z.std(0), torch.ones(3).double())
    assert bool(flow.transform.transforms[1].started)


# --------------------------------------------------------------------------------------- the construction of the proof


def ring(n):
    angle = 2 * torch.pi * torch.randint(20, (n,)).double() / 20
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * randn(n, 2)


def ring_log_density(x):
    angle = 2 * torch.pi * torch.arange(20).double() / 20
    squares = (x.unsqueeze(1) - torch.stack([angle.cos(), angle.sin()], 1)).square().sum(2)
    return torch.logsumexp(-squares / 0.02, 1) - math.log(20 * 2 * math.pi * 0.01)


def test_a_layer_lowers_the_divergence_by_what_was_predicted():
    """Undamped steps on fresh rows; as published, the first layers' gains are predicted within a few per cent."""
    z, fresh = ring(100_000), ring(100_000)
    for _ in range(4):
        angle = torch.rand(()).double() * torch.pi
        direction, weights = torch.stack([angle.cos(), angle.sin()]), torch.ones(1).double()
        turned = reflected(z, reflector(direction))
        predicted = cross_fitted_gain(turned[:, 0], turned[:, 1:], 64).mean()
        layer = MomentCoupling(2, bins=64).double()
        layer.set(direction, weights, conditional_moments(turned[:, 0], turned[:, 1:], 64), step=1.0)
        after, log_det = layer().call_and_ladj(fresh)
        measured = (0.5 * (fresh.square() - after.square()).sum(1) + log_det).mean()
        assert float(measured) == pytest.approx(float(predicted), rel=0.03, abs=3e-3)
        z, fresh = layer()(z), after


def test_the_iterative_flow_learns_a_ring_of_normals():
    flow, test = IterativeFlow(2, 2).double(), ring(20_000)
    flow.start(Rows(ring(20_000)))
    divergence = float((ring_log_density(test) - flow.log_prob(test)).mean())
    assert divergence < 0.25  # of the best normal law 1.23


def test_the_iterative_flow_makes_nothing_of_noise():
    flow, test = IterativeFlow(5, 5).double(), randn(5_000, 5)
    flow.start(Rows(randn(1_000, 5)))
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(test).sum(1)
    assert float((normal - flow.log_prob(test)).mean()) < 0.05


def test_the_iterative_flow_learns_what_a_context_says():
    c, test = randn(4_000, 1), randn(2_000, 1)
    law = lambda c: torch.cat([c.square(), c.abs()], 1) + 0.2 * randn(len(c), 2)  # noqa: E731
    flow = IterativeFlow(2, 2, 1).double()
    flow.start(Rows(law(c), c))
    truth = -2 * (0.5 + math.log(0.2 * math.sqrt(2 * math.pi)))
    assert float(flow.log_prob(law(test), test).mean()) > truth - 0.35  # without the context -2.3 below
