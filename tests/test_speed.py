"""The benchmark of speed: what is compared computes the same thing, what is counted is known, and misses are shown."""

import json
import sys

import pytest
import torch
from benchmarks.figures import pictures
from benchmarks.speed import fits as whole
from benchmarks.speed import machine, steps
from benchmarks.speed.__main__ import main
from benchmarks.speed.cases import CASES, Case, Setting, Tokens
from benchmarks.speed.curves import QUANTITIES, curves, exponent
from benchmarks.speed.densities import measure_densities
from benchmarks.speed.page import block, plain
from benchmarks.speed.record import measure
from torch import nn

from cases import gradients, randn
from isthmus.data import Dataset
from isthmus.networks import mlp_pair

TINY = Case(lambda: mlp_pair(6, 3, width=8), 6, 3, 32, probed=0.5, targets={"ours_over_autoencoder": 1e-3})
COMPARED = ["ours_over_autoencoder", "default_over_autoencoder", "part_probed_over_autoencoder"]

RESEARCH = """
import torch
from torch.autograd import grad
def fff_loss(x, encode, decode, latent_distribution, beta, hutchinson_samples=1):
    x.requires_grad_()
    z = encode(x)
    v = torch.linalg.qr(torch.randn(*z.shape, 1, dtype=z.dtype)).Q[..., 0] * z.shape[1] ** 0.5
    x_hat, u = torch.func.jvp(decode, (z,), (v,))
    (w,) = grad(z, x, v, create_graph=True)
    nll = -latent_distribution.log_prob(z).sum(1) - (w * u.detach()).sum(1)
    return beta * (x - x_hat).square().sum(1) + nll
"""


@pytest.fixture
def tiny(monkeypatch):
    """A case of a moment; nothing compiles, since functions whose types are checked do not."""
    monkeypatch.setitem(CASES, "tiny", TINY)
    monkeypatch.setattr(Setting, "compiled", lambda self, function: function)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder laid out as the publication's code, its loss written from the equations."""
    (tmp_path / "fff").mkdir()
    (tmp_path / "fff" / "__init__.py").touch()
    (tmp_path / "fff" / "loss.py").write_text(RESEARCH)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("fff", "fff.loss"):
        sys.modules.pop(name, None)


