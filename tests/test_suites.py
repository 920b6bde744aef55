"""The benchmark's suites: how a file becomes runs, what a run gives, and how results become tables."""

import json

import pytest
from benchmarks import run as runner
from benchmarks.measures import MEASURES, dataset
from benchmarks.pages import pages
from benchmarks.suites import Suite, matches, merged, names
from benchmarks.tables import Found, page, summary, tables

from isthmus.data import DATASETS
from isthmus.recipe import Recipe

SUITE = Suite(
    "trial",
    {
        "title": "A trial",
        "question": "Does it run?",
        "source": "None.",
        "budget": "5 steps.",
        "measure": "fit",
        "seeds": [0, 1],
        "base": {
            "data": {"name": "sine", "n_train": 200, "n_validation": 20, "n_test": 60},
            "recipe": {"flow": {"latent_dim": 1, "network": {"kind": "mlp", "width": 8}}, "training": {"max_steps": 5}},
        },
        "axes": {
            "surrogate": {name: {"recipe": {"objective": {"surrogate": name}}} for name in ("encoder", "conditional")},
            "beta": {"at": "recipe.objective.beta", "values": [1, 10]},
        },
        "without": [{"surrogate": "conditional", "beta": 1}],
        "quick": {"patch": {"recipe": {"training": {"max_steps": 2}}}, "only": {"beta": [10]}},
        "published": [{"where": {"beta": 10}, "value": "reconstruction", "mean": 0.01, "spread": 0.001, "source": "-"}],
        "tables": [
            {"title": "All", "rows": ["surrogate", "beta"], "values": ["reconstruction", "fid_like", "health"]},
            {"title": "Crossed", "rows": ["surrogate"], "columns": "beta", "value": "steps"},
        ],
    },
)


def test_runs_are_the_product_of_the_axes_seed_by_seed():
    runs = list(SUITE.runs())
    cells = [("encoder", "1"), ("encoder", "10"), ("conditional", "10")]
    assert [(*run.cell.values(), run.seed) for run in runs] == [(*cell, seed) for seed in (0, 1) for cell in cells]
    assert runs[1].spec["recipe"]["objective"] == {"surrogate": "encoder", "beta": 10}
    assert runs[1].spec["recipe"]["training"] == {"max_steps": 5}


def test_a_quick_run_is_patched_and_of_one_seed():
    runs = list(SUITE.runs(quick=True))
    assert [(*run.cell.values(), run.seed) for run in runs] == [("encoder", "10", 0), ("conditional", "10", 0)]
    assert runs[0].spec["recipe"]["training"] == {"max_steps": 2}


def test_merging_leaves_its_parts_alone():
    base = {"a": {"b": 1, "c": [1]}}
    assert merged(base, {"a": {"b": 2}}, {"d": 3}) == {"a": {"b": 2, "c": [1]}, "d": 3}
    assert base == {"a": {"b": 1, "c": [1]}}
    assert matches({"a": "1", "b": "x"}, {"a": 1})
    assert matches({"a": "1", "b": "x"}, {"a": [0, 1]})
    assert not matches({"a": "1"}, {"b": "x"})


def test_a_finished_run_is_not_run_again_and_a_failed_one_is(tmp_path, monkeypatch, capsys):
    made = []

    def measure(spec, seed):
        made.append((spec["recipe"]["objective"]["surrogate"], seed))
        if len(made) == 2:
            raise ValueError("this once")
        yield {"density": "own"}, {"reconstruction": 0.01 * len(made), "health": "ok", "steps": 5}

    monkeypatch.setitem(MEASURES, "fit", measure)
    options = runner.argparse.Namespace(results=tmp_path, seeds=[0], quick=True, where={}, part=(1, 1))
    assert runner.run_missing(SUITE, options) == 1
    assert "FAILED conditional 10 seed 0: ValueError: this once" in page(SUITE, tmp_path / "trial.jsonl")
    assert runner.run_missing(SUITE, options) == 0
    assert runner.run_missing(SUITE, options) == 0
    assert made == [("encoder", 0), ("conditional", 0), ("conditional", 0)]
    text = page(SUITE, tmp_path / "trial.jsonl")
    assert "FAILED" not in text
    assert "0.01 [0.01 ± 0.001]" in text


