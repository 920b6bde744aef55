"""Every diagnostic on one fit, on at most so many rows that it takes seconds."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

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

__all__ = ["Measurements", "prepared"]

_ROWS = 1_000


@dataclass(frozen=True)
class Measurements:
    """Every diagnostic of one fit, measured when it is first asked for, on at most 1,000 rows of a kind.

    Attributes:
        density: of prepared rows, in float64.
        train: the rows that it was fitted to, as they were trained on: integer columns spread.
        held_out: other rows, likewise.
        beta: weight of the squared reconstruction error at the end of training, None if there was none.
        surrogate: a key of `isthmus.volume.ESTIMATORS`, None if no surrogate was used.
        seed: of everything that is drawn.
    """

    density: Any
    train: Rows
    held_out: Rows
    beta: float | None = None
    surrogate: str | None = None
    seed: int = 0

    @property
    def flow(self) -> Any:
        """The law that is examined."""
        return self.density.flow

    @cached_property
    def inside(self) -> Rows:
        """Rows that it was fitted to."""
        return prepared(self.train)

    @cached_property
    def outside(self) -> Rows:
        """Rows that it was not fitted to."""
        return prepared(self.held_out)

    @cached_property
    def pieces(self) -> FlatPieces:
        """Flat pieces of up to twice as many dimensions as the codes have."""
        most = min(self.flow.data_dim, 2 * self.flow.latent_dim)
        return flat_pieces(self.train.x.to(torch.float64), self.outside.x, most, seed=self.seed)

    @cached_property
    def noise(self) -> float:
        """The variance off pieces of twice the dimension: near the truth even where d is too small by half."""
        d, D = self.flow.latent_dim, self.flow.data_dim
        return self.pieces.variance(min(2 * d, max(d, D - 1)))

    @cached_property
    def dimension(self) -> float:
        """The correlation dimension; NaN with a context, as rows may then vary in more directions than d."""
        every = self.train.x.to(torch.float64)
        return math.nan if self.outside.c is not None else correlation_dimension(every, self.noise)

    @cached_property
    def reconstruction(self) -> Reconstruction:
        """Residuals beside the noise floor."""
        return reconstruction(self.flow, self.inside, self.outside, self.pieces)

    @cached_property
    def pseudo_inverse(self) -> PseudoInverse:
        """How far the encoder is off the decoder's pseudo-inverse."""
        return pseudo_inverse(self.flow, self.outside.x, self.outside.c)

    @cached_property
    def spectrum(self) -> Spectrum:
        """The extents of the manifold beside the noise."""
        return spectrum(self.flow, self.outside.x, self.outside.c, sigma=self.reconstruction.held_out**0.5)

    @cached_property
    def curvature(self) -> Curvature:
        """How fast the manifold turns."""
        return curvature(self.flow, self.outside.x, self.outside.c, sigma=self.reconstruction.held_out**0.5)

    @cached_property
    def gradient(self) -> GradientQuality:
        """Cosines of the surrogate's gradient with the exact ones."""
        options: dict[str, Any] = {"surrogate": self.surrogate, "seed": self.seed}
        return gradient_quality(self.flow, self.outside.x, self.outside.c, **options)

    @cached_property
    def codes(self) -> Codes:
        """Codes beside draws from their density."""
        return codes(self.flow, self.outside.x, self.outside.c, seed=self.seed)

    @cached_property
    def samples(self) -> Samples:
        """Samples beside held-out rows."""
        return samples(self.density, self.inside, self.outside, seed=self.seed)

    @cached_property
    def generalisation(self) -> Generalisation:
        """Log densities of training rows beside those of held-out rows."""
        return generalisation(self.density, self.inside, self.outside)

    @cached_property
    def agreement(self) -> Agreement:
        """The linearised log density beside the importance-sampled one."""
        return agreement(self.density, self.outside.x, self.outside.c, seed=self.seed)


def prepared(rows: Rows) -> Rows:
    """Return at most 1,000 of the rows, in float64."""
    return rows.thinned(_ROWS).to(torch.float64)
