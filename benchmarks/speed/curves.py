"""How time and memory grow with the latent dimension d, the data dimension D, the batch and the number of probes."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from benchmarks.speed.cases import Setting
from benchmarks.speed.steps import BETA, peak_of, seconds_of
from benchmarks.speed.stochastic import stochastic
from isthmus import FreeForm, FreeFormFlow
from isthmus.networks import mlp_pair
from isthmus.volume import exact

__all__ = ["AXES", "QUANTITIES", "START", "curves", "exponent"]

START = {"d": 64, "D": 2048, "batch": 16, "K": 1}
AXES: dict[str, tuple[int, ...]] = {
    "d": (8, 16, 32, 64, 128, 256, 512, 1024),
    "D": (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000),
    "batch": (16, 32, 64, 128, 256, 512),
    "K": (1, 2, 4, 8, 16),
}
QUANTITIES = ("step", "autoencoder", "exact", "stochastic")
_WIDTH, _ITERATIONS = 256, 12
_LEAST_CALLS, _SECONDS = 5, 0.5
_LARGEST_JACOBIAN = 2**28  # numbers, in float64 2 GiB


def curves(setting: Setting, axes: Mapping[str, Sequence[int]] = AXES) -> Iterator[dict[str, Any]]:
    """One record for each point: an axis and its value, the other sizes being those of `START`."""
    for axis, values in axes.items():
        for value in values:
            sizes = START | {axis: value}
            if sizes["d"] <= sizes["D"]:
                yield {"case": f"curve {axis}", "axis": axis, "value": value, "sizes": sizes} | point(setting, **sizes)


def point(setting: Setting, d: int, D: int, batch: int, K: int) -> dict[str, Any]:
    """Least seconds and bytes of each quantity; an exact volume only where its Jacobians fit."""
    torch.manual_seed(0)
    flow = FreeFormFlow(*mlp_pair(D, d, width=_WIDTH), D, d).to(setting.device)
    x = torch.randn(batch, D, device=setting.device)
    objective = FreeForm(beta=BETA, surrogate="encoder", K=K)

    def step() -> None:
        """The gradient of the free-form loss, without an optimiser."""
        objective(flow, x).total.mean().backward()
        flow.zero_grad()

    def autoencoder() -> None:
        """The gradient of the reconstruction error alone."""
        (x - flow.reconstruct(x)).square().sum(1).mean().backward()
        flow.zero_grad()

    maps = flow.maps()
    ways: dict[str, Callable[[], Any]] = {"step": step, "autoencoder": autoencoder}
    if START["K"] == K:
        if batch * D * d <= _LARGEST_JACOBIAN:
            ways["exact"] = torch.no_grad()(lambda: exact(*maps, x))
        ways["stochastic"] = lambda: stochastic(*maps, x, K=4, iterations=_ITERATIONS)
    found = {}
    for name, way in ways.items():
        way()
        found[name] = {"seconds": least_seconds(way, setting), "bytes": peak_of(way, setting)}
    return {"costs": found}


def least_seconds(way: Callable[[], Any], setting: Setting) -> float:
    """The quickest of five calls, or of as many as half a second allows."""
    seconds: list[float] = []
    while len(seconds) < _LEAST_CALLS or sum(seconds) < _SECONDS:
        seconds.append(seconds_of(way, setting))
    return min(seconds)


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost against log value over the largest three values, where overhead matters least."""
    pairs = sorted(zip(values, costs, strict=True))[-3:]
    x, y = ([math.log(pair[i]) for pair in pairs] for i in (0, 1))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return products / sum((a - mean_x) ** 2 for a in x)
