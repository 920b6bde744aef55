"""What every flow promises, over all of FLOWS and all kinds of dimensions; then what single families promise."""

import copy
import typing

import numpy as np
import pytest
import torch
from torch import nn

from cases import DIMENSIONS, INJECTIONS, LAWS, fits, half_log_det, jacobians, make_flow, modules_of, rows_for
from isthmus import latents
from isthmus.errors import InputError
from isthmus.flow import Flow, Injection, WholeSpace
from isthmus.flows import FLOWS, BijectiveFlow, FreeFormFlow, ManifoldFlow, RectangularFlow
from isthmus.supports import Euclidean
from isthmus.volume import exact

CLOSE = {"rtol": 1e-8, "atol": 1e-8}


@pytest.fixture(
    params=[(name, dims) for name in INJECTIONS for dims, (D, d, _) in DIMENSIONS.items() if fits(name, D, d)],
    ids="-".join,
)
def made(request):
    """A flow with rows and contexts that fit it."""
    name, dims = request.param
    D, d, C = DIMENSIONS[dims]
    c = torch.randn(6, C, dtype=torch.float64) if C else None
    flow = make_flow(name, D, d, C)
    return flow, rows_for(flow), c


def row_maps(flow, c):
    return tuple(
        (lambda b, t, f=f: f(t[None], None if c is None else c[b : b + 1])[0]) for f in (flow.encode, flow.decode)
    )


def test_flows_are_final_and_the_contract_abstract():
    for kind in FLOWS.values():
        assert issubclass(kind, Flow)
        assert kind.__final__
    for contract in (Flow, Injection):
        with pytest.raises(TypeError, match="abstract"):
            contract(Euclidean(3), 1)


def density_at(flow, x, c):
    """The density at g(z), z the code of x; on a known manifold that from which x itself is decoded."""
    if isinstance(flow, ManifoldFlow):
        z = flow.invert(x, c).z
        return flow.base(c).log_prob(z) - flow.volume_at(z, c).log_volume
    z, _, log_volume = flow.volume(x, c)
    return flow.base(c).log_prob(z) - log_volume


def test_the_parts_fit_together(made):
    flow, x, c = made
    z, x_hat, _ = flow.volume(x, c)
    assert z.shape == (6, flow.latent_dim)
    assert x_hat.shape == (6, flow.data_dim)
    for found, expected in (
        (flow.encode(x, c), z),
        (flow.decode(z, c), x_hat),
        (flow.reconstruct(x, c), x_hat),
        (flow.log_prob(x, c), density_at(flow, x, c)),
        (flow.maps(c)[0](x), z),
        (flow.maps(c)[1](z), x_hat),
    ):
        torch.testing.assert_close(found, expected, **CLOSE)


