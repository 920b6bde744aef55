"""What goes wrong where the change of volume is measured on the manifold: four objectives on a Gaussian strip.

Data N(0, diag(1, 0.09)), one latent dimension. The density of the *projected* data can be raised without bound by
making the manifold worse: a decoder that curves until all data project onto few points, or that shrinks to a point.
Measuring the encoder at the data point itself, off the manifold, takes that reward away.

The last weights are judged, not the best: see `benchmarks.experiments.setting`.

The exact likelihood, measured on the decoder, is unbounded below for every beta, yet for beta > 2 it has a local
minimum near the line: linear maps f(x) = a x_1, g(z) = (b z, 0) are stationary at a = 1, b = (1 + sqrt(1 - 2 / beta)) /
2. Whether training finds it or collapses is decided in the first few hundred steps, by the untrained networks: the
likelihood shrinks b wherever a b < 1 / (2 beta). After 1,500 steps 4 of 10 starts had collapsed at beta 5, none at 10;
with last layers 10 times smaller, or other learning rates, some do at beta 10 as well.

References: Sorrenson et al. (2024), arXiv 2306.01843, section 4.2 and figure 2.
"""

import copy
import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from benchmarks.experiments.setting import Row, Spec, build_flow, build_objective, descend, finite, load, residual
from isthmus.flow import Context, Flow, Injection
from isthmus.objective import OBJECTIVES, Objective, Reconstructing, Terms
from isthmus.volume import Surrogate, Volume, decoder_surrogate, exact

__all__ = ["ByVolume", "pathology", "regime", "turning_and_length"]

_REACH, _POINTS = 2.5, 2_001  # the codes along which the curve g(z) is followed
_COLLAPSED = 0.1  # times the ideal length at most
_RECONSTRUCTS = 2.0  # times the noise floor at most
_STRAIGHT = math.pi / 2  # radians that a straight line's reconstruction may turn in all


class ByVolume(Reconstructing):
    """`beta |x - x_hat|^2 - log p_Z(z) + volume`, the volume by any function of `isthmus.volume`.

    Args:
        beta: weight of the squared reconstruction error, > 0.
        volume: of encoder, decoder and data.
    """

    def __init__(self, beta: float, *, volume: Callable[..., Volume | Surrogate]) -> None:
        super().__init__(beta)
        self.volume = volume

    def __call__(self, flow: Injection, x: Tensor, c: Context = None, weight: Tensor | float = 1.0) -> Terms:
        """Per-row terms at data `x` (batch, D)."""
        z, x_hat, volume = self.volume(*flow.maps(c), x)
        reconstruction, latent = (x - x_hat).square().sum(1), -flow.base(c).log_prob(z)
        total = self.beta * reconstruction + weight * (latent + volume)
        return Terms(total, {"reconstruction": reconstruction, "latent": latent, "volume": volume})


# What the library leaves out or refuses, since it fails.
FAILING: dict[str, Callable[..., Objective]] = {
    "decoder_at_reconstruction": partial(ByVolume, volume=partial(decoder_surrogate, at="reconstruction")),
    "exact_decoder": partial(ByVolume, volume=partial(exact, side="decoder", dtype=None)),
}


@torch.no_grad()
def turning_and_length(flow: Flow) -> tuple[float, float]:
    """Total absolute angle (radians) and length of the curve g(z), z in [-2.5, 2.5], in the units of the data."""
    z = torch.linspace(-_REACH, _REACH, _POINTS, dtype=torch.float64).unsqueeze(1)
    chords = flow.decode(z).diff(dim=0)
    directions = torch.nn.functional.normalize(chords, dim=1, eps=1e-300)
    before, after = directions[:-1], directions[1:]
    angles = 2 * torch.atan2((after - before).norm(dim=1), (after + before).norm(dim=1))
    return float(angles.sum()), float(chords.norm(dim=1).sum())


def regime(reconstruction: float, turning: float, length: float, floor: float) -> str:
    """`collapsed`, `healthy` or `diverged`.

    Args:
        reconstruction: mean squared error of a row.
        turning: of the curve g(z), z in [-2.5, 2.5], radians.
        length: of that curve; 5 is ideal.
        floor: the noise's variance.

    Returns:
        `collapsed` where the curve is shorter than a tenth of the ideal; `healthy` where the error is at most twice the
        noise's variance and the curve turns by at most a right angle; `diverged` otherwise, also where a number is not
        finite.

    Example:
        >>> regime(0.09, 0.2, 5.0, 0.09), regime(0.44, 7.0, 4.2, 0.09), regime(1.09, 3.0, 0.0, 0.09)
        ('healthy', 'diverged', 'collapsed')
    """
    if length < _COLLAPSED * 2 * _REACH:
        return "collapsed"
    return "healthy" if reconstruction <= _RECONSTRUCTS * floor and turning <= _STRAIGHT else "diverged"


def pathology(spec: Spec, seed: int) -> Iterable[Row]:
    """Train by one objective and judge the last weights on test rows.

    Args:
        spec: `data`, `networks`, `latent_dim` (1), `objective` (its kind may also be one of `FAILING`), `loop` (the
            numbers of `descend`) and `noise_variance` of the data.
        seed: of networks, batches and probes.

    Returns:
        One row: reconstruction (squared units of x), nll (nats, exact, of the decoder), z_std, turning (radians),
        length (units of x), regime, healthy (1 or 0).
    """
    splits = load(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = build_flow(spec, splits.data_dim)
        objective = build_objective(spec, OBJECTIVES | FAILING)
        for _ in descend(flow, objective, splits.train, **spec["loop"]):
            pass
    flow, x = copy.deepcopy(flow).double(), splits.test.double()
    with torch.no_grad():
        reconstruction, nll, z_std = residual(flow, x), -float(flow.log_prob(x).mean()), float(flow.encode(x).std())
    turning, length = turning_and_length(flow)
    numbers = {
        "reconstruction": reconstruction,
        "nll": nll,
        "z_std": z_std,
        "turning": turning,
        "length": length,
    }
    found = regime(reconstruction, turning, length, spec["noise_variance"])
    values = {name: finite(value) for name, value in numbers.items()}
    yield Row({}, {**values, "regime": found, "healthy": int(found == "healthy")})
