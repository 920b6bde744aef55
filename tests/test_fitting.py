"""From a table to a model: determinism, weights, integers, constants, refusals; training itself."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from isthmus import FreeForm, FreeFormFlow, InputError, Recipe, fit
from isthmus.columns import Columns
from isthmus.data import DATASETS
from isthmus.networks import mlp_pair, skip_pair, start_at_principal_components
from isthmus.recipe import TrainingRecipe
from isthmus.rows import Rows
from isthmus.training import train

QUICK = Recipe.parse("{flow: {latent_dim: 1, network: {width: 16}}, training: {max_steps: 30}}")


def table(n=80, D=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, D)) @ np.diag(np.arange(1, D + 1))


def small_flow(D=3, d=1, seed=0):
    torch.manual_seed(seed)
    return FreeFormFlow(*mlp_pair(D, d, width=16, depth=1), data_dim=D, latent_dim=d)


def rows(n=200, D=3):
    return Rows(torch.as_tensor(table(n, D)))


def test_same_seed_same_bits_and_the_global_state_is_left_alone():
    state = torch.random.get_rng_state()
    one, other = fit(table(), recipe=QUICK), fit(table(), recipe=QUICK)
    assert torch.equal(torch.random.get_rng_state(), state)
    x = torch.as_tensor(table())
    assert torch.equal(one.model.log_prob(x), other.model.log_prob(x))
    assert not torch.equal(one.model.log_prob(x), fit(table(), recipe=QUICK.update(seed=1)).model.log_prob(x))


@pytest.mark.parametrize("context", [False, True])
def test_a_weight_is_a_repetition(context):
    X, w = table(40), np.random.default_rng(1).integers(0, 4, 40)
    C = X[:, :1] if context else None
    weighted = fit(X, C, sample_weight=w, recipe=QUICK).model
    repeated = fit(X.repeat(w, 0), None if C is None else C.repeat(w, 0), recipe=QUICK).model
    c = None if C is None else torch.as_tensor(C)
    torch.testing.assert_close(weighted.log_prob(torch.as_tensor(X), c), repeated.log_prob(torch.as_tensor(X), c))


def test_units_change_densities_by_their_log_determinant_alone():
    X, scale = table(), np.array([1e-3, 1.0, 1e4])
    one, other = fit(X, recipe=QUICK).model, fit(X * scale + 7, recipe=QUICK).model
    for density in ("linearised", "ambient"):
        shift = one.log_prob(torch.as_tensor(X), density=density) - other.log_prob(
            torch.as_tensor(X * scale + 7), density=density
        )
        torch.testing.assert_close(shift, torch.full_like(shift, np.log(scale).sum()), atol=1e-3, rtol=0)


def test_constant_columns_are_left_out_and_put_back():
    X = np.insert(table(), 1, 5.0, axis=1)
    model = fit(X, recipe=QUICK).model
    assert model.flow.data_dim == 3
    assert (model.sample(10)[:, 1] == 5).all()
    assert model.reconstruct(torch.as_tensor(X)).shape == X.shape


def test_integers_are_spread_and_samples_rounded_within_the_range_seen():
    X = np.random.default_rng(0).binomial(10, 0.4, size=(200, 3)).astype(float)
    model = fit(X, recipe=QUICK).model
    rounded = model.columns.round_integers(model.sample(500))
    assert torch.equal(rounded, rounded.round())
    assert X.min() <= rounded.min()
    assert rounded.max() <= X.max()
    x = torch.as_tensor(X)
    dequantised = torch.stack([model.log_prob(x + torch.rand(x.shape).double() - 0.5) for _ in range(50)])
    torch.testing.assert_close(model.log_prob(x).mean(), dequantised.mean(), atol=0.1, rtol=0)
    torch.testing.assert_close(model.log_prob(x)[:3], model.log_prob(x[:3]), atol=1e-9, rtol=0)


def test_probabilities_of_integers_do_not_exceed_one():
    X = np.random.default_rng(0).binomial(1, 0.5, size=(300, 2)).astype(float)
    model = fit(X, recipe=QUICK).model
    cells = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).double()
    for density in ("linearised", "ambient"):
        assert float(model.log_prob(cells, density=density).exp().sum()) < 1.01


def test_columns_invert_and_weigh():
    x = torch.as_tensor(table())
    columns = Columns.learn(x)
    torch.testing.assert_close(columns.restore(columns.standardise(x)), x)
    w = torch.arange(80.0, dtype=torch.float64)
    repeated = Columns.learn(x.repeat_interleave(w.long(), 0))
    torch.testing.assert_close(Columns.learn(x, w).scale, repeated.scale)


REFUSED = {
    "nan": (np.array([[1.0, np.nan], [2.0, 3.0]]), {}, "got nan in row 0, column 1"),
    "text": ([["a", "b"]], {}, "expected numbers in X"),
    "vector": (np.zeros(5), {}, "got shape (5,)"),
    "empty": (np.zeros((0, 3)), {}, "got shape (0, 3)"),
    "constant": (np.ones((30, 2)), {}, "got 2 constant columns"),
    "context": (table(), {"context": table(79)}, "got 79"),
    "weights": (table(), {"sample_weight": -np.ones(80)}, "weights >= 0"),
    "latent_dim": (table(), {"recipe": QUICK.update(flow={"latent_dim": 4})}, "1 <= latent dimension <= 3"),
    "rows": (table(2), {"recipe": QUICK.update(flow={"latent_dim": 3})}, "got 2"),
    "flow": (table(), {"flow": small_flow(D=5)}, "got one for 5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_tables_are_refused_in_one_line(case, unchecked):
    X, options, message = REFUSED[case]
    with pytest.raises(InputError) as refusal:
        fit(X, **{"recipe": QUICK, **options})
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_automatic_dimension_of_a_plane():
    X = np.random.default_rng(0).normal(size=(500, 2)) @ np.random.default_rng(1).normal(size=(2, 8))
    assert fit(X, recipe=Recipe.parse("{training: {max_steps: 20}}")).model.flow.latent_dim == 2


def test_training_keeps_the_best_weights():
    flow, data = small_flow(), rows()
    history = train(flow, FreeForm(10.0), data, data, settings=TrainingRecipe(max_steps=200, learning_rate=3e-3))
    best = max(history.rows, key=lambda row: row["log_density"])
    assert best["step"] == history.best_step
    with torch.no_grad():
        error = (data.x.float() - flow.reconstruct(data.x.float())).square().sum(1).mean()
    assert float(error) == pytest.approx(best["reconstruction"], rel=1e-4)


def test_training_stops_early_without_improvement_and_by_the_clock():
    settings = TrainingRecipe(max_steps=400, learning_rate=1e-12, patience=2)
    assert train(small_flow(), FreeForm(10.0), rows(), rows(), settings=settings).steps < 400
    history = train(
        small_flow(),
        FreeForm(10.0),
        rows(),
        rows(),
        settings=TrainingRecipe(max_time=1.0, max_steps=10**6, compile=False),
    )
    assert history.seconds < 5
    assert history.rows[-1]["learning_rate"] < 1e-4  # the schedule ended with the time


class Sometimes(nn.Module):
    """A linear map whose output is NaN for a part of the batches."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear, self.calls = nn.Linear(inputs, outputs), 0

    def forward(self, x):
        self.calls += self.training
        return self.linear(x) * (torch.nan if self.training and self.calls % 5 == 0 else 1.0)


