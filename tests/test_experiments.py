"""The experiments: their measures against closed forms, their suites on small versions, their figures."""

import dataclasses
import io
import itertools
import json
import math

import numpy as np
import pytest
import torch
from benchmarks.experiments import EXPERIMENTS, earth, setting
from benchmarks.experiments import hutchinson as trace
from benchmarks.experiments import toy_pathology as strip
from benchmarks.experiments.gradients import cosines
from benchmarks.experiments.probing import compared, reached
from benchmarks.experiments.spectra import effective_dimension
from benchmarks.figures import FIGURES, GRIDS, joined, pictures
from benchmarks.run import fingerprint
from benchmarks.suites import Suite, matches, merged
from benchmarks.tables import Found, tables
from PIL import Image
from torch import nn

from isthmus import FreeForm, FreeFormFlow, InputError
from isthmus.autodiff import jacobian
from isthmus.data import DATASETS
from isthmus.networks import mlp_pair
from isthmus.volume import encoder_surrogate, orthonormal_probes

SUITES = {"toy_pathology", "hutchinson_variance", "gradient_quality", "singular_values", "part_probed", "earth"}
SUITES |= {"stretch_cost", "inference", "coverage"}
RUNS = {"earth": 4}  # each of its laws has figures of its own


class Circle(nn.Module):
    """The unit circle times a radius."""

    def __init__(self, radius):
        super().__init__()
        self.radius = radius

    def forward(self, z):
        return self.radius * torch.cat([z.cos(), z.sin()], 1)


def small_flow(data_dim=6, latent_dim=3):
    return FreeFormFlow(*mlp_pair(data_dim, latent_dim, width=8), data_dim=data_dim, latent_dim=latent_dim)


def straight(a, b):
    """f(x) = a x_1, g(z) = (b z, 0)."""
    encoder, decoder = nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False)
    encoder.weight.data = torch.tensor([[a, 0.0]])
    decoder.weight.data = torch.tensor([[b], [0.0]])
    return FreeFormFlow(encoder, decoder, data_dim=2, latent_dim=1)


# -- setting -----------------------------------------------------------------------------------------------------------


def test_rows_are_standardised_by_the_training_rows_and_constant_columns_left_out(monkeypatch):
    data = DATASETS["sine"](n_train=500, n_test=50)
    wide = {name: torch.cat([getattr(data, name), torch.ones(len(getattr(data, name)), 1)], 1) for name in SPLITS}
    monkeypatch.setitem(DATASETS, "sine", lambda **_: dataclasses.replace(data, **wide))
    splits = setting.load({"data": {"name": "sine"}})
    assert splits.data_dim == 2
    torch.testing.assert_close(splits.train.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(splits.train.std(0), torch.ones(2))
    torch.testing.assert_close(splits.test * data.train.std(0) + data.train.mean(0), data.test)
    assert torch.equal(setting.load({"data": {"name": "sine", "standardise": False}}).test, wide["test"])


SPLITS = ("train", "validation", "test")


def test_descent_stops_where_it_is_asked_to_and_goes_on_as_if_it_had_not():
    x, found = torch.randn(200, 6), []
    for at in (None, [0, 3, 5]):
        torch.manual_seed(1)
        flow = small_flow()
        before = flow.encode(x).detach()
        loop = setting.descend(flow, FreeForm(beta=5.0), x, steps=5, batch_size=20, learning_rate=1e-2, at=at)
        stops = {step: flow.encode(x).detach() for step in loop}
        assert list(stops) == (at or [5])
        found.append(stops[5])
    assert torch.equal(stops[0], before)
    assert not torch.equal(stops[3], before)
    assert torch.equal(*found)


# -- pathology ---------------------------------------------------------------------------------------------------------


def test_a_circle_turns_by_its_angle_and_has_its_length():
    flow = FreeFormFlow(nn.Identity(), Circle(3.0), data_dim=2, latent_dim=1)
    turning, length = strip.turning_and_length(flow)
    assert turning == pytest.approx(5.0, rel=1e-3)  # but for one of 2,000 chords
    assert length == pytest.approx(15.0, rel=1e-6)
    assert strip.turning_and_length(straight(1.0, 2.0).double()) == pytest.approx((0.0, 10.0), abs=1e-6)


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ((0.09, 0.2, 5.0), "healthy"),
        ((0.09, 3.0, 5.0), "diverged"),
        ((0.3, 0.2, 4.0), "diverged"),
        ((math.nan, math.nan, math.nan), "diverged"),
        ((1.09, 3.0, 0.01), "collapsed"),
    ],
)
def test_regimes(numbers, found):
    assert strip.regime(*numbers, 0.09) == found


