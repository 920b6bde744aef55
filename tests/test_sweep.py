"""The latent dimension by itself: a start from distances, and a sweep that held-out rows decide."""

import pytest
import torch

from cases import randn
from isthmus.flows import FreeFormFlow
from isthmus.networks import skip_pair, start_at_principal_components
from isthmus.recipe import Recipe
from isthmus.rows import Rows
from isthmus.sweep import sweep_latent_dim
from isthmus.training import Split


def standardised(x):
    return ((x - x.mean(0)) / x.std(0)).double()


def builder(x):
    def build(d):
        torch.manual_seed(0)
        flow = FreeFormFlow(*skip_pair(x.shape[1], d, width=32), x.shape[1], d)
        start_at_principal_components(flow.encoder, flow.decoder, x.float())
        return flow

    return build


def swept(x, steps=160):
    rows, held_out = Rows(x[: len(x) * 4 // 5]), Rows(x[len(x) * 4 // 5 :])
    recipe = Recipe().update(training={"max_steps": steps})
    return sweep_latent_dim(builder(rows.x), recipe, Split(rows, held_out, rows))


@pytest.mark.parametrize("d", [1, 3])
def test_a_flat_manifold_gets_its_own_dimension(d):
    torch.manual_seed(d)
    spread = torch.linspace(1, 2, d).double()
    x = (spread * randn(1_200, d)) @ torch.linalg.qr(randn(8, d)).Q.mT + 0.05 * randn(1_200, 8)
    sweep = swept(x)
    assert sweep.chosen == d
    tried = {record["latent_dim"]: record for record in sweep.curve}
    assert list(tried) == sorted(tried)
    for record in tried.values():
        gain = record["log_likelihood"] - tried[d]["log_likelihood"]
        assert gain <= 2 * record["standard_error"]


def test_exact_constraints_between_columns_are_no_dimensions():
    torch.manual_seed(0)
    x = randn(600, 3)
    x = standardised(torch.cat([x, x[:, :1] - x[:, 1:2], x[:, 1:2] + x[:, 2:]], 1))
    assert max(record["latent_dim"] for record in swept(x, steps=40).curve) <= 3


def test_at_least_one_direction_is_left_to_the_noise():
    torch.manual_seed(0)
    assert swept(randn(400, 2), steps=40).chosen == 1
