"""The encoder-decoder pairs of the catalogue."""

import copy
import math
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from cases import jacobians, row_maps
from isthmus.density import Ambient, IsotropicNoise
from isthmus.errors import InputError
from isthmus.flow import in_double
from isthmus.flows import FreeFormFlow
from isthmus.networks import (
    NETWORKS,
    convolutional_pair,
    mlp_pair,
    residual_convolutional_pair,
    skip_pair,
    start_at_principal_components,
    transformers,
)
from isthmus.networks.chains import Conditioning
from isthmus.networks.transformers import Patches

SHAPE = (2, 4, 4)
IMAGE = {
    "convolutional": {"channels": 6},
    "residual_convolutional": {"channels": 6},
    "transformer": {"channels": 8, "depth": 1},
}
SMALL = {name: {"shape": SHAPE, "blocks": 1, "width": 8, **options} for name, options in IMAGE.items()}


@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_second_derivatives(name, context_dim):
    pair = NETWORKS[name](32, 3, context_dim, **SMALL.get(name, {}))
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


# ---------------------------------------------------------------------------------------------------- images


def numbers(pair, *, without=()):
    """How many parameters a pair has, those of some kinds of layers left out."""
    layers = [layer for net in pair for layer in net.modules() if not isinstance(layer, without)]
    return sum(p.numel() for layer in layers for p in layer.parameters(recurse=False))


def test_the_networks_of_the_publications_have_their_numbers_of_parameters():
    digits = convolutional_pair(784, 16, shape=(1, 28, 28))
    assert numbers(digits, without=nn.GroupNorm) == 3_368_817
    faces = {"shape": (3, 64, 64), "channels": 128, "kernel": 5, "smooth": True, "width": 256}
    assert numbers(convolutional_pair(12288, 64, **faces)) == 34_336_963  # a BatchNorm has as many as a GroupNorm
    pythae = residual_convolutional_pair(12288, 64, shape=(3, 64, 64), blocks=0)
    assert numbers(pythae, without=nn.GroupNorm) == 1_623_491


@pytest.mark.parametrize("conditioning", get_args(Conditioning))
@pytest.mark.parametrize("name", IMAGE)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 7, 5), (3, 28, 20), (1, 2, 2), (1, 9, 33)])
def test_any_height_and_width_and_every_way_to_tell_a_context(name, shape, conditioning):
    D, options = math.prod(shape), {**IMAGE[name], "shape": shape, "blocks": 1, "width": 8}
    for context_dim in (0, 3):
        encoder, decoder = NETWORKS[name](D, 2, context_dim, conditioning=conditioning, **options)
        x = torch.randn(2, D)
        if not context_dim:
            assert decoder(encoder(x)).shape == x.shape
            continue
        outputs = [(z := encoder(x, c), decoder(z.detach(), c)) for c in torch.eye(3)[:2, None].expand(-1, 2, -1)]
        for one, other in zip(*outputs, strict=True):
            assert one.shape == other.shape
            assert not torch.allclose(one, other)  # the context matters
        assert outputs[0][1].shape == x.shape


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_convolve_keep_single_precision_and_nobody_notices(name):
    torch.manual_seed(0)
    flow = FreeFormFlow(*NETWORKS[name](32, 3, 2, **SMALL.get(name, {})), 32, 3, 2)
    exact, found = copy.deepcopy(flow).double(), in_double(copy.deepcopy(flow))
    convolves = any(isinstance(layer, nn.Conv2d) for layer in flow.modules())
    assert {p.dtype for p in found.encoder.parameters()} == {torch.float32 if convolves else torch.float64}
    assert all(b.dtype == torch.float64 for b in found.latent.buffers())
    x, c = torch.randn(4, 32).double(), torch.randn(4, 2).double()
    densities = [
        (ambient.linearised(x, c), ambient.importance_sampled(x, c).value, ambient.flow.log_prob(x, c))
        for ambient in (Ambient(f, IsotropicNoise(32, 0.1).double()) for f in (exact, found))
    ]
    for one, other in zip(*densities, strict=True):
        assert one.dtype == other.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", IMAGE)
def test_a_row_of_pixels_stays_where_it_is(name):
    """Moving one pixel of the input moves the first layer of its neighbourhood only: rows are read channels first."""
    encoder, _ = NETWORKS[name](32, 3, **SMALL[name])
    x = torch.arange(32.0)[None]
    assert torch.equal(encoder.layers[0](x)[0], torch.arange(32.0).reshape(SHAPE))


def test_patches_are_put_together_as_they_were_cut():
    x = torch.randn(2, 3, 4, 6)
    patches = Patches(2)(x)
    assert torch.equal(patches[0, 1].reshape(3, 2, 2), x[0, :, :2, 2:4])
    assert torch.equal(transformers._Assembled(2)(patches.unflatten(2, (3, 4)).unflatten(1, (2, 3))), x)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("convolutional", {"shape": (2, 4, 5)}, "shape of 32 pixels"),
        ("residual_convolutional", {"shape": None}, "expected the shape of images of 32 numbers"),
        ("convolutional", {"stages": 4}, "sides of at least 16 for 4 stages"),
        ("transformer", {"patch": 3}, "patches of 3 x 3 to fill"),
        ("transformer", {"channels": 6}, "multiple of 4 heads"),
    ],
)
def test_images_that_do_not_fit_are_refused(name, options, problem):
    with pytest.raises(InputError, match=problem):
        NETWORKS[name](32, 2, **{**SMALL[name], **options})


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
