"""The training loop: its batches, its plan, what `auto` follows, and a context that is learnt."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from cases import randn
from isthmus import Recipe, fit
from isthmus.diagnostics import steadiness
from isthmus.flows import FreeFormFlow
from isthmus.networks import mlp_pair
from isthmus.objective import ExactLikelihood, FreeForm, Reconstruction
from isthmus.recipe import TrainingRecipe
from isthmus.rows import Rows
from isthmus.training import single_thread, train
from isthmus.training.batches import Batches
from isthmus.training.plan import Plan, one_cycle


def line(rows=300, noise=0.1):
    """Rows around a line in R^3: d = 1, two normal directions with standard deviation `noise`."""
    return Rows(randn(rows, 1) @ torch.tensor([[1.0, 0.5, -0.5]]).double() + noise * randn(rows, 3))


def small_flow():
    return FreeFormFlow(*mlp_pair(3, 1, width=16, depth=1), 3, 1)


@pytest.mark.parametrize(("rows", "size"), [(10, 3), (8, 8), (5, 64), (7, 1)])
def test_batches_are_random_orders_cut_into_equal_parts(rows, size):
    x = torch.arange(rows, dtype=torch.float32).unsqueeze(1)
    make = lambda seed: [*Batches(x, 2 * x, 3 * x[:, 0], size=size, steps=12, seed=seed)]  # noqa: E731
    batches, again, other = make(0), make(0), make(1)
    assert len(batches) == len(Batches(x, None, None, size=size, steps=12, seed=0)) == 12
    for batch, same in zip(batches, again, strict=True):
        assert len(batch.x) == min(size, rows)
        assert torch.equal(batch.x, same.x)
        assert torch.equal(batch.c, 2 * batch.x)
        assert torch.equal(batch.w, 3 * batch.x[:, 0])
    per_epoch = rows // min(size, rows)
    epochs = [torch.cat([b.x for b in batches[i : i + per_epoch]]) for i in range(0, 12 - per_epoch + 1, per_epoch)]
    assert all(len(epoch.unique()) == len(epoch) for epoch in epochs)
    assert any(not torch.equal(a.x, b.x) for a, b in zip(batches, other, strict=True)) or rows == 1
    assert all(batch[1:] == (None, None) for batch in Batches(x, None, None, size=size, steps=2, seed=0))
    elsewhere = Batches(x.to("meta"), None, None, size=size, steps=2, seed=0)  # a device that holds no numbers
    assert [(b.x.device.type, b.x.shape) for b in elsewhere] == [("meta", batches[0].x.shape)] * 2


@pytest.mark.parametrize(
    ("settings", "n", "plan"),
    [
        ({}, 10, {"max_steps": 2000, "batch_size": 32, "noise": 0.1, "noise_follows": True, "compile": False}),
        ({}, 40_000, {"max_steps": 6000, "batch_size": 256, "learning_rate": 2e-3, "validate_every": 300}),
        ({}, 10**6, {"max_steps": 10_000}),
        ({"max_steps": 7, "batch_size": 5, "noise": 0.0, "validations": 100}, 10, {"max_steps": 7, "batch_size": 5}),
        ({"noise": 0.3, "compile": True}, 10, {"noise": 0.3, "noise_follows": False, "compile": True}),
        ({"max_steps": 3, "validations": 20}, 10, {"validate_every": 1}),
        ({"max_time": 60.0, "max_steps": 10**6}, 10**6, {"compile": False}),
        ({"max_time": 600.0, "max_steps": 10**6}, 10**6, {"compile": True}),
    ],
)
def test_what_auto_stands_for(settings, n, plan):
    found = Plan.of(TrainingRecipe(**settings), n, parameters=140_000)
    assert {name: getattr(found, name) for name in plan} == plan


def test_compiling_is_chosen_where_the_training_is_long_or_the_steps_are_large():
    def chosen(steps, rows, parameters):
        settings = TrainingRecipe(max_steps=steps, batch_size=rows)
        return Plan.of(settings, 10**6, parameters).compile

    assert chosen(2_000, 512, 472_212)  # MINIBOONE
    assert not chosen(2_000, 32, 140_000)
    assert not chosen(200, 512, 472_212)
    assert chosen(20_000, 32, 140_000)
    found = [[chosen(10**a, 2**b, 10**c) for a in range(7)] for b in range(0, 13, 3) for c in range(3, 8)]
    assert all(row == sorted(row) for row in found)


def test_one_cycle_rises_for_a_tenth_and_falls_to_a_thousandth():
    shares = [one_cycle(i / 1000) for i in range(1001)]
    assert shares.index(max(shares)) == 100
    assert max(shares) == pytest.approx(1)
    assert shares[:101] == sorted(shares[:101])
    assert shares[100:] == sorted(shares[100:], reverse=True)
    assert shares[-1] == pytest.approx(0.001)


def test_beta_and_noise_follow_the_residual_and_beta_never_falls():
    objective, data = FreeForm("auto"), line()
    history = train(small_flow(), objective, data, data, settings=TrainingRecipe(max_steps=600, learning_rate=1e-2))
    betas, sigmas = ([row[name] for row in history.rows] for name in ("beta", "reconstruction"))
    sigmas = [(value / 2) ** 0.5 for value in sigmas]
    assert betas[1:] == sorted(betas[1:])
    for before, row in zip(range(len(sigmas)), history.rows[1:], strict=False):
        assert row["beta"] == pytest.approx(0.5 / min(sigmas[: before + 1]) ** 2, rel=1e-4)
        assert row["noise"] == pytest.approx(0.5 * sigmas[before], rel=1e-4)
    assert betas[-1] == pytest.approx(0.5 / 0.1**2, rel=0.25)


def test_what_is_given_is_not_followed():
    objective = ExactLikelihood(3.0)
    settings = TrainingRecipe(max_steps=40, noise=0.2, schedule="constant", learning_rate=2e-3)
    history = train(small_flow(), objective, line(), line(), settings=settings)
    assert {(row["beta"], row["noise"], row["learning_rate"]) for row in history.rows} == {(3.0, 0.2, 2e-3)}


def test_the_likelihood_waits_for_the_reconstruction():
    """In the first half of the warm-up only the reconstruction is trained: the same bits as without a likelihood."""
    flows = small_flow(), small_flow()
    flows[1].load_state_dict(flows[0].state_dict())
    settings = TrainingRecipe(max_steps=50, warm_up=1.0, validations=50, patience=50, noise=0.0, weight_decay=0.0)
    lengths, data = [], line()
    for flow, objective in zip(flows, (ExactLikelihood(1.0), Reconstruction()), strict=True):
        history = train(flow, objective, data, data, settings=settings)
        lengths.append([row["reconstruction"] for row in history.rows])
    same = [one == pytest.approx(other, rel=1e-6) for one, other in zip(*lengths, strict=True)]
    assert all(same[:25])
    assert not all(same)


def test_weights_of_zero_are_rows_that_are_not_there():
    """A flow trained with half of its rows at weight 0 does not learn those."""
    near, far = line(200), Rows(line(200).x.flip(1) + 20)
    data, w = Rows(torch.cat([near.x, far.x])), torch.cat([torch.full((200,), 2.0), torch.zeros(200)]).double()
    flow = small_flow()
    train(flow, FreeForm(10.0), data, near, settings=TrainingRecipe(max_steps=300, learning_rate=1e-2), weights=w)
    error = lambda rows: float((rows.x.float() - flow.reconstruct(rows.x.float())).detach().square().sum(1).mean())  # noqa: E731
    assert error(near) < 0.1
    assert error(far) > 10


def test_rows_are_spread_afresh_in_every_batch():
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            seen.append(x.detach().clone()) if self.training else None
            return super().forward(x)

    step = torch.tensor([0.5, 0.0, 2.0]).double()
    flow = FreeFormFlow(Spy(3, 1), nn.Linear(1, 3), 3, 1)
    rows = Rows(torch.zeros(64, 3).double())
    settings, spread = TrainingRecipe(max_steps=50, noise=0.0), lambda x, offset: x + step.to(x) * offset
    train(flow, Reconstruction(), rows, rows, settings=settings, spread=spread)
    x = torch.cat(seen)
    assert len(x[:, 0].unique()) > len(x) / 2
    assert float(x[:, 1].abs().max()) == 0
    assert float(x[:, 0].abs().max()) <= 0.25
    assert float(x[:, 2].std()) == pytest.approx(2 / 12**0.5, rel=0.1)


def test_threads_are_left_as_they_were():
    torch.set_num_threads(2)
    try:
        with single_thread(small_flow()):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.slow
def test_a_conditional_fit_learns_what_depends_on_the_context():
    """x given c is a normal around (c, -c, c^2) with standard deviation 0.3: its entropy is known."""
    rng = np.random.default_rng(0)
    c = rng.normal(size=(3000, 1))
    X = np.concatenate([c, -c, c**2], 1) + 0.3 * rng.normal(size=(3000, 3))
    recipe = Recipe.parse("{flow: {latent_dim: 1, network: {width: 64}}, training: {max_steps: 2000}}")
    model = fit(X[:2500], c[:2500], recipe=recipe).model
    x, given = torch.as_tensor(X[2500:]), torch.as_tensor(c[2500:])
    entropy = 3 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.3))
    score = float(model.log_prob(x, given, density="ambient").mean())
    assert score == pytest.approx(-entropy, abs=0.4)
    assert float(model.log_prob(x, given.flip(0)).mean()) < score - 2
    drawn = model.sample(2000, torch.tensor([[1.5]]).double())
    assert drawn.mean(0).tolist() == pytest.approx([1.5, -1.5, 2.25], abs=0.25)


class Failing(FreeForm):
    """The paper's loss, but not a number on some steps."""

    def __init__(self, bad):
        super().__init__("auto")
        self.bad, self.calls = bad, 0

    def __call__(self, flow, x, c=None, weight=1.0):
        terms = super().__call__(flow, x, c, weight)
        self.calls += 1
        return terms._replace(total=terms.total * math.nan) if self.bad(self.calls) else terms


