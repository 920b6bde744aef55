"""The preparation of columns: which are curved, and the same numbers back, with the densities that belong to them."""

import numpy as np
import pytest
import torch
from scipy.stats import johnsonsu
from torch.autograd.functional import jacobian

from cases import half_log_det, make_flow, randn
from isthmus import Recipe, fit, fitting, load, save
from isthmus.columns import Columns
from isthmus.density import Ambient
from isthmus.errors import InputError
from isthmus.model import Model
from test_ambient import gaussian_mixture, isotropic, linear_flow
from test_model import table

EXACT = {"rtol": 1e-8, "atol": 1e-8}
ROWS = 1200
QUICK = Recipe.parse("{flow: {latent_dim: 1, network: {width: 16}}, training: {max_steps: 30}}")


def student(df=1.5):
    return randn(ROWS, 1) / (torch.distributions.Chi2(df).sample((ROWS, 1)).double() / df).sqrt()


def budget():
    """Skewed columns whose difference is the third: a curve would bend the plane they lie in."""
    a, b = (0.5 * randn(ROWS, 1)).exp(), randn(ROWS, 1)
    return torch.cat([a, b, a - b], 1)


def constant():
    return torch.full((ROWS, 1), 2.5).double()


# Tables, and the columns that are to be curved.
TABLES = {
    "normal": (lambda: randn(ROWS, 3), []),
    "uniform": (lambda: torch.rand(ROWS, 2).double(), []),
    "two clusters": (lambda: 10 * torch.bernoulli(torch.full((ROWS, 1), 0.3)).double() + randn(ROWS, 2), []),
    "lognormal": (lambda: torch.cat([1e3 * randn(ROWS, 1).exp(), constant(), -randn(ROWS, 1).exp()], 1), [0, 2]),
    "heavy tails": (lambda: torch.cat([randn(ROWS, 1), student()], 1), [1]),
    "outliers": (lambda: randn(ROWS, 2) * (1 + 100 * (torch.arange(ROWS) % 100 == 0)).unsqueeze(1), [0, 1]),
    "counts": (lambda: torch.cat([(4 + 1.5 * randn(ROWS, 1)).exp(), 9 * randn(ROWS, 1)], 1).round(), [0]),
    "a sum": (budget, []),
    "a spike": (lambda: (randn(ROWS, 1) - 0.5).exp() * torch.bernoulli(torch.full((ROWS, 1), 0.7)).double(), []),
    "many columns": (lambda: (randn(ROWS // 3, 2) @ randn(2, 70) + 0.1 * randn(ROWS // 3, 70)).exp(), range(70)),
    "few rows": (lambda: randn(150, 2).exp(), []),
}


@pytest.fixture(params=TABLES)
def prepared(request):
    make, expected = TABLES[request.param]
    x = make()
    return x, Columns.learn(x), list(expected)


def test_columns_are_curved_where_held_out_rows_gain(prepared):
    x, columns, expected = prepared
    if len(expected) == 70:
        assert len(columns.heavy_tailed) > 35  # each has a scale of its own, small ones are nearly normal
    else:
        assert columns.heavy_tailed == expected
    assert not Columns.learn(x, heavy_tails=False).heavy_tailed
    assert not Columns.learn(x, standardise=False).heavy_tailed


def test_rows_come_back_from_within_and_from_far_out(prepared):
    x, columns, _ = prepared
    u = columns.standardise(x)
    spread = columns.integer / 12 * columns._log_slope(x).exp().square().mean(0) / columns.scale**2
    torch.testing.assert_close(u.mean(0), torch.zeros(columns.dim).double(), **EXACT)
    torch.testing.assert_close(u.var(0, correction=0), 1 - spread[columns.kept], **EXACT)
    torch.testing.assert_close(columns.restore(u), x, rtol=1e-10, atol=1e-10 * float(x.abs().max()))
    torch.testing.assert_close(columns.restore_kept(u), x[:, columns.kept], rtol=1e-10, atol=1e-7)
    far = torch.where(columns.kept, x * 10 + 1e3 * randn(*x.shape), x)
    torch.testing.assert_close(columns.restore(columns.standardise(far)), far, rtol=1e-9, atol=1e-7)


def test_a_code_far_out_is_not_its_exponential(prepared):
    _, columns, _ = prepared
    x = columns.restore(torch.tensor([[-1e6], [-50.0], [50.0], [1e6]]).double().expand(4, columns.dim))
    assert x.isfinite().all()
    reach = (columns.high - columns.low) * (1 + columns.scale.where(columns.curved, torch.tensor(1.0)))
    assert (x[:, columns.curved].abs() <= (1e6 * (reach + columns.high.abs()))[columns.curved]).all()


def test_the_log_determinant_is_that_of_the_derivative(prepared):
    x, columns, _ = prepared
    x = torch.cat([x[:20], 3 * x[:20]]).requires_grad_()
    slopes = torch.autograd.grad(columns.standardise(x).sum(), x)[0][:, columns.kept]
    torch.testing.assert_close(columns.log_det(x), slopes.log().sum(1), **EXACT)


@pytest.mark.parametrize("scale", [1e-6, 3e5, -2.0])
def test_units_do_not_matter(scale):
    x = torch.cat([randn(ROWS, 1).exp(), student(2), randn(ROWS, 1)], 1)
    one, other = Columns.learn(x), Columns.learn(scale * (x + 7))
    assert one.heavy_tailed == other.heavy_tailed == [0, 1]
    u = one.standardise(x)
    torch.testing.assert_close(other.standardise(scale * (x + 7)), u if scale > 0 else -u, rtol=1e-6, atol=1e-6)


def test_a_weight_is_a_repetition():
    x, w = torch.cat([randn(ROWS, 1).exp(), randn(ROWS, 1)], 1), torch.arange(ROWS).double() % 3
    weighted, repeated = Columns.learn(x, w), Columns.learn(x.repeat_interleave(w.long(), 0))
    assert weighted.heavy_tailed == repeated.heavy_tailed == [0]
    torch.testing.assert_close(weighted.standardise(x), repeated.standardise(x), rtol=0.1, atol=0.1)


def test_offsets_are_in_the_users_units(prepared):
    x, columns, _ = prepared
    offset = torch.rand(x.shape).double() - 0.5
    moved = columns.spread(columns.standardise(x), offset[:, columns.kept])
    torch.testing.assert_close(columns.restore(moved), x + columns.integer * offset, rtol=1e-9, atol=1e-7)
    rough = columns.spread(columns.standardise(x).float(), offset[:, columns.kept].float())
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), moved, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------ densities


def curved_model(x, d=1):
    """A linear flow with a mixture latent on curved columns."""
    columns = Columns.learn(x)
    D = columns.dim
    flow = linear_flow(randn(D, d), randn(D), gaussian_mixture(d, 3))
    return Model(Ambient(flow, isotropic(D, 0.5)), columns)


def test_a_normal_code_has_the_density_of_johnson():
    """u is normal with variance 0.8^2 of the code and 0.6^2 of the noise."""
    x = student()
    columns = Columns.learn(x)
    assert columns.heavy_tailed == [0]
    one, normal = torch.ones(1, 1).double(), gaussian_mixture(1, 1)
    normal.means, normal.scale_tril = 0 * one, 0.8 * one[None]
    model = Model(Ambient(linear_flow(one, 0 * one[0], normal), isotropic(1, 0.6)), columns)
    m, s, centre, width = (float(t) for t in (columns.mean, columns.scale, columns.centre, columns.width))
    truth = johnsonsu(-m / s, 1 / s, centre, width).logpdf(x[:, 0].numpy())
    torch.testing.assert_close(model.log_prob(x), torch.as_tensor(truth), **EXACT)
    torch.testing.assert_close(model.estimate(x).value, torch.as_tensor(truth), **EXACT)


def test_the_density_of_curved_columns_integrates_to_one():
    x = torch.cat([randn(ROWS, 1).exp(), student()], 1)
    model = curved_model(x)
    assert model.columns.heavy_tailed == [0, 1]
    nodes = model.columns.restore(torch.linspace(-12, 12, 600).double().unsqueeze(1).expand(-1, 2)).T
    density = model.log_prob(torch.cartesian_prod(*nodes)).exp().reshape(600, 600)
    total = torch.trapezoid(torch.trapezoid(density, nodes[1]), nodes[0])
    assert float(total) == pytest.approx(1, abs=2e-3)


def test_the_density_on_the_manifold_is_with_respect_to_the_users_volume():
    x = torch.cat([randn(ROWS, 1).exp(), constant(), student(), randn(ROWS, 1)], 1)
    columns = Columns.learn(x)
    flow = make_flow("freeform", 3, 2, 0)
    model = Model(Ambient(flow, isotropic(3, 0.3)), columns)
    z = model.encode(x[:9])
    J = torch.stack([jacobian(lambda row: columns.restore(flow.decode(row[None]))[0], row) for row in z])
    truth = flow.base().log_prob(z) - half_log_det(J)
    torch.testing.assert_close(model.log_prob(x[:9], density="manifold"), truth, **EXACT)


# ------------------------------------------------------------------------------------------------ fits


def test_a_fit_of_heavy_tailed_counts_and_its_folder(tmp_path):
    x = (3 + randn(600, 1) @ torch.tensor([[1.5, -1.0, 0.7]]).double() + 0.2 * randn(600, 3)).exp().round()
    fitted = fit(x, recipe=QUICK)
    model = fitted.model
    assert fitted.figures.heavy_tailed == model.columns.heavy_tailed == [0, 1, 2]
    samples = model.sample(2000)
    assert (samples.amax(0) < 10 * x.amax(0)).all()
    rounded = model.columns.round_integers(samples)
    assert torch.equal(rounded, rounded.round())
    by_hand = torch.stack([model.log_prob(x[:50] + torch.rand(50, 3).double() - 0.5) for _ in range(200)]).mean(0)
    torch.testing.assert_close(model.log_prob(x[:50]).mean(), by_hand.mean(), rtol=0, atol=0.05)
    again = load(save(fitted, tmp_path / "model")).model
    for density in ("linearised", "ambient", "manifold"):
        assert torch.equal(again.log_prob(x, density=density), model.log_prob(x, density=density))


def test_a_recipe_can_leave_columns_straight():
    x = np.random.default_rng(0).lognormal(size=(400, 2))
    assert fit(x, recipe=QUICK).figures.heavy_tailed == [0, 1]
    for columns in ({"heavy_tails": False}, {"standardise": False}):
        assert fit(x, recipe=QUICK.update(columns=columns)).figures.heavy_tailed == []


@pytest.mark.parametrize(
    ("of_curved", "distance", "curved"), [(1e3, 0.1, [0, 1]), (-1e3, 0.1, []), (1e3, 0.9, []), (0.0, 0.1, [])]
)
def test_columns_stay_straight_unless_density_gains_and_samples_lose_nothing(monkeypatch, of_curved, distance, curved):
    x = np.random.default_rng(0).lognormal(size=(400, 2))
    trials = iter([fitting._Trial([of_curved] * 40, distance), fitting._Trial([0.0] * 40, 0.5)])
    monkeypatch.setattr(fitting, "remembered", lambda *_: next(trials))
    figures = fit(x, recipe=QUICK).figures
    assert figures.heavy_tailed == curved
    assert figures.curving["gain"] == of_curved
    assert figures.curving["energy_distance"] == distance


def test_what_curving_gains_does_not_depend_on_the_units():
    x = torch.as_tensor(np.random.default_rng(0).lognormal(size=(400, 2)))
    one, other = (fit(scale * x, recipe=QUICK).figures.curving for scale in (1.0, 1e3))
    assert one["gain"] == pytest.approx(other["gain"], rel=1e-3)


# ------------------------------------------------------------------------------------------------ straight columns


def test_straight_columns_are_divided_by_their_standard_deviation():
    x = table()
    columns = Columns.learn(x)
    assert columns.kept.tolist() == [True, False, True, True, True]
    deviations = x[:, [0, 2, 3, 4]].std(0, correction=0)
    torch.testing.assert_close(columns.standardise(x), (x - x.mean(0))[:, [0, 2, 3, 4]] / deviations, **EXACT)
    torch.testing.assert_close(columns.log_det(x), -deviations.log().sum().expand(50), **EXACT)


def test_columns_left_as_they_are():
    x = table()
    columns = Columns.learn(x, standardise=False)
    assert torch.equal(columns.standardise(x), x[:, [0, 2, 3, 4]])
    assert torch.equal(columns.restore(columns.standardise(x)), x)
    assert (columns.log_det(x) == 0).all()
    context = Columns.learn(x, drop=False)
    assert context.standardise(x).shape == (50, 5)
    assert context.standardise(x).isfinite().all()


def test_integers_are_found_and_rounded_into_their_range():
    x = torch.cat([torch.randint(2, 9, (200, 1)).double(), randn(200, 1), torch.full((200, 1), 4.0).double()], 1)
    columns = Columns.learn(x)
    assert columns.integer.tolist() == [True, False, False]
    wild = 10 * randn(100, 3)
    rounded = columns.round_integers(wild)
    assert torch.equal(rounded[:, 0], wild[:, 0].round().clamp(2, 8))
    assert torch.equal(rounded[:, 1:], wild[:, 1:])
    assert not Columns.learn(x, dequantise=False).integer.any()


def test_a_table_without_a_column_that_varies_is_refused():
    for x in (torch.ones(9, 3).double(), 1e9 * torch.ones(9, 2).double() * (1 + 1e-16)):
        with pytest.raises(
            InputError, match=f"expected a column that varies; got {x.shape[1]} constant columns, none of which"
        ):
            Columns.learn(x)


@pytest.mark.parametrize("unit", [1e-300, 1e-160, 1e-9, 1e160, 1e280])
def test_which_columns_are_curved_does_not_depend_on_the_unit(unit):
    x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)).double()
    x = torch.stack([x[:, 0], (2 * x[:, 1]).exp(), x[:, 2].exp() - 5], 1)
    plain, scaled = Columns.learn(x), Columns.learn(x * unit)
    assert scaled.curved.tolist() == plain.curved.tolist()
    assert plain.curved.any()
    torch.testing.assert_close(scaled.standardise(x * unit), plain.standardise(x), rtol=1e-6, atol=1e-6)
