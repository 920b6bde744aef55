"""The free-form flow: any encoder and any decoder."""

import warnings
from typing import final

from jaxtyping import Float
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from isthmus.flow import Context, Flow
from isthmus.volume import Volume, exact

__all__ = ["FreeFormFlow"]


@final
class FreeFormFlow(Flow):
    """A flow of any two modules, neither of them invertible, made inverse to one another by training.

    Without a context the modules are called as `encoder(x)` and `decoder(z)`; with one as `encoder(x, c)` and
    `decoder(z, c)`.

    Args:
        encoder: f, (batch, D) -> (batch, d).
        decoder: g, (batch, d) -> (batch, D).
        data_dim: D.
        latent_dim: d, 1 <= d <= D.
        context_dim: number of context columns, 0 for none.
        latent: density of the codes; the standard normal by default.

    Warns:
        UserWarning: a ReLU (no second derivative; training is unstable) or a BatchNorm in training mode (rows
            depend on one another, so that Jacobians are not those of single rows).

    References:
        Sorrenson et al. (2024), Lifting Architectural Constraints of Injective Flows, arXiv 2306.01843.

    Example:
        >>> import torch
        >>> from isthmus.networks import mlp_pair
        >>> flow = FreeFormFlow(*mlp_pair(5, 2), data_dim=5, latent_dim=2)
        >>> flow.log_prob(torch.zeros(3, 5)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        data_dim: int,
        latent_dim: int,
        context_dim: int = 0,
        latent: LazyDistribution | None = None,
    ) -> None:
        super().__init__(data_dim, latent_dim, context_dim, latent)
        self.encoder, self.decoder = encoder, decoder
        for layer in (*encoder.modules(), *decoder.modules()):
            _warn_of(layer)

    def encode(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, "batch d"]:
        """The code `z = f(x)`, (batch, d)."""
        return self.encoder(x) if c is None else self.encoder(x, c)

    def decode(self, z: Float[Tensor, "batch d"], c: Context = None) -> Float[Tensor, "batch D"]:
        """The point `g(z)` of the manifold, (batch, D)."""
        return self.decoder(z) if c is None else self.decoder(z, c)

    def volume(self, x: Float[Tensor, "batch D"], c: Context = None) -> Volume:
        """Code, reconstruction and the exact `log_volume`, (batch,) in nats, from the decoder's whole Jacobian."""
        return exact(*self.maps(c), x)


def _warn_of(layer: nn.Module) -> None:
    if isinstance(layer, nn.ReLU | nn.ReLU6 | nn.LeakyReLU | nn.Hardtanh):
        warnings.warn(
            f"{type(layer).__name__} has no second derivative, which training the change of volume needs; use SiLU",
            stacklevel=3,
        )
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
        warnings.warn(
            f"{type(layer).__name__} in training mode makes rows depend on one another, so that Jacobians are not "
            "those of single rows; use GroupNorm or LayerNorm",
            stacklevel=3,
        )
