"""The rectangular flow: an invertible network on R^D restricted to d coordinates, with a learnt latent density."""

from functools import partial
from typing import Annotated, final

import torch
import zuko
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from zuko.transforms import MonotonicAffineTransform

from isthmus.flow import Context, LearnedManifold
from isthmus.volume import Volume, exact

__all__ = ["RectangularFlow"]

# of a coupling, the largest being its inverse: with 1e-3 six couplings take a row beyond the training rows to 1e9
_LEAST_SLOPE = 0.1


@final
class RectangularFlow(LearnedManifold):
    """RealNVP on R^D, `g(z) = T^-1(z, 0)` and `f(x)` the first d coordinates of T(x), with a RealNVP density on R^d.

    The encoder is a left inverse of the decoder by construction, `f(g(z)) = z`.

    Args:
        data_dim: D.
        latent_dim: d, 1 <= d <= D.
        context_dim: number of context columns, 0 for none.
        transforms: coupling layers of T.
        width: width of the two hidden layers of each coupling.
        latent_transforms: coupling layers of the latent density; 0 for the standard normal.

    References:
        Caterini, Loaiza-Ganem, Pleiss, Cunningham (2021), Rectangular Flows for Manifold Learning, arXiv 2106.01413;
        Dinh, Sohl-Dickstein, Bengio (2017), Density estimation using Real NVP, arXiv 1605.08803.

    Example:
        >>> flow = RectangularFlow(4, 2)
        >>> z = torch.randn(3, 2)
        >>> torch.allclose(flow.encode(flow.decode(z)), z, atol=1e-4)
        True
    """

    cites = ("caterini2021", "dinh2017")

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        context_dim: int = 0,
        *,
        transforms: Annotated[int, Ge(1)] = 6,
        width: Annotated[int, Ge(1)] = 128,
        latent_transforms: Annotated[int, Ge(0)] = 4,
    ) -> None:
        super().__init__(data_dim, latent_dim, context_dim)
        if latent_transforms:
            self.latent = zuko.flows.RealNVP(latent_dim, context_dim, latent_transforms, hidden_features=(width, width))
        self.embedding = zuko.flows.RealNVP(
            data_dim,
            context_dim,
            transforms,
            hidden_features=(width, width),
            activation=torch.nn.SiLU,
            univariate=partial(MonotonicAffineTransform, slope=_LEAST_SLOPE),
        ).transform

    def encode(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, "batch d"]:
        """Return the first d coordinates of T(x), (batch, d)."""
        return self.embedding(c)(x)[:, : self.latent_dim]

    def decode(self, z: Float[Tensor, "batch d"], c: Context = None) -> Float[Tensor, "batch D"]:
        """Return `T^-1(z, 0)`, (batch, D)."""
        return self.embedding(c).inv(pad(z, (0, self.data_dim - self.latent_dim)))

    def volume(self, x: Float[Tensor, "batch D"], c: Context = None) -> Volume:
        """Return code, reconstruction and exact `log_volume`, (batch,) in nats, from the decoder's whole Jacobian."""
        return exact(*self.maps(c), x)