@pytest.mark.parametrize(
    ("bad", "skipped", "retreats"),
    [
        (lambda call: False, 0, 0),
        (lambda call: call == 30, 1, 0),
        (lambda call: call in (30, 31), 2, 0),
        (lambda call: 30 <= call < 33, 3, 1),
        (lambda call: 30 <= call < 37, 7, 2),
    ],
    ids=["none", "one", "two", "three", "seven"],
)
def test_a_bad_step_is_left_out_and_three_in_a_row_halve_the_learning_rate(bad, skipped, retreats):
    data, flow = line(), small_flow()
    settings = TrainingRecipe(max_steps=100, schedule="constant", validations=10, learning_rate=1e-2)
    history = train(flow, Failing(bad), data, data, settings=settings)
    assert (history.steps, history.skipped, history.retreats) == (100, skipped, retreats)
    rates = [row["learning_rate"] for row in history.rows]
    assert rates[0] == 1e-2
    assert rates[-1] == pytest.approx(1e-2 * 0.5**retreats)
    assert all(bool(p.isfinite().all()) for p in flow.parameters())
    assert history.best_step > 0


def test_training_that_never_has_a_gradient_ends_early_and_says_so():
    data = line()
    flow = small_flow()
    before = copy.deepcopy(flow.state_dict())
    history = train(flow, Failing(lambda call: True), data, data, settings=TrainingRecipe(max_steps=500))
    assert history.steps < 100
    assert history.skipped == history.steps
    assert history.best_step == 0
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    verdict = steadiness(history.steps, history.skipped, history.retreats)
    assert (verdict.name, verdict.status) == ("training", "fail")


class Breaking(FreeForm):
    """The paper's loss, but it spoils the weights themselves on one step."""

    calls = 0

    def __call__(self, flow, x, c=None, weight=1.0):
        self.calls += 1
        if self.calls == 55:
            with torch.no_grad():
                next(flow.parameters()).fill_(math.inf)
        return super().__call__(flow, x, c, weight)


def test_weights_that_are_no_longer_finite_are_replaced_by_the_last_good_ones():
    data, flow = line(), small_flow()
    history = train(flow, Breaking("auto"), data, data, settings=TrainingRecipe(max_steps=200, patience=99))
    assert history.retreats == 1
    assert history.steps == 200
    assert history.best_step > 0
    assert math.isfinite(history.rows[-1]["reconstruction"])
