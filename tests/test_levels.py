"""Levels: networks are told the noise and the beta of each row; a flow at one level is the flow conditioned on it."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from cases import PAIRS, gradients, randn
from isthmus.columns import Columns
from isthmus.density import Ambient, IsotropicNoise
from isthmus.errors import InputError
from isthmus.fitting import fit, rows_again
from isthmus.flows import BijectiveFlow, FreeFormFlow, VariationalFlow
from isthmus.latents import LATENTS
from isthmus.levels import Levels, Range
from isthmus.model import Model
from isthmus.networks import mlp_pair
from isthmus.objective import OBJECTIVES, ExactLikelihood, FreeForm, Reconstructing, Regularised, Terms
from isthmus.recipe import Recipe, TrainingRecipe
from isthmus.refit import refit_density
from isthmus.report import render
from isthmus.rows import Rows
from isthmus.store import load, save
from isthmus.training import train

CLOSE = {"rtol": 1e-12, "atol": 1e-12}
TOLD = {name: case for name, case in PAIRS.items() if not case.C}


def pair_of_flows(name, C, levels):
    """A flow that is told levels, and one of the same networks that has them as context columns."""
    case = TOLD[name]
    modules = [module.double() for module in case.pair(case.D, case.d, C + len(levels))]
    told = FreeFormFlow(*modules, case.D, case.d, C, levels=levels).double()
    plain = FreeFormFlow(*modules, case.D, case.d, C + len(levels)).double()
    return told, plain, randn(4, case.D), randn(4, C) if C else None


def joined(c, levels):
    return levels if c is None else torch.cat([c, levels], 1)


# ------------------------------------------------------------------------------------------------------- ranges


def test_levels_are_the_logarithm_over_the_range():
    given = Range(0.01, 0.3)
    levels = torch.linspace(-1, 1, 9, dtype=torch.float64)
    values = given.value(levels)
    assert values[[0, -1]].tolist() == pytest.approx([0.01, 0.3], rel=1e-15)
    torch.testing.assert_close(values.log().diff().diff(), torch.zeros(7).double(), **CLOSE)
    assert [given.level(float(v)) for v in values[1:-1]] == pytest.approx(levels[1:-1].tolist())


def test_draws_are_uniform_levels_a_row_and_a_range():
    levels = Levels(Range(0.01, 0.3), Range(1.0, 100.0)).draw(torch.zeros(20_000, 3))
    assert levels.shape == (20_000, 2)
    quantiles = torch.linspace(0.05, 0.95, 19)
    for column in levels.unbind(1):
        torch.testing.assert_close(column.quantile(quantiles), 2 * quantiles - 1, atol=0.02, rtol=0)
    assert abs(float(levels.T.corrcoef()[0, 1])) < 0.03


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Range(0.0, 1.0), r"a range \[low, high\] with 0 < low < high; got \[0.0, 1.0\]"),
        (lambda: Range(2.0, 1.0), "a range"),
        (lambda: Range(1.0, float("inf")), "a range"),
        (lambda: Range(1.0, 2.0).level(2.1), "a value from 1.0 to 2.0, as in training; got 2.1"),
        (lambda: Levels().changed((), beta=1.0), "a level of what training drew from a range, nothing; got beta"),
        (lambda: Levels(noise=Range(1.0, 2.0)).changed((0.0,), beta=1.0), "drew from a range, noise; got beta"),
        (lambda: FreeForm((3.0, 1.0)), "a range"),
        (lambda: FreeForm((1.0, 3.0))(PAIRS["mlp"].flow(), randn(2, 5)), "a flow that is told beta.* without levels"),
        (lambda: Recipe.parse("training: {noise: [0.3, 0.1]}"), "a range"),
        (
            lambda: Recipe.parse("{flow: {kind: rectangular}, training: {noise: [0.1, 0.3]}}"),
            "a flow of networks, as 'freeform', to be told noise of a range; got 'rectangular'",
        ),
        (
            lambda: Recipe.parse("{flow: {kind: rectangular}, objective: {beta: [1, 10]}, training: {noise: [1, 3]}}"),
            "told noise and beta of a range",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(make, problem):
    with pytest.raises(InputError, match=f"expected .*{problem}|expected {problem}"):
        make()


@pytest.mark.parametrize("settings", [TrainingRecipe(noise=(0.1, 0.3)), TrainingRecipe()])
@pytest.mark.parametrize(
    "flow",
    [
        lambda: BijectiveFlow(3, 3),
        lambda: FreeFormFlow(*mlp_pair(3, 1, 3), 3, 1, levels=(0.0, 0.0, 0.0)),
        lambda: FreeFormFlow(*mlp_pair(3, 1), 3, 1),
    ],
)
def test_a_training_refuses_a_flow_that_is_told_more_or_less(flow, settings):
    flow, objective = flow(), FreeForm((1.0, 10.0))
    with pytest.raises(InputError, match=r"expected a flow of networks that are told (noise and )?beta, [12] levels"):
        train(flow, objective, Rows(randn(30, 3)), Rows(randn(30, 3)), settings=settings)


# -------------------------------------------------------------------------------------------------------- flows


@pytest.mark.parametrize("C", [0, 2])
@pytest.mark.parametrize("name", TOLD)
def test_at_a_level_a_flow_is_the_one_conditioned_on_it(name, C):
    levels = (0.3, -0.8)
    told, plain, x, c = pair_of_flows(name, C, levels)
    given = joined(c, torch.tensor(levels).double().expand(4, -1))
    z = plain.encode(x, given)
    torch.testing.assert_close(told.encode(x, c), z, **CLOSE)
    torch.testing.assert_close(told.decode(z, c), plain.decode(z, given), **CLOSE)
    torch.testing.assert_close(told.volume(x, c), plain.volume(x, given), **CLOSE)
    torch.testing.assert_close(told.log_prob(x, c), plain.log_prob(x, given), **CLOSE)
    losses = []
    for flow, context in ((told, c), (plain, given)):
        torch.manual_seed(1)
        losses.append(gradients(FreeForm(3.0)(flow, x, context).total, flow.parameters()))
    torch.testing.assert_close(*losses, **CLOSE)


@pytest.mark.parametrize("C", [0, 2])
@pytest.mark.parametrize("name", TOLD)
def test_the_level_of_each_row_reaches_the_networks(name, C):
    told, _, x, c = pair_of_flows(name, C, (0.0,))
    levels = torch.tensor([[-1.0], [-0.2], [0.5], [1.0]]).double()
    z, x_hat = told.encode(x, joined(c, levels)), told.decode(x[:, : told.latent_dim], joined(c, levels))
    for i in range(4):
        told.levels.copy_(levels[i])
        own = None if c is None else c[i : i + 1]
        torch.testing.assert_close(z[i : i + 1], told.encode(x[i : i + 1], own), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(
            x_hat[i : i + 1], told.decode(x[i : i + 1, : told.latent_dim], own), rtol=1e-9, atol=1e-9
        )
    told.levels.fill_(-1.0)
    same = torch.isclose(z, told.encode(x, c), rtol=1e-7, atol=0).all(1)
    assert same.tolist() == [True, False, False, False]


@pytest.mark.parametrize("C", [0, 2])
def test_the_latent_density_knows_the_context_alone(C):
    latent = LATENTS["flow"](2, C, transforms=1, width=8)
    flow = FreeFormFlow(*mlp_pair(4, 2, C + 1, width=8), 4, 2, C, latent, (0.5,)).double()
    z, c = randn(3, 2), randn(3, C) if C else None
    expected = flow.base(c).log_prob(z)
    torch.testing.assert_close(flow.base(joined(c, randn(3, 1))).log_prob(z), expected, **CLOSE)
    if C:
        assert not torch.isclose(flow.base(c.flip(0)).log_prob(z)[0], expected[0])


def test_the_spread_of_a_variational_flow_is_told_the_level_too():
    modules = [*mlp_pair(4, 2, 1, width=8), mlp_pair(4, 2, 1, width=8)[0]]
    flow, x = VariationalFlow(*modules, 4, 2, levels=(0.5,)), torch.randn(3, 4)
    low, high = flow.posterior(x, torch.full((3, 1), 0.5)), flow.posterior(x, torch.full((3, 1), -0.5))
    torch.testing.assert_close(flow.posterior(x).stddev, low.stddev)
    assert not torch.isclose(low.stddev, high.stddev).any()


def test_a_flow_without_levels_is_stored_as_before():
    assert "levels" not in FreeFormFlow(*mlp_pair(3, 1), 3, 1).state_dict()
    assert FreeFormFlow(*mlp_pair(3, 1, 1), 3, 1, levels=(0.5,)).state_dict()["levels"].tolist() == [0.5]


# --------------------------------------------------------------------------------------------------- objectives

WEIGHED = [name for name, kind in OBJECTIVES.items() if issubclass(kind, Reconstructing) and name != "reconstruction"]


@pytest.mark.parametrize("name", WEIGHED)
def test_a_row_s_squared_error_has_the_weight_that_it_is_told(name):
    kind, encoder = VariationalFlow if name == "variational" else FreeFormFlow, mlp_pair(4, 2, 2, width=8)[0]
    modules = [*mlp_pair(4, 2, 2, width=8), *([encoder] if name == "variational" else [])]
    flow = kind(*modules, 4, 2, 1, levels=(1.0,)).double()
    x, c, levels = randn(5, 4), randn(5, 1), torch.linspace(-1, 1, 5).double().unsqueeze(1)

    def terms(beta, c):
        torch.manual_seed(1)
        return OBJECTIVES[name](beta=beta)(flow, x, c)

    found, plain = terms((1.0, 16.0), torch.cat([c, levels], 1)), terms(1.0, torch.cat([c, levels], 1))
    betas = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).double()
    torch.testing.assert_close(found.total - plain.total, (betas - 1) * plain.parts["reconstruction"])
    torch.testing.assert_close(terms((1.0, 16.0), c).total, terms(16.0, c).total)  # as the flow is set
    flow.levels.fill_(-1.0)
    torch.testing.assert_close(terms((1.0, 16.0), c).total, terms(1.0, c).total)


COMPILED = """
import json, sys, torch
from cases import PAIRS, gradients
from isthmus.flows import FreeFormFlow
from isthmus.objective import FreeForm, Regularised, Wasserstein

