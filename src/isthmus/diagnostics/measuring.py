"""Every diagnostic on one fit, on at most so many rows that it takes seconds."""

import math
from dataclasses import dataclass

import torch

from isthmus.density import Ambient
from isthmus.diagnostics.dimension import FlatPieces, correlation_dimension, flat_pieces
from isthmus.diagnostics.geometry import (
    Curvature,
    PseudoInverse,
    Reconstruction,
    Spectrum,
    curvature,
    pseudo_inverse,
    reconstruction,
    spectrum,
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
from isthmus.rows import Rows

__all__ = ["Measurements", "measure", "prepared"]

_ROWS = 1_000


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


def measure(ambient: Ambient, train: Rows, held_out: Rows, *, surrogate: str | None, seed: int = 0) -> Measurements:
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
    pieces = flat_pieces(every, outside.x, most, seed=seed)
    # The noise of pieces of twice the dimension is near the truth even where d is too small by half.
    noise = pieces.variance(min(2 * flow.latent_dim, max(flow.latent_dim, flow.data_dim - 1)))
    fit = reconstruction(flow, inside, outside, pieces)
    sigma = fit.held_out**0.5
    x, c = outside.x, outside.c
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


def prepared(rows: Rows) -> Rows:
    """Return at most 1,000 of the rows, in float64."""
    return rows.thinned(_ROWS).to(torch.float64)