@pytest.mark.parametrize("beta", [3.0, 5.0, 10.0])
def test_the_exact_decoder_has_a_local_minimum_at_the_closed_form_and_sinks_below_it(beta):
    objective = strip.FAILING["exact_decoder"](beta)
    x = torch.randn(100_000, 2) * torch.tensor([1.0, 0.3])
    x = x / x.square().mean(0).sqrt() * torch.tensor([1.0, 0.3])  # the variances exactly
    b = (1 + math.sqrt(1 - 2 / beta)) / 2

    def value(a, b):
        return objective(straight(a, b), x).total.mean().item()

    best = value(1.0, b)
    expected = beta * ((1 - b) ** 2 + 0.09) + 0.5 * math.log(math.tau) + 0.5 + math.log(b)
    assert best == pytest.approx(expected, rel=1e-4)
    assert all(value(1.0 + da, b + db) > best for da, db in ((0.05, 0), (-0.05, 0), (0, 0.03), (0, -0.03)))
    assert value(0.0, 1e-9) < best


def test_objectives_of_the_experiment_agree_with_the_library_where_both_exist():
    flow, x = small_flow(2, 1), torch.randn(9, 2)  # with d = 1 a probe is 1 or -1, and its sign has no effect
    ours = strip.ByVolume(4.0, volume=encoder_surrogate)(flow, x).total
    torch.testing.assert_close(ours, FreeForm(beta=4.0, surrogate="encoder")(flow, x).total)


# -- the trace ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("probes", "K"), [("orthonormal", 1), ("orthonormal", 3), ("gaussian", 1), ("gaussian", 4)])
def test_the_variance_of_trace_estimates_is_the_closed_form(probes, K):
    A = torch.randn(1, 5, 5, dtype=torch.float64)
    estimates = trace.trace_estimates(A.expand(40_000, 5, 5), probes, K)
    expected = trace.closed_form(A, probes, K)
    assert float(estimates.var() / expected) == pytest.approx(1.0, abs=0.05)
    assert float(estimates.mean() - A[0].trace()) == pytest.approx(0.0, abs=5 * float(expected / 40_000) ** 0.5)


def test_as_many_orthonormal_probes_as_dimensions_give_the_trace_and_no_variance():
    A = torch.randn(7, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(trace.trace_estimates(A, "orthonormal", 4), torch.einsum("bii->b", A))
    assert trace.closed_form(A, "orthonormal", 4).abs().max() < 1e-12
    assert trace.closed_form(torch.eye(4).unsqueeze(0), "orthonormal", 1).abs().max() < 1e-6


def test_trace_estimates_are_what_the_surrogate_computes(monkeypatch):
    flow, x = small_flow().double(), torch.randn(5, 6, dtype=torch.float64)
    z, F = jacobian(flow.encode, x)
    v = orthonormal_probes(z, 2)
    monkeypatch.setitem(trace.PROBES, "given", lambda z, K: v)
    estimates = trace.trace_estimates(F @ jacobian(flow.decode, z)[1], "given", 2)
    torch.testing.assert_close(estimates, -encoder_surrogate(*flow.maps(), x, probes=v).surrogate)


def test_the_gradient_of_the_whole_trace_is_that_of_the_jacobians():
    flow, x = small_flow().double(), torch.randn(5, 6, dtype=torch.float64)
    z, F = jacobian(flow.encode, x)
    J = jacobian(flow.decode, z)[1].detach()
    # the last bias moves no Jacobian
    value = -torch.einsum("bij,bji->b", F, J).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(value, list(flow.encoder.parameters())[:-1])])
    found = trace.gradient(flow, x, orthonormal_probes(z.detach(), 3))
    torch.testing.assert_close(found, expected)