torch.set_num_threads(1)
torch._inductor.config.fallback_random = True
deviations = {}
objectives = {"freeform": FreeForm, "wasserstein": Wasserstein}
objectives["regularised"] = lambda beta: Regularised(beta, "gradient_penalty")
for name in sys.argv[1:]:
    for given in (False, True):
        torch._dynamo.reset()
        torch.manual_seed(0)
        modules = [m.double() for m in PAIRS["mlp"].pair(5, 3, 3)]
        flow, loss = FreeFormFlow(*modules, 5, 3, 1, levels=(-1.0, 1.0)).double(), objectives[name]((1.0, 100.0))
        x, c = torch.randn(6, 5).double(), torch.randn(6, 3 if given else 1).double()
        total = lambda x, c: loss(flow, x, c).total
        found = []
        for function in (total, torch.compile(total, fullgraph=True, backend="aot_eager")):
            torch.manual_seed(1)
            found.append(gradients(function(x, c), flow.parameters()))
        deviations[f"{name}, {given}"] = float((found[0] - found[1]).norm() / found[0].norm())
print(json.dumps(deviations))
"""


@pytest.mark.parametrize(
    "names", [["freeform"], pytest.param(["wasserstein", "regularised"], marks=pytest.mark.slow)], ids=str
)
def test_a_loss_that_is_told_levels_compiles_and_has_the_gradient_of_eager_mode(fresh_python, names):
    deviations = fresh_python(COMPILED, *names)
    assert len(deviations) == 2 * len(names)
    assert {name: value for name, value in deviations.items() if not value < 1e-10} == {}


TRAINED = """
import json, torch, warnings
from isthmus.flows import FreeFormFlow
from isthmus.networks import mlp_pair
from isthmus.objective import FreeForm
from isthmus.recipe import TrainingRecipe
from isthmus.rows import Rows
from isthmus.training import train, trainee