def test_steps_without_a_finite_gradient_are_left_out():
    flow = FreeFormFlow(Sometimes(3, 1), nn.Linear(1, 3), data_dim=3, latent_dim=1)
    history = train(flow, FreeForm(10.0), rows(), rows(), settings=TrainingRecipe(max_steps=50))
    assert history.skipped >= 5
    assert all(torch.isfinite(parameter).all() for parameter in flow.parameters())


def test_log_files_are_written_while_it_runs(tmp_path):
    history = train(
        small_flow(), FreeForm(10.0), rows(), rows(), settings=TrainingRecipe(max_steps=20), run_dir=tmp_path / "log"
    )
    assert len((tmp_path / "log" / "log.csv").read_text().splitlines()) == len(history.rows) + 1


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_precisions_learn(precision):
    settings = TrainingRecipe(max_steps=150, precision=precision, learning_rate=3e-3)
    line = Rows(torch.randn(200, 1) @ torch.tensor([[1.0, -1.0, 0.5]]) + 0.1 * torch.randn(200, 3))
    history = train(small_flow(), FreeForm(10.0), line, line, settings=settings)
    values = [row["log_density"] for row in history.rows]
    assert max(values) > values[0] + 1


def test_a_compiled_fit_learns_and_what_cannot_compile_goes_on_without(fresh_python):
    code = """
import json, warnings, torch
from torch import nn
from isthmus import FreeFormFlow, FreeForm
from isthmus.networks import mlp_pair
from isthmus.recipe import TrainingRecipe
from isthmus.rows import Rows
from isthmus.training import train
class Graphless(nn.Linear):
    def forward(self, x):
        torch._dynamo.graph_break()
        return super().forward(x)
rows, out = Rows(torch.randn(100, 3)), []
class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.tanh()
    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)
    @staticmethod
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0] ** 2)
class Custom(nn.Linear):
    def forward(self, x):
        return 3 * Tanh.apply(super().forward(x))
wide, narrow = mlp_pair(3, 1, width=64), nn.Linear(1, 3)
pairs = [(nn.Linear(3, 1), narrow, "32-true"), (Graphless(3, 1), narrow, "32-true"), (Custom(3, 1), narrow, "32-true")]
for encoder, decoder, precision in [*pairs, (*wide, "bf16-mixed"), (Custom(3, 1), wide[1], "bf16-mixed")]:
    flow = FreeFormFlow(encoder, decoder, 3, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings = TrainingRecipe(max_steps=20, patience=20, compile=True, precision=precision)
        history = train(flow, FreeForm(10.0), rows, rows, settings=settings)
    out.append([history.steps, sum("torch.compile is off" in str(w.message) for w in caught)])
print(json.dumps(out))
"""
    assert fresh_python(code) == [[20, 0], [20, 1], [20, 1], [20, 0], [20, 1]]


