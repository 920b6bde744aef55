"""A fit that stops anywhere and is taken up again ends with the same bits as one that never stopped."""

import errno
import io
import json
import os
import pickle
import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

import isthmus
from cases import randn
from isthmus import InjectiveFlow, InputError, Recipe, cli, fit, fitting, runs, store, sweep
from isthmus.data.tables import write_table
from isthmus.flows import FreeFormFlow
from isthmus.networks import mlp_pair
from isthmus.objective import FreeForm
from isthmus.recipe import TrainingRecipe
from isthmus.rows import Rows
from isthmus.training import train, trainee
from isthmus.training.batches import Batches

STEPS = 60


class Crash(Exception):
    """What stops a fit here, as a bug or a power cut would."""


class Failing(FreeForm):
    """The paper's loss, not a number on half of the batches, so that three in a row come up."""

    def __call__(self, flow, x, c=None, weight=1.0):
        terms = super().__call__(flow, x, c, weight)
        return terms._replace(total=terms.total * torch.nan) if float(x.detach().sum()) % 1 < 0.5 else terms


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


def crashes_at(monkeypatch, step, run):
    """Lets a run crash at a step of training."""
    with monkeypatch.context() as patch:
        at_call(patch, (trainee.Trainee, "training_step"), {step})
        with pytest.raises(Crash):
            run()


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
    "levels": {"levels": (-1.0, 1.0), "noise": (0.01, 0.3), "objective": lambda _: FreeForm((1.0, 100.0))},
}


def trained(run_dir, options):
    """Trains a small flow with some of `train`'s arguments and some settings."""
    options = dict(options)
    arguments = {name: options.pop(name) for name in ("weights", "spread") if name in options}
    objective = options.pop("objective", FreeForm)("auto")
    torch.manual_seed(0)
    levels = options.pop("levels", ())
    flow = FreeFormFlow(*mlp_pair(3, 1, 1 + len(levels), width=8, depth=1), 3, 1, 1, levels=levels)
    settings = TrainingRecipe(**{"max_steps": STEPS, "validations": 6, "learning_rate": 1e-2, **options})
    history = train(flow, objective, DATA, HELD_OUT, settings=settings, seed=3, run_dir=run_dir, **arguments)
    return flow.state_dict(), history, float(objective.beta)


def saves_often(monkeypatch, seconds):
    monkeypatch.setattr(trainee, "_TIME_BETWEEN_SAVES", 0)
    monkeypatch.setattr(trainee, "_SAVE_EVERY", seconds)


@pytest.mark.parametrize(
    ("name", "every_step"), [*((name, True) for name in TRAININGS), ("plain", False), ("retreats", False)]
)
def test_training_goes_on_as_if_it_had_never_stopped(monkeypatch, tmp_path, name, every_step):
    state, history, beta = trained(None, TRAININGS[name])
    assert (name != "retreats") == (history.retreats == 0)
    assert (name == "patience") == (history.steps < STEPS)
    saves_often(monkeypatch, 0.0 if every_step else 1e9)
    at_call(monkeypatch, (trainee.Trainee, "training_step"), {1, 12, 33, 34})
    at_call(monkeypatch, (trainee.Trainee, "_keep_best"), {3})
    at_call(monkeypatch, (trainee.Trainee, "_save"), {4})
    (again, other, other_beta), stops = until_done(lambda: trained(tmp_path, TRAININGS[name]))
    assert stops >= (4 if name == "patience" else 6)
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


def test_another_training_is_refused_until_the_first_has_ended(monkeypatch, tmp_path):
    saves_often(monkeypatch, 0.0)
    crashes_at(monkeypatch, 30, lambda: trained(tmp_path, {}))
    before = (tmp_path / "checkpoint.ckpt").read_bytes()
    with pytest.raises(InputError, match="unfinished training"):
        trained(tmp_path, {"weight_decay": 0.2})
    assert (tmp_path / "checkpoint.ckpt").read_bytes() == before
    trained(tmp_path, {})
    state, _, _ = trained(tmp_path, {"weight_decay": 0.2})
    same_bits(state, trained(None, {"weight_decay": 0.2})[0])


def test_a_damaged_checkpoint_is_one_clear_line(monkeypatch, tmp_path):
    trained(tmp_path, {})
    path = tmp_path / "checkpoint.ckpt"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"x" * 100, pickle.dumps({"trainee": {}})):
        path.write_bytes(content)
        with pytest.raises(InputError, match="expected a checkpoint in"):
            trained(tmp_path, {})


