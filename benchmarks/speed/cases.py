"""Networks, sizes and devices of the comparisons, and what a user would like to see of each."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.networks import convolutional_pair, residual_pair

__all__ = ["CASES", "Case", "Setting"]

Pair = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Case:
    """Networks, dimensions and batch size of one comparison.

    Attributes:
        pair: makes encoder and decoder.
        data_dim: D.
        latent_dim: d.
        batch: rows a step.
        probed: share of rows with a probe where not every row has one; 1 for no such comparison.
        targets: most or least that a ratio should be, by its name in the record.
    """

    pair: Callable[[], Pair]
    data_dim: int
    latent_dim: int
    batch: int
    probed: float = 0.25
    targets: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What everything is computed on: device, precision (`fp32`, or `bf16` by autocast), mode of `torch.compile`."""

    device: str = "cpu"
    precision: str = "fp32"
    mode: str | None = None

    def compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The function, compiled as a whole."""
        return torch.compile(function, fullgraph=True, mode=self.mode, dynamic=False)

    def autocast(self) -> AbstractContextManager[Any]:
        """Products in half precision, where that is asked for."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def synchronise(self) -> None:
        """Wait for a device that computes on its own."""
        if self.device == "cuda":
            torch.cuda.synchronize()


class Tokens(nn.Module):
    """A transformer over columns: each input a token, mixed by two attention layers, then read out linearly."""

    def __init__(self, inputs: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(1, width), nn.Parameter(0.1 * torch.randn(inputs, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, activation=nn.SiLU(), batch_first=True)
        self.mix = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.read = nn.Linear(inputs * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs) to (batch, outputs)."""
        return self.read(self.mix(self.embed(x.unsqueeze(2)) + self.place).flatten(1))


def convolutional() -> Pair:
    """The paper's MNIST networks (arXiv 2306.01843) with SiLU: four strided convolutions, a residual net on codes."""
    ch, d = 32, 16
    encoder = nn.Sequential(nn.Unflatten(1, (1, 28, 28)))
    for inputs, outputs in ((1, ch), (ch, 2 * ch), (2 * ch, 4 * ch), (4 * ch, 8 * ch)):
        encoder.extend([nn.Conv2d(inputs, outputs, 4, 2, 1), nn.SiLU()])
    encoder.extend([nn.Flatten(), nn.Linear(8 * ch, d)])
    decoder = nn.Sequential(
        nn.Linear(d, 8 * ch * 16),
        nn.Unflatten(1, (8 * ch, 4, 4)),
        *(nn.ConvTranspose2d(8 * ch, 4 * ch, 3, 2, 1), nn.SiLU()),
        *(nn.ConvTranspose2d(4 * ch, 2 * ch, 3, 2, 1, 1), nn.SiLU()),
        *(nn.ConvTranspose2d(2 * ch, 1, 3, 2, 1, 1), nn.Flatten()),
    )
    code = residual_pair(d, d, width=512, blocks=1)
    return nn.Sequential(encoder, code[0]), nn.Sequential(code[1], decoder)


def digits() -> Pair:
    """The networks of the suites of images: those of the paper with GroupNorm, at half their channels."""
    return convolutional_pair(784, 16, shape=(1, 28, 28), channels=16, blocks=2, width=256)


def _targets(ours: float, reference: float, memory: float, probed: float | None = None) -> dict[str, float]:
    found = {"ours_over_autoencoder": ours, "reference_over_ours": reference, "memory_over_autoencoder": memory}
    return found if probed is None else found | {"part_probed_over_autoencoder": probed}


_TABLE, _IMAGES = _targets(1.55, 1.9, 1.6, 1.25), _targets(1.6, 1.3, 1.8, 1.3)

CASES = {
    "toy 2->1 B128": Case(lambda: residual_pair(2, 1), 2, 1, 128, probed=1.0, targets=_targets(1.6, 2.2, 1.8)),
    "POWER 6->3 B512": Case(lambda: residual_pair(6, 3), 6, 3, 512, targets=_TABLE),
    "MINIBOONE 43->21 B512": Case(
        lambda: residual_pair(43, 21), 43, 21, 512, targets=_TABLE | {"log_likelihood_over_vmap": 3.0}
    ),
    "digits 784->16 B128": Case(
        digits, 784, 16, 128, probed=1 / 16, targets={"default_part_probed_over_autoencoder": 1.6}
    ),
    "MNIST conv B64": Case(convolutional, 784, 16, 64, targets=_IMAGES),
    "MNIST conv B512": Case(convolutional, 784, 16, 512, targets=_IMAGES),
    "transformer 16->8 B128": Case(lambda: (Tokens(16, 8), Tokens(8, 16)), 16, 8, 128),
}