# -- gradients and spectra ---------------------------------------------------------------------------------------------


def test_the_surrogate_of_an_encoder_that_is_the_pseudo_inverse_has_the_exact_gradient_of_the_encoder():
    decoder, encoder = nn.Linear(2, 5, bias=False).double(), nn.Linear(5, 2, bias=False).double()
    encoder.weight.data = torch.linalg.pinv(decoder.weight.data)
    flow = FreeFormFlow(encoder, decoder, data_dim=5, latent_dim=2)
    found = dict(cosines(flow, torch.randn(128, 5, dtype=torch.float64), "encoder", 2))
    assert found["encoder"] == pytest.approx(1.0)


def test_gradients_of_more_dimensions_than_are_traced_whole_are_refused():
    with pytest.raises(InputError, match="at most 8 latent dimensions; got 9"):
        list(EXPERIMENTS["gradient_quality"]({"latent_dim": 9}, 0))


def test_the_surrogate_comes_to_point_where_the_likelihood_does():
    suite = Suite.read("gradient_quality")
    run = next(run for run in suite.runs() if run.cell == {"set": "sine", "surrogate": "encoder"})
    spec = run.spec | {"loop": run.spec["loop"] | {"steps": 500, "at": [0, 500]}}
    first, last = (row.values for row in EXPERIMENTS["gradient_quality"](spec, 0))
    assert first["defect"] > 0.9 > 0.2 > last["defect"]
    assert first["gap"] > 0.9 > last["gap"]
    assert abs(first["trace"]) < 0.1
    assert last["trace"] == pytest.approx(1.0, abs=0.1)
    assert last["encoder"] > 0.8
    assert last["reconstruction"] < 0.1 * first["reconstruction"]


def test_principal_components_have_the_singular_values_of_the_data():
    recipe = {
        "flow": {"latent_dim": 2, "network": {"kind": "linear"}},
        "objective": {"kind": "reconstruction"},
        "training": {"max_steps": 0},
        "refit": {"latent": "as trained", "noise": "isotropic"},
        "columns": {"standardise": False, "heavy_tails": False},
    }
    data = {"name": "gaussian", "variances": (4.0, 1.0, 0.01), "n_train": 20_000}
    total, *places = EXPERIMENTS["singular_values"]({"data": data, "recipe": recipe, "draws": 16}, 0)
    assert [row.extra for row in places] == [{"place": 1}, {"place": 2}]
    assert [row.values["mean"] for row in places] == pytest.approx([2.0, 1.0], rel=0.03)
    assert [row.values["sd"] for row in places] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert total.values["noise"] == pytest.approx(0.1, rel=0.03)
    assert total.values["above_noise"] == 2
    p = np.array([0.8, 0.2])
    assert total.values["effective_dim"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=0.02)


def test_the_effective_dimension_of_equal_values_is_their_number():
    assert effective_dimension(torch.full((3, 4), 2.5)) == pytest.approx(4.0)
    assert effective_dimension(torch.tensor([[3.0, 0.0]])) == pytest.approx(1.0)