def test_all_forms_of_the_loss_have_the_same_gradient(checkout):
    encoder, decoder = (net.double() for net in TINY.pair())
    parameters = [*encoder.parameters(), *decoder.parameters()]
    x, found = randn(7, 6), {}
    for name, (build, _) in steps.variants(TINY, Setting(), checkout).items():
        torch.manual_seed(3)
        found[name] = gradients(build(encoder, decoder)(x), parameters)
    for name in ("ours, eager", "reference", "research code"):
        torch.testing.assert_close(found[name], found["ours"], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(found["autoencoder, eager"], found["ours"])


def test_a_record_holds_medians_within_their_ranges_and_says_what_was_missed(tiny, checkout, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.speed.__main__.import_seconds", lambda: {"isthmus": 2.0, "torch": 1.5})
    main(["--case", "tiny", "--rounds", "3", "--steps", "2", "--no-processes", "--json", "--reference", str(checkout)])
    (record,) = json.loads(capsys.readouterr().out)
    ratios = [*COMPARED, "reference_over_ours", "research_code_over_ours", "log_likelihood_over_vmap"]
    assert all(record["ranges"][name][0] <= record[name] <= record["ranges"][name][1] for name in ratios)
    assert (record["case"], record["surrogate"]) == ("tiny", "encoder")
    assert {"K=2", "default, part probed", "ours, eager"} <= set(record["over_autoencoder"])
    assert record["log_likelihood"]["largest_error"] < 1e-3
    assert min(record["log_likelihood"]["rows_per_second"], record["samples_per_second"]) > 0
    assert "≤ 0.001" in plain(record)
    page = block([record | {"ours_over_autoencoder": 77.0}, record])  # the last line of a case counts
    assert "≤ 0.001: missed**" in page
    assert "Missed: tiny: ours / autoencoder." in page
    assert "77.0" not in page
    reached = record | {"targets": {"ours_over_autoencoder": 1e3, "reference_over_ours": 1e-3}}
    assert "Every ratio asked for is reached." in block([reached])


def test_half_precision_is_measured_without_what_knows_no_autocast(tiny):
    record = measure("tiny", Setting(precision="bf16"), rounds=1, steps=1, processes=False)
    assert "reference_over_ours" not in record
    assert all(record[name] > 0 for name in COMPARED)
    seen = []
    with Setting(precision="bf16").autocast():
        seen.append(nn.Linear(2, 2)(torch.zeros(1, 2)).dtype)
    assert seen == [torch.bfloat16]


def test_densities_of_networks_with_attention_are_measured_both_ways():
    case = Case(lambda: (Tokens(4, 2), Tokens(2, 4)), 4, 2, batch=8)
    found = measure_densities(case, Setting(), rounds=1)["log_likelihood"]
    assert max(found["largest_error"], found["largest_error_of_vmap"]) < 1e-4


def test_memory_is_what_is_alive_at_once():
    def call():
        x = torch.zeros(1000, 1000)
        y = x + 1
        del x
        return y.sum() + torch.zeros(500, 1000).sum()

    assert steps.peak_of(call, Setting()) == pytest.approx(8e6, rel=1e-3)
    first, *again = steps.peak_bytes(TINY, Setting(), steps.variants(TINY, Setting())["ours, eager"])
    assert again == [first, first]


def test_growth_is_measured_fitted_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.speed.curves._SECONDS", 0.0)
    assert exponent([1, 2, 4, 8], [9, 3 * 2**1.5, 3 * 4**1.5, 3 * 8**1.5]) == pytest.approx(1.5)
    axes = {"d": (8, 16, 32), "D": (80, 160, 320), "K": (1, 2, 4)}
    found = [record | {"machine": machine()} for record in curves(Setting(), axes)]
    assert [(record["axis"], record["value"]) for record in found] == [(a, v) for a in axes for v in axes[a]]
    assert set(found[0]["costs"]) == set(QUANTITIES)
    assert exponent(axes["d"], [r["costs"]["exact"]["bytes"] for r in found[:3]]) == pytest.approx(1, abs=0.3)
    assert "| exact |" in block(found)
    assert all("seconds" not in plain(record) and " MB" in plain(record) for record in found)
    (tmp_path / "speed_curves.jsonl").write_text("".join(json.dumps(record) + "\n" for record in found))
    ((_, picture),) = pictures(["speed_curves"], tmp_path)
    assert "exact in d" in picture.alt


def test_whole_fits_train_alike(monkeypatch):
    codes = randn(3000, 3)
    rows = torch.cat([codes, codes.sin()], 1) + 0.05 * randn(3000, 6)
    data = Dataset("bent", rows[:2000], rows[2000:2500], rows[2500:])
    monkeypatch.setattr(whole, "residual_pair", lambda D, d: mlp_pair(D, d, width=32))
    monkeypatch.setattr(whole, "_RATE", 5e-3)
    record = whole.fits(60, data)
    assert min(record[f"plain_loop_over_{name}"] for name in ("ours", "default", "short")) > 0
    assert [record[name]["steps"] for name in ("default", "short", "plain_loop")] == [60, 12, 60]
    for name in ("ours", "default", "short", "plain_loop"):
        assert record[name]["reconstruction"] < rows.square().sum(1).mean()
        assert record[name]["fid_like"] > 0
    assert "| plain loop | 60 |" in block([record | {"machine": machine()}])


def test_a_device_that_is_not_there_is_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        main(["--device", "cuda"])
    assert "expected a CUDA device" in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_graphics_card_is_given_compiles_here_too(fresh_python):
    found = fresh_python("""
import json
from benchmarks.speed.cases import CASES, Case, Setting
from benchmarks.speed.record import measure
from isthmus.networks import mlp_pair
CASES["tiny"] = Case(lambda: mlp_pair(3, 1, width=8), 3, 1, 32, probed=1.0)
print(json.dumps(measure("tiny", Setting("cpu", "bf16", "reduce-overhead"), rounds=1, steps=1, processes=False)))
""")
    assert found["setting"] == {"device": "cpu", "precision": "bf16", "mode": "reduce-overhead"}
    assert found["ours_over_autoencoder"] > 0


@pytest.mark.soak
def test_memory_and_compilation_are_measured_in_processes_of_their_own(fresh_python):
    record = fresh_python("""
import json
from benchmarks.speed.record import measure
print(json.dumps(measure("toy 2->1 B128", rounds=1, steps=1)))
""")
    assert 1 < record["memory_over_autoencoder"] < 4
    assert all(seconds > 0 for seconds in record["compile_seconds"].values())
