"""Every diagnostic on one fit, on at most so many rows that it takes seconds."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from isthmus.ambient import Ambient
from isthmus.diagnostics.dimension import FlatPieces, correlation_dimension, flat_pieces
from isthmus.diagnostics.geometry import (
    Curvature,
    PseudoInverse,
    Reconstruction,
    Spectrum,
    Table,
    curvature,
    pseudo_inverse,
    reconstruction,
    spectrum,
    thinned,
)
from isthmus.diagnostics.likelihood import (
    Agreement,
    Codes,
    Generalisation,
    GradientQuality,
    Samples,
    agreement,
    codes,
    generalisation,
    gradient_quality,
    samples,
)
from isthmus.flow import Context

__all__ = ["Measurements", "RowsLike", "measure", "prepared"]

_ROWS = 1_000


@runtime_checkable
class RowsLike(Protocol):
    """Standardised data `x` (n, D) with context `c` (n, C) or None."""

    @property
    def x(self) -> Tensor:
        """Data."""

    @property
    def c(self) -> Context:
        """Context."""


@dataclass(frozen=True)
class Measurements:
    """Everything that `examine` judges; None where it does not apply."""

    data_dim: int
    latent_dim: int
    held_out_rows: int
    pieces: FlatPieces
    noise: float
    dimension: float
    reconstruction: Reconstruction
    pseudo_inverse: PseudoInverse
    spectrum: Spectrum
    curvature: Curvature
    codes: Codes
    samples: Samples
    generalisation: Generalisation
    agreement: Agreement
    gradient: GradientQuality | None


def measure(
    ambient: Ambient, train: RowsLike, held_out: RowsLike, *, surrogate: str | None, seed: int = 0
) -> Measurements:
    """Run every diagnostic; see `examine`, which judges the result.

    Args:
        ambient: flow and noise in float64.
        train: the rows that it was fitted to.
        held_out: other rows.
        surrogate: a key of `isthmus.volume.ESTIMATORS`, or None.
        seed: of everything that is drawn.

    Returns:
        The measurements.
    """
    flow = ambient.flow
    inside, outside = prepared(train), prepared(held_out)
    every = train.x.to(torch.float64)
    most = min(flow.data_dim, 2 * flow.latent_dim)
    pieces = flat_pieces(every, outside[0], most, seed=seed)
    # The noise of pieces of twice the dimension is near the truth even where d is too small by half.
    noise = pieces.variance(min(2 * flow.latent_dim, max(flow.latent_dim, flow.data_dim - 1)))
    fit = reconstruction(flow, inside, outside, pieces)
    sigma = fit.held_out**0.5
    x, c = outside
    return Measurements(
        data_dim=flow.data_dim,
        latent_dim=flow.latent_dim,
        held_out_rows=len(x),
        pieces=pieces,
        noise=noise,
        # what depends on a context may vary in more directions than d
        dimension=correlation_dimension(every, noise) if c is None else math.nan,
        reconstruction=fit,
        pseudo_inverse=pseudo_inverse(flow, x, c),
        spectrum=spectrum(flow, x, c, sigma=sigma),
        curvature=curvature(flow, x, c, sigma=sigma),
        codes=codes(flow, x, c, seed=seed),
        samples=samples(ambient, inside, outside, seed=seed),
        generalisation=generalisation(ambient, inside, outside),
        agreement=agreement(ambient, x, c, seed=seed),
        gradient=None if surrogate is None else gradient_quality(flow, x, c, surrogate=surrogate, seed=seed),
    )


def prepared(rows: RowsLike) -> Table:
    """At most 1,000 of the rows, in float64.

    Args:
        rows: standardised rows.

    Returns:
        Data and context.
    """
    x, c = thinned(rows.x, rows.c, _ROWS)
    return x.to(torch.float64), None if c is None else c.to(torch.float64)
