"""The variational autoencoder as a flow: its encoder gives a distribution of codes, and its mean is the code."""

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor, nn
from zuko.distributions import DiagNormal
from zuko.lazy import LazyDistribution

from isthmus.flow import Context, NetworkFlow

__all__ = ["VariationalFlow"]


@final
class VariationalFlow(NetworkFlow):
    """Any encoder and decoder, and a third network for the spread of the codes of a row; objective `variational`.

    Args:
        encoder: mean of the codes, (batch, D) -> (batch, d); what `encode` gives.
        decoder: g, (batch, d) -> (batch, D).
        deviation: logarithm of the codes' standard deviations, (batch, D) -> (batch, d).
        data_dim: D.
        latent_dim: d, 1 <= d <= D.
        context_dim: number of context columns, 0 for none.
        latent: density of the codes; the standard normal by default.
        levels: what else the modules are told, as further context columns, see `isthmus.levels`; none by default.

    References:
        Kingma, Welling (2014), Auto-Encoding Variational Bayes, arXiv 1312.6114.

    Example:
        >>> import torch
        >>> from isthmus.networks import mlp_pair
        >>> flow = VariationalFlow(*mlp_pair(5, 2), mlp_pair(5, 2)[0], data_dim=5, latent_dim=2)
        >>> flow.posterior(torch.zeros(3, 5)).sample().shape
        torch.Size([3, 2])
    """

    cites = ("kingma2014",)

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        deviation: nn.Module,
        data_dim: int,
        latent_dim: int,
        context_dim: int = 0,
        latent: LazyDistribution | None = None,
        levels: Sequence[float] = (),
    ) -> None:
        super().__init__(encoder, decoder, data_dim, latent_dim, context_dim, latent, levels)
        self.deviation = deviation

    def posterior(self, x: Float[Tensor, "batch D"], c: Context = None) -> DiagNormal:
        """Return the distribution of the codes of each row, q(z | x)."""
        log_deviation = self._applied(self.deviation, x, c)
        return DiagNormal(self.encode(x, c), log_deviation.exp())