def test_a_checkpoint_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "evil"),))

    trained(tmp_path, {})
    torch.save({"trainee": Evil()}, tmp_path / "checkpoint.ckpt")
    with pytest.raises(InputError, match="expected a checkpoint in"):
        trained(tmp_path, {})
    assert not (tmp_path / "evil").exists()


def test_a_disk_that_is_full_stops_with_one_line_and_the_last_checkpoint_stays(monkeypatch, tmp_path):
    state, _, _ = trained(None, {})
    saves_often(monkeypatch, 0.0)
    real, saves = os.fsync, []

    def full(file):
        saves.append(file)
        if len(saves) == 43:  # file and folder are flushed in turn, first those of the log
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            trained(tmp_path, {})
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["checkpoint.ckpt", "log.csv"]
    kept = torch.load(tmp_path / "checkpoint.ckpt", weights_only=True)
    assert kept["global_step"] == 20
    same_bits(trained(tmp_path, {})[0], state)


def test_seconds_count_on(monkeypatch, tmp_path):
    """With a limit of time the sittings are added up: what is left of it is all that is left."""
    options = {"max_time": 6.0, "max_steps": 10**6, "patience": 10**6, "validations": 10**4, "compile": False}
    saves_often(monkeypatch, 0.0)
    crashes_at(monkeypatch, 4, lambda: trained(tmp_path, options))
    before = torch.load(tmp_path / "checkpoint.ckpt", weights_only=True)["trainee"]["seconds"]
    start = time.monotonic()
    _, history, _ = trained(tmp_path, options)
    spent = time.monotonic() - start
    assert history.earlier == before > 0
    assert 6.0 <= history.seconds < before + spent
    assert [row["seconds"] for row in history.rows] == sorted(row["seconds"] for row in history.rows)


# ------------------------------------------------------------------------------------ fits

rng = np.random.default_rng(0)
HEAVY = rng.standard_t(1.5, size=(300, 1))
NOISY = np.tanh(HEAVY) + 0.05 * rng.normal(size=(300, 1))
TABLE = np.concatenate([HEAVY, NOISY, np.rint(3 * rng.normal(size=(300, 1)))], 1)
RECIPE = Recipe.parse(
    "{flow: {network: {width: 8, depth: 1}}, training: {max_steps: 48, patience: 99, validations: 3},"
    " refit: {latent: gaussian}}"
)


STRAIGHT = RECIPE.update(flow={"latent_dim": 1}, columns={"heavy_tails": False})


def fitted(run_dir, recipe=RECIPE, **arguments):
    return fit(TABLE, recipe=recipe, run_dir=run_dir, **arguments)


def figures(one):
    return {name: value for name, value in one.figures.plain().items() if "seconds" not in name}


def test_a_fit_goes_on_from_wherever_it_was_stopped(monkeypatch, tmp_path):
    """In the trial of curves, in the search for a dimension, in training and in the refit; nothing is decided twice."""
    whole = fitted(None)
    assert whole.figures.curving is not None
    assert len(whole.figures.latent_dim_curve) > 1
    steps = []
    monkeypatch.setattr(trainee.Trainee, "on_train_batch_start", lambda *_: steps.append(1), raising=False)
    saves_often(monkeypatch, 0.0)
    assert fitted(tmp_path / "other").figures.curving == whole.figures.curving
    needed = len(steps)
    stops = {5, *(int(share * needed) for share in (0.3, 0.5, 0.9))}
    at_call(monkeypatch, (trainee.Trainee, "training_step"), stops)
    at_call(monkeypatch, (fitting, "refit_density"), {1})
    at_call(monkeypatch, (sweep, "refit_density"), {1, 4})
    steps.clear()
    again, times = until_done(lambda: fitted(tmp_path / "run"))
    assert times == len(stops) + 3
    assert needed <= len(steps) <= needed + times
    same_bits(again.model.state_dict(), whole.model.state_dict())
    assert figures(again) == figures(whole)
    assert without_seconds(again.log) == without_seconds(whole.log)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"run.json", "decisions.json", "log.csv"}
    assert not [path for path in (tmp_path / "run").iterdir() if path.is_dir()]


