"""The free-form flow: any encoder and any decoder."""

from typing import final

from isthmus.flow import NetworkFlow

__all__ = ["FreeFormFlow"]


@final
class FreeFormFlow(NetworkFlow):
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
        levels: what else the modules are told, as further context columns, see `isthmus.levels`; none by default.

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
