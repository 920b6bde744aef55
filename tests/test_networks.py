"""The encoder-decoder pairs of the catalogue."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from cases import jacobians, row_maps
from isthmus.errors import InputError
from isthmus.flows import FreeFormFlow
from isthmus.networks import NETWORKS, convolutional_pair, mlp_pair, skip_pair, start_at_principal_components

OPTIONS = {"convolutional": {"shape": (2, 4, 4), "channels": 6}}


@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_second_derivatives(name, context_dim):
    if name == "convolutional" and context_dim:
        pytest.skip("images take no context")
    pair = NETWORKS[name](32, 3, context_dim, **OPTIONS.get(name, {}))
    c = torch.randn(4, context_dim) if context_dim else None
    encode, decode = ((lambda t, net=net: net(t) if c is None else net(t, c)) for net in pair)
    x = torch.randn(4, 32)
    z = encode(x)
    assert z.shape == (4, 3)
    assert decode(z).shape == (4, 32)
    for net, f, point in zip(pair, row_maps(pair, c), (x, z.detach()), strict=True):
        jacobians(f, point.requires_grad_()).square().sum().backward()
        if name == "linear":
            assert point.grad is None  # f' is the same everywhere
            continue
        assert float(point.grad.abs().max()) > 0  # f' depends on the point: nothing is linear
        assert all(
            p.grad is not None and p.grad.isfinite().all() for name, p in net.named_parameters() if "weight" in name
        )


def test_convolutions_refuse_what_does_not_fit():
    for arguments, options, problem in (
        ((30, 2), {"shape": (2, 4, 4)}, "shape of 30 pixels"),
        ((30, 2), {"shape": (1, 6, 5)}, "divisible by 4"),
        ((32, 2, 1), {"shape": (2, 4, 4)}, "expected no context; got 1"),
    ):
        with pytest.raises(InputError, match=problem):
            convolutional_pair(*arguments, **options)


@pytest.mark.parametrize(
    ("layer", "warns"),
    [
        (nn.ReLU(), "ReLU has no second derivative"),
        (nn.LeakyReLU(), "LeakyReLU has no second derivative"),
        (nn.BatchNorm1d(4), "BatchNorm1d in training mode makes rows depend on one another"),
        (nn.BatchNorm1d(4).eval(), None),
        (nn.LayerNorm(4), None),
        (nn.SiLU(), None),
    ],
)
def test_layers_that_spoil_the_change_of_volume_are_warned_of(layer, warns, recwarn):
    FreeFormFlow(nn.Sequential(nn.Linear(4, 4), nn.Sequential(layer), nn.Linear(4, 2)), nn.Linear(2, 4), 4, 2)
    assert [str(w.message).startswith(warns) for w in recwarn] == ([True] if warns else [])


# -------------------------------------------------------------------------------------------- a linear beginning


def linear_parts(pair):
    for net in pair:
        nn.init.zeros_(net.layers[0].network[-1].weight)
    return pair


@pytest.mark.parametrize("context_dim", [0, 2])
def test_skip_pairs_start_at_the_whitened_principal_components(context_dim):
    x = torch.randn(50, 5).double() @ torch.randn(5, 5).double() + torch.randn(5).double()
    c = torch.randn(50, context_dim).double() if context_dim else None
    pair = linear_parts([net.double() for net in skip_pair(5, 2, context_dim, width=8)])
    assert start_at_principal_components(*pair, x)
    z = pair[0](x) if c is None else pair[0](x, c)
    x_hat = pair[1](z) if c is None else pair[1](z, c)
    pca = PCA(2).fit(x.numpy())
    np.testing.assert_allclose(x_hat.detach().numpy(), pca.inverse_transform(pca.transform(x.numpy())), atol=1e-10)
    torch.testing.assert_close(z.T.cov(correction=0), torch.eye(2).double(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("rows", "rank"), [(2, 2), (1, 1), (20, 1)])
def test_a_linear_beginning_needs_neither_many_rows_nor_full_rank(rows, rank):
    x = torch.randn(rows, rank) @ torch.randn(rank, 5)
    pair = linear_parts(skip_pair(5, 3, width=8))
    start_at_principal_components(*pair, x)
    with torch.no_grad():
        z = pair[0](x)
        assert float(z.abs().max()) < 50
        torch.testing.assert_close(pair[1](z), x, rtol=1e-3, atol=1e-4)


def test_other_networks_are_left_as_they_are():
    pair = mlp_pair(5, 2, width=8)
    before = [p.clone() for net in pair for p in net.parameters()]
    assert not start_at_principal_components(*pair, torch.randn(9, 5))
    assert not start_at_principal_components(nn.Linear(5, 2), nn.Linear(2, 5), torch.randn(9, 5))
    assert all(torch.equal(a, b) for a, b in zip(before, (p for net in pair for p in net.parameters()), strict=True))