warnings.simplefilter("error", UserWarning)
trusted, finish = [], trainee.Trainee.on_train_end
trainee.Trainee.on_train_end = lambda self: (trusted.append(self.trusted and self.compiled is not None), finish(self))
rows = Rows(torch.randn(100, 3), torch.randn(100, 1))
settings = TrainingRecipe(max_steps=20, patience=20, compile=True, noise=(0.01, 0.1))
flow = FreeFormFlow(*mlp_pair(3, 1, 3, width=8), 3, 1, 1, levels=(-1.0, 1.0))
history = train(flow, FreeForm((1.0, 100.0)), rows, rows, settings=settings)
print(json.dumps([history.steps, history.skipped, trusted]))
"""


@pytest.mark.slow
def test_a_compiled_training_with_levels_has_the_gradient_of_eager_mode(fresh_python):
    """Training compares the two itself, and goes on without the compiler, with a warning, where they differ."""
    assert fresh_python(TRAINED) == [20, 0, [True]]


# ----------------------------------------------------------------------------------------------------- training


class Recording(Reconstructing):
    """Keeps the rows and contexts that training gives it."""

    def __init__(self, beta):
        super().__init__(beta)
        self.seen = []

    def __call__(self, flow, x, c=None, weight=1.0):
        self.seen.append((x.detach(), c))
        total = self.betas(flow, x, c) * (x - flow.reconstruct(x, c)).square().sum(1)
        return Terms(total, {})


@pytest.mark.parametrize("C", [0, 1])
def test_training_draws_the_noise_that_it_tells(C):
    """Rows of zeros: what is left is the noise, of the standard deviation that its level stands for."""
    objective, given = Recording((1.0, 100.0)), Range(0.01, 1.0)
    flow = FreeFormFlow(*mlp_pair(8, 1, C + 2, width=4), 8, 1, C, levels=(-1.0, 1.0))
    rows = Rows(torch.zeros(400, 8).double(), torch.full((400, C), 7.0).double() if C else None)
    settings = TrainingRecipe(max_steps=20, batch_size=200, noise=(given.low, given.high), validations=1)
    history = train(flow, objective, rows, Rows(randn(30, 8), rows.c[:30] if C else None), settings=settings)
    x, c = (torch.cat(parts) for parts in zip(*objective.seen, strict=True))
    assert bool((c[:, :C] == 7).all())
    levels = c[:, C:]
    assert levels.shape == (4000, 2)
    assert len(levels.unique()) > 7900
    whitened = x / given.value(levels[:, :1])
    assert float(whitened.std()) == pytest.approx(1.0, abs=0.02)
    low, high = (whitened[mask].std() for mask in (levels[:, 0] < 0, levels[:, 0] > 0))
    assert float(low / high) == pytest.approx(1.0, abs=0.03)
    assert {(row["noise"], row["beta"]) for row in history.rows} == {(given.low, 100.0)}


class Scaled(nn.Module):
    """`exp(p(levels)) x`, p a small perceptron: a linear map whose slope depends on the levels alone."""

    def __init__(self):
        super().__init__()
        self.log_slope = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x, c):
        return self.log_slope(c).exp() * x


def trained_slopes(objective, settings, deviation):
    """The slopes of encoder and decoder at some levels, on one column of this standard deviation."""
    flow = FreeFormFlow(Scaled(), Scaled(), 1, 1, levels=(0.0,))
    rows = Rows(deviation * randn(20_000, 1))
    rows.x.div_(rows.x.square().mean().sqrt() / deviation)
    base = {"max_steps": 1500, "batch_size": 1024, "learning_rate": 1e-2, "weight_decay": 0.0, "keep": "last"}
    settings = TrainingRecipe(**{**base, "patience": 99, "validations": 2, "warm_up": 0.0, **settings})
    train(flow, objective, rows, Rows(rows.x[:100]), settings=settings)
    levels = torch.linspace(-1, 1, 9).unsqueeze(1)
    ones = torch.ones(9, 1)
    with torch.no_grad():
        return levels, flow.encode(ones, levels), flow.decode(ones, levels)


@pytest.mark.slow
def test_networks_that_are_told_the_noise_whiten_the_noisy_rows_of_every_level():
    """One column, of variance 1 + s^2 with its noise: the likelihood is largest at the slope 1 / sqrt(1 + s^2)."""
    noise = Range(0.1, 3.0)
    levels, encoder, decoder = trained_slopes(ExactLikelihood(10.0), {"noise": (noise.low, noise.high)}, deviation=1.0)
    expected = (1 + noise.value(levels) ** 2) ** -0.5
    torch.testing.assert_close(encoder, expected, rtol=0.08, atol=0)
    torch.testing.assert_close(decoder, 1 / expected, rtol=0.08, atol=0)


def test_networks_that_are_told_beta_have_the_closed_form_of_every_beta():
    """`beta v (1 - ab)^2 + a^2 v / 2 + p b^2 / 2` has its minimum where the squared error is p / (4 beta^2)."""
    beta, p, v = Range(1.0, 10.0), 0.8, 4.0
    objective = Regularised((beta.low, beta.high), "gradient_penalty", p)
    levels, a, b = trained_slopes(objective, {"noise": 0.0}, deviation=v**0.5)
    errors = v * (1 - a * b).square()
    assert bool((errors.diff(dim=0) < 0).all())
    product = 1 - (p / (4 * v)) ** 0.5 / beta.value(levels)
    torch.testing.assert_close(a * b, product, rtol=0, atol=0.02)
    torch.testing.assert_close(a.square(), product * (p / v) ** 0.5, rtol=0.08, atol=0)


# ------------------------------------------------------------------------------------------------- whole models

BOTH = """
flow: {latent_dim: 1, network: {kind: mlp, width: 64}}
objective: {beta: [0.1, 100]}
training: {noise: [0.03, 0.5], max_steps: 800}
"""


@pytest.fixture(scope="module")
def cancer():
    return load_breast_cancer().data


@pytest.fixture(scope="module")
def sine():
    """The curve of the publication's transition: (x, sin(pi x / 2)) with noise of standard deviation 0.05."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 1))
    return np.concatenate([x, np.sin(np.pi * x / 2)], 1) + 0.05 * rng.normal(size=(2000, 2))