# -- suites and figures ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The first quick runs of each suite of the experiments, as the runner writes them down."""
    folder = tmp_path_factory.mktemp("results")
    for name in SUITES:
        suite = Suite.read(name)
        lines = []
        for run in itertools.islice(suite.runs(quick=True), RUNS.get(name, 1)):
            rows = EXPERIMENTS[suite.record["measure"]](run.spec, run.seed)
            line = {"cell": run.cell, "seed": run.seed, "given": fingerprint(run), "seconds": 1.0}
            line["rows"] = [{"labels": {**run.cell, **extra}, "values": values} for extra, values in rows]
            lines.append(json.dumps(line, allow_nan=False) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("name", sorted(SUITES))
def test_a_suite_measures_what_its_tables_show(name, results):
    found = Found(Suite.read(name), results / f"{name}.jsonl")
    for described in Suite.read(name).record["tables"]:
        shown = described.get("values") or [described["value"]]
        axes = {*described["rows"], *([described["columns"]] if "columns" in described else [])}
        rows = [values for labels, _, values in found.rows if axes <= set(labels)]
        assert all(any(values.get(value) is not None for values in rows) for value in shown), described["title"]
    assert all(len(table) > 1 for _, table in tables(found, Suite.read(name).record["tables"]))


@pytest.mark.parametrize("name", sorted(SUITES))
def test_published_values_are_of_cells_that_are_run(name):
    suite = Suite.read(name)
    cells = [run.cell for run in suite.runs()]
    for published in suite.record.get("published", []):
        assert sum(matches(cell, published["where"]) for cell in cells) == len(suite.record["seeds"])


def test_a_run_is_the_same_again_and_leaves_the_random_state_alone():
    run = next(Suite.read("hutchinson_variance").runs(quick=True))
    state = torch.get_rng_state()
    first = list(EXPERIMENTS["hutchinson_variance"](run.spec, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == list(EXPERIMENTS["hutchinson_variance"](run.spec, 3))


def test_probes_alone_make_no_error_where_the_trace_is_whole():
    run = next(Suite.read("hutchinson_variance").runs(quick=True))
    spec = run.spec | {"gradient": {"batches": [16], "K": [1, 2, 8], "repeats": 8, "rows": 256}}
    rows = [row for row in EXPERIMENTS["hutchinson_variance"](spec, 0) if "probe_error" in row.values]
    error = {(row.extra["probes"], row.extra["K"]): row.values["probe_error"] for row in rows}
    assert error["orthonormal", 8] < 1e-9 < error["gaussian", 8]
    assert error["orthonormal", 1] > error["orthonormal", 2] > 0.1
    assert all(row.values["total_error"] > 0.1 for row in rows)


def test_equal_quality_is_reached_where_the_scores_cross_it():
    full, part = [(0.0, -9.0), (4.0, -5.0), (8.0, -3.0)], [(0.0, -9.0), (2.0, -6.0), (4.0, -6.5), (6.0, -4.0)]
    rows = {row.extra["probed"]: row.values for row in compared({1.0: full, 0.5: part}, steps=2)}
    assert rows[1.0]["seconds_to_equal"] == 6.0  # -4, the best of the worse one
    assert rows[0.5] == {"ambient_ll": -4.0, "ms_per_step": 3e3, "seconds_to_equal": 6.0, "time_over_full": 1.0}
    assert reached(part, -7.5) == 1.0
    assert reached(part, -20.0) == 0.0
    with pytest.raises(ValueError, match="expected a level that is reached"):
        reached(full, 0.0)


def test_mixtures_on_the_sphere_are_normalised_and_find_their_components():
    height, weight = (torch.as_tensor(t) for t in np.polynomial.legendre.leggauss(60))
    angle = torch.arange(120).double() * math.pi / 60
    h, a = torch.cartesian_prod(height, angle).unbind(1)
    x = torch.stack([(1 - h**2).sqrt() * a.cos(), (1 - h**2).sqrt() * a.sin(), h], 1)
    area = weight.repeat_interleave(120) * math.pi / 60
    means = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0], [0, -1, 1]]).double(), dim=1)
    truth = earth.Mixture(torch.tensor([0.25, 0.75]).double().log(), means, torch.tensor([40.0, 5.0]).double())
    assert float((truth.log_prob(x).exp() * area).sum()) == pytest.approx(1, abs=1e-9)
    torch.manual_seed(0)
    rows = x[torch.multinomial(truth.log_prob(x).exp() * area, 20_000, replacement=True)]
    found = earth.fit_mixture(rows, 2, 1e4)
    order = found.concentrations.argsort(descending=True)
    torch.testing.assert_close(found.concentrations[order], truth.concentrations, rtol=0.1, atol=0)
    torch.testing.assert_close(found.means[order], truth.means, rtol=0, atol=0.03)
    torch.testing.assert_close(found.log_weights[order].exp(), truth.log_weights.exp(), rtol=0, atol=0.03)


