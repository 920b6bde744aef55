"""From a spec to data, flow and objective, and the plain loop of the experiments that watch training itself.

`isthmus.training.train` passes over weights whose density is not finite and retreats from bad steps, also where it is
asked to keep the last weights: it is made to prevent what these experiments want to see. So they use `descend`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isthmus.data import DATASETS
from isthmus.flow import Flow
from isthmus.flows import FreeFormFlow
from isthmus.networks import NETWORKS
from isthmus.objective import OBJECTIVES, Objective

__all__ = ["Row", "Spec", "Splits", "build_flow", "build_objective", "descend", "finite", "load", "residual"]

Spec = Mapping[str, Any]
Value = float | int | str | None


class Row(NamedTuple):
    """One row of results: labels beside those of the run's cell, and values by name."""

    extra: dict[str, Value]
    values: dict[str, Value]


@dataclass(frozen=True)
class Splits:
    """Rows in float32, (n, D), in standard deviations of the training rows unless the spec says otherwise."""

    train: Tensor
    validation: Tensor
    test: Tensor

    @property
    def data_dim(self) -> int:
        """Number of columns D."""
        return self.train.shape[1]


def load(spec: Spec) -> Splits:
    """The rows of `spec["data"]`: a name in `DATASETS`, its options, and `standardise` (true by default).

    They are the same for every seed. Standardising leaves out columns that do not vary in the training rows.
    """
    options = dict(spec["data"])
    standardise = options.pop("standardise", True)
    data = DATASETS[options.pop("name")](**options)
    splits = [data.train, data.validation, data.test]
    if standardise:
        mean, deviation = data.train.mean(0), data.train.std(0)
        kept = deviation > 0
        splits = [((x - mean) / deviation)[:, kept] for x in splits]
    return Splits(*splits)


def build_flow(spec: Spec, data_dim: int) -> FreeFormFlow:
    """A free-form flow of `spec["networks"]`, a name in `NETWORKS` with its options, and `spec["latent_dim"]`."""
    options = dict(spec["networks"])
    latent_dim = spec["latent_dim"]
    pair = NETWORKS[options.pop("name")](data_dim, latent_dim, **options)
    return FreeFormFlow(*pair, data_dim=data_dim, latent_dim=latent_dim)


def build_objective(spec: Spec, known: Mapping[str, Callable[..., Objective]] = OBJECTIVES) -> Objective:
    """The objective of `spec["objective"]`: a `kind` among those known, with its options."""
    options = dict(spec["objective"])
    return known[options.pop("kind")](**options)


def descend(
    flow: Flow,
    objective: Objective,
    x: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    at: Sequence[int] | None = None,
) -> Iterator[int]:
    """Adam at a constant rate on random batches, and nothing else; stops at the steps asked for, then goes on.

    Args:
        flow: changed in place.
        objective: its mean over a batch is descended.
        x: rows to draw batches from, (n, D).
        steps: how many.
        batch_size: rows a step, drawn with replacement.
        learning_rate: of Adam.
        at: after how many steps to yield, 0 for the untrained flow; only after the last by default.

    Yields:
        The number of steps made.
    """
    stops = {steps} if at is None else set(at)
    optimizer = torch.optim.Adam(flow.parameters(), learning_rate, fused=True)
    for step in range(steps + 1):
        if step in stops:
            yield step
        if step == steps:
            return
        batch = x[torch.randint(len(x), (batch_size,))]
        optimizer.zero_grad()
        objective(flow, batch).total.mean().backward()
        optimizer.step()


@torch.no_grad()
def residual(flow: Flow, x: Tensor) -> float:
    """Mean squared distance of rows from their reconstructions, summed over columns."""
    return float((x - flow.reconstruct(x)).square().sum(1).mean())


def finite(value: float) -> float | None:
    """The number, or None for one that JSON has no word for."""
    return float(value) if math.isfinite(value) else None