@pytest.fixture(scope="module")
def fitted(sine):
    return fit(sine, recipe=Recipe.parse(BOTH))


def held_out_error(fitted, data, **level):
    """Mean squared error of held-out rows without noise, on standardised columns."""
    rows, flow = rows_again(fitted, data)[1], fitted.model.at(**level).flow
    return float((rows.x - flow.reconstruct(rows.x)).square().sum(1).mean())


def test_a_model_is_used_at_the_lowest_noise_and_the_highest_beta(fitted, sine):
    assert fitted.model.level == pytest.approx({"noise": 0.03, "beta": 100.0})
    assert held_out_error(fitted, sine) == held_out_error(fitted, sine, noise=0.03, beta=100.0)
    figures = fitted.figures
    assert figures.validation["reconstruction_mse"] == pytest.approx(held_out_error(fitted, sine), rel=1e-3)
    assert figures.beta == 100
    assert figures.beta_reason.startswith("the highest of the range from 0.1 on")


def test_reconstruction_is_better_the_higher_the_beta_and_the_lower_the_noise(fitted, sine):
    by_beta = [held_out_error(fitted, sine, beta=beta) for beta in (0.1, 1.0, 10.0, 100.0)]
    assert all(np.diff(by_beta) < 0)
    assert by_beta[0] > 1.5 * by_beta[-1]
    by_noise = [held_out_error(fitted, sine, noise=noise) for noise in (0.03, 0.1, 0.2, 0.5)]
    assert all(np.diff(by_noise) > 0)


