"""The change of volume by stochastic Lanczos quadrature against the exact one."""

import pytest
import torch
from benchmarks.speed.stochastic import stochastic

from cases import PAIRS, maps
from isthmus.networks import mlp_pair
from isthmus.volume import exact


@pytest.mark.parametrize("case", PAIRS.values(), ids=PAIRS)
def test_stochastic_volume_is_exact_with_all_probes_and_iterations_and_unbiased_with_fewer(case):
    modules, (x, c) = case.modules(), case.data()
    f, g = maps(modules, c)
    value = exact(f, g, x).log_volume
    for whole in (0, 1, 3) if c is None else (0, len(x)):
        found = stochastic(f, g, x, K=case.d, iterations=case.d, whole=whole).log_volume
        torch.testing.assert_close(found, value, rtol=0, atol=1e-8)
    f, g = maps(modules, None if c is None else c.repeat(200, 1))
    estimates = stochastic(f, g, x.repeat(200, 1), K=2, iterations=case.d).log_volume.reshape(200, 4)
    assert ((estimates.mean(0) - value).abs() < 5 * estimates.std(0) / 200**0.5 + 1e-8).all()


def test_stochastic_volume_says_how_wrong_it_is():
    f, g = maps(mlp_pair(40, 32, width=64))
    x = torch.randn(50, 40)
    found = stochastic(f, g, x, K=8, iterations=20)
    z_scores = (found.log_volume - exact(f, g, x).log_volume) / found.standard_error
    assert 0.5 < z_scores.square().mean().sqrt() < 2
    assert stochastic(f, g, x, K=1).standard_error.isinf().all()


def test_stochastic_volume_of_many_dimensions_is_near_the_exact_one_with_few_products():
    f, g = maps(mlp_pair(300, 256, width=256))
    x = torch.randn(24, 300)
    value, found = exact(f, g, x).log_volume, stochastic(f, g, x, K=2, iterations=8, whole=2).log_volume
    assert ((found - value).abs() / value.abs()).mean() < 0.02


def test_whole_jacobians_of_some_rows_make_the_estimate_of_all_better():
    """Directions of very different length, which a few Lanczos steps cannot tell apart, but all rows share."""
    A = torch.randn(48, 60) * torch.logspace(-2, 1, 48).unsqueeze(1)
    f, g = (lambda x: x[:, :48]), (lambda z: (z + 0.3 * z.sin()) @ A)
    x = torch.randn(40, 60)
    value = exact(f, g, x).log_volume
    errors = [(stochastic(f, g, x, K=2, iterations=8, whole=n).log_volume - value).abs().mean() for n in (0, 1, 8)]
    assert errors[2] < 0.1 * errors[0]
    assert errors[1] < 0.5 * errors[0]


def test_whole_jacobians_without_full_rank_do_no_harm():
    f, g = (lambda x: x[:, :3]), (lambda z: torch.cat([z[:, :1] * z[:, 1:2], z, z], 1))
    x = torch.randn(5, 7, dtype=torch.float64)
    flat = lambda z: g(z) * (z[:, :1] > 0)  # noqa: E731
    x[0, 0], x[1:, 0] = -1.0, x[1:, 0].abs()
    found = stochastic(f, flat, x, K=3, iterations=3, whole=1).log_volume[1:]
    torch.testing.assert_close(found, exact(f, flat, x).log_volume[1:], rtol=0, atol=1e-6)
