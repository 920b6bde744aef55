"""The contract of a flow: an encoder, a decoder, a latent density, and the change of volume between them.

`x` is data (batch, D), `z` a latent code (batch, d), `c` a context (batch, C) or None, `x_hat = g(f(x))`. The density
that a flow defines is the *manifold density*: the density of `x_hat` with respect to d-dimensional volume on the
learned manifold `g(R^d)`,

    log p(x_hat) = log p_Z(z) - log_volume,        z = f(x),

in nats. It is not a density of x in R^D, and values for different d cannot be compared; `isthmus.ambient` has that one.

The networks of a flow may be told L *levels* beside the context, see `isthmus.levels`: encoder and decoder then take a
context of C + L columns as it is, and complete one of C columns by the levels that are set. The latent density sees the
first C columns alone.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from zuko.lazy import LazyDistribution

from isthmus import latents
from isthmus.errors import InputError
from isthmus.volume import Map, Volume, exact

__all__ = ["Flow", "NetworkFlow", "in_double"]

Context = Float[Tensor, "batch C"] | None
M = TypeVar("M", bound=nn.Module)


class Flow(nn.Module, ABC):
    """The contract of a flow.

    Implementing one:

    * call `super().__init__(data_dim, latent_dim, context_dim, latent)`;
    * write `encode(x, c)`, `decode(z, c)` and `volume(x, c)`, the last usually by one function of `isthmus.volume`;
    * add the class to `FLOWS` in `isthmus/flows/__init__.py`; every property test then runs on it;
    * set `whole_space` where encoder and decoder are exact inverses with d = D: then `log_prob` is the density of x.

    Concrete flows are final: to change one, wrap it. A flow knows no objective and no data.

    Args:
        data_dim: D.
        latent_dim: d, 1 <= d <= D.
        context_dim: number of context columns C, 0 for none.
        latent: density of the codes, a zuko lazy distribution over R^d; the standard normal by default.
        levels: those that encoder and decoder are told where a context does not end with others; none by default.

    Attributes:
        levels: a buffer, (L,), or None.

    Raises:
        InputError: d is not in 1..D.
    """

    whole_space: ClassVar[bool] = False
    levels: Tensor | None

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        context_dim: int = 0,
        latent: LazyDistribution | None = None,
        levels: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if not 1 <= latent_dim <= data_dim:
            raise InputError(f"expected 1 <= latent dimension <= {data_dim} columns; got {latent_dim}; choose another")
        self.data_dim, self.latent_dim, self.context_dim = data_dim, latent_dim, context_dim
        self.latent = latent if latent is not None else latents.normal(latent_dim)
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.get_default_dtype()) if levels else None)

    @abstractmethod
    def encode(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, "batch d"]:
        """The code `z = f(x)`, (batch, d)."""

    @abstractmethod
    def decode(self, z: Float[Tensor, "batch d"], c: Context = None) -> Float[Tensor, "batch D"]:
        """The point `g(z)` of the manifold, (batch, D)."""

    @abstractmethod
    def volume(self, x: Float[Tensor, "batch D"], c: Context = None) -> Volume:
        """Code, reconstruction and the exact `log_volume = 1/2 log det(g'^T g')` at z = f(x), (batch,) in nats."""

    def maps(self, c: Context = None) -> tuple[Map, Map]:
        """Encoder and decoder as functions of one argument, the context bound: what `isthmus.volume` works on."""
        return lambda x: self.encode(x, c), lambda z: self.decode(z, c)

    def told(self, c: Context, n: int) -> Float[Tensor, "n told"] | None:
        """What encoder and decoder are told of n rows: `c`, completed by the levels that are set, (n, C + L)."""
        if self.levels is None or (c is not None and c.shape[1] > self.context_dim):
            return c
        levels = self.levels.expand(n, -1)
        return levels if c is None else torch.cat([c, levels], 1)

    def base(self, c: Context = None) -> Distribution:
        """The latent density given the context, levels left out."""
        if self.levels is not None and c is not None:
            c = c[:, : self.context_dim] if self.context_dim else None
        return self.latent(c)

    def log_prob(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, " batch"]:
        """Manifold density `log p_Z(z) - log_volume` of the reconstruction of x, (batch,) in nats."""
        z, _, log_volume = self.volume(x, c)
        return self.base(c).log_prob(z) - log_volume

    @torch.no_grad()
    def sample(self, n: int, c: Context = None, *, temperature: float = 1.0) -> Float[Tensor, "n D"]:
        """Draw points g(z) of the manifold, z ~ p_Z, (n, D); with a context one for each of its rows.

        Args:
            n: number of points.
            c: context, (n, C), or None.
            temperature: scale >= 0 of the codes about their modes, see `isthmus.latents.draw`.

        Raises:
            InputError: the context has not n rows; the latent density has no colder form.
        """
        return self.decode(self.draw(n, c, temperature=temperature), c)

    @torch.no_grad()
    def draw(self, n: int, c: Context = None, *, temperature: float = 1.0) -> Float[Tensor, "n d"]:
        """Draw codes z ~ p_Z, (n, d); see `sample`."""
        if c is not None and c.shape[0] != n:
            raise InputError(f"expected one context row for each of {n} samples; got {c.shape[0]} rows; repeat them")
        return latents.draw(self.base(c), n, temperature)

    def reconstruct(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, "batch D"]:
        """The point of the manifold that x is mapped to, `x_hat = g(f(x))`, (batch, D)."""
        return self.decode(self.encode(x, c), c)


class NetworkFlow(Flow):
    """What flows of any two modules share. With a context these are called as `encoder(x, c)` and `decoder(z, c)`.

    Each computes in the precision of its own parameters; codes and rows have that of the rows.

    Args:
        encoder: f, (batch, D) -> (batch, d).
        decoder: g, (batch, d) -> (batch, D).
        data_dim: D.
        latent_dim: d, 1 <= d <= D.
        context_dim: number of context columns C, 0 for none.
        latent: density of the codes; the standard normal by default.
        levels: what else the modules are told where nothing else is said, as L further context columns.

    Warns:
        UserWarning: a ReLU (no second derivative; training is unstable) or a BatchNorm in training mode (rows
            depend on one another, so that Jacobians are not those of single rows).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        data_dim: int,
        latent_dim: int,
        context_dim: int = 0,
        latent: LazyDistribution | None = None,
        levels: Sequence[float] = (),
    ) -> None:
        super().__init__(data_dim, latent_dim, context_dim, latent, levels)
        self.encoder, self.decoder = encoder, decoder
        for layer in (*encoder.modules(), *decoder.modules()):
            _warn_of(layer)

    def encode(self, x: Float[Tensor, "batch D"], c: Context = None) -> Float[Tensor, "batch d"]:
        """The code `z = f(x)`, (batch, d)."""
        return self._applied(self.encoder, x, c)

    def decode(self, z: Float[Tensor, "batch d"], c: Context = None) -> Float[Tensor, "batch D"]:
        """The point `g(z)` of the manifold, (batch, D)."""
        return self._applied(self.decoder, z, c)

    def volume(self, x: Float[Tensor, "batch D"], c: Context = None) -> Volume:
        """Code, reconstruction and the exact `log_volume`, (batch,) in nats, from the decoder's whole Jacobian."""
        return exact(*self.maps(c), x)

    def _applied(self, network: nn.Module, x: Tensor, c: Context) -> Tensor:
        """What a network makes of rows, told the context and the levels, in its own precision."""
        c = self.told(c, x.shape[0])
        own = next((parameter.dtype for parameter in network.parameters()), x.dtype)
        if own == x.dtype:
            return network(x) if c is None else network(x, c)
        return (network(x.to(own)) if c is None else network(x.to(own), c.to(own))).to(x.dtype)


def in_double(module: M) -> M:
    """Put a module into double precision, but for networks with convolutions in its flows: those stay in single.

    On a CPU torch convolves in double precision many times slower than in single. What is computed of their outputs,
    determinants and densities, is in double precision all the same; single rounding, 6e-8, is far below their residual.

    Args:
        module: anything that holds flows; changed in place.

    Returns:
        The module.

    Example:
        >>> from isthmus.flows import FreeFormFlow
        >>> from isthmus.networks import convolutional_pair
        >>> pair = convolutional_pair(64, 2, shape=(1, 8, 8), channels=4, blocks=0)
        >>> flow = in_double(FreeFormFlow(*pair, data_dim=64, latent_dim=2))
        >>> flow.volume(torch.zeros(1, 64).double()).log_volume.dtype, next(flow.parameters()).dtype
        (torch.float64, torch.float32)
    """
    module.double()
    for flow in module.modules():
        if isinstance(flow, NetworkFlow):
            for network in flow.children():
                if any(isinstance(layer, nn.modules.conv._ConvNd) for layer in network.modules()):
                    network.float()
    return module


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