@pytest.mark.parametrize("law", ["mixture", "kernel", "manifold", "hypersurface"])
def test_laws_of_places_are_scored_near_the_truth(law):
    (run,) = (run for run in Suite.read("earth").runs(quick=True) if run.cell["law"] == law)
    longer = {
        "manifold": {"recipe": {"training": {"max_steps": 150}, "flow": {"network": {"width": 32}}}},
        "hypersurface": {"recipe": {"training": {"max_steps": 100}, "flow": {"transforms": 2, "width": 16}}},
    }
    spec = merged(run.spec, longer.get(law, {}), {"data": {"n_train": 1000, "n_test": 500}})
    ((_, values),) = EXPERIMENTS["places"](spec, 0)
    truth = float(
        DATASETS["sphere"](noise=0.0, n_test=500).manifold_log_prob(DATASETS["sphere"](noise=0.0).test).mean()
    )
    assert values["log_density"] == pytest.approx(truth, abs=0.2)
    if law == "manifold":
        assert (values["recovered"], values["without_code"]) == (1.0, 0.0)


def test_figures_are_images_that_fit_a_page_and_say_what_they_show(results):
    drawn = dict(pictures(list(FIGURES), results))
    assert set(drawn) == set(FIGURES) - {"toy_transition", "speed_curves"}  # of other benchmarks
    for picture in drawn.values():
        image = Image.open(io.BytesIO(picture.png()))
        assert image.width <= 700
        assert 0.002 < (np.asarray(image.convert("L")) < 200).mean() < 0.9
        assert any(character.isdigit() for character in picture.alt)
        assert "nan" not in picture.alt


def test_grids_of_samples_are_joined_where_all_are_there(tmp_path):
    first, second = GRIDS["images_conditional"]
    Image.fromarray(np.full((90, 60), 50, np.uint8)).save(tmp_path / f"{first}.png")
    assert not list(joined(list(GRIDS), tmp_path))
    Image.fromarray(np.full((90, 60), 150, np.uint8)).save(tmp_path / f"{second}.png")
    ((name, image),) = joined(list(GRIDS), tmp_path)
    assert name == "images_conditional"
    left, right = image[:, : image.shape[1] // 2], image[:, image.shape[1] // 2 :]
    assert [sorted(set(half.flatten().tolist())) for half in (left, right)] == [[50, 255], [150, 255]]


def test_the_transition_is_drawn_with_the_published_points(tmp_path):
    suite = Suite.read("toy_transition")
    lines = []
    for run in suite.runs():
        beta, noise = float(run.cell["beta"]), float(run.cell["noise"])
        values = {"reconstruction": noise**2 + 1 / (1 + beta**2), "manifold_nll": 2 - 1 / beta, "noise": "isotropic"}
        line = {"cell": run.cell, "seed": run.seed, "given": fingerprint(run), "seconds": 1.0}
        lines.append(json.dumps(line | {"rows": [{"labels": run.cell, "values": values}]}) + "\n")
    (tmp_path / "toy_transition.jsonl").write_text("".join(lines))
    ((_, picture),) = pictures(["toy_transition"], tmp_path)
    assert "noise 0.1: 1.01 at beta 0.01, 0.0101 at beta 100" in picture.alt
    top = picture.figure.axes[0]
    lowest = min(float(line.get_ydata()[-1]) for line in top.get_lines() if len(line.get_ydata()) == 5)
    assert lowest == pytest.approx(0.0089)  # published at beta 100, noise 0.1
