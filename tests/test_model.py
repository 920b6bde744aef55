"""The finished model: numbers and densities in the user's units, refusals in one line."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from cases import make_flow, randn
from isthmus import model as module
from isthmus.columns import Columns
from isthmus.density import Ambient
from isthmus.errors import InputError
from isthmus.model import Model
from test_ambient import component_noise, covariance, gaussian_mixture, isotropic, linear_flow

EXACT = {"rtol": 1e-8, "atol": 1e-8}
UNITS = torch.tensor([0.01, 3.0, 1.0, 500.0], dtype=torch.float64)


def table(rows=50):
    """Five columns on different scales, the second of them constant."""
    x = randn(rows, 4) * UNITS + torch.tensor([1.0, -7.0, 0.0, 1e4])
    return torch.cat([x[:, :1], torch.full((rows, 1), 2.5).double(), x[:, 1:]], 1)


@pytest.fixture
def linear():
    """A linear model with a mixture latent, the user's table, and the mixture it is in the user's units."""
    x = table()
    columns = Columns.learn(x)
    B, b, latent, Sigma = randn(4, 2), randn(4), gaussian_mixture(2, 3), covariance(3, 4)
    model = Model(Ambient(linear_flow(B, b, latent), component_noise(Sigma)), columns)
    S, mean = columns.scale[columns.kept], columns.mean[columns.kept]
    prior = latent.scale_tril @ latent.scale_tril.mT
    parts = MultivariateNormal(mean + S * (latent.means @ B.T + b), S.unsqueeze(1) * (B @ prior @ B.T + Sigma) * S)
    return model, x, latent.logits.log_softmax(0), parts, S.unsqueeze(1) * B


@pytest.fixture
def conditional():
    """A curved conditional model in the user's units."""
    flow = make_flow("rectangular", 4, 2, 2, transforms=2, width=8, latent_transforms=2)
    c = 5 + 3 * randn(50, 2)
    columns = Columns.learn(c, dequantise=False, drop=False)
    return Model(Ambient(flow, isotropic(4, 0.3)), Columns.learn(table()), columns), table(), c


def test_densities_are_in_the_users_units(linear):
    model, x, log_weights, parts, B = linear
    truth = (log_weights + parts.log_prob(x[:, [0, 2, 3, 4]].unsqueeze(1))).logsumexp(1)
    torch.testing.assert_close(model.log_prob(x), truth, **EXACT)
    torch.testing.assert_close(model.log_prob(x, density="ambient"), truth, **EXACT)
    torch.testing.assert_close(model.estimate(x, n_points=8).value, truth, **EXACT)
    volume = 0.5 * torch.linalg.slogdet(B.T @ B).logabsdet
    manifold = model.flow.base().log_prob(model.encode(x)) - volume
    torch.testing.assert_close(model.log_prob(x, density="manifold"), manifold, **EXACT)


def test_samples_are_in_the_users_units(linear):
    model, _, log_weights, parts, B = linear
    w, n = log_weights.exp(), 20_000
    x = model.sample(n)
    assert (x[:, 1] == 2.5).all()
    x = x[:, [0, 2, 3, 4]]
    mean = w @ parts.loc
    square = w @ (parts.loc.square() + parts.covariance_matrix.diagonal(dim1=1, dim2=2))
    for drawn, truth in ((x, mean), (x.square(), square)):
        assert float(((drawn.mean(0) - truth) / drawn.std(0)).abs().max()) < 4.5 / n**0.5
    flat = model.sample(100, noise=False)[:, [0, 2, 3, 4]]
    off = (flat - flat.mean(0)) @ (torch.eye(4).double() - B @ torch.linalg.pinv(B))
    assert float((off / UNITS).abs().max()) < 1e-6
    modes = torch.unique(model.sample(50, temperature=0.0), dim=0)
    torch.testing.assert_close(modes[:, [0, 2, 3, 4]].sort(0).values, parts.loc.sort(0).values)


