"""A user's own modules are checked before they are trained, and torch's wrong products are found and not used."""

import logging

import pytest
import torch
from torch import nn

from isthmus import FreeFormFlow, InputError, fit, load, save
from isthmus.autodiff import pull, push
from isthmus.vetting import vet

D, d = 4, 2


class Products(nn.Module):
    """Products of pairs by `scatter_reduce`, whose forward-mode rule is wrong."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear, self.outputs = nn.Linear(inputs, 2 * outputs), outputs

    def forward(self, x):
        factors = 1 + 0.3 * torch.tanh(self.linear(x))
        index = torch.arange(self.outputs).repeat(2).expand(len(x), -1)
        return torch.ones(len(x), self.outputs).to(factors).scatter_reduce(1, index, factors, "prod")


class Odd(nn.Module):
    """A linear map, and then something."""

    def __init__(self, then):
        super().__init__()
        self.linear, self.then = nn.Linear(D, d), then

    def forward(self, x):
        return self.then(self.linear(x))


REFUSED = {
    "too narrow": (nn.Linear(D, 1), r"got shape \(4, 1\)"),
    "for other rows": (nn.Linear(D + 1, d), "got an error, RuntimeError"),
    "a tuple": (Odd(lambda z: (z, z)), "got a tuple; return one tensor"),
    "lazy": (nn.LazyLinear(d), "got a lazy one; call it once"),
    "detached": (Odd(lambda z: z.detach()), "cut off from the inputs"),
    "constant": (Odd(lambda z: torch.ones_like(z, requires_grad=True)), "cut off"),
    "noisy": (Odd(lambda z: z + torch.randn_like(z)), "got others the second time"),
    "flat": (Odd(lambda z: z.sum()), r"got shape \(\)"),
}


def flow_of(encoder):
    return FreeFormFlow(encoder, nn.Linear(d, D), data_dim=D, latent_dim=d)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_in_one_sentence(name):
    encoder, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as refusal:
        vet(flow_of(encoder))
    assert "\n" not in str(refusal.value)
    assert "expected an encoder" in str(refusal.value)


def test_dropout_is_said_and_neither_state_nor_random_numbers_change(caplog):
    flow = flow_of(nn.Sequential(nn.Linear(D, 8), nn.Linear(8, 8), nn.SiLU(), nn.Dropout(0.2), nn.Linear(8, d)))
    before, random = {k: v.clone() for k, v in flow.state_dict().items()}, torch.get_rng_state()
    vet(flow)
    assert "dropout draws noise in training" in caplog.text
    assert all(torch.equal(before[name], value) for name, value in flow.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert flow.training


def test_products_that_forward_mode_gets_wrong_are_taken_in_reverse_mode(caplog, tmp_path):
    torch.manual_seed(0)
    flow, x = flow_of(Products(D, d)), torch.randn(60, D)
    encode = flow.maps()[0]
    v, w = torch.randn(3, 60, D), torch.randn(3, 60, d)

    def disagreement():
        return float(((w * push(encode, x, v)[1]).sum(2) - (pull(encode, x, w)[1] * v).sum(2)).abs().max().detach())

    assert disagreement() > 0.01  # else torch has been mended, and the check with its docstring may go
    with caplog.at_level(logging.WARNING, "isthmus"):
        fitted = fit(x, flow=flow, recipe={"training": {"max_steps": 5}})
    assert "forward-mode products are wrong" in caplog.text
    assert disagreement() < 1e-5
    assert not fitted.model.flow.forward_mode
    again = load(save(fitted, tmp_path / "model"), flow=flow_of(Products(D, d)))
    assert not again.model.flow.forward_mode
    assert torch.equal(again.model.log_prob(x), fitted.model.log_prob(x))


def test_sound_modules_stay_in_forward_mode(caplog):
    flow = flow_of(nn.Sequential(nn.Linear(D, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, d)))
    vet(flow)
    assert flow.forward_mode
    assert not caplog.records
