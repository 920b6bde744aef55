"""Does the surrogate's gradient point where the likelihood's does? Measured while a flow is trained by it.

The surrogate replaces `g'(z)^+` by `f'(x)`, which is right once reconstruction is optimal; how wrong is it before?
At every stop, on batches of held-out rows, over all parameters of both networks:

* `encoder`: cosine of the surrogate's gradient with that of `-1/2 log det f' f'^T` at x. The probes span the latent
  space, so that the trace is whole: what differs is no noise;
* `decoder`: the same with `1/2 log det g'^T g'`, through z = f(x) too. The encoder's surrogate gives the decoder
  nothing and the decoder's Jacobian nearly everything, so that this cosine is small even at the optimum;
* `either`: the same with the nearest sum of both, neither subtracted, which a choice by probe follows;
* `single`: mean cosine of the gradient with one probe a row with that of all probes.

Beside them the numbers of `isthmus.diagnostics.pseudo_inverse`, `gap = |f' - g'^+|_F / |g'^+|_F`, `defect = |f' g' -
I|_F / sqrt(d)` and `trace = tr(f' g') / d`, and the squared reconstruction error of a row.
"""

import copy
import statistics
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from benchmarks.experiments.setting import Row, Spec, build_flow, build_objective, descend, finite, load, residual
from isthmus.diagnostics import gradient_quality, pseudo_inverse
from isthmus.errors import InputError
from isthmus.flow import Flow

__all__ = ["gradient_cosines"]

_BATCH = 64  # rows of which a gradient is taken
_WHOLE_TRACE = 8  # dimensions that `isthmus.diagnostics.gradient_quality` spans


def gradient_cosines(spec: Spec, seed: int) -> Iterable[Row]:
    """Train by a surrogate, and measure its gradient at every stop.

    Args:
        spec: `data`, `networks`, `latent_dim` (at most 8), `objective` (free-form), `loop` (the numbers of `descend`,
            `at` included), `batches`: how many batches of 64 test rows.
        seed: of networks, batches and probes.

    Returns:
        One row a stop, label `step`.

    Raises:
        InputError: more than 8 latent dimensions.
    """
    if spec["latent_dim"] > _WHOLE_TRACE:
        raise InputError(
            f"expected at most {_WHOLE_TRACE} latent dimensions; got {spec['latent_dim']}: the trace would not be "
            "whole; choose fewer"
        )
    splits = load(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow, objective = build_flow(spec, splits.data_dim), build_objective(spec)
        for step in descend(flow, objective, splits.train, **spec["loop"]):
            precise, x = copy.deepcopy(flow).double(), splits.test.double()
            found = cosines(precise, x, spec["objective"]["surrogate"], spec["batches"])
            inverse = pseudo_inverse(precise, x)
            values = {**dict(found), **inverse._asdict(), "reconstruction": residual(precise, x)}
            yield Row({"step": step}, {name: finite(value) for name, value in values.items()})


def cosines(flow: Flow, x: Tensor, surrogate: str, batches: int) -> Iterator[tuple[str, float]]:
    """Mean cosines over batches of consecutive rows, NaN where a gradient vanishes in one of them."""
    pieces = x[: batches * _BATCH].split(_BATCH)
    found = [gradient_quality(flow, piece, surrogate=surrogate, seed=i) for i, piece in enumerate(pieces)]
    for name in found[0]._fields:
        yield name, statistics.fmean(getattr(quality, name) for quality in found)