def test_codes_and_points_go_through_the_preparation(conditional):
    model, x, c = conditional
    u, inner = model.columns.standardise(x), model.context_columns.standardise(c)
    torch.testing.assert_close(model.encode(x, c), model.flow.encode(u, inner))
    z = model.encode(x, c)
    x_hat = model.columns.restore(model.flow.decode(z, inner))
    torch.testing.assert_close(model.decode(z, c), x_hat)
    torch.testing.assert_close(model.reconstruct(x, c), x_hat)
    assert (x_hat[:, 1] == 2.5).all()
    once, many = (
        (torch.manual_seed(0), model.sample(6, c[:1]))[1],
        (torch.manual_seed(0), model.sample(6, c[[0] * 6]))[1],
    )
    assert torch.equal(once, many)


def test_rows_do_not_depend_on_one_another_nor_on_how_they_are_cut(conditional, monkeypatch):
    model, x, c = conditional
    functions = [
        model.encode,
        model.reconstruct,
        *(
            lambda x, c, density=density: model.log_prob(x, c, density=density)
            for density in ("linearised", "ambient", "manifold")
        ),
    ]
    together = [function(x, c) for function in functions]
    monkeypatch.setattr(module, "_ROWS", 7)
    torch.testing.assert_close([function(x, c) for function in functions], together, rtol=1e-10, atol=1e-10)
    alone = [function(x[9:10], c[9:10]) for function in functions]
    torch.testing.assert_close(alone, [t[9:10] for t in together], rtol=1e-10, atol=1e-10)


def test_everything_is_computed_in_double_precision_without_gradients(conditional):
    model, x, c = conditional
    before = x.clone()
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.dtype == torch.float64 for p in model.parameters())
    rough = model.log_prob(x.float(), c.float())
    assert rough.dtype == torch.float64
    torch.testing.assert_close(rough, model.log_prob(x.float().double(), c.float().double()))
    x.requires_grad_()
    assert not any(t.requires_grad for t in (model.log_prob(x, c), model.encode(x, c), *model.estimate(x, c)))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda m, x, c: m.log_prob(x[:, :4], c), r"expected rows of 5 columns; got shape \(50, 4\)"),
        (lambda m, x, c: m.encode(x[0], c), r"expected X of shape \(rows, columns\); got shape \(5,\)"),
        (lambda m, x, c: m.log_prob(x), "expected 2 context columns for 50 rows; got none"),
        (lambda m, x, c: m.reconstruct(x, c[:9]), r"expected 2 context columns for 50 rows; got shape \(9, 2\)"),
        (lambda m, x, c: m.decode(x[:, :2], c[:, :1]), r"expected 2 context columns for 50 rows; got shape \(50, 1\)"),
        (lambda m, x, c: m.sample(3), "expected 2 context columns for 3 rows; got none"),
        (lambda m, x, c: m.sample(3, c), "expected 2 context columns for 3 rows; got shape"),
        (lambda m, x, c: m.log_prob(x, c, density="ambiant"), "expected a density among .*; got 'ambiant'"),
        (lambda m, x, c: m.log_prob(x.where(x != x[3, 0], math.nan), c), "expected finite numbers"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(conditional, unchecked, call, problem):
    with pytest.raises(InputError, match=problem) as refusal:
        call(*conditional)
    assert "\n" not in str(refusal.value)


def test_a_context_that_is_not_asked_for_is_refused(linear):
    model, x, *_ = linear
    for call in (lambda: model.log_prob(x, x), lambda: model.sample(50, x)):
        with pytest.raises(InputError, match="expected no context; got 5 columns"):
            call()


def test_far_outliers_have_low_but_finite_densities(conditional):
    model, x, c = conditional
    for factor in (1e2, 1e4):
        far = model.log_prob(x + factor * x.std(0), c)
        assert far.isfinite().all()
        assert float(far.max()) < float(model.log_prob(x, c).min())
