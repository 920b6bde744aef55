import dataclasses
import math

import pytest
import torch
from scipy import integrate

from isthmus.data import DATASETS, Dataset, toy
from isthmus.errors import InputError

SMALL = {"n_train": 300, "n_validation": 40, "n_test": 50}
TOYS = toy.__all__
WITH_MANIFOLD = [name for name in TOYS if name != "gaussian"]
SINE_SD = ((1 - math.exp(-(math.pi**2) / 2)) / 2) ** 0.5


@pytest.fixture
def chart_of(monkeypatch):
    """The chart of a toy, caught where it is handed over."""

    def catch(name):
        charts, build = [], toy._dataset

        def spy(key, chart, *rest):
            charts.append(chart)
            return build(key, chart, *rest)

        monkeypatch.setattr(toy, "_dataset", spy)
        DATASETS[name](**SMALL)
        return charts[0]

    return catch


def grid(low, high, step):
    """Nodes and cell volume of a box; for densities smooth on the scale of `step` the plain sum is all but exact."""
    axes = [torch.arange(a, b, step, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    return torch.cartesian_prod(*axes), step ** len(axes)


# -- every toy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_splits_are_finite_float32_tables_that_share_no_row(name):
    data = DATASETS[name](**SMALL)
    splits = (data.train, data.validation, data.test)
    assert data.name == name
    assert [len(rows) for rows in splits] == [300, 40, 50]
    assert all(rows.dtype == torch.float32 and rows.isfinite().all() for rows in splits)
    assert 1 <= data.latent_dim < data.data_dim
    assert len(torch.cat(splits).unique(dim=0)) == 390


@pytest.mark.parametrize("name", TOYS)
def test_seed_alone_decides_and_the_global_generator_is_left_alone(name):
    state = torch.random.get_rng_state()
    data, again, other = (DATASETS[name](**SMALL, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(data.train, again.train)
    both = torch.cat([data.train, data.validation, data.test, other.train, other.validation, other.test])
    assert len(both.unique(dim=0)) == 2 * 390
    fewer = DATASETS[name](**{**SMALL, "n_train": 7}, seed=3)
    assert torch.equal(fewer.test, data.test)


@pytest.mark.parametrize("name", TOYS)
def test_noise_is_isotropic_and_has_the_stated_size(name):
    noisy, clean = (DATASETS[name](n_train=20_000, noise=noise) for noise in (0.3, 0.0))
    eps = (noisy.train - clean.train).double()
    covariance = eps.T @ eps / len(eps)
    assert torch.allclose(covariance, 0.09 * torch.eye(eps.shape[1], dtype=torch.float64), atol=0.09 * 5 * 0.01)
    assert (clean.log_prob is None) == (name != "gaussian")


@pytest.mark.parametrize("name", WITH_MANIFOLD)
def test_chart_is_injective_and_its_law_is_what_it_draws(chart_of, name):
    chart = chart_of(name)
    u = chart.law.draw(20_000, torch.Generator().manual_seed(1))
    x = chart.embed(u)
    assert torch.allclose(chart.coordinates(x), u, atol=1e-6)

    d = u.shape[1]
    if d > 2:
        return  # too many nodes
    nodes, log_weights = toy._quadrature(chart.law.bounds, [60 if d == 1 else 10] * d)
    weights = (log_weights + chart.law.log_prob(nodes)).exp()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-9)
    moments, expected = torch.cat([x, x**2], 1), weights @ torch.cat([chart.embed(nodes), chart.embed(nodes) ** 2], 1)
    assert ((moments.mean(0) - expected).abs() < 5 * moments.std(0) / len(u) ** 0.5 + 1e-12).all()


@pytest.mark.parametrize(
    ("name", "noise", "low", "high"),
    [
        ("sine", 0.1, (-6, -2.5), (6, 2.5)),
        ("sine", 0.05, (-6, -2), (6, 2)),
        ("two_moons", 0.1, (-2, -1.5), (3, 2)),
        ("spiral", 0.1, (-4, -4), (4, 4)),
        ("gaussian", 0.0, (-6, -2), (6, 2)),
        ("swiss_roll", 0.25, (-4, -3.2, -4), (4, 3.2, 4)),
        ("sphere", 0.2, (-2.5, -2.5, -2.5), (2.5, 2.5, 2.5)),
        ("torus", 0.2, (-3, -3, -2), (3, 3, 2)),
    ],
)
def test_ambient_density_integrates_to_one_and_is_that_of_the_rows(name, noise, low, high):
    """Normalised on a grid; and the rows' mean log-density is minus the entropy, also from the grid."""
    data = DATASETS[name](n_test=4_000, noise=noise)
    points, cell = grid(low, high, noise or 0.1)
    log_p = data.log_prob(points)
    p = log_p.exp() * cell
    assert float(p.sum()) == pytest.approx(1, abs=2e-6)
    at_rows = data.log_prob(data.test)
    error = at_rows.mean() - (p * log_p).sum()
    assert abs(float(error)) < 4 * float(at_rows.std()) / len(at_rows) ** 0.5


@pytest.mark.parametrize("name", WITH_MANIFOLD)
def test_quadrature_has_converged_where_the_rows_are(monkeypatch, name):
    options = {"latent_dim": 1} if name == "random_manifold" else {}
    data = DATASETS[name](**SMALL, **options)
    monkeypatch.setattr(toy, "_PANEL_WIDTH", toy._PANEL_WIDTH / 1.5)
    monkeypatch.setattr(toy, "_MAX_NODES", 10**6)
    finer = DATASETS[name](**SMALL, **options)
    assert torch.allclose(data.log_prob(data.train), finer.log_prob(data.train), rtol=0, atol=1e-6)


# -- against closed forms -------------------------------------------------------------------------------------------


def test_ambient_density_of_the_sine_by_adaptive_quadrature():
    points = torch.tensor([[0.0, 0.0], [1.0, 1.2], [-2.5, 0.9], [4.0, 0.3]], dtype=torch.float64)

    def integrand(u, x, y):
        squares = (x - u) ** 2 + (y - math.sin(math.pi / 2 * u) / SINE_SD) ** 2
        return math.exp(-(u**2) / 2 - squares / 0.02) / math.sqrt(2 * math.pi) / (2 * math.pi * 0.01)

    values = [
        integrate.quad(integrand, x - 1.5, x + 1.5, args=(x, y), epsabs=0, epsrel=1e-10, limit=200)[0]
        for x, y in points.tolist()
    ]
    expected = torch.tensor(values, dtype=torch.float64)
    assert torch.allclose(DATASETS["sine"](**SMALL).log_prob(points).exp(), expected, rtol=1e-8)


def test_ambient_density_of_the_sphere_in_closed_form():
    """The integral of exp(v . y) over the unit sphere is 4 pi sinh|v| / |v|."""
    kappa, noise = 3.0, 0.2
    data = DATASETS["sphere"](kappa, **SMALL, noise=noise)
    x = data.test.double()
    v = x / noise**2 + torch.tensor([0.0, 0.0, kappa])
    length = v.norm(dim=1)
    log_integral = math.log(2 * math.pi) + length + torch.log1p(-torch.exp(-2 * length)) - length.log()
    log_constant = math.log(kappa / (4 * math.pi * math.sinh(kappa))) - 1.5 * math.log(2 * math.pi * noise**2)
    expected = log_constant - (x.square().sum(1) + 1) / (2 * noise**2) + log_integral
    assert torch.allclose(data.log_prob(data.test), expected, rtol=0, atol=1e-8)


def test_ambient_density_of_the_gaussian_in_closed_form():
    variances, noise = (2.0, 0.5, 0.01), 0.1
    data = DATASETS["gaussian"](variances, latent_dim=2, **SMALL, noise=noise)
    covariance = torch.diag(torch.tensor(variances, dtype=torch.float64)) + noise**2 * torch.eye(3)
    exact = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
    assert torch.allclose(data.log_prob(data.test), exact.log_prob(data.test.double()))
    assert (data.latent_dim, data.manifold_log_prob) == (2, None)


def sine_density(x):
    speed = torch.sqrt(1 + (math.pi / 2 / SINE_SD * torch.cos(math.pi / 2 * x[:, 0])) ** 2)
    return torch.exp(-(x[:, 0] ** 2) / 2) / (2 * math.pi) ** 0.5 / speed


def spiral_density(x, turns=3.0):
    """Uniform in the angle t = 2 pi r, at speed sqrt(1 + t^2) / 2 pi."""
    return 1 / (turns * torch.sqrt(1 + (2 * math.pi * x.norm(dim=1)) ** 2))


MANIFOLDS = {  # name: (implicit equation that points satisfy, density on the manifold), both as functions of a point
    "sine": (lambda x: x[:, 1] * SINE_SD - torch.sin(math.pi / 2 * x[:, 0]), sine_density),
    "two_moons": (
        lambda x: torch.where(
            (x[:, 1] >= 0) & (x[:, 0] < 1) & ((x.norm(dim=1) - 1).abs() < 1e-4),
            x.norm(dim=1) - 1,
            (x - torch.tensor([1.0, 0.5])).norm(dim=1) - 1,
        ),
        lambda x: torch.full((len(x),), 1 / (2 * math.pi)),
    ),
    "spiral": (lambda x: torch.sin(2 * math.pi * x.norm(dim=1) - torch.atan2(x[:, 1], x[:, 0])), spiral_density),
    "swiss_roll": (
        lambda x: torch.sin(2 * math.pi * x[:, [0, 2]].norm(dim=1) - torch.atan2(x[:, 2], x[:, 0])),
        lambda x: spiral_density(x[:, [0, 2]], turns=1.5) / 3,
    ),
    "sphere": (lambda x: x.norm(dim=1) - 1, lambda x: 2 / (4 * math.pi * math.sinh(2)) * torch.exp(2 * x[:, 2])),
    "torus": (
        lambda x: ((x[:, :2].norm(dim=1) - 1) ** 2 + x[:, 2] ** 2).sqrt() - 0.4,
        lambda x: 1 / (4 * math.pi**2 * 0.4 * x[:, :2].norm(dim=1)),
    ),
}


@pytest.mark.parametrize("name", MANIFOLDS)
def test_noise_free_rows_lie_on_the_manifold_with_the_known_density(name):
    data = DATASETS[name](**SMALL, noise=0.0)
    equation, density = MANIFOLDS[name]
    x = data.train.double()
    assert equation(x).abs().max() < 3e-6
    assert torch.allclose(data.manifold_log_prob(data.train).exp(), density(x).double(), rtol=1e-4)


def test_random_manifold_has_the_density_of_its_embedding(chart_of):
    """Against finite differences; the latent is standard normal and read off by projection."""
    chart = chart_of("random_manifold")
    u = chart.law.draw(20, torch.Generator().manual_seed(0))
    columns = [(chart.embed(u + 1e-5 * e) - chart.embed(u - 1e-5 * e)) / 2e-5 for e in torch.eye(3).double()]
    J = torch.stack(columns, 2)
    expected = -0.5 * (u**2).sum(1) - 1.5 * math.log(2 * math.pi) - 0.5 * torch.logdet(J.mT @ J)
    assert torch.allclose(toy._manifold_log_prob(chart, chart.embed(u)), expected, atol=1e-8)


# -- options --------------------------------------------------------------------------------------------------------


def test_random_manifold_keeps_its_manifold_under_a_new_seed():
    first, second, other = (
        toy.random_manifold(1, 2, **SMALL, seed=seed, manifold_seed=manifold)
        for seed, manifold in [(0, 0), (1, 0), (0, 1)]
    )
    assert torch.equal(first.log_prob(first.test), second.log_prob(first.test))
    assert (first.log_prob(first.test) - other.log_prob(first.test)).abs().max() > 1


def test_ambient_density_is_none_where_quadrature_is_out_of_reach():
    assert toy.random_manifold(**SMALL).log_prob is None
    assert toy.swiss_roll(**SMALL, noise=0.01).log_prob is None
    assert toy.sine(**SMALL, noise=0.01).log_prob is not None


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (toy.sine, {"n_train": 0}),
        (toy.sine, {"noise": -0.1}),
        (toy.sine, {"noise": math.nan}),
        (toy.sphere, {"concentration": 0.0}),
        (toy.random_manifold, {"latent_dim": 3, "data_dim": 3}),
        (toy.gaussian, {"variances": (1.0, 0.0)}),
        (toy.gaussian, {"latent_dim": 3}),
    ],
)
def test_refuses_impossible_options(function, options):
    with pytest.raises(InputError, match=r"expected .*; got .*; "):
        function(**options)


@pytest.mark.usefixtures("unchecked")
def test_record_checks_its_parts_and_is_frozen():
    x, c = torch.zeros(6, 2), torch.ones(6, 3)
    data = Dataset("zeros", x, x[:2], x[:3], train_context=c, columns=("a", "b"))
    assert (data.data_dim, data.context_dim) == (2, 3)
    assert Dataset("zeros", x, x, x).context_dim == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "ones"
    with pytest.raises(InputError, match="context for each of 2 validation rows; got 6"):
        Dataset("zeros", x, x[:2], x[:3], validation_context=c)
    with pytest.raises(InputError, match=r"test rows of shape \(n, 2\); got \(6, 3\)"):
        Dataset("zeros", x, x[:2], c)
    with pytest.raises(InputError, match="2 column names; got 1"):
        Dataset("zeros", x, x, x, columns=("a",))