def test_a_model_at_another_level_is_saved_and_read_at_it(fitted, sine, tmp_path):
    x, there = torch.as_tensor(sine), fitted.model.at(noise=0.2).at(beta=1.0)
    assert there.level == pytest.approx({"noise": 0.2, "beta": 1.0})
    assert fitted.model.level["beta"] == pytest.approx(100.0)
    for name, model in (("start", fitted.model), ("there", there)):
        again = load(save(dataclasses.replace(fitted, model=model), tmp_path / name)).model
        assert again.level == model.level
        assert torch.equal(again.log_prob(x[:50]), model.log_prob(x[:50]))
        assert torch.equal(again.reconstruct(x), model.reconstruct(x))
    assert torch.equal(again.at(noise=0.03, beta=100.0).reconstruct(x), fitted.model.reconstruct(x))
    assert not torch.equal(again.reconstruct(x), fitted.model.reconstruct(x))


def test_latent_density_and_noise_are_fitted_again_at_another_level(fitted, sine):
    train, held_out = rows_again(fitted, sine)
    there = fitted.model.at(beta=0.1)
    refit = refit_density(there.flow, train, held_out, fitted.recipe.refit)
    assert refit.density.flow.levels.tolist() == there.flow.levels.tolist()
    before = there.density.linearised(held_out.x).mean()
    assert float(refit.density.linearised(held_out.x).mean().detach()) > float(before)


