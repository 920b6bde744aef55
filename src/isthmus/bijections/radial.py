"""A monotone function of the radius: what a volume-preserving flow lacks, in one layer.

A volume-preserving map can only rearrange a density, and the best it can reach is the symmetric decreasing
rearrangement, see `isthmus.diagnostics.universality`. Its profile along the radius is then put right by

    q = log r^D,   q' = h(q),   z' = z exp((q' - q) / D),   log |det| = q' - q + log h'(q),   r = |z|,

h any monotone function: from volume to volume, so that no factor of the dimension stands apart.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from zuko.transforms import MonotonicRQSTransform

from isthmus.bijections.contract import Bijection, Context

__all__ = ["Radial"]

_BOUND = 5.0  # of the spline, in standard deviations of q
_LEAST_RADIUS = 1e-6


class Radial(Bijection):
    """Move rows along the rays from the origin by a monotone rational-quadratic spline of q; the identity untrained.

    The spline reaches 5 standard deviations of q about its mean, those of a normal law until rows start it; beyond,
    and at the origin, nothing moves.

    Args:
        columns: D.
        bins: of the spline, 3 bins - 1 parameters.

    References:
        Draxler, Wahl, Schnörr, Köthe (2024), arXiv 2402.06578; the form of the layer is our own.

    Example:
        >>> layer, x = Radial(2), torch.randn(4, 2)
        >>> torch.allclose(layer()(x), x, atol=1e-6)
        True
    """

    location: Tensor
    scale: Tensor
    constraints = {"scale": "positive"}  # noqa: RUF012 (read by `isthmus.store.tensors`)

    def __init__(self, columns: int, *, bins: int = 16) -> None:
        super().__init__()
        self.columns = columns
        half = torch.tensor(columns / 2, dtype=torch.float64)
        location = half * (torch.special.digamma(half) + math.log(2))  # of half * log chi^2(D)
        scale = half * torch.special.polygamma(1, half).sqrt()
        self.register_buffer("location", location.to(torch.get_default_dtype()))
        self.register_buffer("scale", scale.to(torch.get_default_dtype()))
        self.widths, self.heights = nn.Parameter(torch.zeros(bins)), nn.Parameter(torch.zeros(bins))
        self.slopes = nn.Parameter(torch.zeros(bins - 1))

    @torch.no_grad()
    def start(self, x: Float[Tensor, "batch D"], c: Context = None) -> None:
        """Set where the spline lies from the radii of rows."""
        if len(x) > 1:
            q = _log_volume(x)
            self.location.copy_(q.mean())
            self.scale.copy_(q.std().clamp_min(1e-3))

    def forward(self, c: Context = None) -> Transform:
        """Return the transform."""
        spline = MonotonicRQSTransform(self.widths, self.heights, self.slopes, bound=_BOUND)
        return _RadialTransform(spline, self.location, self.scale)


class _RadialTransform(Transform):
    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, spline: MonotonicRQSTransform, location: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.spline, self.location, self.scale = spline, location, scale

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q = _log_volume(x)
        moved, log_slope = self.spline.call_and_ladj((q - self.location) / self.scale)
        gained = self.location + self.scale * moved - q
        return x * (gained / x.shape[-1]).exp().unsqueeze(-1), gained + log_slope

    def _inverse(self, y: Tensor) -> Tensor:
        q = _log_volume(y)
        moved = self.location + self.scale * self.spline.inv((q - self.location) / self.scale)
        return y * ((moved - q) / y.shape[-1]).exp().unsqueeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]


def _log_volume(x: Tensor) -> Tensor:
    """Return `log r^D` of rows, (batch,)."""
    return x.shape[-1] / 2 * x.square().sum(-1).clamp_min(_LEAST_RADIUS**2).log()