def test_the_volume_is_the_determinant_of_either_jacobian(made):
    flow, x, c = made
    (f_row, g_row), d = row_maps(flow, c), flow.codes.dim
    by_decoder, by_encoder = half_log_det(jacobians(g_row, flow.encode(x, c)), d), -half_log_det(jacobians(f_row, x), d)
    torch.testing.assert_close(flow.volume(x, c).log_volume, by_decoder, **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(flow.volume(x, c).log_volume, by_decoder, **CLOSE)
        for options, expected in (({"side": "encoder"}, by_encoder), ({"chunk": 1}, by_decoder)):
            found = exact(*flow.maps(c), x, codes=flow.codes, **options).log_volume
            torch.testing.assert_close(found, expected, **CLOSE)


def test_rows_do_not_see_one_another(made):
    flow, x, c = made
    for function in (flow.encode, flow.reconstruct, flow.log_prob):
        alone = torch.cat([function(x[i : i + 1], None if c is None else c[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(function(x, c), alone, rtol=1e-10, atol=1e-10)


def test_the_context_matters_where_there_is_one(made):
    flow, x, c = made
    if c is not None:
        assert not torch.allclose(flow.encode(x, c), flow.encode(x, c.flip(0)))
        assert not torch.allclose(
            flow.decode(x[:, : flow.latent_dim], c), flow.decode(x[:, : flow.latent_dim], c.flip(0))
        )


def test_samples_are_decoded_codes(made):
    flow, _, c = made
    colder = flow.codes.measure == "volume"
    if not colder:
        with pytest.raises(InputError, match="expected temperature 1 for codes of a Uniform, which has no colder form"):
            flow.sample(6, c, temperature=0.3)
    for temperature in (1.0, 0.3) if colder else (1.0,):
        torch.manual_seed(1)
        x = flow.sample(6, c, temperature=temperature)
        torch.manual_seed(1)
        z = flow.draw(6, c, temperature=temperature)
        torch.testing.assert_close(x, flow.decode(z, c).detach())
        assert not x.requires_grad
    if c is not None:
        with pytest.raises(InputError, match="one context row for each of 4 samples; got 6 rows"):
            flow.sample(4, c)


def test_the_volume_from_the_side_of_the_codes_is_that_of_the_rows(made):
    flow, x, c = made
    z, x_hat, log_volume = flow.volume(x, c)
    at = flow.volume_at(z.detach(), c)
    torch.testing.assert_close(at.x_hat, x_hat, **CLOSE)
    torch.testing.assert_close(at.log_volume, log_volume, **CLOSE)


def test_parameters_are_all_of_a_flow(made):
    flow, x, c = made
    twin = copy.deepcopy(flow)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    twin.load_state_dict(flow.state_dict())
    assert torch.equal(twin.log_prob(x, c), flow.log_prob(x, c))
    assert flow.float().log_prob(x.float(), None if c is None else c.float()).isfinite().all()


@pytest.mark.parametrize("d", [0, 4, -1])
@pytest.mark.parametrize("name", INJECTIONS)
def test_more_latent_dimensions_than_columns_are_refused(name, d):
    with pytest.raises(InputError, match=f"expected 1 <= latent dimension <= 3 columns; got {d}; choose another"):
        FLOWS[name](*modules_of(name, 3, 2), 3, d)


def test_every_annotation_of_the_contract_is_kept():
    """A flow may be passed wherever a Flow is asked for: same names, same order."""
    methods = {Flow: ("log_prob", "sample", "rsample_with_log_prob"), Injection: ("encode", "decode", "volume")}
    for kind in FLOWS.values():
        for contract in (contract for contract in methods if issubclass(kind, contract)):
            for method in methods[contract]:
                own, promised = (typing.get_type_hints(getattr(owner, method)) for owner in (kind, contract))
                assert list(own) == list(promised)


# -------------------------------------------------------------------------------------- laws of known supports


@pytest.fixture(params=[(name, C) for name in LAWS for C in (0, 2)], ids=lambda param: f"{param[0]} given {param[1]}")
def law(request):
    """A law with rows and contexts that fit it."""
    name, C = request.param
    flow = make_flow(name, 4, C=C, width=8)
    return flow, flow.rows.uniform(6).double(), torch.randn(6, C, dtype=torch.float64) if C else None


def test_rows_of_a_law_do_not_see_one_another(law):
    flow, x, c = law
    alone = torch.cat([flow.log_prob(x[i : i + 1], None if c is None else c[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(flow.log_prob(x, c), alone, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(flow.log_prob(x, c), flow.log_prob(x, None if c is None else c.flip(0))) or c is None


def test_parameters_are_all_of_a_law(law):
    flow, x, c = law
    twin = copy.deepcopy(flow)
    with torch.no_grad():
        for tensor in (*twin.parameters(), *(b for b in twin.buffers() if b.is_floating_point())):
            tensor.zero_()
    twin.load_state_dict(flow.state_dict())
    assert torch.equal(twin.log_prob(x, c), flow.log_prob(x, c))
    assert flow.float().log_prob(x.float(), None if c is None else c.float()).isfinite().all()


def test_samples_of_a_law_lie_on_its_support_and_have_no_temperature(law):
    flow, _, c = law
    x = flow.sample(6, c)
    flow.rows.check(x)
    assert x.dtype == torch.float64
    assert not x.requires_grad
    with pytest.raises(InputError, match=r"expected temperature 1 .* got 0.5"):
        flow.sample(6, c, temperature=0.5)
    if c is not None:
        with pytest.raises(InputError, match="one context row for each of 4 samples; got 6 rows"):
            flow.sample(4, c)


# -------------------------------------------------------------------------------- draws with their log density


@pytest.mark.parametrize("name", FLOWS)
def test_draws_come_with_their_log_density_and_gradients_or_are_refused(name):
    """Gradients of rows and of densities are those of finite steps of a parameter, with the random numbers held."""
    flow = make_flow(name, 4, 4)
    if name not in LAWS and not isinstance(flow, WholeSpace):
        with pytest.raises(InputError, match="whose draws can be differentiated, as 'hypersurface'"):
            flow.rsample_with_log_prob(3)
        return
    torch.manual_seed(0)
    x, log_prob = flow.rsample_with_log_prob(5)
    torch.testing.assert_close(flow.log_prob(x), log_prob, rtol=1e-8, atol=1e-8)
    if not list(flow.parameters()):
        return
    weights = torch.randn(5, 4).double()
    (x * weights).sum().add(log_prob.sum()).backward()
    parameter = max(flow.parameters(), key=lambda p: 0 if p.grad is None else float(p.grad.abs().max()))
    index, values = int(parameter.grad.abs().argmax()), []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            parameter.view(-1)[index] += step
            torch.manual_seed(0)
            x, log_prob = flow.rsample_with_log_prob(5)
            values.append(float((x * weights).sum() + log_prob.sum()))
            parameter.view(-1)[index] -= step
    slope = float(parameter.grad.view(-1)[index])
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_a_latent_whose_draws_have_no_gradient_is_refused():
    flow = BijectiveFlow(2, 2, transforms=0)
    flow.latent = latents.mixture(2)
    with pytest.raises(
        InputError, match="a latent density whose draws can be differentiated, as 'normal'; got Mixture"
    ):
        flow.rsample_with_log_prob(3)


# ------------------------------------------------------------------------------------------ rectangular flows


@pytest.mark.parametrize("dims", DIMENSIONS.values(), ids=DIMENSIONS)
def test_a_rectangular_encoder_is_a_left_inverse(dims):
    flow, z = make_flow("rectangular", *dims), torch.randn(6, dims[1], dtype=torch.float64)
    c = torch.randn(6, dims[2], dtype=torch.float64) if dims[2] else None
    torch.testing.assert_close(flow.encode(flow.decode(z, c), c), z, **CLOSE)


@pytest.mark.parametrize("seed", range(5))
def test_far_rows_stay_within_what_the_couplings_may_stretch(seed):
    """Six couplings change each of four coordinates three times, each by a factor of at most ten."""
    torch.manual_seed(seed)
    flow = make_flow("rectangular", 4, 2, transforms=6)
    with torch.no_grad():
        for parameter in flow.embedding.parameters():
            parameter.mul_(20)
    _, log_det = flow.embedding(None).call_and_ladj(1e4 * torch.randn(6, 4, dtype=torch.float64))
    assert (log_det.abs() <= 4 * 3 * np.log(10) + 1e-6).all()


def test_a_square_rectangular_flow_is_an_ordinary_normalising_flow():
    flow, x = make_flow("rectangular", 4, 4), torch.randn(6, 4, dtype=torch.float64)
    z, log_det = flow.embedding(None).call_and_ladj(x)
    torch.testing.assert_close(flow.log_prob(x), flow.base().log_prob(z) + log_det, **CLOSE)


def test_without_latent_transforms_the_latent_is_normal():
    base, z = RectangularFlow(3, 2, latent_transforms=0).base(), torch.randn(5, 2)
    torch.testing.assert_close(base.log_prob(z), torch.distributions.Normal(0, 1).log_prob(z).sum(1))


# -------------------------------------------------------------------------------------------- bijective flows


@pytest.mark.parametrize("transform", ["nsf", "maf", "realnvp"])
def test_a_bijective_flow_is_a_density_of_the_whole_space(transform):
    flow = make_flow("bijective", 2, 2, transform=transform, transforms=2, width=8)
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    cell = float(axis[1] - axis[0]) ** 2
    with torch.no_grad():
        assert float(flow.log_prob(torch.cartesian_prod(axis, axis)).exp().sum()) * cell == pytest.approx(1, abs=2e-3)


def test_without_transforms_everything_is_left_to_the_latent_density():
    flow, x = BijectiveFlow(3, 3, transforms=0), torch.randn(5, 3)
    torch.testing.assert_close(flow.log_prob(x), flow.base().log_prob(x))


def test_a_bijective_flow_has_no_manifold():
    with pytest.raises(InputError, match="expected latent_dim 3, as many as columns, for a bijective flow; got 2"):
        BijectiveFlow(3, 2)


# ---------------------------------------------------------------------------- the density on a known manifold


class Formula(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


def test_the_density_on_a_curve_integrates_to_one_over_its_length():
    curve = lambda z: torch.cat([z, (2 * z).sin(), z**2 / 4], 1)  # noqa: E731
    flow = FreeFormFlow(Formula(lambda x: x[:, :1]), Formula(curve), 3, 1)
    ends = curve(torch.linspace(-9, 9, 20_001).double().unsqueeze(1))
    length, middle = ends.diff(dim=0).norm(dim=1), curve(torch.linspace(-9, 9, 40_001).double()[1::2].unsqueeze(1))
    assert float((flow.log_prob(middle).exp() * length).sum()) == pytest.approx(1, abs=1e-6)


def test_the_density_on_a_sphere_integrates_to_one_over_its_area():
    """Stereographic codes; the quadrature knows the sphere by latitude and longitude alone."""
    project = lambda x: x[:, :2] / (1 - x[:, 2:])  # noqa: E731
    lift = lambda z: torch.cat([2 * z, (z**2).sum(1, keepdim=True) - 1], 1) / (1 + (z**2).sum(1, keepdim=True))  # noqa: E731
    flow = FreeFormFlow(Formula(project), Formula(lift), 3, 2)
    height, weight = (torch.as_tensor(t) for t in np.polynomial.legendre.leggauss(80))
    angle = torch.arange(0, 40).double() * torch.pi / 20
    h, a = torch.cartesian_prod(height, angle).unbind(1)
    x = torch.stack([(1 - h**2).sqrt() * a.cos(), (1 - h**2).sqrt() * a.sin(), h], 1)
    area = weight.repeat_interleave(40) * torch.pi / 20
    assert float((flow.log_prob(x).exp() * area).sum()) == pytest.approx(1, abs=1e-6)