def test_two_processes_share_the_runs(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setitem(MEASURES, "fit", lambda spec, seed: seen.append(spec) or [])
    for part in ((1, 2), (2, 2)):
        options = runner.argparse.Namespace(results=tmp_path, seeds=None, quick=False, where={}, part=part)
        runner.run_missing(SUITE, options)
    assert len(seen) == len(list(SUITE.runs())) == 6


def test_results_of_a_suite_that_has_changed_are_left_out(tmp_path):
    file = tmp_path / "trial.jsonl"
    record = {"cell": {"surrogate": "encoder", "beta": "10"}, "seed": 0, "given": "something else", "seconds": 1.0}
    file.write_text(json.dumps({**record, "rows": [{"labels": record["cell"], "values": {"steps": 5}}]}) + "\n")
    assert Found(SUITE, file).rows == []


def test_a_fit_measures_samples_scores_and_cost():
    run = next(SUITE.runs(seeds=[0]))
    ((labels, values),) = MEASURES["fit"](run.spec, run.seed)
    assert labels == {"density": "own"}
    assert values["steps"] == 5
    assert values["latent_dim"] == 1
    for name in ("fid_like", "fid_like_noisy", "energy", "c2st_noisy", "reconstruction", "manifold_nll", "ambient_ll"):
        assert isinstance(values[name], float), name
    assert values["fid_like_reconstructed"] > values["fid_like_floor"]
    assert json.loads(json.dumps(values)) == values


@pytest.mark.parametrize(
    ("values", "text"),
    [([], "-"), ([0.1234], "0.123"), ([1.0, 2.0], "1.50 ± 0.71"), ([3, 3], "3"), (["ok", "fail", "ok"], "ok x2, fail")],
)
def test_values_are_summed_up(values, text):
    assert summary(values) == text


@pytest.mark.parametrize("name", names())
def test_every_suite_names_what_exists(name):
    suite = Suite.read(name)
    assert {"title", "question", "source", "budget", "seeds", "quick", "tables"} <= set(suite.record)
    assert suite.record["measure"] in MEASURES
    runs = [*suite.runs(), *suite.runs(quick=True)]
    assert len({(*run.cell.values(), run.seed, runner.fingerprint(run)) for run in runs}) == len(runs)
    for run in runs:
        if "recipe" in run.spec:
            Recipe.validated({**run.spec["recipe"], "seed": run.seed})
        if "data" in run.spec:
            assert run.spec["data"]["name"] in DATASETS


def test_rows_can_be_thinned():
    data = dataset({"name": "sine", "n_train": 50, "n_validation": 5, "n_test": 20, "train_rows": 10, "test_rows": 7})
    assert (len(data.train), len(data.test)) == (10, 7)


def test_tables_cross_axes(tmp_path):
    rows = [{"labels": run.cell, "values": {"steps": run.seed}} for run in SUITE.runs()]
    lines = [
        {"cell": run.cell, "seed": run.seed, "given": runner.fingerprint(run), "rows": [row], "seconds": 1.0}
        for run, row in zip(SUITE.runs(), rows, strict=True)
    ]
    file = tmp_path / "trial.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ((_, found),) = tables(Found(SUITE, file), SUITE.record["tables"][1:])
    assert found == [
        ["surrogate", "1", "10"],
        ["encoder", "0.50 ± 0.71", "0.50 ± 0.71"],
        ["conditional", "-", "0.50 ± 0.71"],
    ]


@pytest.mark.parametrize(("file", "content"), pages().items(), ids=lambda value: getattr(value, "name", ""))
def test_every_figure_in_the_pages_comes_from_the_results(file, content):
    assert file.read_text() == content, "run python -m benchmarks.pages"