def test_ctrl_c_is_heeded_after_the_step_and_the_fit_goes_on(monkeypatch, tmp_path):
    whole = fitted(None, recipe=STRAIGHT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    real, calls = trainee.Trainee.training_step, [0]

    def step(self, *arguments):
        calls[0] += 1
        if calls[0] == 7:
            signal.raise_signal(signal.SIGINT)
        return real(self, *arguments)

    monkeypatch.setattr(trainee.Trainee, "training_step", step)
    try:
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path, recipe=STRAIGHT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [7]
    [path] = tmp_path.rglob("checkpoint.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 7
    same_bits(fitted(tmp_path, recipe=STRAIGHT).model.state_dict(), whole.model.state_dict())


def test_sigterm_in_a_training_of_a_program_without_a_handler_is_no_success(monkeypatch):
    real = trainee.Trainee.training_step
    step = lambda *arguments: (signal.raise_signal(signal.SIGTERM), real(*arguments))[1]  # noqa: E731
    monkeypatch.setattr(trainee.Trainee, "training_step", step)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit, match="143"):
            fitted(None, recipe=STRAIGHT)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_unfinished_fit_of_something_else_is_refused_and_kept(monkeypatch, tmp_path):
    crashes_at(monkeypatch, 40, lambda: fit(TABLE, recipe=STRAIGHT, run_dir=tmp_path))
    for arguments, what in (
        ({"X": TABLE + 1, "recipe": STRAIGHT}, "data"),
        ({"X": TABLE, "recipe": STRAIGHT.update(seed=1)}, "recipe"),
        ({"X": TABLE, "recipe": STRAIGHT, "sample_weight": np.arange(300)}, "data"),
    ):
        with pytest.raises(InputError, match=f"expected the {what} that the unfinished run"):
            fit(**arguments, run_dir=tmp_path)
    done = fit(TABLE, recipe=STRAIGHT, run_dir=tmp_path)
    same_bits(done.model.state_dict(), fit(TABLE, recipe=STRAIGHT).model.state_dict())
    other = fit(TABLE, recipe=STRAIGHT.update(seed=1), run_dir=tmp_path)
    same_bits(other.model.state_dict(), fit(TABLE, recipe=STRAIGHT.update(seed=1)).model.state_dict())


def test_a_flow_of_ones_own_is_untrained_again_where_it_was_interrupted(monkeypatch, tmp_path):
    flow = FreeFormFlow(*mlp_pair(3, 1, width=8, depth=1), 3, 1)
    start = {name: value.clone() for name, value in flow.state_dict().items()}
    crashes_at(monkeypatch, 40, lambda: fit(TABLE, recipe=STRAIGHT, flow=flow, run_dir=tmp_path))
    same_bits(flow.state_dict(), start)
    fit(TABLE, recipe=STRAIGHT, flow=flow, run_dir=tmp_path)
    with pytest.raises(AssertionError):
        same_bits(flow.state_dict(), start)


def test_the_estimator_goes_on_too(monkeypatch, tmp_path):
    recipe = {"training": {"patience": 99}, "columns": {"heavy_tails": False}, "refit": {"latent": "gaussian"}}
    estimator = InjectiveFlow(1, max_steps=60, random_state=0, recipe=recipe, run_dir=tmp_path)
    saves_often(monkeypatch, 0.0)
    crashes_at(monkeypatch, 50, lambda: estimator.fit(TABLE))
    again = clone(estimator).fit(TABLE)
    assert again.run_dir == tmp_path
    assert again.fitted_.figures.steps == 60
    np.testing.assert_array_equal(
        again.score_samples(TABLE), again.set_params(run_dir=None).fit(TABLE).score_samples(TABLE)
    )


@pytest.mark.slow
def test_a_compiled_training_goes_on_with_the_same_bits(fresh_python, tmp_path):
    code = """
import json, sys, torch
from isthmus import FreeFormFlow, FreeForm
from isthmus.networks import mlp_pair
from isthmus.recipe import TrainingRecipe
from isthmus.rows import Rows
from isthmus.training import train, trainee
trainee._TIME_BETWEEN_SAVES, trainee._SAVE_EVERY = 0, 0.0
real, calls = trainee.Trainee.training_step, []
def step(self, *arguments):
    calls.append(1)
    if len(calls) == int(sys.argv[2]):
        raise ZeroDivisionError
    assert self.compiled is not None
    return real(self, *arguments)
trainee.Trainee.training_step = step
torch.manual_seed(0)
rows = Rows(torch.randn(100, 3))
flow = FreeFormFlow(*mlp_pair(3, 1, width=8, depth=1), 3, 1)
settings = TrainingRecipe(max_steps=40, patience=40, compile=True)
try:
    train(flow, FreeForm("auto"), rows, rows, settings=settings, run_dir=sys.argv[1])
except ZeroDivisionError:
    print(json.dumps(None))
else:
    print(json.dumps([value.double().flatten().tolist() for value in flow.state_dict().values()]))
"""
    whole = fresh_python(code, str(tmp_path / "whole"), "0")
    assert fresh_python(code, str(tmp_path / "run"), "23") is None
    assert fresh_python(code, str(tmp_path / "run"), "0") == whole


# ------------------------------------------------------------------------------------ the command line

OPTIONS = (
    "--latent-dim",
    "1",
    "--no-report",
    "--set",
    "training.max_steps=60",
    "--set",
    "training.patience=99",
    "--set",
    "columns.heavy_tails=false",
    "--set",
    "refit.latent=gaussian",
)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the command line where there is a table; its exit code and what it wrote."""
    monkeypatch.chdir(tmp_path)
    write_table(pd.DataFrame(TABLE[:100], columns=["a", "b", "k"]), tmp_path / "table.csv")

    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def interrupted(monkeypatch, run, step=40, error=KeyboardInterrupt):
    """Lets a command be interrupted at a step, having saved the steps before."""
    with monkeypatch.context() as patch:
        saves_often(patch, 0.0)
        at_call(patch, (trainee.Trainee, "training_step"), {step}, error)
        return run()


def weights(model):
    return (model / "model.safetensors").read_bytes()


def test_a_command_goes_on_to_the_same_model(command, monkeypatch, tmp_path):
    fit_it = ("fit", "table.csv", "-o", "model", "--given", "k", "--seed", 5, *OPTIONS)
    code, _, said = interrupted(monkeypatch, lambda: command(*fit_it))
    assert (code, said.splitlines()[-1]) == (130, "isthmus: interrupted; `isthmus fit --resume model.run` goes on")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.run", "table.csv"]
    code, _, said = command(*fit_it)
    assert code == 2
    assert said.startswith(
        "isthmus: error: expected no unfinished fit; got model.run; `isthmus fit --resume model.run`"
    )
    assert "--force" in said
    monkeypatch.chdir("/")
    assert interrupted(monkeypatch, lambda: command("fit", "--resume", tmp_path / "model.run"), 10)[0] == 130
    code, said, _ = command("fit", "--resume", tmp_path / "model.run", "--json")
    assert code == 0
    assert json.loads(said)["steps"] == 60
    monkeypatch.chdir(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "table.csv"]
    assert command(*fit_it[:3], "whole", *fit_it[4:])[0] == 0
    assert weights(tmp_path / "model") == weights(tmp_path / "whole")
    again, whole = (isthmus.load(tmp_path / name) for name in ("model", "whole"))
    assert again.figures.command == whole.figures.command.replace("whole", "model")
    assert again.schema == whole.schema
    assert again.recipe == whole.recipe
    assert without_seconds(again.log) == without_seconds(whole.log)


def test_a_table_on_standard_input_is_kept(command, monkeypatch, tmp_path):
    text = (tmp_path / "table.csv").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert interrupted(monkeypatch, lambda: command("fit", "-", "-o", "model", *OPTIONS))[0] == 130
    assert command("fit", "--resume", "model.run")[0] == 0
    assert command("fit", "table.csv", "-o", "whole", *OPTIONS)[0] == 0
    assert weights(tmp_path / "model") == weights(tmp_path / "whole")


def test_how_cells_are_read_is_remembered(command, monkeypatch, tmp_path):
    words = ("--missing", "<5", "--decimal", ",")
    rows = [
        f"{a:.3f}".replace(".", ",") + f';{"<5" if k % 9 == 0 else k};"{k % 7},125"'
        for k, a in enumerate(TABLE[:100, 0])
    ]
    (tmp_path / "odd.csv").write_text("\n".join(["a;b;c", *rows]))
    fit_it = ("fit", "odd.csv", "-o", "model", *words, *OPTIONS)
    assert "expected . or ,; got ';'" in command(*fit_it, "--decimal", ";")[2]
    assert interrupted(monkeypatch, lambda: command(*fit_it))[0] == 130
    assert command("fit", "--resume", "model.run", "--decimal", ".")[0] == 2
    code, _, said = command("fit", "--resume", "model.run")
    assert code == 0
    assert "Numbers are written like 1.234,5 (2): 'a', 'c'." in said
    schema = isthmus.load(tmp_path / "model").schema
    assert schema.features == ("a", "b", "b is missing", "c")
    assert (schema.dialect.missing, schema.dialect.form) == (("<5",), "1.234,5")
    for row in ("0,5;<5;1,125", "0,5;?;1,125"):
        (tmp_path / "one.csv").write_text(f"a;b;c\n{row}\n")
        code, scores, _ = command("score", "model", "one.csv")
        assert code == 0
        assert scores == command("score", "model", "one.csv", *words)[1]
        assert len(scores.splitlines()) == 2


def test_force_starts_over_but_replaces_nothing_else(command, monkeypatch, tmp_path):
    assert interrupted(monkeypatch, lambda: command("fit", "table.csv", "-o", "model", "--seed", 1, *OPTIONS))[0] == 130
    assert command("fit", "table.csv", "-o", "model", "--force", *OPTIONS)[0] == 0
    assert command("fit", "table.csv", "-o", "whole", *OPTIONS)[0] == 0
    assert weights(tmp_path / "model") == weights(tmp_path / "whole")
    (tmp_path / "other.run").mkdir()
    (tmp_path / "other.run" / "thesis.txt").write_text("dear to me")
    code, _, said = command("fit", "table.csv", "-o", "other", "--force", *OPTIONS)
    assert (code, "got other.run" in said) == (2, True)
    assert (tmp_path / "other.run" / "thesis.txt").exists()


def test_what_cannot_go_on_is_one_line_and_nothing_is_lost(command, monkeypatch, tmp_path):
    assert interrupted(monkeypatch, lambda: command("fit", "table.csv", "-o", "model", *OPTIONS))[0] == 130
    table, run_dir = tmp_path / "table.csv", tmp_path / "model.run"
    text, kept = table.read_text(), {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}

    def refused(*arguments, because):
        code, out, said = command("fit", *arguments)
        assert (code, out, len(said.splitlines())) == (2, "", 1)
        assert because in said
        assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == kept

    refused("--resume", "model.run", "--seed", 3, because="got seed=3; leave it out")
    refused("table.csv", "--resume", "model.run", "--force", because="got TABLE; leave it out")
    refused("--resume", "table.csv", because="expected a folder MODEL.run")
    refused("--resume", "nope.run", because="expected a folder MODEL.run")
    refused("table.csv", because="expected TABLE and -o MODEL")
    table.write_text(text.replace("1", "2"))
    refused("--resume", "model.run", because="a changed one")
    table.unlink()
    refused("--resume", "model.run", because="no such file")
    table.write_text(text)
    with runs._locked(run_dir):
        refused("--resume", "model.run", because="another process works on")
    (tmp_path / "model").mkdir()
    refused("--resume", "model.run", because="which exists")
    (tmp_path / "model").rmdir()
    monkeypatch.setattr(store, "_VERSIONS", ("torch",))
    refused("--resume", "model.run", because="expected the versions that the unfinished run in model.run began with")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert command("fit", "--resume", "model.run")[0] == 0


def test_a_fit_that_saved_nothing_leaves_nothing(command, monkeypatch, tmp_path):
    at_call(monkeypatch, (trainee.Trainee, "training_step"), {1}, KeyboardInterrupt)
    code, _, said = command("fit", "table.csv", "-o", "model", *OPTIONS)
    assert (code, said.splitlines()[-1]) == (130, "isthmus: interrupted; nothing was written")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_model_that_was_written_before_the_folder_went_is_written_again(command, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        at_call(patch, (runs, "end"), {1}, Crash)
        with pytest.raises(Crash):
            command("fit", "table.csv", "-o", "model", *OPTIONS)
    before = weights(tmp_path / "model")
    assert command("fit", "--resume", "model.run")[0] == 0
    assert weights(tmp_path / "model") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "table.csv"]


def test_a_disk_that_is_full_is_one_line_that_says_how_to_go_on(command, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        saves_often(patch, 0.0)
        at_call(patch, (trainee, "append_row"), {9}, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        code, _, said = command("fit", "table.csv", "-o", "model", *OPTIONS)
    assert (code, said.count("error: "), "Traceback" in said) == (2, 1, False)
    assert "No space left on device" in said.splitlines()[-1]
    assert said.endswith("`isthmus fit --resume model.run` goes on\n")
    assert command("fit", "--resume", "model.run")[0] == 0
