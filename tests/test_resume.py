"""A fit that stops anywhere and is taken up again ends with the same bits as one that never stopped."""

import pytest
import torch

from cases import randn
from isthmus.flows import FreeFormFlow
from isthmus.networks import mlp_pair
from isthmus.objective import FreeForm
from isthmus.recipe import TrainingRecipe
from isthmus.refit import Rows
from isthmus.training import train, trainee
from isthmus.training.batches import Batches

STEPS = 60


class Crash(Exception):
    """What stops a fit here, as a bug or a power cut would."""


class Failing(FreeForm):
    """The paper's loss, not a number on a third of the batches, so that three in a row come up."""

    def __call__(self, flow, x, c=None, weight=1.0):
        terms = super().__call__(flow, x, c, weight)
        return terms._replace(total=terms.total * torch.nan) if float(x.detach().sum()) % 1 < 0.35 else terms


def at_call(monkeypatch, where, calls, error=Crash):
    """Lets the function `where` raise at each of these calls, counted from 1 over all restarts."""
    owner, name = where
    real, count = getattr(owner, name), [0]

    def wrapped(*arguments, **options):
        count[0] += 1
        if count[0] in calls:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, wrapped)


def until_done(run, error=Crash):
    """Calls again until nothing stops it; the result, and how often it was stopped."""
    for stops in range(50):
        try:
            return run(), stops
        except error:
            continue
    return pytest.fail("it never ends")


def without_seconds(rows):
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def same_bits(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name]), name


def some_rows(n=150):
    return Rows(randn(n, 1) @ torch.tensor([[1.0, 0.5, -0.5]]).double() + 0.1 * randn(n, 3), randn(n, 1))


DATA, HELD_OUT = some_rows(), some_rows(50)
TRAININGS = {
    "plain": {},
    "weights, context and spread integers": {
        "weights": torch.linspace(0.5, 1.5, 150).double(),
        "spread": lambda x, offset: x + 0.1 * offset,
    },
    "the last weights": {"keep": "last"},
    "double precision": {"precision": "64-true"},
    "retreats": {"objective": Failing},
    "patience": {"patience": 2, "learning_rate": 1e-6},
    "no noise, constant rate": {"noise": 0.0, "schedule": "constant"},
    "one batch an epoch": {"batch_size": 150},
}


def trained(run_dir, options):
    """Trains a small flow with some of `train`'s arguments and some settings."""
    options = dict(options)
    arguments = {name: options.pop(name) for name in ("weights", "spread") if name in options}
    objective = options.pop("objective", FreeForm)("auto")
    torch.manual_seed(0)
    flow = FreeFormFlow(*mlp_pair(3, 1, 1, width=8, depth=1), 3, 1, 1)
    settings = TrainingRecipe(**{"max_steps": STEPS, "validations": 6, "learning_rate": 1e-2, **options})
    history = train(flow, objective, DATA, HELD_OUT, settings=settings, seed=3, run_dir=run_dir, **arguments)
    return flow.state_dict(), history, float(objective.beta)


def saves_often(monkeypatch, seconds):
    monkeypatch.setattr(trainee, "_TIME_BETWEEN_SAVES", 0)
    monkeypatch.setattr(trainee, "_SAVE_EVERY", seconds)


@pytest.mark.parametrize("every_step", [False, True], ids=["saved at validations", "saved at steps"])
@pytest.mark.parametrize("name", TRAININGS)
def test_training_goes_on_as_if_it_had_never_stopped(monkeypatch, tmp_path, name, every_step):
    state, history, beta = trained(None, TRAININGS[name])
    assert (name != "retreats") == (history.retreats == 0)
    assert (name == "patience") == (history.steps < STEPS)
    saves_often(monkeypatch, 0.0 if every_step else 1e9)
    at_call(monkeypatch, (trainee.Trainee, "training_step"), {1, 9, 12, 33, 34, 50, 72})
    at_call(monkeypatch, (trainee.Trainee, "_keep_best"), {3, 5})
    at_call(monkeypatch, (trainee.Trainee, "_save"), {2, 4})
    (again, other, other_beta), stops = until_done(lambda: trained(tmp_path, TRAININGS[name]))
    assert stops >= (4 if name == "patience" else 8)
    same_bits(again, state)
    assert other_beta == beta
    assert without_seconds(other.rows) == without_seconds(history.rows)
    facts = ("best_step", "steps", "skipped", "retreats")
    assert [getattr(other, fact) for fact in facts] == [getattr(history, fact) for fact in facts]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == len(history.rows) + 1


def test_batches_that_start_late_are_the_others():
    x = torch.arange(10.0).unsqueeze(1)
    make = lambda start: Batches(x, x, None, size=3, steps=11, start=start, seed=0, spread=lambda x, u: x + u)  # noqa: E731
    for start in (0, 1, 3, 4, 10, 11):
        for batch, other in zip(list(make(0))[start:], make(start), strict=True):
            assert torch.equal(batch.x, other.x)
            assert torch.equal(batch.c, other.c)


def test_a_training_that_ended_is_not_trained_again(monkeypatch, tmp_path):
    state, history, _ = trained(tmp_path, {})
    at_call(monkeypatch, (trainee.Trainee, "training_step"), {1})
    again, other, _ = trained(tmp_path, {})
    same_bits(again, state)
    assert without_seconds(other.rows) == without_seconds(history.rows)