def test_principal_start_is_the_best_linear_manifold():
    x = torch.as_tensor(table(500, 5)).float()
    pair = skip_pair(5, 2)
    assert start_at_principal_components(*pair, x)
    for net in pair:
        nn.init.zeros_(net.layers[0].network[-1].weight)
    z = pair[0](x)
    torch.testing.assert_close(z.T.cov(correction=0), torch.eye(2), atol=1e-3, rtol=0)
    error = (x - pair[1](z)).square().sum()
    torch.testing.assert_close(error, torch.linalg.svdvals(x - x.mean(0))[2:].square().sum(), rtol=1e-3, atol=0)


@pytest.mark.soak
def test_default_recipe_finds_the_noise_floor_of_the_sine():
    for noise in (0.1, 0.3):
        data = DATASETS["sine"](n_train=5_000, noise=noise)
        model = fit(data.train, recipe=Recipe.parse("{flow: {latent_dim: 1}}")).model
        x = data.test.double()
        error = float((x - model.reconstruct(x)).square().sum(1).mean())
        assert 0.85 * noise**2 < error < 1.15 * noise**2
        assert float(model.log_prob(x, density="ambient").mean()) > float(data.log_prob(x).mean()) - 0.15


def test_auto_gives_the_fit_of_the_latent_dimension_that_it_chooses():
    x = table(150, 4)
    auto = fit(x, recipe=Recipe.parse("training: {max_steps: 40}"))
    tried = [record.latent_dim for record in auto.figures.latent_dim_curve]
    d = auto.model.flow.latent_dim
    assert d in tried
    assert len(tried) > 1
    given = fit(x, recipe=Recipe.parse(f"{{flow: {{latent_dim: {d}}}, training: {{max_steps: 40}}}}"))
    assert given.figures.latent_dim_curve == []
    for one, other in zip(auto.model.parameters(), given.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("objective", "steps", "reason"),
    [
        ("{kind: freeform}", 200, r"1/\(2 sigma\^2\), sigma = "),
        ("{kind: freeform}", 1, "where auto begins|1/"),
        ("{kind: freeform, beta: 3}", 20, "as given"),
    ],
)
def test_beta_comes_with_its_reason(objective, steps, reason):
    recipe = Recipe.parse(f"{{flow: {{latent_dim: 1}}, objective: {objective}, training: {{max_steps: {steps}}}}}")
    figures = fit(table(80, 3), recipe=recipe).figures
    assert re.match(reason, figures.beta_reason)
    if figures.beta_reason.startswith("1/"):
        sigma = float(re.search(r"sigma = (\S+)", figures.beta_reason)[1])
        assert figures.beta == pytest.approx(0.5 / sigma**2, rel=2e-2)


def test_an_objective_without_a_likelihood_has_no_beta():
    recipe = {"flow": {"latent_dim": 1}, "objective": {"kind": "reconstruction"}, "training": {"max_steps": 20}}
    figures = fit(table(80, 3), recipe=recipe).figures
    assert (figures.beta, figures.beta_reason) == (None, None)
    with pytest.raises(InputError, match="beta"):
        Recipe.validated({**recipe, "objective": {"kind": "reconstruction", "beta": 3.0}})
    assert "beta" not in [verdict.name for verdict in figures.health.verdicts]


@pytest.mark.parametrize(("n", "warned"), [(12, True), (60, False)])
def test_rows_that_were_trained_on_are_no_judges(n, warned):
    health = fit(table(n, 3), recipe={"flow": {"latent_dim": 1}, "training": {"max_steps": 10}}).figures.health
    assert ("rows" in [verdict.name for verdict in health.verdicts]) == warned
    assert health.status != "ok" or not warned


@pytest.mark.parametrize(
    ("sections", "probed"),
    [
        ({}, None),
        ({"columns": {"image": [1, 2, 2]}}, 1 / 16),
        ({"columns": {"image": [1, 2, 2]}, "objective": {"kind": "freeform", "probed": 1.0}}, 1.0),
        ({"columns": {"image": [1, 2, 2]}, "objective": {"kind": "reconstruction"}}, None),
    ],
)
def test_a_sixteenth_of_a_batch_of_images_carries_probes_unless_the_recipe_says_otherwise(sections, probed):
    found = fit(table(40, 4), recipe=QUICK.update(training={"max_steps": 2}).update(**sections)).recipe
    assert found.objective.options.get("probed") == probed