def test_the_publications_of_both_ranges_are_cited(fitted):
    page = render(fitted)
    assert all(f"{{{key}," in page for key in ("kim2020", "dosovitskiy2020"))


def test_other_values_than_those_of_training_are_refused(fitted):
    with pytest.raises(InputError, match=r"expected a value from 0\.03 to 0\.5, as in training; got 1\.1"):
        fitted.model.at(noise=1.1)
    flow = FreeFormFlow(*mlp_pair(3, 1), 3, 1)
    with pytest.raises(InputError, match="drew from a range, nothing; got beta"):
        Model(Ambient(flow, IsotropicNoise(3, 0.1)), Columns(3)).at(beta=2.0)


def test_modules_of_ones_own_are_told_levels_beside_the_context(cancer):
    recipe = Recipe.parse("{objective: {beta: [1, 10]}, training: {max_steps: 5}}")
    X, C = cancer[:60, :4], cancer[:60, 4:6]
    flow = FreeFormFlow(*mlp_pair(4, 2, 3, width=8), 4, 2, 2, levels=recipe.build_levels().start)
    model = fit(X, C, recipe=recipe, flow=flow).model
    assert model.level == pytest.approx({"beta": 10.0})
    x, c = torch.as_tensor(X), torch.as_tensor(C)
    assert not torch.equal(model.at(beta=1).reconstruct(x, c), model.reconstruct(x, c))
    assert model.sample(3, c[:1]).shape == (3, 4)
    assert model.log_prob(x, c, density="ambient").isfinite().all()


@pytest.mark.parametrize("network", ["skip", "mlp", "residual", "linear"])
@pytest.mark.parametrize("kind", ["freeform", "variational"])
def test_every_network_of_a_recipe_is_told_levels(cancer, network, kind):
    size = {} if network == "linear" else {"width": 8}
    record = {
        "flow": {"kind": kind, "latent_dim": 2, "network": {"kind": network, **size}},
        "objective": {"kind": kind, "beta": [1, 10]},
        "training": {"max_steps": 5, "noise": [0.01, 0.1]},
    }
    recipe = Recipe.validated(record)
    assert Recipe.parse(recipe.dump()) == recipe
    model = fit(cancer[:60, :4], recipe=recipe).model
    assert model.level == pytest.approx({"noise": 0.01, "beta": 10.0})
    assert model.log_prob(torch.as_tensor(cancer[:5, :4])).isfinite().all()


@pytest.mark.parametrize("network", ["convolutional", "residual_convolutional", "transformer"])
def test_networks_of_images_are_told_levels(network):
    X = np.random.default_rng(0).normal(size=(40, 64))
    record = {
        "flow": {"latent_dim": 2, "network": {"kind": network, "shape": [1, 8, 8], "width": 8}},
        "objective": {"beta": [1, 10]},
        "training": {"max_steps": 2},
    }
    model = fit(X, recipe=Recipe.validated(record)).model
    assert model.reconstruct(torch.as_tensor(X)).shape == (40, 64)
